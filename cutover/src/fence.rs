//! Stops what writes to a shard, so that nothing is acknowledged after the marker; and lets it
//! write again, exactly as before.
//!
//! The order matters, each step having been seen to leak without the one before:
//! event scheduler (it writes through read_only) and the events that run, then `read_only` (waits for
//! running statements; idle transactions fail at COMMIT), on the shard's replicas too, then accounts
//! locked and their connections killed *and seen gone* (a commit under way outlives the KILL; an account with READ ONLY ADMIN does
//! not mind read_only), then what its peers had taken is applied, and only then inbound replication
//! stopped (it writes through read_only), then no prepared XA (`XA PREPARE` succeeds under read_only),
//! then the marker.

mod marker;

use std::time::Duration;

use futures_util::future::{join, join_all};
use modshift_changelog::stage;
use modshift_mariadb::connect::label;
use modshift_mariadb::control::VERIFY;
use modshift_mariadb::{ServerError, Session, connect, error};
use modshift_proto::Gtid;
use modshift_proto::plan::{Account, Endpoint, FenceScope};
use mysql_async::prelude::Queryable;

use crate::accounts::{self, account_sql, expel, is_locked, stays};
use crate::error::CutoverError;
use crate::events::{self, Whose};
use crate::held::{self, Cause, Others};
use crate::peers;
use crate::register::quote;
use crate::server::{Server, kill};
use crate::shard::{Shard, connections, replicating};
use crate::step::Side;

pub(crate) use self::marker::phase_of;
pub use self::marker::{
    BARRED, Phase, bar, mark, mark_first, mark_kept_out, mark_opened, marked, phase, unbar,
};

/// How long `SET GLOBAL read_only` may wait for running statements before they are killed.
const WRITER_PATIENCE: Duration = Duration::from_millis(200);
/// How long sessions of a side that is not to serve yet may take to end: no budget counts there.
const EXPEL_PATIENCE: Duration = Duration::from_secs(10);
/// MariaDB's lock_wait_timeout is in whole seconds.
const LOCK_WAIT_S: u64 = 1;
const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// For ending what keeps `read_only` waiting.
const KILLING: Duration = Duration::from_secs(2);
const NO_SUCH_TABLE: u16 = 1146;

/// Ends all writing but modshift's own. Safe to repeat: what is so already is left.
pub async fn close(shard: &mut Shard) -> Result<(), CutoverError> {
    close_within(shard, None).await
}

async fn close_within(shard: &mut Shard, patience: Option<Duration>) -> Result<(), CutoverError> {
    held::claim(shard, if patience.is_some() { Cause::KeptOut } else { Cause::Left }).await?;
    let accounts_only = shard.accounts_only;
    let accounts = shard.accounts.clone();
    let replicas = join_all(shard.replicas.iter_mut().map(async |replica| {
        events::stop(replica).await?;
        read_only(replica, &accounts).await
    }));
    let primary = async {
        match shard.scope {
            FenceScope::Server => events::stop(&mut shard.primary).await?,
            FenceScope::Accounts => {
                let schema = shard.primary.endpoint.schema.clone();
                events::end(&mut shard.primary, Whose::Of(&schema)).await?;
            }
        }
        // Clients of the primary cannot write any more while it takes in what peers have.
        if !accounts_only {
            read_only(&mut shard.primary, &accounts).await?;
        }
        accounts::lock(&mut shard.primary, &accounts).await?;
        expel(&mut shard.primary, &accounts, patience).await
    };
    let (primary, replicas) = join(primary, replicas).await;
    primary?;
    replicas.into_iter().collect::<Result<(), _>>()?;
    if shard.scope != FenceScope::Server {
        return Ok(());
    }
    // What runs now: connections come and go, and a restart starts them again.
    if !replicating(&mut shard.primary).await?.is_empty() {
        peers::applied(shard, patience).await?;
        stop_replication(&mut shard.primary).await?;
    }
    Ok(())
}

