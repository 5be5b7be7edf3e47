//! What a server is: version, settings, binlog, privileges of our account. Facts only; what is
//! wrong with them is for `check` to say.

use std::collections::HashMap;

use modshift_proto::gtid::GtidSet;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::connect::label_of;
use crate::error::{self, ServerError};
use crate::grants::Grants;

/// A server as it described itself a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `10.11.19-MariaDB-log`.
    pub version: String,
    /// `(10, 11, 19)`; zeros where the text begins with no number.
    pub version_number: (u16, u16, u16),
    /// `version_comment` or the version names MariaDB.
    pub is_mariadb: bool,
    pub server_id: u32,
    pub gtid_domain_id: u32,
    pub log_bin: bool,
    /// `ROW`, `MIXED`, `STATEMENT`.
    pub binlog_format: String,
    /// `FULL`, `MINIMAL`, `NOBLOB`.
    pub binlog_row_image: String,
    /// `CRC32`, `NONE`.
    pub binlog_checksum: String,
    /// Server-wide; the account of a connection sees it whatever its privileges.
    pub gtid_binlog_pos: GtidSet,
    pub gtid_strict_mode: bool,
    pub log_slave_updates: bool,
    /// Replicates from another server.
    pub is_replica: Option<bool>,
    pub sync_binlog: u64,
    pub innodb_flush_log_at_trx_commit: u64,
    /// Largest command it takes, in bytes.
    pub max_allowed_packet: u64,
    pub read_only: bool,
    pub lower_case_table_names: u8,
    /// XA COMMITs since the server started.
    pub xa_commits: u64,
    /// Transactions prepared and neither committed nor rolled back: `XA RECOVER`.
    pub xa_prepared: u64,
    pub grants: Grants,
    /// Server ids of the replicas that are registered now; `None` where the account may not see
    /// them (REPLICATION MASTER ADMIN).
    pub replica_server_ids: Option<Vec<u32>>,
}

impl ServerFacts {
    pub async fn load(conn: &mut Conn) -> Result<ServerFacts, ServerError> {
        let at = label_of(conn);
        let settings = Settings::load(conn, &at).await?;
        let xa_commits = xa_commits(conn, &at).await?;
        let doing = "listing prepared transactions";
        let prepared: Vec<Row> =
            conn.query("XA RECOVER").await.map_err(|error| error::of(&at, doing, error))?;
        let version = settings.text("version")?;
        let comment = settings.text("version_comment")?;
        Ok(ServerFacts {
            version_number: version_number(&version),
            is_mariadb: [&version, &comment].iter().any(|text| text.contains("ariaDB")),
            version,
            server_id: settings.number("server_id")?,
            gtid_domain_id: settings.number("gtid_domain_id")?,
            log_bin: settings.switch("log_bin")?,
            binlog_format: settings.text("binlog_format")?,
            binlog_row_image: settings.text("binlog_row_image")?,
            binlog_checksum: settings.text("binlog_checksum")?,
            gtid_binlog_pos: settings.parse("gtid_binlog_pos")?,
            gtid_strict_mode: settings.switch("gtid_strict_mode")?,
            log_slave_updates: settings.switch("log_slave_updates")?,
            is_replica: is_replica(conn, &at).await?,
            sync_binlog: settings.number("sync_binlog")?,
            innodb_flush_log_at_trx_commit: settings.number("innodb_flush_log_at_trx_commit")?,
            max_allowed_packet: settings.number("max_allowed_packet")?,
            read_only: settings.switch("read_only")?,
            lower_case_table_names: settings.number("lower_case_table_names")?,
            xa_commits,
            xa_prepared: prepared.len() as u64,
            grants: grants(conn, &at).await?,
            replica_server_ids: replica_server_ids(conn, &at).await?,
        })
    }
}

/// Which accounts hold one of these global privileges, as `'user'@'host'` and privilege. `None`
/// where our account sees only itself (it takes SELECT on the schema `mysql`).
///
/// Accounts with `BINLOG ADMIN` (before 10.11 also `SUPER`) may switch `sql_log_bin` and
/// `binlog_format` off in their session.
pub async fn holders(
    conn: &mut Conn,
    grants: &Grants,
    privileges: &[&str],
) -> Result<Option<Vec<(String, String)>>, ServerError> {
    if !grants.has_on_schema("mysql", "SELECT") {
        return Ok(None);
    }
    let rows: Vec<(String, String)> = conn
        .query(
            "SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES \
             ORDER BY GRANTEE, PRIVILEGE_TYPE",
        )
        .await
        .map_err(|error| error::of(&label_of(conn), "listing accounts", error))?;
    Ok(Some(rows.into_iter().filter(|(_, held)| privileges.contains(&held.as_str())).collect()))
}

