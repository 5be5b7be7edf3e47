//! The verifier's checksum: whatever changes in a row changes it, and rows that exchange values are
//! seen in the checksum of all.

use anyhow::{Context, Result, ensure};
use modshift_mariadb::{Conn, catalog, value::quote};
use modshift_proto::row::RowView;
use modshift_proto::schema::TableSchema;
use modshift_tests::random::Random;
use modshift_verify::checksum;
use mysql_async::prelude::Queryable;

use crate::{SCHEMA, sent, server};

/// So many rows get every value of the table.
const ROWS: usize = 3;

/// Puts every value of each column into some rows, one at a time: the checksum changes exactly if
/// the bytes do. `wire`: the rows by `id`.
pub async fn tells_apart(conn: &mut Conn, schema: &TableSchema, wire: &[Vec<u8>]) -> Result<u64> {
    let table = quote(&schema.name);
    let ids: Vec<i64> = conn.query(format!("SELECT id FROM {table} ORDER BY id")).await?;
    let into: Vec<String> = ids.iter().take(ROWS).map(i64::to_string).collect();
    let columns = sent(schema);
    let (mut had, mut gets) = (Vec::new(), Vec::new());
    let mut cases = 0;
    for (place, changed) in columns.iter().enumerate() {
        let of = |name: &str| {
            let name = quote(name);
            let from = if name == quote(&changed.name) { "gives" } else { "has" };
            format!("{from}.{name} AS {name}")
        };
        let row: Vec<String> = columns.iter().map(|column| of(&column.name)).collect();
        let sql = format!(
            "SELECT `@has`, `@gives`, {} FROM (SELECT has.id AS `@has`, gives.id AS `@gives`, {} \
             FROM {table} has JOIN {table} gives WHERE has.id IN ({})) x",
            checksum::of_row(schema),
            row.join(", "),
            into.join(", ")
        );
        let sums: Vec<(i64, i64, u64)> = conn.query(&sql).await.context(sql)?;
        ensure!(sums.len() == ids.len() * into.len(), "{table}: {} sums", sums.len());
        let sum = |has: i64, gives: i64| {
            sums.iter().find(|(h, g, _)| (*h, *g) == (has, gives)).map(|(.., sum)| *sum)
        };
        for (one, &has) in ids.iter().take(ROWS).enumerate() {
            RowView::parse(&wire[one])?.collect(columns.len(), &mut had)?;
            for (two, &gives) in ids.iter().enumerate() {
                RowView::parse(&wire[two])?.collect(columns.len(), &mut gets)?;
                let same_bytes = had[place] == gets[place];
                ensure!(
                    (sum(has, has) == sum(has, gives)) == same_bytes,
                    "{table}: row {has} with {} of row {gives}: bytes the same: {same_bytes}",
                    changed.name
                );
                cases += u64::from(!same_bytes);
            }
        }
    }
    Ok(cases)
}

/// Values chosen so that they would run into each other if anything about the text were unclear:
/// where one ends, which one it is, which are NULL.
#[tokio::test]
async fn no_two_rows_have_one_text() -> Result<()> {
    let (_server, mut conn) = server().await?;
    conn.query_drop(
        "CREATE TABLE near (i INT, j BIGINT UNSIGNED, d DECIMAL(6,2), s VARCHAR(9) CHARACTER SET \
         latin1, t VARCHAR(9) CHARACTER SET utf8mb4, u CHAR(3) CHARACTER SET ucs2 NOT NULL, \
         b VARBINARY(9) NOT NULL, e DATETIME)",
    )
    .await?;
    let columns: [(&str, &[&str]); 8] = [
        ("i", &["NULL", "0", "1", "11", "-1"]),
        ("j", &["NULL", "0", "1", "11", "18446744073709551615"]),
        ("d", &["NULL", "0", "-1.10"]),
        ("s", &["NULL", "''", "'-'", "'1'", "','"]),
        ("t", &["NULL", "''", "'-'", "'1'", "'1,'"]),
        ("u", &["''", "'1'"]),
        ("b", &["''", "'1'", "x'0031'"]),
        ("e", &["NULL", "'0000-00-00'"]),
    ];
    let from = columns.map(|(name, values)| {
        let rows: Vec<String> = values.iter().map(|v| format!("SELECT {v} AS {name}")).collect();
        format!("({}) AS _{name}", rows.join(" UNION ALL "))
    });
    conn.query_drop(format!(
        "INSERT INTO near SELECT i,j,d,s,t,u,b,e FROM {}",
        from.join(" JOIN ")
    ))
    .await?;
    let schema = catalog::table(&mut conn, SCHEMA, "near").await?;
    let row = checksum::of_row(&schema);
    let text = row.strip_prefix("CRC32").context("a CRC-32 of a text")?;
    let sql = format!(
        "SELECT COUNT(*), COUNT(DISTINCT HEX{text}), COUNT({row}), COUNT(DISTINCT {row}) FROM near"
    );
    let counts: Option<[usize; 4]> =
        conn.query_map(sql, |(a, b, c, d)| [a, b, c, d]).await?.into_iter().next();
    let all = columns.iter().map(|(_, values)| values.len()).product();
    // With these values no two texts happen to have one CRC.
    ensure!(counts == Some([all; 4]), "rows, texts, none NULL, checksums: {counts:?} of {all}");
    Ok(())
}

