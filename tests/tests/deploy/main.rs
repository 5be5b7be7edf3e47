//! What `deploy/` promises: rules and dashboard name what the daemons really show, the grants are
//! enough and no more, the gate's script passes the answer on, and the units can be loaded.

mod alerts;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::{Log as PlanLog, Plan};
use modshift_tests::{
    Address, Estate, EstateOptions, Log, Modshift, Writer, WriterOptions,
    case::Size,
    drained,
    grants::grant_all,
    place::{RunDir, free_port, root},
    process::{Launch, binary, http_get},
    server::PASSWORD,
    wait_until,
};

use alerts::{alerts_fire_on, all_series};

const LIMIT: Duration = Duration::from_secs(60);

fn deploy(file: &str) -> PathBuf {
    root().join("deploy").join(file)
}

fn read(file: &str) -> Result<String> {
    let path = deploy(file);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Runs a program that must succeed.
fn passes(program: &str, args: &[&str]) -> Result<Output> {
    let output =
        Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| {
            format!("running {program} (deploy/local/install.sh --test installs it)")
        })?;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    Ok(output)
}

#[test]
fn the_alert_rules_fire_when_they_should() -> Result<()> {
    let rules = deploy("prometheus/modshift.rules.yml").display().to_string();
    let output = passes("promtool", &["check", "rules", &rules])?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(found.contains("rules found"), "{found}");
    let tests = read("prometheus/modshift.rules.test.yml")?;
    for line in read("prometheus/modshift.rules.yml")?.lines() {
        let Some((_, alert)) = line.split_once("- alert: ") else { continue };
        ensure!(tests.contains(&format!("alertname: {alert}")), "no test of alert {alert}");
    }
    let tests = deploy("prometheus/modshift.rules.test.yml").display().to_string();
    passes("promtool", &["test", "rules", &tests]).map(drop)
}

