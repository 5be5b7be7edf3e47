//! The way back: streams from new shards to old ones, armed from the start. The markers that a
//! cutover would write are written by hand here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_mariadb::control::REPAIR_TABLE;
use modshift_proto::row::RowWriter;
use modshift_tests::{
    Estate, EstateOptions, Log, Modshift, Routes, Writer, WriterOptions,
    case::Size,
    drained,
    marker::{covered, mark_all},
    pages, printed,
    process::http_get,
    wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);

async fn estate(old: usize, new: usize, log: Log, seed: u64) -> Result<Estate> {
    let options = EstateOptions {
        log,
        seed,
        size: Size::rows(3_000),
        gate: ("3s".to_owned(), "1s".to_owned()),
        plan_tail: "[reader]\nprogress_interval = \"100ms\"\n".to_owned(),
        ..EstateOptions::default()
    };
    Estate::start(old, new, options).await
}

/// The daemons of this estate's log.
fn start(estate: &Estate) -> Result<Vec<Modshift>> {
    let roles: &[&str] =
        if estate.broker.is_some() { &["consumer", "replicator"] } else { &["run"] };
    roles.iter().map(|role| estate.modshift([*role, "--listen", "127.0.0.1:0"]).start()).collect()
}

fn kill(daemons: &[Modshift]) -> Result<()> {
    for daemon in daemons {
        ensure!(daemon.running()?, "a daemon ended by itself:\n{}", daemon.output());
        daemon.kill_9()?;
    }
    Ok(())
}

fn says(daemons: &[Modshift]) -> String {
    daemons.iter().map(|daemon| daemon.last_words(60)).collect::<Vec<_>>().join("\n")
}