/// What the server accepts in one command, in bytes. What is sent to it must stay below.
pub async fn max_allowed_packet(conn: &mut Conn) -> Result<u64, ServerError> {
    let doing = "reading max_allowed_packet";
    let value: Option<u64> = conn
        .query_first("SELECT @@max_allowed_packet")
        .await
        .map_err(|error| error::of(&label_of(conn), doing, error))?;
    value.ok_or_else(|| ServerError::Driver {
        at: label_of(conn),
        doing,
        detail: "no answer".to_owned(),
    })
}

async fn grants(conn: &mut Conn, at: &str) -> Result<Grants, ServerError> {
    let lines: Vec<String> = conn
        .query("SHOW GRANTS")
        .await
        .map_err(|error| error::of(at, "reading our privileges", error))?;
    Ok(Grants::parse(lines.iter().map(String::as_str)))
}

async fn xa_commits(conn: &mut Conn, at: &str) -> Result<u64, ServerError> {
    let row: Option<(String, String)> = conn
        .query_first("SHOW GLOBAL STATUS LIKE 'Com_xa_commit'")
        .await
        .map_err(|error| error::of(at, "reading the status of the server", error))?;
    Ok(row.and_then(|(_, count)| count.parse().ok()).unwrap_or(0))
}

async fn is_replica(conn: &mut Conn, at: &str) -> Result<Option<bool>, ServerError> {
    let rows = privileged(conn, at, "SHOW ALL SLAVES STATUS").await?;
    Ok(rows.map(|rows| !rows.is_empty()))
}

async fn replica_server_ids(conn: &mut Conn, at: &str) -> Result<Option<Vec<u32>>, ServerError> {
    let rows = privileged(conn, at, "SHOW SLAVE HOSTS").await?;
    Ok(rows.map(|rows| rows.iter().filter_map(|row| row.get_opt(0)?.ok()).collect()))
}

/// `None` where the account may not ask.
async fn privileged(
    conn: &mut Conn,
    at: &str,
    statement: &str,
) -> Result<Option<Vec<Row>>, ServerError> {
    match conn.query(statement).await {
        Ok(rows) => Ok(Some(rows)),
        Err(error) => match error::of(at, "reading the replication state", error) {
            ServerError::Privilege { .. } => Ok(None),
            error => Err(error),
        },
    }
}

/// `SHOW GLOBAL VARIABLES`: session values of `binlog_format` and the like would be our own.
struct Settings<'a> {
    at: &'a str,
    values: HashMap<String, String>,
}

const DOING_SETTINGS: &str = "reading the settings of the server";

impl<'a> Settings<'a> {
    async fn load(conn: &mut Conn, at: &'a str) -> Result<Settings<'a>, ServerError> {
        let rows: Vec<(String, String)> = conn
            .query("SHOW GLOBAL VARIABLES")
            .await
            .map_err(|error| error::of(at, DOING_SETTINGS, error))?;
        Ok(Settings { at, values: rows.into_iter().collect() })
    }

    fn text(&self, name: &str) -> Result<String, ServerError> {
        self.values.get(name).cloned().ok_or_else(|| self.fault(name))
    }

    fn switch(&self, name: &str) -> Result<bool, ServerError> {
        Ok(self.text(name)? == "ON")
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, ServerError> {
        self.parse(name)
    }

    fn parse<T: std::str::FromStr>(&self, name: &str) -> Result<T, ServerError> {
        self.text(name)?.parse().map_err(|_| self.fault(name))
    }

    fn fault(&self, name: &str) -> ServerError {
        let detail = match self.values.get(name) {
            Some(value) => format!("{name} is '{value}', which is not understood"),
            None => format!("{name} is missing: is it a MariaDB server?"),
        };
        ServerError::Driver { at: self.at.to_owned(), doing: DOING_SETTINGS, detail }
    }
}

fn version_number(version: &str) -> (u16, u16, u16) {
    let mut parts = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or_default())
        .chain(std::iter::repeat(0));
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(version_number("10.11.19-MariaDB-0+deb12u1-log"), (10, 11, 19));
        assert!(version_number("11.4.2-MariaDB") > version_number("10.11.19"));
        assert_eq!(version_number("next"), (0, 0, 0));
    }
}
