//! The daemons: `replicator`, `consumer`, and `run`, which is both in one process.
//!
//! Two phases. First everything is parsed and checked, and all faults are reported at once; then
//! streams, gate and status pages run until a signal, or until every stream has halted.

mod control;
pub mod direction;
mod fences;
mod first;
mod log;
pub mod newborn;
mod standby;
pub mod streams;
mod verifier;
mod watchdog;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use modshift_changelog::Class;
use modshift_mariadb::Waits;
use modshift_mariadb::pace::Throttle;
use modshift_mariadb::presence::Present;
use modshift_proto::plan::{Log, Plan};
use modshift_proto::{NewShard, OldShard};
use modshift_replicator::Together;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::check::{self, Severity, Side};
use crate::control::api::Api;
use crate::control::clerk::Clerk;
use crate::control::listener;
use crate::exit::{BadPlan, Exit};
use crate::signals::Signals;
use crate::{args, gate, http, metrics};
use log::ChangeLog;
use streams::{Board, Ended, Streams};
use verifier::Changed;

/// How often a change log that cannot be reached is asked for again.
const LOG_RETRY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Replicator,
    Consumer,
    Run,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Replicator => "replicator",
            Role::Consumer => "consumer",
            Role::Run => "run",
        }
    }

    /// Where the plan wants it to listen.
    pub fn planned_address(self, plan: &Plan) -> Option<&String> {
        match self {
            Role::Replicator => plan.http.replicator.as_ref(),
            Role::Consumer => plan.http.consumer.as_ref(),
            Role::Run => plan.http.run.as_ref(),
        }
    }

    /// Unless plan or command line say otherwise, on loopback.
    pub fn port(self) -> u16 {
        match self {
            Role::Replicator => 9477,
            Role::Consumer => 9478,
            Role::Run => 9479,
        }
    }
}

/// How the pages are protected. A token that pauses daemons does not cross a network in the clear.
fn protection(plan: &Plan, address: SocketAddr) -> anyhow::Result<Option<TlsAcceptor>> {
    let tls = plan.control.tls.as_ref().map(listener::acceptor).transpose();
    let tls = tls.map_err(|error| BadPlan(format!("{error:#}")))?;
    if tls.is_none() && plan.control.token.is_some() && !address.ip().is_loopback() {
        let message = format!(
            "the plan has a control.token, and {address} can be reached from other hosts without \
             TLS: give control.tls_cert and control.tls_key, listen on loopback, or take the token \
             out"
        );
        return Err(BadPlan(message).into());
    }
    Ok(tls)
}

/// The shards that this process looks after.
#[derive(Debug, Default, PartialEq)]
struct Share {
    /// Those that are read.
    old: Vec<OldShard>,
    /// Those that are applied to.
    new: Vec<NewShard>,
}

pub async fn run(
    plan: Arc<Plan>,
    role: Role,
    shards: &args::Shards,
    args: &args::Http,
) -> anyhow::Result<Exit> {
    let signals = Signals::listen().context("listening for signals")?;
    let forward = share(&plan, role, "--shards", shards.shards.as_deref())?;
    let back_plan = Arc::new(plan.reversed());
    let back = back_share(&back_plan, role, shards)?;
    let address = address(&plan, role, args).await?;
    let tls = protection(&plan, address)?;
    let prometheus = metrics::install()?;
    let listener = http::bind(address).await?;
    let address = listener.local_addr().context("asking for the port")?;
    tracing::info!(role = role.name(), version = env!("CARGO_PKG_VERSION"), %address, "starting");
    tracing::info!("effective plan\n{}", plan.render_redacted());

    if is_over(&plan).await {
        return Ok(Exit::Halted);
    }
    if !checked(&plan, &forward).await {
        return Ok(Exit::BadPlan);
    }
    let cancel = CancellationToken::new();
    let quit = signals.drain_then_quit(cancel.clone());
    let present = Present::enter(&plan, role.name()).await;
    let board = Board::default();
    let throttle = Throttle::new(&plan);
    let (gate, asking) = gate::watch(plan.clone(), board.clone(), cancel.clone());
    let pages = http::Pages {
        role: role.name(),
        plan: plan.name.clone(),
        started: Instant::now(),
        metrics: prometheus.clone(),
        board: board.clone(),
        gate,
        throttle: throttle.clone(),
    };
    let (clerk, writing) = Clerk::new(plan.clone());
    let token = plan.control.token.clone();
    let api = Arc::new(Api { token, throttle: throttle.clone(), clerk });
    let pages = Box::pin(http::serve(listener, tls, Arc::new(pages), api, cancel.clone()));
    let slowing =
        Box::pin(async { tokio::join!(throttle.follow(), metrics::follow(&throttle), writing).0 });
    let upkeep = metrics::upkeep(prometheus, cancel.clone());
    let working = async {
        let ways = [(&plan, &forward), (&back_plan, &back)];
        tokio::select! {
            exit = Box::pin(work_again(ways, board, &throttle, &cancel)) => exit,
            never = Box::pin(watchdog::run(&plan)) => match never {},
            never = Box::pin(first::run(&plan, &forward)) => match never {},
            never = present.stay() => match never {},
        }
    };
    // Those beside the work end with it: they are dropped here.
    let beside = async { tokio::join!(asking, pages, upkeep, slowing, std::future::pending()).4 };
    let serving = async {
        tokio::select! {
            exit = working => exit,
            never = beside => never,
        }
    };
    tokio::select! {
        exit = serving => exit,
        () = quit => Ok(Exit::CannotTell),
    }
}

