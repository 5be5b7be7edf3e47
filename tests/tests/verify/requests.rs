//! Requests for a repair that nobody can serve: said, kept, and in nobody's way.

use anyhow::{Context, Result, ensure};
use modshift_mariadb::control::REPAIR_TABLE;
use modshift_proto::row::RowWriter;
use modshift_tests::{EstateOptions, case::Size, drained};
use mysql_async::prelude::Queryable;

use super::{LIMIT, estate, stop, verify};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_served_closes_the_gate_and_holds_up_no_other() -> Result<()> {
    let options = EstateOptions {
        seed: 78,
        size: Size::rows(3_000),
        gate: ("5s".to_owned(), "100ms".to_owned()),
        ..Default::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    let old = &estate.old[0];
    old.run(REPAIR_TABLE).await?;
    let ask = async |table: &str, target: u16, key: &str| {
        let insert = "INSERT INTO modshift_repair (table_name, target, pk) VALUES";
        old.run(&format!("{insert} ('{table}', {target}, X'{key}')")).await
    };
    // More than a reader looks at together.
    for _ in 0..25 {
        ask("t_user", 0, "FF").await?;
    }
    ask("t_user", 0, "").await?;
    ask("t_nobody", 0, "02").await?;
    ask("t_user", 99, "02").await?;
    // A row that is elsewhere, and that no change of the log may delete where it is not.
    let account: i64 = old.value("SELECT MAX(accountNo) FROM t_account_entry").await?;
    let (mut wire, elsewhere) = (Vec::new(), (account + 1).rem_euclid(3) as u16);
    let mut key = RowWriter::new(&mut wire, 2);
    key.int(account);
    key.uint(u64::from(u32::MAX));
    key.finish();
    let hex: String = wire.iter().map(|byte| format!("{byte:02X}")).collect();
    ask("t_account_entry", elsewhere, &hex).await?;
    let refused = 29;

    // A row that can be repaired waits behind all of them.
    let user: u64 = old.value("SELECT MIN(user_id) FROM t_user").await?;
    for new in &estate.new {
        // Behind the back of its binlog: to the way back it would be a foreign write.
        let mut conn = new.address().connect().await?;
        conn.query_drop("SET sql_log_bin = 0").await?;
        let spoil = format!("UPDATE t_user SET country = 'xx' WHERE user_id = {user}");
        conn.query_drop(spoil).await?;
    }
    let (code, report) = verify(&estate, &["--repair"]).await?;
    let says = || format!("{code}\n{report:#}\n{}", daemon.output());
    ensure!(code == 0 && report["repaired"] == 1, "{}", says());
    let note = format!("{refused} requests in modshift_repair of old shard 0 were refused");
    ensure!(report["notes"].to_string().contains(&note), "{}", says());
    let kept: u64 = old.value("SELECT COUNT(*) FROM modshift_repair WHERE sent = 2").await?;
    let waiting: u64 = old.value("SELECT COUNT(*) FROM modshift_repair WHERE sent <> 2").await?;
    ensure!((kept, waiting) == (refused, 0), "{kept} are kept, {waiting} wait\n{}", says());

    // Seen by whoever looks, and only by the cutover as a reason to wait: the tail goes on.
    let (code, output) = estate.modshift(["gate", "--wait", "2s"]).finish(LIMIT).await?;
    let reason = format!("the reader of old shard 0 has refused {refused} requests for a repair");
    ensure!(code == 1 && output.contains(&reason), "{code}\n{output}");
    let (code, output) = estate.modshift(["status"]).finish(LIMIT).await?;
    let trouble = format!("REFUSED {refused} requests for a repair");
    ensure!(code == 1 && output.contains(&trouble), "{code}\n{output}");
    old.run(&format!("UPDATE t_user SET country = 'yy' WHERE user_id = {user}")).await?;
    drained(&estate, LIMIT).await.with_context(|| daemon.output())?;
    estate.oracle().compare().await?.ensure_clean()?;

    old.run("DELETE FROM modshift_repair WHERE sent = 2").await?;
    let (code, output) = estate.modshift(["gate", "--wait", "30s"]).finish(LIMIT).await?;
    ensure!(code == 0, "{code}\n{output}");
    stop(&daemon).await
}
