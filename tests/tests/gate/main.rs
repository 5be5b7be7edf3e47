//! The gate from outside: what closes it, that it says why, and that it opens again; and that it is
//! never open while a new shard is further behind than the plan allows.

mod lag;

use std::{
    cell::RefCell,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Log, Modshift,
    case::Size,
    place::RunDir,
    process::{Launch, http_get},
    server::PASSWORD,
    wait_until,
};
use tokio::sync::{MappedMutexGuard, MutexGuard};

const LIMIT: Duration = Duration::from_secs(60);
const MAX_LAG: Duration = Duration::from_secs(1);

/// One answer of `modshift gate --json`.
#[derive(Debug)]
struct Answer {
    code: i32,
    text: serde_json::Value,
}

impl Answer {
    /// All reasons in words.
    fn lines(&self) -> Vec<&str> {
        let reasons = self.text["reasons"].as_array();
        reasons.into_iter().flatten().filter_map(|reason| reason["message"].as_str()).collect()
    }

    /// Reasons of a kind.
    fn of_kind(&self, kind: &str) -> Vec<&serde_json::Value> {
        let reasons = self.text["reasons"].as_array();
        reasons.into_iter().flatten().filter(|reason| reason["kind"] == kind).collect()
    }
}

/// `modshift COMMAND` with this plan.
fn modshift(plan: &Path, args: &[&str]) -> Launch {
    let launch = Launch::new(args.iter().copied()).arg("--plan").arg(plan.display().to_string());
    launch.env("MODSHIFT_PASSWORD", PASSWORD)
}

async fn ask(plan: &Path) -> Result<Answer> {
    let (code, output) = modshift(plan, &["gate", "--json"]).finish(LIMIT).await?;
    let json = output.lines().find(|line| line.starts_with('{'));
    let json = json.with_context(|| format!("gate --json ended with {code}:\n{output}"))?;
    let text: serde_json::Value = serde_json::from_str(json)?;
    // One line for each reason, and an answer that agrees with the exit code.
    let (open, cannot_tell) = (text["open"] == true, text["cannot_tell"] == true);
    ensure!(
        matches!(
            (code, open, cannot_tell),
            (0, true, false) | (1, false, false) | (2, false, true)
        ),
        "{code}: {json}"
    );
    let answer = Answer { code, text };
    ensure!(open == answer.lines().is_empty(), "open and reasons do not agree: {json}");
    ensure!(!answer.lines().iter().any(|line| line.contains('\n')), "{json}");
    Ok(answer)
}

/// Asks until the gate ends with this code for a reason in these words, every time anew.
async fn until(plan: &Path, code: i32, words: &str) -> Result<Answer> {
    let last = RefCell::new(String::new());
    let found = wait_until(words, LIMIT, || async {
        let answer = ask(plan).await?;
        *last.borrow_mut() = format!("{answer:?}");
        let said = answer.lines().iter().any(|line| line.contains(words));
        Ok((answer.code == code && said).then_some(answer))
    });
    found.await.with_context(|| format!("the last answer: {}", last.borrow()))
}

/// Where a daemon serves its pages.
async fn address(daemon: &Modshift) -> Result<String> {
    let line = daemon.wait_line("address=", LIMIT).await?;
    let (_, address) = line.rsplit_once("address=").context("no address")?;
    Ok(format!("http://{}", address.trim()))
}

/// `modshift gate` in words opens, and a daemon's /ready says the same.
async fn opens(plan: &Path, daemons: &[&Modshift]) -> Result<()> {
    let (code, output) = modshift(plan, &["gate", "--wait", "60s"]).finish(LIMIT * 2).await?;
    let says = || daemons.iter().map(|d| d.output()).collect::<Vec<_>>().join("\n");
    ensure!(
        code == 0 && output.lines().any(|line| line == "gate: open"),
        "gate: {code}\n{output}\n{}",
        says()
    );
    for daemon in daemons {
        let ready = format!("{}/ready", address(daemon).await?);
        wait_until("/ready to say yes", LIMIT, || async {
            let (status, body) = http_get(&ready).await?;
            let body: serde_json::Value = serde_json::from_str(&body)?;
            ensure!((status == 200) == (body["open"] == true), "{status}: {body}");
            Ok((status == 200).then_some(()))
        })
        .await
        .with_context(says)?;
    }
    Ok(())
}

