//! Who keeps the definitions of tables from being changed: a trigger is handed over, and a counter
//! raised, only once no transaction and no statement holds the table. Sessions of the application end at
//! the fence; those of others would be ended within the pause.

use std::time::Duration;

use modshift_cutover::holders::{self, Holder, Range, Search, own_users};
use modshift_mariadb::connect::label;
use modshift_mariadb::control::NOT_HOME_GUARD;
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::Queryable;

/// Of the pause budget.
const SHARE: u32 = 10;
const AT_LEAST: Duration = Duration::from_millis(500);

/// Planned tables with triggers.
pub async fn with_triggers(
    conn: &mut Conn,
    plan: &Plan,
    endpoint: &Endpoint,
) -> Result<Vec<String>, ServerError> {
    let sql = format!(
        "SELECT DISTINCT EVENT_OBJECT_TABLE FROM information_schema.TRIGGERS \
         WHERE EVENT_OBJECT_SCHEMA = ? AND {NOT_HOME_GUARD}"
    );
    planned(conn, plan, endpoint, &sql).await
}

/// Planned tables that give out keys.
pub async fn with_counters(
    conn: &mut Conn,
    plan: &Plan,
    endpoint: &Endpoint,
) -> Result<Vec<String>, ServerError> {
    let sql = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? \
               AND AUTO_INCREMENT IS NOT NULL";
    planned(conn, plan, endpoint, sql).await
}

async fn planned(
    conn: &mut Conn,
    plan: &Plan,
    endpoint: &Endpoint,
    sql: &str,
) -> Result<Vec<String>, ServerError> {
    let found = conn.exec(sql, (&endpoint.schema,)).await;
    let mut found: Vec<String> =
        found.map_err(|e| error::of(&label(endpoint), "looking for triggers and counters", e))?;
    found.retain(|name| plan.tables.iter().any(|table| table.name == *name));
    Ok(found)
}

/// Sessions that hold one of these for long.
pub async fn find(
    conn: &mut Conn,
    plan: &Plan,
    endpoint: &Endpoint,
    tables: &[String],
) -> Result<Vec<String>, ServerError> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let mut spared = own_users(plan);
    // Those of the application end at the fence, or are kept out before.
    let accounts = plan.cutover.old_accounts.iter().chain(&plan.cutover.new_accounts);
    spared.extend(accounts.map(|account| account.user.clone()));
    let older = (plan.cutover.budget / SHARE).max(AT_LEAST);
    let search =
        Search { schema: &endpoint.schema, tables, spared: &spared, older, range: Range::Near };
    match holders::find(conn, &label(endpoint), search).await {
        Err(error) if error.is_connection_lost() => Err(error),
        // A right that is missing is for `check` to say.
        Err(_) => Ok(Vec::new()),
        Ok(found) => Ok(found.iter().map(|holder| obstacle(holder, tables)).collect()),
    }
}

fn obstacle(holder: &Holder, tables: &[String]) -> String {
    let (who, id) = (holder.words(), holder.connection);
    let holds = match &holder.tables {
        Some(tables) => format!("holds {tables}"),
        None => format!("is in the shard's schema and may hold {}", some(tables)),
    };
    format!(
        "a transaction or statement of {who} {holds}, whose triggers or counters are to be handed over: \
         the cutover would end it. Wait until it is over, or KILL {id}"
    )
}

fn some(tables: &[String]) -> String {
    const SHOWN: usize = 3;
    match tables.len().checked_sub(SHOWN) {
        None | Some(0) => tables.join(", "),
        Some(more) => format!("{} and {more} more", tables[..SHOWN].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_named_with_what_it_holds_as_far_as_that_is_known() {
        let mut holder = Holder {
            connection: 7,
            user: "bi".to_owned(),
            open: Duration::from_millis(1500),
            tables: None,
        };
        let tables = ["a", "b", "c", "d"].map(str::to_owned);
        let said = obstacle(&holder, &tables);
        assert!(said.contains("bi (connection 7, open for 1.5 s)"), "{said}");
        assert!(said.contains("may hold a, b, c and 1 more"), "{said}");
        assert!(said.contains("KILL 7"), "{said}");
        holder.tables = Some("b".to_owned());
        assert!(obstacle(&holder, &tables).contains("holds b, whose"));
    }
}
