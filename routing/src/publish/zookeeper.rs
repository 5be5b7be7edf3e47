//! The ZooKeeper that ShardingSphere's cluster mode follows: each storage unit, algorithm and table's
//! rule is a node with numbered versions below it, and one more that says which of them is active. An
//! application takes each up as it is told of it.
//!
//! Three of its ways decide what is written. A table's rule is taken up by itself, with its data nodes
//! and the name of its algorithm: so the algorithms of each side have names of their own and come
//! before it, and one rule at a time goes over as a whole. To take up anything it opens a connection to
//! every unit that it knows: so the units of both sides are there from the first version on, the switch
//! is the rules alone, and the account of the units is none that a fence locks. And it writes a
//! broadcast table to every unit, so plans with such tables are refused. What is not used any more
//! stays: ShardingSphere hears of what goes before it hears of what came.
//!
//! Beside ShardingSphere's nodes one of ours holds the document, and whether all of it is written. It
//! is claimed first, every write is made only while that claim stands, and it says in the end that all
//! is there: of two publishers the later one wins, and one that ended half way is gone on from.

use std::thread::sleep;
use std::time::{Duration, Instant};

use modshift_proto::plan::ZooKeeperTarget;
use serde::{Deserialize, Serialize};

use super::error::Failure;
use super::sphere_nodes::{Found, Wanted, is_of_unit};
use super::{Ack, judge};
use crate::document::Document;
use crate::zookeeper::{Change, Kind, Session, ZooKeeperError};

/// Far below what a server takes at once (`jute.maxbuffer`, 1 MiB).
const BATCH_BYTES: usize = 400 << 10;
/// Between the units of one publication: ShardingSphere 5.4.1 now and then loses one of several that it
/// hears of at once.
const UNIT_PAUSE: Duration = Duration::from_millis(100);
/// After a change by somebody else, or a server that went away.
const AGAIN: Duration = Duration::from_millis(20);

/// What our own node says.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// Whether ShardingSphere's nodes say all that the document does.
    written: bool,
    document: Document,
}

pub async fn publish(
    target: &ZooKeeperTarget,
    timeout: Duration,
    document: &Document,
) -> Result<Ack, Failure> {
    let wanted = Wanted::of(target, target.units.password.expose(), document)?;
    let (target, document) = (target.clone(), document.clone());
    let deadline = Instant::now() + timeout;
    tokio::task::spawn_blocking(move || put(&target, &wanted, &document, timeout, deadline))
        .await
        .unwrap_or_else(|error| Err(Failure::Unanswered { detail: error.to_string() }))
}

pub fn preview(target: &ZooKeeperTarget, document: &Document) -> Result<String, Failure> {
    let wanted = Wanted::of(target, super::shardingsphere::HIDDEN, document)?;
    Ok(format!("write in ZooKeeper:\n{wanted}"))
}

/// One attempt after the other, until one comes to its end or the time is over.
fn put(
    target: &ZooKeeperTarget,
    wanted: &Wanted,
    document: &Document,
    timeout: Duration,
    deadline: Instant,
) -> Result<Ack, Failure> {
    let digest = target.digest.as_ref().map(|digest| digest.expose());
    let mut publication = Publication { target, wanted, document, deadline, began: false };
    let mut last: Option<ZooKeeperError> = None;
    loop {
        if let Some(error) = last.take() {
            if Instant::now() + AGAIN >= deadline {
                return Err(publication.failure(error, Some(timeout)));
            }
            sleep(AGAIN);
        }
        let opened = Session::open(&target.servers, digest, deadline);
        let mut session = match opened {
            Ok(session) => session,
            Err(error) if error.kind == Kind::Refused => {
                return Err(publication.failure(error, None));
            }
            // Every server was tried; amid an election none of them takes a session, for a moment.
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        match publication.attempt(&mut session) {
            Ok(ack) => {
                session.close();
                return Ok(ack);
            }
            Err(Stop::Failed(failure)) => {
                session.close();
                return Err(failure);
            }
            Err(Stop::Server(error)) if error.kind == Kind::Refused => {
                session.close();
                return Err(publication.failure(error, None));
            }
            Err(Stop::Server(error)) => last = Some(error),
        }
    }
}

struct Publication<'a> {
    target: &'a ZooKeeperTarget,
    wanted: &'a Wanted,
    document: &'a Document,
    deadline: Instant,
    /// Whether something of it may have been written.
    began: bool,
}

enum Stop {
    Server(ZooKeeperError),
    Failed(Failure),
}