async fn gate_opens(estate: &Estate, daemons: &[Modshift]) -> Result<()> {
    let (code, output) = estate.modshift(["gate", "--wait", "100s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", says(daemons));
    Ok(())
}

/// Sum of a counter's lines that have this label.
async fn counted(daemons: &[Modshift], metric: &str, label: &str) -> Result<f64> {
    let mut sum = 0.0;
    for daemon in daemons {
        let page = pages::metrics(daemon).await?;
        let lines = page.lines().filter(|line| line.starts_with(metric) && line.contains(label));
        for line in lines {
            let value = line.rsplit(' ').next().context("no value")?;
            sum += value.parse::<f64>()?;
        }
    }
    Ok(sum)
}

/// There, back and there again, with a SIGKILL in each phase.
async fn round_trip(log: Log, seed: u64) -> Result<()> {
    let estate = estate(3, 4, log, seed).await?;
    let (old, new) = (estate.old_addresses(), estate.new_addresses());
    let options = WriterOptions { seed, rate: Some(120.0), giants: None, ..Default::default() };
    // Markers are set by hand here, and nobody takes back the read_only that the daemons put up behind
    // them: the writer is one that it does not stop.
    let writer = Writer::start(options, Routes::new(old.clone())).await?;
    let mut daemons = start(&estate)?;
    gate_opens(&estate, &daemons).await?;
    // While armed.
    kill(&daemons)?;
    daemons = start(&estate)?;
    gate_opens(&estate, &daemons).await?;

    writer.pause().await?;
    let fences = mark_all(&old, "fenced", "there").await?;
    covered(&new, &fences, LIMIT).await?;
    estate.oracle().compare().await?.ensure_clean()?;
    mark_all(&new, "serving", "there").await?;
    writer.switch(Routes::new(new.clone()));
    writer.resume();
    writer.commits(100, LIMIT).await?;

    // While the new shards serve; and what was written while nobody read, up to a fence.
    kill(&daemons)?;
    daemons = start(&estate)?;
    writer.commits(100, LIMIT).await?;
    kill(&daemons)?;
    writer.commits(100, LIMIT).await?;
    writer.pause().await?;
    let fences = mark_all(&new, "fenced", "midway").await?;
    daemons = start(&estate)?;
    covered(&old, &fences, LIMIT).await.with_context(|| says(&daemons))?;
    estate.oracle_back().compare().await?.ensure_clean()?;

    // What modshift applies to the old shards is seen there, and never sent.
    const ROUTED: &str = "modshift_routed_rows_total";
    let forward = "direction=\"forward\"";
    let routed = counted(&daemons, ROUTED, forward).await?;
    mark_all(&new, "serving", "there again").await?;
    writer.resume();
    writer.commits(150, LIMIT).await?;
    writer.pause().await?;
    let fences = mark_all(&new, "fenced", "back").await?;
    covered(&old, &fences, LIMIT).await?;
    let seen = mark_all(&old, "fenced", "back").await?;
    covered(&new, &seen, LIMIT).await?;
    ensure!(counted(&daemons, ROUTED, forward).await? == routed, "rows went round in a loop");
    ensure!(counted(&daemons, ROUTED, "direction=\"back\"").await? > 0.0, "nothing went back");
    let own = counted(&daemons, "modshift_read_own_rows_total", forward).await?;
    ensure!(own > 0.0, "no row was seen that must not be sent");
    estate.oracle_back().compare().await?.ensure_clean()?;

    // The old shards serve again, and a kill falls there too.
    mark_all(&old, "serving", "back").await?;
    writer.switch(Routes::new(old.clone()));
    writer.resume();
    writer.commits(60, LIMIT).await?;
    kill(&daemons)?;
    daemons = start(&estate)?;
    writer.commits(60, LIMIT).await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await?;
    for daemon in &daemons {
        let code = daemon.stop(LIMIT).await?;
        ensure!(code == 0, "a daemon ended with {code}:\n{}", says(&daemons));
    }
    estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_and_there_in_one_process() -> Result<()> {
    round_trip(Log::Direct, 41).await
}

#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_and_there_over_kafka() -> Result<()> {
    round_trip(Log::kafka(), 42).await
}

/// A write on a new shard before the flip halts its stream and closes the gate, also after a
/// restart; `rearm` opens it once the write is undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_write_closes_the_gate_until_it_is_rearmed() -> Result<()> {
    let estate = estate(2, 3, Log::Direct, 43).await?;
    let mut daemons = start(&estate)?;
    gate_opens(&estate, &daemons).await?;
    let foreign = &estate.new[1];
    let table = "t_account_entry";
    foreign.run(&format!("CREATE TABLE kept AS SELECT * FROM `{table}` LIMIT 1")).await?;
    // Tables that the plan does not name are none of ours.
    gate_opens(&estate, &daemons).await?;
    foreign.run(&format!("DELETE FROM `{table}` LIMIT 1")).await?;

    let closed = "way back: reader of new shard 1 stopped: new shard 1: group 202-202-";
    let mut rearm = Vec::new();
    for restarted in [false, true] {
        if restarted {
            daemons[0].stop(LIMIT).await?;
            daemons = start(&estate)?;
        }
        let mut last = String::new();
        let named = async {
            loop {
                let (code, output) = estate.modshift(["gate"]).finish(LIMIT).await?;
                let named = output.contains(closed) && output.contains("but the shard is fenced");
                if code == 1 && named && output.contains("`modshift rearm ") {
                    return printed(&output, "rearm");
                }
                last = format!("{code}: {output}");
            }
        };
        let named = tokio::time::timeout(LIMIT, named).await;
        ensure!(named.is_ok(), "the gate said {last}");
        rearm = named??;
        let url = format!("http://{}/healthz", pages::address(&daemons[0]).await?);
        wait_until("the daemon to name it", LIMIT, || async {
            let (code, page) = http_get(&url).await?;
            Ok((code == 503 && page.contains("way back: new shard 1")).then_some(()))
        })
        .await?;
        let halts = counted(&daemons, "modshift_halts_total", "reason=\"foreign_write\"").await?;
        ensure!(halts == 1.0, "{halts} halts");
    }
    let (code, output) = estate.modshift(["status"]).finish(LIMIT).await?;
    ensure!(code == 4 && output.contains(closed), "status ended with {code}:\n{output}");

    // As the halt has printed it.
    let (code, output) = estate.modshift(rearm.clone()).finish(LIMIT).await?;
    let alive = output.contains("daemons of this plan still run (modshift run on ");
    let next = output.contains("give `modshift rearm --shard 1` again");
    ensure!(code == 1 && alive && next, "rearm beside a daemon ended with {code}:\n{output}");

    daemons[0].stop(LIMIT).await?;
    foreign.run(&format!("REPLACE INTO `{table}` SELECT * FROM kept")).await?;
    let (code, output) = estate.modshift(rearm.clone()).finish(LIMIT).await?;
    ensure!(code == 0, "rearm ended with {code}:\n{output}");
    let daemons = start(&estate)?;
    gate_opens(&estate, &daemons).await?;

    // The others are as they were, and the stream is as good as new.
    let (old, new) = (estate.old_addresses(), estate.new_addresses());
    let fences = mark_all(&new, "fenced", "proof").await?;
    covered(&old, &fences, LIMIT).await?;
    daemons[0].stop(LIMIT).await?;

    let (code, output) = estate.modshift(["rearm", "--shard", "3"]).finish(LIMIT).await?;
    ensure!(code == 3 && output.contains("shards 0 to 2"), "rearm ended with {code}:\n{output}");
    mark_all(&new[..1], "serving", "flip").await?;
    let (code, output) = estate.modshift(["rearm", "--shard", "0"]).finish(LIMIT).await?;
    ensure!(
        code == 1 && output.contains("new shard 0 serves"),
        "rearm of a shard that serves ended with {code}:\n{output}"
    );
    Ok(())
}

