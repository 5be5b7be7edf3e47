//! `modshift resync --cancel`: takes requests back, on every shard that answers.

use std::collections::BTreeSet;
use std::time::Duration;

use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::Plan;
use modshift_verify::Shard;

use super::{back, held, in_range, requests, say};
use crate::exit::Exit;
use crate::{args, audit};

/// The other side is asked only for a hint.
const OTHERS_WAIT: Duration = Duration::from_secs(5);

pub(super) async fn take_back(
    plan: &Plan,
    args: &args::Resync,
    throttle: &Throttle,
) -> anyhow::Result<Exit> {
    let sources: BTreeSet<u16> = match &args.shards {
        Some(shards) => shards.iter().copied().collect(),
        None => plan.old_shards().map(|shard| shard.0).collect(),
    };
    in_range(plan, &sources)?;
    // A resync that mends rows just now has looked whether they are still asked for.
    let _hold = match held(plan).await? {
        Ok(hold) => hold,
        Err(busy) => {
            say(plan, &format!("nothing was taken back: {busy}"));
            return Ok(Exit::No);
        }
    };
    let entry = audit::begin(plan, "takes resyncs back").await?;
    let outcome = Ok(taken_back(plan, &sources, args.table.as_deref(), throttle).await);
    audit::finish(entry, &outcome).await;
    others(plan, args.table.as_deref(), throttle).await;
    outcome
}

async fn taken_back(
    plan: &Plan,
    sources: &BTreeSet<u16>,
    table: Option<&str>,
    throttle: &Throttle,
) -> Exit {
    let (mut exit, mut all) = (Exit::Done, 0);
    for &old in sources {
        let endpoint = plan.old[usize::from(old)].clone();
        let mut shard = Shard::new(endpoint, throttle.seats().clone());
        let text = match requests::cancel(&mut shard, table).await {
            Ok(0) => format!("old shard {old}: there was none"),
            Ok(count) => {
                all += count;
                format!("old shard {old}: {count} requests were taken back")
            }
            // The others are taken back all the same.
            Err(error) => {
                exit = Exit::CannotTell;
                format!("old shard {old}: what is asked for there stays asked for: {error}")
            }
        };
        say(plan, &text);
    }
    if all > 0 {
        let back = back(plan);
        say(
            plan,
            &format!(
                "a chunk that a reader is reading may still come into the change log, and no other; what was \
                 copied again is not compared: run modshift verify{back}"
            ),
        );
    }
    exit
}

/// Somebody may have forgotten `--back`, or taken it for the wrong side.
async fn others(plan: &Plan, table: Option<&str>, throttle: &Throttle) {
    let other = plan.reversed();
    let mut all = 0;
    for endpoint in other.old.iter().cloned() {
        let mut shard = Shard::new(endpoint, throttle.seats().clone());
        let counting = requests::count(&mut shard, table);
        if let Ok(Ok(count)) = tokio::time::timeout(OTHERS_WAIT, counting).await {
            all += count;
        }
    }
    if all > 0 {
        let back = back(&other);
        say(
            &other,
            &format!(
                "{all} requests stand on old shards: modshift resync{back} --cancel is for them"
            ),
        );
    }
}
