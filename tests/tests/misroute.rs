//! The misroute watch on a real server: what it sees, what it keeps, and what it says it cannot know.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::row::RowWriter;
use modshift_proto::rule::Home;
use modshift_proto::{GtidSet, Modulus};
use modshift_replicator::misroute::{Answer, Keeping, Misroutes, Op, Watching, watch};
use modshift_tests::{Address, MariaDbOptions, MariaDbServer, wait_until};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);

struct Site {
    server: MariaDbServer,
    plan: Plan,
}

/// One that runs beside the test.
struct Watch {
    seen: Misroutes,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Site {
    /// New shard 0 of two: rows of even accounts are at home there.
    async fn start() -> Result<Site> {
        let server = MariaDbServer::start(MariaDbOptions::with_server_id(7)).await?;
        server.run("CREATE DATABASE s").await?;
        let address = server.address().with_schema("s");
        for sql in [
            "CREATE TABLE t (id INT, part VARCHAR(20), account BIGINT, v INT, PRIMARY KEY (id, part))",
            "CREATE TABLE u (id INT PRIMARY KEY, v INT)",
            "CREATE TABLE other (id INT PRIMARY KEY, v INT)",
            "CREATE TABLE modshift_watermark (source INT PRIMARY KEY, v INT)",
            "INSERT INTO t VALUES (1, 'a', 1, 0), (2, 'b', 2, 0), (3, 'c', 3, 0)",
        ] {
            address.run(sql).await?;
        }
        let Address { user, password, port, .. } = &address;
        let at = |port| format!("host = \"127.0.0.1\"\nport = {port}\nschema = \"s\"\n");
        let text = format!(
            "name = \"watch\"\nmodulus = {{ old = 1, new = 2 }}\n[log]\nkind = \"direct\"\n\
             [defaults]\nuser = \"{user}\"\npassword = \"{password}\"\ntls = \"off\"\n\
             [[old]]\n{}[[new]]\n{}[[new]]\n{}\
             [[table]]\nname = \"t\"\nkey = \"account\"\nrule = \"floor_mod\"\n\
             [[table]]\nname = \"u\"\nkey = \"id\"\nrule = \"floor_mod\"\n",
            at(1),
            at(*port),
            at(2)
        );
        let plan = Plan::parse(&text, &|_| None).map_err(|errors| anyhow::anyhow!("{errors}"))?;
        Ok(Site { server, plan })
    }

    fn address(&self) -> Address {
        self.server.address().with_schema("s")
    }

    async fn run(&self, sql: &str) -> Result<()> {
        self.address().run(sql).await.with_context(|| sql.to_owned())
    }

    async fn position(&self) -> Result<GtidSet> {
        let text: String = self.server.value("SELECT @@GLOBAL.gtid_binlog_pos").await?;
        text.parse().map_err(|_| anyhow::anyhow!("{text}"))
    }

    fn watch(&self, begin: &GtidSet, keeping: Keeping) -> Result<Watch> {
        let two = Modulus::new(2).context("no modulus")?;
        let home = Home::of_shard(two, 0)?;
        let watching = Watching { home, modulus: two, begin: begin.clone(), keeping };
        let seen = Misroutes::default();
        let (plan, of_task) = (self.plan.clone(), seen.clone());
        let endpoint: Endpoint = plan.new[0].clone();
        let task =
            tokio::spawn(
                async move { match watch(&plan, endpoint, 0, watching, of_task).await {} },
            );
        Ok(Watch { seen, task })
    }

    /// As of now.
    async fn asked(&self, watch: &Watch, row: (i32, &str), since: &GtidSet) -> Result<Answer> {
        let now = self.position().await?;
        Ok(watch.seen.written_since("t", &key(row), since, &now, LIMIT).await)
    }
}

fn key((id, part): (i32, &str)) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut writer = RowWriter::new(&mut wire, 2);
    writer.int(id.into());
    writer.bytes(part.as_bytes());
    writer.finish();
    wire
}

fn written(answer: &Answer, op: Op) -> bool {
    matches!(answer, Answer::Written(last) if last.op == op)
}

