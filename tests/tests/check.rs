//! `modshift check`: each rule is seen to fire, with its statement; where the statement is SQL it is
//! run, and the rule is seen to be content.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    MariaDbOptions, MariaDbServer,
    place::RunDir,
    process::Launch,
    server::{ADMIN, PASSWORD},
};
use serde_json::Value;
use tokio::sync::OnceCell;

const LIMIT: Duration = Duration::from_secs(60);
const TABLE: &str = "id BIGINT NOT NULL, uid BIGINT NOT NULL, v VARCHAR(20) NOT NULL DEFAULT '', \
                     PRIMARY KEY (id)";
const OLD: usize = 2;
const NEW: usize = 3;

fn options(server_id: u32) -> MariaDbOptions {
    MariaDbOptions {
        sync_binlog: 1,
        innodb_flush_log_at_trx_commit: 1,
        ..MariaDbOptions::with_server_id(server_id)
    }
    .arg("--gtid-strict-mode=ON")
    .arg("--binlog-checksum=CRC32")
}

/// One server for all that does not depend on its settings; each test has schemas of its own.
async fn shared() -> Result<&'static MariaDbServer> {
    static SHARED: OnceCell<MariaDbServer> = OnceCell::const_new();
    SHARED.get_or_try_init(|| MariaDbServer::start(options(1))).await
}

/// Two old shards become three: every new one has two sources, every old one three on the way
/// back.
struct Case<'a> {
    name: String,
    /// Of old shard 0, old shard 1 and the new shards.
    servers: [&'a MariaDbServer; OLD + NEW],
    dir: RunDir,
    tail: String,
}

