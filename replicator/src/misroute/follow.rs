//! The connection of a watch: one after the other, each where the last one stopped.

use std::time::Duration;

use modshift_mariadb::connect::label;
use modshift_mariadb::whole_log::{self, Part};
use modshift_mariadb::{CatalogError, Conn, Session, catalog, connect, error};
use modshift_proto::GtidSet;
use modshift_proto::plan::{Endpoint, Placement, Plan};
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::known::{Known, Taken};
use super::sift::{Closed, Sift, Spelling, Watched};
use super::{Keeping, Misroutes, Watching, store};
use crate::backoff::Backoff;
use crate::binlog::{BinlogError, Class, EventKind, EventStream, kind};
use crate::metrics;

const LOOKING: &str = "looking for what the misroute watch is about";
/// The server says so often that it has nothing to say.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A position by itself, without anything found. Of an idle server none is written.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Many that were written in a row are written down together; of the last one a heartbeat tells.
const TELL_EVERY: Duration = Duration::from_millis(200);
const TELL_AT: usize = 1000;
/// As readers ask what keeps changes out of the log.
const ASK_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Binlog(#[from] BinlogError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The table cannot be watched as it is.
    #[error("table {table}: {why}")]
    Table { table: String, why: String },
    #[error("its log shows {group} as another group than it was")]
    OtherLog { group: String },
    /// Another watch of this server has written down more.
    #[error("another watch of this server is at it")]
    Beside,
    /// Layouts are to be read anew.
    #[error("a planned table has another definition")]
    Redefined,
}

impl From<modshift_mariadb::ServerError> for Trouble {
    fn from(error: modshift_mariadb::ServerError) -> Trouble {
        Trouble::Binlog(BinlogError::Server(error))
    }
}

impl Trouble {
    /// A crash has left a file without its end: behind what is whole the next one goes on.
    fn is_cut_file(&self) -> bool {
        matches!(self, Trouble::Binlog(BinlogError::Server(error)) if error.is_cut_file())
    }

    /// Nothing behind the last group can be had as it was written.
    fn is_gap(&self) -> bool {
        match self {
            // A login, a right, a schema: what is wrong with it an operator mends, and the log waits.
            Trouble::Binlog(BinlogError::Server(error)) => {
                matches!(error, modshift_mariadb::ServerError::Binlog { .. })
                    && !error.is_cut_file()
            }
            // So it does while other sessions may not be what they should be.
            Trouble::Binlog(BinlogError::Setting { setting, .. }) => *setting == "log_bin",
            // A replica in the server's place that has not applied everything yet. A server that has lost
            // it shows another group in its place once it has written as many.
            Trouble::Binlog(BinlogError::BehindStart { .. }) => false,
            // Whether it leaves things out may not be asked.
            Trouble::Binlog(BinlogError::NotWhole { gap, .. }) => !gap.is_of_rights(),
            Trouble::Binlog(error) => error.class() == Class::Halt,
            Trouble::OtherLog { .. } => true,
            Trouble::Catalog(_) | Trouble::Table { .. } | Trouble::Beside | Trouble::Redefined => {
                false
            }
        }
    }
}

/// Where a connection begins.
enum Begins {
    /// At the last group, which is compared.
    Last,
    /// Behind it.
    Behind,
    /// At present, for this reason.
    Now(String),
}

