//! Servers that are to be promoted, each beside the primary that it replicates from.
//!
//! The replica is asked first: what it has by then the primary has too when it is asked, unless the
//! replica wrote it by itself.

use std::collections::{BTreeMap, BTreeSet};

use modshift_cutover::shard;
use modshift_mariadb::Grants;
use modshift_mariadb::connect::{Session, connect};
use modshift_mariadb::value::quote;
use modshift_proto::plan::{Account, Endpoint, HostPort, Plan};
use modshift_proto::{Gtid, NewShard, OldShard};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::ask::{GRANTS, REPLICAS, SOURCES, VARIABLES, failed, if_allowed};
use super::further::{Source, sources};
use super::{Unreached, Variables};

const ACCOUNTS: &str = "reading the application's accounts";

pub struct Pair {
    pub shard: NewShard,
    pub home: OldShard,
    /// The server to promote.
    pub at: HostPort,
    /// What modshift logs in as, there and on the primary.
    pub user: String,
    pub facts: Result<Both, Unreached>,
}

pub struct Both {
    pub replica: End,
    pub primary: End,
    /// What the replica replicates from; `None` where the account may not see it.
    pub sources: Option<Vec<Source>>,
    /// What replicates from the replica; `None` where the account may not see it.
    pub followers: Option<Vec<Follower>>,
}

pub struct End {
    pub variables: Variables,
    pub grants: Grants,
    /// Of the application, as the plan calls them.
    pub accounts: BTreeMap<String, Rights>,
}

/// What an account is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Ours may not look.
    Hidden,
    Absent,
    Known {
        /// As `SHOW CREATE USER` prints it: never shown, it has the hash of a password.
        created: String,
        /// As `SHOW GRANTS` prints them, with those of its roles, without passwords.
        granted: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    pub server_id: u32,
    /// As it says itself (`report_host`), which may be nothing.
    pub host: String,
    pub port: u16,
}

impl Pair {
    /// As findings call it: the new shard it will be, and where that is now.
    pub fn name(&self) -> String {
        format!("{} ({}, replica of {})", self.shard, self.at, self.home)
    }

    /// It goes on by itself: nothing comes from a primary any more, and it has written what that one
    /// lacks. It was promoted already, by whoever it was, and its rows may be on no other server: open
    /// for writes or not, nothing is to be built anew there. One that was only never joined, or is
    /// stopped, has no transaction of its own.
    pub fn is_split(&self) -> bool {
        let Ok(both) = &self.facts else { return false };
        let alone = both.sources.as_ref().is_some_and(|all| !all.iter().any(Source::is_started));
        let id = both.replica.server_id();
        alone && both.errant().iter().any(|gtid| gtid.server == id)
    }
}

impl Both {
    /// What the replica has in its binlog, and the primary, asked after it, has not.
    pub fn errant(&self) -> Vec<Gtid> {
        let own = self.replica.variables.gtids("gtid_binlog_state");
        own.into_iter().filter(|gtid| !self.primary.has(gtid)).collect()
    }
}

impl End {
    pub fn server_id(&self) -> u32 {
        self.variables.text("server_id").parse().unwrap_or_default()
    }

    /// Was it written or applied here, as far as the server remembers?
    pub fn has(&self, gtid: &Gtid) -> bool {
        ["gtid_binlog_state", "gtid_slave_pos", "gtid_current_pos"].into_iter().any(|name| {
            let known = self.variables.gtids(name);
            let same = |k: &Gtid| (k.domain, k.server) == (gtid.domain, gtid.server);
            known.iter().any(|k| same(k) && k.seq >= gtid.seq)
        })
    }
}

pub async fn ask(plan: &Plan, shard: NewShard, home: OldShard) -> Pair {
    let replica = &plan.new[usize::from(shard.0)];
    let primary = &plan.old[usize::from(home.0)];
    Pair {
        shard,
        home,
        at: HostPort { host: replica.host.clone(), port: replica.port },
        user: replica.user.clone(),
        facts: both(plan, replica, primary).await,
    }
}

async fn both(plan: &Plan, replica: &Endpoint, primary: &Endpoint) -> Result<Both, Unreached> {
    let of = |doing| failed(replica, doing);
    let mut conn = connect(replica, Session::Plain).await?;
    let sources = sources(&mut conn).await.map_err(of(SOURCES))?;
    let rows: Option<Vec<Row>> =
        if_allowed(conn.query("SHOW SLAVE HOSTS").await).map_err(of(REPLICAS))?;
    let registered: Option<Vec<Follower>> = rows.map(|rows| rows.iter().map(follower).collect());
    let end_of_replica = end(plan, replica, &mut conn).await?;
    let followers = match registered {
        None if end_of_replica.grants.has_global("PROCESS") => {
            let sql = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
                       WHERE COMMAND LIKE 'Binlog Dump%'";
            let sent: Option<u64> = conn.query_first(sql).await.map_err(of(REPLICAS))?;
            // Who they are it does not say.
            (sent == Some(0)).then(Vec::new)
        }
        registered => registered,
    };
    let replica = end_of_replica;
    let mut conn = connect(primary, Session::Plain).await?;
    let primary = end(plan, primary, &mut conn).await?;
    Ok(Both { replica, primary, sources, followers })
}

