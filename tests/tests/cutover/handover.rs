//! Triggers and events go with the application: there, back, and there again.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, Log, copied, drained, drained_back,
    estate::Shard,
    rule::{Rule, TableRule},
};
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};

use crate::site::{APP, LIMIT, Site, says};

/// A row that a trigger counts: `hits` and `mark` say how often and in which order triggers ran.
const NOTE: &str = "id BIGINT NOT NULL PRIMARY KEY, accountNo BIGINT NOT NULL, \
     hits INT NOT NULL, mark VARCHAR(20) NOT NULL, word VARBINARY(20) NULL";
const NOTE_LOG: &str = "id BIGINT NOT NULL AUTO_INCREMENT, accountNo BIGINT NOT NULL, \
     note BIGINT NOT NULL, PRIMARY KEY (accountNo, note), UNIQUE KEY (id)";

/// With a definer, an order, modes, character sets, comments and names that must be kept.
async fn programs(shard: &Shard) -> Result<()> {
    let schema = &shard.schema;
    let mut conn = shard.address().connect().await?;
    conn.query_drop(format!(
        "CREATE DEFINER={APP}@'127.0.0.%' TRIGGER `{schema}`.n_first /* a */ BEFORE INSERT ON \
         `{schema}` . t_note FOR EACH ROW SET NEW.mark = CONCAT(NEW.mark, 'b')"
    ))
    .await?;
    conn.query_drop(
        "CREATE TRIGGER n_before BEFORE INSERT ON t_note FOR EACH ROW PRECEDES n_first \
         SET NEW.mark = CONCAT(NEW.mark, 'a') /* comes first */",
    )
    .await?;
    conn.query_drop(
        "CREATE TRIGGER n_after AFTER INSERT ON t_note FOR EACH ROW \
         INSERT INTO t_note_log (accountNo, note) VALUES (NEW.accountNo, NEW.id)",
    )
    .await?;
    conn.query_drop("SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', NAMES latin1").await?;
    let body = b"CREATE TRIGGER \"n \xe4\" BEFORE INSERT ON \"t_note\" FOR EACH ROW BEGIN \
        -- \xfc \\\n SET NEW.hits = NEW.hits + 1, NEW.word = '\xe4\\'; END";
    conn.query_drop(body.as_slice()).await?;
    conn.query_drop("SET time_zone = '+02:00'").await?;
    let event = b"CREATE EVENT e_note ON SCHEDULE EVERY 1 DAY COMMENT '\xe4''\\' DO \
        UPDATE t_note SET word = '\xf6' WHERE id < 0";
    conn.query_drop(event.as_slice()).await?;
    Ok(conn.disconnect().await?)
}

/// Every byte that makes a trigger or event what it is, in the order in which they run.
async fn definitions(shard: &Shard) -> Result<Vec<String>> {
    let mut conn = shard.address().connect().await?;
    let triggers: Vec<String> = conn
        .query(
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE() \
             ORDER BY EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER",
        )
        .await?;
    let events: Vec<String> = conn
        .query(
            "SELECT EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE() \
             ORDER BY EVENT_NAME",
        )
        .await?;
    conn.query_drop("SET character_set_results = NULL").await?;
    let triggers = triggers.into_iter().map(|name| ("TRIGGER", name));
    let mut found = Vec::new();
    for (kind, name) in triggers.chain(events.into_iter().map(|name| ("EVENT", name))) {
        let row: Option<Row> = conn.query_first(format!("SHOW CREATE {kind} `{name}`")).await?;
        let row = row.with_context(|| format!("no {kind} {name}"))?;
        let columns = row.columns();
        let kept = columns.iter().zip(row.unwrap()).filter(|(c, _)| c.name_str() != "Created");
        let text = |(_, value): (_, Value)| match value {
            Value::Bytes(bytes) => bytes.escape_ascii().to_string(),
            other => format!("{other:?}"),
        };
        // Of its header a trigger keeps all but the name of the schema that it comes from.
        let text = kept.map(text).collect::<Vec<_>>().join(" | ");
        found.push(
            text.replace(&format!("`{}`.", shard.schema), "")
                .replace(&format!("`{}` . ", shard.schema), ""),
        );
    }
    Ok(found)
}

