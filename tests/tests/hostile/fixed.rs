//! What the seeds of `main` may miss: each value beyond the range of its type, once by the copy and once
//! by the binlog, stored as the session without strict mode has left it.

use anyhow::{Context, Result, ensure};
use modshift_tests::estate::Shard;
use modshift_tests::{Daemons, copied, drained};
use mysql_async::prelude::Queryable;

use crate::{LIMIT, estate};

/// A type, what is written, and what is stored: as the server shows it, a label as its number.
const VALUES: [(&str, &str, &str); 14] = [
    ("ENUM('a','b')", "'bogus'", "0"),
    ("ENUM('a','b')", "7", "0"),
    ("ENUM('a','b') CHARACTER SET utf16", "'c'", "0"),
    ("SET('a','b','c')", "'a,bogus'", "1"),
    ("SET('a','b','c')", "255", "7"),
    ("SET('a','b','c')", "'bogus'", "0"),
    ("TIME", "'900:00:00'", "838:59:59"),
    ("TIME", "'-900:00:00'", "-838:59:59"),
    ("TIME", "'bogus'", "00:00:00"),
    ("TIME(3)", "'838:59:59.9999'", "838:59:59.999"),
    ("TIME(3)", "'-838:59:59.9999'", "-838:59:59.999"),
    ("TIME(6)", "9000000", "838:59:59.999999"),
    ("TIME(6)", "'-900:00:00.5'", "-838:59:59.999999"),
    ("TIME(6)", "'12:61:00'", "00:00:00.000000"),
];

fn column(place: usize) -> String {
    let name = format!("c{place}");
    match VALUES[place].0.starts_with("TIME") {
        true => name,
        false => format!("{name} + 0"),
    }
}

/// Every row, as it is stored.
async fn stored(shard: &Shard) -> Result<Vec<(i64, String)>> {
    let columns: Vec<String> = (0..VALUES.len()).map(column).collect();
    let sql = format!("SELECT id, CONCAT_WS(' ', {}) FROM t ORDER BY id", columns.join(", "));
    let mut conn = shard.address().connect().await?;
    Ok(conn.query(sql).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_times_out_of_range_arrive_as_they_are_stored() -> Result<()> {
    let columns: Vec<String> =
        VALUES.iter().enumerate().map(|(place, (kind, ..))| format!("c{place} {kind}")).collect();
    let body =
        format!("id BIGINT NOT NULL PRIMARY KEY, uid BIGINT NOT NULL, {}", columns.join(", "));
    let estate = estate(2, 1, &[("t".to_owned(), body)]).await?;
    let expected = VALUES.map(|(_, _, stored)| stored).join(" ");
    let given = VALUES.map(|(_, given, _)| given).join(", ");
    let mut careless = estate.old[0].address().connect().await?;
    careless.query_drop("SET sql_mode = ''").await?;
    careless.query_drop(format!("INSERT INTO t VALUES (1, 2, {given})")).await?;
    careless.query_drop("INSERT INTO t (id, uid) VALUES (2, 4)").await?;
    let daemons = Daemons::start(&estate)?;
    let run = async {
        copied(&estate, LIMIT).await?;
        careless.query_drop(format!("INSERT INTO t VALUES (3, 6, {given})")).await?;
        let changes: Vec<String> = VALUES
            .iter()
            .enumerate()
            .map(|(place, (_, given, _))| format!("c{place} = {given}"))
            .collect();
        let update = format!("UPDATE t SET {} WHERE id = 2", changes.join(", "));
        careless.query_drop(update).await?;
        drained(&estate, LIMIT).await?;
        for shard in [&estate.old[0], &estate.new[0]] {
            let found = stored(shard).await?;
            let all = [1, 2, 3].map(|id| (id, expected.clone()));
            ensure!(found == all, "{}: {found:#?}, and not {expected}", shard.schema);
        }
        let (code, output) = estate.modshift(["verify"]).finish(LIMIT).await?;
        ensure!(code == 0, "verify ended with {code}:\n{output}");
        estate.oracle().compare().await?.ensure_clean()
    };
    run.await.with_context(|| daemons.output())?;
    daemons.stop(LIMIT).await
}
