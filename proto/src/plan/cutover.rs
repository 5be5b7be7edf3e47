//! `[cutover]`: whom the fence keeps out, with which login, and how long a pause may last.

use std::time::Duration;

use super::section::{Item, Section};
use super::{Secret, default};

#[derive(Clone, Debug, PartialEq)]
pub struct Cutover {
    /// The application's accounts on the old shards' servers, locked by the fence.
    pub old_accounts: Vec<Account>,
    pub new_accounts: Vec<Account>,
    /// What modshift logs in as to fence and open; `None`: as the shard's own account.
    pub login: Option<(String, Secret)>,
    /// The longest that the application may be made to wait before everything is undone.
    pub budget: Duration,
    /// The daemons end a run whose operator is gone once the budget is over.
    pub watchdog: bool,
    /// Sets `auto_increment_increment` and `auto_increment_offset` of the new shards, so that no
    /// two of them give out the same key.
    pub auto_increment: AutoIncrement,
    /// A rehearsal beside real shards has another than its plan.
    pub scope: FenceScope,
}

/// What the fence may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceScope {
    /// The servers: `read_only`, events, replication into them; and the accounts.
    Server,
    /// The accounts alone: the servers are those of others too.
    Accounts,
}

/// `user@host`, as in `CREATE USER`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    pub user: String,
    pub host: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoIncrement {
    /// New shard j gives out j + 1, j + 1 + M, …
    Interleave,
    /// The servers' settings are left as they are.
    Keep,
}

pub(super) const FENCE_WORDS: [(&str, FenceScope); 2] =
    [("server", FenceScope::Server), ("accounts", FenceScope::Accounts)];
pub(super) const AUTO_INCREMENT_WORDS: [(&str, AutoIncrement); 2] =
    [("interleave", AutoIncrement::Interleave), ("keep", AutoIncrement::Keep)];

impl std::fmt::Display for Account {
    /// As in the plan.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.user, self.host)
    }
}

/// `own`: the users that modshift logs in as on the shards.
pub(super) fn read(root: &Section<'_>, own: &[&str]) -> Cutover {
    let section = root.section("cutover");
    let accounts = |key: &'static str| {
        let items = section.get(key).map(|item| item.elements());
        items.map(|items| items.iter().filter_map(account).collect::<Vec<_>>())
    };
    let both = accounts("accounts").unwrap_or_default();
    let old_accounts = accounts("old_accounts").unwrap_or_else(|| both.clone());
    let new_accounts = accounts("new_accounts").unwrap_or(both);
    let user = section.get("user").and_then(|item| item.text_that("an account", |u| !u.is_empty()));
    let named = old_accounts.iter().chain(&new_accounts);
    // The fence ends sessions by user name: no server tells which account a session is of.
    let ours = |account: &&Account| {
        own.contains(&account.user.as_str()) || user.as_deref() == Some(account.user.as_str())
    };
    if let Some(account) = named.into_iter().find(ours) {
        section.fault(format!(
            "{account} has the user name that modshift itself logs in with: the fence ends every \
             session of that name; give modshift a user of its own"
        ));
    }
    let password = section.get("password");
    if user.is_some() != password.is_some() && section.has("user") != section.has("password") {
        section.fault("expected both user and password, or neither");
    }
    let password = password.map(|item| Secret::new(item.secret().unwrap_or_default()));
    let scope = section.get("fence").and_then(|item| item.word(&FENCE_WORDS));
    let scope = scope.unwrap_or(default::FENCE);
    if scope == FenceScope::Accounts && (old_accounts.is_empty() || new_accounts.is_empty()) {
        section.fault_at("fence", "expected accounts of both sides: they are all that it locks");
    }
    let range = Duration::from_millis(50)..=Duration::from_secs(60 * 60);
    let cutover = Cutover {
        old_accounts,
        new_accounts,
        login: user.zip(password),
        budget: section.duration("budget", default::PAUSE_BUDGET, range),
        watchdog: section.get("watchdog").and_then(|item| item.flag()).unwrap_or(default::WATCHDOG),
        auto_increment: section
            .get("auto_increment")
            .and_then(|item| item.word(&AUTO_INCREMENT_WORDS))
            .unwrap_or(default::AUTO_INCREMENT),
        scope,
    };
    section.finish();
    cutover
}

/// The host begins after the last @, as it may not hold one.
fn account(item: &Item<'_>) -> Option<Account> {
    let expected = "an account such as \"app@%\"";
    let text = item.text_that(expected, |text| {
        text.rsplit_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
    })?;
    let (user, host) = text.rsplit_once('@')?;
    Some(Account { user: user.to_owned(), host: host.to_owned() })
}
