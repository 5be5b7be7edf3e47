//! Apache ShardingSphere: its YAML configuration, and the same as DistSQL for its proxy. Written to
//! files; bringing them to where ShardingSphere reads them is the operator's. `zookeeper` brings the
//! same to the centre that its cluster mode follows.
//!
//! Each side has storage units of its own name, for ShardingSphere does not let one be pointed at
//! another database; what switches is the rule of each table.
//!
//! Tests run an application on ShardingSphere-JDBC 5.5.2 by the YAML (which refuses a data source without
//! the class of its pool). 5.4.1 knows no `jdbc:mariadb:`; with MySQL's driver it has been tried by a test
//! that is left out of the ordinary ones.

use std::fmt::Write as _;
use std::time::Instant;

use modshift_proto::plan::{HostPort, ShardingSphereTarget, StorageUnits};

use super::Ack;
use super::error::Failure;
use super::file::{self, Form, Place};
use crate::document::{Document, Side, TableRule};

const YAML: Form = Form::Comment("#");
const DISTSQL: Form = Form::Comment("--");
pub(super) const HIDDEN: &str = "<redacted>";
/// Names of algorithms that are ours begin so.
pub(super) const ALGORITHM: &str = "modshift_";
/// In milliseconds. A thread that waits for a connection of the side that was left learns only then that
/// it has to ask again; HikariCP's own default is half a minute.
pub(super) const CONNECTION_TIMEOUT_MS: u32 = 2000;
/// HikariCP, which comes with ShardingSphere-JDBC.
pub(super) const POOL: &str = "com.zaxxer.hikari.HikariDataSource";

pub async fn publish(
    target: &ShardingSphereTarget,
    follow: bool,
    document: &Document,
    deadline: Instant,
) -> Result<Ack, Failure> {
    let password = target.units.password.expose();
    // Both are made before either is written.
    let (yaml_text, distsql_text) =
        (yaml(&target.units, password, document)?, distsql_of(target, password, document)?);
    let files = [(&target.yaml, yaml_text, YAML), (&target.distsql, distsql_text, DISTSQL)];
    let mut ack = Ack::Held;
    for (path, text, form) in files {
        let Some(path) = path else { continue };
        let place = Place { path, follow };
        if file::publish(place, &text, form, document, deadline).await? == Ack::Stored {
            ack = Ack::Stored;
        }
    }
    Ok(ack)
}

pub fn preview(target: &ShardingSphereTarget, document: &Document) -> Result<String, Failure> {
    let mut text = String::new();
    if target.yaml.is_some() {
        text.push_str(&yaml(&target.units, HIDDEN, document)?);
    }
    if target.distsql.is_some() {
        text.push_str(&distsql(&target.units, HIDDEN, document)?);
    }
    Ok(text)
}

/// How one table is placed: the column, and the algorithm with its properties.
pub(super) struct Strategy<'a> {
    pub table: &'a str,
    pub column: &'a str,
    /// Of each side its own, so that a table's rule can name nodes and algorithm of one side only.
    pub name: String,
    pub algorithm: &'static str,
    pub properties: Vec<(&'static str, String)>,
}

pub(super) fn unfit(detail: String) -> Failure {
    Failure::Unfit { detail }
}

/// Names stand in expressions of Groovy and in data nodes, where nothing can be quoted.
fn plain(what: &str, name: &str) -> Result<(), Failure> {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(());
    }
    Err(unfit(format!("{what} {name:?} is more than letters, digits and _")))
}

/// Names of data sources, but for the number of the shard.
fn stem(document: &Document) -> String {
    stem_of(document, document.side)
}

pub(super) fn stem_of(document: &Document, side: Side) -> String {
    format!("{}_{}_", document.plan.replace('-', "_"), side.name())
}

pub(super) fn strategies<'a>(
    units: &StorageUnits,
    document: &'a Document,
) -> Result<Vec<Strategy<'a>>, Failure> {
    let (stem, modulus) = (stem(document), document.modulus);
    let mut strategies = Vec::new();
    for (table, rule) in &document.tables {
        plain("table", table)?;
        let inline = |expression: String| {
            ("INLINE", vec![("algorithm-expression", format!("{stem}$->{{{expression}}}"))])
        };
        let (column, (algorithm, properties)) = match rule {
            TableRule::Broadcast => continue,
            // The remainder first, as in SQL: right for negative keys and without overflow.
            TableRule::FloorMod { key } => {
                (key, inline(format!("(({key} % {modulus}) + {modulus}) % {modulus}")))
            }
            TableRule::AbsMod { key } => (key, inline(format!("({key} % {modulus}).abs()"))),
            TableRule::Crc32 { key, charset } => {
                let class = units.crc32_class.clone().ok_or_else(|| {
                    unfit(format!(
                        "ShardingSphere has no crc32 for table {table}: name a class of yours in \
                         crc32_class"
                    ))
                })?;
                let properties = vec![
                    ("strategy", "standard".to_owned()),
                    ("algorithmClassName", class),
                    // For the class, which has to know them from somewhere.
                    ("modulus", modulus.to_string()),
                    ("charset", charset.clone()),
                    ("data-sources", stem.clone()),
                ];
                (key, ("CLASS_BASED", properties))
            }
        };
        plain("key", column)?;
        let name = format!("{ALGORITHM}{}_{table}", document.side.name());
        strategies.push(Strategy { table, column, name, algorithm, properties });
    }
    Ok(strategies)
}

