//! The whole way there and back beforehand, on shards that are nobody's.

#![allow(clippy::print_stdout, reason = "what was predicted is part of the outcome")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Log,
    case::Size,
    grants::grant,
    server::{Address, MariaDbOptions, MariaDbServer},
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

async fn estate(old: usize, new: usize, log: Log) -> Result<Estate> {
    let options = EstateOptions {
        log,
        size: Size::rows(600),
        create_new_tables: false,
        plan_tail: "[reader]\nheartbeat = \"20ms\"\nprogress_interval = \"100ms\"\n\
                    [cutover]\nbudget = \"30s\"\n"
            .to_owned(),
        // What a rehearsal writes on a real server is seen by its position.
        neighbours: false,
        ..EstateOptions::default()
    };
    Estate::start(old, new, options).await
}

/// Adds the shards of the rehearsal to the plan, in the order old, new.
fn rehearse(estate: &Estate, settings: &str, shards: &[(Address, String)]) -> Result<()> {
    let mut text = format!("{}\n[rehearse]\n{settings}\n", estate.plan());
    for (number, (server, schema)) in shards.iter().enumerate() {
        let side = if number < estate.old.len() { "old" } else { "new" };
        let Address { host, port, .. } = server;
        text.push_str(&format!(
            "[[rehearse.{side}]]\nhost = \"{host}\"\nport = {port}\nschema = \"{schema}\"\n"
        ));
    }
    std::fs::write(estate.plan_path(), text).context("writing the plan")
}

/// What no rehearsal may change on a real server.
async fn written(estate: &Estate) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for shard in estate.old.iter().chain(&estate.new) {
        all.push(shard.value("SELECT @@gtid_binlog_pos").await?);
    }
    Ok(all)
}

