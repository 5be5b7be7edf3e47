//! `modshift restart-copy`: the copy started over as one command, killed in its middle and repeated.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_mariadb::control::{OWN_TABLES, RESTART};
use modshift_tests::{
    Daemons, Estate, EstateOptions, Log, Writer, WriterOptions, case::Size, drained,
    marker::mark_all,
};

const LIMIT: Duration = Duration::from_secs(120);
const COMMAND: [&str; 2] = ["restart-copy", "--yes"];
/// What streams and verifiers remember; the rest of modshift's tables may stay.
const STAY: [&str; 6] = [
    "modshift_audit",
    "modshift_fence",
    "modshift_handover",
    "modshift_journal",
    "modshift_operator",
    "modshift_routing",
];

async fn estate(log: Log, seed: u64) -> Result<Estate> {
    let options = EstateOptions {
        log,
        seed,
        size: Size::rows(1_500),
        gate: ("5s".to_owned(), "500ms".to_owned()),
        plan_tail: "[reader]\nprogress_interval = \"100ms\"\n".to_owned(),
        ..EstateOptions::default()
    };
    Estate::start(2, 3, options).await
}

async fn says(estate: &Estate, args: &[&str], expected: i32) -> Result<String> {
    let (code, said) = estate.modshift(args.iter().copied()).finish(LIMIT).await?;
    ensure!(code == expected, "modshift {} ended with {code}:\n{said}", args.join(" "));
    Ok(said)
}

/// Rows in planned tables of the new shards.
async fn rows(estate: &Estate) -> Result<u64> {
    let mut rows = 0;
    for shard in &estate.new {
        for rule in &estate.rules {
            rows += shard.value::<u64>(&format!("SELECT COUNT(*) FROM `{}`", rule.table)).await?;
        }
    }
    Ok(rows)
}

/// Tables of modshift that a stream goes on from, over all shards.
async fn remembered(estate: &Estate) -> Result<u64> {
    let names = OWN_TABLES.into_iter().chain([RESTART]).filter(|name| !STAY.contains(name));
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
         AND TABLE_NAME IN ({})",
        names.join(", ")
    );
    let mut count = 0;
    for shard in estate.old.iter().chain(&estate.new) {
        count += shard.value::<u64>(&sql).await?;
    }
    Ok(count)
}

/// Every stream is there and keeps up.
async fn opens(estate: &Estate, daemons: &Daemons) -> Result<()> {
    let (code, said) = estate.modshift(["gate", "--wait", "100s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{said}\n{}", daemons.output());
    Ok(())
}

async fn copied(estate: &Estate, daemons: &Daemons) -> Result<()> {
    drained(estate, LIMIT).await.with_context(|| daemons.output())?;
    estate.oracle().compare().await?.ensure_clean().with_context(|| daemons.output())
}

/// Killed at each of its steps and repeated; nothing starts on the half that is left.
async fn starts_over(log: Log, seed: u64) -> Result<()> {
    let estate = estate(log, seed).await?;
    let options = WriterOptions { seed, rate: Some(60.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    let daemons = Daemons::start(&estate)?;
    opens(&estate, &daemons).await?;

    let said = says(&estate, &COMMAND, 1).await?;
    for daemon in if estate.broker.is_some() { &["replicator", "consumer"][..] } else { &["run"] } {
        let alive = format!("nothing was done: modshift {daemon} on ");
        ensure!(said.contains(&alive) && said.contains("`modshift restart-copy` again"), "{said}");
    }
    daemons.stop(LIMIT).await?;
    let (before, filled) = (remembered(&estate).await?, rows(&estate).await?);
    ensure!(before > 0 && filled > 0);

    let said = says(&estate, &["restart-copy"], 3).await?;
    ensure!(said.contains("give --yes"), "{said}");
    let said = says(&estate, &["restart-copy", "--dry-run"], 0).await?;
    for line in
        ["new shard 2: TRUNCATE TABLE `t_wallet`;", "old shard 1: DROP TABLE modshift_token;"]
    {
        ensure!(said.contains(line), "{said}");
    }
    ensure!(remembered(&estate).await? == before && rows(&estate).await? == filled, "{said}");

    for stage in [
        "restart_marked",
        "restart_stopped",
        "restart_emptied",
        "restart_forgotten",
        "restart_unmarked",
    ] {
        let held = estate.modshift(COMMAND).hold(stage, 1).start()?;
        held.wait_hold(stage, LIMIT).await?;
        held.kill_9()?;
        if stage == "restart_emptied" {
            let role = if estate.broker.is_some() { "replicator" } else { "run" };
            let started = estate.modshift([role, "--listen", "127.0.0.1:0"]);
            let (code, said) = started.finish(LIMIT).await?;
            ensure!(
                code == 4 && said.contains("give `modshift restart-copy` again"),
                "{code}: {said}"
            );
            ensure!(rows(&estate).await? == 0, "rows came on the half that was left: {said}");
        }
    }
    let said = says(&estate, &COMMAND, 0).await?;
    ensure!(said.contains("restart-copy: done; start the daemons"), "{said}");
    ensure!(remembered(&estate).await? == 0 && rows(&estate).await? == 0, "{said}");
    let said = says(&estate, &["audit"], 0).await?;
    ensure!(said.contains("starts the copy over") && said.contains(": done"), "{said}");
    // Again, with nothing to do.
    says(&estate, &COMMAND, 0).await?;

    let daemons = Daemons::start(&estate)?;
    opens(&estate, &daemons).await?;
    writer.commits(30, LIMIT).await?;
    writer.stop().await?;
    copied(&estate, &daemons).await?;

    // Once the new shards serve nothing of them is touched.
    let filled = rows(&estate).await?;
    daemons.stop(LIMIT).await?;
    mark_all(&estate.new_addresses()[1..2], "serving", "flip").await?;
    let said = says(&estate, &COMMAND, 1).await?;
    ensure!(said.contains("new shard 1 serves: it is never emptied"), "{said}");
    ensure!(rows(&estate).await? == filled, "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_started_over_through_kills() -> Result<()> {
    starts_over(Log::Direct, 81).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_over_kafka_is_started_over_without_what_its_topics_hold() -> Result<()> {
    starts_over(Log::kafka(), 82).await
}
