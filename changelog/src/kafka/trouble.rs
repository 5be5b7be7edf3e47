//! What Kafka's clients have had to say of the brokers lately, for the whole process. Such a client
//! goes on trying by itself and gives no error to anybody: without this the streams would just be late.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// librdkafka repeats itself after 30 s. What it says no more is nobody's trouble.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Away,
    Login,
    Rights,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    kind: Kind,
    /// `writer`, `reader` …
    client: &'static str,
    /// Without a message that got through.
    pub since: Duration,
    message: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trouble { kind, client, since, message } = self;
        let since = since.as_secs();
        match kind {
            Kind::Away => write!(f, "kafka is away for a {client} since {since} s: {message}"),
            Kind::Login => {
                write!(f, "login refused by kafka for a {client} since {since} s: {message}")
            }
            Kind::Rights => {
                write!(f, "kafka does not let a {client} have its way since {since} s: {message}")
            }
        }
    }
}

#[derive(Default)]
struct Ledger(BTreeMap<(&'static str, Kind), Seen>);

struct Seen {
    first: Instant,
    last: Instant,
    message: String,
}

static LEDGER: Mutex<Ledger> = Mutex::new(Ledger(BTreeMap::new()));
/// Something stands in it: messages are many, and troubles are few.
static ANY: AtomicBool = AtomicBool::new(false);

fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn note(client: &'static str, kind: Kind, message: String) {
    ledger().note(client, kind, message, Instant::now());
    ANY.store(true, Ordering::Release);
}

/// A message of such a client got through.
#[inline]
pub(super) fn well(client: &'static str) {
    if ANY.load(Ordering::Relaxed) {
        let mut ledger = ledger();
        ledger.well(client);
        ANY.store(!ledger.0.is_empty(), Ordering::Release);
    }
}

/// Those that last.
pub fn troubles() -> Vec<Trouble> {
    ledger().at(Instant::now())
}

impl Ledger {
    fn note(&mut self, client: &'static str, kind: Kind, message: String, now: Instant) {
        let seen = self.0.entry((client, kind)).or_insert(Seen {
            first: now,
            last: now,
            message: String::new(),
        });
        if now.duration_since(seen.last) > FORGOTTEN_AFTER {
            seen.first = now;
        }
        seen.last = now;
        seen.message = message;
    }

    fn well(&mut self, client: &'static str) {
        self.0.retain(|(other, _), _| *other != client);
    }

    fn at(&mut self, now: Instant) -> Vec<Trouble> {
        self.0.retain(|_, seen| now.duration_since(seen.last) <= FORGOTTEN_AFTER);
        let of = |(&(client, kind), seen): (&(&'static str, Kind), &Seen)| Trouble {
            kind,
            client,
            since: now.duration_since(seen.first),
            message: seen.message.clone(),
        };
        self.0.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_stands_until_a_message_gets_through_or_nobody_says_it_any_more() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut ledger = Ledger::default();
        ledger.note("writer", Kind::Away, "refused".to_owned(), at(0));
        ledger.note("writer", Kind::Away, "refused again".to_owned(), at(30));
        ledger.note("reader", Kind::Login, "no".to_owned(), at(31));
        let shown: Vec<String> = ledger.at(at(40)).iter().map(Trouble::to_string).collect();
        assert_eq!(
            shown,
            [
                "login refused by kafka for a reader since 9 s: no",
                "kafka is away for a writer since 40 s: refused again",
            ]
        );
        ledger.well("writer");
        assert_eq!(ledger.at(at(41)).len(), 1);
        assert!(ledger.at(at(92)).is_empty());
    }
}
