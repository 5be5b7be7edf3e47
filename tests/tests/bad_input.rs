//! What an operator, an application or a server can do wrong: each is told in one line that names
//! the thing and the way out, with the exit code that scripts rely on.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    KafkaBroker, MariaDbOptions, MariaDbServer, Modshift,
    place::{RunDir, free_port},
    printed,
    process::Launch,
    server::{ADMIN, PASSWORD},
    wait_until,
};
use mysql_async::prelude::Queryable;
use tokio::sync::OnceCell;

const LIMIT: Duration = Duration::from_secs(60);
/// Longest that a command may take that only asks once, whatever does not answer.
const ONCE: Duration = Duration::from_secs(30);

const TABLE: &str = "id BIGINT NOT NULL, uid BIGINT NOT NULL, v INT NOT NULL, PRIMARY KEY (id)";
const PACKET: u64 = 32 << 20;

/// Servers with nothing wrong about them. Each test has schemas of its own here.
struct Good {
    server: MariaDbServer,
    dir: RunDir,
}

async fn good() -> Result<&'static Good> {
    static GOOD: OnceCell<Good> = OnceCell::const_new();
    GOOD.get_or_try_init(|| async {
        let server = MariaDbServer::start(options(1)).await?;
        Ok(Good { server, dir: RunDir::create("bad-input")? })
    })
    .await
}

fn options(server_id: u32) -> MariaDbOptions {
    MariaDbOptions { max_allowed_packet: PACKET, ..MariaDbOptions::with_server_id(server_id) }
}

/// One broker for all, each with a topic of its own.
async fn broker() -> Result<&'static KafkaBroker> {
    static BROKER: OnceCell<std::sync::Arc<KafkaBroker>> = OnceCell::const_new();
    Ok(BROKER.get_or_try_init(KafkaBroker::start).await?)
}

/// Two old shards become one, with one table; a test makes one thing of it wrong.
struct Case {
    name: String,
    good: &'static Good,
    /// Old shard 0, old shard 1, new shard 0: where a test has another server for it.
    ports: [u16; 3],
    log: String,
    user: &'static str,
    password: &'static str,
    table: &'static str,
    tail: &'static str,
}