/// The same for the side that is not to serve yet. Where its server is one of the other side, too,
/// only its own accounts are kept out: the rest of that server still serves.
pub async fn keep_out(shard: &mut Shard) -> Result<(), CutoverError> {
    if !shard.accounts_only {
        return close_within(shard, Some(EXPEL_PATIENCE)).await;
    }
    held::claim(shard, Cause::KeptOut).await?;
    lock_out(shard).await
}

/// Undoes [`keep_out`], exactly: where this side was left by an earlier run it stays closed. Whether
/// it was let in.
pub async fn let_in(shard: &mut Shard) -> Result<bool, CutoverError> {
    match held::own(shard).await? {
        Some(record) if record.cause == Cause::KeptOut => {
            shard.accounts_only = !record.server;
            shard.was = record.was;
            release(shard, Release::Restore).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Closes these of a fenced shard's servers again. Accounts that are locked stay so over a restart;
/// `read_only`, the event scheduler and whether replication starts by itself are what the server's file
/// says.
pub(crate) async fn shut(shard: &mut Shard, servers: &[usize]) -> Result<(), CutoverError> {
    let accounts = shard.accounts.clone();
    let wanted = shard.servers().enumerate().filter(|(index, _)| servers.contains(index));
    let mut errors = Vec::new();
    for (index, server) in wanted {
        read_only(server, &accounts).await?;
        // Either writes through read_only.
        errors.extend(events::stop(server).await.err());
        if index == 0 {
            errors.extend(stop_replication(server).await.err());
        }
    }
    CutoverError::all(errors)
}

/// What else can be done where a fence cannot be put up again: the accounts that the plan names.
pub(crate) async fn lock_out(shard: &mut Shard) -> Result<(), CutoverError> {
    let accounts = shard.accounts.clone();
    accounts::lock(&mut shard.primary, &accounts).await?;
    expel(&mut shard.primary, &accounts, Some(EXPEL_PATIENCE)).await
}

async fn stop_replication(server: &mut Server) -> Result<(), CutoverError> {
    for name in replicating(server).await? {
        let sql = format!("STOP SLAVE {}", quote(&name));
        server.run("stopping replication into it", &sql).await?;
    }
    Ok(())
}

pub(crate) async fn read_only(
    server: &mut Server,
    accounts: &[Account],
) -> Result<(), CutoverError> {
    let doing = "setting read_only";
    let state: Vec<bool> = server.ask(doing, "SELECT @@read_only").await?;
    if state.first() == Some(&true) {
        return Ok(());
    }
    server.run(doing, &format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")).await?;
    let (endpoint, spared) = (server.endpoint.clone(), server.own_users.clone());
    loop {
        let set = server.run(doing, "SET GLOBAL read_only = 1");
        tokio::pin!(set);
        let outcome = tokio::select! {
            outcome = &mut set => outcome,
            () = tokio::time::sleep(WRITER_PATIENCE) => {
                // Not through the account lock: it would queue up behind read_only.
                // Who cannot be asked in time: the statement itself has its deadline.
                let killing = kill_writers(&endpoint, &spared, accounts);
                if let Ok(killed) = tokio::time::timeout(KILLING, killing).await {
                    killed?;
                }
                set.await
            }
        };
        match outcome {
            Err(CutoverError::Server(error)) if error.code() == Some(LOCK_WAIT_TIMEOUT) => {}
            outcome => return outcome.map(drop),
        }
    }
}

/// Connections that may keep `read_only` waiting: those of the application, whatever they do, and
/// statements of others that have run for long and are no plain reads.
async fn kill_writers(
    endpoint: &Endpoint,
    spared: &[String],
    accounts: &[Account],
) -> Result<(), ServerError> {
    let at = label(endpoint);
    let of = |error| error::of(&at, "ending what writes", error);
    let mut conn = connect(endpoint, Session::Plain).await?;
    let sql = format!(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE ({}) OR (USER NOT IN
         ('system user', 'event_scheduler', 'unauthenticated user', {}) AND ID <> CONNECTION_ID()
         AND COMMAND IN ('Query', 'Execute') AND TIME_MS > {} AND INFO NOT LIKE 'SELECT%'
         AND INFO NOT LIKE 'SHOW%')",
        accounts::sessions(accounts),
        spared.iter().map(|user| quote(user)).collect::<Vec<_>>().join(", "),
        WRITER_PATIENCE.as_millis(),
    );
    let found: Vec<u64> = conn.query(sql).await.map_err(of)?;
    for id in found {
        tracing::warn!(server = at, connection = id, "killed: it kept read_only waiting");
        kill(&mut conn, id).await.map_err(of)?;
    }
    conn.disconnect().await.map_err(of)
}

/// No transaction may be left that an XA COMMIT could still bring in.
pub async fn no_prepared(shard: &mut Shard) -> Result<(), CutoverError> {
    let server = &mut shard.primary;
    let found: Vec<mysql_async::Row> =
        server.ask("looking for prepared transactions", "XA RECOVER").await?;
    match found.len() {
        0 => Ok(()),
        count => Err(CutoverError::Prepared { server: server.name.clone(), count }),
    }
}

/// The whole fence of one shard: its marker. `None` from one that only prints.
pub async fn fence(shard: &mut Shard, run: &str) -> Result<Option<Gtid>, CutoverError> {
    close(shard).await?;
    no_prepared(shard).await?;
    mark(shard, Phase::Fenced, run).await
}

/// Of a shard that is to be a copy: that its rows were once those of the other side says nothing of
/// what the application has written here since.
pub async fn forget_proof(shard: &mut Shard) -> Result<(), CutoverError> {
    let sql = format!(
        "UPDATE {VERIFY} SET proof = NULL, started = NULL \
         WHERE proof IS NOT NULL OR started IS NOT NULL"
    );
    match shard.primary.run("forgetting the proof of the time before", &sql).await {
        Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_TABLE) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Does the fence still hold, as far as the shard's servers say? No where a connection was lost:
/// the server may have been started again, without read_only.
pub async fn holds(shard: &mut Shard) -> Result<bool, CutoverError> {
    let accounts_only = shard.accounts_only;
    let sessions = format!("({}) AND COMMAND <> 'Connect'", accounts::sessions(&shard.accounts));
    let events_matter = shard.scope == FenceScope::Server;
    let schema = shard.primary.endpoint.schema.clone();
    let whose = if events_matter { Whose::Everyone } else { Whose::Of(&schema) };
    let running = events::running(whose);
    for (server, primary) in
        shard.servers().zip(std::iter::once(true).chain(std::iter::repeat(false)))
    {
        if !server.is_live() {
            return Ok(false);
        }
        let condition = match primary {
            true => format!("({sessions} OR {running})"),
            false => running.clone(),
        };
        let sql = format!(
            "SELECT @@read_only, @@event_scheduler = 'ON', (SELECT COUNT(*) FROM
             information_schema.PROCESSLIST WHERE {condition})"
        );
        let rows = server.ask("checking the fence", &sql).await;
        let rows: Vec<(bool, bool, u64)> = match rows {
            Err(CutoverError::Server(error)) if error.is_connection_lost() => return Ok(false),
            rows => rows?,
        };
        let read_only_matters = !(primary && accounts_only);
        let held = rows.first().is_some_and(|&(read_only, events, _)| {
            (read_only || !read_only_matters) && !(events && events_matter)
        });
        if !held && !server.is_dry() {
            return Ok(false);
        }
        // Whoever started it again lets in what comes from elsewhere.
        if primary && events_matter && !server.is_dry() {
            match replicating(server).await {
                Ok(names) if names.is_empty() => {}
                Ok(_) => return Ok(false),
                Err(CutoverError::Server(error)) if error.is_connection_lost() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let connected = rows.first().is_some_and(|&(.., connections)| connections > 0);
        if connected && !server.is_dry() && stays(server, &condition).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a shard is let go for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// As it was before the fence.
    Restore,
    /// To serve, whatever it was.
    Serve,
}

/// Between two statements that open a shard: whoever repeats all of them mends what is half done.
const MID_RELEASE: &str = "mid_release";

/// Is there anything to be released? Not where that was done already.
pub async fn is_closed(shard: &mut Shard) -> Result<bool, CutoverError> {
    Ok(!shard.was.is_empty() || held::own(shard).await?.is_some())
}

/// Lets applications write again. The serving marker must stand in the log before.
pub async fn release(shard: &mut Shard, how: Release) -> Result<(), CutoverError> {
    release_primary(shard, how).await?;
    CutoverError::all(release_replicas(shard, how).await)?;
    released(shard).await
}

/// Nothing of it is left to be done: what the servers were is remembered no longer.
pub async fn released(shard: &mut Shard) -> Result<(), CutoverError> {
    held::forget(shard).await?;
    stage::reached(MID_RELEASE, 1).await;
    Ok(())
}

/// The shard serves after it.
pub async fn release_primary(shard: &mut Shard, how: Release) -> Result<(), CutoverError> {
    let serve = how == Release::Serve;
    let doing = "ending read_only";
    let others = held::let_go(shard).await?;
    stage::reached(MID_RELEASE, 1).await;
    let was = shard.was.first().cloned().unwrap_or_default();
    shard.kept_closed = matches!(others, Others::OtherPlan(_));
    let last = others == Others::Nobody;
    if last && !shard.accounts_only && (serve || !was.read_only) {
        let state: Vec<bool> = shard.primary.ask(doing, "SELECT @@read_only").await?;
        if state.first() != Some(&false) {
            shard.primary.run(doing, "SET GLOBAL read_only = 0").await?;
            stage::reached(MID_RELEASE, 1).await;
        }
    }
    for account in &shard.accounts {
        if !serve && was.locked.contains(&account.to_string()) {
            continue;
        }
        if is_locked(&mut shard.primary, account).await? || shard.primary.is_dry() {
            let sql = format!("ALTER USER {} ACCOUNT UNLOCK", account_sql(account));
            shard.primary.run("unlocking the application's accounts", &sql).await?;
            stage::reached(MID_RELEASE, 1).await;
        }
    }
    if let Others::OtherPlan(record) = &others {
        return match !shard.accounts_only && (serve || !was.read_only) {
            true => Err(held::still_closed(&shard.primary, record)),
            false => Ok(()),
        };
    }
    // The twin that goes last opens the server.
    if !last || serve && shard.accounts_only && shard.side == Side::New {
        // Of a server that is an old shard's too: what wrote to that stays stopped.
        return Ok(());
    }
    start_replication(&mut shard.primary, &was.replicating).await?;
    stage::reached(MID_RELEASE, 1).await;
    events::start(&mut shard.primary, &was).await?;
    stage::reached(MID_RELEASE, 1).await;
    Ok(())
}

async fn start_replication(server: &mut Server, names: &[String]) -> Result<(), CutoverError> {
    if names.is_empty() {
        return Ok(());
    }
    let there = connections(server).await?;
    for name in names {
        if !server.is_dry() && !there.iter().any(|connection| connection.name == *name) {
            tracing::warn!(
                server = server.name,
                connection = name,
                "not started again: it has been removed since (RESET SLAVE ALL)"
            );
            continue;
        }
        let sql = format!("START SLAVE {}", quote(name));
        server.run("starting replication again", &sql).await?;
    }
    Ok(())
}

/// Its replicas are as they were. None waits for another; what fails is named.
pub async fn release_replicas(shard: &mut Shard, how: Release) -> Vec<CutoverError> {
    let of_both = how == Release::Serve && shard.accounts_only && shard.side == Side::New;
    if of_both || shard.kept_closed {
        return Vec::new();
    }
    let were = shard.was.iter().skip(1);
    let released = join_all(shard.replicas.iter_mut().zip(were).map(async |(replica, was)| {
        if !was.read_only {
            replica.run("ending read_only", "SET GLOBAL read_only = 0").await?;
        }
        events::start(replica, was).await
    }));
    let errors = released.await.into_iter().filter_map(Result::err).collect();
    stage::reached(MID_RELEASE, shard.replicas.len() as u64).await;
    errors
}
