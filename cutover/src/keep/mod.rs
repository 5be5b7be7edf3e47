//! Keeps a shard fenced for as long as its token says that it is: after a cutover for days, through
//! restarts of its server, which forget `read_only`.
//!
//! Whoever applies to a shard looks: as soon as its server answers and each second after. Where the
//! last marker fenced the shard and `read_only` is off, it is set again, unless the server holds a
//! shard of the other side too; and so are the event scheduler and replication into the primary, which
//! a restart may start and which write through `read_only`. Only a shard that a run has fenced is
//! looked after: before that, new shards are as the operator left them.
//!
//! While the primary is away, its replicas go by the newer of what it last said and the token that
//! replication has brought them. One that is behind may be closed for nothing, which can be undone; a
//! write on it cannot.
//!
//! **A shard that is being opened is never closed.** An opening writes the serving marker first and
//! ends `read_only` after. What is closed here is closed under the same lock that every operator's
//! session on that server holds from its first statement on (see [`server`](crate::server)), and
//! the token is read again under it. So either an operator is there, and nothing is done; or the
//! lock is free, the marker says fenced, and whoever comes to open the shard ends this connection
//! first, waits for it to be gone, and only then looks at `read_only`. This holds for a process that
//! stood still between the two as well, since its connection is gone. Shards that share the server
//! are asked and locked in the same way.

mod neighbours;
mod survey;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use modshift_mariadb::audit;
use modshift_mariadb::connect::label;
use modshift_mariadb::value::quote;
use modshift_mariadb::{Conn, Desk, ServerError, error};
use modshift_proto::plan::{Endpoint, FenceScope, Plan};
use mysql_async::prelude::Queryable;

use self::neighbours::{Neighbours, Places};
pub use self::survey::{Held, survey};
use crate::error::CutoverError;
use crate::fence::{self, Phase};
use crate::metrics;
use crate::server::{Guard, PLACE};
use crate::shard::{self, Shard};
use crate::step::Side;

/// Between two looks: one small statement on each of the shard's servers.
const LOOK: Duration = Duration::from_secs(1);
/// Between two attempts to reach a server that is away: what it may take meanwhile when it is back.
const LOOK_AWAY: Duration = Duration::from_millis(250);
/// A server that takes longer to answer is as good as away.
const ANSWER: Duration = Duration::from_secs(3);
/// For closing, writers that hold `read_only` up included; the next look tries again.
const CLOSING: Duration = Duration::from_secs(15);
const AUDIT: Duration = Duration::from_secs(5);
const NO_SUCH_TABLE: u16 = 1146;

/// A shard's row in `modshift_token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    phase: Phase,
    /// A run wrote its last marker: a shard that none has touched is as the operator left it.
    marked: bool,
    /// When it was written, by the primary's clock; as text it sorts.
    clock: String,
}

impl Token {
    fn is_fenced(&self) -> bool {
        self.phase == Phase::Fenced && self.marked
    }
}

/// What a server takes writes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    read_only: bool,
    events: bool,
    /// Replication into it runs. Only asked of a primary that is fenced.
    replicates: bool,
}

impl Standing {
    fn is_open(self) -> bool {
        !self.read_only || self.events || self.replicates
    }

    fn words(self) -> String {
        let found = [
            (!self.read_only, "without read_only"),
            (self.events, "with the event scheduler on"),
            (self.replicates, "replicating from another server"),
        ];
        let found: Vec<&str> = found.iter().filter(|(is, _)| *is).map(|&(_, what)| what).collect();
        found.join(", ")
    }
}

/// A shard's servers as they are, the primary first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `None`: there is no token.
    token: Option<Token>,
    /// `None`: that server does not answer.
    standing: Vec<Option<Standing>>,
}

fn is_fenced(token: Option<&Token>) -> bool {
    token.is_some_and(Token::is_fenced)
}

/// The servers that a run has closed and that are open.
pub(crate) fn opened(seen: &Seen) -> Vec<usize> {
    let open = |(index, standing): (usize, &Option<Standing>)| {
        standing.is_some_and(Standing::is_open).then_some(index)
    };
    match is_fenced(seen.token.as_ref()) {
        true => seen.standing.iter().enumerate().filter_map(open).collect(),
        false => Vec::new(),
    }
}

/// Whether a replica whose primary does not answer is one of a fenced shard: by the newer of what the
/// primary last said and what replication has brought to it since.
fn goes_for_fenced(last: Option<&Token>, own: Option<&Token>) -> bool {
    let newest = match (last, own) {
        (Some(last), Some(own)) if own.clock > last.clock => Some(own),
        (Some(last), _) => Some(last),
        (None, own) => own,
    };
    is_fenced(newest)
}

