//! Does anything replicate from the server to promote? It would follow a shard that has half the
//! rows, and nobody would have said so.

use super::joined;
use crate::check::fault::{Fault, Severity};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{Both, Follower, Pair, Survey};

const RULE: &str = "followers";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let found = joined(survey).flat_map(|(pair, both)| match &both.followers {
        None => vec![unseen(pair, both)],
        Some(followers) => {
            let unknown = followers.iter().filter(|&f| !is_known(survey, pair, both, f));
            unknown.map(|f| fault(pair, f)).collect()
        }
    });
    found.collect()
}

fn unseen(pair: &Pair, both: &Both) -> Fault {
    let actual = format!("{} may not see what replicates from it", pair.user);
    let account = mend::account(&both.replica.grants, &pair.user);
    Fault::new(Severity::Warning, RULE, pair.name(), actual)
        .expected("to know that nothing is cut off from the old shard with it")
        .mend(
            Mend::run(
                Way::GrantGlobal,
                [format!("GRANT REPLICATION MASTER ADMIN ON *.* TO {account}")],
            )
            .at([pair.home])
            .note(
                "it replicates to this server; grants-old.sql gives it with @promote = 1. Or see for \
                 yourself, SHOW SLAVE HOSTS there",
            ),
        )
}

/// One that the plan gives to the new shard, the primary itself (the two replicate from each
/// other), or a reader of modshift.
fn is_known(survey: &Survey, pair: &Pair, both: &Both, follower: &Follower) -> bool {
    let endpoint = &survey.plan.new[usize::from(pair.shard.0)];
    let id = follower.server_id;
    if id == both.primary.server_id() || id == endpoint.replica_server_id {
        return true;
    }
    survey.further.iter().filter(|further| endpoint.replicas.contains(&further.at())).any(
        |further| {
            let facts = further.facts.as_ref();
            facts.is_ok_and(|facts| facts.variables.text("server_id") == id.to_string())
        },
    )
}

fn fault(pair: &Pair, follower: &Follower) -> Fault {
    let at = match follower.host.is_empty() {
        true => String::new(),
        false => format!(" ({}:{})", follower.host, follower.port),
    };
    let actual = format!("the server with server_id {}{at} replicates from it", follower.server_id);
    Fault::new(Severity::Fault, RULE, pair.name(), actual)
        .expected("none that the plan does not know: it is cut off from the old shard with this one")
        .mend(
            "if it shall go with the new shard, list it in the replicas of [[old]] and of that [[new]]; \
             else let it replicate from the primary (CHANGE MASTER TO there)",
        )
}
