//! Planted faults, each found with its key, its kind and its columns.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Writer, WriterOptions,
    case::{COLUMNS, Size},
    drained,
};
use mysql_async::prelude::Queryable;

use super::{LIMIT, estate, mismatches, stop, verify};

/// On new shard `new`: gives each column of `t_all_types` another value in a row of its own, and
/// says what should be found.
async fn spoil_each_column(estate: &Estate, new: usize) -> Result<Vec<String>> {
    let mut conn = estate.new[new].address().connect().await?;
    conn.query_drop("SET sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES', time_zone = '+00:00'")
        .await?;
    let ids: Vec<i64> = conn.query("SELECT id FROM t_all_types ORDER BY id").await?;
    ensure!(ids.len() > COLUMNS.len(), "{} rows are too few", ids.len());
    let mut expected = Vec::new();
    for (column, id) in COLUMNS.iter().zip(&ids) {
        // A value that is there in another row, so that it is one of that type; bytes decide what
        // is another one, and NULL is one too.
        let sql = format!(
            "UPDATE t_all_types a JOIN (SELECT b.{column} AS v FROM t_all_types b \
               JOIN t_all_types c ON c.id = {id} \
               WHERE NOT (HEX(b.{column}) <=> HEX(c.{column})) LIMIT 1) d \
             SET a.{column} = d.v WHERE a.id = {id}"
        );
        conn.query_drop(&sql).await.with_context(|| sql.clone())?;
        ensure!(conn.affected_rows() == 1, "{column} has one value only: {sql}");
        expected.push(format!("t_all_types id={id} differs {column}"));
    }
    // And the smallest differences that there are, where a text of the value would hide them.
    let tricks = [
        ("f32 = 0e0, f64 = 0e0, vc_utf8 = 'a', bin16 = x'00', blob_ = ''", None),
        ("f32 = f32 + 1.4e-45", Some("f32")),
        ("f64 = 5e-324", Some("f64")),
        ("vc_utf8 = 'a '", Some("vc_utf8")),
        ("vc_utf8 = 'A'", Some("vc_utf8")),
        ("blob_ = NULL", Some("blob_")),
        ("bin16 = x'0001'", Some("bin16")),
    ];
    let free = &ids[COLUMNS.len()..];
    for ((set, column), id) in tricks.iter().skip(1).zip(free) {
        // On the old shard, through the pipeline, the value that the trick starts from.
        let account: i64 = conn
            .query_first(format!("SELECT accountNo FROM t_all_types WHERE id = {id}"))
            .await?
            .context("a row")?;
        let old = account.rem_euclid(estate.old.len() as i64) as usize;
        estate.old[old]
            .run(&format!("UPDATE t_all_types SET {} WHERE id = {id}", tricks[0].0))
            .await?;
        drained(estate, LIMIT).await?;
        conn.query_drop(format!("UPDATE t_all_types SET {set} WHERE id = {id}")).await?;
        let column = column.context("a column")?;
        expected.push(format!("t_all_types id={id} differs {column}"));
    }
    Ok(expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_fault_is_found_and_nothing_else() -> Result<()> {
    let (estate, daemon) =
        estate(3, 4, EstateOptions { seed: 71, size: Size::rows(60_000), ..Default::default() })
            .await?;
    let (code, report) = verify(&estate, &[]).await?;
    ensure!(code == 0 && report["clean"] == true, "before any fault: {code}\n{report:#}");
    let rows: i64 = report["tables"]
        .as_array()
        .context("tables")?
        .iter()
        .map(|t| t["rows"].as_i64().unwrap_or(0))
        .sum();
    ensure!(rows > 3_000, "{rows} rows compared");

    let mut expected = spoil_each_column(&estate, 2).await?;
    let one = &estate.new[1];
    let pair = |row: mysql_async::Row| mysql_async::from_row::<(i64, u32)>(row);
    let rows = one
        .address()
        .query("SELECT accountNo, line_no FROM t_account_entry ORDER BY accountNo, line_no LIMIT 4")
        .await?;
    let keys: Vec<(i64, u32)> = rows.into_iter().map(pair).collect();
    let name = |(account, line): (i64, u32)| {
        format!("t_account_entry accountNo={account}, line_no={line}")
    };
    // A missing row.
    let (account, line) = keys[0];
    one.run(&format!("DELETE FROM t_account_entry WHERE accountNo={account} AND line_no={line}"))
        .await?;
    expected.push(format!("{} missing", name(keys[0])));
    // A row that is nowhere on the old shards.
    let (account, line) = keys[1];
    let others = "amount, memo, memo_latin, posted, at_time, ver";
    one.run(&format!(
        "INSERT INTO t_account_entry SELECT accountNo, line_no + 1000000, {others} \
         FROM t_account_entry WHERE accountNo={account} AND line_no={line}"
    ))
    .await?;
    expected.push(format!("{} extra", name((account, line + 1_000_000))));
    // A row that moved to where its key does not place it.
    let (account, line) = keys[2];
    one.run(&format!(
        "UPDATE t_account_entry SET accountNo = accountNo + 1, line_no = line_no + 2000000 \
         WHERE accountNo={account} AND line_no={line}"
    ))
    .await?;
    expected.push(format!("{} missing", name(keys[2])));
    expected.push(format!("{} wrong_shard", name((account + 1, line + 2_000_000))));
    // Two rows that exchange a value, which an XOR of plain CRCs would not see.
    estate.new[3]
        .run(
            "UPDATE t_trade_order SET updated = updated, client_ref = REPEAT(CHAR(65 + id MOD 7), 20) \
         WHERE id IN (SELECT id FROM (SELECT id FROM t_trade_order ORDER BY id LIMIT 2) x)",
        )
        .await?;
    let ids =
        estate.new[3].address().query("SELECT id FROM t_trade_order ORDER BY id LIMIT 2").await?;
    for id in ids.into_iter().map(mysql_async::from_row::<u64>) {
        expected.push(format!("t_trade_order id={id} differs client_ref"));
    }
    // A broadcast row, on one shard only.
    estate.new[0].run("UPDATE t_currency SET rate = rate + 1 ORDER BY code LIMIT 1").await?;
    let code: String =
        estate.new[0].value("SELECT code FROM t_currency ORDER BY code LIMIT 1").await?;
    expected.push(format!("t_currency code='{code}' differs rate"));
    expected.sort();

    let (code, report) = verify(&estate, &[]).await?;
    ensure!(code == 1 && report["clean"] == false, "{code}\n{report:#}");
    let found = mismatches(&report);
    ensure!(found == expected, "found {found:#?}\nexpected {expected:#?}");
    // They are known from now on, and a verification of another table leaves them alone.
    let (code, report) = verify(&estate, &["--table", "t_user"]).await?;
    ensure!(code == 0 && mismatches(&report).is_empty(), "{code}\n{report:#}");

    // The oracle agrees that there are wrong rows.
    let oracle = estate.oracle().compare().await?;
    ensure!(oracle.ensure_clean().is_err(), "the oracle found nothing");

    // Copied again under a live writer; but for the row that no change of the log may touch.
    let options = WriterOptions { seed: 71, rate: Some(80.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    let (code, report) = verify(&estate, &["--repair"]).await?;
    let says = || format!("{report:#}\n{}", daemon.output());
    ensure!(code == 1, "{code}\n{}", says());
    let left = mismatches(&report);
    ensure!(left.len() == 1 && left[0].ends_with("wrong_shard"), "{}", says());
    // What the writer has changed meanwhile is equal without a repair.
    ensure!(report["repaired"].as_u64() >= Some(expected.len() as u64 / 2), "{}", says());
    ensure!(report["notes"].to_string().contains("by hand"), "{}", says());
    let (account, line) = keys[2];
    one.run(&format!(
        "DELETE FROM t_account_entry WHERE accountNo = {} AND line_no = {}",
        account + 1,
        line + 2_000_000
    ))
    .await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await?;
    let (code, report) = verify(&estate, &[]).await?;
    ensure!(code == 0 && report["clean"] == true, "after the repair: {code}\n{report:#}");
    stop(&daemon).await?;
    estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_collation_is_a_difference_of_the_table() -> Result<()> {
    let (estate, daemon) =
        estate(1, 2, EstateOptions { seed: 72, size: Size::rows(3_000), ..Default::default() })
            .await?;
    // Of a column that is no key the bytes are compared all the same; of a key the order differs.
    estate.new[0].run(
        "ALTER TABLE t_user MODIFY country CHAR(2) CHARACTER SET latin1 COLLATE latin1_german1_ci NOT NULL",
    ).await?;
    estate.new[1].run(
        "ALTER TABLE t_device MODIFY login VARCHAR(64) CHARACTER SET latin1 COLLATE latin1_bin NOT NULL",
    ).await?;
    estate.new[0]
        .run("UPDATE t_user SET country = LOWER(country) ORDER BY user_id LIMIT 1")
        .await?;
    let id: u64 = estate.new[0].value("SELECT MIN(user_id) FROM t_user").await?;
    let (code, report) = verify(&estate, &[]).await?;
    ensure!(code == 1, "{code}\n{report:#}");
    let lines = report["schema_differences"].to_string();
    ensure!(
        lines.contains("new shard 0: table t_user has column country char(2) (latin1_german1_ci)"),
        "{lines}"
    );
    ensure!(lines.contains("new shard 1: table t_device has column login"), "{lines}");
    ensure!(report["notes"].to_string().contains("t_device: not compared"), "{report:#}");
    ensure!(mismatches(&report) == [format!("t_user user_id={id} differs country")], "{report:#}");
    stop(&daemon).await
}