impl Case {
    async fn new() -> Result<Case> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let good = good().await?;
        let name = format!("case_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let case = Case {
            good,
            ports: [good.server.port(); 3],
            log: "kind = \"direct\"".to_owned(),
            user: ADMIN,
            password: PASSWORD,
            table: "t",
            tail: "",
            name,
        };
        for which in 0..3 {
            case.create(&good.server, which).await?;
        }
        Ok(case)
    }

    fn schema(&self, which: usize) -> String {
        format!("{}_{}", self.name, ["old_0", "old_1", "new_0"][which])
    }

    async fn create(&self, server: &MariaDbServer, which: usize) -> Result<()> {
        let schema = self.schema(which);
        let account = if which < 2 { "app_before" } else { "app_after" };
        server.run(format!("CREATE USER IF NOT EXISTS {account}@'%'")).await?;
        server.run(format!("CREATE DATABASE {schema}; CREATE TABLE {schema}.t ({TABLE})")).await?;
        if which < 2 {
            // Two rows where their key places them.
            let keys = [which, which + 2];
            let [a, b] = keys;
            server.run(format!("INSERT INTO {schema}.t VALUES ({a},{a},0),({b},{b},0)")).await?;
        }
        Ok(())
    }

    /// Puts one shard on a server of the test's own.
    async fn on(mut self, which: usize, server: &MariaDbServer) -> Result<Case> {
        self.create(server, which).await?;
        self.ports[which] = server.port();
        Ok(self)
    }

    fn over(mut self, brokers: &str) -> Case {
        self.log = format!("kind = \"kafka\"\nbrokers = \"{brokers}\"\nreplication = 1");
        self
    }

    fn topic(&self) -> String {
        format!("modshift.{}.changes", self.name)
    }

    fn plan(&self) -> Result<PathBuf> {
        let shard = |which: usize| {
            format!(
                "host = \"127.0.0.1\"\nport = {}\nschema = \"{}\"\n",
                self.ports[which],
                self.schema(which)
            )
        };
        let text = format!(
            "name = \"{}\"\nmodulus = {{ old = 2, new = 1 }}\n[log]\n{}\n\
             [defaults]\nuser = \"{}\"\npassword = \"${{MODSHIFT_PASSWORD}}\"\ntls = \"off\"\n\
             [[old]]\n{}[[old]]\n{}[[new]]\n{}\
             [[table]]\nname = \"{}\"\nkey = \"uid\"\nrule = \"floor_mod\"\n\
             [cutover]\nold_accounts = [\"app_before@%\"]\nnew_accounts = [\"app_after@%\"]\n\
             [check]\naccept_unsafe_durability = true\n{}",
            self.name,
            self.log,
            self.user,
            shard(0),
            shard(1),
            shard(2),
            self.table,
            self.tail,
        );
        let path = self.good.dir.join(&format!("{}.toml", self.name));
        std::fs::write(&path, text).context("writing a plan")?;
        Ok(path)
    }

    fn modshift(&self, args: &[&str]) -> Result<Launch> {
        let launch = Launch::new(args.iter().copied());
        let plan = self.plan()?.display().to_string();
        Ok(launch.arg("--plan").arg(plan).env("MODSHIFT_PASSWORD", self.password))
    }

    /// Runs a command to its end, which must be this code, with one line that has all the words.
    async fn says(&self, args: &[&str], code: i32, words: &[&str]) -> Result<()> {
        let (found, output) = self.modshift(args)?.finish(LIMIT).await?;
        ensure!(found == code, "modshift {args:?} ended with {found}, not {code}:\n{output}");
        said(&output, words).with_context(|| format!("modshift {args:?}"))
    }

    /// `check` finds this and nothing else; a daemon does not start for the same reason.
    async fn refused(&self, words: &[&str]) -> Result<()> {
        let (code, output) = self.modshift(&["check", "--quick"])?.finish(LIMIT).await?;
        ensure!(code == 1, "check ended with {code}:\n{output}");
        let mut faults = findings(&output);
        faults.retain(|finding| finding.starts_with("fault "));
        ensure!(!faults.is_empty(), "no fault:\n{output}");
        for fault in faults {
            said(&fault, words)?;
        }
        self.says(&["run", "--listen", "127.0.0.1:0"], 3, words).await
    }
}

/// Each with the lines beneath it, as one line.
fn findings(output: &str) -> Vec<String> {
    let mut findings: Vec<String> = Vec::new();
    for line in output.lines() {
        match findings.last_mut().filter(|_| line.starts_with(' ')) {
            Some(last) => *last = format!("{last}; {}", line.trim_start()),
            None => findings.push(line.to_owned()),
        }
    }
    findings
}

