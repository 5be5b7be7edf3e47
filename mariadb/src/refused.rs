//! Logins that servers refuse to this process at present: a password that was changed, an account that
//! was locked. Each stream tries again by itself; what an operator sees of it is here, for the whole
//! process, whoever of it tried.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use modshift_proto::plan::Endpoint;

use crate::connect::label;
use crate::desk::server_of;
use crate::error::ServerError;

/// Whoever needs the login tries again after seconds. One that nobody tries is nobody's trouble.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `host:port`
    pub at: String,
    pub user: String,
    /// How long it has been refused without a login that was let in.
    pub since: Duration,
    /// In the server's words.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { at, user, since, message } = self;
        write!(f, "{at} refuses the login of user {user} since {} s: {message}", since.as_secs())
    }
}

#[derive(Default)]
struct Ledger(BTreeMap<(String, String), Seen>);

struct Seen {
    first: Instant,
    last: Instant,
    message: String,
}

static LEDGER: Mutex<Ledger> = Mutex::new(Ledger(BTreeMap::new()));

fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps what came of an attempt to log in.
pub(crate) fn note<T>(endpoint: &Endpoint, outcome: &Result<T, ServerError>) {
    let key = (label(&server_of(endpoint)), endpoint.user.clone());
    match outcome {
        Ok(_) => ledger().let_in(&key),
        Err(ServerError::Login { message, .. }) => ledger().refused(key, message, Instant::now()),
        // Says nothing of the login.
        Err(_) => {}
    }
}

/// Those that are refused now, by server.
pub fn refused() -> Vec<Refusal> {
    ledger().at(Instant::now())
}

impl Ledger {
    fn let_in(&mut self, key: &(String, String)) {
        self.0.remove(key);
    }

    fn refused(&mut self, key: (String, String), message: &str, now: Instant) {
        let seen =
            self.0.entry(key).or_insert(Seen { first: now, last: now, message: String::new() });
        if now.duration_since(seen.last) > FORGOTTEN_AFTER {
            seen.first = now;
        }
        seen.last = now;
        seen.message = message.to_owned();
    }

    fn at(&mut self, now: Instant) -> Vec<Refusal> {
        self.0.retain(|_, seen| now.duration_since(seen.last) <= FORGOTTEN_AFTER);
        let refusal = |((at, user), seen): (&(String, String), &Seen)| Refusal {
            at: at.clone(),
            user: user.clone(),
            since: now.duration_since(seen.first),
            message: seen.message.clone(),
        };
        self.0.iter().map(refusal).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_refused_until_it_is_let_in_or_nobody_tries_it() {
        let key = |user: &str| ("db:3306".to_owned(), user.to_owned());
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut ledger = Ledger::default();
        ledger.refused(key("a"), "denied", at(0));
        ledger.refused(key("a"), "denied still", at(30));
        ledger.refused(key("b"), "locked", at(31));
        let shown: Vec<String> = ledger.at(at(40)).iter().map(Refusal::to_string).collect();
        assert_eq!(
            shown,
            [
                "db:3306 refuses the login of user a since 40 s: denied still",
                "db:3306 refuses the login of user b since 9 s: locked",
            ]
        );
        ledger.let_in(&key("b"));
        assert_eq!(ledger.at(at(41)).len(), 1);
        assert!(ledger.at(at(91)).is_empty());
    }
}