/// Watches one server until it is dropped. `label_of` names its shard in metrics.
pub async fn watch(
    plan: &Plan,
    endpoint: Endpoint,
    shard: u16,
    watching: Watching,
    seen: Misroutes,
) -> std::convert::Infallible {
    metrics::begin_misroutes(shard);
    let mut backoff = Backoff::default();
    let mut from = Begins::Last;
    loop {
        let at = seen.known().done.clone();
        let trouble = match follow(plan, &endpoint, shard, &watching, &seen, &mut from).await {
            Ok(never) => match never {},
            Err(trouble) => trouble,
        };
        if seen.known().done != at {
            backoff.reset();
        }
        let words = trouble.to_string();
        if trouble.is_gap() {
            if !matches!(&from, Begins::Now(why) if *why == words) {
                tracing::error!(shard, error = words, "the misroute watch has a gap");
                metrics::misroute_gap(shard);
            }
            from = Begins::Now(words.clone());
        } else if trouble.is_cut_file() {
            from = Begins::Behind;
        } else if !matches!(trouble, Trouble::Redefined) {
            tracing::warn!(shard, error = words, "the misroute watch connects again");
        }
        seen.change(|known| known.trouble = Some(words));
        if !matches!(trouble, Trouble::Redefined) {
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

async fn follow(
    plan: &Plan,
    endpoint: &Endpoint,
    shard: u16,
    watching: &Watching,
    seen: &Misroutes,
    from: &mut Begins,
) -> Result<std::convert::Infallible, Trouble> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    let whole_by_now = whole(&mut conn, endpoint).await;
    let stores = watching.keeping == Keeping::Stored;
    let stored = store::load(&mut conn, endpoint).await?;
    let mut known = match (stores, stored) {
        (true, Some(stored)) => Known { seen: seen.known().seen, ..stored },
        // What this one has read by itself is further on.
        (false, Some(stored)) if !has_begun(seen) || !seen.known().done.contains(&stored.done) => {
            Known { seen: seen.known().seen, ..stored }
        }
        (_, None) if !has_begun(seen) => Known::begin(watching.begin.clone()),
        (_, _) => seen.view(),
    };
    if stores {
        store::begin(&mut conn, endpoint, &known).await?;
    }
    // As of what is stored.
    let mut saved = known.done.clone();
    let why = match (&*from, &whole_by_now) {
        (_, Err(trouble)) if trouble.is_gap() => Some(trouble.to_string()),
        (Begins::Now(why), _) => Some(why.clone()),
        (Begins::Last | Begins::Behind, _) => None,
    };
    if let Some(why) = why {
        // Asked for behind that question: a log that leaves things out is lost once more when it does not.
        let now = position(&mut conn, endpoint).await?;
        known.lose(now, why);
        if stores && !store::save(&mut conn, endpoint, &saved, &known, &[]).await? {
            return Err(Trouble::Beside);
        }
        saved = known.done.clone();
    }
    seen.change(|shared| *shared = known);
    whole_by_now?;
    let begins = std::mem::replace(from, Begins::Last);
    let mut sift = sift(&mut conn, plan, endpoint, watching).await?;
    let start = match begins {
        Begins::Behind => seen.known().done.clone(),
        Begins::Last | Begins::Now(_) => seen.known().start().clone(),
    };
    let id = endpoint.replica_server_id ^ id_mask(watching.keeping);
    let mut stream = Box::pin(EventStream::open_as(endpoint, id, &start, HEARTBEAT)).await?;
    seen.change(|known| known.trouble = None);
    let mut pen = Pen { conn, endpoint, stores, saved, unsaved: Vec::new() };
    let ended = read_on(&mut stream, &mut sift, shard, seen, &mut pen).await;
    // Whatever ends it, what was seen is kept: behind a gap it is not read again.
    if let Err(error) = pen.save(seen).await {
        tracing::debug!(shard, %error, "what the misroute watch saw last is not written down");
    }
    ended
}

/// What writes it down.
struct Pen<'a> {
    conn: Conn,
    endpoint: &'a Endpoint,
    stores: bool,
    /// Up to there it is written down.
    saved: GtidSet,
    unsaved: Vec<Closed>,
}

impl Pen<'_> {
    async fn save(&mut self, seen: &Misroutes) -> Result<(), Trouble> {
        let known = seen.view();
        if !self.stores || known.done == self.saved {
            return Ok(());
        }
        let Pen { conn, endpoint, saved, unsaved, .. } = self;
        if !store::save(conn, endpoint, saved, &known, unsaved).await? {
            return Err(Trouble::Beside);
        }
        self.unsaved.clear();
        self.saved = known.done;
        Ok(())
    }
}

