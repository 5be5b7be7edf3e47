//! A table read page by page, whatever its key.

use anyhow::{Context, Result, ensure};
use modshift_mariadb::{Conn, catalog, value};
use modshift_proto::row::RowView;
use modshift_proto::schema::Column;
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use crate::{SCHEMA, encode, server};

/// Pages through the whole table and compares with one ordered read.
async fn pages(conn: &mut Conn, create: &str, insert: &str, ranges: bool) -> Result<()> {
    let name = create.split_whitespace().nth(2).context("a name")?.to_owned();
    conn.query_drop(create).await?;
    // The session that pages stays exact.
    conn.query_drop(format!(
        "SET STATEMENT sql_mode = '', check_constraint_checks = 1 FOR {insert}"
    ))
    .await?;
    conn.query_drop(format!("ANALYZE TABLE {name}")).await?;
    let schema = catalog::table(conn, SCHEMA, &name).await?;
    let keys: Vec<&Column> = schema.primary_key.iter().map(|&at| &schema.columns[at]).collect();
    let select: Vec<_> = keys.iter().map(|column| value::select_expr(column)).collect();
    let (select, order) = (select.join(", "), value::key_order(&keys));
    if let Some(unpageable) = value::unpageable(&name, &keys) {
        let found: Option<u8> = conn.query_first(unpageable).await?;
        ensure!(found.is_none(), "{name} is not to be paged");
    }
    let whole: Vec<Row> =
        conn.exec(format!("SELECT {select} FROM {name} ORDER BY {order}"), ()).await?;
    let whole: Result<Vec<_>> = whole.into_iter().map(|row| encode(&keys, &row.unwrap())).collect();
    let mut seen = Vec::new();
    let mut after: Option<Vec<Vec<u8>>> = None;
    let mut planned = false;
    loop {
        let condition = value::key_page(&keys, after.as_deref())?;
        let sql = format!("SELECT {select} FROM {name} WHERE {condition} ORDER BY {order} LIMIT 7");
        if ranges && !planned && seen.len() >= 500 {
            let plan: Option<Row> = conn.query_first(format!("EXPLAIN {sql}")).await?;
            let plan = plan.context("no plan")?;
            let (kind, key): (String, Option<String>) =
                (plan.get(3).context("type")?, plan.get(5).context("key")?);
            ensure!(
                (kind.as_str(), key.as_deref()) == ("range", Some("PRIMARY")),
                "{sql}: {kind} {key:?}"
            );
            planned = true;
        }
        let rows: Vec<Row> = conn.exec(sql, ()).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            seen.push(encode(&keys, &row.unwrap())?);
        }
        let mut cells = Vec::new();
        RowView::parse(&seen[seen.len() - 1])?.collect(keys.len(), &mut cells)?;
        after = Some(
            cells
                .into_iter()
                .map(|cell| cell.map(<[u8]>::to_vec))
                .collect::<Option<_>>()
                .context("NULL")?,
        );
        ensure!(seen.len() <= 100_000, "{name}: no end");
    }
    ensure!(planned || !ranges, "{name}: too few rows to look at a plan");
    ensure!(seen == whole?, "{name}: pages differ from the whole");
    Ok(())
}