#[tokio::test]
async fn the_watch_names_each_row_that_was_written_where_it_is_not_at_home() -> Result<()> {
    let site = Site::start().await?;
    let begin = site.position().await?;
    let first = site.watch(&begin, Keeping::Stored)?;
    for sql in [
        "UPDATE t SET v = 1 WHERE id = 2",
        "INSERT INTO other VALUES (1, 1)",
        "UPDATE t SET account = 5 WHERE id = 2",
        "DELETE FROM t WHERE id = 1",
        // Modshift's own: the first row says so.
        "BEGIN; INSERT INTO modshift_watermark VALUES (1, 1); INSERT INTO t VALUES (9, 'x', 9, 0); COMMIT",
        "BEGIN; INSERT INTO t VALUES (8, 'x', 8, 0); INSERT INTO t VALUES (7, 'x', NULL, 0); COMMIT",
        "BEGIN; INSERT INTO t VALUES (6, 'x', 1, 0); ROLLBACK",
    ] {
        site.run(sql).await?;
    }
    let cases = [
        ((1, "a"), Some(Op::Delete)),
        ((2, "b"), Some(Op::Update)),
        ((3, "c"), None),
        ((6, "x"), None),
        ((7, "x"), Some(Op::Insert)),
        ((8, "x"), None),
        ((9, "x"), None),
    ];
    let check = async |watch: &Watch, since: &GtidSet| -> Result<()> {
        for (row, expected) in cases {
            let answer = site.asked(watch, row, since).await?;
            match expected {
                Some(op) => ensure!(written(&answer, op), "{row:?}: {answer:?}"),
                None => ensure!(answer == Answer::Never, "{row:?}: {answer:?}"),
            }
        }
        Ok(())
    };
    check(&first, &begin).await?;
    ensure!(first.seen.view().seen == 3 && first.seen.view().written() == [("t", 3)]);
    // What is shown to people lies on the server.
    let shown = "SELECT GROUP_CONCAT(table_name, ' ', op, ' ', primary_key_text, ' ', \
                 IFNULL(belongs, 'nowhere') ORDER BY primary_key_text SEPARATOR '; ') FROM modshift_misrouted";
    let stored = wait_until("the rows on the server", LIMIT, || async {
        let shown: Option<String> = site.address().value(shown).await?;
        Ok(shown.filter(|shown| shown.matches("; ").count() == 2))
    });
    let stored = stored.await?;
    ensure!(stored == "t delete 1, a 1; t update 2, b 1; t insert 7, x nowhere", "{stored}");
    // Since a later position none of it was.
    let now = site.position().await?;
    ensure!(site.asked(&first, (1, "a"), &now).await? == Answer::Never);
    // Before the watch began nobody knows.
    let earlier = GtidSet::default();
    let answer = site.asked(&first, (3, "c"), &earlier).await?;
    ensure!(matches!(answer, Answer::Unknown { .. }), "{answer:?}");

    // The next one goes on where this one stopped, whatever was written meanwhile; and one that keeps
    // nothing goes on beside it.
    drop(first);
    site.run("UPDATE t SET v = 2 WHERE id = 3").await?;
    let second = site.watch(&GtidSet::default(), Keeping::Stored)?;
    let beside = site.watch(&GtidSet::default(), Keeping::Memory)?;
    for watch in [&second, &beside] {
        let answer = site.asked(watch, (3, "c"), &begin).await?;
        ensure!(written(&answer, Op::Update), "{answer:?}");
        ensure!(written(&site.asked(watch, (1, "a"), &begin).await?, Op::Delete));
        ensure!(site.asked(watch, (8, "x"), &begin).await? == Answer::Never);
    }
    // A server that goes away and comes back.
    site.server.stop().await?;
    site.server.restart().await?;
    site.run("INSERT INTO t VALUES (31, 'z', 31, 0)").await?;
    for watch in [&second, &beside] {
        ensure!(written(&site.asked(watch, (31, "z"), &begin).await?, Op::Insert));
        ensure!(site.asked(watch, (33, "z"), &begin).await? == Answer::Never);
    }
    Ok(())
}

