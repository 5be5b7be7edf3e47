//! Who may do what on a server, and which stored code runs in whose name.

use modshift_mariadb::catalog::EventInfo;
use modshift_mariadb::value::quote;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::ask::if_allowed;

/// Bits of `access` in `mysql.global_priv`, see sql/privilege.h.
const INSERT_UPDATE_DELETE: u64 = 0b111 << 1;
const GRANT_OPTION: u64 = 1 << 10;
const SUPER: u64 = 1 << 15;
const REPLICATION_SLAVE: u64 = 1 << 19;
const CREATE_USER: u64 = 1 << 25;
const READ_ONLY_ADMIN: u64 = 1 << 33;
const REPLICATION_SLAVE_ADMIN: u64 = 1 << 34;
const BINLOG_ADMIN: u64 = 1 << 36;

/// An account, or a role (an empty host): whoever holds one can take it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub host: String,
    access: u64,
    /// Nobody can log in by it.
    pub locked: bool,
}

/// What an account is for, as far as its name and its rights tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    Application,
    /// Whoever holds it can take it up; it cannot be locked, nor log in.
    Role,
    Replication,
    /// Who locks them out may have nobody left to open by hand.
    Administrator,
    /// By it a client logs in under any user name.
    Anonymous,
    /// In its name the views of the schema `sys` run.
    ServersOwn,
    Ours,
}

impl Sort {
    /// Before the names of some of them.
    pub fn words(self) -> &'static str {
        match self {
            Sort::Application => "",
            Sort::Role => "roles ",
            Sort::Replication => "replication accounts ",
            Sort::Administrator => "administrators ",
            Sort::Anonymous => "anonymous accounts ",
            Sort::ServersOwn => "the server's own account ",
            Sort::Ours => "modshift's own accounts ",
        }
    }
}

impl Account {
    /// `ours`: of a login of the plan.
    pub fn sort(&self, ours: bool) -> Sort {
        let has = |bits: u64| self.access & bits != 0;
        match () {
            () if ours => Sort::Ours,
            () if self.is_servers_own() => Sort::ServersOwn,
            () if self.user.is_empty() => Sort::Anonymous,
            () if self.user == "root" || has(GRANT_OPTION | CREATE_USER) => Sort::Administrator,
            () if self.is_role() => Sort::Role,
            () if has(REPLICATION_SLAVE | REPLICATION_SLAVE_ADMIN) => Sort::Replication,
            () => Sort::Application,
        }
    }

    pub fn may_hide_from_binlog(&self) -> bool {
        self.access & (SUPER | BINLOG_ADMIN) != 0
    }

    /// SUPER alone did so before 10.11, which split READ_ONLY ADMIN from it.
    pub fn may_write_when_read_only(&self, super_suffices: bool) -> bool {
        let bits = if super_suffices { SUPER | READ_ONLY_ADMIN } else { READ_ONLY_ADMIN };
        self.access & bits != 0
    }

    pub fn is_role(&self) -> bool {
        self.host.is_empty()
    }

    /// On every table there is.
    pub fn may_write(&self) -> bool {
        self.access & INSERT_UPDATE_DELETE != 0
    }

    /// Of this server itself, without a login.
    pub fn is_servers_own(&self) -> bool {
        self.user == "mariadb.sys"
    }

    /// As DEFINER clauses name it.
    pub fn name(&self) -> String {
        match self.host.as_str() {
            "" => self.user.clone(),
            host => format!("{}@{host}", self.user),
        }
    }

    /// As REVOKE takes it.
    pub fn quoted(&self) -> String {
        match self.host.as_str() {
            "" => quote(&self.user),
            host => format!("{}@{}", quote(&self.user), quote(host)),
        }
    }

    /// Takes away what it has of these.
    pub fn revoke(&self, privileges: &[&str]) -> String {
        let has = |name: &&&str| {
            let bits = match **name {
                "SUPER" => SUPER,
                "BINLOG ADMIN" => BINLOG_ADMIN,
                "READ_ONLY ADMIN" => READ_ONLY_ADMIN,
                _ => 0,
            };
            self.access & bits != 0
        };
        let own: Vec<&str> = privileges.iter().filter(has).copied().collect();
        format!("REVOKE {} ON *.* FROM {}", own.join(", "), self.quoted())
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self.host.as_str() {
            "" => format!("{} (role)", self.user),
            _ => self.name(),
        }
    }
}

/// Stored code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub kind: &'static str,
    pub name: String,
    /// `user@host`, or a role.
    pub definer: String,
}