fn follower(row: &Row) -> Follower {
    let text = |column: &str| -> String {
        row.get_opt::<String, _>(column).and_then(Result::ok).unwrap_or_default()
    };
    Follower {
        server_id: text("Server_id").parse().unwrap_or_default(),
        host: text("Host"),
        port: text("Port").parse().unwrap_or_default(),
    }
}

async fn end(plan: &Plan, endpoint: &Endpoint, conn: &mut Conn) -> Result<End, Unreached> {
    let of = |doing| failed(endpoint, doing);
    let variables: Vec<(String, String)> =
        conn.query("SHOW GLOBAL VARIABLES").await.map_err(of(VARIABLES))?;
    let grants: Vec<String> = conn.query("SHOW GRANTS").await.map_err(of(GRANTS))?;
    let cutover = &plan.cutover;
    let mut accounts = BTreeMap::new();
    let mut looking = match cutover.login {
        // That login is the one that is to find and lock them.
        Some(_) => connect(&shard::login(plan, endpoint.clone()), Session::Plain).await.ok(),
        None => None,
    };
    let looking = looking.as_mut().unwrap_or(conn);
    let named: BTreeSet<&Account> =
        cutover.old_accounts.iter().chain(&cutover.new_accounts).collect();
    for account in named {
        let rights = rights(looking, &account.user, &account.host).await;
        accounts.insert(account.to_string(), rights.map_err(of(ACCOUNTS))?);
    }
    Ok(End {
        variables: variables.into_iter().collect(),
        grants: Grants::parse(grants.iter().map(String::as_str)),
        accounts,
    })
}

async fn rights(conn: &mut Conn, user: &str, host: &str) -> mysql_async::Result<Rights> {
    let account = format!("{}@{}", quote(user), quote(host));
    let Some(created) = asked(conn, &format!("SHOW CREATE USER {account}")).await? else {
        return Ok(Rights::Hidden);
    };
    let Some(created) = created.into_iter().next() else { return Ok(Rights::Absent) };
    let (mut waiting, mut seen) = (vec![account], Vec::new());
    let mut granted = Vec::new();
    while let Some(of) = waiting.pop() {
        let Some(lines) = asked(conn, &format!("SHOW GRANTS FOR {of}")).await? else {
            return Ok(Rights::Hidden);
        };
        seen.push(of);
        for line in lines {
            let role = role_in(&line).filter(|role| !seen.contains(role));
            waiting.extend(role.filter(|role| !waiting.contains(role)));
            granted.push(without_password(&line));
        }
    }
    granted.sort();
    Ok(Rights::Known { created, granted })
}

/// `None`: ours may not look. Empty: there is no such account.
async fn asked(conn: &mut Conn, sql: &str) -> mysql_async::Result<Option<Vec<String>>> {
    const NO_SUCH: [u16; 3] = [1133, 1141, 1396];
    match conn.query(sql).await {
        Err(mysql_async::Error::Server(error)) if NO_SUCH.contains(&error.code) => {
            Ok(Some(Vec::new()))
        }
        answer => if_allowed(answer),
    }
}

/// The role that a line of `SHOW GRANTS` grants, as a statement names it.
fn role_in(line: &str) -> Option<String> {
    let (role, _) = line.strip_prefix("GRANT ")?.split_once(" TO ")?;
    (role.starts_with('`') && !role.contains(" ON ")).then(|| role.to_owned())
}

/// A password is compared by `SHOW CREATE USER`; what is granted may be shown.
fn without_password(line: &str) -> String {
    let Some((before, after)) = line.split_once(" IDENTIFIED ") else { return line.to_owned() };
    match after.ends_with(" WITH GRANT OPTION") {
        true => format!("{before} WITH GRANT OPTION"),
        false => before.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_told_without_passwords() {
        let line = "GRANT USAGE ON *.* TO `app`@`%` IDENTIFIED BY PASSWORD '*94BD'";
        assert_eq!(without_password(line), "GRANT USAGE ON *.* TO `app`@`%`");
        let more = format!("{line} WITH GRANT OPTION");
        assert_eq!(without_password(&more), "GRANT USAGE ON *.* TO `app`@`%` WITH GRANT OPTION");
        let plain = "GRANT SELECT ON `s`.* TO `app`@`%`";
        assert_eq!(without_password(plain), plain);
    }

    #[test]
    fn a_role_is_told_from_a_right() {
        assert_eq!(role_in("GRANT `readers` TO `app`@`%`").as_deref(), Some("`readers`"));
        assert_eq!(role_in("GRANT SELECT ON `a`.* TO `app`@`%`"), None);
        assert_eq!(role_in("SET DEFAULT ROLE `readers` FOR `app`@`%`"), None);
    }
}