/// One line has all of it, or a finding with what stands beneath it.
fn said(output: &str, words: &[&str]) -> Result<()> {
    let found = findings(output).iter().any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(found, "no line with all of {words:#?} in:\n{output}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() -> Result<()> {
    let case = Case { password: "not-the-password", ..Case::new().await? };
    let words = ["refused the login: ", "mend: check user and password in the plan"];
    case.refused(&words).await?;
    case.says(&["check"], 1, &["old shard 1: 127.0.0.1:", words[0], words[1]]).await?;
    case.says(&["schema"], 2, &words[..1]).await?;
    case.says(&["gate"], 2, &["new shard 0 does not answer", words[0]]).await?;
    let (_, output) = case.modshift(&["check"])?.finish(LIMIT).await?;
    ensure!(!output.contains(case.password), "the password is shown:\n{output}");
    Ok(())
}

#[tokio::test]
async fn a_missing_grant_is_named_with_its_statement() -> Result<()> {
    let case = Case { user: "poor", ..Case::new().await? };
    let server = &case.good.server;
    server.run(format!("CREATE USER poor@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
    for which in 0..3 {
        let schema = case.schema(which);
        server.run(format!("GRANT ALL ON {schema}.* TO poor@'%'")).await?;
    }
    server.run("GRANT BINLOG MONITOR ON *.* TO poor@'%'").await?;
    // What `check` lacks to see is a warning; what it lacks to read is a fault.
    case.refused(&[
        "user poor: lacks REPLICATION SLAVE on *.*, needed to read the binlog",
        "GRANT REPLICATION SLAVE ON *.* TO `poor`@",
    ])
    .await
}

#[tokio::test]
async fn a_statement_format_binlog_is_refused() -> Result<()> {
    let options = MariaDbOptions { binlog_format: "STATEMENT".to_owned(), ..options(2) };
    let server = MariaDbServer::start(options).await?;
    let case = Case::new().await?.on(0, &server).await?;
    case.refused(&[
        "old shard 0: binlog_format is STATEMENT, expected ROW",
        "mend: SET GLOBAL binlog_format = 'ROW'",
    ])
    .await
}

#[tokio::test]
async fn a_table_without_primary_key_is_refused() -> Result<()> {
    let case = Case { table: "keyless", ..Case::new().await? };
    for which in 0..3 {
        let schema = case.schema(which);
        let create = format!("CREATE TABLE {schema}.keyless (uid BIGINT NOT NULL)");
        case.good.server.run(format!("DROP TABLE {schema}.t; {create}")).await?;
    }
    case.refused(&[
        "shard",
        "table keyless: has no primary key, expected one, which names each row",
        "mend: add a primary key",
    ])
    .await
}

#[tokio::test]
async fn an_unknown_plan_key_is_told_with_the_nearest_known_one() -> Result<()> {
    let case =
        Case { tail: "[gate]\nmax_lags = \"1s\"\n[aply]\nbatch_rows = 1\n", ..Case::new().await? };
    for args in [&["check"][..], &["gate"], &["run"], &["status"]] {
        let (code, output) = case.modshift(args)?.finish(LIMIT).await?;
        ensure!(code == 3, "modshift {args:?} ended with {code}:\n{output}");
        // Both at once, each in its place.
        said(&output, &[".toml:", "gate.max_lags: unknown key, did you mean max_lag?"])?;
        said(&output, &[".toml:", "aply: unknown key, did you mean apply?"])?;
    }
    Ok(())
}

#[tokio::test]
async fn an_unreachable_broker_holds_no_command_up() -> Result<()> {
    let nobody = format!("127.0.0.1:{}", free_port()?);
    // Takes connections and never says a word.
    let listener = std::net::TcpListener::bind(("127.0.0.1", free_port()?))?;
    let mute = listener.local_addr()?.to_string();
    let check = |brokers: &str| {
        let fault = format!("change log: kafka at {brokers} cannot be reached");
        let brokers = brokers.to_owned();
        async move {
            let case = Case::new().await?.over(&brokers);
            let begun = Instant::now();
            let words = [&fault as &str, "mend: check log.brokers and the network"];
            case.says(&["check", "--quick"], 1, &words).await?;
            ensure!(begun.elapsed() < ONCE, "check took {:?}", begun.elapsed());
            anyhow::Ok(())
        }
    };
    // A daemon waits, and says for whom; and it ends when it is told to.
    let case = Case::new().await?.over(&nobody);
    let daemon = case.modshift(&["consumer", "--listen", "127.0.0.1:0"])?.start()?;
    let waiting = daemon.wait_line("the change log does not answer: waiting", LIMIT);
    tokio::try_join!(check(&nobody), check(&mute), waiting)?;
    let code = daemon.stop(ONCE).await?;
    ensure!(code == 0, "a waiting daemon ended with {code}:\n{}", daemon.output());
    Ok(())
}

#[tokio::test]
async fn a_topic_with_the_wrong_partition_count_is_refused() -> Result<()> {
    let broker = broker().await?;
    let case = Case::new().await?.over(&broker.bootstrap());
    broker.topics()?.create(&case.topic(), 3, &[]).await?;
    let found =
        format!("topic {} does not fit: number of partitions is 3, the plan needs 1", case.topic());
    let words = [&found as &str, "alter the topic with kafka-configs.sh"];
    case.says(&["check", "--quick"], 1, &words).await?;
    case.says(&["replicator", "--listen", "127.0.0.1:0"], 3, &words).await?;
    case.says(&["consumer", "--listen", "127.0.0.1:0"], 3, &words).await
}

#[tokio::test]
async fn a_new_shard_that_takes_smaller_packets_is_refused() -> Result<()> {
    let narrow = MariaDbOptions { max_allowed_packet: PACKET / 2, ..options(3) };
    let server = MariaDbServer::start(narrow).await?;
    let case = Case::new().await?.on(2, &server).await?;
    let (actual, expected) = (PACKET / 2, PACKET);
    let fault = format!(
        "new shard 0: max_allowed_packet is {actual}, expected at least {expected}, as on old shard"
    );
    case.refused(&[&fault, &format!("mend: SET GLOBAL max_allowed_packet = {expected}")]).await
}

/// Old shard 0 on a server of its own, and its reader.
struct Reading {
    case: Case,
    server: MariaDbServer,
    reader: Modshift,
}

impl Reading {
    async fn start(server_id: u32) -> Result<Reading> {
        let server = MariaDbServer::start(options(server_id)).await?;
        let case = Case::new().await?.on(0, &server).await?;
        let case = case.over(&broker().await?.bootstrap());
        let reader = Self::reader(&case)?;
        let reading = Reading { case, server, reader };
        reading.resumable().await?;
        Ok(reading)
    }

    fn reader(case: &Case) -> Result<Modshift> {
        case.modshift(&["replicator", "--shards", "0", "--listen", "127.0.0.1:0"])?.start()
    }

    fn schema(&self) -> String {
        self.case.schema(0)
    }

    /// The table is copied, and all of it recorded.
    async fn resumable(&self) -> Result<()> {
        let done = format!(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME = 'modshift_progress' \
             AND TABLE_SCHEMA = '{0}'",
            self.schema()
        );
        wait_until("the copy", LIMIT, || async {
            ensure!(self.reader.running()?, "the reader ended:\n{}", self.reader.output());
            if self.server.value::<u64>(&done).await? == 0 {
                return Ok(None);
            }
            let done = format!("SELECT SUM(done) FROM {}.modshift_progress", self.schema());
            let done: Option<u64> = self.server.value(done).await?;
            Ok((done == Some(1)).then_some(()))
        })
        .await
    }

    /// Statements of an application, in one session.
    async fn application(&self, statements: &[&str]) -> Result<()> {
        let mut conn = self.server.address().with_schema(&self.schema()).connect().await?;
        for statement in statements {
            conn.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
        }
        Ok(conn.disconnect().await?)
    }

    /// The reader halts with such a line, its process ends with 4 since it has no other stream, and
    /// the gate says the same.
    async fn halts(&self, words: &[&str], way_out: &str) -> Result<()> {
        let code = self.reader.wait_exit(LIMIT).await?.code();
        let output = self.reader.output();
        ensure!(code == Some(4), "the reader ended with {code:?}:\n{output}");
        said(&output, &[&["reader halted", way_out], words].concat())?;
        let gate = [&["reader of old shard 0 stopped", way_out], words].concat();
        self.case.says(&["gate"], 1, &gate).await
    }
}

#[tokio::test]
async fn a_binlog_purged_while_the_reader_was_away_halts() -> Result<()> {
    let mut reading = Reading::start(11).await?;
    let code = reading.reader.stop(LIMIT).await?;
    ensure!(code == 0, "the reader ended with {code}:\n{}", reading.reader.output());
    reading.application(&["UPDATE t SET v = 1 WHERE id = 0", "FLUSH BINARY LOGS"]).await?;
    reading.application(&["UPDATE t SET v = 2 WHERE id = 0", "FLUSH BINARY LOGS"]).await?;
    let current = reading.server.query("SHOW MASTER STATUS").await?;
    let current: String = current[0].get(0).context("no binlog")?;
    // The server keeps a log for as long as it believes that somebody reads it.
    wait_until("the purge", LIMIT, || async {
        reading.application(&[&format!("PURGE BINARY LOGS TO '{current}'")]).await?;
        let logs = reading.server.query("SHOW BINARY LOGS").await?;
        Ok((logs.len() == 1).then_some(()))
    })
    .await?;
    reading.reader = Reading::reader(&reading.case)?;
    let at = format!("{}/{} cannot send its binlog", reading.server.port(), reading.schema());
    let words = [&at, "purged"];
    reading.halts(&words, "the changes since the resume point are gone: keep binlogs longer").await
}

#[tokio::test]
async fn a_statement_format_write_halts() -> Result<()> {
    let reading = Reading::start(12).await?;
    let statements =
        ["SET SESSION binlog_format = STATEMENT", "UPDATE t SET v = 424242 WHERE id = 2"];
    reading.application(&statements).await?;
    let words = ["old shard 0: group 12-12-", "statement-format UPDATE: UPDATE t SET v = ? WHERE"];
    reading.halts(&words, "set binlog_format=ROW for every session").await?;
    let output = reading.reader.output();
    ensure!(!output.contains("424242"), "a row's value is in the log:\n{output}");
    Ok(())
}

#[tokio::test]
async fn ddl_on_a_planned_table_halts() -> Result<()> {
    let reading = Reading::start(13).await?;
    // What touches no planned table passes.
    let statements = ["CREATE TABLE other (id INT PRIMARY KEY)", "ALTER TABLE t ADD COLUMN w INT"];
    reading.application(&statements).await?;
    let words = ["old shard 0: group 13-13-", "(ALTER TABLE): ALTER TABLE t ADD COLUMN w INT"];
    reading.halts(&words, "Make the same change on every other shard").await
}

#[tokio::test]
async fn a_stray_row_halts_with_its_place() -> Result<()> {
    let reading = Reading::start(15).await?;
    reading.application(&["INSERT INTO t VALUES (77, 5, 1)"]).await?;
    let words =
        ["old shard 0: at 15-15-", "table t has a row whose key places it on shard 1: a stray row"];
    reading.halts(&words, "`modshift check` lists strays").await?;
    // And that is true.
    let words = ["old shard 0: table t: 1 stray rows", "primary keys 77", "mend:"];
    reading.case.says(&["check"], 1, &words).await
}

/// All streams over the in-process log, with a row that an application writes now and then.
struct Followed {
    case: Case,
    run: Modshift,
    rows: u64,
}

impl Followed {
    async fn start() -> Result<Followed> {
        let case = Case::new().await?;
        let run = Self::run(&case)?;
        let mut followed = Followed { case, run, rows: 0 };
        followed.carries().await?;
        Ok(followed)
    }

    fn run(case: &Case) -> Result<Modshift> {
        case.modshift(&["run", "--listen", "127.0.0.1:0"])?.start()
    }

    /// What an application writes on either old shard arrives.
    async fn carries(&mut self) -> Result<()> {
        let server = &self.case.good.server;
        let new = self.case.schema(2);
        for old in 0..2 {
            self.rows += 1;
            let id = 1000 + 2 * self.rows + old as u64;
            let schema = self.case.schema(old);
            server.run(format!("INSERT INTO {schema}.t VALUES ({id},{id},0)")).await?;
            let count = format!(
                "SELECT (SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{new}' AND \
                 TABLE_NAME = 't') * (SELECT COUNT(*) FROM {new}.t WHERE id = {id})"
            );
            wait_until("the row of an application", LIMIT, || async {
                ensure!(self.run.running()?, "it ended:\n{}", self.run.output());
                Ok((server.value::<u64>(&count).await? == 1).then_some(()))
            })
            .await
            .with_context(|| self.run.last_words(40))?;
        }
        Ok(())
    }

    /// Daemons are stopped, something is damaged, and they are started: what the first line says that has
    /// these words.
    async fn told(&mut self, damage: &str, words: &str) -> Result<String> {
        self.stopped().await?;
        let [old, _, new] = [0, 1, 2].map(|which| self.case.schema(which));
        let damage = damage.replace("OLD.", &format!("{old}.")).replace("NEW.", &format!("{new}."));
        self.case.good.server.run(damage).await?;
        self.run = Self::run(&self.case)?;
        let line = self.run.wait_line(words, LIMIT).await;
        line.with_context(|| self.run.last_words(40))
    }

    /// Whether or not all of its streams have halted, which ends it.
    async fn stopped(&mut self) -> Result<()> {
        if self.run.running()? {
            let code = self.run.stop(LIMIT).await?;
            ensure!([0, 3, 4].contains(&code), "it ended with {code}:\n{}", self.run.output());
        }
        Ok(())
    }

    async fn goes_on(&mut self) -> Result<()> {
        self.run = Self::run(&self.case)?;
        self.carries().await
    }
}

/// The ways out of halts that nothing but modshift's own tables, or a server that is not the one it was,
/// can bring about: each as it is printed, to its end, one after the other.
#[tokio::test]
async fn what_a_halt_says_to_do_is_enough() -> Result<()> {
    let mut followed = Followed::start().await?;
    let resume = "WHERE name = '@resume'";
    for (damage, words, by_hand) in [
        (format!("UPDATE OLD.modshift_progress SET gtids = 'x' {resume}"), "is unreadable", ""),
        (
            format!("UPDATE OLD.modshift_progress SET gtids = '77-1-5', digest = NULL {resume}"),
            "does not know GTID domain 77",
            "",
        ),
        (
            "DELETE FROM NEW.modshift_watermark".to_owned(),
            "modshift_watermark says that modshift brought none",
            "DELETE FROM NEW.t",
        ),
        (
            "ALTER TABLE OLD.modshift_token DROP COLUMN beat".to_owned(),
            "it is of an earlier version of modshift",
            "",
        ),
    ] {
        let line = followed.told(&damage, words).await?;
        let mut way_out = printed(&line, "restart-copy").with_context(|| damage.clone())?;
        followed.stopped().await?;
        if !by_hand.is_empty() {
            ensure!(line.contains("empty the table by hand"), "{line}");
            let new = followed.case.schema(2);
            let by_hand = by_hand.replace("NEW.", &format!("{new}."));
            followed.case.good.server.run(by_hand).await?;
        }
        way_out.push("--yes".to_owned());
        let args: Vec<&str> = way_out.iter().map(String::as_str).collect();
        followed
            .case
            .says(&args, 0, &["restart-copy: done"])
            .await
            .with_context(|| damage.clone())?;
        followed.goes_on().await.with_context(|| damage.clone())?;
    }
    // And one that keeps the copy: what somebody has done to a control table is undone.
    let damage = "CREATE TABLE NEW.kept AS SELECT source, gtids FROM NEW.modshift_watermark; \
                  UPDATE NEW.modshift_watermark SET gtids = 'x'";
    let words = "control table modshift_watermark cannot be read";
    let line = followed.told(damage, words).await?;
    ensure!(line.contains("undo that and start the consumer again"), "{line}");
    followed.stopped().await?;
    let new = followed.case.schema(2);
    let undo = format!(
        "UPDATE {new}.modshift_watermark w JOIN {new}.kept k USING (source) SET w.gtids = k.gtids"
    );
    followed.case.good.server.run(undo).await?;
    followed.goes_on().await
}
