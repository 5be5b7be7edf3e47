//! Does anything replicate from the server to promote? It would follow a shard that has half the
//! rows, and nobody would have said so.

use super::joined;
use crate::check::fault::{Fault, Severity};
use crate::check::survey::{Both, Follower, Pair, Survey};

pub fn check(survey: &Survey) -> Vec<Fault> {
    let found = joined(survey).flat_map(|(pair, both)| {
        let followers = both.followers.iter().flatten();
        followers.filter(|&f| !is_known(survey, pair, both, f)).map(|f| fault(pair, f))
    });
    found.collect()
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
    Fault::new(Severity::Fault, "followers", pair.name(), actual)
        .expected("none that the plan does not know: it is cut off from the old shard with this one")
        .mend(
            "if it shall go with the new shard, list it in the replicas of [[old]] and of that [[new]]; \
             else let it replicate from the primary (CHANGE MASTER TO there)",
        )
}
