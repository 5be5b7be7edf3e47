//! Events that run, and go on running where the scheduler is stopped: the fence ends them, and what they
//! have not committed is rolled back within the pause.

use std::time::Duration;

use modshift_cutover::events::{Whose, running};
use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::plan::{Endpoint, FenceScope, Plan};
use mysql_async::prelude::Queryable;

/// The process list does not say for how long an event has been running. A short one is over by then.
const APART: Duration = Duration::from_secs(1);

/// A thread, as the process list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    connection: u64,
    definer: String,
    schema: String,
}

pub async fn find(
    conn: &mut Conn,
    plan: &Plan,
    endpoint: &Endpoint,
) -> Result<Vec<String>, ServerError> {
    let whose = match plan.cutover.scope {
        FenceScope::Server => Whose::Everyone,
        FenceScope::Accounts => Whose::Of(&endpoint.schema),
    };
    let first = look(conn, endpoint, whose).await?;
    if first.is_empty() {
        return Ok(Vec::new());
    }
    tokio::time::sleep(APART).await;
    let mut found = Vec::new();
    for still in look(conn, endpoint, whose).await?.into_iter().filter(|one| first.contains(one)) {
        let names = names(conn, endpoint, &still).await?;
        found.push(obstacle(&still, &names));
    }
    Ok(found)
}

async fn look(
    conn: &mut Conn,
    endpoint: &Endpoint,
    whose: Whose<'_>,
) -> Result<Vec<Running>, ServerError> {
    let sql = format!(
        "SELECT ID, CONCAT(USER, '@', HOST), DB FROM information_schema.PROCESSLIST WHERE {}",
        running(whose)
    );
    let rows = conn.query(sql).await;
    let rows: Vec<(u64, String, String)> =
        rows.map_err(|e| error::of(&label(endpoint), "looking for events that run", e))?;
    let of = |(connection, definer, schema)| Running { connection, definer, schema };
    Ok(rows.into_iter().map(of).collect())
}

/// The process list does not say which event it is.
async fn names(
    conn: &mut Conn,
    endpoint: &Endpoint,
    event: &Running,
) -> Result<Vec<String>, ServerError> {
    let sql = "SELECT EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ? \
               AND DEFINER = ? AND LAST_EXECUTED IS NOT NULL ORDER BY EVENT_NAME LIMIT 5";
    let names = conn.exec(sql, (&event.schema, &event.definer)).await;
    names.map_err(|e| error::of(&label(endpoint), "looking for events that run", e))
}

fn obstacle(event: &Running, names: &[String]) -> String {
    let Running { connection, definer, schema } = event;
    let name = match names {
        [] => String::new(),
        [name] => format!(" {name}"),
        several => format!(" (one of {})", several.join(", ")),
    };
    format!(
        "event{name} of {definer} in schema {schema} (connection {connection}) has been running for \
         more than {} s: the fence would end it, and what it has not committed would be rolled back. \
         Wait until it is over, or KILL {connection} and ALTER EVENT ... DISABLE until after the cutover",
        APART.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_as_far_as_the_server_tells() {
        let event = Running {
            connection: 7,
            definer: "root@localhost".to_owned(),
            schema: "shop".to_owned(),
        };
        let purge = ["purge".to_owned()];
        let said = obstacle(&event, &purge);
        assert!(said.starts_with("event purge of root@localhost in schema shop (connection 7)"));
        let said = obstacle(&event, &["a".to_owned(), "b".to_owned()]);
        assert!(said.starts_with("event (one of a, b) of root@localhost"), "{said}");
        assert!(obstacle(&event, &[]).starts_with("event of root@localhost"));
    }
}
