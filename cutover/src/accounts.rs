//! The application's accounts on a server: locked, their sessions ended and seen gone.
//!
//! **A session is the application's if its user name is.** The process list tells no more that can be
//! relied on: its host is the name to which the client's address resolves (`localhost:1234` for
//! `app@'127.0.0.%'`, where name resolution is on, which is the default), `localhost` for a unix
//! socket, and there is no column for the account. So sessions of two accounts of one user name
//! cannot be told apart, and three things follow, which are made sure of before anything is touched:
//! modshift's own logins have other user names (the plan is refused otherwise), two sides that share a
//! server have accounts of different user names, and every account of such a user name is locked or
//! named in the plan (see [`doors`]): a client that one account refuses would be let in by another.

use std::time::{Duration, Instant};

use modshift_proto::plan::Account;

use crate::error::CutoverError;
use crate::register::quote;
use crate::server::Server;

const POLL: Duration = Duration::from_millis(3);
/// How often, and with what pause, a connection is looked at that should not be there.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A condition on the process list: sessions that may be the application's. User names differ by
/// case, and the list's own collation does not.
pub(crate) fn sessions(accounts: &[Account]) -> String {
    if accounts.is_empty() {
        return "FALSE".to_owned();
    }
    format!("(BINARY USER IN ({}) AND ID <> CONNECTION_ID())", users(accounts))
}

/// Each user name once, quoted.
fn users(accounts: &[Account]) -> String {
    let mut users: Vec<&str> = accounts.iter().map(|account| account.user.as_str()).collect();
    users.sort_unstable();
    users.dedup();
    users.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// A user name of both: their sessions on one server could not be told apart.
pub fn shared_user<'a>(some: &'a [Account], others: &[Account]) -> Option<&'a str> {
    let of_others = |account: &&Account| others.iter().any(|other| other.user == account.user);
    some.iter().find(of_others).map(|account| account.user.as_str())
}

/// Refuses a server on which a client of the application could log in by an account that the plan
/// does not name: by one of the same user name for other hosts, and, where locked accounts are the
/// whole fence, by an anonymous one, which takes every user name, or by one
/// that may act in the place of a named one (GRANT PROXY).
pub(crate) async fn doors(
    server: &mut Server,
    accounts: &[Account],
    accounts_only: bool,
) -> Result<(), CutoverError> {
    if accounts.is_empty() {
        return Ok(());
    }
    let anonymous = if accounts_only { " OR User = ''" } else { "" };
    // A role has no host.
    let sql = format!(
        "SELECT User, Host FROM mysql.global_priv WHERE Host <> '' AND (User IN ({}){anonymous})
         AND COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') NOT IN ('1', 'true')
         ORDER BY User, Host",
        users(accounts)
    );
    let doing = "looking at the application's accounts";
    let mut found: Vec<(String, String)> = server.ask(doing, &sql).await?;
    if accounts_only {
        // Logs in under its own user name, and acts with the rights of the other account.
        let sql = format!(
            "SELECT User, Host FROM mysql.proxies_priv WHERE Proxied_user IN ({}) AND User <> ''
             ORDER BY User, Host",
            users(accounts)
        );
        found.extend(server.ask::<(String, String)>(doing, &sql).await?);
    }
    let named = |user: &str, host: &str| {
        accounts.iter().any(|a| a.user == user && a.host.eq_ignore_ascii_case(host))
    };
    let open: Vec<String> = found
        .iter()
        .filter(|(user, host)| !named(user, host))
        .map(|(user, host)| format!("{}@{}", quote(user), quote(host)))
        .collect();
    match open.is_empty() {
        true => Ok(()),
        false => Err(CutoverError::Door { server: server.name.clone(), accounts: open.join(", ") }),
    }
}

/// As in `ALTER USER`.
pub(crate) fn account_sql(account: &Account) -> String {
    format!("{}@{}", quote(&account.user), quote(&account.host))
}