async fn left_behind(server: &Address) -> Result<(u64, u64)> {
    let schemas =
        "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE 'trial%'";
    let users = "SELECT COUNT(*) FROM mysql.global_priv WHERE User LIKE 'modshift_rehearsal%'";
    Ok((server.value(schemas).await?, server.value(users).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_predicts_the_pause_and_leaves_nothing_behind() -> Result<()> {
    let estate = estate(3, 4, Log::Direct).await?;
    let scratch = MariaDbServer::start(MariaDbOptions::with_server_id(301)).await?;
    let shards: Vec<_> = (0..7).map(|n| (scratch.address(), format!("trial_{n}"))).collect();
    rehearse(&estate, "rows = 100\nruns = 3\nrate = 100", &shards)?;
    // One schema is there already, empty: it stays.
    scratch.run("CREATE DATABASE trial_6").await?;
    let before = written(&estate).await?;

    let (code, output) = estate.modshift(["rehearse", "--json"]).finish(LIMIT).await?;
    ensure!(code == 0, "{code}: {output}");
    println!("{output}");
    let lines: Vec<Value> = output
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(lines.iter().all(|line| line["at"].as_str().is_some_and(|at| at.ends_with('Z'))));
    ensure!(lines.iter().filter(|line| line["kind"] == "measured").count() == 6, "{lines:?}");
    let report = lines.last().context("no report")?;
    ensure!(report["kind"] == "report" && report["exit"] == 0, "{report}");
    ensure!(report["equal"] == true && report["undone"].as_array().is_some_and(Vec::is_empty));
    let mut rows = 0;
    for shard in &estate.old {
        for rule in &estate.rules {
            let sql = format!("SELECT LEAST(COUNT(*), 100) FROM {}", rule.table);
            rows += shard.value::<u64>(&sql).await?;
        }
    }
    ensure!(report["rows"] == rows, "{rows} expected: {report}");
    ensure!(report["transactions"].as_u64().is_some_and(|rows| rows > 20), "{report}");
    for (index, direction) in ["cutover", "rollback"].into_iter().enumerate() {
        let predicted = &report["predicted"][index];
        ensure!(predicted["direction"] == direction && predicted["runs"] == 3, "{predicted}");
        let pause = &predicted["pause_ms"];
        let of = |key: &str| pause[key].as_f64().unwrap_or_default();
        ensure!(0.0 < of("p50") && of("p50") <= of("p99") && of("p99") == of("max"), "{pause}");
        let steps = predicted["steps_ms"].as_array().context("no steps")?;
        let names: Vec<_> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
        let all = "close gate fence drain counters handover publish seal open";
        ensure!(names.join(" ") == all, "{names:?}");
    }

    // The real shards: nothing but the entry of the audit.
    let after = written(&estate).await?;
    for (index, (before, after)) in before.iter().zip(&after).enumerate() {
        ensure!((before == after) != (index == estate.old.len()), "{index}: {before} {after}");
    }
    let tables = "SELECT GROUP_CONCAT(TABLE_NAME) FROM information_schema.TABLES \
                  WHERE TABLE_SCHEMA = DATABASE()";
    let tables: String = estate.new[0].value(tables).await?;
    ensure!(tables == "modshift_audit", "{tables}");
    let outcome: String = estate.new[0].value("SELECT outcome FROM modshift_audit").await?;
    ensure!(outcome == "done", "{outcome}");
    // And the rehearsal's: as they were.
    ensure!(left_behind(&scratch.address()).await? == (1, 0));
    ensure!(!scratch.value::<bool>("SELECT @@read_only").await?);
    let left = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'trial_6'";
    ensure!(scratch.value::<u64>(left).await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grants_of_deploy_are_enough_to_rehearse() -> Result<()> {
    const ACCOUNT: &str = "rehearser";
    let estate = estate(2, 3, Log::Direct).await?;
    let scratch = MariaDbServer::start(MariaDbOptions::with_server_id(301)).await?;
    // What the fence and the server's own settings can ask of the account.
    scratch.run("SET GLOBAL event_scheduler = ON").await?;
    let shards: Vec<_> = (0..5).map(|n| (scratch.address(), format!("trial_{n}"))).collect();
    for (server, schema) in &shards {
        grant(server, schema, ACCOUNT, "grants-rehearsal.sql")?;
        grant(server, schema, ACCOUNT, "grants-cutover.sql")?;
    }
    rehearse(&estate, "rows = 50\nruns = 2\nrate = 50", &shards)?;
    let plan = std::fs::read_to_string(estate.plan_path())?;
    let plan = plan.replace("schema = \"trial", &format!("user = \"{ACCOUNT}\"\nschema = \"trial"));
    std::fs::write(estate.plan_path(), plan)?;

    // What the check asks for is in the files, too.
    let (_, output) = estate.modshift(["check", "--quick"]).finish(LIMIT).await?;
    let asked = output.lines().find(|line| line.contains(&format!("user {ACCOUNT}: lacks")));
    ensure!(asked.is_none() && output.contains("schema"), "{output}");

    let (code, output) = estate.modshift(["rehearse"]).finish(LIMIT).await?;
    ensure!(code == 0 && output.contains("rollback 2 of 2"), "{code}: {output}");
    ensure!(!output.contains("is not cleaned up"), "{output}");
    ensure!(left_behind(&scratch.address()).await? == (0, 0));
    let settings = "SELECT @@read_only OR @@event_scheduler <> 'ON'";
    ensure!(!scratch.value::<bool>(settings).await?, "the fence is left: {output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_real_shards_only_accounts_are_fenced_and_a_signal_cleans_up() -> Result<()> {
    let estate = estate(2, 3, Log::kafka()).await?;
    let servers = estate.old.iter().chain(&estate.new);
    let shards: Vec<_> =
        servers.map(|shard| (shard.server.address(), "trial".to_owned())).collect();
    rehearse(&estate, "rows = 200\nruns = 1000\nrate = 50", &shards)?;
    for shard in &estate.old {
        shard.server.run("SET GLOBAL event_scheduler = ON").await?;
    }
    let rehearsal = estate.modshift(["rehearse"]).start()?;
    for line in ["cutover 1 of 1000", "rollback 1 of 1000", "cutover 2 of 1000"] {
        // Waits until it is said; what a fence of the server would do stays until the way back.
        rehearsal.wait_line(line, LIMIT).await.with_context(|| rehearsal.last_words(40))?;
        for shard in &estate.old {
            let touched = "SELECT @@read_only OR @@event_scheduler <> 'ON'";
            ensure!(!shard.value::<bool>(touched).await?, "{line}: {} is fenced", shard.schema);
        }
    }
    rehearsal.sigterm()?;
    rehearsal.wait_exit(LIMIT).await.with_context(|| rehearsal.last_words(40))?;
    let words = rehearsal.last_words(20);
    ensure!(words.contains("interrupted") && !words.contains("is left"), "{words}");
    for shard in estate.old.iter().chain(&estate.new) {
        ensure!(left_behind(&shard.address()).await? == (0, 0), "{}: {words}", shard.schema);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_s_is_not_rehearsed_in() -> Result<()> {
    let estate = estate(1, 2, Log::Direct).await?;
    let refused = async |words: &str| {
        let (code, output) = estate.modshift(["rehearse"]).finish(LIMIT).await?;
        ensure!(code == 3 && output.contains(words), "expected 3, {words}; {code}: {output}");
        anyhow::Ok(())
    };
    refused("names no shards to rehearse on").await?;

    // A real shard by another of its names.
    let scratch = MariaDbServer::start(MariaDbOptions::with_server_id(301)).await?;
    let real = Address { host: "localhost".to_owned(), ..estate.old[0].address() };
    let on = |n: usize| (scratch.address(), format!("trial_{n}"));
    rehearse(&estate, "", &[(real, estate.old[0].schema.clone()), on(1), on(2)])?;
    refused("which is a real shard").await?;

    // A real shard's replica, in whatever schema: what is written there alone would part the two.
    let replica = MariaDbServer::start(MariaDbOptions::with_server_id(302)).await?;
    let plan = estate.plan();
    let schema = format!("schema = \"{}\"\n", estate.new[1].schema);
    let listed = format!("{schema}replicas = [\"127.0.0.1:{}\"]\n", replica.port());
    rehearse(&estate, "", &[on(0), on(1), (replica.address(), "trial_2".to_owned())])?;
    let text = std::fs::read_to_string(estate.plan_path())?;
    ensure!(plan.contains(&schema));
    std::fs::write(estate.plan_path(), text.replacen(&schema, &listed, 1))?;
    refused("is a replica of real shards").await?;

    // A schema with something in it, and that stays.
    scratch.run("CREATE DATABASE trial_1").await?;
    scratch.run("CREATE TABLE trial_1.t_user (id INT PRIMARY KEY)").await?;
    rehearse(&estate, "", &[on(0), on(1), on(2)])?;
    refused("holds what no rehearsal made (t_user)").await?;
    let kept = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'trial_1'";
    ensure!(scratch.value::<u64>(kept).await? == 1);
    ensure!(left_behind(&scratch.address()).await? == (1, 0));
    Ok(())
}
