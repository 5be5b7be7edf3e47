//! The task that writes the tokens of all shards of one server, over one connection.
//!
//! At each beat those that are due are written in one transaction, whose event group carries all of
//! them. What goes wrong with one shard is its own: a later epoch, or an error that no retry mends,
//! ends that shard's writer alone, and one whose row is locked or refused is set *apart*: written by
//! itself and without waiting, until it answers again.

use std::time::{Duration, Instant, SystemTime};

use modshift_mariadb::{Conn, ServerError, Session, applying, connect::label, control, value};
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;
use tokio::sync::mpsc;

use super::beats::until_next;
use super::member::{Member, Request};
use super::statement::{Step, Transaction, Write, transaction};
use super::{within, within_seen};
use crate::backoff::Backoff;
use crate::error::{Class, ReadError, server_error};
use crate::metrics;

/// How long a row of one shard may keep those of the others waiting, once.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// More at once does not pay.
const PACKET_BYTES_MAX: usize = 4 << 20;
/// What is due so soon comes along.
const COMPANY: Duration = Duration::from_millis(2);
const DOING: &str = "writing the token";

pub(super) struct Server {
    endpoint: Endpoint,
    requests: mpsc::Receiver<Request>,
    members: Vec<Member>,
    conn: Option<Kept>,
    /// What the last transaction took: for the throttle, which may be in another process.
    commit_us: u32,
    backoff: Backoff,
    /// The server cannot be reached: not tried before.
    not_before: Option<Instant>,
}

/// A connection, and what the server takes at once over it.
struct Kept {
    conn: Conn,
    packet_bytes_max: usize,
}

/// What came of a transaction.
enum Outcome {
    /// Of each statement what it touched, and the number that it answered with.
    Done(Vec<(u64, u64)>),
    /// The server refused this statement; nothing is in.
    Refused(usize, mysql_async::Error),
}

impl Server {
    pub(super) fn new(primary: &Endpoint, requests: mpsc::Receiver<Request>) -> Server {
        // A schema may be dropped, and others go on.
        let endpoint = Endpoint { schema: "information_schema".to_owned(), ..primary.clone() };
        Server {
            endpoint,
            requests,
            members: Vec::new(),
            conn: None,
            commit_us: 0,
            backoff: Backoff::default(),
            not_before: None,
        }
    }