#[derive(Debug, PartialEq, Eq)]
enum Closed {
    Now,
    /// An operator's process is at this server.
    Attended,
    /// It says by now that it serves.
    Serves,
    /// A shard of the other side lives there: the fence is that of accounts.
    Shared,
}

struct Keeper {
    /// As the operator wrote it.
    plan: Arc<Plan>,
    side: Side,
    number: u16,
    endpoints: Vec<Endpoint>,
    desk: Desk,
    places: Places,
    /// Known since the primary last began to answer.
    shared: bool,
    /// What the primary last said.
    last: Option<Token>,
    /// Why it could not be closed, as it was last said.
    told: Option<String>,
}

/// Looks after one shard. Never ends: runs beside the streams, and is dropped with them.
/// Keepers of the same `desk` share a connection to each server.
pub async fn keep(plan: Arc<Plan>, side: Side, number: u16, desk: Desk) -> Infallible {
    if plan.cutover.scope == FenceScope::Accounts {
        std::future::pending::<()>().await;
    }
    metrics::restored(side, number, 0);
    metrics::open(side, number, false);
    let mut keeper = Keeper::new(plan, side, number, desk);
    loop {
        let pause = keeper.turn().await;
        tokio::time::sleep(pause).await;
    }
}

impl Keeper {
    fn new(plan: Arc<Plan>, side: Side, number: u16, desk: Desk) -> Keeper {
        Keeper {
            side,
            number,
            endpoints: servers_of(&plan, side, number),
            places: Places::new(desk.clone()),
            desk,
            shared: false,
            last: None,
            told: None,
            plan,
        }
    }

    fn name(&self) -> String {
        format!("{} shard {}", self.side, self.number)
    }

    /// One look, and what follows from it; how long until the next.
    async fn turn(&mut self) -> Duration {
        let seen = self.look().await;
        let away = seen.standing[0].is_none();
        let open = opened(&seen);
        if open.is_empty() || self.shared {
            if !away {
                self.note(None);
            }
            if is_fenced(seen.token.as_ref()) {
                self.places.learn(&self.plan).await;
            }
            return if away { LOOK_AWAY } else { LOOK };
        }
        let found: Vec<String> =
            open.iter().map(|&index| seen.standing[index].unwrap_or_default().words()).collect();
        let closing = Box::pin(self.close(&open, away));
        match tokio::time::timeout(CLOSING, closing).await {
            Ok(Ok(Closed::Now)) => {
                self.note(None);
                metrics::restored(self.side, self.number, 1);
                let (shard, found) = (self.name(), found.join("; "));
                tracing::warn!(shard, found, "fenced, and found open: closed again");
                self.write_down(&found).await;
            }
            Ok(Ok(Closed::Serves)) => self.note(None),
            Ok(Ok(Closed::Shared)) => {
                self.shared = true;
                self.note(None);
            }
            Ok(Ok(Closed::Attended)) => {
                metrics::open(self.side, self.number, true);
                tracing::debug!(shard = self.name(), "an operator's process is at it");
            }
            Ok(Err(error)) => self.note(Some((error.to_string(), error.hint()))),
            Err(_) => self.note(Some((format!("not done in {} s", CLOSING.as_secs()), None))),
        }
        LOOK
    }

    /// Says once what keeps it open.
    fn note(&mut self, trouble: Option<(String, Option<String>)>) {
        metrics::open(self.side, self.number, trouble.is_some());
        let Some((why, hint)) = trouble else {
            self.told = None;
            return;
        };
        if self.told.as_ref() != Some(&why) {
            let (shard, hint) = (self.name(), hint.unwrap_or_default());
            tracing::error!(shard, error = why, hint, "A FENCED SHARD TAKES WRITES: not closed");
            self.told = Some(why);
        }
    }

    /// What does not answer is said by the streams of the shard.
    async fn look(&mut self) -> Seen {
        let asked = self.endpoints.iter().enumerate();
        let asked = asked.map(|(index, endpoint)| ask(&self.desk, endpoint, index == 0));
        let answers: Vec<Option<Answer>> =
            join_all(asked).await.into_iter().map(Result::ok).collect();
        if answers[0].is_none() {
            // When it is back it may be another server.
            self.shared = false;
        }
        if let Some((token, _)) = &answers[0] {
            self.last = token.clone();
            let standing = answers.iter().map(|answer| answer.as_ref().map(|(_, s)| *s)).collect();
            return Seen { token: token.clone(), standing };
        }
        let replica = |answer: &Option<Answer>| {
            let (own, standing) = answer.as_ref()?;
            goes_for_fenced(self.last.as_ref(), own.as_ref()).then_some(*standing)
        };
        let standing = answers.iter().map(replica).collect();
        // Of those of which it is not known there is nothing to see.
        let token = Token { phase: Phase::Fenced, marked: true, clock: String::new() };
        Seen { token: Some(token), standing }
    }