#[tokio::test]
async fn pages_meet_every_row_once_whatever_the_key() -> Result<()> {
    let (_server, mut conn) = server().await?;
    let c = &mut conn;
    let words = "CONCAT(ELT(1 + seq % 7, 'a', 'B', 'é', 'ß', 'Z ', '_', '%'), HEX(seq * 7919 % 3001), \
         ELT(1 + seq % 5, '', ' x', 'É', CHAR(9), CONCAT(CHAR(9), 'a')))";
    for (name, text) in [
        ("k1", "VARCHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"),
        ("k2", "VARCHAR(60) CHARACTER SET latin1 COLLATE latin1_swedish_ci"),
        ("k3", "VARCHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        ("k4", "CHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"),
        ("k5", "VARCHAR(60) CHARACTER SET utf16 COLLATE utf16_general_ci"),
        ("k6", "VARCHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_nopad_ci"),
        ("k7", "VARCHAR(60) CHARACTER SET utf8mb4 COLLATE uca1400_as_cs"),
        ("k8", "CHAR(60) CHARACTER SET latin1 COLLATE latin1_bin"),
        ("k9", "CHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"),
        ("k10", "CHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_nopad_ci"),
        (
            "k12",
            "CHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_nopad_ci CHECK (k NOT LIKE '%\t%')",
        ),
        ("k11", "VARCHAR(60) CHARACTER SET gbk COLLATE gbk_chinese_ci"),
    ] {
        let create = format!("CREATE TABLE {name} (k {text}, PRIMARY KEY (k))");
        let insert = format!(
            "INSERT IGNORE INTO {name} SELECT CONVERT({words} USING utf8mb4) FROM seq_1_to_3000"
        );
        pages(c, &create, &insert, true).await.with_context(|| name.to_owned())?;
    }
    let keys = [
        ("b1", "VARBINARY(20)", "UNHEX(CONCAT(HEX(seq * 7919 % 30011), IF(seq % 2, '', '00')))"),
        ("b2", "BINARY(6)", "UNHEX(LPAD(HEX(seq * 79190001 % 30011003), 10, '0'))"),
        ("u1", "UUID", "UNHEX(INSERT(MD5(seq), 13, 1, seq % 8))"),
        ("u4", "UUID", "UNHEX(INSERT(INSERT(MD5(seq), 13, 1, HEX(seq % 16)), 17, 1, 'A'))"),
        ("u2", "INET6", "UNHEX(MD5(seq))"),
        ("u3", "INET4", "UNHEX(LEFT(MD5(seq), 8))"),
        ("n1", "BIGINT", "(CAST(seq AS SIGNED) - 1500) * 6148914691236517"),
        ("n2", "BIGINT UNSIGNED", "seq * 6148914691236517 % 18446744073709551557"),
        ("n3", "DECIMAL(40,20)", "(CAST(seq AS SIGNED) - 1500) / 7"),
        ("n4", "DOUBLE", "(CAST(seq AS SIGNED) - 1500) / 7e0"),
        ("n5", "FLOAT", "(CAST(seq AS SIGNED) - 1500) / 7e0"),
        ("n6", "BIT(33)", "seq * 1000003 % 8589934591"),
        (
            "t1",
            "DATETIME(6)",
            "IF(seq = 1, 0, TIMESTAMP'2020-01-01 00:00:00' + INTERVAL seq * 777777 MICROSECOND)",
        ),
        (
            "t2",
            "TIMESTAMP(6)",
            "IF(seq = 1, 0, TIMESTAMP'2020-01-01 00:00:00' + INTERVAL seq * 777777 MICROSECOND)",
        ),
        (
            "t3",
            "DATETIME",
            "IF(seq = 1, 0, TIMESTAMP'2020-01-01 00:00:00' + INTERVAL seq * 7 HOUR)",
        ),
        ("t4", "TIME(3)", "SEC_TO_TIME((CAST(seq AS SIGNED) - 1500) * 100.123)"),
        ("t5", "DATE", "IF(seq = 1, 0, DATE'1990-01-01' + INTERVAL seq DAY)"),
    ];
    for (name, data, expression) in keys {
        let create = format!("CREATE TABLE {name} (k {data} PRIMARY KEY)");
        let insert = format!("INSERT IGNORE INTO {name} SELECT {expression} FROM seq_1_to_3000");
        pages(c, &create, &insert, true).await.with_context(|| name.to_owned())?;
    }
    pages(
        c,
        "CREATE TABLE c1 (a INT, b VARCHAR(20) COLLATE utf8mb4_general_ci, d DATETIME(6), PRIMARY KEY (b, a, d))",
        "INSERT INTO c1 SELECT CAST(seq % 11 AS SIGNED) - 5, CONCAT('K', seq % 30), TIMESTAMP'2020-01-01 00:00:00' + INTERVAL seq SECOND \
         FROM seq_1_to_3000",
        true,
    )
    .await?;
    pages(
        c,
        "CREATE TABLE c2 (e ENUM('z','it''s','','a,b'), n SMALLINT, y YEAR, PRIMARY KEY (e, y, n))",
        "INSERT IGNORE INTO c2 SELECT seq % 5, seq, IF(seq % 9, 1960 + seq % 80, 0) FROM seq_1_to_3000",
        true,
    )
    .await?;
    // Where one key begins as another does, a character that sorts below a space turns them around:
    // the index has the spaces of a CHAR, a comparison has not.
    let digit = |place: u32| {
        format!("ELT(1 + seq DIV {} % 5, 'a', CHAR(9), ' ', CHAR(1), 'B')", 5u32.pow(place))
    };
    let digits: Vec<String> = (0..5).map(digit).collect();
    for (name, text) in [
        ("d1", "CHAR(6) CHARACTER SET latin1 COLLATE latin1_nopad_bin"),
        ("d2", "CHAR(6) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_nopad_ci"),
        ("d3", "CHAR(6) CHARACTER SET utf16le COLLATE utf16le_general_nopad_ci"),
        ("d4", "CHAR(6) CHARACTER SET gbk COLLATE gbk_nopad_bin"),
        ("d5", "CHAR(6) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"),
        ("d6", "VARCHAR(6) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_nopad_ci"),
    ] {
        let create = format!("CREATE TABLE {name} (k {text}, n INT, PRIMARY KEY (k, n))");
        let insert = format!(
            "INSERT IGNORE INTO {name} SELECT CONVERT(CONCAT({}) USING utf8mb4), seq % 3 FROM \
             seq_1_to_3125",
            digits.join(", ")
        );
        pages(c, &create, &insert, false).await.with_context(|| name.to_owned())?;
    }
    for (name, key, value) in [
        // Shows another value than it was given.
        ("x1", "UUID", "X'000001FF010181C180277798B2189DEB'"),
        ("x2", "CHAR(9) COLLATE utf8mb4_unicode_nopad_ci", "'a\u{1}'"),
        ("x3", "CHAR(9) CHARACTER SET utf16 COLLATE utf16_unicode_nopad_ci", "'a\u{ad}b'"),
    ] {
        c.query_drop(format!("CREATE TABLE {name} (k {key} PRIMARY KEY)")).await?;
        let value = if key == "UUID" {
            value.to_owned()
        } else {
            format!("CONVERT({value} USING utf8mb4)")
        };
        c.query_drop(format!("INSERT INTO {name} VALUES ({value})")).await?;
        let schema = catalog::table(c, SCHEMA, name).await?;
        let sql = value::unpageable(name, &[&schema.columns[0]]).context("pageable")?;
        let found: Option<u8> = c.query_first(sql.as_str()).await?;
        ensure!(found == Some(1), "{name}: not seen by {sql}");
    }
    // A SET makes no ranges; every row is met all the same.
    pages(
        c,
        "CREATE TABLE c3 (s SET('c','b','a'), n INT, PRIMARY KEY (s, n))",
        "INSERT INTO c3 SELECT seq % 8, seq FROM seq_1_to_1000",
        false,
    )
    .await?;
    Ok(())
}