pub(super) fn broadcasts(document: &Document) -> impl Iterator<Item = &String> {
    document.tables.iter().filter(|(_, rule)| **rule == TableRule::Broadcast).map(|(name, _)| name)
}

pub(super) fn nodes(document: &Document, table: &str) -> String {
    format!("{}$->{{0..{}}}.{table}", stem(document), document.modulus - 1)
}

/// The name of each storage unit, and its address.
pub(super) fn urls<'a>(
    units: &'a StorageUnits,
    document: &'a Document,
) -> impl Iterator<Item = (String, String)> + 'a {
    let stem = stem(document);
    document.shards.iter().map(move |shard| {
        let at = HostPort { host: shard.host.clone(), port: shard.port };
        (format!("{stem}{}", shard.index), url(units, &at, &shard.schema))
    })
}

pub(super) fn url(units: &StorageUnits, server: &HostPort, schema: &str) -> String {
    let parameters = units.url_parameters.iter().map(|text| format!("?{text}")).collect::<String>();
    format!("jdbc:{}://{server}/{schema}{parameters}", units.jdbc.name())
}

/// A JSON string is a YAML string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn yaml(units: &StorageUnits, password: &str, document: &Document) -> Result<String, Failure> {
    let strategies = strategies(units, document)?;
    let mut text = YAML.head(document);
    // Writing to a String cannot fail.
    let mut line = |depth: usize, line: &str| {
        let _ = writeln!(text, "{:indent$}{line}", "", indent = 2 * depth);
    };
    line(0, "dataSources:");
    for (name, url) in urls(units, document) {
        line(1, &format!("{name}:"));
        line(2, &format!("dataSourceClassName: {POOL}"));
        line(2, &format!("url: {}", quoted(&url)));
        line(2, &format!("username: {}", quoted(&units.user)));
        line(2, &format!("password: {}", quoted(password)));
        line(2, &format!("connectionTimeoutMilliseconds: {CONNECTION_TIMEOUT_MS}"));
    }
    line(0, "rules:");
    line(0, "- !SHARDING");
    line(1, "tables:");
    for strategy in &strategies {
        line(2, &format!("{}:", strategy.table));
        line(3, &format!("actualDataNodes: {}", quoted(&nodes(document, strategy.table))));
        line(3, "databaseStrategy:");
        line(4, "standard:");
        line(5, &format!("shardingColumn: {}", strategy.column));
        line(5, &format!("shardingAlgorithmName: {}", strategy.name));
    }
    line(1, "shardingAlgorithms:");
    for strategy in &strategies {
        line(2, &format!("{}:", strategy.name));
        line(3, &format!("type: {}", strategy.algorithm));
        line(3, "props:");
        for (name, value) in &strategy.properties {
            line(4, &format!("{name}: {}", quoted(value)));
        }
    }
    if broadcasts(document).next().is_some() {
        line(0, "- !BROADCAST");
        line(1, "tables:");
        broadcasts(document).for_each(|table| line(1, &format!("- {table}")));
    }
    Ok(text)
}

/// DistSQL has no escape that all its versions agree on.
fn distsql_string(text: &str) -> Result<String, Failure> {
    match text.contains(['"', '\\']) {
        true => Err(unfit("DistSQL cannot quote a value with \" or \\ in it".to_owned())),
        false => Ok(format!("\"{text}\"")),
    }
}

/// Nothing where none is asked for, which may be because it cannot be said.
fn distsql_of(
    target: &ShardingSphereTarget,
    password: &str,
    document: &Document,
) -> Result<String, Failure> {
    match target.distsql {
        Some(_) => distsql(&target.units, password, document),
        None => Ok(String::new()),
    }
}

fn distsql(units: &StorageUnits, password: &str, document: &Document) -> Result<String, Failure> {
    let mut text = DISTSQL.head(document);
    let (user, password) = (distsql_string(&units.user)?, distsql_string(password)?);
    let mut statement = |statement: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{statement};");
    };
    for (name, url) in urls(units, document) {
        let url = distsql_string(&url)?;
        statement(format!(
            "REGISTER STORAGE UNIT IF NOT EXISTS {name} (URL={url}, USER={user}, \
             PASSWORD={password})"
        ));
    }
    for strategy in strategies(units, document)? {
        let mut properties = Vec::new();
        for (name, value) in &strategy.properties {
            properties.push(format!("\"{name}\"={}", distsql_string(value)?));
        }
        let Strategy { table, column, algorithm, .. } = strategy;
        let rule = format!(
            "{table} (DATANODES(\"{}\"), DATABASE_STRATEGY(TYPE=\"standard\", \
             SHARDING_COLUMN={column}, SHARDING_ALGORITHM(TYPE(NAME=\"{algorithm}\", \
             PROPERTIES({})))))",
            nodes(document, table),
            properties.join(", ")
        );
        // The first is for the first publication, the second for all others.
        statement(format!("CREATE SHARDING TABLE RULE IF NOT EXISTS {rule}"));
        statement(format!("ALTER SHARDING TABLE RULE {rule}"));
    }
    for table in broadcasts(document) {
        statement(format!("CREATE BROADCAST TABLE RULE IF NOT EXISTS {table}"));
    }
    Ok(text)
}

#[cfg(test)]
#[path = "shardingsphere_tests.rs"]
mod tests;
