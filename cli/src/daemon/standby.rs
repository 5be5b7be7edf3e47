//! What a daemon does whose shards another one has taken: it waits for that one to go away, and takes
//! them again. The other one is there as long as anything that it writes moves: tokens where shards
//! are read, watermarks where rows are applied.
//!
//! A server that does not answer says nothing about the other one, so the wait begins anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::value::quote;
use modshift_mariadb::{Desk, ServerError, control, error};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::Queryable;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Share;

const LOOK: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Who has not written for so long is gone; or for this many beats of the plan, where those are
/// longer. Should it only have slept, it finds itself replaced, and waits in its turn.
const STILL: Duration = Duration::from_secs(10);
const STILL_BEATS: u32 = 10;
const DOING: &str = "looking whether another daemon works";
const NO_SUCH_TABLE: u16 = 1146;

/// Number of a row, and how often it was written, by whom.
type Written = (u64, u64);

/// `false`: cancelled meanwhile.
pub async fn until_alone(
    ways: [(&Arc<Plan>, &Share); 2],
    desk: &Desk,
    cancel: &CancellationToken,
) -> bool {
    let beat = ways[0].0.reader.heartbeat;
    let mut stillness = Stillness::new(STILL.max(beat * STILL_BEATS));
    loop {
        let Some(found) = cancel.run_until_cancelled(look(ways, desk)).await else { return false };
        if let Err(error) = &found {
            tracing::debug!(%error, "not looked at this time");
        }
        if stillness.holds(found.ok(), Instant::now()) {
            return true;
        }
        if cancel.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return false;
        }
    }
}

/// How long has nothing moved?
struct Stillness {
    wanted: Duration,
    seen: Option<(Vec<Vec<Written>>, Instant)>,
}

impl Stillness {
    fn new(wanted: Duration) -> Stillness {
        Stillness { wanted, seen: None }
    }

    /// `found`: `None` where nobody can tell.
    fn holds(&mut self, found: Option<Vec<Vec<Written>>>, now: Instant) -> bool {
        match (found, &self.seen) {
            (None, _) => self.seen = None,
            (Some(found), Some((seen, since))) if found == *seen => {
                return now.duration_since(*since) >= self.wanted;
            }
            (Some(found), _) => self.seen = Some((found, now)),
        }
        false
    }
}

/// Of each shard that this process reads or applies to.
async fn look(
    ways: [(&Arc<Plan>, &Share); 2],
    desk: &Desk,
) -> Result<Vec<Vec<Written>>, ServerError> {
    let mut all = Vec::new();
    for (plan, share) in ways {
        for shard in &share.old {
            let at = &plan.old[usize::from(shard.0)];
            all.push(written(at, desk, control::TOKEN, "epoch, writes").await?);
        }
        for shard in &share.new {
            let at = &plan.new[usize::from(shard.0)];
            all.push(written(at, desk, control::WATERMARK, "source, version").await?);
        }
    }
    Ok(all)
}

async fn written(
    endpoint: &Endpoint,
    desk: &Desk,
    table: &str,
    columns: &str,
) -> Result<Vec<Written>, ServerError> {
    let at = label(endpoint);
    let asking = async {
        let mut conn = desk.turn(endpoint).await?;
        let schema = quote(&endpoint.schema);
        let asked = conn.query(format!("SELECT {columns} FROM {schema}.{table} ORDER BY 1, 2"));
        match asked.await.map_err(|e| error::of(&at, DOING, e)) {
            Ok(rows) => {
                conn.done();
                Ok(rows)
            }
            // Whoever has removed it is not at work.
            Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    };
    match timeout(ANSWER_WITHIN, asking).await {
        Ok(answer) => answer,
        Err(_) => {
            let detail = format!("no answer in {} s", ANSWER_WITHIN.as_secs());
            Err(ServerError::Lost { at: label(endpoint), doing: DOING, detail })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_one_is_gone_once_nothing_has_moved_for_long_enough() {
        let began = Instant::now();
        let at = |s: u64| began + Duration::from_secs(s);
        let rows = |writes: u64| Some(vec![vec![(7, 100)], vec![(0, writes), (1, 5)]]);
        let mut stillness = Stillness::new(Duration::from_secs(10));
        assert!(!stillness.holds(rows(1), at(0)), "nothing is known of the time before");
        assert!(!stillness.holds(rows(1), at(9)));
        assert!(stillness.holds(rows(1), at(10)));
        // Any row of any shard.
        assert!(!stillness.holds(rows(2), at(11)));
        assert!(!stillness.holds(rows(2), at(20)));
        // Who cannot be asked may be at work.
        assert!(!stillness.holds(None, at(21)));
        assert!(!stillness.holds(rows(2), at(22)));
        assert!(!stillness.holds(rows(2), at(31)));
        assert!(stillness.holds(rows(2), at(32)));
    }
}