/// Or takes away.
async fn grant(shard: &Shard, what: &str, to: &str) -> Result<()> {
    let schema = shard.schema.replace('_', "\\_");
    shard.run(&format!("{what} ON `{schema}`.* {to} {APP}@'127.0.0.%'")).await
}

struct Case {
    site: Site,
    /// Of old shard 0; events of others begin at another moment.
    before: Vec<Vec<String>>,
    next: std::sync::atomic::AtomicU64,
}

impl Case {
    async fn start(seed: u64) -> Result<Case> {
        let site = Site::start(2, 3, Log::Direct, seed, "60s").await?;
        let estate = &site.estate;
        for shard in estate.old.iter().chain(&estate.new) {
            shard.run(&format!("CREATE TABLE t_note ({NOTE}) ENGINE=InnoDB")).await?;
            shard.run(&format!("CREATE TABLE t_note_log ({NOTE_LOG}) ENGINE=InnoDB")).await?;
        }
        for shard in estate.old.iter().chain(&estate.new) {
            grant(shard, "GRANT TRIGGER", "TO").await?;
        }
        let mut before = Vec::new();
        for shard in &estate.old {
            programs(shard).await?;
            before.push(definitions(shard).await?);
        }
        let rules = ["t_note", "t_note_log"]
            .map(|name| TableRule::new(name, Rule::floor_mod("accountNo")).rule.plan_toml(name));
        let plan = estate.plan().replace("[gate]", &format!("{}[gate]", rules.concat()));
        std::fs::write(estate.plan_path(), plan)?;
        std::fs::remove_file(&site.routing)?;
        Ok(Case { site, before, next: 1.into() })
    }

    /// The application writes on every shard of this side.
    async fn write(&self, shards: &[Shard]) -> Result<()> {
        for (number, shard) in shards.iter().enumerate() {
            let app = Address { user: APP.into(), password: APP.into(), ..shard.address() };
            for _ in 0..5 {
                let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let account = number + shards.len() * id as usize;
                let insert = format!("INSERT INTO t_note VALUES ({id}, {account}, 0, '', NULL)");
                app.run(insert).await?;
            }
        }
        Ok(())
    }

    /// Triggers are on the side that serves, as they were, and have run once for each row.
    async fn ensure_on(&self, old_serves: bool, when: &str) -> Result<()> {
        let estate = &self.site.estate;
        let written = self.next.load(std::sync::atomic::Ordering::Relaxed) - 1;
        for (shards, serves) in [(&estate.old, old_serves), (&estate.new, !old_serves)] {
            let (mut rows, mut logged) = (0, 0);
            for (number, shard) in shards.iter().enumerate() {
                let has = definitions(shard).await?;
                let own = self.before.get(number).filter(|_| old_serves);
                let expected = own.unwrap_or(&self.before[0]);
                let name = &shard.schema;
                match serves {
                    true => {
                        ensure!(&has == expected, "{when}: {name} has {has:#?}\nnot {expected:#?}")
                    }
                    false => ensure!(has.is_empty(), "{when}: {name} has {has:#?}"),
                }
                let wrong = "SELECT COUNT(*) FROM t_note WHERE hits <> 1 OR mark <> 'ab' \
                             OR word <> x'e45c' OR word IS NULL";
                let wrong: u64 = shard.value(wrong).await?;
                ensure!(wrong == 0, "{when}: {wrong} rows of {name} were changed again");
                rows += shard.value::<u64>("SELECT COUNT(*) FROM t_note").await?;
                logged += shard.value::<u64>("SELECT COUNT(*) FROM t_note_log").await?;
            }
            ensure!((rows, logged) == (written, written), "{when}: {rows}, {logged} of {written}");
        }
        Ok(())
    }

    async fn old_serves(&self, when: &str) -> Result<()> {
        copied(&self.site.estate, LIMIT).await.context(when.to_owned())?;
        self.write(&self.site.estate.old).await.context(when.to_owned())?;
        drained(&self.site.estate, LIMIT).await.context(when.to_owned())?;
        self.ensure_on(true, when).await
    }

