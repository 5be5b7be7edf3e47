//! Holding back: by hand through the control API, and by itself while a server hurts. And the audit
//! table, which has it all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Daemons, Estate, EstateOptions,
    case::Size,
    certificates::{authority, certificate},
    copied, drained,
    place::{RunDir, free_port},
    process::http_get,
    wait_until,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const TOKEN: &str = "a-token-that-no-one-guesses";
/// Chunks so small that a copy takes long enough to be held back.
const SMALL_CHUNKS: &str = "[snapshot]\nchunk_rows_max = 20\nparallel = 1\n\
                            [reader]\nprogress_interval = \"20ms\"\n";
const NO_LIMITS: &str = "[throttle]\nthreads_running_max = \"none\"\nreplica_lag_max = \"none\"\n\
                         commit_latency_max = \"none\"\n";

/// A command's exit code must be this, and its output have these words.
async fn says(estate: &Estate, args: &[&str], code: i32, words: &[&str]) -> Result<String> {
    let (found, output) = estate.modshift(args.iter().copied()).finish(LIMIT).await?;
    ensure!(found == code, "modshift {args:?} ended with {found}, expected {code}:\n{output}");
    for word in words {
        ensure!(output.contains(word), "modshift {args:?} does not say {word:?}:\n{output}");
    }
    ensure!(!output.contains(TOKEN), "modshift {args:?} shows the token:\n{output}");
    Ok(output)
}

