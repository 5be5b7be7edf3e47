//! What a verification proves, and for how long: the gate, and the fence.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Writer, WriterOptions, case::Size, drained, server::PASSWORD, wait_until,
};
use mysql_async::prelude::Queryable;

use super::{LIMIT, estate, mismatches, stop, verify};

async fn gate(estate: &Estate) -> Result<(i32, String)> {
    estate.modshift(["gate", "--wait", "15s"]).finish(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_wants_a_proof_that_is_young_and_closes_on_damage() -> Result<()> {
    let options = EstateOptions {
        seed: 75,
        size: Size::rows(3_000),
        gate: ("5s".to_owned(), "100ms".to_owned()),
        verify_age: "1h".to_owned(),
        ..Default::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    let (code, output) = gate(&estate).await?;
    ensure!(code == 1 && output.contains("the rows were never verified"), "{code}\n{output}");
    // All tables but one are not enough.
    let (code, report) = verify(&estate, &["--table", "t_user"]).await?;
    ensure!(code == 0, "{report:#}");
    let (code, output) = gate(&estate).await?;
    ensure!(code == 1 && output.contains("the rows were never verified"), "{code}\n{output}");
    let (code, report) = verify(&estate, &[]).await?;
    ensure!(code == 0, "{report:#}");
    let (code, output) = gate(&estate).await?;
    ensure!(code == 0, "{code}\n{output}");

    // Its age is that of the oldest table.
    estate.new[1]
        .run("UPDATE modshift_verify SET proof = proof - INTERVAL 2 HOUR WHERE table_name='t_user'")
        .await?;
    let (code, output) = gate(&estate).await?;
    ensure!(code == 1 && output.contains("the last verification is 72"), "{code}\n{output}");
    let id: u64 = estate.new[2].value("SELECT MIN(user_id) FROM t_user").await?;
    estate.new[2].run(&format!("UPDATE t_user SET country = 'xx' WHERE user_id = {id}")).await?;
    let (code, report) = verify(&estate, &[]).await?;
    ensure!(mismatches(&report) == [format!("t_user user_id={id} differs country")], "{report:#}");
    ensure!(code == 1, "{code}");
    let (code, output) = gate(&estate).await?;
    let text = "1 rows of table t_user differ on new shard 2";
    ensure!(code == 1 && output.contains(text), "{code}\n{output}");
    stop(&daemon).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_last_is_compared_at_the_fence() -> Result<()> {
    let options = EstateOptions {
        seed: 76,
        size: Size::rows(3_000),
        plan_tail: "[verify]\ncontinuous = true\nsettle_max = \"5s\"\n".to_owned(),
        ..Default::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    let options = WriterOptions { seed: 76, rate: Some(100.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    // Every table has been compared as a whole, beside the writer.
    wait_until("a proof of every table", LIMIT, || async {
        for shard in &estate.new {
            let sql = "SELECT COUNT(*) FROM modshift_verify WHERE proof IS NOT NULL";
            if shard.value::<u64>(sql).await.unwrap_or(0) < 7 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
    .with_context(|| daemon.output())?;
    // A table of which rows are to be copied again is left to whoever asked for that.
    let old = &estate.old[0];
    old.run(modshift_mariadb::control::RESYNC_TABLE).await?;
    old.run("INSERT INTO modshift_resync (table_name, state) VALUES ('t_user', 2)").await?;
    rounds_of_others(&estate).await.with_context(|| daemon.output())?;
    for shard in &estate.new {
        shard.run("UPDATE modshift_verify SET proof = NULL WHERE table_name = 't_user'").await?;
    }
    let of_it = "SELECT round FROM modshift_verify WHERE table_name = 't_user'";
    let before: u64 = estate.new[0].value(of_it).await?;
    rounds_of_others(&estate).await.with_context(|| daemon.output())?;
    ensure!(estate.new[0].value::<u64>(of_it).await? == before, "{}", daemon.output());
    old.run("DELETE FROM modshift_resync").await?;
    wait_until("a round of it", LIMIT, || async {
        Ok((estate.new[0].value::<u64>(of_it).await? > before).then_some(()))
    })
    .await
    .with_context(|| daemon.output())?;
    // A login that is refused for a while stops the verifier for that while, and no longer.
    let mut kept = estate.new[0].address().connect().await?;
    kept.query_drop("SET PASSWORD = PASSWORD('another')").await?;
    let refused = daemon.wait_line("not verifying until that is mended", LIMIT).await;
    kept.query_drop(format!("SET PASSWORD = PASSWORD('{PASSWORD}')")).await?;
    refused?;
    daemon.wait_line("verifying again", LIMIT).await?;
    let rounds: u64 = estate.new[0].value("SELECT SUM(round) FROM modshift_verify").await?;
    wait_until("another round", LIMIT, || async {
        let now: u64 = estate.new[0].value("SELECT SUM(round) FROM modshift_verify").await?;
        Ok((now > rounds).then_some(()))
    })
    .await
    .with_context(|| daemon.output())?;

    writer.commits(50, LIMIT).await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await?;
    for shard in &estate.old {
        // The marker of a cutover, as its last act at the fence.
        let set = "writes = writes + 1, phase = 'fenced', fence = 'run-1'";
        shard.run(&format!("UPDATE modshift_token SET {set} WHERE id = 1")).await?;
    }
    let settled = |run: &'static str| {
        let estate = &estate;
        async move {
            for shard in &estate.new {
                let sql = format!("SELECT COUNT(*) FROM modshift_settled WHERE fence = '{run}'");
                if shard.value::<usize>(&sql).await? < estate.old.len() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        }
    };
    wait_until("the rest to be compared", LIMIT, || settled("run-1"))
        .await
        .with_context(|| daemon.output())?;
    let mut damaged = 0;
    for shard in &estate.new {
        damaged += shard.value::<u64>("SELECT COUNT(*) FROM modshift_mismatch").await?;
    }
    ensure!(damaged == 0, "{damaged} rows are called damaged");
    stop(&daemon).await?;
    estate.oracle().compare().await?.ensure_clean()
}

/// One that had begun is over, and another one of a table other than `t_user` has.
async fn rounds_of_others(estate: &Estate) -> Result<()> {
    let sql = "SELECT SUM(round) FROM modshift_verify WHERE table_name <> 't_user'";
    let before: u64 = estate.new[0].value(sql).await?;
    wait_until("rounds of other tables", LIMIT, || async {
        Ok((estate.new[0].value::<u64>(sql).await? >= before + 2).then_some(()))
    })
    .await
}