    /// Until nobody can ask for anything any more.
    pub(super) async fn run(mut self) {
        loop {
            self.members.retain(Member::is_there);
            if self.members.is_empty() {
                self.conn = None;
            }
            let due = self.members.iter().map(Member::due).min();
            let due = due.map(|due| self.not_before.map_or(due, |earliest| due.max(earliest)));
            let wake = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => return,
                },
                () = wake => self.beat().await,
            }
        }
    }

    fn take(&mut self, request: Request) {
        let of = |id| move |member: &&mut Member| member.id == id;
        match request {
            Request::Join(member) => {
                // Its epoch may have been opened on another server than the connection leads to.
                self.conn = None;
                self.members.push(*member);
                // Always in the same order: two processes never wait for each other.
                self.members.sort_by(|one, other| one.schema.cmp(&other.schema));
            }
            Request::Interval(id, interval) => {
                if let Some(member) = self.members.iter_mut().find(of(id)) {
                    member.set_interval(interval, Clock::now().next(interval));
                }
            }
            // Of one that has ended: who asked hears that nobody will answer.
            Request::Save(id, save) => {
                if let Some(member) = self.members.iter_mut().find(of(id)) {
                    member.save = Some(save);
                }
            }
        }
    }

    /// Writes everything that is due.
    async fn beat(&mut self) {
        let now = Instant::now();
        let is_due = |member: &&Member| member.due() <= now + COMPANY;
        let (apart, together): (Vec<&Member>, Vec<&Member>) =
            self.members.iter().filter(is_due).partition(|member| member.apart);
        let ids = |members: Vec<&Member>| members.into_iter().map(|m| m.id).collect::<Vec<_>>();
        let (apart, mut together) = (ids(apart), ids(together));
        // Each refusal takes one out, so this ends.
        while !together.is_empty() {
            match self.attempt(&together, LOCK_WAIT).await {
                Ok(Some(refused)) => together.retain(|id| *id != refused),
                Ok(None) => break,
                Err(()) => return,
            }
        }
        for id in apart {
            if self.attempt(&[id], Duration::ZERO).await.is_err() {
                return;
            }
        }
    }

    /// One transaction with the tokens of these members; gives the one that was refused, if any.
    /// `Err`: the server cannot be reached, or nobody knows what became of it.
    async fn attempt(&mut self, ids: &[u64], lock_wait: Duration) -> Result<Option<u64>, ()> {
        let now = Instant::now();
        let members = || self.members.iter().filter(|member| ids.contains(&member.id));
        let order: Vec<u64> = members().map(|member| member.id).collect();
        let quiet: Vec<bool> = members().map(|member| member.quiet(now)).collect();
        let writes: Vec<Write<'_>> = members()
            .zip(&quiet)
            .map(|(member, &quiet)| Write {
                schema: &member.schema,
                epoch: member.epoch,
                quiet,
                commit_us: self.commit_us,
                progress: member.save.as_ref().map(|save| &save.progress),
            })
            .collect();
        let (endpoint, kept) = (self.endpoint.clone(), self.conn.take());
        let trying = async {
            let mut kept = match kept {
                Some(kept) => kept,
                None => connected(&endpoint).await?,
            };
            let bytes_max = PACKET_BYTES_MAX.min(kept.packet_bytes_max / 2);
            let Transaction { packets, steps } = transaction(&writes, lock_wait, bytes_max);
            let began = Instant::now();
            let outcome = send(&mut kept.conn, &endpoint, &packets, steps.len()).await?;
            Ok((kept, steps, outcome, began.elapsed()))
        };
        let (tried, seen) = within_seen(&endpoint, DOING, trying).await;
        match tried {
            Ok((kept, steps, outcome, took)) => {
                // A session keeps the rights that it had when it began, and stays where the address led
                // to then: after a refusal only one that a lock explains is used again.
                let again = match &outcome {
                    Outcome::Done(_) => true,
                    Outcome::Refused(_, error) => is_lock(error),
                };
                self.conn = again.then_some(kept);
                self.backoff.reset();
                self.not_before = None;
                match outcome {
                    Outcome::Done(answers) => {
                        self.commit_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                        self.written(&order, &quiet, now, &steps, &answers).await;
                        Ok(None)
                    }
                    Outcome::Refused(at, error) => {
                        // Without an owner it is the first one's, and the others show their own.
                        let owner = steps.get(at).and_then(|step| step.write()).unwrap_or(0);
                        let Some(&id) = order.get(owner) else { return Ok(None) };
                        self.refused(id, error, seen);
                        Ok(Some(id))
                    }
                }
            }
            // Whether it is in is not known: the next write says how many there are.
            Err(error) if error.class() == Class::Retry => {
                self.not_before = Some(Instant::now() + self.backoff.next());
                tracing::warn!(shards = order.len(), error = %error, "tokens not written, retrying");
                for member in self.members.iter().filter(|member| order.contains(&member.id)) {
                    metrics::retry(member.shard, "token");
                }
                Err(())
            }
            // As a login that is refused: the next one tries for itself.
            Err(error) => {
                if let Some(&id) = order.first() {
                    self.end(id, error);
                }
                Err(())
            }
        }
    }

    /// The transaction is in. Whose token it did not touch has a successor.
    async fn written(
        &mut self,
        order: &[u64],
        quiet: &[bool],
        sent_at: Instant,
        steps: &[Step],
        answers: &[(u64, u64)],
    ) {
        let mut taken_over = Vec::new();
        for (step, &(touched, number)) in steps.iter().zip(answers) {
            let Some(index) = step.write() else { continue };
            let Some(&id) = order.get(index) else { continue };
            let Some(member) = self.members.iter_mut().find(|member| member.id == id) else {
                continue; // ended above
            };
            match step {
                Step::Token(_) if touched == 0 => taken_over.push(id),
                Step::Token(_) => member.written(number, sent_at, quiet[index]),
                Step::Resume(_) if number == 0 && !taken_over.contains(&id) => {
                    let shard = member.shard;
                    self.end(id, ReadError::ProgressLost { shard });
                }
                _ => {}
            }
        }
        let clock = Clock::now();
        for &id in order {
            let Some(member) = self.members.iter_mut().find(|member| member.id == id) else {
                continue;
            };
            if taken_over.contains(&id) {
                let (shard, ours, schema) = (member.shard, member.epoch, member.schema.clone());
                let theirs = self.epoch_of(&schema).await;
                self.end(id, ReadError::Superseded { shard, ours, theirs });
            } else {
                member.done(clock.next(member.interval));
            }
        }
    }

    /// Only for the message: 0 where nobody can tell.
    async fn epoch_of(&mut self, schema: &str) -> u64 {
        let Some(mut kept) = self.conn.take() else { return 0 };
        let table = format!("{}.{}", value::quote(schema), control::TOKEN);
        let sql = format!("SELECT epoch FROM {table} WHERE id = 1");
        let asking = async {
            let asked = kept.conn.query_first(sql).await;
            let epoch: Option<u64> = asked.map_err(|e| server_error(&self.endpoint, DOING, e))?;
            Ok((kept, epoch))
        };
        let Ok((kept, epoch)) = within(&self.endpoint, DOING, asking).await else { return 0 };
        self.conn = Some(kept);
        epoch.unwrap_or(0)
    }

    /// `seen`: why the server was silent.
    fn refused(&mut self, id: u64, error: mysql_async::Error, seen: Option<&str>) {
        let Some(member) = self.members.iter_mut().find(|member| member.id == id) else { return };
        let at = Endpoint { schema: member.schema.clone(), ..self.endpoint.clone() };
        let error = ReadError::from(server_error(&at, DOING, error));
        if error.class() != Class::Retry {
            return self.end(id, error);
        }
        metrics::retry(member.shard, "token");
        if !member.apart {
            let why = seen.unwrap_or_default();
            tracing::warn!(shard = member.shard.0, error = %error, why,
                "token not written: that of this shard is tried apart from now on");
        }
        member.set_apart();
    }

    /// The others go on.
    fn end(&mut self, id: u64, error: ReadError) {
        if let Some(index) = self.members.iter().position(|member| member.id == id) {
            self.members.remove(index).end(error);
        }
    }
}

