//! Is what the plan calls a pair of masters one: each replicates from the other, one takes writes, and
//! what they write can be told apart?
//!
//! That the second follows the first is what `replica` asks of every further server. Pairs of shards that
//! are to be made by a promotion are set up behind it, and are not asked; nor is one whose other half is a
//! shard of its own by now.

use modshift_proto::plan::{Endpoint, Peer, Peers};

use super::auto_increment::step_of;
use crate::check::fault::{Fault, Severity, Side};
use crate::check::rows::matrix::gcd;
use crate::check::survey::{Facts, Pair, Survey, Variables, endpoint};

const RULE: &str = "peers";

/// A server of a pair that answered.
struct Master<'a> {
    peer: &'a Peer,
    variables: &'a Variables,
}

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let side = server.side;
        let Some(peers) = &endpoint(&survey.plan, side).peers else { continue };
        if survey.plan.scheme.is_promotion() && !side.is_old() || is_over(survey, peers) {
            continue;
        }
        faults.extend(of_pair(survey, side, facts, peers));
    }
    faults
}

/// Was one half of it promoted already?
fn is_over(survey: &Survey, peers: &Peers) -> bool {
    let half = |pair: &Pair| pair.is_split() && peers.servers.iter().any(|peer| peer.at == pair.at);
    survey.pairs.iter().any(half)
}

fn of_pair(survey: &Survey, side: Side, facts: &Facts, peers: &Peers) -> Vec<Fault> {
    let id = facts.variables.text("server_id");
    let Some(first) = peers.servers.iter().position(|peer| peer.server_id.to_string() == id) else {
        let [a, b] = &peers.servers;
        return vec![
            Fault::new(Severity::Fault, RULE, side, format!("answers as server {id}"))
                .expected(format!(
                    "one of its pair: server {} ({}) or server {} ({})",
                    a.server_id, a.at, b.server_id, b.at
                ))
                .mend("correct host, servers or server_ids of the shard in the plan"),
        ];
    };
    let own = Master { peer: &peers.servers[first], variables: &facts.variables };
    let mut faults = of_master(side, &own);
    faults.extend(host(survey, side, peers));
    let peer = peers.other(first);
    let parts =
        survey.replicas().find(|part| part.role.side == side && part.further.at() == peer.at);
    // One that does not answer is named as such.
    let Some(part) = parts else { return faults };
    let other = Master { peer, variables: &part.facts.variables };
    faults.extend(of_master(side, &other));
    // The fence has ended it, and what comes next is another's pair perhaps.
    if !survey.is_fenced(side) {
        faults.extend(back(side, facts, &own, &other));
    }
    faults.extend(who_serves(survey, side, &own, &other));
    if facts.tables.values().any(|table| table.counter.is_some()) {
        faults.extend(keys(side, &own, &other));
    }
    faults
}

fn of_master(side: Side, master: &Master<'_>) -> Vec<Fault> {
    let Master { peer, variables } = master;
    let mut faults = Vec::new();
    let id = variables.text("server_id");
    if id != peer.server_id.to_string() {
        faults.push(
            Fault::new(Severity::Fault, RULE, side, format!("{} has server_id {id}", peer.at))
                .expected(format!("{}, as the plan says", peer.server_id))
                .mend("correct servers or server_ids of the shard in the plan"),
        );
    }
    let domain = variables.text("gtid_domain_id");
    if domain != peer.domain.to_string() {
        faults.push(
            Fault::new(
                Severity::Warning,
                RULE,
                side,
                format!("{} has gtid_domain_id {domain}", peer.at),
            )
            .expected(format!("{}, as the plan says", peer.domain))
            .mend(format!(
                "domains of the shard in the plan; or gtid_domain_id = {} under [mariadbd] in my.cnf, \
                 and SET GLOBAL gtid_domain_id, while it does not serve",
                peer.domain
            )),
        );
    }
    if !variables.is_on("log_slave_updates") {
        faults.push(
            Fault::new(
                Severity::Fault,
                RULE,
                side,
                format!("{} has log_slave_updates off", peer.at),
            )
            .expected("ON: where it takes over, the reader finds there what its peer had written")
            .mend("log_slave_updates = ON under [mariadbd] in my.cnf; takes a restart"),
        );
    }
    faults
}

/// Does the one that the shard's host leads to replicate from the other?
fn back(side: Side, facts: &Facts, own: &Master<'_>, other: &Master<'_>) -> Option<Fault> {
    let from = |id: u32| facts.beside.upstream.iter().find(|source| source.server_id == id);
    let actual = match from(other.peer.server_id) {
        Some(source) => format!(
            "{} replicates from its peer {}, which stands: {}",
            own.peer.at,
            other.peer.at,
            source.stands.as_ref()?
        ),
        None => format!("{} does not replicate from its peer {}", own.peer.at, other.peer.at),
    };
    Some(
        Fault::new(Severity::Warning, RULE, side, actual)
            .expected(
                "both directions to run: what the peer writes after a failover would stay there",
            )
            .mend(
                "SHOW ALL SLAVES STATUS there; replication.sql of `modshift topology` sets it up",
            ),
    )
}