impl<'a> Case<'a> {
    async fn new(server: &'a MariaDbServer, table: &str) -> Result<Case<'a>> {
        Self::on([server; OLD + NEW], table).await
    }

    async fn on(servers: [&'a MariaDbServer; OLD + NEW], table: &str) -> Result<Case<'a>> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("check_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = RunDir::create("check")?;
        let case = Case { name, servers, dir, tail: String::new() };
        for (which, server) in servers.into_iter().enumerate() {
            let schema = case.schema(which);
            server.run(format!("CREATE DATABASE {schema}")).await?;
            case.run(which, &format!("CREATE TABLE t ({table})")).await?;
        }
        Ok(case)
    }

    fn schema(&self, which: usize) -> String {
        format!("{}_{which}", self.name)
    }

    async fn run(&self, which: usize, sql: &str) -> Result<()> {
        let address = self.servers[which].address().with_schema(&self.schema(which));
        for statement in sql.split("; ") {
            address.run(statement).await.with_context(|| statement.to_owned())?;
        }
        Ok(())
    }

    fn plan(&self) -> Result<PathBuf> {
        let mut text = format!(
            "name = \"{}\"\nmodulus = {{ old = {OLD}, new = {NEW} }}\n[log]\nkind = \"direct\"\n\
             [defaults]\nhost = \"127.0.0.1\"\nuser = \"{ADMIN}\"\n\
             password = \"${{MODSHIFT_PASSWORD}}\"\ntls = \"off\"\n",
            self.name.replace('_', "-"),
        );
        for (which, server) in self.servers.iter().enumerate() {
            let kind = if which < OLD { "old" } else { "new" };
            let (port, schema) = (server.port(), self.schema(which));
            text += &format!("[[{kind}]]\nport = {port}\nschema = \"{schema}\"\n");
        }
        text += "[[table]]\nname = \"t\"\nkey = \"uid\"\nrule = \"floor_mod\"\n";
        text += &self.tail;
        let path = self.dir.join("plan.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    fn launch(&self, args: &[&str]) -> Result<Launch> {
        let plan = self.plan()?.display().to_string();
        Ok(Launch::new(args.iter().copied())
            .arg("--plan")
            .arg(plan)
            .env("MODSHIFT_PASSWORD", PASSWORD))
    }

    async fn check(&self, args: &[&str]) -> Result<Report> {
        let args = [&["check", "--json"], args].concat();
        let (code, output) = self.launch(&args)?.finish(LIMIT).await?;
        let json: Value = serde_json::from_str(&output).with_context(|| output.clone())?;
        let report = Report { code, json };
        report.is_whole()?;
        Ok(report)
    }

    async fn quick(&self) -> Result<Report> {
        self.check(&["--quick"]).await
    }
}

struct Report {
    code: i32,
    json: Value,
}

#[derive(Debug)]
struct Finding {
    severity: String,
    rule: String,
    text: String,
    mend: String,
}

impl Report {
    fn findings(&self) -> Result<Vec<Finding>> {
        let of = |value: &Value| {
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            Finding {
                severity: text("severity"),
                rule: text("rule"),
                text: format!("{}: {}, {}", text("subject"), text("actual"), text("expected")),
                mend: text("mend"),
            }
        };
        Ok(self.json["faults"].as_array().context("no faults")?.iter().map(of).collect())
    }

    /// Whatever is found says what was expected and what to do.
    fn is_whole(&self) -> Result<()> {
        for finding in self.json["faults"].as_array().context("no faults")? {
            for key in ["rule", "subject", "actual", "expected", "mend"] {
                ensure!(finding[key].is_string(), "no {key} in {finding}");
            }
        }
        let faults = self.findings()?.iter().any(|finding| finding.severity == "fault");
        ensure!(self.code == i32::from(faults), "exit code {} with {:#}", self.code, self.json);
        Ok(())
    }

    fn of_rule(&self, rule: &str) -> Result<Vec<Finding>> {
        Ok(self.findings()?.into_iter().filter(|finding| finding.rule == rule).collect())
    }

    /// The statement of the one finding with these words.
    fn has(&self, severity: &str, rule: &str, words: &[&str], mend: &str) -> Result<String> {
        let found = self.findings()?.into_iter().find(|finding| {
            finding.severity == severity
                && finding.rule == rule
                && words.iter().all(|word| finding.text.contains(word))
                && finding.mend.contains(mend)
        });
        let found = found.with_context(|| {
            format!("no {severity} of {rule} with {words:?} and {mend:?} in {:#}", self.json)
        })?;
        Ok(found.mend)
    }

    fn has_no(&self, rule: &str, words: &[&str]) -> Result<()> {
        let found = self.findings()?.into_iter().find(|finding| {
            finding.rule == rule && words.iter().all(|word| finding.text.contains(word))
        });
        ensure!(found.is_none(), "{found:#?}");
        Ok(())
    }
}

#[tokio::test]
async fn tables_that_differ_are_mended_by_the_statements_that_check_prints() -> Result<()> {
    let case = Case::new(shared().await?, TABLE).await?;
    case.run(1, "ALTER TABLE t MODIFY v VARCHAR(30)").await?;
    case.run(2, "ALTER TABLE t DROP COLUMN v").await?;
    case.run(3, "ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (id, uid)").await?;
    case.run(4, "ALTER TABLE t ADD UNIQUE KEY u (uid), ADD extra INT").await?;
    let report = case.quick().await?;
    let wrong = [
        (1, "column v is varchar(30)", "MODIFY COLUMN `v` varchar(20) NOT NULL"),
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
    Ok(())
}

#[tokio::test]
async fn what_could_write_through_the_fence_is_named() -> Result<()> {
    let server = MariaDbServer::start(options(3)).await?;
    let case = Case::new(&server, TABLE).await?;
    let schema = case.schema(0);
    server.run("DELETE FROM mysql.global_priv WHERE User = 'root'").await?;
    server.run("FLUSH PRIVILEGES").await?;
    for account in ["boss", "app", "batch"] {
        server.run(format!("CREATE USER {account}@'%' IDENTIFIED BY 'x'")).await?;
    }
    server.run("GRANT READ_ONLY ADMIN ON *.* TO boss@'%'").await?;
    server.run(format!("GRANT SELECT, INSERT, EXECUTE ON {schema}.* TO app@'%'")).await?;
    server.run(format!("GRANT UPDATE ON {schema}.t TO batch@'%'")).await?;
    case.run(0, "CREATE DEFINER=boss@'%' PROCEDURE p() INSERT INTO t (id, uid) VALUES (1, 2)")
        .await?;
    case.run(0, "CREATE DEFINER=boss@'%' EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t").await?;
    case.run(0, "CREATE DEFINER=boss@'%' VIEW w AS SELECT * FROM t").await?;
    case.run(0, "CREATE DEFINER=app@'%' PROCEDURE q() INSERT INTO t (id, uid) VALUES (1, 2)")
        .await?;
    let case = Case {
        tail: "[cutover]\naccounts = [\"app@%\"]\n[check]\nignore = [\"*\"]\n".into(),
        ..case
    };
    let report = case.quick().await?;
    let shard = "old shard 0: ";
    report.has("warning", "fence", &[shard, "boss@% may write"], "REVOKE READ_ONLY ADMIN")?;
    report.has("warning", "fence", &[shard, "routines p of boss@%"], "unprivileged DEFINER")?;
    report.has("warning", "fence", &[shard, "events e of boss@%"], "EVENT each of them")?;
    report.has("note", "fence", &[shard, "views w of boss@%"], "unprivileged DEFINER")?;
    report.has_no("fence", &["q of"])?;
    let mend = "cutover.accounts = [..., \"batch@%\"]";
    report.has("warning", "fence", &[shard, "batch@% may write and are not in cutover"], mend)?;
    report.has_no("fence", &["app@%"])?;
    // `batch` may write in the schema of old shard 0 only.
    report.has_no("fence", &["old shard 1", "batch@%"])?;

    server.run("REVOKE READ_ONLY ADMIN ON *.* FROM boss@'%'").await?;
    server.run(format!("REVOKE UPDATE ON {schema}.t FROM batch@'%'")).await?;
    let report = case.quick().await?;
    ensure!(report.of_rule("fence")?.is_empty(), "{:#}", report.json);
    Ok(())
}

#[tokio::test]
async fn settings_of_a_new_shard_are_checked_for_its_time_as_a_source() -> Result<()> {
    let odd = MariaDbOptions { sync_binlog: 0, max_allowed_packet: 96 << 20, ..options(4) };
    let odd = odd.arg("--sql-mode=ANSI").arg("--event-scheduler=ON").arg("--skip-log-bin");
    let odd = MariaDbServer::start(odd).await?;
    let good = shared().await?;
    let case = Case::on([good, good, &odd, good, good], TABLE).await?;
    case.run(2, "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t").await?;
    case.run(2, "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 'x'").await?;
    case.run(0, "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 'x'").await?;
    let shard = "new shard 0: ";
    let report = case.quick().await?;
    report.has("fault", "back", &[shard, "log_bin is OFF, ON"], "log_bin = binlog")?;
    report.has("warning", "back", &[shard, "sync_binlog is 0"], "SET GLOBAL sync_binlog = 1")?;
    let packet = report.has(
        "warning",
        "back",
        &["old shard 1: max_allowed_packet", "as on new shard 0"],
        "SET GLOBAL max_allowed_packet = 100663296",
    )?;
    let mode =
        report.has("warning", "alike", &[shard, "sql_mode is 'REAL"], "SET GLOBAL sql_mode")?;
    let mode = mode.split(", and").next().context("no statement")?.to_owned();
    let event =
        report.has("fault", "events", &["shard 0: ", "enabled events e"], "ALTER EVENT `e`")?;
    let trigger = report.has("fault", "triggers", &["shard 0: table t"], "DROP TRIGGER tr")?;
    report.has("warning", "back", &["old shard 0: table t: has trigger tr"], "DROP TRIGGER tr")?;
    report.has_no("disk", &["new shard 0:", "has"])?;
    report.has("note", "disk", &["new shard 0", "SQL cannot tell"], "INSTALL SONAME 'disks'")?;

    case.run(2, &event).await?;
    case.run(2, &trigger).await?;
    case.run(2, &mode).await?;
    case.run(2, "SET GLOBAL sync_binlog = 1; SET GLOBAL max_allowed_packet = 67108864").await?;
    ensure!(packet.starts_with("SET GLOBAL"), "{packet}");
    odd.run("INSTALL SONAME 'disks'").await?;
    let report = case.quick().await?;
    for rule in ["events", "triggers", "alike"] {
        report.has_no(rule, &["new shard 0"])?;
    }
    report.has_no("back", &["sync_binlog"])?;
    report.has_no("back", &["max_allowed_packet"])?;
    report.has_no("disk", &["new shard 0"])?;

    // A read-only shard takes an account that may write there.
    let user = "CREATE USER plain@'%' IDENTIFIED BY 'modshift'; GRANT ALL ON *.* TO plain@'%'; \
                REVOKE READ_ONLY ADMIN ON *.* FROM plain@'%'; SET GLOBAL read_only = 1";
    case.run(2, user).await?;
    let path = case.plan()?;
    let plan = std::fs::read_to_string(&path)?;
    let port = format!("port = {}\n", odd.port());
    std::fs::write(&path, plan.replace(&port, &format!("{port}user = \"plain\"\n")))?;
    let launch = Launch::new(["check", "--quick", "--plan"]).arg(path.display().to_string());
    let (code, output) = launch.env("MODSHIFT_PASSWORD", PASSWORD).finish(LIMIT).await?;
    let line = "new shard 0: is read-only, and user plain has no READ_ONLY ADMIN";
    ensure!(code == 1 && output.contains(line), "{code}: {output}");
    ensure!(output.contains("mend: GRANT READ_ONLY ADMIN ON *.* TO plain@"), "{output}");
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
    let step = "auto_increment_increment = 3, auto_increment_offset = 1";
    report.has("note", "auto_increment", &["new shard 0: gives out the same"], step)?;
    let session = "SET SESSION auto_increment_increment = 3, auto_increment_offset = 3";
    report.has("warning", "auto_increment", &["new shard 2: gives out the same"], session)?;
    let wider = "ALTER TABLE t MODIFY id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT";
    report.has("warning", "auto_increment", &["table t: id is int(11)", "93 %"], wider)?;
    report.has("note", "back", &["keys of t come from the application"], "shard key")?;
    for (which, start) in [(2, 501), (3, 502), (4, 503)] {
        let shard = format!("new shard {}: sequence s: is missing", which - OLD);
        let statement = report.has("warning", "sequences", &[&shard], "INCREMENT BY 3")?;
        ensure!(statement.contains(&format!("START WITH {start} ")) || start > 500, "{statement}");
        case.run(which, &statement).await?;
    }
    for which in 0..OLD + NEW {
        case.run(which, wider).await?;
    }
    server.run(format!("SET GLOBAL {}", step.replace(", ", ", GLOBAL "))).await?;
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
async fn privileges_of_the_way_back_and_of_the_fence_are_asked_for() -> Result<()> {
    let server = MariaDbServer::start(options(6)).await?;
    let case = Case::new(&server, TABLE).await?;
    server.run(format!("CREATE USER poor@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
    for which in 0..OLD + NEW {
        let grants = if which < OLD { "SELECT, TRIGGER" } else { "ALL" };
        server.run(format!("GRANT {grants} ON {}.* TO poor@'%'", case.schema(which))).await?;
    }
    let plan = case.plan()?;
    let text = std::fs::read_to_string(&plan)?.replace(&format!("\"{ADMIN}\""), "\"poor\"");
    std::fs::write(&plan, text)?;
    let args = ["check", "--quick", "--json", "--plan"];
    let check = async || -> Result<Report> {
        let launch = Launch::new(args).arg(plan.display().to_string());
        let (code, output) = launch.env("MODSHIFT_PASSWORD", PASSWORD).finish(LIMIT).await?;
        let report = Report { code, json: serde_json::from_str(&output)? };
        report.is_whole()?;
        Ok(report)
    };
    let report = check().await?;
    let old = "old shard 0: user poor: lacks ";
    report.has(
        "fault",
        "grants",
        &[old, "INSERT, UPDATE, DELETE on", "way back"],
        "GRANT INSERT",
    )?;
    report.has("fault", "grants", &[old, "`modshift_parked`", "way back"], "CREATE ON")?;
    let new = "new shard 1: user poor: lacks REPLICATION SLAVE on *.*";
    report.has("fault", "grants", &[new, "way back"], "GRANT REPLICATION SLAVE ON *.* TO poor@")?;
    report.has(
        "warning",
        "grants",
        &[old, "READ_ONLY ADMIN", "cutover"],
        "GRANT READ_ONLY ADMIN",
    )?;
    report.has("warning", "fence", &["old shard 0", "cannot see which"], "modshift_accounts")?;
    // Every statement at once, as printed.
    for finding in report.of_rule("grants")? {
        server.run(finding.mend.replace("poor@...", "poor@'%'")).await?;
    }
    let report = check().await?;
    ensure!(report.of_rule("grants")?.is_empty(), "{:#}", report.json);
    Ok(())
}