/// All accounts and roles, if we may know them.
pub(super) async fn accounts(
    conn: &mut Conn,
    whole: bool,
) -> mysql_async::Result<Option<Vec<Account>>> {
    const GLOBAL: &str = "(SELECT User, Host, CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED) \
                          AS access, COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') \
                          IN ('1', 'true') AS locked FROM mysql.global_priv) a";
    // As the view was made before it told which accounts are locked.
    const WITHOUT_LOCKS: &str = "(SELECT User, Host, access, 0 AS locked FROM modshift.accounts) a";
    const NO_SUCH_COLUMN: u16 = 1054;
    if !whole {
        return Ok(None);
    }
    for source in [GLOBAL, "modshift.accounts", WITHOUT_LOCKS] {
        let sql = format!("SELECT User, Host, access, locked FROM {source} ORDER BY User, Host");
        type Row = (String, String, Option<u64>, bool);
        let rows: mysql_async::Result<Vec<Row>> = conn.query(sql).await;
        let rows = match rows {
            Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_COLUMN => None,
            rows => if_allowed(rows)?,
        };
        if let Some(rows) = rows {
            let account = |(user, host, access, locked): (_, _, Option<u64>, _)| Account {
                user,
                host,
                access: access.unwrap_or(0),
                locked,
            };
            return Ok(Some(rows.into_iter().map(account).collect()));
        }
    }
    Ok(None)
}

/// Accounts with INSERT, UPDATE or DELETE on the schema or on a table or column of it.
pub(super) async fn writers(
    conn: &mut Conn,
    schema: &str,
    whole: bool,
) -> mysql_async::Result<Option<Vec<String>>> {
    // As `modshift.writers` in deploy/mariadb/grants-old.sql.
    const SYSTEM: &str = "(SELECT User, Host, Db AS pattern FROM mysql.db \
         WHERE 'Y' IN (Insert_priv, Update_priv, Delete_priv) \
         UNION SELECT User, Host, REPLACE(REPLACE(Db, '_', '\\\\_'), '%', '\\\\%') FROM mysql.tables_priv \
         WHERE CONCAT_WS(',', Table_priv, Column_priv) REGEXP 'Insert|Update|Delete(,|$)') w";
    if !whole {
        return Ok(None);
    }
    for source in [SYSTEM, "modshift.writers"] {
        let sql = format!(
            "SELECT DISTINCT IF(Host = '', CONCAT(User, ' (role)'), CONCAT(User, '@', Host)) \
             FROM {source} WHERE ? LIKE pattern ORDER BY 1"
        );
        if let Some(names) = if_allowed(conn.exec(sql, (schema,)).await)? {
            return Ok(Some(names));
        }
    }
    Ok(None)
}

/// Routines that run in their definer's name, triggers, events, and views.
pub(super) async fn bodies(
    conn: &mut Conn,
    schema: &str,
    whole: bool,
) -> mysql_async::Result<Option<Vec<Body>>> {
    const KINDS: [(&str, &str); 4] = [
        (
            "routine",
            "SELECT CAST(name AS CHAR), CAST(definer AS CHAR) FROM mysql.proc \
             WHERE db = ? AND security_type = 'DEFINER'",
        ),
        ("event", "SELECT CAST(name AS CHAR), CAST(definer AS CHAR) FROM mysql.event WHERE db = ?"),
        (
            "trigger",
            "SELECT TRIGGER_NAME, DEFINER FROM information_schema.TRIGGERS \
             WHERE TRIGGER_SCHEMA = ? AND LEFT(TRIGGER_NAME, 14) <> 'modshift_home_'",
        ),
        (
            "view",
            "SELECT TABLE_NAME, DEFINER FROM information_schema.VIEWS \
             WHERE TABLE_SCHEMA = ? AND SECURITY_TYPE = 'DEFINER' \
             AND TABLE_NAME NOT LIKE 'modshift\\_%'",
        ),
    ];
    if !whole {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (kind, sql) in KINDS {
        let rows: mysql_async::Result<Vec<(String, String)>> = conn.exec(sql, (schema,)).await;
        let Some(rows) = if_allowed(rows)? else { return Ok(None) };
        let body = |(name, definer)| Body { kind, name, definer };
        found.extend(rows.into_iter().map(body));
    }
    Ok(Some(found))
}

pub(super) async fn events(
    conn: &mut Conn,
    schema: &str,
    whole: bool,
) -> mysql_async::Result<Option<Vec<EventInfo>>> {
    const SQL: &str = "SELECT CAST(name AS CHAR), CAST(status AS CHAR) FROM mysql.event \
                       WHERE db = ? ORDER BY 1";
    if !whole {
        return Ok(None);
    }
    let rows: mysql_async::Result<Vec<(String, String)>> = conn.exec(SQL, (schema,)).await;
    let event = |(name, status)| EventInfo { name, status };
    Ok(if_allowed(rows)?.map(|rows| rows.into_iter().map(event).collect()))
}

/// An administrator, and one that replicas log in by, for tests of rules.
#[cfg(test)]
pub fn administrator(user: &str, host: &str) -> Account {
    Account { access: GRANT_OPTION | SUPER | INSERT_UPDATE_DELETE, ..plain_account(user, host) }
}

#[cfg(test)]
pub fn replication_account(user: &str, host: &str) -> Account {
    Account { access: REPLICATION_SLAVE | INSERT_UPDATE_DELETE, ..plain_account(user, host) }
}

/// One with READ_ONLY ADMIN, for tests of rules.
#[cfg(test)]
pub fn privileged_account(user: &str) -> Account {
    Account { access: READ_ONLY_ADMIN, ..plain_account(user, "%") }
}

/// One without global privileges.
#[cfg(test)]
pub fn plain_account(user: &str, host: &str) -> Account {
    Account { user: user.to_owned(), host: host.to_owned(), access: 0, locked: false }
}
