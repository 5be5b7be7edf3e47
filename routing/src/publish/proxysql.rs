//! ProxySQL: statements for its admin interface, written to a file, sent there, or both.
//!
//! Each side of a reshard has hostgroups of its own, so that a publication adds its servers first
//! and then switches by its query rules alone, which ProxySQL loads in one step. Servers that are
//! in their hostgroup already keep the settings that they have there (weight, TLS, limits).
//!
//! With `match = "hint"` the application names shard and modulus in a comment, and a last rule
//! answers every hint of another modulus with an error: a client with the routing of yesterday is
//! stopped, not misled. With `match = "schema"` nothing of the kind is possible.
//!
//! Checked against ProxySQL's table definitions in SQLite, which its admin interface is; not
//! against a ProxySQL.

use std::time::Instant;

use modshift_mariadb::error as server;
use modshift_proto::plan::{ProxySqlAdmin, ProxySqlMatch, ProxySqlTarget, SHARDS_MAX};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, OptsBuilder, SslOpts};

use super::error::Failure;
use super::file::{self, Form, Place};
use super::{Ack, judge};
use crate::document::{Document, Side};

const FORM: Form = Form::Comment("--");
/// In the comment of the first rule, before the document.
const MARK: &str = "modshift routing ";

pub async fn publish(
    target: &ProxySqlTarget,
    follow: bool,
    document: &Document,
    deadline: Instant,
) -> Result<Ack, Failure> {
    let statements = statements(target, document)?;
    let mut ack = Ack::Held;
    if let Some(path) = &target.file {
        let text = text(&statements, document);
        ack = file::publish(Place { path, follow }, &text, FORM, document, deadline).await?;
    }
    match &target.admin {
        Some(admin) => execute(admin, target.rule_base, &statements, document).await,
        None => Ok(ack),
    }
}

pub fn preview(target: &ProxySqlTarget, document: &Document) -> Result<String, Failure> {
    Ok(text(&statements(target, document)?, document))
}

fn text(statements: &[String], document: &Document) -> String {
    let mut text = FORM.head(document);
    for statement in statements {
        text.push_str(statement);
        text.push_str(";\n");
    }
    text
}

/// In the order in which they are to be run.
fn statements(target: &ProxySqlTarget, document: &Document) -> Result<Vec<String>, Failure> {
    let shards_max = u32::from(SHARDS_MAX);
    let side = match document.side {
        Side::Old => 0,
        Side::New => shards_max,
    };
    let first = target.hostgroup_base + side;
    let last = first + shards_max - 1;
    let mut statements = vec![format!(
        "DELETE FROM mysql_servers WHERE hostgroup_id BETWEEN {} AND {last}",
        first + u32::from(document.modulus),
    )];
    let mut servers = Vec::new();
    let mut rules = Vec::new();
    for shard in &document.shards {
        let (host, port) = (quote(&shard.host), shard.port);
        let hostgroup = first + u32::from(shard.index);
        statements.push(format!(
            "DELETE FROM mysql_servers WHERE hostgroup_id = {hostgroup} \
             AND NOT (hostname = {host} AND port = {port})"
        ));
        let comment = quote(&format!("{} {} {}", document.plan, document.side.name(), shard.index));
        servers.push(format!("({hostgroup}, {host}, {port}, {comment})"));
        let comment = match shard.index {
            0 => quote(&format!("{MARK}{}", one_line(document))),
            _ => comment,
        };
        let id = target.rule_base + u32::from(shard.index);
        let (schema, pattern) = match target.matching {
            ProxySqlMatch::Schema => (quote(&shard.schema), "NULL".to_owned()),
            ProxySqlMatch::Hint => {
                let hint = hint(&shard.index.to_string(), &document.modulus.to_string());
                ("NULL".to_owned(), quote(&hint))
            }
        };
        rules.push(format!("({id}, 1, {schema}, {pattern}, {hostgroup}, NULL, 1, {comment})"));
    }
    match target.matching {
        ProxySqlMatch::Schema => distinct_schemas(document)?,
        ProxySqlMatch::Hint => {
            let id = target.rule_base + shards_max;
            let pattern = quote(&hint("[0-9]+", "[0-9]+"));
            let error = quote(&format!(
                "modshift: this shard hint is not of modulus {}, which routing version {} has",
                document.modulus, document.version
            ));
            rules.push(format!("({id}, 1, NULL, {pattern}, NULL, {error}, 1, 'stale hints')"));
        }
    }
    statements.push(format!(
        "INSERT OR IGNORE INTO mysql_servers (hostgroup_id, hostname, port, comment) VALUES {}",
        servers.join(", ")
    ));
    let last_rule = target.rule_base + shards_max;
    statements.push(format!(
        "DELETE FROM mysql_query_rules WHERE rule_id BETWEEN {} AND {last_rule}",
        target.rule_base
    ));
    statements.push(format!(
        "INSERT INTO mysql_query_rules (rule_id, active, schemaname, match_pattern, \
         destination_hostgroup, error_msg, apply, comment) VALUES {}",
        rules.join(", ")
    ));
    let load = [
        "LOAD MYSQL SERVERS TO RUNTIME",
        "LOAD MYSQL QUERY RULES TO RUNTIME",
        "SAVE MYSQL SERVERS TO DISK",
        "SAVE MYSQL QUERY RULES TO DISK",
    ];
    statements.extend(load.map(str::to_owned));
    Ok(statements)
}