    async fn new_serves(&self, when: &str) -> Result<()> {
        self.write(&self.site.estate.new).await.context(when.to_owned())?;
        drained_back(&self.site.estate, LIMIT).await.context(when.to_owned())?;
        self.ensure_on(false, when).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_and_events_are_where_the_application_writes_and_nowhere_else() -> Result<()> {
    let case = Case::start(71).await?;
    let site = &case.site;
    let wait = ["--wait", "100s"];
    let mut daemons = site.daemons()?;
    case.old_serves("before").await.with_context(|| says(&daemons))?;

    site.command(&["cutover", wait[0], wait[1]], &[0]).await.with_context(|| says(&daemons))?;
    case.new_serves("there").await.with_context(|| says(&daemons))?;
    // Whoever starts later does not refuse those of the shards that serve.
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    daemons = site.daemons()?;
    case.new_serves("started again").await.with_context(|| says(&daemons))?;

    site.command(&["rollback", wait[0], wait[1]], &[0]).await.with_context(|| says(&daemons))?;
    case.old_serves("back").await.with_context(|| says(&daemons))?;

    // Undone, by itself or after a kill amid the step: as it was.
    for point in ["before_handover", "shard_raised", "after_seal"] {
        let launch = site.estate.modshift(["cutover", wait[0], wait[1]]).hold(point, 1).start()?;
        let held = launch.wait_hold(point, LIMIT).await;
        held.with_context(|| format!("{point}: {}\n{}", launch.output(), says(&daemons)))?;
        launch.kill_9()?;
        site.command(&["cutover", "--abort"], &[0]).await.with_context(|| says(&daemons))?;
        case.old_serves(point).await.with_context(|| says(&daemons))?;
    }

    // Resumed by another process from amid the step.
    let launch =
        site.estate.modshift(["cutover", wait[0], wait[1]]).hold("shard_raised", 1).start()?;
    launch.wait_hold("shard_raised", LIMIT).await.with_context(|| says(&daemons))?;
    launch.kill_9()?;
    site.command(&["cutover", "--resume", wait[0], wait[1]], &[0])
        .await
        .with_context(|| says(&daemons))?;
    case.new_serves("there again").await.with_context(|| says(&daemons))?;

    // The end: old shards that are let go have theirs, too.
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    site.command(&["finish"], &[0]).await?;
    for shard in &site.estate.old {
        ensure!(definitions(shard).await?.is_empty(), "{} has triggers", shard.schema);
    }
    site.command(&["unfence"], &[0]).await?;
    for (shard, before) in site.estate.old.iter().zip(&case.before) {
        ensure!(&definitions(shard).await? == before, "{}", shard.schema);
    }
    Ok(())
}

/// Undone by what the shards hold, and taken back without one that is dead for good.
#[tokio::test(flavor = "multi_thread")]
async fn triggers_come_back_without_the_journal_and_without_a_dead_shard() -> Result<()> {
    let case = Case::start(73).await?;
    let site = &case.site;
    let daemons = site.daemons()?;
    case.old_serves("before").await.with_context(|| says(&daemons))?;
    let launch =
        site.estate.modshift(["cutover", "--wait", "100s"]).hold("after_seal", 1).start()?;
    let held = launch.wait_hold("after_seal", LIMIT).await;
    held.with_context(|| format!("{}\n{}", launch.output(), says(&daemons)))?;
    let [old, new] = [&site.estate.old, &site.estate.new];
    // Events come when all shards serve.
    ensure!(!definitions(&new[1]).await?.is_empty(), "not handed over yet");
    ensure!(definitions(&old[1]).await?.is_empty(), "not taken down yet");
    launch.kill_9()?;
    new[0].server.kill()?;
    site.command(&["cutover", "--abort", "--without-journal"], &[0])
        .await
        .with_context(|| says(&daemons))?;
    for (shard, before) in old.iter().zip(&case.before) {
        ensure!(&definitions(shard).await? == before, "{} has other ones", shard.schema);
    }
    new[0].server.restart().await?;
    site.command(&["cutover", "--abort"], &[0]).await.with_context(|| says(&daemons))?;
    case.old_serves("undone without its journal").await.with_context(|| says(&daemons))?;

    site.command(&["cutover", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    case.new_serves("there").await.with_context(|| says(&daemons))?;
    new[2].server.kill()?;
    site.command(&["rollback", "--accept-loss", "2", "--wait", "100s"], &[0])
        .await
        .with_context(|| says(&daemons))?;
    case.write(old).await?;
    let (mut rows, mut logged) = (0, 0);
    for (shard, before) in old.iter().zip(&case.before) {
        ensure!(&definitions(shard).await? == before, "{} has other ones", shard.schema);
        rows += shard.value::<u64>("SELECT COUNT(*) FROM t_note WHERE hits = 1").await?;
        logged += shard.value::<u64>("SELECT COUNT(*) FROM t_note_log").await?;
    }
    // All had come over when that shard died.
    let written = case.next.load(std::sync::atomic::Ordering::Relaxed) - 1;
    ensure!((rows, logged) == (written, written), "{rows}, {logged} of {written}");
    for shard in &new[..2] {
        ensure!(definitions(shard).await?.is_empty(), "{} has triggers", shard.schema);
    }
    Ok(())
}

/// What cannot be handed over exactly is refused while nobody waits, by name.
#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_cannot_be_handed_over_are_named_before_anyone_waits() -> Result<()> {
    let case = Case::start(72).await?;
    let site = &case.site;
    let (old, new) = (&site.estate.old, &site.estate.new);
    let daemons = site.daemons()?;
    case.old_serves("before").await.with_context(|| says(&daemons))?;
    let refused = async |expected: &str| {
        let output = site.command(&["cutover", "--wait", "100s"], &[1]).await?;
        ensure!(output.contains(expected), "{expected} is not said: {output}");
        ensure!(!output.contains("== fence") && site.serves().await? == "old", "{output}");
        Ok(())
    };
    old[1].run("CREATE TRIGGER extra BEFORE DELETE ON t_note FOR EACH ROW SET @a = 1").await?;
    refused("trigger extra is on the other only").await?;
    old[1].run("DROP TRIGGER extra").await?;
    new[2].run("CREATE TRIGGER early BEFORE DELETE ON t_note FOR EACH ROW SET @a = 1").await?;
    refused("has trigger early on table t_note, which runs").await?;
    new[2].run("DROP TRIGGER early").await?;
    new[0].run("CREATE EVENT e_note ON SCHEDULE EVERY 7 DAY DISABLE DO DO 1").await?;
    refused("event e_note is another than the one").await?;
    let checked = site.command(&["check", "--quick"], &[1]).await?;
    ensure!(checked.contains("new shard 0: has event e_note of another definition"), "{checked}");
    new[0].run("DROP EVENT e_note").await?;
    grant(&new[1], "REVOKE TRIGGER", "FROM").await?;
    refused("app@127.0.0.%, in whose name trigger n_first runs, lacks TRIGGER on the schema")
        .await?;
    let checked = site.command(&["check", "--quick"], &[1]).await?;
    let found = "new shard 1: app@127.0.0.%, in whose name trigger n_";
    ensure!(
        checked.contains(found) && checked.contains("lacks TRIGGER on the schema"),
        "{checked}"
    );
    grant(&new[1], "GRANT TRIGGER", "TO").await?;
    new[2].run("CREATE TRIGGER early BEFORE DELETE ON t_note FOR EACH ROW SET @a = 1").await?;
    // A daemon that starts refuses it, too.
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    let (code, output) = site.estate.modshift(["run"]).finish(LIMIT).await?;
    ensure!(code != 0 && output.contains("has trigger early"), "{code}: {output}");
    new[2].run("DROP TRIGGER early").await?;
    let _daemons = site.daemons()?;
    new[0].run(&format!("ALTER DATABASE `{}` COLLATE utf8mb4_bin", new[0].schema)).await?;
    refused("the schema's collation").await
}