/// /ready of a daemon says no for a reason of this kind.
async fn not_ready(daemon: &Modshift, kind: &str) -> Result<()> {
    let ready = format!("{}/ready", address(daemon).await?);
    wait_until(&format!("/ready to say no because of {kind}"), LIMIT, || async {
        let (status, body) = http_get(&ready).await?;
        let body: serde_json::Value = serde_json::from_str(&body)?;
        let answer = Answer { code: 1, text: body };
        Ok((status == 503 && !answer.of_kind(kind).is_empty()).then_some(()))
    })
    .await
}

/// A whole reshard seen from the gate, in one process.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_closed_until_all_is_copied_and_after_a_halt() -> Result<()> {
    let options = EstateOptions {
        size: Size::rows(600),
        create_new_tables: false,
        gate: ("1s".to_owned(), "1s".to_owned()),
        plan_tail: "[snapshot]\nxa_grace = \"4s\"\n".to_owned(),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 1, options).await?;
    let plan = estate.plan_path();
    // Holds back the copy of old shard 0 for as long as the plan's xa_grace.
    estate.old[0].run("XA START 'x'; XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'").await?;

    let begun = ask(&plan).await?;
    ensure!(begun.code == 1, "{begun:?}");
    for line in [
        "old shard 0 has never been read",
        "old shard 1 has never been read",
        "new shard 0 has applied nothing of old shard 0",
        "new shard 0 has applied nothing of old shard 1",
        "tables differ: new shard 0: table t_user: is missing, expected every planned table on every \
         shard; mend: modshift schema --apply",
    ] {
        ensure!(begun.lines().contains(&line), "not {line:?} but {begun:?}");
    }
    let (code, output) = modshift(&plan, &["gate"]).finish(LIMIT).await?;
    ensure!(code == 1 && output.lines().any(|line| line == begun.lines()[0]), "{code}: {output}");
    ensure!(output.ends_with("gate: closed"), "{output}");

    let (code, output) = estate.modshift(["schema", "--apply"]).finish(LIMIT).await?;
    ensure!(code == 0, "schema --apply ended with {code}:\n{output}");
    let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    let copying = until(&plan, 1, "old shard 0 is still being copied to new shard 0").await?;
    ensure!(copying.of_kind("copying").iter().any(|reason| reason["old"] == 0), "{copying:?}");
    not_ready(&daemon, "copying").await?;

    opens(&plan, &[&daemon]).await?;
    let copied: u64 = estate.new[0].value("SELECT SUM(copied) FROM modshift_watermark").await?;
    ensure!(copied == 2, "open, though only {copied} of 2 streams are copied");
    estate.oracle().compare().await?.ensure_clean()?;
    let open = ask(&plan).await?;
    ensure!(
        open.code == 0
            && open.text["notes"][0]
                .as_str()
                .is_some_and(|note| note.starts_with("verification: given up")),
        "{open:?}"
    );
    let (_, metrics) = http_get(&format!("{}/metrics", address(&daemon).await?)).await?;
    ensure!(metrics.contains("\nmodshift_gate_open 1\n"), "{metrics}");

    estate.old[1].run("ALTER TABLE t_user ADD COLUMN nickname VARCHAR(20)").await?;
    let halted =
        until(&plan, 1, "reader of old shard 1 stopped: old shard 1: group 102-102-").await?;
    ensure!(halted.of_kind("reader_halted").len() == 1, "{halted:?}");
    ensure!(
        halted.lines().iter().any(|line| line.contains("has column nickname too many")),
        "{halted:?}"
    );
    not_ready(&daemon, "reader_halted").await?;
    // The others go on.
    let (status, body) = http_get(&format!("{}/healthz", address(&daemon).await?)).await?;
    ensure!(
        status == 503 && body.contains("old shard 1") && !body.contains("old shard 0"),
        "{body}"
    );
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "{}", daemon.output());
    Ok(())
}

/// Two old and three new shards over Kafka, as in production: replicator and consumer are processes
/// of their own. Only the consumer's way to the new shards leads through proxies.
struct Shop {
    estate: Estate,
    /// Past the proxies.
    direct: PathBuf,
    /// What old shard 0's server adds to its clock, in seconds.
    clock: PathBuf,
    _dir: RunDir,
    replicator: Modshift,
    consumer: Modshift,
    /// The last scenario came to its end.
    sound: bool,
}