impl From<ZooKeeperError> for Stop {
    fn from(error: ZooKeeperError) -> Stop {
        Stop::Server(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl Publication<'_> {
    fn own(&self) -> String {
        format!("/{}/modshift/{}", self.target.namespace, self.target.database)
    }

    fn attempt(&mut self, session: &mut Session) -> Result<Ack, Stop> {
        let own = self.own();
        // This server may be behind the one that took the last publication.
        session.sync("/")?;
        let held = session.get(&own)?;
        let state = held.as_ref().map(|node| read_state(&own, &node.data)).transpose()?;
        let judged = judge(state.as_ref().map(|state| &state.document), self.document);
        // The rules of an earlier plan are what the next one goes on from, so it cannot have a centre of
        // its own.
        let judged = judged.map_err(|failure| match failure {
            Failure::OtherPlan { found } => Failure::EarlierPlan { place: own.clone(), found },
            other => other,
        });
        let same = judged?.is_some();
        let found = Found::look(session, self.wanted)?;
        found.refuse(self.target, self.wanted, state.is_none())?;
        let changes = found.changes(self.wanted);
        let written = state.as_ref().is_some_and(|state| same && state.written);
        if written && changes.is_empty() {
            return Ok(Ack::Held);
        }
        let claim = held.as_ref().map(|node| node.version);
        // Where it is claimed for this document already, whoever did that may still be at work: both
        // write the same, and neither twice.
        let claim = match (claim, same && !written) {
            (Some(version), true) => version,
            (claim, _) => self.say(session, claim, false)?,
        };
        self.began = true;
        let batches = batches(changes);
        let mut units = batches.iter().filter(|batch| is_of_unit(batch)).count();
        for batch in batches {
            let of_unit = is_of_unit(&batch);
            let check = Change::Check { path: own.clone(), version: claim };
            let writes: Vec<Change> = std::iter::once(check).chain(batch).collect();
            session.write(&writes)?;
            if of_unit {
                sleep(self.pause(units));
                units -= 1;
            }
        }
        self.say(session, Some(claim), true)?;
        Ok(Ack::Stored)
    }

    /// Of many units all together take no more than half of the time that is left.
    fn pause(&self, units: usize) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        UNIT_PAUSE.min(left / 2 / u32::try_from(units.max(1)).unwrap_or(u32::MAX))
    }

    /// Writes our own node in the place of the one of this version; the version that it has now.
    fn say(
        &mut self,
        session: &mut Session,
        held: Option<i32>,
        written: bool,
    ) -> Result<i32, ZooKeeperError> {
        let path = self.own();
        let state = State { written, document: self.document.clone() };
        // Strings, numbers and maps with string keys always serialise.
        let data = serde_json::to_vec_pretty(&state).unwrap_or_default();
        let mut writes = Vec::new();
        let version = match held {
            Some(version) => {
                writes.push(Change::Set { path, data, version });
                version + 1
            }
            None => {
                let folder = format!("/{}/modshift", self.target.namespace);
                if session.get(&folder)?.is_none() {
                    writes.push(Change::Create { path: folder, data: Vec::new() });
                }
                writes.push(Change::Create { path, data });
                0
            }
        };
        let wrote = session.write(&writes);
        // Without an answer it may be there, and an application may be told of the rest by whoever
        // goes on from it.
        self.began |= wrote.as_ref().err().is_none_or(|error| error.sent);
        wrote.map(|()| version)
    }

    fn failure(&self, error: ZooKeeperError, timeout: Option<Duration>) -> Failure {
        let ZooKeeperError { kind, detail, .. } = error;
        match (self.began, kind) {
            (true, Kind::Refused) => Failure::Refused { detail },
            (true, _) => Failure::Unanswered { detail },
            (false, Kind::Changed) => Failure::Timeout { after: timeout.unwrap_or_default() },
            (false, Kind::Connection | Kind::Refused) => {
                let doing = format!("publishing to {} in ZooKeeper", self.own());
                Failure::Unreachable { doing, detail }
            }
        }
    }
}

fn read_state(path: &str, data: &[u8]) -> Result<State, Failure> {
    let foreign = |detail: String| Failure::Foreign { place: path.to_owned(), detail };
    let state: State = serde_json::from_slice(data).map_err(|error| foreign(error.to_string()))?;
    // As every reader of one does: the format, and whether it contradicts itself.
    let text = state.document.to_json();
    let document = Document::from_json(text.as_bytes()).map_err(|e| foreign(e.to_string()))?;
    Ok(State { document, ..state })
}

/// In their order, each small enough for one request, and each unit by itself.
fn batches(changes: Vec<Vec<Change>>) -> Vec<Vec<Change>> {
    let mut batches: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    // What belongs together (the versions of one node and which is active) is never torn apart.
    for together in changes {
        let size: usize = together.iter().map(Change::bytes).sum();
        let alone = is_of_unit(&together);
        match batches.last_mut() {
            Some(batch) if !alone && !is_of_unit(batch) && bytes + size <= BATCH_BYTES => {
                batch.extend(together);
            }
            _ => {
                bytes = 0;
                batches.push(together);
            }
        }
        bytes += size;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_the_order_and_what_belongs_together() {
        let change = |name: &str, size: usize| {
            vec![
                Change::Create { path: format!("/{name}"), data: vec![0; size] },
                Change::Delete { path: format!("/{name}") },
            ]
        };
        let all =
            [("a", 200 << 10), ("b", 150 << 10), ("c", 100 << 10), ("d", 500 << 10), ("e", 1)];
        let batches = batches(all.iter().map(|&(name, size)| change(name, size)).collect());
        let names: Vec<Vec<&str>> =
            batches.iter().map(|batch| batch.iter().map(Change::path).collect()).collect();
        let expected: [&[&str]; 4] =
            [&["/a", "/a", "/b", "/b"], &["/c", "/c"], &["/d", "/d"], &["/e", "/e"]];
        assert_eq!(names, expected);
        assert!(self::batches(Vec::new()).is_empty());
        let units = "gov/metadata/shop/data_sources/units";
        let (first, second) = (format!("{units}/a_0"), format!("{units}/a_1"));
        let all = [units, first.as_str(), second.as_str(), "rule", "another"];
        let batches = self::batches(all.map(|name| change(name, 1)).into());
        let sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 2, 4], "{batches:?}");
    }

    #[test]
    fn what_is_no_state_of_ours_is_foreign() {
        for text in ["", "{}", r#"{"written": true, "document": {"format": 9}}"#] {
            let foreign = read_state("/gov/modshift/shop", text.as_bytes()).err();
            assert!(matches!(foreign, Some(Failure::Foreign { .. })), "{text}: {foreign:?}");
        }
    }
}
