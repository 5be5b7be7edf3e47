//! Tables that change without a trace in the binlog: values would go to other columns. Whatever is
//! changed, wherever, the streams halt by name and the way out leads back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Modshift, Rule, TableRule, case::Size, drained, estate::Shard,
    place::free_port,
};
use mysql_async::prelude::Queryable;

const LIMIT: Duration = Duration::from_secs(120);
const ODD: &str = "CREATE TABLE odd (id BIGINT NOT NULL PRIMARY KEY, uid BIGINT NOT NULL, a INT, \
                   b INT, e ENUM('x','y'), n INT, c VARCHAR(9) CHARACTER SET latin1)";

struct Scene {
    estate: Estate,
    rows: u64,
}

impl Scene {
    async fn start(metadata: &'static str) -> Result<Self> {
        // Where a command finds the daemon.
        let port = free_port()?;
        let options = EstateOptions {
            size: Size::rows(50),
            plan_tail: format!("[http]\nrun = \"127.0.0.1:{port}\"\n"),
            old_options: Arc::new(move |_, usual| modshift_tests::MariaDbOptions {
                binlog_row_metadata: metadata.to_owned(),
                ..usual
            }),
            ..EstateOptions::default()
        };
        let mut estate = Estate::start(1, 2, options).await?;
        for shard in estate.old.iter().chain(&estate.new) {
            shard.run(ODD).await?;
        }
        estate.rules.push(TableRule::new("odd", Rule::floor_mod("uid")));
        std::fs::write(estate.plan_path(), estate.plan())?;
        let mut scene = Self { estate, rows: 0 };
        scene.write().await?;
        Ok(scene)
    }

    /// A row that means the same under every definition.
    async fn write(&mut self) -> Result<()> {
        self.rows += 1;
        let sql = format!("INSERT INTO odd (id, uid) VALUES ({0}, {0})", self.rows);
        self.estate.old[0].run(&sql).await
    }

    /// New shards first: the old one's reader is to notice by itself.
    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.estate.new.iter().chain(&self.estate.old)
    }

    fn daemon(&self) -> Result<Modshift> {
        self.estate.modshift(["run"]).start()
    }

    async fn status(&self, code: i32, words: &[&str]) -> Result<String> {
        let (ended, output) = self.estate.modshift(["status"]).finish(LIMIT).await?;
        let said = words.iter().all(|words| output.contains(words));
        ensure!(
            ended == code && said,
            "status ended with {ended}, not {code}, {words:?}:\n{output}"
        );
        Ok(output)
    }

    async fn opens(&self, running: &Modshift) -> Result<()> {
        let (code, output) = self.estate.modshift(["gate", "--wait", "60s"]).finish(LIMIT).await?;
        ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", running.last_words(40));
        Ok(())
    }

    async fn correct(&self, running: &Modshift) -> Result<()> {
        drained(&self.estate, LIMIT).await.with_context(|| running.last_words(40))?;
        self.estate.oracle().compare().await?.ensure_clean()
    }
}

/// On one shard, and nowhere in its binlog.
async fn unlogged(shard: &Shard, sql: &str) -> Result<()> {
    let mut conn = shard.address().connect().await?;
    conn.query_drop("SET sql_log_bin = 0").await?;
    for statement in sql.split("; ") {
        conn.query_drop(statement).await.with_context(|| statement.to_owned())?;
    }
    Ok(conn.disconnect().await?)
}

