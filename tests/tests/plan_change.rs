//! Tables that come into the plan, leave it and come back while the streams run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_routing::{Document, Side};
use modshift_tests::{
    Daemons, Estate, EstateOptions, Log, Writer, WriterOptions, case::Size, drained, wait_until,
};

const LIMIT: Duration = Duration::from_secs(150);
/// Neither the first table of the plan nor the last: the others get other numbers.
const TABLE: &str = "t_wallet";
const MINE: u64 = 9_000_000_000_000_000_000;

async fn estate(log: Log, seed: u64) -> Result<Estate> {
    let options = EstateOptions {
        log,
        seed,
        size: Size::rows(1_500),
        gate: ("5s".to_owned(), "500ms".to_owned()),
        plan_tail: "[reader]\nprogress_interval = \"100ms\"\n\
                    [[routing]]\nkind = \"file\"\npath = \"routing.json\"\n"
            .to_owned(),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 3, options).await?;
    // Rows that no worker of the application knows.
    for (index, shard) in estate.old.iter().enumerate() {
        for row in 0..20 {
            let (id, account) = (MINE + row * 2 + index as u64, row * 2 + index as u64);
            let sql = format!("INSERT INTO {TABLE} (id, accountNo, balance, ver) VALUES");
            shard.run(&format!("{sql} ({id}, {account}, 1, 1)")).await?;
        }
    }
    Ok(estate)
}

/// The plan with the table or without it.
fn plan(estate: &mut Estate, with: bool) -> Result<()> {
    let all = estate.rules.clone();
    if !with {
        estate.rules.retain(|rule| rule.table != TABLE);
        ensure!(estate.rules.len() + 1 == all.len(), "no {TABLE} in the plan");
    }
    // The gate wants every table planned or ignored by name.
    let ignored = format!("[check]\nignore = [\"{TABLE}\"]");
    let text = estate.plan();
    let text = if with { text } else { text.replace("[check]", &ignored) };
    std::fs::write(estate.plan_path(), text)?;
    estate.rules = all;
    Ok(())
}

