//! Rows: keys that would meet on a new shard, and how many rows go where.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, LIMIT, NEW, OLD, TABLE, shared};

fn lines(path: &Path) -> Result<Vec<String>> {
    Ok(std::fs::read_to_string(path)?.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn keys_that_would_meet_are_all_listed_and_nothing_starts() -> Result<()> {
    let table = "id BIGINT NOT NULL, uid BIGINT NOT NULL, code VARCHAR(20) COLLATE \
                 utf8mb4_general_ci, PRIMARY KEY (id), UNIQUE KEY code (code)";
    let case = Case::new(shared().await?, table).await?;
    // Rows 0, 6, … of old shard 0 and 3, 9, … of old shard 1 all go to new shard 0.
    case.run(0, "INSERT INTO t SELECT seq, seq * 6, CONCAT('a', seq) FROM seq_1_to_3000").await?;
    case.run(
        1,
        "INSERT INTO t SELECT seq + 2900, seq * 6 + 3, CONCAT('B', seq) FROM seq_1_to_3000",
    )
    .await?;
    // Equal under the collation only; and one pair that goes to different new shards.
    case.run(1, "UPDATE t SET code = 'A77 ' WHERE id = 2901; UPDATE t SET uid = 7 WHERE id = 2902")
        .await?;
    case.run(0, "INSERT INTO t VALUES (9000000, 12, NULL)").await?;
    case.run(1, "INSERT INTO t VALUES (9000001, 9, NULL)").await?;
    let file = case.dir.join("list.tsv");
    let path = file.display().to_string();
    let report = case.check(&["--deep", "--collisions", &path]).await?;
    let words = [
        "table t: 99 values of primary key would meet: ",
        "2901 of old shard 0 and old shard 1 on new shard 0",
        "and 94 more",
        &path,
    ];
    report.has("fault", "meeting", &words, "check.accept_meeting")?;
    report.has(
        "fault",
        "meeting",
        &["table t: 1 values of code would meet: ", "A77"],
        "renumber",
    )?;
    let listed = lines(&file)?;
    ensure!(listed.len() == 1 + 99 + 1, "{} lines", listed.len());
    ensure!(listed[0] == "table\tkey\tvalue\tnew shard\tfirst\tsecond", "{}", listed[0]);
    ensure!(listed[1] == "t\tprimary key\t2901\t0\t0\t1", "{}", listed[1]);
    ensure!(listed.last().is_some_and(|last| last.starts_with("t\tcode\t")), "{listed:?}");

    // It is remembered: a check that does not look again says so, and nothing starts.
    let report = case.quick().await?;
    let words = ["new shard 2: table t: 100 values would meet, as modshift check --deep found at "];
    report.has("fault", "meeting", &words, "check.accept_meeting")?;
    let run = ["run", "--listen", "127.0.0.1:0"];
    let (code, output) = case.launch(&run)?.finish(LIMIT).await?;
    ensure!(code == 3 && output.contains("100 values would meet"), "{code}: {output}");

    // Named in the plan it is a warning.
    let case = Case { tail: "[check]\naccept_meeting = [\"t\"]\n".to_owned(), ..case };
    let report = case.check(&["--deep", "--collisions", &path]).await?;
    report.has("warning", "meeting", &["99 values of primary key would meet"], "")?;
    ensure!(case.quick().await?.of_rule("meeting")?.is_empty());
    let case = Case { tail: String::new(), ..case };

    case.run(1, "UPDATE t SET id = id + 1000000 WHERE id <= 3000; UPDATE t SET code = 'C' WHERE code = 'a77'").await?;
    let report = case.check(&["--deep", "--collisions", &path]).await?;
    report.has_no("meeting", &[])?;
    ensure!(case.quick().await?.of_rule("meeting")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn the_matrix_tells_rows_and_bytes_and_a_trial_how_long() -> Result<()> {
    let case = Case::new(shared().await?, TABLE).await?;
    for which in 0..OLD {
        let rows = format!("SELECT seq * 2 + {which}, seq * 2 + {which}, 'x' FROM seq_1_to_30000");
        case.run(which, &format!("INSERT INTO t {rows}; ANALYZE TABLE t")).await?;
    }
    let report = case.check(&[]).await?;
    report.has("warning", "meeting", &["have not been looked for"], "modshift check --deep")?;
    for row in report.json["matrix"]["rows"].as_array().context("no matrix")? {
        ensure!(row == &serde_json::json!([10_000, 10_000, 10_000]), "{:#}", report.json);
    }
    let bytes = report.json["matrix"]["bytes"][1][2].as_u64().context("no bytes")?;
    ensure!((100_000..10_000_000).contains(&bytes), "{bytes}");
    report.has(
        "note",
        "retention",
        &["old shard 0", "the binlog reaches back ", "nothing purges"],
        "",
    )?;

    let report = case.check(&["--sample", "6400", "--trial"]).await?;
    let matrix = &report.json["matrix"];
    let sampled = matrix["sampled"].as_u64().context("not sampled")?;
    ensure!((10_000..=2 * 6_400).contains(&sampled), "{sampled} rows");
    for share in matrix["rows"][0].as_array().context("no matrix")? {
        let rows = share.as_u64().context("no rows")?;
        ensure!((8_500..=11_500).contains(&rows), "{matrix:#}");
    }
    let estimate = &report.json["estimate"];
    for key in ["rows_read_per_s", "rows_applied_per_s"] {
        let rates = estimate[key]
            .as_array()
            .with_context(|| format!("{report_json:#}", report_json = report.json))?;
        ensure!(
            rates.iter().all(|rate| rate.as_f64().is_some_and(|rate| rate > 100.0)),
            "{rates:?}"
        );
    }
    ensure!(estimate["copy_s"].as_f64().is_some_and(|s| s > 0.0 && s < 60.0), "{estimate}");
    for which in OLD..OLD + NEW {
        let left = format!(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{}' \
             AND TABLE_NAME = 'modshift_trial'",
            case.schema(which)
        );
        ensure!(case.servers[which].value::<u64>(&left).await? == 0, "the scratch table is left");
    }
    let (_, text) = case.launch(&["check", "--trial"])?.finish(LIMIT).await?;
    for words in ["66.67 % (66.67 % of evenly spread keys)", "the copy takes about", "KiB"] {
        ensure!(text.contains(words), "{words}:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn keys_that_pages_would_miss_are_found_before_the_copy_halts_at_them() -> Result<()> {
    let table = "id UUID NOT NULL, c CHAR(5) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_nopad_ci \
                 NOT NULL, uid BIGINT NOT NULL, PRIMARY KEY (id, c)";
    let case = Case::new(shared().await?, table).await?;
    // Version 8 is like any other.
    case.run(0, "INSERT INTO t VALUES ('00000000-0000-8000-9000-000000000001', 'a', 2)").await?;
    let report = case.check(&[]).await?;
    ensure!(report.of_rule("pages")?.is_empty(), "{:#}", report.json);
    // A character without a weight.
    case.run(1, "INSERT INTO t VALUES (UUID(), 'a\u{1}', 3)").await?;
    // As text it would be refused; the server shows another one and does not find it.
    case.run(0, "INSERT INTO t VALUES (X'000001FF010181C180277798B2189DEB', 'a', 2)").await?;
    for report in [case.check(&[]).await?, case.check(&["--deep"]).await?] {
        for shard in ["old shard 0", "old shard 1"] {
            let words = [shard, "table t", "of another order than its index"];
            report.has("fault", "pages", &words, "give those rows other keys")?;
        }
        ensure!(report.of_rule("pages")?.len() == OLD, "{:#}", report.json);
    }
    let daemon = case.launch(&["run", "--listen", "127.0.0.1:0"])?.start()?;
    let halted = daemon.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains("in the order of its index"), "{halted}");
    Ok(())
}
