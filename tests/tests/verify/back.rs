//! After a cutover the old shards are the copy.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    EstateOptions, Log, Writer, WriterOptions,
    case::Size,
    drained_back,
    marker::{covered, mark_all},
};
use mysql_async::prelude::Queryable;

use super::{LIMIT, estate, killed_midway, mismatches, stop, verify};

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_on_the_old_shards_is_found_and_mended_from_the_new_ones() -> Result<()> {
    let options = EstateOptions {
        log: Log::Direct,
        seed: 74,
        size: Size::rows(20_000),
        gate: ("5s".to_owned(), "100ms".to_owned()),
        verify_age: "1h".to_owned(),
        ..EstateOptions::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    let (old, new) = (estate.old_addresses(), estate.new_addresses());
    let (code, output) = estate.modshift(["verify", "--back"]).finish(LIMIT).await?;
    ensure!(
        code == 2 && output.contains("the old shards serve: they are no copy of the new shards"),
        "before a cutover: {code}\n{output}"
    );

    let fences = mark_all(&old, "fenced", "there").await?;
    covered(&new, &fences, LIMIT).await?;
    mark_all(&new, "serving", "there").await?;
    let (code, output) = estate.modshift(["verify"]).finish(LIMIT).await?;
    ensure!(
        code == 2 && output.contains("the new shards serve: they are no copy of the old shards"),
        "after a cutover: {code}\n{output}"
    );
    let options = WriterOptions { seed: 74, rate: Some(200.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.new_routes()).await?;
    writer.commits(100, LIMIT).await?;
    let (code, report) = verify(&estate, &["--back"]).await?;
    ensure!(code == 0 && report["clean"] == true, "under a writer: {code}\n{report:#}");
    ensure!(report["direction"] == "back", "{report:#}");
    writer.stop().await?;
    drained_back(&estate, LIMIT).await?;

    // Each on old shard 1, behind the back of its binlog.
    let mut conn = old[1].connect().await?;
    let ids: Vec<u64> = conn.query("SELECT id FROM t_wallet ORDER BY id LIMIT 2").await?;
    let [changed, gone] = ids[..] else { anyhow::bail!("{} rows", ids.len()) };
    let account: i64 =
        old[1].value(format!("SELECT accountNo FROM t_wallet WHERE id={gone}")).await?;
    let extra = u64::MAX;
    for sql in [
        "SET sql_log_bin = 0".to_owned(),
        format!("UPDATE t_wallet SET balance = balance + 0.01 WHERE id={changed}"),
        format!("DELETE FROM t_wallet WHERE id={gone}"),
        format!("INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES ({extra}, 1, 1, 1)"),
    ] {
        conn.query_drop(&sql).await.with_context(|| sql)?;
    }
    conn.disconnect().await?;
    let mut expected = [
        format!("t_wallet id={changed} differs balance"),
        format!("t_wallet id={gone} missing"),
        format!("t_wallet id={extra} extra"),
    ];
    expected.sort();
    let (code, report) = verify(&estate, &["--back", "--fresh"]).await?;
    ensure!(code == 1 && mismatches(&report) == expected, "{code}\n{report:#}");
    let found = report["mismatches"].as_array().into_iter().flatten();
    let missing = found.clone().find(|m| m["kind"] == "missing").context("a missing row")?;
    ensure!(missing["old"] == 1, "{report:#}");
    ensure!(missing["new"] == account.rem_euclid(3), "account {account}: {report:#}");

    let (code, report) = verify(&estate, &["--back", "--repair"]).await?;
    ensure!(code == 0 && report["repaired"] == 3, "{code}\n{report:#}");
    // A whole table, and what there is too much of it, in the same way.
    let mut conn = old[0].connect().await?;
    for sql in
        ["SET sql_log_bin = 0", "UPDATE t_wallet SET ver = ver + 1", "DELETE FROM t_wallet LIMIT 5"]
    {
        conn.query_drop(sql).await?;
    }
    conn.disconnect().await?;
    let resync = ["resync", "--back", "--table", "t_wallet"];
    let (code, output) = estate.modshift(resync).finish(LIMIT).await?;
    ensure!(code == 0 && output.contains("new shard 2: "), "{code}\n{output}\n{}", daemon.output());
    estate.oracle_back().compare().await?.ensure_clean()?;
    stop(&daemon).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_of_the_way_back_that_is_killed_goes_on_where_it_was() -> Result<()> {
    let options = EstateOptions {
        seed: 75,
        size: Size::rows(3_000),
        plan_tail: "[verify]\nchunk_rows_max = 50\n".to_owned(),
        ..EstateOptions::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    let (old, new) = (estate.old_addresses(), estate.new_addresses());
    let fences = mark_all(&old, "fenced", "there").await?;
    covered(&new, &fences, LIMIT).await?;
    mark_all(&new, "serving", "there").await?;
    let args = ["--back", "--table", "t_trade_order", "--max-rows-per-s", "100"];
    killed_midway(&estate, &estate.old, &args).await?;
    let chunks: u64 = estate.old[0].value("SELECT chunk FROM modshift_verify").await?;
    let (code, report) = verify(&estate, &["--back", "--table", "t_trade_order"]).await?;
    ensure!(code == 0 && report["tables"][0]["resumed"] == true, "{code}\n{report:#}");
    ensure!(report["tables"][0]["chunks"].as_u64() > Some(chunks), "{chunks} before\n{report:#}");
    stop(&daemon).await
}
