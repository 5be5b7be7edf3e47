//! `modshift resync`: thousands of wrong rows of a table, or of a range of it, copied again and proven
//! equal, while an application writes, daemons are killed and streams refuse.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Daemons, Estate, EstateOptions, Log, Modshift, Writer, WriterOptions, case::Size, drained,
    wait_until,
};
use mysql_async::prelude::Queryable;

use super::{LIMIT, estate, stop, verify};

const ORDERS: &str = "t_trade_order";

/// On every new shard, behind the back of its binlog: to the way back these would be foreign writes.
async fn spoil(estate: &Estate, statements: &[&str]) -> Result<()> {
    for shard in &estate.new {
        let mut conn = shard.address().connect().await?;
        conn.query_drop("SET sql_log_bin = 0, time_zone = '+00:00'").await?;
        for sql in statements {
            conn.query_drop(*sql).await.with_context(|| (*sql).to_owned())?;
        }
        conn.disconnect().await?;
    }
    Ok(())
}

/// A third of the orders differ, a third are missing, and there are some that no old shard has.
async fn spoil_orders(estate: &Estate) -> Result<()> {
    let others = "accountNo, symbol, side, flags, quantity, price, filled, note, client_ref, created, \
                  updated, ver";
    let extra = format!(
        "INSERT INTO {ORDERS} (id, {others}) SELECT id + 1000000000000, {others} FROM {ORDERS} \
         ORDER BY id LIMIT 300"
    );
    let statements = [
        "UPDATE t_trade_order SET updated = updated, note = 'spoilt' WHERE id MOD 3 = 0",
        "DELETE FROM t_trade_order WHERE id MOD 3 = 1",
        &extra,
    ];
    spoil(estate, &statements).await
}

/// Over all shards of a side.
async fn count(shards: &[modshift_tests::estate::Shard], sql: &str) -> Result<u64> {
    let mut all = 0;
    for shard in shards {
        all += shard.value::<u64>(sql).await?;
    }
    Ok(all)
}