/// Who moves servers by a virtual address reads and writes by it, too.
fn host(survey: &Survey, side: Side, peers: &Peers) -> Option<Fault> {
    let vip = peers.vip.as_ref()?;
    let Endpoint { host, port, .. } = endpoint(&survey.plan, side);
    let own = peers.servers.iter().any(|peer| peer.at.host == *host && peer.at.port == *port);
    // A promotion makes shards of single servers.
    (own && !survey.plan.scheme.is_promotion()).then(|| {
        let actual = format!("its host is {host}, one of its pair, and not the pair's address");
        Fault::new(Severity::Warning, RULE, side, actual)
            .expected(format!(
                "{}, which leads to the one that takes writes: behind a failover streams wait at {host}, \
                 and what is opened or closed there is not what serves",
                vip.address
            ))
            .mend(format!("host = \"{}\" of the shard in the plan", vip.address))
    })
}

fn who_serves(survey: &Survey, side: Side, own: &Master<'_>, other: &Master<'_>) -> Option<Fault> {
    let closed = [own, other].map(|master| master.variables.is_on("read_only"));
    let promotes = survey.plan.scheme.is_promotion();
    // Whoever is fenced is closed on both, and so may be what does not serve yet.
    let (severity, actual, mend) = match closed {
        [true, true] if survey.takes_writes(side) && !survey.is_fenced(side) => (
            Severity::Warning,
            format!("neither {} nor {} takes writes", own.peer.at, other.peer.at),
            format!("see what keepalived says on {}, or end read_only there", own.peer.at),
        ),
        [false, false] => (
            Severity::Warning,
            format!("both {} and {} take writes", own.peer.at, other.peer.at),
            format!("make {} read-only (SET GLOBAL read_only = 1)", other.peer.at),
        ),
        // A promotion would take the one that serves for a replica, and never close it.
        [true, false] => (
            if promotes { Severity::Fault } else { Severity::Warning },
            format!(
                "its host leads to {}, which is read-only, and {} takes writes",
                own.peer.at, other.peer.at
            ),
            if promotes {
                format!(
                    "host of [[old]] in the plan: {}, by that very address; its peer is promoted then",
                    other.peer.at
                )
            } else {
                "host of the shard in the plan: the virtual address, or the one that takes writes"
                    .to_owned()
            },
        ),
        _ => return None,
    };
    Some(
        Fault::new(severity, RULE, side, actual)
            .expected("that the one to which the shard's host leads takes writes, and it alone")
            .mend(mend),
    )
}

