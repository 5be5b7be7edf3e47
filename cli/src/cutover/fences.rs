//! The fences, for `status`: of each shard that should be closed whether it is, by its own word;
//! and which of them had to be put up again since the last run, by the audit table.

use modshift_cutover::keep::{Held, restored_words, survey};
use modshift_cutover::{Serving, Side, register, serving};
use modshift_mariadb::audit;
use modshift_proto::plan::Plan;
use serde::Serialize;
use tokio::time::timeout;

use super::serving::{JOURNAL_TIMEOUT, newest};

/// One line about one shard's fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fence {
    pub shard: String,
    /// `open`, `unknown` or `restored`.
    pub state: &'static str,
    pub text: String,
}

/// Nothing where all is as it should be.
pub async fn fences(plan: &Plan) -> Vec<Fence> {
    let found = timeout(JOURNAL_TIMEOUT, newest(plan)).await.ok().and_then(Result::ok).flatten();
    let closed = found.as_ref().and_then(closed_side);
    let mut fences = Vec::new();
    for side in [Side::Old, Side::New] {
        for (number, held) in survey(plan, side).await.into_iter().enumerate() {
            fences.extend(of(format!("{side} shard {number}"), held, closed == Some(side)));
        }
    }
    if let Some(found) = found {
        fences.extend(restored(plan, &found.at).await);
    }
    fences
}

/// Which side a run has left closed.
fn closed_side(found: &register::Found) -> Option<Side> {
    let (journal, direction) = (&found.run.journal, found.run.direction);
    match serving(journal) {
        _ if journal.finished() => None,
        Serving::To | Serving::Opening | Serving::Neither => Some(direction.from()),
        Serving::From => None,
    }
}

fn of(shard: String, held: Held, closed: bool) -> Option<Fence> {
    let (state, text) = match held {
        Held::Yes => return None,
        Held::Unknown(_) if !closed => return None,
        Held::Unknown(detail) => (
            "unknown",
            format!(
                "{shard} does not answer: whether its fence holds will be seen when it is back \
                 ({detail})"
            ),
        ),
        Held::No(servers) => (
            "open",
            format!(
                "FENCE OF {shard} IS OPEN: it takes writes, read_only is off on {}",
                servers.join(", ")
            ),
        ),
    };
    Some(Fence { shard, state, text })
}

/// Without the audit table nothing is said: new shard 0 is named elsewhere as away.
async fn restored(plan: &Plan, since: &str) -> Vec<Fence> {
    let like = restored_words("%");
    let asked = audit::counted(plan, &like, since);
    let Ok(Ok(found)) = timeout(JOURNAL_TIMEOUT, asked).await else { return Vec::new() };
    let all = [(Side::Old, plan.old.len()), (Side::New, plan.new.len())];
    let names = all
        .into_iter()
        .flat_map(|(side, count)| (0..count).map(move |number| format!("{side} shard {number}")));
    let line = |shard: String| {
        let words = restored_words(&shard);
        let (what, times, last) = found.iter().find(|(what, ..)| *what == words)?;
        let text =
            format!("{what} {times} times, last at {last} UTC: a server of it had been open");
        Some(Fence { shard, state: "restored", text })
    };
    names.filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_should_be_closed_is_told_of() {
        let check = |held: Held, closed, expected: Option<&str>| {
            let found = of("old shard 0".to_owned(), held, closed);
            assert_eq!(found.map(|fence| fence.state), expected);
        };
        let open = || Held::No(vec!["db:3306".to_owned()]);
        let silent = || Held::Unknown("gone".to_owned());
        check(Held::Yes, true, None);
        check(open(), true, Some("open"));
        check(open(), false, Some("open"));
        check(silent(), true, Some("unknown"));
        check(silent(), false, None);
    }
}