async fn asked_for(estate: &Estate) -> Result<()> {
    wait_until("the requests", LIMIT, || async {
        for shard in &estate.old {
            let sql = "SELECT COUNT(*) FROM modshift_resync";
            if shard.value::<u64>(sql).await.unwrap_or(0) == 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Ends with this code; gives what it has said.
async fn ends(process: Modshift, expected: i32) -> Result<String> {
    let code = process.wait_exit(LIMIT).await?.code();
    let output = process.output();
    ensure!(code == Some(expected), "it ended with {code:?} and not {expected}:\n{output}");
    Ok(output)
}

async fn is_proven(estate: &Estate, output: &str) -> Result<()> {
    ensure!(output.contains("resync: equal: all of table t_trade_order"), "{output}");
    ensure!(output.contains("that is the proof of this table which the gate asks for"), "{output}");
    ensure!(count(&estate.old, "SELECT COUNT(*) FROM modshift_resync").await? == 0, "{output}");
    let proven = "SELECT COUNT(*) FROM modshift_verify WHERE table_name = 't_trade_order' \
                  AND proof IS NOT NULL";
    ensure!(count(&estate.new, proven).await? == estate.new.len() as u64, "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoilt_table_is_copied_again_under_a_writer_through_a_ctrl_c_and_a_kill() -> Result<()> {
    let options = EstateOptions {
        seed: 81,
        size: Size::rows(16_000),
        verify_age: "1h".to_owned(),
        ..Default::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    stop(&daemon).await?;
    spoil_orders(&estate).await?;
    let resync = ["resync", "--table", ORDERS];
    let first = estate.modshift(resync).start()?;
    asked_for(&estate).await.with_context(|| first.output())?;
    let (code, output) = estate.modshift(resync).finish(LIMIT).await?;
    ensure!(code == 1 && output.contains("another modshift resync of table t_trade"), "{output}");
    first.interrupt(LIMIT).await?;
    let output = ends(first, 2).await?;
    ensure!(output.contains("the same command goes on with it"), "{output}");
    let (code, output) = estate.modshift(["gate"]).finish(LIMIT).await?;
    let reason = "a resync of old shard 1 is not over, of t_trade_order";
    ensure!(code == 1 && output.contains(reason), "{code}\n{output}");

    let options = WriterOptions { seed: 81, rate: Some(60.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    let run = || estate.modshift(["run", "--listen", "127.0.0.1:0"]);
    let killed = run().hold("mid_chunk", 4).start()?;
    let second = estate.modshift(resync).start()?;
    killed.wait_hold("mid_chunk", LIMIT).await.with_context(|| second.output())?;
    killed.kill_9()?;
    // Another verifier is waited for.
    let mut verifier = estate.new[0].address().connect().await?;
    let plan = estate.plan();
    let name = plan.split('"').nth(1).context("the plan begins with its name")?;
    let lock = format!("SELECT GET_LOCK(MD5('modshift_verify {name}'), 60)");
    ensure!(verifier.query_first::<u8, _>(lock).await? == Some(1));
    let daemon = run().start()?;
    let waits = "waiting with the comparison: another verifier is at work";
    wait_until("a resync that waits", LIMIT, || async {
        Ok(second.output().contains(waits).then_some(()))
    })
    .await
    .with_context(|| format!("{}\n{}", second.output(), daemon.output()))?;
    verifier.disconnect().await?;
    let output = ends(second, 0).await.with_context(|| daemon.output())?;
    is_proven(&estate, &output).await?;
    let (_, audited) = estate.modshift(["audit"]).finish(LIMIT).await?;
    let told = "copies again: all of table t_trade_order";
    ensure!(audited.matches(told).count() == 3, "{audited}");
    writer.stop().await?;
    drained(&estate, LIMIT).await.with_context(|| daemon.output())?;
    estate.oracle().compare().await?.ensure_clean()?;
    stop(&daemon).await
}

#[tokio::test(flavor = "multi_thread")]
async fn over_kafka_a_killed_reader_goes_on_with_it() -> Result<()> {
    let options = EstateOptions {
        log: Log::kafka(),
        seed: 82,
        size: Size::rows(12_000),
        verify_age: "1h".to_owned(),
        ..Default::default()
    };
    let estate = Estate::start(1, 2, options).await?;
    let daemons = Daemons::start(&estate)?;
    modshift_tests::copied(&estate, LIMIT).await.with_context(|| daemons.output())?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    daemons.stop(LIMIT).await?;
    spoil_orders(&estate).await?;
    let options = WriterOptions { seed: 82, rate: Some(60.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    let killed = Daemons::start_with(&estate, |launch| launch.hold("mid_chunk", 3))?;
    let resync = estate.modshift(["resync", "--table", ORDERS]).start()?;
    killed.reader()?.wait_hold("mid_chunk", LIMIT).await.with_context(|| resync.output())?;
    killed.iter().try_for_each(|daemon| daemon.kill_9().map(drop))?;
    let daemons = Daemons::start(&estate)?;
    let output = ends(resync, 0).await.with_context(|| daemons.output())?;
    is_proven(&estate, &output).await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    estate.oracle().compare().await?.ensure_clean()?;
    daemons.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_alone_is_mended_and_what_is_refused_goes_on_once_that_is_mended() -> Result<()> {
    let options = EstateOptions {
        seed: 83,
        size: Size::rows(8_000),
        verify_age: "1h".to_owned(),
        ..Default::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    let statements = [
        "UPDATE t_account_entry SET memo = 'spoilt' WHERE line_no MOD 2 = 0",
        "DELETE FROM t_account_entry WHERE line_no MOD 4 = 1",
        "INSERT INTO t_account_entry SELECT accountNo, line_no + 1000000, amount, memo, memo_latin, \
         posted, at_time, ver FROM t_account_entry WHERE line_no < 1000000 ORDER BY 1, 2 LIMIT 200",
    ];
    spoil(&estate, &statements).await?;
    // A range by the first column of the key, a quarter of the rows of old shard 0.
    let key = "SELECT accountNo FROM t_account_entry ORDER BY accountNo, line_no LIMIT";
    let rows: u64 = estate.old[0].value("SELECT COUNT(*) FROM t_account_entry").await?;
    let from: i64 = estate.old[0].value(&format!("{key} {}, 1", rows / 4)).await?;
    let to: i64 = estate.old[0].value(&format!("{key} {}, 1", rows / 2)).await?;
    let within = format!("accountNo BETWEEN {from} AND {to} AND accountNo MOD 2 = 0");
    let (of_all, of_range) = (
        "SELECT COUNT(*) FROM t_account_entry WHERE memo = 'spoilt' OR line_no >= 1000000"
            .to_owned(),
        format!(
            "SELECT COUNT(*) FROM t_account_entry WHERE (memo = 'spoilt' OR line_no >= 1000000) \
             AND {within}"
        ),
    );
    let (all, some) = (count(&estate.new, &of_all).await?, count(&estate.new, &of_range).await?);
    ensure!(some > 50 && all > some + 50, "{some} of {all}");
    let (from, to) = (from.to_string(), to.to_string());
    let table = ["resync", "--table", "t_account_entry"];
    let range: Vec<&str> =
        table.iter().copied().chain(["--key-between", &from, &to, "--shards", "0"]).collect();
    let (code, output) = estate.modshift(table).arg("--shards").arg("7").finish(LIMIT).await?;
    ensure!(code == 3 && output.contains("no old shard of that number"), "{code}\n{output}");
    let wrong = ["--key-between", "1", "x"];
    let (code, output) = estate.modshift(table.iter().chain(&wrong).copied()).finish(LIMIT).await?;
    ensure!(code == 3 && output.contains("x is no value of column accountNo"), "{code}\n{output}");
    let wrong = ["--key-between", "9", "1"];
    let (code, output) = estate.modshift(table.iter().chain(&wrong).copied()).finish(LIMIT).await?;
    ensure!(code == 3 && output.contains("no key lies between them"), "{code}\n{output}");
    // What is known to differ elsewhere is none of its business.
    let (code, report) = verify(&estate, &["--table", "t_account_entry"]).await?;
    ensure!(code == 1 && report["tables"][0]["proof"] == false, "{code}\n{report:#}");
    let dry = estate.modshift(range.iter().copied()).arg("--dry-run");
    let (code, output) = dry.finish(LIMIT).await?;
    ensure!(code == 0 && output.contains("nothing was done"), "{code}\n{output}");
    ensure!(estate.old[0].run("SELECT 1 FROM modshift_resync").await.is_err(), "{output}");

    let (code, output) = estate.modshift(range.iter().copied()).finish(LIMIT).await?;
    ensure!(code == 0, "{code}\n{output}\n{}", daemon.output());
    ensure!(output.contains("the gate still wants the whole table compared"), "{output}");
    ensure!(count(&estate.new, &of_range).await? == 0, "{output}");
    ensure!(count(&estate.new, &of_all).await? == all - some, "more was touched\n{output}");
    let old_rows = format!("SELECT COUNT(*) FROM t_account_entry WHERE {within}");
    let expected: u64 = estate.old[0].value(&old_rows).await?;
    ensure!(count(&estate.new, &old_rows).await? == expected, "rows are missing\n{output}");
    ensure!(output.contains(&format!(", {expected} rows compared on both sides")), "{output}");

    // A row that lies on the wrong old shard: no reader may send it.
    let stray = "SELECT MAX(accountNo) FROM t_account_entry";
    let stray: i64 = estate.old[1].value(stray).await?;
    let mut conn = estate.old[0].address().connect().await?;
    conn.query_drop("SET sql_log_bin = 0").await?;
    let insert = format!(
        "INSERT INTO t_account_entry SELECT {stray}, line_no, amount, memo, memo_latin, posted, at_time, \
         ver FROM t_account_entry LIMIT 1"
    );
    conn.query_drop(insert).await?;
    let (code, output) = estate.modshift(table).arg("--json").finish(LIMIT).await?;
    let says = || format!("{code}\n{output}\n{}", daemon.output());
    ensure!(code == 2 && output.contains("\"equal\": false"), "{}", says());
    ensure!(output.contains("\"state\": \"refused\""), "{}", says());
    ensure!(output.contains("the reader of old shard 0 refuses it"), "{}", says());
    ensure!(output.contains("a stray row"), "{}", says());
    let (code, gate) = estate.modshift(["gate"]).finish(LIMIT).await?;
    let reason = "the reader of old shard 0 has refused a resync of t_account_entry";
    ensure!(code == 1 && gate.contains(reason), "{code}\n{gate}");
    let (_, status) = estate.modshift(["status"]).finish(LIMIT).await?;
    ensure!(status.contains("REFUSED resync of t_account_entry"), "{status}");
    conn.query_drop(format!("DELETE FROM t_account_entry WHERE accountNo = {stray}")).await?;
    conn.disconnect().await?;
    let (code, output) = estate.modshift(table).arg("--json").finish(LIMIT).await?;
    ensure!(code == 0 && output.contains("\"proof\": true"), "{code}\n{output}");

    // What cannot be mended keeps it open: a row on another new shard than its primary key says.
    let columns = "accountNo, line_no, amount, memo, memo_latin, posted, at_time, ver";
    let of_one = "SELECT MIN(accountNo) FROM t_account_entry";
    let strayed: i64 = estate.new[1].value(of_one).await?;
    let mut conn = estate.new[0].address().connect().await?;
    conn.query_drop("SET sql_log_bin = 0").await?;
    let insert = format!(
        "INSERT INTO t_account_entry ({columns}) SELECT {strayed}, line_no, amount, memo, memo_latin, \
         posted, at_time, ver FROM t_account_entry LIMIT 1"
    );
    conn.query_drop(insert).await?;
    let (code, output) = estate.modshift(table).finish(LIMIT).await?;
    ensure!(
        code == 1 && output.contains("its primary key places it elsewhere"),
        "{code}\n{output}"
    );
    ensure!(output.contains("the same command goes on"), "{output}");
    ensure!(count(&estate.old, "SELECT COUNT(*) FROM modshift_resync").await? == 2, "{output}");
    conn.query_drop(format!("DELETE FROM t_account_entry WHERE accountNo = {strayed}")).await?;
    conn.disconnect().await?;
    let (code, output) = estate.modshift(table).finish(LIMIT).await?;
    ensure!(code == 0 && output.contains("an earlier run has copied this again"), "{output}");

    // Of a table that one old shard alone feeds; and what is taken back is gone.
    spoil(&estate, &["DELETE FROM t_currency WHERE code <> 'EUR'"]).await?;
    let (code, output) = estate.modshift(["resync", "--table", "t_currency"]).finish(LIMIT).await?;
    ensure!(code == 0 && output.contains("equal: all of table t_currency"), "{code}\n{output}");
    stop(&daemon).await?;
    estate.oracle().compare().await?.ensure_clean()?;
    let insert = "INSERT INTO modshift_resync (table_name) VALUES ('t_user')";
    estate.old[1].run(insert).await?;
    let back = ["resync", "--back", "--cancel"];
    let (code, output) = estate.modshift(back).finish(LIMIT).await?;
    let hint = "1 requests stand on old shards: modshift resync --cancel is for them";
    ensure!(code == 0 && output.contains(hint), "{code}\n{output}");
    let (code, output) = estate.modshift(["resync", "--cancel"]).finish(LIMIT).await?;
    ensure!(output.contains("old shard 0: there was none"), "{output}");
    ensure!(code == 0 && output.contains("old shard 1: 1 requests were taken back"), "{output}");
    ensure!(count(&estate.old, "SELECT COUNT(*) FROM modshift_resync").await? == 0, "{output}");
    Ok(())
}
