//! Why a server that takes connections does not answer a statement: its process list says so, to whoever
//! asks over another connection. Of what is told here nothing is lost and nothing is broken: it passes.

use std::sync::LazyLock;
use std::time::Duration;

use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::connect::{Session, connect};
use crate::error::{FULL_DISK, GLOBAL_LOCK};

/// Hardly any statement takes so long where nothing is in its way.
pub const LOOK_AFTER: Duration = Duration::from_secs(1);
/// And again, while it goes on.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// An answer that takes longer tells as much as none.
const ANSWER: Duration = Duration::from_secs(1);
/// Of a process: a server that is slow for all must not get a connection more for each of its shards.
static LOOKING: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(2));

/// `Waiting for backup lock` is that of FLUSH TABLES WITH READ LOCK and of BACKUP STAGE, in each version
/// from 10.4 on. While a disk is full the server waits within the write, and asks again each minute.
/// Of those who wait for such a lock only sessions of the same login count: one of them waits just now, and
/// what keeps others waiting may be something else. To close a server is to wait for those that write,
/// which looks the same.
const STATES: [(&str, &str); 3] = [
    ("Waiting for backup lock", GLOBAL_LOCK),
    ("Waiting for global read lock", GLOBAL_LOCK),
    ("Waiting for someone to free space", FULL_DISK),
];

/// Runs `attempt` to its end, and gives what was seen meanwhile of why it took so long. `say` is told each
/// time that it is seen.
pub async fn watched<T>(
    endpoint: &Endpoint,
    look_after: Duration,
    attempt: impl Future<Output = T>,
    mut say: impl FnMut(&'static str),
) -> (T, Option<&'static str>) {
    tokio::pin!(attempt);
    let mut seen = None;
    let mut pause = look_after;
    loop {
        tokio::select! {
            biased;
            outcome = &mut attempt => return (outcome, seen),
            () = sleep(pause) => pause = LOOK_AGAIN,
        }
        let looking = Box::pin(why(endpoint));
        tokio::select! {
            biased;
            outcome = &mut attempt => return (outcome, seen),
            why = looking => if let Some(why) = why {
                seen = Some(why);
                say(why);
            }
        }
    }
}

/// `no answer in 2 s`, and why if that is known.
pub fn detail(limit: Duration, seen: Option<&str>) -> String {
    let silent = format!("no answer in {} s", limit.as_secs());
    match seen {
        Some(why) => format!("{silent}: {why}"),
        None => silent,
    }
}

/// What a statement on this server waits for, if a session there shows it.
pub async fn why(endpoint: &Endpoint) -> Option<&'static str> {
    let _turn = LOOKING.acquire().await.ok()?;
    timeout(ANSWER, asked(endpoint)).await.ok()?
}

async fn asked(endpoint: &Endpoint) -> Option<&'static str> {
    let mut conn = connect(endpoint, Session::Plain).await.ok()?;
    let of = |why: &str| {
        let states = STATES.iter().filter(|(_, of)| *of == why);
        states.map(|(state, _)| format!("'{state}'")).collect::<Vec<_>>().join(", ")
    };
    let sql = format!(
        "SELECT STATE FROM information_schema.PROCESSLIST WHERE STATE IN ({}) OR (STATE IN ({}) AND INFO \
         NOT LIKE 'SET GLOBAL%' AND BINARY USER = LEFT(USER(), CHAR_LENGTH(USER()) - \
         CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1)) LIMIT 1",
        of(FULL_DISK),
        of(GLOBAL_LOCK)
    );
    let state: Option<String> = conn.query_first(sql).await.ok()?;
    let _ = conn.disconnect().await;
    let state = state?;
    STATES.iter().find(|(name, _)| name.eq_ignore_ascii_case(&state)).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_with_its_reason_where_there_is_one() {
        let limit = Duration::from_secs(2);
        assert_eq!(detail(limit, None), "no answer in 2 s");
        let why = "no answer in 2 s: a global read lock is held";
        assert_eq!(detail(limit, Some(GLOBAL_LOCK)), why);
    }
}