#[tokio::test]
async fn values_that_change_places_are_seen() -> Result<()> {
    const ROWS: u64 = 300;
    let (_server, mut conn) = server().await?;
    conn.query_drop(
        "CREATE TABLE swaps (id BIGINT PRIMARY KEY, a BIGINT NOT NULL, b BIGINT NOT NULL, k INT, \
         c CHAR(40) CHARACTER SET latin1 NOT NULL, d CHAR(40) CHARACTER SET latin1 NOT NULL, \
         e DECIMAL(18,4) NOT NULL, f DATETIME(6) NOT NULL, x BLOB)",
    )
    .await?;
    // Texts of equal length, which is where a CRC is weakest.
    conn.query_drop(format!(
        "INSERT INTO swaps SELECT seq + 1000000, seq * 7 + 100000, seq * 3 + 500000, \
         seq % 10, MD5(seq), MD5(seq + 7), seq + 1000.25, \
         '2024-01-01' + INTERVAL seq MICROSECOND, MD5(seq + 1) FROM seq_1_to_{ROWS}"
    ))
    .await?;
    let schema = catalog::table(&mut conn, SCHEMA, "swaps").await?;
    let all = format!("SELECT {} FROM swaps", checksum::of_rows(&checksum::of_row(&schema)));
    let before: Option<u64> = conn.query_first(&all).await?;
    let mut changes = Vec::new();
    let mut random = Random::new(41);
    for column in ["a", "b", "k", "c", "d", "e", "f", "x"] {
        for _ in 0..25 {
            let (one, two) = (1_000_001 + random.below(ROWS), 1_000_001 + random.below(ROWS));
            // Between two rows.
            changes.push(format!(
                "UPDATE swaps o JOIN swaps t ON (o.id, t.id) IN (({one}, {two}), ({two}, {one})) \
                 JOIN (SELECT DISTINCT id, {column} AS v FROM swaps) s ON s.id = t.id \
                 SET o.{column} = s.v WHERE NOT (o.{column} <=> s.v)"
            ));
        }
    }
    for id in (1_000_001..1_000_000 + ROWS).step_by(17) {
        changes.push(format!("UPDATE swaps SET a = b, b = @a WHERE id = {id} AND (@a := a)"));
        changes.push(format!("UPDATE swaps SET a = a + 1, b = b - 1 WHERE id = {id}"));
        changes.push(format!("UPDATE swaps SET c = d, d = @c WHERE id = {id} AND (@c := c) <> ''"));
        changes.push(format!("UPDATE swaps SET a = a + 1 WHERE id IN ({id}, {id} + 1)"));
    }
    let mut seen = 0;
    for sql in changes {
        conn.query_drop("START TRANSACTION").await?;
        conn.query_drop(&sql).await.with_context(|| sql.clone())?;
        let changed = conn.affected_rows();
        let after: Option<u64> = conn.query_first(&all).await?;
        conn.query_drop("ROLLBACK").await?;
        ensure!((before != after) == (changed > 0), "{changed} rows changed, unseen: {sql}");
        seen += u64::from(changed > 0);
    }
    ensure!(seen > 200, "{seen} changes prove little");
    Ok(())
}
