//! An estate whose application has an account of its own, and follows the routing.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::Plan;
use modshift_routing::{Document, Side, Source};
use modshift_tests::{
    Address, Estate, EstateOptions, Log, Modshift, Writer, WriterOptions, case::Size,
    estate::Shard, process::http_get, random::Random, server::PASSWORD, writer::Follow,
};

pub use modshift_tests::application::{APP, APP_ACCOUNT};

pub const LIMIT: Duration = Duration::from_secs(180);

pub struct Site {
    pub estate: Estate,
    pub routing: PathBuf,
}

/// As a cutover under test wants them; `accounts` as in the plan. A test may add `[[routing]]`.
pub fn options(log: Log, seed: u64, budget: &str, accounts: &str) -> EstateOptions {
    EstateOptions {
        log,
        seed,
        size: Size::rows(2_000),
        gate: ("5s".to_owned(), "500ms".to_owned()),
        plan_tail: format!(
            "[reader]\nheartbeat = \"50ms\"\nprogress_interval = \"100ms\"\n\n\
             [cutover]\naccounts = [{accounts}]\nbudget = \"{budget}\"\n\n\
             [[routing]]\nkind = \"file\"\npath = \"routing.json\"\n"
        ),
        ..EstateOptions::default()
    }
}

/// The plan gives the watchdog up.
pub fn unwatched(options: EstateOptions) -> EstateOptions {
    let plan_tail = options.plan_tail.replace("[cutover]\n", "[cutover]\nwatchdog = false\n");
    EstateOptions { plan_tail, ..options }
}

impl Site {
    /// The new shards are in read_only, as they should be until they are opened.
    pub async fn start(old: usize, new: usize, log: Log, seed: u64, budget: &str) -> Result<Self> {
        Self::start_with(old, new, log, seed, budget, &format!("\"{APP_ACCOUNT}\"")).await
    }

    /// The same, and no daemon ends a run in the operator's place: that is for the test to do.
    pub async fn unwatched(
        old: usize,
        new: usize,
        log: Log,
        seed: u64,
        budget: &str,
    ) -> Result<Self> {
        Self::open(old, new, unwatched(options(log, seed, budget, &format!("\"{APP_ACCOUNT}\""))))
            .await
    }

    /// The same with other accounts for the fence, as in the plan.
    pub async fn start_with(
        old: usize,
        new: usize,
        log: Log,
        seed: u64,
        budget: &str,
        accounts: &str,
    ) -> Result<Self> {
        Self::open(old, new, options(log, seed, budget, accounts)).await
    }

    pub async fn open(old: usize, new: usize, options: EstateOptions) -> Result<Self> {
        let estate = Estate::start(old, new, options).await?;
        for shard in &estate.new {
            shard.server.run("SET GLOBAL read_only = 1").await?;
        }
        let routing = estate.dir().join("routing.json");
        let site = Self { estate, routing };
        let document = Document::of_plan(&site.plan()?, Side::Old, 1);
        std::fs::write(&site.routing, document.to_json()).context("writing the routing")?;
        Ok(site)
    }

    pub fn plan(&self) -> Result<Plan> {
        let env = |name: &str| (name == "MODSHIFT_PASSWORD").then(|| PASSWORD.to_owned());
        Plan::parse(&self.estate.plan(), &env).map_err(|errors| anyhow::anyhow!("{errors}"))
    }

    /// An application that makes refused transactions again where the routing says.
    pub async fn writer(&self, seed: u64, rate: f64) -> Result<Writer> {
        let options = WriterOptions {
            seed,
            connections: 6,
            rate: Some(rate),
            giants: None,
            ..WriterOptions::default()
        };
        let source = Source::File(self.routing.clone());
        let follow = Follow {
            user: APP.to_owned(),
            password: APP.to_owned(),
            other_modulus: Some(self.estate.new.len()),
            ..Follow::new(source)
        };
        Writer::follow(options, follow).await
    }

