//! Networks that break and servers that go and come back, under load: every daemon reconnects by
//! itself, and no row is lost or doubled.

#![allow(clippy::print_stdout, reason = "a test says what it has seen")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Log, Modshift, Writer, WriterOptions, case::Size, drained,
    estate::Shard, place::free_port, process::http_get, random::Random, server::ADMIN, wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Every connection ends; new ones are taken at once.
    Cut,
    /// Every connection ends, and for a while there are no new ones.
    Refuse,
    /// Nothing moves for a while, and then goes on.
    Stall,
    /// Nothing moves for a while, and then every connection ends.
    StallAndCut,
    /// The server is stopped and started.
    Restart,
    /// The server is killed and started.
    Kill,
}

const FAULTS: [Fault; 6] =
    [Fault::Cut, Fault::Refuse, Fault::Stall, Fault::StallAndCut, Fault::Restart, Fault::Kill];

impl Fault {
    /// Lasts for some commits of the writer, on this shard (where it can) and the others.
    async fn strike(self, shard: &Shard, writer: &Writer) -> Result<()> {
        let proxy = shard.proxy.as_ref().context("a shard without a proxy")?;
        match self {
            Self::Cut => proxy.cut(),
            Self::Refuse => {
                proxy.refuse();
                writer.commits(30, LIMIT).await?;
            }
            Self::Stall => {
                proxy.stall();
                writer.commits(30, LIMIT).await?;
            }
            Self::StallAndCut => {
                proxy.stall();
                writer.commits(15, LIMIT).await?;
                proxy.cut();
                writer.commits(15, LIMIT).await?;
            }
            Self::Restart => {
                shard.server.stop().await?;
                shard.server.restart().await?;
            }
            Self::Kill => {
                shard.server.kill()?;
                shard.server.restart().await?;
            }
        }
        proxy.reopen();
        Ok(())
    }
}

struct Daemon {
    process: Modshift,
    port: u16,
}

impl Daemon {
    fn start(estate: &Estate, role: &str) -> Result<Self> {
        let port = free_port()?;
        let process = estate.modshift([role, "--listen", &format!("127.0.0.1:{port}")]).start()?;
        Ok(Self { process, port })
    }

    async fn get(&self, page: &str) -> Result<(u16, String)> {
        http_get(&format!("http://127.0.0.1:{}/{page}", self.port)).await
    }

    /// No stream of it has stopped.
    async fn ensure_well(&self) -> Result<()> {
        let (status, text) = self.get("healthz").await?;
        ensure!(status == 200, "/healthz answers {status}: {text}\n{}", self.process.output());
        Ok(())
    }

    /// Attempts after an error, of readers and appliers.
    async fn retries(&self) -> Result<f64> {
        // A new counter shows 0 at its first scrape.
        self.get("metrics").await?;
        let (_, page) = self.get("metrics").await?;
        let retries = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let name = series.split('{').next()?;
            let counts = ["modshift_retries_total", "modshift_apply_retries_total"].contains(&name);
            counts.then_some(value.parse::<f64>())
        });
        retries.sum::<Result<f64, _>>().context("a metric is no number")
    }

    fn lines_with(&self, text: &str) -> usize {
        self.process.lines().iter().filter(|line| line.contains(text)).count()
    }
}

/// Nothing of a shard is lost or wrong because a password was changed on its server.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_is_said_and_tried_again_with_what_its_file_says_by_then()
-> Result<()> {
    let options = EstateOptions { size: Size::rows(300), seed: 94, ..EstateOptions::default() };
    let estate = Estate::start(1, 2, options).await?;
    let (file, port) = (estate.dir().join("password"), free_port()?);
    let plan = estate.plan().replace(&format!("user = \"{ADMIN}\""), "user = \"mover\"").replace(
        "password = \"${MODSHIFT_PASSWORD}\"",
        &format!("password_file = \"{}\"", file.display()),
    );
    let plan = format!("{plan}\n[http]\nrun = \"127.0.0.1:{port}\"\n");
    std::fs::write(estate.plan_path(), plan)?;
    std::fs::write(&file, "first\n")?;
    let old = &estate.old[0];
    for shard in estate.old.iter().chain(&estate.new) {
        shard.run("CREATE USER mover@'127.0.0.1' IDENTIFIED BY 'first'").await?;
        shard.run("GRANT ALL ON *.* TO mover@'127.0.0.1' WITH GRANT OPTION").await?;
    }
    let daemon = Daemon { process: estate.modshift(["run"]).start()?, port };
    wait_until("the copy", LIMIT, || async { Ok(copied(&estate).await?.then_some(())) })
        .await
        .with_context(|| daemon.process.output())?;
    drained(&estate, LIMIT).await.with_context(|| daemon.process.output())?;

    old.run("ALTER USER mover@'127.0.0.1' IDENTIFIED BY 'second'").await?;
    old.run("KILL USER mover@'127.0.0.1'").await?;
    old.run("UPDATE t_wallet SET ver = ver + 1").await?;
    let words = format!("127.0.0.1:{} refuses the login of user mover", old.planned().port);
    for page in ["status", "ready"] {
        wait_until("a login that is refused", LIMIT, || async {
            Ok(daemon.get(page).await?.1.contains(&words).then_some(()))
        })
        .await
        .with_context(|| daemon.process.output())?;
    }
    let refused = || async {
        let (_, page) = daemon.get("metrics").await?;
        let line = page.lines().find_map(|line| line.strip_prefix("modshift_logins_refused "));
        line.context("no such metric")?.parse::<f64>().context("a metric is no number")
    };
    wait_until("the metric", LIMIT, || async { Ok((refused().await? == 1.0).then_some(())) })
        .await?;
    for command in ["gate", "status"] {
        let (code, output) = estate.modshift([command]).finish(LIMIT).await?;
        ensure!(code != 0, "modshift {command} ended with 0:\n{output}");
        let said = format!("modshift run: {words}");
        ensure!(output.contains(&said), "modshift {command} does not say so:\n{output}");
    }
    daemon.ensure_well().await?;

    // The file has one password for all servers: whoever connects to another one anew needs it, too.
    for shard in &estate.new {
        shard.run("ALTER USER mover@'127.0.0.1' IDENTIFIED BY 'second'").await?;
    }
    std::fs::write(&file, "second\n")?;
    drained(&estate, LIMIT).await.with_context(|| daemon.process.output())?;
    wait_until("all logins let in", LIMIT, || async {
        Ok((refused().await? == 0.0).then_some(()))
    })
    .await
    .with_context(|| daemon.process.output())?;
    daemon.ensure_well().await?;
    estate.oracle().compare().await?.ensure_clean()
}

