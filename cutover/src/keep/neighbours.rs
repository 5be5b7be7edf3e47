//! Which other shards live on a shard's servers, whatever names those are reached by.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use modshift_mariadb::connect::label;
use modshift_mariadb::{Desk, ServerError, error};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::Queryable;

use super::servers_of;
use crate::error::CutoverError;
use crate::server::PLACE;
use crate::step::Side;

/// One that takes longer counts as what it was when it last answered.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two rounds to servers that never answered.
const LEARN: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Neighbours {
    /// A shard of the other side lives there.
    OtherSide,
    /// Of the same side, perhaps none.
    Twins(Vec<u16>),
}

/// What servers called themselves when they last answered.
#[derive(Debug, Default)]
pub(super) struct Places {
    desk: Desk,
    known: BTreeMap<(String, u16), String>,
    learned: Option<Instant>,
}

impl Places {
    pub(super) fn new(desk: Desk) -> Places {
        Places { desk, ..Places::default() }
    }

    /// While all is well, so that a server that is away when it matters is known. Asks only as long
    /// as there is one that never answered.
    pub(super) async fn learn(&mut self, plan: &Plan) {
        let shards = shards(plan);
        let mut servers = shards.iter().flat_map(|(.., servers)| servers);
        let whole = servers.all(|server| self.known.contains_key(&key(server)));
        if !whole && self.learned.is_none_or(|at| at.elapsed() >= LEARN) {
            self.ask(&shards).await;
            self.learned = Some(Instant::now());
        }
    }

    /// Asks all servers of the plan who lives where these of the shard's servers are. An error where
    /// the answer depends on one that never answered.
    pub(super) async fn neighbours(
        &mut self,
        plan: &Plan,
        side: Side,
        number: u16,
        servers: &[usize],
    ) -> Result<Neighbours, CutoverError> {
        let shards = shards(plan);
        self.ask(&shards).await;
        self.judge(&shards, side, number, servers)
    }

    async fn ask(&mut self, shards: &[Servers]) {
        let mut servers: Vec<&Endpoint> = Vec::new();
        for server in shards.iter().flat_map(|(.., servers)| servers) {
            if servers.iter().all(|known| key(known) != key(server)) {
                servers.push(server);
            }
        }
        let answers = join_all(servers.iter().map(|endpoint| place(&self.desk, endpoint))).await;
        for (endpoint, answer) in servers.iter().zip(answers) {
            if let Ok(place) = answer {
                self.known.insert(key(endpoint), place);
            }
        }
    }

    fn judge(
        &self,
        shards: &[Servers],
        side: Side,
        number: u16,
        servers: &[usize],
    ) -> Result<Neighbours, CutoverError> {
        let own = shards.iter().find(|shard| (shard.0, shard.1) == (side, number));
        let own = own.map(|(.., servers)| servers.as_slice()).unwrap_or_default();
        let own: Vec<&Endpoint> = servers.iter().filter_map(|&index| own.get(index)).collect();
        let mut twins = Vec::new();
        for (of, shard, servers) in shards.iter().filter(|s| (s.0, s.1) != (side, number)) {
            let mut here = false;
            for server in servers {
                for &mine in &own {
                    here |= self.same(mine, server)?;
                }
            }
            match here {
                true if *of != side => return Ok(Neighbours::OtherSide),
                true => twins.push(*shard),
                false => {}
            }
        }
        Ok(Neighbours::Twins(twins))
    }

    /// Other names may lead to one server (tunnels, proxies): only what both say tells.
    fn same(&self, mine: &Endpoint, other: &Endpoint) -> Result<bool, CutoverError> {
        if key(mine) == key(other) {
            return Ok(true);
        }
        match (self.known.get(&key(mine)), self.known.get(&key(other))) {
            (Some(mine), Some(other)) => Ok(mine == other),
            (None, _) => Err(unknown(mine)),
            (_, None) => Err(unknown(other)),
        }
    }
}

/// One shard's, the primary first.
type Servers = (Side, u16, Vec<Endpoint>);

fn shards(plan: &Plan) -> Vec<Servers> {
    let of = |side, count: usize| {
        (0..count as u16).map(move |number| (side, number, servers_of(plan, side, number)))
    };
    of(Side::Old, plan.old.len()).chain(of(Side::New, plan.new.len())).collect()
}

fn unknown(endpoint: &Endpoint) -> CutoverError {
    CutoverError::Unfit {
        server: format!("{}:{}", endpoint.host, endpoint.port),
        what: "has not answered yet: read_only here would stop it too if it is the same server"
            .to_owned(),
    }
}

fn key(endpoint: &Endpoint) -> (String, u16) {
    (endpoint.host.clone(), endpoint.port)
}

async fn place(desk: &Desk, endpoint: &Endpoint) -> Result<String, ServerError> {
    let at = label(endpoint);
    let asking = async {
        let mut conn = desk.turn(endpoint).await?;
        let place: Option<String> = conn
            .query_first(PLACE)
            .await
            .map_err(|error| error::of(&at, "asking which server it is", error))?;
        conn.done();
        Ok(place.unwrap_or_default())
    };
    let late = |_| ServerError::Unreachable { at: at.clone(), detail: "no answer".to_owned() };
    tokio::time::timeout(ANSWER, asking).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, port: u16) -> Endpoint {
        let text = format!(
            "name = \"a\"\nmodulus = {{ old = 1, new = 2 }}\n[log]\nkind = \"direct\"\n\
             [defaults]\nuser = \"u\"\npassword = \"p\"\ntls = \"off\"\n\
             [[old]]\nhost = \"{host}\"\nport = {port}\nschema = \"a\"\n\
             [[new]]\nhost = \"n\"\nschema = \"b\"\n\
             [[new]]\nhost = \"n\"\nschema = \"c\"\n[[table]]\nname = \"t\"\nbroadcast = 0\n"
        );
        Plan::parse(&text, &|_| None).unwrap().old.remove(0)
    }

    #[test]
    fn a_server_of_the_other_side_is_known_by_what_it_calls_itself() {
        let shard = |side, number, host, port| (side, number, vec![endpoint(host, port)]);
        let answered = |named: &[(&str, u16, &str)]| {
            let known = named
                .iter()
                .map(|&(host, port, place)| ((host.to_owned(), port), place.to_owned()));
            Places { known: known.collect(), ..Places::default() }
        };
        let both = [
            shard(Side::Old, 0, "a", 1),
            shard(Side::Old, 1, "b", 1),
            shard(Side::New, 0, "c", 1),
            shard(Side::New, 1, "a", 2),
        ];
        let check = |named: &[(&str, u16, &str)], expected: Option<Neighbours>| {
            assert_eq!(answered(named).judge(&both, Side::Old, 0, &[0]).ok(), expected);
        };
        let apart = [("a", 1, "x"), ("b", 1, "y"), ("c", 1, "z"), ("a", 2, "w")];
        check(&apart, Some(Neighbours::Twins(vec![])));
        check(
            &[("a", 1, "x"), ("b", 1, "x"), ("c", 1, "z"), ("a", 2, "w")],
            Some(Neighbours::Twins(vec![1])),
        );
        check(&[("a", 1, "x"), ("b", 1, "y"), ("c", 1, "x")], Some(Neighbours::OtherSide));
        check(&apart[..3], None);
        // One that answers is enough to know that the fence is not this one's to keep.
        let same = [shard(Side::Old, 0, "a", 1), shard(Side::New, 0, "a", 1)];
        let found = answered(&[]).judge(&same, Side::Old, 0, &[0]).ok();
        assert_eq!(found, Some(Neighbours::OtherSide));
    }
}
