//! What a shard replicates from and has not applied: the fence waits for it, since a write that is
//! acknowledged there must be here before the marker.

use std::time::{Duration, Instant};

use modshift_cutover::peers::{Behind, behind};
use modshift_mariadb::connect::label;
use modshift_mariadb::value::quote;
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::plan::{Endpoint, FenceScope, Plan};
use mysql_async::prelude::Queryable;

/// One that is up to date at some moment in it can be waited for.
const CATCHING_UP: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);

pub async fn find(
    conn: &mut Conn,
    plan: &Plan,
    endpoint: &Endpoint,
) -> Result<Vec<String>, ServerError> {
    // A fence of accounts leaves replication alone.
    if plan.cutover.scope != FenceScope::Server {
        return Ok(Vec::new());
    }
    let begun = Instant::now();
    let mut late = look(conn, endpoint).await?;
    while !late.is_empty() && begun.elapsed() < CATCHING_UP {
        tokio::time::sleep(POLL).await;
        let now = look(conn, endpoint).await?;
        late.retain_mut(|one| match now.iter().find(|still| still.name == one.name) {
            Some(still) => {
                one.why = still.why;
                true
            }
            None => false,
        });
    }
    Ok(late.iter().map(obstacle).collect())
}

async fn look(conn: &mut Conn, endpoint: &Endpoint) -> Result<Vec<Behind>, ServerError> {
    let rows = conn.query("SHOW ALL SLAVES STATUS").await;
    match rows.map_err(|e| error::of(&label(endpoint), "looking for replication into it", e)) {
        Ok(rows) => Ok(behind(&rows)),
        Err(error) if error.is_connection_lost() => Err(error),
        // A right that is missing is for `check` to say.
        Err(_) => Ok(Vec::new()),
    }
}

fn obstacle(source: &Behind) -> String {
    let Behind { name, at, why } = source;
    let name = if name.is_empty() { String::new() } else { format!(" {}", quote(name)) };
    format!(
        "it replicates from {at} and has not applied everything from there: {why}. The fence would wait \
         for it. SHOW ALL SLAVES STATUS shows what is the matter; mend it, or STOP SLAVE{name} there \
         before"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_named_as_stop_slave_wants_it() {
        let of = |name: &str| Behind {
            name: name.to_owned(),
            at: "db:3306".to_owned(),
            why: "it cannot connect to it",
        };
        assert!(obstacle(&of("")).contains("or STOP SLAVE there before"));
        assert!(obstacle(&of("up")).contains("or STOP SLAVE `up` there before"));
    }
}
