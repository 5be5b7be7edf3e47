//! Triggers and events of the application: taken down on the side that is fenced, put up on the side
//! that opens, and the other way round where a run is undone.
//!
//! **No trigger of the application fires on a row that modshift writes.** Rows of the side that
//! serves come with whatever its triggers did; a trigger on the other side would do it again. So
//! triggers are where applications write, and nowhere else.
//!
//! A shard is in one of these states, written down in `modshift_handover` on the shard itself, where
//! it is at hand for an undoing that is cut off from the journal:
//!
//! | state | triggers are | true definitions are |
//! |---|---|---|
//! | none | as the operator left them | those that are there |
//! | `down` | not there, or about to go | written down as `had` |
//! | `raising` | partly there, for the shard is about to serve | written down as `wanted` |
//! | `up` | there | those that are there |
//!
//! Definitions are written down before the first is dropped, and what is written down goes only when
//! all of it is there again. Each step may be repeated.
//!
//! While a shard is `raising` or `up` its applier takes no rows: the first statement of each of its
//! transactions asks. This state is entered under a lock on every watermark, so after any transaction
//! that did not know of it. Whoever undoes a run therefore need not wait for a shard of the other
//! side that does not answer.

mod make;
mod mending;
mod record;

use futures_util::future::join_all;
use modshift_changelog::stage;
use modshift_mariadb::Conn;
use modshift_mariadb::program::{self, Kind, Named, Program};
use modshift_proto::plan::Plan;

use crate::error::CutoverError;
use crate::holders::Reach;
use crate::register::quote;
use crate::shard::Shard;
use record::State;

pub(crate) use make::spread;

const READING: &str = "reading triggers and events";

/// What of the plan matters here.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    plan: &'a Plan,
    run: &'a str,
}

impl<'a> Scope<'a> {
    pub fn new(plan: &'a Plan, run: &'a str) -> Scope<'a> {
        Scope { plan, run }
    }

    pub fn run(&self) -> &'a str {
        self.run
    }

    fn tables(&self) -> Vec<String> {
        self.plan.tables.iter().map(|table| table.name.clone()).collect()
    }

    /// Stays behind on purpose: it is taken down with the rest, and not put up on the other side.
    fn stays(&self, program: &Program) -> bool {
        self.plan.check.ignores(&program.name)
    }
}

/// Before anyone waits: what will be handed over, or why it cannot be.
pub async fn prepare(
    scope: Scope<'_>,
    from: &mut [Shard],
    to: &mut [Shard],
) -> Result<Vec<Program>, CutoverError> {
    let tables = join_all(from.iter_mut().chain(to.iter_mut()).map(record::create)).await;
    CutoverError::all(tables.into_iter().filter_map(Result::err).collect())?;
    let carried = carried(scope, from).await?;
    let ready = join_all(to.iter_mut().map(|shard| make_ready(scope, shard, &carried))).await;
    CutoverError::all(ready.into_iter().filter_map(Result::err).collect())?;
    let may = join_all(from.iter_mut().chain(to).map(|shard| may_make(shard, &carried))).await;
    CutoverError::all(may.into_iter().filter_map(Result::err).collect())?;
    Ok(carried)
}

/// The step itself: the from-side's go down while the to-side's come up.
pub async fn hand_over(
    scope: Scope<'_>,
    from: &mut [Shard],
    to: &mut [Shard],
) -> Result<(), CutoverError> {
    // Again: the fence has ended all that could change them.
    let carried = carried(scope, from).await?;
    // Where this is not done in time, whoever is not ready is named, with what it still lacks.
    let what = of_these(&carried);
    let down = join_all(from.iter_mut().map(async |shard| {
        shard.waiting = format!("{what} of {} still to be taken down", shard.name());
        take_down(scope, shard).await?;
        shard.waiting.clear();
        Ok(())
    }));
    let up = join_all(to.iter_mut().map(async |shard| {
        shard.waiting = format!("{what} still to be put up on {}", shard.name());
        put_up(scope, shard, &carried).await?;
        shard.waiting.clear();
        Ok(())
    }));
    let (down, up) = futures_util::future::join(down, up).await;
    CutoverError::all(down.into_iter().chain(up).filter_map(Result::err).collect())
}