/// A reshard that is finished stays so, however often a daemon is started. (To a reader without a token
/// its shard is new: it would copy old rows over newer ones.)
async fn is_over(plan: &Plan) -> bool {
    let over = crate::cutover::is_finished(plan).await;
    if over {
        let name = &plan.name;
        tracing::error!("the reshard {name} is finished, see modshift status: disable this daemon");
    }
    over
}

/// The streams there and back; and once more when another process that had taken them is gone.
async fn work_again(
    ways: [(&Arc<Plan>, &Share); 2],
    board: Board,
    throttle: &Throttle,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    loop {
        match work(ways, board.clone(), throttle, cancel).await? {
            Ended::Exit(exit) => return Ok(exit),
            Ended::Displaced => {}
        }
        tracing::warn!(
            "another daemon has the streams of this one: waiting until it is gone. Stop one of the \
             two for good"
        );
        if !standby::until_alone(ways, throttle.desk(), cancel).await {
            return Ok(Exit::Done);
        }
        // Much may have happened.
        if is_over(ways[0].0).await {
            return Ok(Exit::Halted);
        }
        tracing::info!("the other daemon is gone: taking the streams again");
        board.clear();
    }
}

/// The streams there and back, until all have ended.
async fn work(
    ways: [(&Arc<Plan>, &Share); 2],
    board: Board,
    throttle: &Throttle,
    cancel: &CancellationToken,
) -> anyhow::Result<Ended> {
    let [(plan, _), (back_plan, _)] = ways;
    let mut streams = Streams::new(board);
    let keeping = fences::keep(plan, ways);
    // Nothing is copied or verified on the way back: its throttle holds nobody.
    let back_throttle = throttle.beside(back_plan);
    let (changed, together) = (Changed::default(), Together::default());
    for ((plan, share), throttle) in ways.into_iter().zip([throttle, &back_throttle]) {
        if *share == Share::default() {
            continue;
        }
        let Some(log) = opened(plan, streams.board(), cancel).await? else {
            return Ok(Ended::Exit(Exit::Done));
        };
        let beside = wire::Beside { throttle, changed: &changed, together: &together };
        wire::start(&mut streams, plan, &share.old, &share.new, &log, &beside, cancel);
    }
    let verifying = verifier::run(plan, throttle, changed, cancel);
    let in_process = matches!(plan.log, Log::Direct { .. });
    tokio::select! {
        ended = streams.supervise(in_process, cancel.clone()) => Ok(ended),
        never = verifying => match never {},
        never = keeping => match never {},
    }
}

/// All streams of a plan in this process, without pages and gate: for a rehearsal. Where a
/// shard is not as it should be that is said, and nothing runs.
pub async fn work_alone(
    plan: &Arc<Plan>,
    board: Board,
    throttle: &Throttle,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let whole =
        |plan: &Plan| Share { old: plan.old_shards().collect(), new: plan.new_shards().collect() };
    let back_plan = Arc::new(plan.reversed());
    let (forward, back) = (whole(plan), whole(&back_plan));
    if !checked(plan, &forward).await {
        return Ok(Exit::BadPlan);
    }
    match work([(plan, &forward), (&back_plan, &back)], board, throttle, cancel).await? {
        Ended::Exit(exit) => Ok(exit),
        Ended::Displaced => Ok(Exit::Halted),
    }
}