    /// Closes these servers, if nobody is at the shard and it is still to be closed.
    async fn close(&mut self, open: &[usize], away: bool) -> Result<Closed, CutoverError> {
        let twins = match self.places.neighbours(&self.plan, self.side, self.number, open).await? {
            Neighbours::OtherSide => return Ok(Closed::Shared),
            Neighbours::Twins(twins) => twins,
        };
        let mut shards = shard::side(&self.plan, self.side, &Guard::Bystander);
        shards.retain(|shard| shard.number == self.number || twins.contains(&shard.number));
        let outcome = match away {
            false => close_under_lock(&mut shards, self.number, open).await,
            true => close_replicas(&mut shards, self.number, open, self.last.as_ref()).await,
        };
        match outcome {
            Err(CutoverError::Attended { .. }) => Ok(Closed::Attended),
            outcome => outcome,
        }
    }

    /// For `modshift audit` and `modshift status`. What happened, happened whether or not it can be
    /// written down.
    async fn write_down(&self, found: &str) {
        let entry = async {
            let what = restored_words(&self.name());
            let entry = audit::begin(&self.plan, &what, &format!("it was {found}")).await?;
            entry.finish("closed again").await
        };
        let outcome = tokio::time::timeout(AUDIT, entry).await;
        if !matches!(outcome, Ok(Ok(()))) {
            tracing::warn!(shard = self.name(), "the audit table does not know of it");
        }
    }
}

/// As the audit table calls it.
pub fn restored_words(shard: &str) -> String {
    format!("fence of {shard} put up again")
}

/// Each first statement to a server takes its lock; the tokens are read under all of them.
async fn close_under_lock(
    shards: &mut [Shard],
    number: u16,
    open: &[usize],
) -> Result<Closed, CutoverError> {
    for shard in shards.iter_mut().filter(|shard| shard.number == number) {
        let wanted = shard.servers().enumerate().filter(|(index, _)| open.contains(index));
        for (_, server) in wanted {
            server.ask::<String>("asking which server it is", PLACE).await?;
        }
    }
    for shard in shards.iter_mut() {
        if fence::phase(shard).await? != Some(Phase::Fenced) {
            return Ok(Closed::Serves);
        }
    }
    for shard in shards.iter_mut().filter(|shard| shard.number == number) {
        if let Err(error) = fence::shut(shard, open).await {
            // The named accounts at least.
            fence::lock_out(shard).await?;
            return Err(error);
        }
    }
    Ok(Closed::Now)
}

/// The primary being away: each of these replicas under its own lock, if the shard still goes for
/// fenced, and so does each other shard that lives there.
async fn close_replicas(
    shards: &mut [Shard],
    number: u16,
    open: &[usize],
    last: Option<&Token>,
) -> Result<Closed, CutoverError> {
    let sql = format!("SELECT {}", token_in(""));
    for shard in shards.iter_mut() {
        let own = shard.number == number;
        for (_, server) in shard.servers().enumerate().skip(1).filter(|(i, _)| open.contains(i)) {
            let found = match server.ask::<TokenRow>("reading the phase", &sql).await {
                Ok(rows) => rows.into_iter().next().and_then(token_of),
                Err(error) if own => return Err(error),
                Err(_) => continue,
            };
            if !goes_for_fenced(last, found.as_ref()) {
                return Ok(Closed::Serves);
            }
        }
    }
    for shard in shards.iter_mut().filter(|shard| shard.number == number) {
        fence::shut(shard, open).await?;
    }
    Ok(Closed::Now)
}

/// The columns of a [`TokenRow`]. `schema`: the beginning of a qualified name, or nothing.
fn token_in(schema: &str) -> String {
    let of = |column: &str| format!("(SELECT {column} FROM {schema}modshift_token WHERE id = 1)");
    ["phase", "fence IS NOT NULL", "CAST(clock AS CHAR)"].map(of).join(", ")
}

type TokenRow = (Option<String>, Option<bool>, Option<String>);

fn token_of((phase, marked, clock): TokenRow) -> Option<Token> {
    let (marked, clock) = (marked.unwrap_or_default(), clock.unwrap_or_default());
    phase.map(|phase| Token { phase: fence::phase_of(&phase), marked, clock })
}