/// `trigger t_bi, event e and 5 more`.
fn of_these(programs: &[Program]) -> String {
    const SHOWN_MAX: usize = 3;
    let named = |program: &Program| format!("{} {}", program.kind.name(), program.name);
    let shown: Vec<String> = programs.iter().take(SHOWN_MAX).map(named).collect();
    match programs.len().checked_sub(SHOWN_MAX) {
        _ if shown.is_empty() => "triggers and events".to_owned(),
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

/// `3 triggers and 1 event`.
pub fn words(programs: &[Program]) -> String {
    let count = |kind| match programs.iter().filter(|program| program.kind == kind).count() {
        1 => format!("1 {}", kind.name()),
        count => format!("{count} {}s", kind.name()),
    };
    format!("{} and {}", count(Kind::Trigger), count(Kind::Event))
}

/// What every shard of the side that serves has. It must be the same on all of them, since any of
/// them may send rows to any shard of the other side.
async fn carried(scope: Scope<'_>, from: &mut [Shard]) -> Result<Vec<Program>, CutoverError> {
    let read = join_all(from.iter_mut().map(|shard| truth(scope, shard))).await;
    let mut first: Option<(String, Vec<Program>)> = None;
    for (read, shard) in read.into_iter().zip(&*from) {
        let mut programs = read?;
        programs.retain(|program| !scope.stays(program));
        match &first {
            None => first = Some((shard.name().to_owned(), programs)),
            Some((name, others)) => {
                if let Some(difference) = program::difference(others, &programs) {
                    return Err(CutoverError::Programs {
                        server: name.clone(),
                        what: format!("compared with {}: {difference}", shard.name()),
                    });
                }
            }
        }
    }
    Ok(first.map(|(_, programs)| programs).unwrap_or_default())
}

/// The true definitions of a shard.
async fn truth(scope: Scope<'_>, shard: &mut Shard) -> Result<Vec<Program>, CutoverError> {
    match record::state(shard).await? {
        State::Down => record::kept(shard, record::HAD).await,
        State::Raising => record::kept(shard, record::WANTED).await,
        State::None | State::Up => live(scope, shard).await,
    }
}

async fn live(scope: Scope<'_>, shard: &mut Shard) -> Result<Vec<Program>, CutoverError> {
    let (tables, schema) = (scope.tables(), shard.primary.endpoint.schema.clone());
    let reading = async |conn: &mut Conn| program::read(conn, &schema, &tables).await;
    let read = shard.primary.talk(READING, reading).await?;
    let of = |read: Result<Program, Named>| {
        read.map_err(|named| CutoverError::Programs {
            server: shard.primary.name.clone(),
            what: format!("{} {} cannot be read", named.kind.name(), named.name),
        })
    };
    read.into_iter().map(of).collect()
}

async fn named(scope: Scope<'_>, shard: &mut Shard) -> Result<Vec<Named>, CutoverError> {
    let (tables, schema) = (scope.tables(), shard.primary.endpoint.schema.clone());
    let listed = async |conn: &mut Conn| program::named(conn, &schema, &tables).await;
    shard.primary.talk(READING, listed).await
}

/// A to-shard on which modshift applies rows has no triggers, and nothing in the way of those that
/// come. What a run before left there half undone goes.
async fn make_ready(
    scope: Scope<'_>,
    shard: &mut Shard,
    carried: &[Program],
) -> Result<(), CutoverError> {
    take_back(scope, shard).await?;
    if record::state(shard).await? == State::Up {
        take_down(scope, shard).await?;
    }
    let refuse = |server: &str, what: String| {
        let server = server.to_owned();
        Err(CutoverError::Programs { server, what })
    };
    for there in live(scope, shard).await? {
        if there.kind == Kind::Trigger {
            let what = format!(
                "has trigger {} on table {}, which runs for rows that modshift applies",
                there.name, there.table
            );
            return refuse(shard.name(), what);
        }
        let same = carried.iter().find(|c| c.kind == there.kind && c.name == there.name);
        if same.is_some_and(|same| same.differs_in(&there).is_some()) {
            let what = format!("event {} is another than the one to be handed over", there.name);
            return refuse(shard.name(), what);
        }
    }
    if carried.is_empty() {
        return Ok(());
    }
    definers(shard, carried).await?;
    let schema = shard.primary.endpoint.schema.clone();
    let asked = async |conn: &mut Conn| program::schema_collation(conn, &schema).await;
    let collation = shard.primary.talk(READING, asked).await?;
    match carried.iter().find(|program| program.database_collation != collation) {
        None => Ok(()),
        Some(other) => refuse(
            shard.name(),
            format!(
                "{} {} was written where the schema's collation was {}, here it is {collation}",
                other.kind.name(),
                other.name,
                other.database_collation
            ),
        ),
    }
}

/// Each definer must be there and may run what runs in its name: else the first write of the
/// application would fail on the side that serves. What the login may not see is left to `check`.
async fn definers(shard: &mut Shard, carried: &[Program]) -> Result<(), CutoverError> {
    /// Bit of TRIGGER among an account's global privileges.
    const TRIGGER: u64 = 1 << 27;
    let mut seen: Vec<&str> = Vec::new();
    for program in carried {
        if seen.contains(&program.definer.as_str()) {
            continue;
        }
        seen.push(&program.definer);
        let Some((user, host)) = program.definer.rsplit_once('@') else { continue };
        let who = format!("User = {} AND Host = {}", quote(user), quote(host));
        let sql = format!(
            "SELECT (SELECT COUNT(*) FROM mysql.global_priv WHERE {who}), \
             (SELECT COUNT(*) FROM mysql.global_priv WHERE {who} AND \
             CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED) & {TRIGGER}) + \
             (SELECT COUNT(*) FROM mysql.db WHERE {who} AND DATABASE() LIKE Db \
             AND Trigger_priv = 'Y') + (SELECT COUNT(*) FROM mysql.tables_priv WHERE {who} \
             AND Db = DATABASE() AND FIND_IN_SET('Trigger', Table_priv))"
        );
        const DENIED: [u16; 2] = [1142, 1143];
        let rows = shard.primary.ask::<(u64, u64)>("looking for definers", &sql).await;
        let rows = match rows {
            Err(CutoverError::Server(error))
                if error.code().is_some_and(|c| DENIED.contains(&c)) =>
            {
                return Ok(());
            }
            rows => rows?,
        };
        let what = match rows.first() {
            Some((0, _)) => "does not exist here",
            Some((_, 0)) if program.kind == Kind::Trigger => "lacks TRIGGER on the schema here",
            _ => continue,
        };
        return Err(CutoverError::Programs {
            server: shard.name().to_owned(),
            what: format!(
                "{}, in whose name {} {} runs, {what}",
                program.definer,
                program.kind.name(),
                program.name
            ),
        });
    }
    Ok(())
}

/// Does the login of this cutover have the rights to make them again, on either side?
async fn may_make(shard: &mut Shard, carried: &[Program]) -> Result<(), CutoverError> {
    if carried.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> =
        shard.primary.ask("reading modshift's own grants", "SHOW GRANTS").await?;
    let grants = modshift_mariadb::Grants::parse(lines.iter().map(String::as_str));
    let schema = &shard.primary.endpoint.schema;
    let has = |kind, privilege| {
        carried.iter().all(|p| p.kind != kind) || grants.has_on_schema(schema, privilege)
    };
    let lacking = if !has(Kind::Trigger, "TRIGGER") {
        "TRIGGER on the schema"
    } else if !has(Kind::Event, "EVENT") {
        "EVENT on the schema"
    } else if !grants.has_global("SET USER") {
        // SUPER alone does it no longer on servers of later versions.
        "SET USER"
    } else {
        return Ok(());
    };
    Err(CutoverError::Unfit {
        server: shard.name().to_owned(),
        what: format!(
            "{} lacks {lacking}, without which triggers and events cannot be handed over: \
             deploy/mariadb/grants-cutover.sql",
            shard.primary.endpoint.user
        ),
    })
}

/// Nothing of the application runs there any more. What it had is written down first.
async fn take_down(scope: Scope<'_>, shard: &mut Shard) -> Result<(), CutoverError> {
    make::still_fenced(&mut shard.primary).await?;
    let state = record::state(shard).await?;
    if matches!(state, State::None | State::Up) {
        let had = live(scope, shard).await?;
        if had.is_empty() && state == State::None {
            return Ok(());
        }
        record::write(shard, scope.run, State::Down, record::HAD, &had).await?;
    }
    let there = named(scope, shard).await?;
    make::drop_all(shard, &there, true, Reach::Likely).await
}

/// Of a to-shard whose run is undone. Only triggers: its events are not made before it serves, those
/// that are there are others.
pub async fn take_back(scope: Scope<'_>, shard: &mut Shard) -> Result<(), CutoverError> {
    if record::state(shard).await? != State::Raising {
        return Ok(());
    }
    let mut there = named(scope, shard).await?;
    there.retain(|named| named.kind == Kind::Trigger);
    make::drop_all(shard, &there, false, Reach::Likely).await?;
    // Not before: rows may be applied again from here on.
    record::lower(shard, scope.run).await
}

/// Events alone, before the marker, where the event scheduler goes on for others.
pub async fn silence(scope: Scope<'_>, shard: &mut Shard) -> Result<(), CutoverError> {
    let mut there = named(scope, shard).await?;
    there.retain(|named| named.kind == Kind::Event);
    if there.is_empty() {
        return Ok(());
    }
    if matches!(record::state(shard).await?, State::None | State::Up) {
        let had = live(scope, shard).await?;
        record::write(shard, scope.run, State::Down, record::HAD, &had).await?;
    }
    make::drop_all(shard, &there, false, Reach::Likely).await
}

/// Triggers of a shard that is about to serve. Its events come once it does: they are in no
/// statement of the application, and would write before anyone may.
pub async fn put_up(
    scope: Scope<'_>,
    shard: &mut Shard,
    carried: &[Program],
) -> Result<(), CutoverError> {
    let state = record::state(shard).await?;
    if carried.is_empty() && state == State::None {
        return Ok(());
    }
    let had = match state {
        State::Down | State::Raising => record::kept(shard, record::HAD).await?,
        State::None | State::Up => Vec::new(),
    };
    let wanted = wanted(scope, carried, &had);
    record::write(shard, scope.run, State::Raising, record::WANTED, &wanted).await?;
    triggers(scope, shard, &wanted, Reach::Likely).await?;
    stage::reached("shard_raised", 1).await;
    Ok(())
}

/// Of a to-shard whose opening goes on in another process: a process that lost the journal may have
/// taken them down, unable to tell anyone. Asks no other shard.
pub async fn put_up_again(scope: Scope<'_>, shard: &mut Shard) -> Result<(), CutoverError> {
    match record::state(shard).await? {
        State::None | State::Up => return Ok(()),
        State::Down | State::Raising => {}
    }
    let wanted = record::wanted_in(shard, scope.run).await?;
    record::write(shard, scope.run, State::Raising, record::WANTED, &wanted).await?;
    let reach = Reach::beyond(shard.scope);
    triggers(scope, shard, &wanted, reach).await
}

/// What was there before, where it is the same but for where it begins; and what stayed behind.
fn wanted(scope: Scope<'_>, carried: &[Program], had: &[Program]) -> Vec<Program> {
    let before = |one: &Program| had.iter().find(|p| p.kind == one.kind && p.name == one.name);
    let of = |one: &Program| match before(one) {
        Some(own) if own.differs_in(one).is_none() => own.clone(),
        _ => one.clone(),
    };
    let stayed = had.iter().filter(|program| scope.stays(program)).cloned();
    carried.iter().map(of).chain(stayed).collect()
}

/// All of them, in their order. What is there and whole stays: to drop it would be to wait for whoever
/// reads its table.
async fn triggers(
    scope: Scope<'_>,
    shard: &mut Shard,
    wanted: &[Program],
    reach: Reach,
) -> Result<(), CutoverError> {
    let mut there = named(scope, shard).await?;
    there.retain(|named| named.kind == Kind::Trigger);
    let wanted: Vec<&Program> = wanted.iter().filter(|p| p.kind == Kind::Trigger).collect();
    let (surplus, missing) = mending::mending(&wanted, &there);
    make::drop_all(shard, &surplus, false, reach).await?;
    make::create_all(shard, &missing, reach).await
}

/// Events of a shard that serves by now; with them the handover of this shard is over.
pub async fn complete(scope: Scope<'_>, shard: &mut Shard) -> Result<(), CutoverError> {
    match record::state(shard).await? {
        State::Raising => {}
        State::None | State::Down | State::Up => return Ok(()),
    }
    let wanted = record::kept(shard, record::WANTED).await?;
    let there = named(scope, shard).await?;
    let missing: Vec<&Program> = wanted
        .iter()
        .filter(|p| p.kind == Kind::Event)
        .filter(|p| !there.iter().any(|named| named.kind == p.kind && named.name == p.name))
        .collect();
    make::create_all(shard, &missing, Reach::Likely).await?;
    record::write(shard, scope.run, State::Up, record::WANTED, &[]).await
}

/// As it was before: of a from-shard whose run is undone, and of an old shard that is let go in the
/// end. Whoever calls this lets applications write afterwards.
pub async fn put_back(scope: Scope<'_>, shard: &mut Shard) -> Result<(), CutoverError> {
    if record::state(shard).await? == State::Down {
        let had = record::kept(shard, record::HAD).await?;
        record::write(shard, scope.run, State::Raising, record::WANTED, &had).await?;
    }
    if record::state(shard).await? == State::Raising {
        let wanted = record::kept(shard, record::WANTED).await?;
        let reach = Reach::beyond(shard.scope);
        triggers(scope, shard, &wanted, reach).await?;
        complete(scope, shard).await?;
    }
    Ok(())
}