static SHOP: tokio::sync::Mutex<Option<Shop>> = tokio::sync::Mutex::const_new(None);

/// One scenario at a time; the gate is open when it begins.
async fn shop() -> Result<MappedMutexGuard<'static, Shop>> {
    let mut guard = SHOP.lock().await;
    if !guard.as_ref().is_some_and(|shop| shop.sound) {
        *guard = None;
        *guard = Some(Shop::start().await?);
    }
    let mut shop = MutexGuard::try_map(guard, Option::as_mut).ok().context("no shop")?;
    shop.sound = false;
    shop.opens().await?;
    Ok(shop)
}

impl Shop {
    async fn start() -> Result<Shop> {
        let dir = RunDir::create("clock")?;
        let clock = dir.join("clock");
        std::fs::write(&clock, "+0").context("writing the clock")?;
        let (library, file) = (faketime()?, clock.display().to_string());
        let old_options =
            Arc::new(move |index, options: modshift_tests::MariaDbOptions| match index {
                0 => options
                    .env("LD_PRELOAD", library.clone())
                    .env("FAKETIME_TIMESTAMP_FILE", file.clone())
                    // How long it may take to notice a new offset, in seconds.
                    .env("FAKETIME_CACHE_DURATION", "1")
                    .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                    .env("DONT_FAKE_MONOTONIC", "1"),
                _ => options,
            });
        let options = EstateOptions {
            log: Log::kafka(),
            size: Size::rows(600),
            proxies: true,
            old_options,
            gate: ("1s".to_owned(), "1s".to_owned()),
            ..EstateOptions::default()
        };
        let estate = Estate::start(2, 3, options).await?;
        let mut text = estate.plan();
        for shard in estate.old.iter().chain(&estate.new) {
            let proxied = format!("port = {}\n", shard.planned().port);
            text = text.replace(&proxied, &format!("port = {}\n", shard.server.port()));
        }
        let direct = estate.dir().join("direct.toml");
        std::fs::write(&direct, text).context("writing a plan")?;
        let consumer = Self::consumer(&estate.plan_path())?;
        let replicator = Self::replicator(&direct)?;
        Ok(Shop { estate, direct, clock, _dir: dir, replicator, consumer, sound: true })
    }

    fn consumer(plan: &Path) -> Result<Modshift> {
        modshift(plan, &["consumer", "--listen", "127.0.0.1:0"]).start()
    }

    fn replicator(plan: &Path) -> Result<Modshift> {
        modshift(plan, &["replicator", "--listen", "127.0.0.1:0"]).start()
    }

    async fn opens(&self) -> Result<()> {
        opens(&self.direct, &[&self.replicator, &self.consumer]).await
    }

    async fn closes(&self, words: &str) -> Result<Answer> {
        until(&self.direct, 1, words).await
    }
}

