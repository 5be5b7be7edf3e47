//! What a server that is being fenced replicates from. A write that a peer has acknowledged before it
//! was closed itself must be here, and so before the marker, when replication into this server stops.
//!
//! Peers that the plan lists as the shard's replicas (a dual primary, a ring) are closed by now: what
//! they have is final, and is compared GTID by GTID. Of a source that the plan does not list nothing
//! is final; what it has sent by now is applied, and `check` names it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use modshift_proto::Gtid;
use mysql_async::Row;

use crate::error::CutoverError;
use crate::server::Server;
use crate::shard::Shard;

const POLL: Duration = Duration::from_millis(5);
const DOING: &str = "waiting for what its peers have";

/// A server as its peers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    id: u32,
    /// The last GTID of each domain and server: `@@gtid_binlog_state`.
    logged: Vec<Gtid>,
    /// The last of each domain that it has taken from others.
    applied: Vec<Gtid>,
    sources: Vec<Source>,
}

/// A connection to another server that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Source {
    /// Its server id, as it said when it was last reached.
    id: u32,
    at: String,
    /// Everything that it had to send has been received and applied.
    caught_up: bool,
    /// Why not, as far as the server says.
    why: &'static str,
}

/// A connection that a fence would wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Of the connection; that without one has an empty one.
    pub name: String,
    /// `host:port`
    pub at: String,
    pub why: &'static str,
}

/// Of the rows of `SHOW ALL SLAVES STATUS`: connections that run and have not caught up.
pub fn behind(rows: &[Row]) -> Vec<Behind> {
    let of = |row: &Row| {
        let Source { at, why, .. } = source(row).filter(|source| !source.caught_up)?;
        let name = row.get_opt::<String, _>("Connection_name")?.ok()?;
        Some(Behind { name, at, why })
    };
    rows.iter().filter_map(of).collect()
}