/// Which shards: all, or those named, each of which must exist.
fn share(
    plan: &Plan,
    role: Role,
    option: &'static str,
    shards: Option<&[u16]>,
) -> anyhow::Result<Share> {
    if role != Role::Run && matches!(plan.log, Log::Direct { .. }) {
        let message = format!(
            "log.kind = \"direct\" lives within one process: use `modshift run`, or kind = \"kafka\" \
             for `modshift {}`",
            role.name()
        );
        return Err(BadPlan(message).into());
    }
    let limit = match role {
        Role::Consumer => plan.new_modulus.get(),
        Role::Replicator | Role::Run => plan.old_modulus.get(),
    };
    let all: Vec<u16> = (0..limit).collect();
    let mut chosen = shards.unwrap_or(&all).to_vec();
    chosen.sort_unstable();
    chosen.dedup();
    if let Some(wrong) = chosen.iter().find(|shard| **shard >= limit) {
        let message = format!("{option} {wrong}: the plan has shards 0 to {}", limit - 1);
        return Err(BadPlan(message).into());
    }
    Ok(match role {
        Role::Replicator => {
            Share { old: chosen.into_iter().map(OldShard).collect(), new: Vec::new() }
        }
        Role::Consumer => {
            Share { old: Vec::new(), new: chosen.into_iter().map(NewShard).collect() }
        }
        Role::Run => Share { old: plan.old_shards().collect(), new: plan.new_shards().collect() },
    })
}

/// The same of the way back, over the plan turned around. Where somebody spreads shards over
/// processes, no two of these may take the same by themselves.
fn back_share(plan: &Plan, role: Role, shards: &args::Shards) -> anyhow::Result<Share> {
    match (&shards.back_shards, &shards.shards) {
        (Some(_), _) if !plan.back.enabled => {
            let message = "--back-shards: the plan says back.enabled = false";
            Err(BadPlan(message.to_owned()).into())
        }
        (None, None) if plan.back.enabled => share(plan, role, "--back-shards", None),
        (None, _) => Ok(Share::default()),
        (Some(chosen), _) => share(plan, role, "--back-shards", Some(chosen)),
    }
}

async fn address(plan: &Plan, role: Role, args: &args::Http) -> anyhow::Result<SocketAddr> {
    match (args.listen, role.planned_address(plan)) {
        (Some(address), _) => Ok(address),
        (None, None) => Ok(SocketAddr::from(([127, 0, 0, 1], role.port()))),
        (None, Some(text)) => {
            let unknown = || BadPlan(format!("http.{}: {text} is no address here", role.name()));
            let mut found = tokio::net::lookup_host(text).await.map_err(|_| unknown())?;
            Ok(found.next().ok_or_else(unknown)?)
        }
    }
}

/// Says everything that is wrong with the shards of this process, and whether it may start.
async fn checked(plan: &Arc<Plan>, share: &Share) -> bool {
    let old = share.old.iter().map(|&shard| Side::Old(shard));
    let new = share.new.iter().map(|&shard| Side::New(shard));
    let faults = check::before_start(plan.clone(), old.chain(new).collect()).await;
    for fault in &faults {
        match fault.severity {
            Severity::Fault => tracing::error!(rule = fault.rule, "{fault}"),
            Severity::Warning => tracing::warn!(rule = fault.rule, "{fault}"),
            Severity::Note => tracing::debug!(rule = fault.rule, "{fault}"),
        }
    }
    faults.iter().all(|fault| fault.severity != Severity::Fault)
}

/// Waits for brokers that are only away; `None` when cancelled meanwhile.
async fn opened(
    plan: &Plan,
    board: &Board,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<ChangeLog>> {
    const LOG: &str = "the change log";
    let mut waits = Waits::default();
    loop {
        let Some(opened) = cancel.run_until_cancelled(ChangeLog::open(plan)).await else {
            return Ok(None);
        };
        let error = match opened {
            Ok(log) => {
                board.note(LOG, None);
                return Ok(Some(log));
            }
            Err(error) => error,
        };
        let hint = error.hint().unwrap_or_default();
        if error.class() == Class::Halt {
            return Err(BadPlan(format!("{error}; {hint}")).into());
        }
        let waited_s = waits.begin(error.to_string(), Some(hint.to_owned())).as_secs();
        board.note(LOG, waits.line().as_deref());
        tracing::warn!(%error, hint, waited_s, "the change log does not answer: waiting");
        if cancel.run_until_cancelled(tokio::time::sleep(LOG_RETRY)).await.is_none() {
            return Ok(None);
        }
    }
}