/// A lock that did not come, or a deadlock.
fn is_lock(error: &mysql_async::Error) -> bool {
    const LOCK_WAIT_TIMEOUT: u16 = 1205;
    const DEADLOCK: u16 = 1213;
    matches!(error, mysql_async::Error::Server(error)
        if [LOCK_WAIT_TIMEOUT, DEADLOCK].contains(&error.code))
}

/// One reading for all, so that they stay together.
struct Clock {
    now: Instant,
    since_epoch: Duration,
}

impl Clock {
    fn now() -> Clock {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Clock { now: Instant::now(), since_epoch: wall.unwrap_or_default() }
    }

    fn next(&self, interval: Duration) -> Instant {
        self.now + until_next(self.since_epoch, interval)
    }
}

async fn connected(endpoint: &Endpoint) -> Result<Kept, ReadError> {
    let mut conn = modshift_mariadb::connect(endpoint, Session::Plain).await?;
    applying::promoted(&mut conn, &label(endpoint)).await?;
    let packet_bytes_max = modshift_mariadb::server::max_allowed_packet(&mut conn).await?;
    let packet_bytes_max = usize::try_from(packet_bytes_max).unwrap_or(usize::MAX);
    Ok(Kept { conn, packet_bytes_max })
}

/// Sends the statements and takes their answers in. After a refusal nothing of them is in, and the
/// connection is as it was.
async fn send(
    conn: &mut Conn,
    endpoint: &Endpoint,
    packets: &[String],
    statements: usize,
) -> Result<Outcome, ReadError> {
    let mut answers = Vec::new();
    let mut sent = Ok(());
    for packet in packets {
        sent = answers_of(conn, packet, &mut answers).await;
        if sent.is_err() {
            break;
        }
    }
    match sent {
        Ok(()) if answers.len() == statements => Ok(Outcome::Done(answers)),
        // As after any other answer that makes no sense, nobody knows what is in.
        Ok(()) => Err(ReadError::Server(ServerError::Lost {
            at: label(endpoint),
            doing: DOING,
            detail: format!("{} answers to {statements} statements", answers.len()),
        })),
        Err(error @ mysql_async::Error::Server(_)) => {
            let rolled_back = conn.query_drop("ROLLBACK").await;
            rolled_back.map_err(|error| server_error(endpoint, DOING, error))?;
            Ok(Outcome::Refused(answers.len(), error))
        }
        Err(error) => Err(server_error(endpoint, DOING, error).into()),
    }
}

async fn answers_of(
    conn: &mut Conn,
    sql: &str,
    answers: &mut Vec<(u64, u64)>,
) -> Result<(), mysql_async::Error> {
    let mut result = conn.query_iter(sql).await?;
    answers.push((result.affected_rows(), result.last_insert_id().unwrap_or(0)));
    while !result.is_empty() {
        result.collect::<mysql_async::Row>().await?;
        answers.push((result.affected_rows(), result.last_insert_id().unwrap_or(0)));
    }
    // The driver keeps the error of a later statement back, as if that had been answered.
    let ended = result.drop_result().await;
    if ended.is_err() {
        answers.pop();
    }
    ended
}
