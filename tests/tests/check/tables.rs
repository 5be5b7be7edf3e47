//! Definitions: tables that differ, keys and sequences that give out the same values.

use anyhow::{Result, ensure};
use modshift_tests::MariaDbServer;
use modshift_tests::process::Launch;
use modshift_tests::server::PASSWORD;

use crate::case::{Case, LIMIT, NEW, OLD, TABLE, options, shared};

#[tokio::test]
async fn tables_that_differ_are_mended_by_the_statements_that_check_prints() -> Result<()> {
    let case = Case::new(shared().await?, TABLE).await?;
    case.run(1, "ALTER TABLE t MODIFY v VARCHAR(30)").await?;
    case.run(2, "ALTER TABLE t DROP COLUMN v").await?;
    case.run(3, "ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (id, uid)").await?;
    case.run(4, "ALTER TABLE t ADD UNIQUE KEY u (uid), ADD extra INT").await?;
    let report = case.quick().await?;
    let wrong = [
        (
            1,
            "column v is varchar(30)",
            "MODIFY COLUMN `v` varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL",
        ),
        (2, "lacks column v", "ADD COLUMN `v` varchar(20)"),
        (3, "primary key is (id, uid), not (id)", "DROP PRIMARY KEY, ADD PRIMARY KEY (`id`)"),
        (4, "has column extra too many", "DROP COLUMN `extra`, DROP KEY `u`"),
    ];
    for (which, words, mend) in wrong {
        let statement =
            report.has("fault", "tables", &[words, "the same as on old shard 0"], mend)?;
        case.run(which, &statement).await?;
    }
    // What changes no row's bytes is a warning.
    case.run(0, "ALTER TABLE t ADD KEY k (v), ADD CONSTRAINT c CHECK (id > 0)").await?;
    case.run(1, "ALTER TABLE t ADD KEY k (v), ADD CONSTRAINT c CHECK (id > 0)").await?;
    case.run(4, "ALTER TABLE t ADD KEY l (uid), ALTER v SET DEFAULT 'x'").await?;
    let report = case.quick().await?;
    ensure!(report.of_rule("tables")?.is_empty(), "{:#}", report.json);
    for which in 2..5 {
        let shard = format!("new shard {}: table t", which - OLD);
        let statement =
            report.has("warning", "drift", &[&shard, "KEY `k` (`v`)"], "ADD KEY `k`")?;
        case.run(which, &statement).await?;
    }
    let report = case.quick().await?;
    ensure!(report.of_rule("drift")?.is_empty(), "{:#}", report.json);
    // The server computes it again from what is copied.
    for which in 0..OLD + NEW {
        let more = if which == 4 { 2 } else { 1 };
        case.run(which, &format!("ALTER TABLE t ADD g BIGINT AS (uid + {more}) STORED")).await?;
    }
    let report = case.quick().await?;
    let words = ["new shard 2: table t", "(`uid` + 2) STORED instead of", "(`uid` + 1) STORED"];
    let statement = report.has("fault", "drift", &words, "DROP COLUMN `g`, ADD COLUMN `g`")?;
    case.run(4, &statement).await?;
    ensure!(case.quick().await?.of_rule("drift")?.is_empty(), "the mend did not mend");
    Ok(())
}

#[tokio::test]
async fn keys_given_out_after_the_cutover_do_not_meet() -> Result<()> {
    let server = MariaDbServer::start(options(5)).await?;
    let table = "id INT NOT NULL AUTO_INCREMENT, uid BIGINT NOT NULL, code VARCHAR(9) NOT NULL, \
                 PRIMARY KEY (id), UNIQUE KEY code (code)";
    let case = Case::new(shared().await?, table).await?;
    let case = Case {
        servers: [case.servers[0], case.servers[1], &server, case.servers[3], case.servers[4]],
        ..case
    };
    server.run(format!("CREATE DATABASE {}", case.schema(2))).await?;
    case.run(2, &format!("CREATE TABLE t ({table})")).await?;
    case.run(0, "ALTER TABLE t AUTO_INCREMENT = 2000000000").await?;
    case.run(1, "CREATE SEQUENCE s START WITH 500").await?;
    let case = Case { tail: "[check]\nignore = [\"s\"]\n".to_owned(), ..case };
    let report = case.quick().await?;
    // Of a server of its own the cutover sets the step; where two share one nobody can.
    let step = "auto_increment_increment = 3, GLOBAL auto_increment_offset = 3";
    report.has("note", "auto_increment", &["new shard 0: gives out the same"], step)?;
    let session = "SET SESSION auto_increment_increment = 3, auto_increment_offset = 2";
    report.has("warning", "auto_increment", &["new shard 2: gives out the same"], session)?;
    let words = ["old shard 0: would give out the same keys as old shard 1 after a rollback"];
    report.has("warning", "auto_increment", &words, "auto_increment_increment = 2")?;
    let wider = "ALTER TABLE `t` MODIFY COLUMN `id` bigint(20) NOT NULL AUTO_INCREMENT";
    report.has("warning", "auto_increment", &["table t: id is int(11)", "93 %"], wider)?;
    report.has(
        "note",
        "back",
        &["keys come from the application and hold no shard key: t: "],
        "shard key",
    )?;
    for (which, start) in [(2, 501), (3, 502), (4, 503)] {
        let shard = format!("new shard {}: sequence s: is missing", which - OLD);
        let statement = report.has("fault", "sequences", &[&shard], "INCREMENT BY 3")?;
        ensure!(statement.contains(&format!("START WITH {start} ")) || start > 500, "{statement}");
        case.run(which, &statement).await?;
    }
    for which in 0..OLD + NEW {
        case.run(which, wider).await?;
    }
    server.run(format!("SET GLOBAL {step}")).await?;
    let report = case.quick().await?;
    report.has_no("sequences", &["s"])?;
    report.has_no("auto_increment", &["table t"])?;
    // A sequence that stands behind the old ones, and one that gives out a neighbour's values.
    case.run(3, "CREATE OR REPLACE SEQUENCE s START WITH 1 INCREMENT BY 3").await?;
    let report = case.quick().await?;
    let words = ["new shard 1: sequence s: goes on from 1, which old shards"];
    let statement = report.has("warning", "sequences", &words, "CREATE OR REPLACE SEQUENCE `s`")?;
    case.run(3, &statement).await?;
    case.run(4, "CREATE OR REPLACE SEQUENCE s START WITH 999999 INCREMENT BY 1").await?;
    let report = case.quick().await?;
    report.has("warning", "sequences", &["new shard 2: sequence s: gives out the same"], "BY 3")?;
    Ok(())
}

#[tokio::test]
async fn one_schema_under_two_names_of_its_server_is_found() -> Result<()> {
    let case = Case::new(shared().await?, TABLE).await?;
    let path = case.plan()?;
    let plan = std::fs::read_to_string(&path)?;
    let last = format!("schema = \"{}\"\n", case.schema(4));
    let twin = format!("host = \"localhost\"\nschema = \"{}\"\n", case.schema(3));
    ensure!(plan.contains(&last), "{plan}");
    std::fs::write(&path, plan.replace(&last, &twin))?;
    for (args, code) in [(&["check", "--quick"][..], 1), (&["run", "--listen", "127.0.0.1:0"], 3)] {
        let launch =
            Launch::new(args.iter().copied()).arg("--plan").arg(path.display().to_string());
        let (found, output) = launch.env("MODSHIFT_PASSWORD", PASSWORD).finish(LIMIT).await?;
        let words = "is the server of new shard 1, and schema";
        ensure!(found == code && output.contains(words), "{found}: {output}");
    }
    Ok(())
}