/// Keys that both would give out: one of a master that died unheard, and one of its successor.
fn keys(side: Side, own: &Master<'_>, other: &Master<'_>) -> Option<Fault> {
    let (step, offset) = step_of(own.variables);
    let (their_step, their_offset) = step_of(other.variables);
    let common = gcd(step, their_step);
    (offset % common == their_offset % common).then(|| {
        let actual = format!(
            "{} and {} give out the same keys (auto_increment_increment {step} and {their_step}, offset \
             {offset} and {their_offset})",
            own.peer.at, other.peer.at
        );
        Fault::new(Severity::Warning, RULE, side, actual)
            .expected("keys of its own for each, so that none is given out twice around a failover")
            .mend("my.cnf of `modshift topology` has a step and an offset for each")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use modshift_proto::message::TokenPhase;
    use modshift_proto::plan::Vip;

    use crate::check::survey::made::{lines, pair_peers, survey_peers};
    use crate::check::survey::{Facts, Standing, Token, Upstream};

    fn check(change: impl Fn(&mut Facts, &mut Standing), expected: &[&str]) {
        let found = lines(&super::check(&survey_peers(change)));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, wanted) in found.iter().zip(expected) {
            assert!(found.starts_with(wanted), "{found}\n{wanted}");
        }
    }

    #[test]
    fn a_pair_that_is_one_is_good() {
        check(|_, _| {}, &[]);
    }

    #[test]
    fn what_is_no_pair_is_named() {
        check(
            |facts, _| facts.variables.set("server_id", "9"),
            &[
                "fault  old shard 0: answers as server 9, expected one of its pair: server 1 (h:3306) \
               or server 2 (q:3306)",
            ],
        );
        check(
            |_, peer| peer.variables.set("server_id", "9"),
            &["fault  old shard 0: q:3306 has server_id 9, expected 2"],
        );
        check(
            |_, peer| peer.variables.set("gtid_domain_id", "0"),
            &["warning  old shard 0: q:3306 has gtid_domain_id 0, expected 2"],
        );
        check(
            |facts, _| facts.variables.set("log_slave_updates", "OFF"),
            &["fault  old shard 0: h:3306 has log_slave_updates off"],
        );
    }

    #[test]
    fn both_directions_run() {
        check(
            |facts, _| facts.beside.upstream.clear(),
            &["warning  old shard 0: h:3306 does not replicate from its peer q:3306"],
        );
        let stands = Upstream {
            at: "q:3306".to_owned(),
            server_id: 2,
            stands: Some("Slave_SQL_Running No".to_owned()),
        };
        check(
            move |facts, _| facts.beside.upstream = vec![stands.clone()],
            &["warning  old shard 0: h:3306 replicates from its peer q:3306, which stands: \
               Slave_SQL_Running No"],
        );
    }

    #[test]
    fn one_takes_writes_and_the_host_leads_to_it() {
        check(
            |_, peer| peer.variables.set("read_only", "OFF"),
            &["warning  old shard 0: both h:3306 and q:3306 take writes"],
        );
        check(
            |facts, peer| {
                facts.variables.set("read_only", "ON");
                peer.variables.set("read_only", "OFF");
            },
            &[
                "warning  old shard 0: its host leads to h:3306, which is read-only, and q:3306 takes",
            ],
        );
        check(
            |facts, _| facts.variables.set("read_only", "ON"),
            &["warning  old shard 0: neither h:3306 nor q:3306 takes writes"],
        );
    }

    #[test]
    fn what_a_fence_has_stopped_is_not_set_up_again() {
        let phase = TokenPhase::Fenced;
        let token = Token { epoch: 1, clock: Duration::ZERO, phase };
        check(
            |facts, _| {
                facts.beside.upstream.clear();
                facts.variables.set("read_only", "ON");
                facts.token = Some(token);
            },
            &[],
        );
    }

    #[test]
    fn who_has_an_address_is_reached_by_it() {
        let mut survey = survey_peers(|_, _| {});
        let mut plan = (*survey.plan).clone();
        if let Some(peers) = &mut plan.old[0].peers {
            let (address, interface) = ("10.0.0.100".parse().unwrap(), "eth0".to_owned());
            peers.vip = Some(Vip { address, prefix: 24, interface, router_id: 1 });
        }
        survey.plan = Arc::new(plan.clone());
        let found = lines(&super::check(&survey));
        assert_eq!(found.len(), 1, "{found:#?}");
        let wanted = "warning  old shard 0: its host is h, one of its pair, and not the pair's address, \
                      expected 10.0.0.100,";
        assert!(found[0].starts_with(wanted), "{}", found[0]);
        plan.old[0].host = "10.0.0.100".to_owned();
        survey.plan = Arc::new(plan);
        assert!(super::check(&survey).is_empty());
    }

    #[test]
    fn a_promotion_starts_at_the_master_that_takes_writes() {
        let found = |split: bool| {
            let mut survey = pair_peers(|facts, peer| {
                facts.variables.set("read_only", "ON");
                peer.variables.set("read_only", "OFF");
            });
            if split && let Ok(both) = &mut survey.pairs[0].facts {
                both.sources = Some(Vec::new());
                both.replica.variables.set("gtid_binlog_state", "1-2-500");
            }
            lines(&super::check(&survey))
        };
        let one = found(false);
        let expected = "fault  old shard 0: its host leads to a:3306, which is read-only, and b:3306 takes writes";
        assert!(one.len() == 1 && one[0].starts_with(expected), "{one:#?}");
        assert!(one[0].contains("mend: host of [[old]] in the plan: b:3306"), "{one:#?}");
        // What was promoted years ago is no peer any more.
        assert_eq!(found(true), Vec::<String>::new());
    }

    #[test]
    fn no_key_is_given_out_by_both() {
        check(
            |facts, peer| {
                let table = facts.tables.get_mut("t").unwrap();
                table.counter = Some(("id".to_owned(), 7));
                // A step of the shards alone: the same residue on both.
                facts.variables.set("auto_increment_increment", "2");
                peer.variables.set("auto_increment_increment", "2");
                facts.variables.set("auto_increment_offset", "2");
                peer.variables.set("auto_increment_offset", "2");
            },
            &["warning  old shard 0: h:3306 and q:3306 give out the same keys"],
        );
        check(
            |facts, peer| {
                let table = facts.tables.get_mut("t").unwrap();
                table.counter = Some(("id".to_owned(), 7));
                facts.variables.set("auto_increment_increment", "4");
                peer.variables.set("auto_increment_increment", "4");
                facts.variables.set("auto_increment_offset", "2");
                peer.variables.set("auto_increment_offset", "4");
            },
            &[],
        );
    }
}
