//! What a reader has to know of its old shard before it can read: the tables as they are there.

use std::collections::HashMap;

use modshift_mariadb::{Session, catalog, control};
use modshift_proto::OldShard;
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::schema::TableSchema;
use mysql_async::prelude::Queryable;

use crate::binlog::Collations;
use crate::error::{ReadError, server_error};
use crate::route::RoutedTable;

/// The planned tables of one old shard, and what else matters of its server.
pub struct Prepared {
    pub tables: Vec<RoutedTable>,
    pub estimates: HashMap<String, u64>,
    /// The schema as the server spells it, which is how the binlog does.
    pub schema_name: String,
    /// Names of schemas and tables are the same whatever their case (`lower_case_table_names`).
    pub fold_names: bool,
    /// Numbers of the server's collations by their names.
    pub collations: Collations,
    /// The server has committed XA transactions since it started.
    pub xa_seen: bool,
}

pub async fn prepare(plan: &Plan, shard: OldShard) -> Result<Prepared, ReadError> {
    let endpoint = &plan.old[usize::from(shard.0)];
    let mut conn = modshift_mariadb::connect(endpoint, Session::Plain).await?;
    let mut estimates = HashMap::new();
    let mut engines = HashMap::new();
    for table in catalog::tables(&mut conn, &endpoint.schema).await? {
        estimates.insert(table.name.clone(), table.rows_estimated);
        engines.insert(table.name, table.engine);
    }
    let mut tables = Vec::new();
    let doing = "preparing to read";
    let names: Option<(Option<String>, u8)> = conn
        .query_first("SELECT DATABASE(), @@global.lower_case_table_names")
        .await
        .map_err(|error| server_error(endpoint, doing, error))?;
    for (index, planned) in plan.tables.iter().enumerate() {
        let schema = catalog::table(&mut conn, &endpoint.schema, &planned.name).await?;
        let engine = engines.get(&schema.name).cloned().flatten().unwrap_or_default();
        if !engine.eq_ignore_ascii_case("InnoDB") {
            return Err(ReadError::Engine { shard, table: schema.name, engine });
        }
        tables.push(RoutedTable::bind(plan, index, schema, shard)?);
    }
    let xa: Option<(String, u64)> = conn
        .query_first("SHOW GLOBAL STATUS LIKE 'Com_xa_commit'")
        .await
        .map_err(|error| server_error(endpoint, "looking for XA transactions", error))?;
    let collations = catalog::collations(&mut conn).await?;
    let failed = |error| server_error(endpoint, "closing a connection", error);
    conn.disconnect().await.map_err(failed)?;
    let (schema_name, lower_case) = names.unwrap_or_default();
    let schema_name = schema_name.unwrap_or_else(|| endpoint.schema.clone());
    let fold_names = lower_case != 0;
    let xa_seen = xa.is_some_and(|(_, count)| count > 0);
    Ok(Prepared { tables, estimates, schema_name, fold_names, collations, xa_seen })
}

pub async fn token_table(endpoint: &Endpoint) -> Result<TableSchema, ReadError> {
    let mut conn = modshift_mariadb::connect(endpoint, Session::Plain).await?;
    Ok(catalog::table(&mut conn, &endpoint.schema, control::TOKEN).await?)
}