/// What keeps number and types of the columns as the binlog shows them, how to undo it, and what is
/// said of it.
const CHANGES: [(&str, &str, &str); 4] = [
    (
        "ALTER TABLE odd RENAME COLUMN a TO d, RENAME COLUMN b TO a; ALTER TABLE odd RENAME COLUMN \
         d TO b",
        "ALTER TABLE odd RENAME COLUMN a TO d, RENAME COLUMN b TO a; ALTER TABLE odd RENAME COLUMN \
         d TO b",
        "column 3 is b int(11) NULL, not a int(11) NULL",
    ),
    (
        "ALTER TABLE odd MODIFY e ENUM('y','x')",
        "ALTER TABLE odd MODIFY e ENUM('x','y')",
        "column 5 is e enum('y','x')",
    ),
    (
        "ALTER TABLE odd MODIFY n INT UNSIGNED",
        "ALTER TABLE odd MODIFY n INT",
        "column 6 is n int(10) unsigned NULL, not n int(11) NULL",
    ),
    (
        "ALTER TABLE odd MODIFY c VARCHAR(9) CHARACTER SET greek",
        "ALTER TABLE odd MODIFY c VARCHAR(9) CHARACTER SET latin1",
        "column 7 is c varchar(9) greek greek_general_ci NULL, not c varchar(9) latin1",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_no_binlog_shows_halts_by_name_and_can_be_undone() -> Result<()> {
    let mut scene = Scene::start("NO_LOG").await?;
    let mut running = scene.daemon()?;
    scene.opens(&running).await?;
    for (change, undo, said) in CHANGES {
        // Over all servers: old and new are the same, and only what the reader remembers is not.
        for shard in scene.shards() {
            unlogged(shard, change).await?;
        }
        scene.write().await?;
        let halted = running.wait_line("reader halted", LIMIT).await?;
        let named = "table odd on 127.0.0.1:";
        ensure!(halted.contains(named) && halted.contains(said), "{change}: {halted}");
        ensure!(halted.contains("sql_log_bin = 0"), "{halted}");
        let there = format!("SELECT COUNT(*) FROM odd WHERE id = {}", scene.rows);
        for shard in &scene.estate.new {
            ensure!(shard.value::<u64>(&there).await? == 0, "{change}: the row was sent");
        }
        let (code, output) = scene.estate.modshift(["gate"]).finish(LIMIT).await?;
        ensure!(code == 1 && output.contains(said), "{change}: the gate says {code}: {output}");
        running.stop(LIMIT).await?;

        // A reader that starts anew finds the catalog as it is, and what it was read by before.
        running = scene.daemon()?;
        let halted = running.wait_line("reader halted", LIMIT).await?;
        ensure!(halted.contains(named) && halted.contains(said), "{change}: {halted}");
        running.stop(LIMIT).await?;
        for shard in scene.shards() {
            unlogged(shard, undo).await?;
        }
        running = scene.daemon()?;
        scene.opens(&running).await?;
        scene.correct(&running).await?;
    }
    running.stop(LIMIT).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_binlog_tells_of_columns_is_held_against_the_catalog() -> Result<()> {
    let mut scene = Scene::start("FULL").await?;
    let mut running = scene.daemon()?;
    // All types of the case among it.
    scene.opens(&running).await?;
    scene.write().await?;
    scene.correct(&running).await?;
    let (change, undo, _) = CHANGES[0];
    for shard in scene.shards() {
        unlogged(shard, change).await?;
    }
    scene.write().await?;
    let named = "table odd, column a: logged as column 3 named b, but the catalog shows a int(11)";
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains(named), "{halted}");
    running.stop(LIMIT).await?;

    // Undone it still cannot be read: this row was written under other names.
    for shard in scene.shards() {
        unlogged(shard, undo).await?;
    }
    running = scene.daemon()?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains(named), "{halted}");
    ensure!(halted.contains("from the plan to check.ignore"), "{halted}");
    running.stop(LIMIT).await?;

    // The way out that it names: all other tables keep their copy.
    let with = scene.estate.plan();
    let odd = with.find("[[table]]\nname = \"odd\"").context("no such table in the plan")?;
    let end = with[odd + 1..].find("\n[").map_or(with.len(), |end| odd + 2 + end);
    let without = format!("{}{}", &with[..odd], &with[end..]);
    let without = without.replace("[check]", "[check]\nignore = [\"odd\"]");
    std::fs::write(scene.estate.plan_path(), without)?;
    running = scene.daemon()?;
    scene.opens(&running).await?;
    running.stop(LIMIT).await?;
    std::fs::write(scene.estate.plan_path(), with)?;
    running = scene.daemon()?;
    scene.opens(&running).await?;
    scene.correct(&running).await?;
    running.stop(LIMIT).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_new_shard_or_while_it_is_copied_is_noticed() -> Result<()> {
    let scene = Scene::start("NO_LOG").await?;
    let never = ["old 0 never read", "copy      not begun", "not yet: no stream has begun"];
    scene.status(1, &never).await?;
    let running = scene.daemon()?;
    scene.opens(&running).await?;
    let said = scene.status(0, &["the old shards serve", "all copied", "way back: ready"]).await?;
    ensure!(said.lines().nth(1).is_some_and(|line| line.starts_with("the old shards")), "{said}");
    // Nothing is written there meanwhile.
    let (change, undo, said) = CHANGES[0];
    unlogged(&scene.estate.new[1], change).await?;
    let halted = running.wait_line("applier halted", LIMIT).await?;
    ensure!(halted.contains("new shard 1: table odd is not defined as it is applied"), "{halted}");
    ensure!(halted.contains(said), "{halted}");
    running.stop(LIMIT).await?;
    unlogged(&scene.estate.new[1], undo).await?;

    // And on the old one, with no row after it.
    let running = scene.daemon()?;
    scene.opens(&running).await?;
    let (change, undo, said) = CHANGES[2];
    unlogged(&scene.estate.old[0], change).await?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains(said), "{halted}");
    running.stop(LIMIT).await?;
    unlogged(&scene.estate.old[0], undo).await?;
    let running = scene.daemon()?;
    scene.opens(&running).await?;
    scene.correct(&running).await?;
    running.stop(LIMIT).await?;

    // A reader that halts before it has begun writes that nowhere: its daemon says so.
    for shard in scene.shards() {
        unlogged(shard, change).await?;
    }
    let running = scene.daemon()?;
    running.wait_line("reader halted", LIMIT).await?;
    scene.status(4, &["HALTED: old shard 0 in modshift run stopped: ", said]).await?;
    let (code, output) = scene.estate.modshift(["gate"]).finish(LIMIT).await?;
    ensure!(code == 1 && output.contains("old shard 0 has halted"), "{code}\n{output}");
    running.stop(LIMIT).await?;
    // Without the journal each shard speaks for itself.
    scene.estate.new[0].server.kill()?;
    let words = ["which side serves is not known", "says of itself: serving: old 0; fenced: new 1"];
    scene.status(2, &words).await.map(drop)
}