/// A request for a repair that is open when the shards switch: a row copied from the side that does
/// not serve would take the place of a newer one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_repaired_from_a_shard_that_does_not_serve() -> Result<()> {
    let estate = estate(2, 3, Log::Direct, 44).await?;
    let daemons = start(&estate)?;
    gate_opens(&estate, &daemons).await?;
    let (old, new) = (estate.old_addresses(), estate.new_addresses());
    let id: u64 = old[0].value("SELECT MIN(id) FROM t_wallet").await?;
    let mut target = None;
    for (index, shard) in new.iter().enumerate() {
        let here = format!("SELECT COUNT(*) FROM t_wallet WHERE id = {id}");
        if shard.value::<u64>(here).await? == 1 {
            target = Some(index);
        }
    }
    let target = target.context("a row that is on no new shard")?;
    let mut key = Vec::new();
    let mut row = RowWriter::new(&mut key, 1);
    row.uint(id);
    row.finish();
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();

    let fences = mark_all(&old, "fenced", "there").await?;
    covered(&new, &fences, LIMIT).await?;
    old[0].run(REPAIR_TABLE).await?;
    let request = format!(
        "INSERT INTO modshift_repair (table_name, target, pk) VALUES ('t_wallet', {target}, x'{key}')"
    );
    old[0].run(request).await?;
    mark_all(&new, "serving", "there").await?;
    new[target].run(format!("UPDATE t_wallet SET ver = ver + 100 WHERE id = {id}")).await?;
    let ver = format!("SELECT ver FROM t_wallet WHERE id = {id}");
    let newer: u64 = new[target].value(&ver).await?;

    // The reader looks for requests each second, and writes five tokens in one.
    let tokens = "SELECT writes FROM modshift_token";
    let until: u64 = old[0].value::<u64>(tokens).await? + 20;
    wait_until("tokens of a fenced shard", LIMIT, || async {
        Ok((old[0].value::<u64>(tokens).await? >= until).then_some(()))
    })
    .await?;
    let sent = "SELECT sent FROM modshift_repair";
    ensure!(old[0].value::<u8>(sent).await? == 0, "a row was sent from a fenced shard");
    ensure!(new[target].value::<u64>(&ver).await? == newer, "a newer row was overwritten");

    // Once it serves again, with what the other side wrote, the request is served.
    let fences = mark_all(&new, "fenced", "back").await?;
    covered(&old, &fences, LIMIT).await?;
    mark_all(&old, "serving", "back").await?;
    wait_until("the repair", LIMIT, || async {
        Ok((old[0].value::<u8>(sent).await? == 1).then_some(()))
    })
    .await
    .with_context(|| says(&daemons))?;
    drained(&estate, LIMIT).await?;
    ensure!(old[0].value::<u64>(&ver).await? == newer);
    estate.oracle().compare().await?.ensure_clean()
}