#[test]
fn the_example_plan_is_a_plan() -> Result<()> {
    let known = ["MODSHIFT_PASSWORD", "ROUTING_TOKEN", "REPLICATION_PASSWORD", "WATCH_PASSWORD"];
    let env = |name: &str| known.contains(&name).then(|| "secret".to_owned());
    let plan = Plan::parse(&read("plan.example.toml")?, &env)?;
    ensure!((plan.old.len(), plan.new.len(), plan.tables.len()) == (3, 4, 3), "{plan:?}");
    ensure!(matches!(plan.log, PlanLog::Kafka(_)), "{plan:?}");
    Ok(())
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that is left out should say so")]
fn the_units_can_be_loaded() -> Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("no systemd-analyze here: units not verified");
        return Ok(());
    }
    let dir = RunDir::create("units")?;
    let binary = binary()?.display().to_string();
    for unit in ["modshift-replicator.service", "modshift-consumer.service"] {
        // The unit names the installed program, which need not be installed here.
        let text = read(&format!("systemd/{unit}"))?;
        ensure!(text.contains("/usr/bin/modshift "), "{unit} starts something else");
        std::fs::write(dir.join(unit), text.replace("/usr/bin/modshift ", &format!("{binary} ")))?;
        let output = passes("systemd-analyze", &["verify", &dir.join(unit).display().to_string()])?;
        ensure!(output.stderr.is_empty(), "{unit}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Names of our metrics in queries, with the suffixes of histograms.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !word(c)).filter(|name| name.starts_with("modshift_"));
    words.map(str::to_owned).collect()
}

/// Every query of the dashboard and of the alert rules.
fn queries() -> Result<BTreeSet<String>> {
    fn texts(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (key, value) in fields {
                    match value.as_str() {
                        Some(text) if ["expr", "query", "definition"].contains(&key.as_str()) => {
                            found.push(text.to_owned());
                        }
                        _ => texts(value, found),
                    }
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
            _ => {}
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana/modshift.json")?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    ensure!(panels.len() > 20, "{} panels", panels.len());
    let mut found = Vec::new();
    texts(&dashboard, &mut found);
    ensure!(found.len() >= 20, "{} queries", found.len());
    found.push(read("prometheus/modshift.rules.yml")?);
    Ok(found.iter().flat_map(|text| named(text)).collect())
}

/// Names of all series that a daemon shows now.
async fn shown(daemon: &Modshift) -> Result<BTreeSet<String>> {
    let (status, text) = http_get(&format!("{}/metrics", address(daemon).await?)).await?;
    ensure!(status == 200, "/metrics answered {status}");
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let names = series.filter_map(|line| line.split(['{', ' ']).next());
    Ok(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

async fn address(daemon: &Modshift) -> Result<String> {
    let line = daemon.wait_line("address=", LIMIT).await?;
    let (_, address) = line.rsplit_once("address=").context("no address")?;
    Ok(format!("http://{}", address.trim()))
}

/// Of daemons whose plan says `verify.continuous`.
const CONTINUOUS_ONLY: &str = "modshift_verify_";
/// Which of the two change logs shows what the other does not have.
const DIRECT_ONLY: &str = "modshift_apply_backlog_bytes";
const KAFKA_ONLY: [&str; 2] = ["modshift_apply_backlog_messages", "modshift_kafka_errors_total"];
/// Shown from their first event on: which reasons there may be is not known before.
const ON_TROUBLE: [&str; 4] = [
    "modshift_retries_total",
    "modshift_apply_retries_total",
    "modshift_halts_total",
    "modshift_apply_halts_total",
];

const ACCOUNT: &str = "resharder";
const SWITCHER: &str = "switcher";

/// `deploy/cutover-gate.sh`, its exit code and output.
async fn script(args: &[&str], env: &[(&str, &str)]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(deploy("cutover-gate.sh"));
    command
        .args(args)
        .env("MODSHIFT_BIN", binary()?)
        .env("MODSHIFT_PASSWORD", PASSWORD)
        .env("ROUTING_TOKEN", PASSWORD)
        .env("REPLICATION_PASSWORD", PASSWORD)
        .env("WATCH_PASSWORD", PASSWORD);
    command.envs(env.iter().copied()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grants_are_enough_for_a_whole_reshard() -> Result<()> {
    let options = EstateOptions {
        size: Size::rows(2_000),
        create_new_tables: false,
        plan_tail: format!("[cutover]\nuser = \"{SWITCHER}\"\npassword = \"{PASSWORD}\"\n"),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 3, options).await?;
    grant_all(&estate, ACCOUNT, SWITCHER)?;
    let path = estate.plan_path();
    let plan = estate.plan().replace("user = \"modshift\"", &format!("user = \"{ACCOUNT}\""));
    std::fs::write(&path, plan)?;
    let plan = path.display().to_string();

    let (code, said) = script(&[&plan], &[]).await?;
    ensure!(
        code == Some(1) && said.contains("old shard 0 has never been read"),
        "{code:?}: {said}"
    );
    let (code, output) = estate.modshift(["schema", "--apply"]).finish(LIMIT).await?;
    ensure!(code == 0, "schema --apply ended with {code}:\n{output}");
    // Neither a fault, nor a warning that something cannot be seen.
    let (code, output) = estate.modshift(["check"]).finish(LIMIT).await?;
    ensure!(code == 0, "check ended with {code}:\n{output}");
    for word in ["lacks", "cannot see", "may not see"] {
        let blind: Vec<&str> = output
            .lines()
            .filter(|line| line.contains(word) && !line.starts_with("note "))
            .collect();
        ensure!(blind.is_empty(), "{blind:?}");
    }

    let writer = Writer::start(WriterOptions::default(), estate.old_routes()).await?;
    let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    let (code, said) = script(&[&plan, "60s"], &[]).await?;
    ensure!(code == Some(0), "{code:?}: {said}\n{}", daemon.output());
    writer.commits(100, LIMIT).await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await?;
    let expected: BTreeSet<String> = queries()?
        .into_iter()
        .filter(|name| !KAFKA_ONLY.contains(&name.as_str()) && !ON_TROUBLE.contains(&name.as_str()))
        .filter(|name| !name.starts_with(CONTINUOUS_ONLY))
        .collect();
    let shown = shown(&daemon).await?;
    let absent: Vec<&String> = expected.difference(&shown).collect();
    ensure!(absent.is_empty(), "/metrics of modshift run lacks {absent:?}, it has {shown:?}");
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "{}", daemon.output());
    estate.oracle().compare().await?.ensure_clean()?;

    // And no more than enough.
    let address = Address { user: ACCOUNT.to_owned(), ..estate.old[0].address() };
    for denied in
        ["ALTER TABLE t_user ADD extra INT", "DROP TABLE t_user", "CREATE DATABASE another"]
    {
        let error = address.run(denied).await.expect_err(denied);
        ensure!(format!("{error:#}").contains("denied"), "{denied}: {error:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_script_takes_nothing_but_a_yes_for_yes() -> Result<()> {
    let dir = RunDir::create("script")?;
    let text = read("plan.example.toml")?;
    // Every server of the plan is a port that nobody listens on.
    let lines = text.lines().map(|line| match line.starts_with("host = ") {
        true => Ok(format!("host = \"127.0.0.1\"\nport = {}", free_port()?)),
        false => Ok(line.replace("verify-identity", "off")),
    });
    let lines = lines.collect::<Result<Vec<_>>>()?;
    let plan = dir.join("plan.toml");
    std::fs::write(&plan, lines.join("\n"))?;
    let plan = plan.display().to_string();
    let (code, said) = script(&[&plan], &[]).await?;
    ensure!(code == Some(2) && said.contains("does not answer"), "{code:?}: {said}");
    let broken = dir.join("broken.toml");
    std::fs::write(&broken, "name = 1\n")?;
    let broken = broken.display().to_string();
    for args in [&[][..], &["nowhere.toml"], &[&plan, "10x"], &[&plan, "10s", "more"], &[&broken]] {
        let (code, said) = script(args, &[]).await?;
        ensure!(code == Some(3), "{args:?}: {code:?}: {said}");
    }
    // What is no modshift, or does not come back, cannot tell.
    let fake = |name: &str, does: &str| -> Result<String> {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{does}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path.display().to_string())
    };
    for (name, does) in [("hangs", "exec sleep 60"), ("halts", "exit 4"), ("dies", "kill -9 $$")] {
        let program = fake(name, does)?;
        let env = [("MODSHIFT_BIN", program.as_str()), ("MODSHIFT_GATE_PATIENCE", "1")];
        let (code, said) = script(&[&plan], &env).await?;
        ensure!(code == Some(2), "{name}: {code:?}: {said}");
    }
    let program = fake("opens", "exit 0")?;
    let (code, said) = script(&[&plan, "1m"], &[("MODSHIFT_BIN", program.as_str())]).await?;
    ensure!(code == Some(0), "{code:?}: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_on_the_dashboard_is_shown_by_a_daemon() -> Result<()> {
    let options = EstateOptions {
        log: Log::kafka(),
        size: Size::rows(600),
        proxies: true,
        plan_tail: "[verify]\ncontinuous = true\n".to_owned(),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 3, options).await?;
    let start = |role: &str, shards: &[&str]| {
        let args = [&[role, "--listen", "127.0.0.1:0"], shards].concat();
        estate.modshift(args).start()
    };
    let (consumer, replicator) = (start("consumer", &[])?, start("replicator", &[])?);
    let (code, output) = estate.modshift(["gate", "--wait", "60s"]).finish(LIMIT * 2).await?;
    ensure!(code == 0, "{output}\n{}\n{}", consumer.output(), replicator.output());
    let quiet = all_series(&[("consumer", &consumer), ("replicator", &replicator)]).await?;
    estate.old[0]
        .run("INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES (9000000000, 0, 1, 1)")
        .await?;

    // Trouble of every kind: broken connections, a stray row, a second consumer, no broker.
    for shard in estate.old.iter().chain(&estate.new) {
        shard.proxy.as_ref().context("no proxy")?.cut();
    }
    estate.old[1]
        .run("INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES (9000000001, 0, 1, 1)")
        .await?;
    let second = start("consumer", &["--shards", "0"])?;
    let lost = estate.dir().join("lost.toml");
    let broker = estate.broker.as_ref().context("no broker")?.bootstrap();
    let nobody = format!("127.0.0.1:{}", free_port()?);
    std::fs::write(&lost, estate.plan().replace(&broker, &nobody))?;
    let lost = Launch::new(["replicator", "--listen", "127.0.0.1:0", "--plan"])
        .arg(lost.display().to_string())
        .env("MODSHIFT_PASSWORD", PASSWORD)
        .start()?;

    let expected: BTreeSet<String> =
        queries()?.into_iter().filter(|name| name != DIRECT_ONLY).collect();
    let absent = RefCell::new(expected.clone());
    let all = wait_until("all metrics", LIMIT, || async {
        for daemon in [&consumer, &replicator, &second, &lost] {
            let shown = shown(daemon).await?;
            absent.borrow_mut().retain(|name| !shown.contains(name));
        }
        Ok(absent.borrow().is_empty().then_some(()))
    });
    all.await.with_context(|| format!("no daemon shows {:?}", absent.borrow()))?;

    // As it was before the trouble, with what has been shown only since.
    let mut known = quiet;
    for (name, _) in all_series(&[("consumer", &consumer), ("replicator", &replicator)]).await? {
        if !known.iter().any(|(had, _)| *had == name) {
            known.push((name, 0.0));
        }
    }
    alerts_fire_on(&known, estate.dir())
}