pub(crate) async fn is_locked(
    server: &mut Server,
    account: &Account,
) -> Result<bool, CutoverError> {
    let sql = format!(
        "SELECT COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') IN ('1', 'true')
         FROM mysql.global_priv WHERE User = {} AND Host = {}",
        quote(&account.user),
        quote(&account.host)
    );
    let rows: Vec<bool> = server.ask("looking at the application's accounts", &sql).await?;
    rows.into_iter().next().ok_or_else(|| CutoverError::NoAccount {
        server: server.name.clone(),
        account: account.to_string(),
    })
}

pub(crate) async fn lock(server: &mut Server, accounts: &[Account]) -> Result<(), CutoverError> {
    for account in accounts {
        if !is_locked(server, account).await? {
            let sql = format!("ALTER USER {} ACCOUNT LOCK", account_sql(account));
            server.run("locking the application's accounts", &sql).await?;
        }
    }
    Ok(())
}

/// Ends the sessions and looks until none is left: what a killed one rolls back may take its time.
/// The server writes the user name into its list before it asks whether the account is locked, so a
/// login that was under way when the accounts were locked is in the list. `patience`: where no budget
/// sets a limit.
pub(crate) async fn expel(
    server: &mut Server,
    accounts: &[Account],
    patience: Option<Duration>,
) -> Result<(), CutoverError> {
    if accounts.is_empty() {
        return Ok(());
    }
    let doing = "ending the application's connections";
    let sql = format!(
        "SELECT ID, USER, HOST, COMMAND FROM information_schema.PROCESSLIST WHERE {}",
        sessions(accounts)
    );
    let begun = Instant::now();
    loop {
        let found: Vec<(u64, String, String, String)> = server.ask(doing, &sql).await?;
        for (id, ..) in &found {
            const NO_SUCH_THREAD: u16 = 1094;
            match server.run(doing, &format!("KILL HARD CONNECTION {id}")).await {
                Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_THREAD) => {}
                outcome => drop(outcome?),
            }
        }
        let Some((id, user, host, command)) = found.first() else { return Ok(()) };
        if server.is_dry() {
            return Ok(());
        }
        if patience.is_some_and(|patience| begun.elapsed() >= patience) {
            return Err(CutoverError::Stays {
                server: server.name.clone(),
                session: format!("{user} from {host} (id {id}, {command})"),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Is there a session that stays? A login that the locked account refuses is in the list for a
/// moment, too: as Connect, and then for another one as it ends.
pub(crate) async fn stays(server: &mut Server, condition: &str) -> Result<bool, CutoverError> {
    let sql = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE {condition}");
    let mut seen: Option<Vec<u64>> = None;
    for _ in 0..LOOKS {
        let now: Vec<u64> = match server.ask("checking the fence", &sql).await {
            Err(CutoverError::Server(error)) if error.is_connection_lost() => return Ok(true),
            rows => rows?,
        };
        let of_before = |id: &u64| seen.as_ref().is_none_or(|seen| seen.contains(id));
        let still: Vec<u64> = now.into_iter().filter(of_before).collect();
        if still.is_empty() {
            return Ok(false);
        }
        seen = Some(still);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(user: &str, host: &str) -> Account {
        Account { user: user.to_owned(), host: host.to_owned() }
    }

    #[test]
    fn a_session_is_known_by_its_user_name_alone() {
        let accounts = [account("b'", "%"), account("a", "10.%"), account("a", "h")];
        assert_eq!(sessions(&accounts), "(BINARY USER IN ('a', 'b''') AND ID <> CONNECTION_ID())");
        assert_eq!(sessions(&[]), "FALSE");
    }

    #[test]
    fn hosts_do_not_tell_two_sides_apart() {
        let (old, new) = ([account("app", "10.0.%")], [account("app", "10.1.%")]);
        assert_eq!(shared_user(&old, &new), Some("app"));
        assert_eq!(shared_user(&old, &[account("App", "10.0.%")]), None);
        assert_eq!(shared_user(&old, &[]), None);
    }
}