async fn copied(estate: &Estate) -> Result<bool> {
    for shard in &estate.new {
        let sql = "SELECT COUNT(*) FROM modshift_watermark WHERE copied";
        if shard.value::<usize>(sql).await.unwrap_or(0) < estate.old.len() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Each of these faults on an old and on a new shard, one after another, from the first chunk on.
async fn survive(log: Log, faults: &[Fault], seed: u64) -> Result<()> {
    let options = EstateOptions {
        log,
        seed,
        size: Size::rows(9_000),
        proxies: true,
        // Slow enough that the first faults hit the copy.
        plan_tail: "[snapshot]\nchunk_rows_max = 12\nparallel = 2\n".to_owned(),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 3, options).await?;
    let roles: &[&str] =
        if estate.broker.is_some() { &["consumer", "replicator"] } else { &["run"] };
    let options = WriterOptions { seed, rate: Some(120.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    let daemons =
        roles.iter().map(|role| Daemon::start(&estate, role)).collect::<Result<Vec<_>>>()?;
    wait_until("the first rows on a new shard", LIMIT, || async {
        let sql = "SELECT COUNT(*) FROM t_account_entry";
        Ok((estate.new[0].value::<u64>(sql).await? > 0).then_some(()))
    })
    .await?;

    let mut random = Random::new(seed);
    let (mut while_copying, mut strikes) = (0, 0);
    for fault in faults {
        for side in [&estate.old, &estate.new] {
            let shard = random.pick(side);
            let copying = !copied(&estate).await?;
            while_copying += u32::from(copying);
            strikes += 1;
            println!("seed {seed}: {fault:?} on {}, copying: {copying}", shard.schema);
            fault.strike(shard, &writer).await?;
            // Everything flows again, whatever is still being copied.
            drained(&estate, LIMIT).await?;
            for daemon in &daemons {
                daemon.ensure_well().await?;
            }
        }
    }
    ensure!(while_copying > 1, "{while_copying} of {strikes} faults hit the copy");
    let (code, output) = estate.modshift(["gate", "--wait", "100s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}");
    let ledger = writer.stop().await?;
    drained(&estate, LIMIT).await?;
    for daemon in &daemons {
        let retries = daemon.retries().await?;
        println!(
            "{strikes} faults, {while_copying} of them during the copy; {retries} retries; {} \
             transactions of the writer, {} refused",
            ledger.transactions, ledger.refused
        );
        ensure!(retries > 0.0, "nothing was tried again");
        let code = daemon.process.stop(LIMIT).await?;
        ensure!(code == 0, "a daemon ended with {code}:\n{}", daemon.process.output());
    }
    estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_survives_every_fault_of_networks_and_servers() -> Result<()> {
    survive(Log::Direct, &FAULTS, 61).await
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_over_kafka_survive_cuts_and_restarts() -> Result<()> {
    survive(Log::kafka(), &[Fault::StallAndCut, Fault::Cut, Fault::Kill], 62).await
}

/// A network that swallows everything without a word: the reader misses the server's heartbeats.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_network_is_noticed_and_left() -> Result<()> {
    const LOST: &str = "binlog connection lost";
    let options =
        EstateOptions { size: Size::rows(300), proxies: true, ..EstateOptions::default() };
    let estate = Estate::start(2, 1, options).await?;
    let daemon = Daemon::start(&estate, "run")?;
    wait_until("the copy", LIMIT, || async { Ok(copied(&estate).await?.then_some(())) }).await?;
    ensure!(daemon.lines_with(LOST) == 0, "{}", daemon.process.output());
    let proxy = estate.old[1].proxy.as_ref().context("a proxy")?;
    proxy.stall();
    estate.old[1].run("UPDATE t_trade_order SET ver=ver+1").await?;
    wait_until("a lost connection", LIMIT, || async {
        Ok((daemon.lines_with(LOST) > 0).then_some(()))
    })
    .await?;
    let (status, reasons) = daemon.get("ready").await?;
    println!("/ready answers {status}: {reasons}");
    ensure!(status == 503, "the gate is open though old shard 1 is silent");
    proxy.reopen();
    drained(&estate, LIMIT).await?;
    daemon.ensure_well().await?;
    daemon.process.stop(LIMIT).await?;
    estate.oracle().compare().await?.ensure_clean()
}