async fn read_on(
    stream: &mut EventStream,
    sift: &mut Sift,
    shard: u16,
    seen: &Misroutes,
    pen: &mut Pen<'_>,
) -> Result<std::convert::Infallible, Trouble> {
    let (mut moved, mut saved_at, mut asked_at) = (false, Instant::now(), Instant::now());
    loop {
        if asked_at.elapsed() >= ASK_EVERY {
            whole(&mut pen.conn, pen.endpoint).await?;
            asked_at = Instant::now();
        }
        let event = stream.next().await?;
        let idle = matches!(kind(event)?, EventKind::Heartbeat);
        if let Some(closed) = sift.event(event)? {
            match take(seen, shard, &closed) {
                Taken::Fresh => {}
                // The last one once more.
                Taken::Same => continue,
                Taken::Other => {
                    let group = closed.digest.gtid.to_string();
                    return Err(Trouble::OtherLog { group });
                }
            }
            moved |= !closed.own;
            let redefined = closed.redefined;
            let tells = !closed.found.is_empty() || !closed.clouded.is_empty();
            if tells && pen.stores {
                pen.unsaved.push(closed);
            }
            if redefined {
                return Err(Trouble::Redefined);
            }
        }
        let found: usize = pen.unsaved.iter().map(|group| group.found.len() + 1).sum();
        let waited = saved_at.elapsed();
        let told = found > 0 && (idle || waited >= TELL_EVERY || found >= TELL_AT);
        let due = moved && waited >= SAVE_EVERY && (idle || sift.between_groups());
        if told || due {
            pen.save(seen).await?;
            (moved, saved_at) = (false, Instant::now());
        }
    }
}

/// The server ends the former connection of a replica for its next one, and the shard's reader, the
/// watch and one beside it read the same log. All ids of a plan are alike in these bits.
const fn id_mask(keeping: Keeping) -> u32 {
    match keeping {
        Keeping::Stored => 1 << 24,
        Keeping::Memory => 1 << 25,
    }
}

fn has_begun(seen: &Misroutes) -> bool {
    let known = seen.known();
    known.last.is_some() || !known.done.is_empty()
}

fn take(seen: &Misroutes, shard: u16, closed: &Closed) -> Taken {
    let mut taken = Taken::Fresh;
    seen.change(|known| taken = known.take(closed));
    if taken == Taken::Fresh && !closed.found.is_empty() {
        let tables: std::collections::BTreeSet<&str> =
            closed.found.iter().map(|found| found.table.as_str()).collect();
        let tables = tables.into_iter().collect::<Vec<_>>().join(", ");
        let (gtid, rows) = (closed.digest.gtid, closed.found.len());
        tracing::error!(shard, %gtid, tables, rows, "rows were written that are not at home here");
        metrics::misrouted(shard, rows as u64);
    }
    taken
}

/// The server's log has every change of its rows.
async fn whole(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), Trouble> {
    let at = label(endpoint);
    let facts = whole_log::read(conn, &at).await?;
    match whole_log::gaps(&facts, Part::Primary).into_iter().next() {
        None => Ok(()),
        Some(gap) => Err(BinlogError::NotWhole { at, gap: Box::new(gap) }.into()),
    }
}

async fn position(conn: &mut Conn, endpoint: &Endpoint) -> Result<GtidSet, Trouble> {
    let of = |error| error::of(&label(endpoint), LOOKING, error);
    let now: Option<String> =
        conn.query_first("SELECT @@GLOBAL.gtid_binlog_pos").await.map_err(of)?;
    let now = now.unwrap_or_default();
    let malformed = |_| BinlogError::NotAnEvent { at: label(endpoint) };
    Ok(now.parse().map_err(malformed)?)
}

async fn sift(
    conn: &mut Conn,
    plan: &Plan,
    endpoint: &Endpoint,
    watching: &Watching,
) -> Result<Sift, Trouble> {
    let of = |error| error::of(&label(endpoint), LOOKING, error);
    let sql = "SELECT DATABASE(), @@GLOBAL.lower_case_table_names <> 0";
    let spelled: Option<(Option<String>, bool)> = conn.query_first(sql).await.map_err(of)?;
    let (schema, fold) = spelled.unwrap_or_default();
    let schema = schema.unwrap_or_else(|| endpoint.schema.clone());
    let mut tables = Vec::new();
    for table in &plan.tables {
        let Placement::Sharded { key, rule } = &table.placement else { continue };
        let found = catalog::table(conn, &endpoint.schema, &table.name).await?;
        let refused = |why: String| Trouble::Table { table: table.name.clone(), why };
        let column = found.column(key).ok_or_else(|| refused(format!("no column {key}")))?;
        let rule = rule.bind(&found.columns[column]).map_err(|error| refused(error.to_string()))?;
        if found.primary_key.is_empty() {
            return Err(refused("no primary key".to_owned()));
        }
        tables.push(Watched { schema: found, column, rule });
    }
    let collations = catalog::collations(conn).await?;
    let spelling = Spelling { schema, fold, collations };
    Ok(Sift::new(spelling, tables, watching.home.clone(), watching.modulus)?)
}
