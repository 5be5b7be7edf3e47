//! Servers that hold shards of both sides, whatever names they are reached by.

use futures_util::future::join_all;
use modshift_proto::plan::{AutoIncrement, FenceScope};

use super::Cutover;
use crate::accounts::shared_user;
use crate::counters;
use crate::error::CutoverError;
use crate::outside::Outside;
use crate::server::PLACE;
use crate::shard::Shard;
use crate::step::Side;

/// What becomes of a server that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Away {
    Missed,
    /// It shares no server with one that answers.
    Passed,
}

impl<O: Outside> Cutover<O> {
    pub(super) async fn find_shared(&mut self, away: Away) -> Result<(), CutoverError> {
        let absent = self.absent.iter().copied().chain(std::iter::repeat(false));
        let froms = self.from.iter_mut().zip(absent);
        let all = froms.chain(self.to.iter_mut().map(|shard| (shard, false)));
        let asked = join_all(all.map(|(shard, absent)| places(shard, absent, away))).await;
        let asked = asked.into_iter().collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> =
            self.from.iter().chain(&self.to).map(|shard| shard.name().to_owned()).collect();
        let (froms, count) = (self.from.len(), names.len());
        let shares = |a: usize, b: usize| asked[a].iter().any(|id| asked[b].contains(id));
        for index in 0..count {
            let is_from = index < froms;
            let others = if is_from { froms..count } else { 0..froms };
            let other = others.clone().find(|&other| shares(index, other));
            let alike = if is_from { 0..froms } else { froms..count };
            let twin = alike.clone().find(|&twin| twin != index && shares(index, twin));
            let shard = match is_from {
                true => &mut self.from[index],
                false => &mut self.to[index - froms],
            };
            let (server, new) = (shard.name().to_owned(), shard.side == Side::New);
            let interleaves = self.plan.cutover.auto_increment == AutoIncrement::Interleave;
            if let Some(twin) = other.or(twin).filter(|_| new && interleaves)
                && counters::gives_out(&self.plan, shard).await?
            {
                return Err(CutoverError::SharedOffset { server, other: names[twin].clone() });
            }
            shard.accounts_only = other.is_some() || shard.scope == FenceScope::Accounts;
            if let Some(other) = other {
                let cutover = &self.plan.cutover;
                let apart = !cutover.old_accounts.is_empty()
                    && !cutover.new_accounts.is_empty()
                    && shared_user(&cutover.old_accounts, &cutover.new_accounts).is_none();
                if !apart || !shard.replicas.is_empty() {
                    return Err(CutoverError::SharedServer { server, other: names[other].clone() });
                }
                // A run that opens already has to come to its end.
                if let Some((target, centre)) =
                    self.plan.centres().next().filter(|_| away == Away::Missed)
                {
                    let (user, target) = (centre.units.user.clone(), target.to_owned());
                    let other = names[other].clone();
                    return Err(CutoverError::SharedUnits { server, other, user, target });
                }
            }
        }
        Ok(())
    }
}

/// What its servers call themselves. `absent`: it does not answer, and shares no server with one
/// that does.
async fn places(shard: &mut Shard, absent: bool, away: Away) -> Result<Vec<String>, CutoverError> {
    let mut found = Vec::new();
    if absent {
        return Ok(found);
    }
    for server in shard.servers() {
        let place: Vec<String> = match server.ask("asking which server it is", PLACE).await {
            Err(error) if away == Away::Passed && error.is_away() => continue,
            place => place?,
        };
        found.push(place.into_iter().next().unwrap_or_default());
    }
    Ok(found)
}