async fn opens(estate: &Estate, daemons: &Daemons) -> Result<()> {
    let (code, output) = estate.modshift(["gate", "--wait", "90s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", daemons.output());
    Ok(())
}

/// The daemon's own publication: applications follow the document long before a cutover.
async fn routed(estate: &Estate, version: u64, with: bool) -> Result<()> {
    let path = estate.dir().join("routing.json");
    wait_until("the routing of the daemons that have begun", LIMIT, || async {
        let Ok(text) = std::fs::read(&path) else { return Ok(None) };
        let document = Document::from_json(&text)?;
        ensure!(document.version <= version, "version {}", document.version);
        Ok((document.version == version).then(|| document.clone()))
    })
    .await
    .and_then(|document| {
        ensure!(document.side == Side::Old, "the {} shards serve", document.side.name());
        ensure!(document.tables.contains_key(TABLE) == with, "{:?}", document.tables);
        Ok(())
    })
}

async fn rows(estate: &Estate) -> Result<u64> {
    let mut rows = 0;
    for shard in &estate.new {
        rows += shard.value::<u64>(&format!("SELECT COUNT(*) FROM {TABLE}")).await?;
    }
    Ok(rows)
}

async fn writer(estate: &Estate, seed: u64) -> Result<Writer> {
    let options = WriterOptions { seed, rate: Some(120.0), giants: None, ..Default::default() };
    Writer::start(options, estate.old_routes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_leaves_and_comes_back_ends_equal() -> Result<()> {
    let mut estate = estate(Log::Direct, 71).await?;
    let writer = writer(&estate, 71).await?;
    plan(&mut estate, false)?;
    let daemons = Daemons::start(&estate)?;
    opens(&estate, &daemons).await?;
    routed(&estate, 1, false).await?;
    writer.commits(50, LIMIT).await?;
    ensure!(rows(&estate).await? == 0, "{TABLE} is not in the plan yet");

    // The gate says when it is asked for another plan than the one that runs.
    plan(&mut estate, true)?;
    let (code, output) = estate.modshift(["gate"]).finish(LIMIT).await?;
    let said = "the plan has t_wallet in addition, compared with the one by which old shard 0";
    ensure!(code == 1 && output.contains(said), "the gate says {code}: {output}");
    daemons.stop(LIMIT).await?;
    let daemons = Daemons::start(&estate)?;
    opens(&estate, &daemons).await?;
    routed(&estate, 2, true).await?;
    writer.commits(50, LIMIT).await?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    let copied = rows(&estate).await?;
    ensure!(copied > 0, "nothing of {TABLE} was copied");
    daemons.stop(LIMIT).await?;

    // Out of the plan: what is there stays, and is not followed.
    plan(&mut estate, false)?;
    let daemons = Daemons::start(&estate)?;
    opens(&estate, &daemons).await?;
    routed(&estate, 3, false).await?;
    for shard in &estate.old {
        shard.run(&format!("DELETE FROM {TABLE} WHERE id >= {MINE}")).await?;
    }
    writer.commits(50, LIMIT).await?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    let mut stay = 0;
    for shard in &estate.new {
        let sql = format!("SELECT COUNT(*) FROM {TABLE} WHERE id >= {MINE}");
        stay += shard.value::<u64>(&sql).await?;
    }
    ensure!(stay == 40, "{stay} rows of a table that is not followed are there");
    daemons.stop(LIMIT).await?;

    // And back: its rows come anew, and those that were deleted meanwhile do not stay.
    plan(&mut estate, true)?;
    let daemons = Daemons::start(&estate)?;
    writer.commits(50, LIMIT).await?;
    opens(&estate, &daemons).await?;
    routed(&estate, 4, true).await?;
    let anew = "the table is copied anew";
    ensure!(daemons.output().contains(anew), "no word of it:\n{}", daemons.output());
    writer.stop().await?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    estate.oracle().compare().await?.ensure_clean()?;
    let (code, output) = estate.modshift(["verify"]).finish(LIMIT).await?;
    ensure!(code == 0, "verify ended with {code}: {output}");
    daemons.stop(LIMIT).await
}

/// Whoever dies while the rows of the former copy are removed, or right after, has another one begin
/// with that again.
#[tokio::test(flavor = "multi_thread")]
async fn a_clearing_that_dies_is_done_by_the_next() -> Result<()> {
    let mut estate = estate(Log::Direct, 73).await?;
    for with in [true, false] {
        plan(&mut estate, with)?;
        let daemons = Daemons::start(&estate)?;
        opens(&estate, &daemons).await?;
        drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
        daemons.stop(LIMIT).await?;
    }
    for shard in &estate.old {
        shard.run(&format!("DELETE FROM {TABLE} WHERE id >= {MINE}")).await?;
    }
    plan(&mut estate, true)?;
    for stage in ["mid_clear", "after_clear"] {
        let killed = estate.modshift(["run", "--listen", "127.0.0.1:0"]).hold(stage, 1).start()?;
        let held = killed.wait_hold(stage, LIMIT).await;
        let held = held.with_context(|| format!("{stage}: {}", killed.output()))?;
        ensure!(held.rows > 0, "nothing was removed at {stage}");
        killed.kill_9()?;
    }
    let daemons = Daemons::start(&estate)?;
    opens(&estate, &daemons).await?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    estate.oracle().compare().await?.ensure_clean()?;
    daemons.stop(LIMIT).await
}

/// What the broker still holds was numbered by the former plan.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_the_plan_without_the_table_is_applied_by_the_one_with_it() -> Result<()> {
    let mut estate = estate(Log::kafka(), 72).await?;
    let writer = writer(&estate, 72).await?;
    plan(&mut estate, false)?;
    let daemons = Daemons::start(&estate)?;
    opens(&estate, &daemons).await?;
    let code = daemons.applier()?.stop(LIMIT).await?;
    ensure!(code == 0, "the consumer ended with {code}:\n{}", daemons.output());
    writer.commits(150, LIMIT).await?;
    let code = daemons.reader()?.stop(LIMIT).await?;
    ensure!(code == 0, "the replicator ended with {code}:\n{}", daemons.output());
    plan(&mut estate, true)?;
    let daemons = Daemons::start(&estate)?;
    opens(&estate, &daemons).await?;
    writer.commits(50, LIMIT).await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    estate.oracle().compare().await?.ensure_clean()?;
    daemons.stop(LIMIT).await
}
