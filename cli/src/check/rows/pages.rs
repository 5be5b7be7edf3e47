//! Keys that MariaDB does not find in the order of its index: a copy by pages would leave rows out, and
//! halts before the first row of the table.

use futures_util::future::try_join_all;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error::{self, ServerError};
use modshift_mariadb::value::{quote, unpageable};
use modshift_proto::plan::Plan;
use mysql_async::prelude::Queryable;

use crate::check::fault::{Fault, Severity};
use crate::check::survey::{Facts, Server, Survey};

/// Asks only where the type of a key allows such values.
pub async fn check(plan: &Plan, survey: &Survey) -> Result<Vec<Fault>, ServerError> {
    let asked = try_join_all(survey.olds().map(|(server, facts)| of_shard(plan, server, facts)));
    Ok(asked.await?.into_iter().flatten().collect())
}

async fn of_shard(plan: &Plan, server: &Server, facts: &Facts) -> Result<Vec<Fault>, ServerError> {
    let mut faults = Vec::new();
    let mut conn = None;
    for name in plan.tables.iter().map(|table| &table.name) {
        let Some(table) = facts.tables.get(name) else { continue };
        let Ok(schema) = &table.schema else { continue };
        let keys: Vec<_> = schema.primary_key.iter().map(|&i| &schema.columns[i]).collect();
        let Some(sql) = unpageable(&quote(name), &keys) else { continue };
        let conn = match &mut conn {
            Some(conn) => conn,
            none => none.insert(connect(&server.endpoint, Session::Plain).await?),
        };
        let found: Option<u8> = conn
            .query_first(sql.as_str())
            .await
            .map_err(|e| error::of(&label(&server.endpoint), "looking at primary keys", e))?;
        if found.is_some() {
            let subject = format!("{}: table {name}", server.side);
            let actual = format!("has primary keys of another order than its index: {sql}");
            faults.push(
                Fault::new(Severity::Fault, "pages", subject, actual)
                    .expected("keys by which a copy can go page by page")
                    .mend(
                        "give those rows other keys, or make a CHAR column of the key a VARCHAR on \
                         every shard",
                    ),
            );
        }
    }
    Ok(faults)
}
