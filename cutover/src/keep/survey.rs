//! The fences of all shards as their servers have them, for `status`. Nothing is changed.

use futures_util::future::join_all;
use modshift_mariadb::Desk;
use modshift_proto::plan::{FenceScope, Plan};

use super::neighbours::{Neighbours, Places};
use super::{Seen, ask, opened, servers_of};
use crate::step::Side;

/// Of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Closed; or nothing says that it should be; or the fence is that of accounts.
    Yes,
    /// Fenced, and these of its servers take writes.
    No(Vec<String>),
    /// It does not answer.
    Unknown(String),
}

/// Of one side, index = shard.
pub async fn survey(plan: &Plan, side: Side) -> Vec<Held> {
    let count = match side {
        Side::Old => plan.old.len(),
        Side::New => plan.new.len(),
    };
    let desk = Desk::default();
    join_all((0..count as u16).map(|number| one(plan, side, number, &desk))).await
}

async fn one(plan: &Plan, side: Side, number: u16, desk: &Desk) -> Held {
    if plan.cutover.scope == FenceScope::Accounts {
        return Held::Yes;
    }
    let servers = servers_of(plan, side, number);
    let asked = servers.iter().enumerate().map(async |(index, endpoint)| {
        ask(desk, endpoint, index == 0).await.map_err(|error| error.to_string())
    });
    let mut answers = join_all(asked).await.into_iter();
    let (token, primary) = match answers.next() {
        Some(Ok(answer)) => answer,
        Some(Err(detail)) => return Held::Unknown(detail),
        None => return Held::Yes,
    };
    let replicas = answers.map(|answer| answer.ok().map(|(_, standing)| standing));
    let seen = Seen { token, standing: std::iter::once(Some(primary)).chain(replicas).collect() };
    let open = opened(&seen);
    if open.is_empty() {
        return Held::Yes;
    }
    match Places::new(desk.clone()).neighbours(plan, side, number, &open).await {
        Ok(Neighbours::OtherSide) => Held::Yes,
        Ok(Neighbours::Twins(_)) | Err(_) => {
            let name = |&index: &usize| format!("{}:{}", servers[index].host, servers[index].port);
            Held::No(open.iter().map(name).collect())
        }
    }
}
