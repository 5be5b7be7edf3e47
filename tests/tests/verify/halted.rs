//! Streams that do not go on: nobody waits for one that has halted, and a signal ends whoever waits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    EstateOptions,
    case::Size,
    marker::{covered, mark_all},
    wait_until,
};
use mysql_async::prelude::Queryable;

use super::{LIMIT, estate, stop, verify};

/// Far less than what a verification would wait for.
const PROMPT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stands_is_waited_for_and_one_that_has_halted_is_named_at_once() -> Result<()>
{
    let options = EstateOptions {
        seed: 77,
        size: Size::rows(500),
        plan_tail: "[verify]\nsettle_max = \"30m\"\n".to_owned(),
        ..EstateOptions::default()
    };
    let (estate, daemon) = estate(1, 2, options).await?;
    let old = &estate.old[0];
    daemon.sigstop()?;
    old.run("UPDATE t_wallet SET ver = ver + 1").await?;
    let waiting = estate.modshift(["verify", "--table", "t_wallet", "--json"]).start()?;
    let begun = "SELECT COUNT(*) FROM modshift_verify \
                 WHERE table_name = 't_wallet' AND started IS NOT NULL";
    wait_until("a round that has begun", LIMIT, || async {
        Ok((estate.new[0].value::<u64>(begun).await.unwrap_or(0) > 0).then_some(()))
    })
    .await
    .with_context(|| waiting.output())?;
    waiting.interrupt(LIMIT).await?;
    let status = waiting.wait_exit(PROMPT).await?;
    ensure!(status.code() == Some(2), "{status}\n{}", waiting.output());
    let end = ["\"kind\":\"end\"", "\"exit\":2", "interrupted; the next"];
    let said = waiting.wait_line("\"kind\"", PROMPT).await?;
    ensure!(end.iter().all(|words| said.contains(words)), "{said}\n{}", waiting.output());
    daemon.sigcont()?;

    // It left no lock behind, and what it had seen was lag.
    let (code, report) = verify(&estate, &["--table", "t_wallet"]).await?;
    ensure!(code == 0 && report["clean"] == true, "{code}\n{report:#}");

    let mut conn = old.address().connect().await?;
    for sql in ["SET SESSION binlog_format = STATEMENT", "UPDATE t_wallet SET ver = ver + 1"] {
        conn.query_drop(sql).await.context(sql)?;
    }
    conn.disconnect().await?;
    let halted = "SELECT COUNT(*) FROM modshift_token WHERE halted IS NOT NULL";
    wait_until("a reader that has halted", LIMIT, || async {
        Ok((old.value::<u64>(halted).await? > 0).then_some(()))
    })
    .await
    .with_context(|| daemon.output())?;
    let (code, report) = verify(&estate, &["--fresh"]).await?;
    ensure!(code == 2 && report["mismatches"] == serde_json::json!([]), "{code}\n{report:#}");
    ensure!(report["tables"][0]["table"].is_string(), "{report:#}");
    let halts = report["halts"].as_array().context("no halts")?;
    ensure!(halts.len() == 1 && halts[0]["stream"] == "reader of old shard 0", "{report:#}");
    let why = halts[0]["why"].as_str().unwrap_or_default();
    ensure!(why.contains("statement-format"), "{report:#}");

    // The way back: the shards have changed sides, equal, and a reader of a new one halts.
    old.run("UPDATE t_wallet SET ver = ver - 1").await?;
    let (olds, news) = (estate.old_addresses(), estate.new_addresses());
    mark_all(&olds, "fenced", "there").await?;
    let there = mark_all(&news, "serving", "there").await?;
    covered(&olds, &there, LIMIT).await.with_context(|| daemon.output())?;
    let new = &estate.new[1];
    let mut conn = new.address().connect().await?;
    for sql in ["SET SESSION binlog_format = STATEMENT", "UPDATE t_wallet SET ver = ver + 1"] {
        conn.query_drop(sql).await.context(sql)?;
    }
    conn.disconnect().await?;
    wait_until("a reader of the way back that has halted", LIMIT, || async {
        Ok((new.value::<u64>(halted).await? > 0).then_some(()))
    })
    .await
    .with_context(|| daemon.output())?;
    let begun = Instant::now();
    let (code, report) = verify(&estate, &["--back", "--fresh"]).await?;
    ensure!(
        code == 2 && begun.elapsed() < PROMPT,
        "{code} after {:?}\n{report:#}",
        begun.elapsed()
    );
    let halts = report["halts"].as_array().context("no halts")?;
    let named = halts.iter().any(|halt| halt["stream"] == "reader of new shard 1");
    ensure!(named, "{report:#}");
    stop(&daemon).await
}