    pub fn daemons(&self) -> Result<Vec<Modshift>> {
        let roles: &[&str] =
            if self.estate.broker.is_some() { &["consumer", "replicator"] } else { &["run"] };
        let start = |role: &&str| self.estate.modshift([*role, "--listen", "127.0.0.1:0"]).start();
        roles.iter().map(start).collect()
    }

    /// A command of the operator; fails unless it ends with one of these codes.
    pub async fn command(&self, args: &[&str], codes: &[i32]) -> Result<String> {
        let launch = self.estate.modshift(args.iter().copied());
        let (code, output) = launch.finish(LIMIT).await?;
        println!("$ modshift {}\n{output}\n=> {code}", args.join(" "));
        ensure!(codes.contains(&code), "modshift {} ended with {code}:\n{output}", args.join(" "));
        Ok(output)
    }

    /// What `status` says of who serves.
    pub async fn serves(&self) -> Result<String> {
        let (_, serves) = self.said().await?;
        Ok(serves["side"].as_str().unwrap_or_default().to_owned())
    }

    /// The code with which `status` ends, and all that it says of who serves.
    pub async fn said(&self) -> Result<(i32, serde_json::Value)> {
        let launch = self.estate.modshift(["status", "--json"]);
        let (code, output) = launch.finish(LIMIT).await?;
        let line = output.lines().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("status ended with {code}:\n{output}"))?;
        let mut status: serde_json::Value = serde_json::from_str(line)?;
        Ok((code, status["serves"].take()))
    }

    /// Which side takes a write of the application, by trying on every shard: never both, and, where
    /// `whole`, all shards of exactly one side.
    pub async fn accepts(&self, whole: bool) -> Result<&'static str> {
        let (old, new) = (self.takes(&self.estate.old).await?, self.takes(&self.estate.new).await?);
        let some = |takes: &[bool]| takes.contains(&true);
        ensure!(!(some(&old) && some(&new)), "both sides accept: old {old:?}, new {new:?}");
        let one = old.iter().all(|&takes| takes) || new.iter().all(|&takes| takes);
        ensure!(one || !whole, "neither side accepts: old {old:?}, new {new:?}");
        Ok(if some(&old) {
            "old"
        } else if some(&new) {
            "new"
        } else {
            "none"
        })
    }

    /// Each with a row of its own, of an account that lives there.
    async fn takes(&self, shards: &[Shard]) -> Result<Vec<bool>> {
        static NEXT: AtomicU64 = AtomicU64::new(1 << 45);
        let mut takes = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            let id = NEXT.fetch_add(1, Ordering::Relaxed);
            let account = number + 1_000_000 * shards.len();
            let write = format!(
                "INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES ({id}, {account}, 1, 1)"
            );
            let app = Address { user: APP.into(), password: APP.into(), ..shard.address() };
            takes.push(app.run(write).await.is_ok());
        }
        Ok(takes)
    }
}

/// As `/metrics` of a daemon shows it.
pub async fn metric(daemon: &Modshift, name: &str) -> Result<f64> {
    let (_, page) = http_get(&format!("{}/metrics", daemon.pages(LIMIT).await?)).await?;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.with_context(|| format!("no {name} in\n{page}"))?.trim().parse().context("its value")
}

pub fn seed(test: &str) -> Result<u64> {
    let seed = match std::env::var("MODSHIFT_SEED") {
        Ok(text) => text.parse().context("MODSHIFT_SEED is a number")?,
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos().into(),
    };
    println!("{test}: MODSHIFT_SEED={seed}");
    Ok(seed)
}

/// Some of the points, or all.
pub fn sample<T: Copy>(random: &mut Random, points: &[T], count: usize) -> Vec<T> {
    let mut points = points.to_vec();
    if std::env::var_os("MODSHIFT_SOAK").is_some() {
        return points;
    }
    let mut picked = Vec::new();
    while picked.len() < count && !points.is_empty() {
        picked.push(points.remove(random.index(points.len())));
    }
    picked
}

pub fn says(daemons: &[Modshift]) -> String {
    daemons.iter().map(|daemon| daemon.last_words(60)).collect::<Vec<_>>().join("\n")
}