/// Every reader has recorded another resume point.
async fn recorded_anew(estate: &Estate) -> Result<()> {
    let sql = "SELECT gtids FROM modshift_progress WHERE name = '@resume'";
    for shard in &estate.old {
        let before: String = shard.value(sql).await?;
        wait_until("a later resume point", LIMIT, || async {
            Ok((shard.value::<String>(sql).await? != before).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// By old shard; nothing where the reader has not made its tables yet.
async fn rows_copied(estate: &Estate) -> Result<Vec<u64>> {
    let mut rows = Vec::new();
    for shard in &estate.old {
        let present = "SELECT COUNT(*) FROM information_schema.TABLES \
                       WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'modshift_progress'";
        let sum = "SELECT CAST(SUM(rows_copied) AS UNSIGNED) FROM modshift_progress";
        rows.push(match shard.value::<u8>(present).await? {
            0 => 0,
            _ => shard.value::<Option<u64>>(sum).await?.unwrap_or(0),
        });
    }
    Ok(rows)
}

/// (what, outcome) of every action, oldest first.
async fn audited(estate: &Estate) -> Result<Vec<(String, String)>> {
    let output = says(estate, &["audit", "--json"], 0, &[]).await?;
    let line = output.lines().last().context("no answer")?;
    let rows: Vec<Value> = serde_json::from_str(line)?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    for row in &rows {
        ensure!(!text(row, "who").is_empty(), "an action of nobody: {row}");
        ensure!(!text(row, "began").is_empty() && !text(row, "account").is_empty(), "{row}");
    }
    Ok(rows.iter().rev().map(|row| (text(row, "what"), text(row, "outcome"))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_slows_down_and_resumes_a_copy() -> Result<()> {
    let dir = RunDir::create("control")?;
    authority(dir.path(), "ca")?;
    certificate(dir.path(), "ca", "daemon", "IP:127.0.0.1")?;
    let file = |name: &str| dir.join(name).display().to_string();
    let control = format!(
        "[control]\ntoken = \"{TOKEN}\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\ntls_ca = \"{}\"\n",
        file("daemon.pem"),
        file("daemon.key"),
        file("ca.pem"),
    );
    let options = EstateOptions {
        size: Size::rows(12_000),
        create_new_tables: false,
        plan_tail: format!("{SMALL_CHUNKS}{NO_LIMITS}{control}"),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 3, options).await?;
    says(&estate, &["schema", "--apply"], 0, &[]).await?;
    let daemons = Daemons::start(&estate)?;
    let plain = daemons.reader()?.pages(LIMIT).await?;
    let url = plain.replace("http://", "https://");
    wait_until("the copy to be under way", LIMIT, || async {
        Ok(rows_copied(&estate).await?.iter().all(|&rows| rows > 0).then_some(()))
    })
    .await
    .with_context(|| daemons.output())?;
    says(&estate, &["pause", "--run", &url], 0, &["paused"]).await?;

    // What was in flight still enters, and is recorded with a later resume point; from then on no row is
    // copied, and the tail goes on.
    let held = wait_until("the copy to stand still", LIMIT, || async {
        let before = rows_copied(&estate).await?;
        for _ in 0..2 {
            recorded_anew(&estate).await?;
        }
        Ok((rows_copied(&estate).await? == before).then_some(before))
    })
    .await?;
    for shard in &estate.old {
        shard.run("UPDATE t_trade_order SET ver = ver + 1").await?;
    }
    drained(&estate, LIMIT).await?;
    drained(&estate, LIMIT).await?;
    let rows = rows_copied(&estate).await?;
    ensure!(rows == held, "{rows:?} rows are copied, {held:?} were when it was paused");
    says(&estate, &["pause", "--run", &url], 0, &["was paused already", "paused by"]).await?;

    // Who may not, and where nobody is.
    says(&estate, &["pause", "--run", &plain], 2, &["no answer"]).await?;
    let nobody = format!("https://127.0.0.1:{}", free_port()?);
    says(&estate, &["resume", "--run", &nobody], 2, &["no daemon listens there"]).await?;
    let far = ["pause", "--run", "http://db.example:9479"];
    says(&estate, &far, 3, &["does not cross a network in the clear"]).await?;
    let plan = std::fs::read_to_string(estate.plan_path())?;
    let with_plan = |text: &str| std::fs::write(estate.plan_path(), text);
    with_plan(&plan.replace(TOKEN, "another-token-of-16-or-more"))?;
    says(&estate, &["resume", "--run", &url], 1, &["refused: the token is not"]).await?;
    with_plan(&plan.replace(&file("ca.pem"), &file("daemon.pem")))?;
    says(&estate, &["resume", "--run", &url], 2, &["control.tls_ca"]).await?;
    with_plan(&plan.replace(&format!("token = \"{TOKEN}\"\n"), ""))?;
    says(&estate, &["resume", "--run", &url], 3, &["no control.token"]).await?;
    with_plan(&plan)?;
    let rows = rows_copied(&estate).await?;
    ensure!(rows == held, "one of these has ended the pause");

    says(&estate, &["throttle", "--ratio", "50%", "--run", &url], 0, &["at most 50 %"]).await?;
    says(&estate, &["resume", "--run", &url], 0, &["resumed; now slowed down to 50 %"]).await?;
    says(&estate, &["throttle", "--off", "--run", &url], 0, &["all of the time"]).await?;
    copied(&estate, LIMIT).await.with_context(|| daemons.output())?;
    drained(&estate, LIMIT).await?;
    daemons.stop(LIMIT).await?;
    let all = rows_copied(&estate).await?;
    ensure!(all > held && all[1] > held[1], "it was paused when all was copied: {held:?}");
    ensure!(!daemons.output().contains(TOKEN), "a daemon shows its token");
    estate.oracle().compare().await?.ensure_clean()?;

    let found = audited(&estate).await?;
    let expected = [
        ("schema --apply", "done"),
        ("pause", "paused"),
        ("pause", "was paused already"),
        ("throttle --ratio 50%", "set: at most 50 % of the time"),
        ("resume", "resumed"),
        ("throttle --off", "set: all of the time, any number of rows a second"),
    ];
    ensure!(found.len() == expected.len(), "{found:#?}");
    for ((what, outcome), (command, result)) in found.iter().zip(expected) {
        let named = what.starts_with(&format!("modshift {command}"));
        ensure!(named && outcome == result, "{what}: {outcome}, expected {command}: {result}");
    }
    Ok(())
}

async fn post(url: String, token: Option<&'static str>) -> Result<(u16, String)> {
    tokio::task::spawn_blocking(move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = ureq::Agent::new_with_config(
            config.timeout_global(Some(Duration::from_secs(10))).build(),
        );
        let mut request = agent.post(&url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = request.send("").with_context(|| format!("POST {url}"))?;
        Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
    })
    .await?
}

/// What /status says of the throttle.
async fn throttle(pages: &str) -> Result<Value> {
    let (status, body) = http_get(&format!("{pages}/status")).await?;
    ensure!(status == 200, "/status answers {status}");
    let mut body: Value = serde_json::from_str(&body)?;
    Ok(body["throttle"].take())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_slows_down_while_a_server_hurts_and_the_tail_does_not() -> Result<()> {
    let limits = NO_LIMITS.replacen("\"none\"", "4", 1);
    let options = EstateOptions {
        size: Size::rows(20_000),
        plan_tail: format!(
            "[snapshot]\nchunk_rows_max = 500\nparallel = 1\n{limits}[control]\ntoken = \"{TOKEN}\"\n"
        ),
        ..EstateOptions::default()
    };
    let estate = Estate::start(1, 2, options).await?;
    let mut sleepers = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let address = estate.old[0].address();
        sleepers.spawn(async move { address.run("SELECT SLEEP(600)").await });
    }
    let daemons = Daemons::start(&estate)?;
    let pages = daemons.reader()?.pages(LIMIT).await?;
    // It takes some seconds to be sure that a server hurts: nothing is copied until then.
    says(&estate, &["pause", "--run", &pages], 0, &[]).await?;
    let slow = |seen: &Value| seen["servers"][0]["pace"].as_f64() == Some(0.05);
    wait_until("the old shard to be seen hurting", LIMIT, || async {
        Ok(slow(&throttle(&pages).await?).then_some(()))
    })
    .await?;
    let words = ["resumed; now old shard 0: ", "threads running"];
    says(&estate, &["resume", "--run", &pages], 0, &words).await?;
    let waited = |seen: &Value| seen["waited_s"].as_f64().unwrap_or(0.0);
    let first = waited(&throttle(&pages).await?);
    let seen = wait_until("the copy to be slowed down", LIMIT, || async {
        let seen = throttle(&pages).await?;
        Ok((waited(&seen) > first + 1.0).then_some(seen))
    })
    .await
    .with_context(|| daemons.output())?;
    let why = seen["why"].as_str().unwrap_or_default();
    ensure!(slow(&seen) && why.contains("threads running"), "{seen}");
    let slow = "modshift_throttle_pace{server=\"old shard 0\"} 0.05";
    wait_until("the metric to say so", LIMIT, || async {
        let (_, metrics) = http_get(&format!("{pages}/metrics")).await?;
        Ok(metrics.contains(slow).then_some(()))
    })
    .await?;
    // A write goes through while the copy waits.
    estate.old[0].run("UPDATE t_trade_order SET ver = ver + 1").await?;
    drained(&estate, LIMIT).await?;

    for row in estate.old[0]
        .address()
        .query("SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'")
        .await?
    {
        let id: u64 = mysql_async::from_row(row);
        estate.old[0].run(&format!("KILL {id}")).await?;
    }
    sleepers.abort_all();
    copied(&estate, LIMIT).await.with_context(|| daemons.output())?;
    wait_until("full pace", LIMIT, || async {
        let seen = throttle(&pages).await?;
        Ok((seen["pace"].as_f64() == Some(1.0) && seen["why"].is_null()).then_some(()))
    })
    .await?;
    drained(&estate, LIMIT).await?;
    daemons.stop(LIMIT).await?;
    estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_works_without_the_audit_table_and_is_written_down_later() -> Result<()> {
    let options = EstateOptions {
        size: Size::rows(300),
        plan_tail: format!("[control]\ntoken = \"{TOKEN}\"\n"),
        ..EstateOptions::default()
    };
    let estate = Estate::start(1, 2, options).await?;
    let open = ["run", "--listen", "0.0.0.0:0"];
    says(&estate, &open, 3, &["can be reached from other hosts without TLS"]).await?;
    let daemons = Daemons::start(&estate)?;
    let pages = daemons.reader()?.pages(LIMIT).await?;
    copied(&estate, LIMIT).await?;
    let pause = format!("{pages}/control/pause");
    for (token, code) in [(None, 401), (Some("a-token-that-no-one-guesseD"), 401)] {
        let (found, body) = post(pause.clone(), token).await?;
        ensure!(found == code && body.contains("Bearer"), "{found}: {body}");
    }
    ensure!(throttle(&pages).await?["paused"].is_null(), "paused without the token");

    estate.new[0].server.kill()?;
    let words = ["paused", "not in the audit table yet"];
    says(&estate, &["pause", "--run", &pages], 0, &words).await?;
    ensure!(throttle(&pages).await?["paused"]["by"].is_string(), "it is not paused");
    // Every other action is refused.
    let words = ["nothing has been done", "modshift_audit"];
    says(&estate, &["schema", "--apply"], 2, &words).await?;
    estate.new[0].server.restart().await?;
    wait_until("the pause in the audit table", LIMIT, || async {
        let found = audited(&estate).await?;
        Ok(found.iter().any(|(_, outcome)| outcome == "paused").then_some(()))
    })
    .await
    .with_context(|| daemons.output())?;
    // By hand, without a command: the request itself is what is known.
    let (code, body) = post(format!("{pages}/control/resume"), Some(TOKEN)).await?;
    ensure!(code == 200 && body.contains("\"audited\":true"), "{code}: {body}");
    says(&estate, &["audit"], 0, &["POST /control/resume", "somebody from 127.0.0.1"]).await?;
    daemons.stop(LIMIT).await?;

    // Without a token in the plan there is no API.
    let plan = std::fs::read_to_string(estate.plan_path())?;
    std::fs::write(estate.plan_path(), plan.replace(&format!("token = \"{TOKEN}\"\n"), ""))?;
    let daemons = Daemons::start(&estate)?;
    let pages = daemons.reader()?.pages(LIMIT).await?;
    let (code, body) = post(format!("{pages}/control/pause"), Some(TOKEN)).await?;
    ensure!(code == 403 && body.contains("control.token"), "{code}: {body}");
    ensure!(throttle(&pages).await?["paused"].is_null(), "paused without a token in the plan");
    daemons.stop(LIMIT).await
}

/// Far less than each of them would take.
const PROMPT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_every_long_command_and_a_second_one_ends_it_at_once() -> Result<()> {
    let options = EstateOptions {
        seed: 93,
        size: Size::rows(200),
        verify_age: "1h".to_owned(),
        ..EstateOptions::default()
    };
    let estate = Estate::start(1, 2, options).await?;
    let daemons = Daemons::start(&estate)?;
    copied(&estate, LIMIT).await.with_context(|| daemons.output())?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    // Nothing was verified: the gate stays closed.
    for args in [vec!["gate", "--wait", "10m"], vec!["status", "--watch"]] {
        let command = estate.modshift(args.iter().copied()).start()?;
        command.interrupt(LIMIT).await?;
        let status = command.wait_exit(PROMPT).await?;
        let output = command.output();
        ensure!(status.code() == Some(2), "{args:?}: {status}\n{output}");
        ensure!(output.contains("ended by SIGINT"), "{args:?}: {output}");
    }
    let cutover = || estate.modshift(["cutover", "--wait", "10m"]);
    let run = cutover().start()?;
    run.wait_line("close ", LIMIT).await?;
    run.interrupt(LIMIT).await?;
    let status = run.wait_exit(PROMPT).await?;
    let output = run.output();
    ensure!(status.code() == Some(1), "{status}\n{output}");
    ensure!(output.contains("cutover: undone, the old shards serve"), "{output}");

    let run = cutover().hold("before_turn", 1).start()?;
    run.wait_line("close ", LIMIT).await?;
    run.interrupt(LIMIT).await?;
    run.wait_hold("before_turn", LIMIT).await?;
    run.interrupt(LIMIT).await?;
    let status = run.wait_exit(PROMPT).await?;
    let output = run.output();
    ensure!(status.code() == Some(2), "{status}\n{output}");
    ensure!(output.contains("cutover: ended at once by a second signal"), "{output}");
    says(&estate, &["cutover", "--abort"], 0, &["cutover: undone"]).await?;
    says(&estate, &["status"], 0, &["the old shards serve"]).await?;
    daemons.stop(LIMIT).await
}