/// Waits until everything that its peers took is applied on the primary. `patience`: where no budget
/// sets a limit.
pub(crate) async fn applied(
    shard: &mut Shard,
    patience: Option<Duration>,
) -> Result<(), CutoverError> {
    if shard.primary.is_dry() {
        return Ok(());
    }
    // They are closed: what they have logged does not grow, but by what comes from this server.
    let mut peers = BTreeMap::new();
    for replica in &mut shard.replicas {
        let state = state(replica).await?;
        peers.insert(state.id, (replica.name.clone(), state));
    }
    let begun = Instant::now();
    loop {
        let own = state(&mut shard.primary).await?;
        let Some((peer, what)) = missing(&own, &peers) else {
            shard.waiting.clear();
            return Ok(());
        };
        shard.waiting = format!("{} to apply what {peer} has: {what}", shard.primary.name);
        if patience.is_some_and(|patience| begun.elapsed() >= patience) {
            let server = shard.primary.name.clone();
            return Err(CutoverError::PeerAhead { server, peer, gtid: what });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The first that is not here yet, and who has it. Peers by server id.
fn missing(own: &State, peers: &BTreeMap<u32, (String, State)>) -> Option<(String, String)> {
    let upstream = upstream(own, peers);
    for id in &upstream {
        let (name, state) = &peers[id];
        for gtid in &state.logged {
            // What this server wrote, or one that sends nothing here, is not waited for.
            if upstream.contains(&gtid.server) && !has(own, *gtid) {
                return Some((name.clone(), gtid.to_string()));
            }
        }
    }
    let foreign = own.sources.iter().find(|source| !peers.contains_key(&source.id));
    let behind = foreign.filter(|source| !source.caught_up)?;
    Some((behind.at.clone(), behind.why.to_owned()))
}

/// Those from which something comes here, over others too.
fn upstream(own: &State, peers: &BTreeMap<u32, (String, State)>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut next: Vec<u32> = own.sources.iter().map(|source| source.id).collect();
    while let Some(id) = next.pop() {
        let Some((_, state)) = peers.get(&id).filter(|_| id != own.id) else { continue };
        if found.insert(id) {
            next.extend(state.sources.iter().map(|source| source.id));
        }
    }
    found
}

fn has(own: &State, gtid: Gtid) -> bool {
    let logged = |held: &Gtid| (held.domain, held.server) == (gtid.domain, gtid.server);
    let applied = |held: &Gtid| held.domain == gtid.domain;
    own.logged.iter().filter(|held| logged(held)).any(|held| held.seq >= gtid.seq)
        || own.applied.iter().filter(|held| applied(held)).any(|held| held.seq >= gtid.seq)
}

async fn state(server: &mut Server) -> Result<State, CutoverError> {
    let sql = "SELECT @@GLOBAL.server_id, @@GLOBAL.gtid_binlog_state, @@GLOBAL.gtid_slave_pos";
    let rows: Vec<(u32, String, String)> = server.ask(DOING, sql).await?;
    let (id, logged, applied) = rows.into_iter().next().unwrap_or_default();
    let sources: Vec<Row> = server.ask(DOING, "SHOW ALL SLAVES STATUS").await?;
    let gtids = |text: &str| text.split(',').filter_map(|gtid| gtid.parse().ok()).collect();
    let sources = sources.iter().filter_map(source).collect();
    Ok(State { id, logged: gtids(&logged), applied: gtids(&applied), sources })
}

fn source(row: &Row) -> Option<Source> {
    let text = |column: &str| -> String {
        row.get_opt::<String, _>(column).and_then(Result::ok).unwrap_or_default()
    };
    if text("Slave_IO_Running") == "No" && text("Slave_SQL_Running") == "No" {
        return None;
    }
    let same = |a: &str, b: &str| text(a) == text(b);
    let why = match (text("Slave_IO_Running").as_str(), text("Slave_SQL_Running").as_str()) {
        (_, "No") => "its SQL thread does not run",
        ("Connecting", _) => "it cannot connect to it",
        ("No", _) => "its IO thread does not run",
        _ => "it is still behind",
    };
    Some(Source {
        why,
        id: text("Master_Server_Id").parse().unwrap_or_default(),
        at: format!("{}:{}", text("Master_Host"), text("Master_Port")),
        caught_up: text("Slave_IO_State").starts_with("Waiting for master")
            && text("Slave_SQL_Running") == "Yes"
            && same("Master_Log_File", "Relay_Master_Log_File")
            && same("Read_Master_Log_Pos", "Exec_Master_Log_Pos"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gtids(text: &str) -> Vec<Gtid> {
        text.split(',').filter_map(|gtid| gtid.parse().ok()).collect()
    }

    fn made(id: u32, logged: &str, sources: &[u32]) -> State {
        let source = |&id: &u32| Source {
            id,
            at: format!("h:{id}"),
            caught_up: true,
            why: "it is still behind",
        };
        let sources = sources.iter().map(source).collect();
        State { id, logged: gtids(logged), applied: Vec::new(), sources }
    }

    fn check(own: &State, peers: &[State], expected: Option<&str>) {
        let peers =
            peers.iter().map(|state| (state.id, (format!("peer {}", state.id), state.clone())));
        let found = missing(own, &peers.collect()).map(|(peer, gtid)| format!("{peer} {gtid}"));
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn what_a_closed_peer_took_must_be_here() {
        let peer = made(2, "0-1-90,0-2-100", &[1]);
        check(
            &made(1, "0-1-105,0-2-99", &[2]),
            std::slice::from_ref(&peer),
            Some("peer 2 0-2-100"),
        );
        check(&made(1, "0-1-105,0-2-100", &[2]), std::slice::from_ref(&peer), None);
        // A server that does not log what it takes in knows by its position.
        let mut own = made(1, "1-1-105", &[2]);
        let peer = made(2, "1-1-105,2-2-100", &[1]);
        check(&own, std::slice::from_ref(&peer), Some("peer 2 2-2-100"));
        own.applied = gtids("2-2-100");
        check(&own, &[peer], None);
    }

    #[test]
    fn in_a_ring_what_a_far_one_took_must_be_here() {
        let ring = [made(2, "2-2-5,1-1-9", &[1]), made(3, "3-3-7,2-2-5,1-1-9", &[2])];
        check(&made(1, "1-1-9,3-3-7,2-2-4", &[3]), &ring, Some("peer 2 2-2-5"));
        check(&made(1, "1-1-9,3-3-7,2-2-5", &[3]), &ring, None);
        // One that only takes may have been written to by mistake: nothing of it ever comes here.
        let reader = made(4, "4-4-1,1-1-9", &[1]);
        check(&made(1, "1-1-9,3-3-7,2-2-5", &[3]), &[ring.as_slice(), &[reader]].concat(), None);
    }

    #[test]
    fn a_source_that_the_plan_does_not_list_is_caught_up_with() {
        let mut own = made(1, "1-1-9", &[8]);
        check(&own, &[], None);
        own.sources[0].caught_up = false;
        check(&own, &[], Some("h:8 it is still behind"));
    }
}