/// The primary, then the replicas, each with the daemons' own login.
fn servers_of(plan: &Plan, side: Side, number: u16) -> Vec<Endpoint> {
    let endpoints = match side {
        Side::Old => &plan.old,
        Side::New => &plan.new,
    };
    endpoints.get(usize::from(number)).map(Endpoint::servers).unwrap_or_default()
}

type Answer = (Option<Token>, Standing);

async fn ask(desk: &Desk, endpoint: &Endpoint, primary: bool) -> Result<Answer, ServerError> {
    let at = label(endpoint);
    let asking = async {
        let mut conn = desk.turn(endpoint).await?;
        let answer = state(&mut conn, endpoint, primary).await?;
        conn.done();
        Ok(answer)
    };
    let late = |_| ServerError::Unreachable {
        at: at.clone(),
        detail: format!("no answer within {} s", ANSWER.as_secs()),
    };
    tokio::time::timeout(ANSWER, asking).await.map_err(late)?
}

async fn state(conn: &mut Conn, endpoint: &Endpoint, primary: bool) -> Result<Answer, ServerError> {
    let at = label(endpoint);
    let token = token_in(&format!("{}.", quote(&endpoint.schema)));
    let of = |error| error::of(&at, "looking at the fence", error);
    type Row = (Option<String>, Option<bool>, Option<String>, bool, bool);
    const SETTINGS: &str = "@@GLOBAL.read_only, @@GLOBAL.event_scheduler = 'ON'";
    let row: Result<Option<Row>, _> =
        conn.query_first(format!("SELECT {token}, {SETTINGS}")).await.map_err(of);
    let row = match row {
        // No reader was ever started, or the reshard is finished.
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => {
            conn.query_first(format!("SELECT NULL, NULL, NULL, {SETTINGS}")).await.map_err(of)?
        }
        row => row?,
    };
    let (phase, marked, clock, read_only, events) = row.unwrap_or_default();
    let token = token_of((phase, marked, clock));
    let mut standing = Standing { read_only, events, replicates: false };
    if primary && is_fenced(token.as_ref()) {
        // Tells it to whoever asks, unlike SHOW ALL SLAVES STATUS.
        let sql = "SELECT VARIABLE_VALUE <> '0' FROM information_schema.GLOBAL_STATUS
                   WHERE VARIABLE_NAME = 'SLAVES_RUNNING'";
        let running: Option<bool> = conn.query_first(sql).await.map_err(of)?;
        standing.replicates = running.unwrap_or_default();
    }
    Ok((token, standing))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: Standing = Standing { read_only: true, events: false, replicates: false };

    fn token(phase: Phase, marked: bool, at: u8) -> Option<Token> {
        Some(Token { phase, marked, clock: format!("2026-11-29 22:43:0{at}.000000") })
    }

    #[test]
    fn only_what_a_run_has_fenced_is_closed_again() {
        let open = Standing { read_only: false, ..CLOSED };
        let check = |token: Option<Token>, standing: &[Option<Standing>], expected: &[usize]| {
            let seen = Seen { token, standing: standing.to_vec() };
            assert_eq!(opened(&seen), expected, "{seen:?}");
        };
        let fenced = || token(Phase::Fenced, true, 0);
        check(fenced(), &[Some(open)], &[0]);
        check(fenced(), &[Some(CLOSED), Some(open), None], &[1]);
        check(fenced(), &[Some(CLOSED)], &[]);
        check(token(Phase::Serving, true, 0), &[Some(open)], &[]);
        check(token(Phase::Fenced, false, 0), &[Some(open)], &[]);
        check(None, &[Some(open)], &[]);
        let writes_through = [
            Some(Standing { events: true, ..CLOSED }),
            Some(CLOSED),
            Some(Standing { replicates: true, ..CLOSED }),
        ];
        check(fenced(), &writes_through, &[0, 2]);
    }

    #[test]
    fn a_replica_goes_by_the_newer_of_its_token_and_its_primarys_last() {
        let (fenced, serving) = (Phase::Fenced, Phase::Serving);
        let check = |last: Option<Token>, own: Option<Token>, expected| {
            assert_eq!(goes_for_fenced(last.as_ref(), own.as_ref()), expected, "{last:?} {own:?}");
        };
        // It is behind; or someone has opened the shard since.
        check(token(fenced, true, 5), token(serving, false, 4), true);
        check(token(fenced, true, 5), token(serving, true, 6), false);
        check(token(serving, true, 5), token(fenced, true, 4), false);
        check(token(serving, true, 5), token(fenced, true, 6), true);
        check(None, token(fenced, true, 1), true);
        check(None, token(fenced, false, 1), false);
        check(None, None, false);
    }
}