fn hint(shard: &str, modulus: &str) -> String {
    format!(r"/\*\s*shard={shard}/{modulus}\s*\*/")
}

fn distinct_schemas(document: &Document) -> Result<(), Failure> {
    let mut schemas: Vec<&str> =
        document.shards.iter().map(|shard| shard.schema.as_str()).collect();
    schemas.sort_unstable();
    match schemas.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(Failure::Unfit {
            detail: format!(
                "schema {} is on several shards, so match = \"schema\" cannot tell them apart; \
                 use match = \"hint\"",
                pair[0]
            ),
        }),
    }
}

/// As SQLite quotes: a backslash is a character like any other.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn one_line(document: &Document) -> String {
    // Strings, numbers and maps with string keys always serialise.
    serde_json::to_string(document).unwrap_or_default()
}

async fn execute(
    admin: &ProxySqlAdmin,
    rule_base: u32,
    statements: &[String],
    document: &Document,
) -> Result<Ack, Failure> {
    let at = format!("{}:{}", admin.host, admin.port);
    let opts = OptsBuilder::default()
        .ip_or_hostname(admin.host.clone())
        .tcp_port(admin.port)
        .user(Some(admin.user.clone()))
        .pass(Some(admin.password.expose()))
        .prefer_socket(false)
        // Given, so that the driver does not ask for variables that ProxySQL does not have.
        .max_allowed_packet(Some(16 << 20))
        .wait_timeout(Some(28_800));
    // Encrypted where the interface can; its certificate is ProxySQL's own, made at its start, and
    // proves nothing. The password goes over the wire as a proof of it in either case.
    let tls = SslOpts::default()
        .with_danger_accept_invalid_certs(true)
        .with_danger_skip_domain_validation(true);
    let connected = match Conn::new(opts.clone().ssl_opts(Some(tls))).await {
        Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer)) => {
            Conn::new(opts).await
        }
        connected => connected,
    };
    let mut conn = connected.map_err(|error| server::of(&at, "connecting to ProxySQL", error))?;
    // What is loaded, not what is written down: a publication may have ended in between.
    let comment =
        format!("SELECT comment FROM runtime_mysql_query_rules WHERE rule_id = {rule_base}");
    let comment: Option<Option<String>> = conn
        .query_first(comment)
        .await
        .map_err(|error| server::of(&at, "reading ProxySQL's rules", error))?;
    let held = comment.map(|comment| held(rule_base, &comment.unwrap_or_default())).transpose()?;
    let ack = match judge(held.as_ref(), document)? {
        Some(ack) => ack,
        None => {
            for statement in statements {
                let doing = "changing ProxySQL's rules";
                conn.query_drop(statement).await.map_err(|e| server::of(&at, doing, e))?;
            }
            Ack::Stored
        }
    };
    // The answer is in; how the connection ends changes nothing.
    let _ = conn.disconnect().await;
    Ok(ack)
}

fn held(rule_base: u32, comment: &str) -> Result<Document, Failure> {
    let foreign =
        |detail: String| Failure::Foreign { place: format!("query rule {rule_base}"), detail };
    let json = comment
        .strip_prefix(MARK)
        .ok_or_else(|| foreign(format!("its comment does not begin with {MARK:?}")))?;
    Document::from_json(json.as_bytes()).map_err(|error| foreign(error.to_string()))
}

#[cfg(test)]
#[path = "proxysql_tests.rs"]
mod tests;