#[tokio::test]
async fn what_the_log_does_not_show_row_by_row_is_never_said_not_to_have_been_written() -> Result<()>
{
    let site = Site::start().await?;
    let begin = site.position().await?;
    let mut watch = site.watch(&begin, Keeping::Stored)?;
    ensure!(site.asked(&watch, (3, "c"), &begin).await? == Answer::Never);
    let perhaps = |answer: &Answer| matches!(answer, Answer::Perhaps { .. });
    for sql in [
        "SET binlog_format = 'STATEMENT'; UPDATE t SET v = 7 WHERE id = 3",
        "TRUNCATE t",
        "ALTER TABLE t ADD w INT",
    ] {
        let before = site.position().await?;
        ensure!(!perhaps(&site.asked(&watch, (3, "c"), &before).await?), "before {sql}");
        site.run(sql).await?;
        let answer = site.asked(&watch, (3, "c"), &before).await?;
        ensure!(perhaps(&answer), "{sql}: {answer:?}");
    }
    // What defines no rows clouds nothing.
    let before = site.position().await?;
    for sql in [
        "CREATE OR REPLACE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET @a = 1",
        "DROP TRIGGER tr",
        "CREATE TABLE another (id INT PRIMARY KEY)",
        "INSERT INTO another VALUES (1)",
        "GRANT SELECT ON s.* TO CURRENT_USER()",
    ] {
        site.run(sql).await?;
    }
    ensure!(site.asked(&watch, (3, "c"), &before).await? == Answer::Never);

    // By the new definition.
    let before = site.position().await?;
    site.run("INSERT INTO t VALUES (5, 'e', 5, 0, 1)").await?;
    ensure!(written(&site.asked(&watch, (5, "e"), &before).await?, Op::Insert));
    ensure!(site.asked(&watch, (3, "c"), &before).await? == Answer::Never);

    // Rows that cannot be read, and a log that is gone, are gaps.
    let unknown = |answer: &Answer| matches!(answer, Answer::Unknown { .. });
    let gap = async |watch: &Watch, says: &str| -> Result<GtidSet> {
        wait_until(&format!("a gap: {says}"), LIMIT, || async {
            let known = watch.seen.view();
            let there = known.gap.as_ref().is_some_and(|gap| gap.contains(says));
            Ok((there && known.trouble.is_none()).then_some(known.since))
        })
        .await
    };
    site.run("SET binlog_row_image = 'MINIMAL'; UPDATE t SET w = 2 WHERE id = 5").await?;
    let since = gap(&watch, "binlog_row_image").await?;
    ensure!(unknown(&site.asked(&watch, (3, "c"), &before).await?));
    ensure!(site.asked(&watch, (3, "c"), &since).await? == Answer::Never);

    drop(watch);
    site.run("INSERT INTO t VALUES (11, 'k', 11, 0, 1)").await?;
    site.run("FLUSH BINARY LOGS").await?;
    let newest = site.address().query("SHOW BINARY LOGS").await?;
    let newest: String = newest.last().and_then(|row| row.get(0)).context("no binlog")?;
    let purged = async || -> Result<Option<()>> {
        // A dump thread that is about to end holds a file for a moment.
        site.run(&format!("PURGE BINARY LOGS TO '{newest}'")).await?;
        let left = site.address().query("SHOW BINARY LOGS").await?;
        Ok((left.len() == 1).then_some(()))
    };
    wait_until("the purge", LIMIT, purged).await?;
    watch = site.watch(&GtidSet::default(), Keeping::Stored)?;
    gap(&watch, "cannot send its binlog").await?;
    let answer = site.asked(&watch, (11, "k"), &since).await?;
    ensure!(unknown(&answer), "{answer:?}");
    // So is a time in which sessions of the application may not have been in the log.
    let before = site.position().await?;
    drop(watch);
    let usual: String = site.server.value("SELECT @@GLOBAL.init_connect").await?;
    site.run("SET GLOBAL init_connect = 'SET sql_log_bin = 0'").await?;
    watch = site.watch(&GtidSet::default(), Keeping::Stored)?;
    wait_until("a log that is not whole", LIMIT, || async {
        let known = watch.seen.view();
        let says =
            |text: &Option<String>| text.as_ref().is_some_and(|t| t.contains("init_connect"));
        Ok((says(&known.gap) && says(&known.trouble)).then_some(()))
    })
    .await?;
    site.run("INSERT INTO u VALUES (1, 1)").await?;
    site.run(&format!("SET GLOBAL init_connect = '{usual}'")).await?;
    gap(&watch, "init_connect").await?;
    ensure!(unknown(&site.asked(&watch, (3, "c"), &before).await?));
    // What was seen stays seen.
    ensure!(watch.seen.view().written() == [("t", 1)], "{:?}", watch.seen.view());
    Ok(())
}