/// The library that gives a process a clock of its own.
fn faketime() -> Result<String> {
    let found = std::fs::read_dir("/usr/lib")?.flatten().find_map(|entry| {
        let path = entry.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then(|| path.display().to_string())
    });
    found.context("no libfaketime (deploy/local/install.sh --test installs it)")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_shard_that_falls_behind_closes_it() -> Result<()> {
    let mut shop = shop().await?;
    let proxy = shop.estate.new[2].proxy.clone().context("no proxy")?;
    proxy.stall();
    let answer = shop.closes("behind old shard 0 (limit 1.000 s)").await?;
    // It and no other.
    let lags = answer.of_kind("time_lag");
    ensure!(lags.len() == answer.lines().len(), "{answer:?}");
    ensure!(lags.iter().all(|reason| reason["new"] == 2), "{answer:?}");
    not_ready(&shop.replicator, "time_lag").await?;
    proxy.reopen();
    shop.opens().await?;
    shop.sound = true;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_stands_still_closes_it_and_has_no_old_yes_left() -> Result<()> {
    let mut shop = shop().await?;
    let pages = address(&shop.consumer).await?;
    shop.consumer.sigstop()?;
    // Longer than the gate takes two samples for neighbours: the plan's hold begins anew.
    let answer = wait_until("a lag of 4 s", LIMIT, || async {
        let answer = ask(&shop.direct).await?;
        let lags = answer.of_kind("time_lag");
        let long = lags.iter().any(|reason| reason["lag_ms"].as_i64() > Some(4_000));
        Ok(long.then_some(answer))
    })
    .await?;
    ensure!(answer.code == 1 && answer.of_kind("time_lag").len() == 6, "{answer:?}");
    // Asked while it stands still, answered as soon as it moves.
    let mut request = std::net::TcpStream::connect(pages.trim_start_matches("http://"))?;
    request.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    shop.consumer.sigcont()?;
    request.set_read_timeout(Some(LIMIT))?;
    let mut response = String::new();
    request.read_to_string(&mut response)?;
    ensure!(response.starts_with("HTTP/1.1 503"), "{response}");
    shop.opens().await?;
    shop.sound = true;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_daemon_closes_it() -> Result<()> {
    let mut shop = shop().await?;
    shop.consumer.kill_9()?;
    shop.closes("new shard 1 is").await?;
    not_ready(&shop.replicator, "time_lag").await?;
    shop.consumer = Shop::consumer(&shop.estate.plan_path())?;
    shop.opens().await?;
    shop.replicator.kill_9()?;
    shop.closes("reader of old shard 1 wrote its last token").await?;
    not_ready(&shop.consumer, "reader_silent").await?;
    shop.replicator = Shop::replicator(&shop.direct)?;
    shop.opens().await?;
    shop.sound = true;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_went_back_closes_it() -> Result<()> {
    let mut shop = shop().await?;
    // No token tells the new time for now.
    shop.replicator.sigstop()?;
    let before: i64 = shop.estate.old[0].value("SELECT UNIX_TIMESTAMP()").await?;
    std::fs::write(&shop.clock, "-60")?;
    let answer = shop.closes("clock of old shard 0 went back: a token is").await?;
    let now: i64 = shop.estate.old[0].value("SELECT UNIX_TIMESTAMP()").await?;
    ensure!(now < before, "the clock did not go back: {before}, {now}");
    let ahead = answer.of_kind("clock_back");
    ensure!(ahead.iter().all(|reason| reason["old"] == 0), "{answer:?}");
    // The reader's own token, and what each new shard has applied of it.
    ensure!(ahead.len() == 4, "{answer:?}");
    shop.replicator.sigcont()?;
    shop.opens().await?;
    shop.sound = true;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_row_closes_it_until_its_place_is_free() -> Result<()> {
    let mut shop = shop().await?;
    let [first, second] = [0, 3].map(|account| {
        let id = 9_000_000_000_u64 + account;
        let columns = "(id, accountNo, phone, balance, ver)";
        (id, format!("INSERT INTO t_wallet {columns} VALUES ({id}, {account}, '+49 151', 1, 1)"))
    });
    let arrived = |id: u64| {
        let sql = format!("SELECT COUNT(*) FROM t_wallet WHERE id = {id}");
        let shard = shop.estate.new[0].clone();
        wait_until("the row", LIMIT, move || {
            let (sql, shard) = (sql.clone(), shard.clone());
            async move { Ok((shard.value::<u64>(&sql).await? == 1).then_some(())) }
        })
    };
    shop.estate.old[0].run(&first.1).await?;
    arrived(first.0).await?;
    shop.estate.old[1].run(&second.1).await?;
    let answer = shop.closes("1 rows wait for their place on new shard 0").await?;
    ensure!(answer.of_kind("parked").len() == 1, "{answer:?}");
    not_ready(&shop.replicator, "parked").await?;
    shop.estate.old[0].run(&format!("DELETE FROM t_wallet WHERE id = {}", first.0)).await?;
    arrived(second.0).await?;
    shop.opens().await?;
    shop.sound = true;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_does_not_answer_is_no_yes_and_no_no() -> Result<()> {
    let mut shop = shop().await?;
    let proxy = shop.estate.new[1].proxy.clone().context("no proxy")?;
    proxy.refuse();
    // Through the proxies; past them it is a plain lag.
    let plan = shop.estate.plan_path();
    let answer = until(&plan, 2, "new shard 1 does not answer").await?;
    ensure!(answer.of_kind("unreachable").len() == 1, "{answer:?}");
    let (code, output) = modshift(&plan, &["gate"]).finish(LIMIT).await?;
    ensure!(code == 2 && output.ends_with("gate: unknown, so closed"), "{code}: {output}");
    not_ready(&shop.consumer, "unreachable").await?;
    shop.closes("new shard 1 is").await?;
    proxy.reopen();
    shop.opens().await?;
    shop.sound = true;
    Ok(())
}
