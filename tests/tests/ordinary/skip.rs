//! Sent past a group at which a reader has halted, as the halt itself says; and what that changed made up
//! for, as the gate says.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, Modshift, Rule, TableRule, drained, estate::Shard, printed, wait_until,
};

use crate::{LIMIT, all, daemon, estate, opens};

/// With a unique key, and rows of which two are more than is kept until the end of a group.
const UNIQUE: &str = "CREATE TABLE uq (id BIGINT NOT NULL PRIMARY KEY, uid BIGINT NOT NULL, \
                      name VARCHAR(20) NOT NULL UNIQUE, pad LONGTEXT)";
const TAIL: &str = "[reader]\nspill_max = \"1MiB\"\n";

pub async fn run(estate: &Estate, args: &[String], expected: i32) -> Result<String> {
    let (code, output) = estate.modshift(args.to_vec()).finish(LIMIT).await?;
    ensure!(code == expected, "{args:?} ended with {code}:\n{output}");
    Ok(output)
}

pub fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// The reader's halt, written down where it stands, and its command with nobody to ask.
pub async fn halts(running: &Modshift, shard: &Shard, text: &str) -> Result<Vec<String>> {
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains(text), "{halted}");
    stands(shard).await?;
    let mut command = printed(&halted, "skip")?;
    command.push("--yes".to_owned());
    Ok(command)
}

/// The same of one more halt, by what the shard says of it.
pub async fn halts_again(shard: &Shard, text: &str) -> Result<Vec<String>> {
    stands(shard).await?;
    let halted: String = shard.value("SELECT halted FROM modshift_token").await?;
    ensure!(halted.contains(text), "{halted}");
    let mut command = printed(&halted, "skip")?;
    command.push("--yes".to_owned());
    Ok(command)
}

/// What the gate says about it; then its command, and all is well and equal.
pub async fn made_up(estate: &Estate, running: &Modshift) -> Result<()> {
    // Where the daemon was started anew its streams first say how far they are.
    let said = wait_until("the gate to name nothing else", LIMIT, || async {
        let said = run(estate, &words(&["gate"]), 1).await?;
        let others = ["copied", "applied nothing", "show again", "to be passed over"];
        Ok(Some(said).filter(|said| !others.iter().any(|other| said.contains(other))))
    });
    let said = said.await?;
    ensure!(said.contains("was passed over (REASON)"), "{said}");
    let line = said.lines().find(|line| line.contains("was passed over")).unwrap_or_default();
    let line = line.split(" makes them equal").next().unwrap_or_default();
    run(estate, &printed(line, "verify")?, 0).await.with_context(|| running.last_words(60))?;
    opens(estate, running).await?;
    drained(estate, LIMIT).await.with_context(|| running.last_words(40))?;
    estate.oracle().compare().await?.ensure_clean().with_context(|| running.last_words(40))
}

/// The log has the halt a moment before the shard does.
pub async fn stands(shard: &Shard) -> Result<()> {
    let there = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                 AND TABLE_NAME = 'modshift_skip'";
    let halted = "SELECT COUNT(*) FROM modshift_skip WHERE state = 'halted'";
    wait_until("the halt on the shard", LIMIT, || async {
        let there = shard.value::<u64>(there).await? == 1;
        Ok((there && shard.value::<u64>(halted).await? == 1).then_some(()))
    })
    .await
}

pub async fn open_marks(shard: &Shard) -> Result<u64> {
    let sql = "SELECT COUNT(*) FROM modshift_skip WHERE state IN ('asked', 'open')";
    shard.value(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_sent_past_a_group_and_what_it_changed_is_made_up_for() -> Result<()> {
    let mut estate = estate(TAIL).await?;
    for shard in estate.old.iter().chain(&estate.new) {
        shard.run(UNIQUE).await?;
    }
    estate.rules.push(TableRule::new("uq", Rule::floor_mod("uid")));
    std::fs::write(estate.plan_path(), estate.plan())?;
    let shard = &estate.old[0];
    shard.run("INSERT INTO uq VALUES (1, 1, 'one', ''), (2, 2, 'two', '')").await?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;

    // Nothing stands still yet.
    let early = ["skip", "--source", "0", "--gtid", "0-1-1", "--why", "early", "--yes"];
    let said = run(&estate, &words(&early), 1).await?;
    ensure!(said.contains("nothing was passed over: the reader of old shard 0 has not"), "{said}");
    let mut conn = shard.address().connect().await?;
    let unseen = [
        "SET SESSION binlog_format = 'STATEMENT'",
        "START TRANSACTION",
        "INSERT INTO acct VALUES (10, 10, 1, 'unseen')",
        "UPDATE acct SET v = 7 WHERE id = 1",
        "DELETE FROM uq WHERE id = 1",
        "COMMIT",
    ];
    all(&mut conn, &unseen).await?;
    // Its place is free here, and not on the new shard.
    shard.run("INSERT INTO uq VALUES (3, 3, 'one', '')").await?;
    let skip = halts(&running, shard, "a statement-format INSERT").await?;
    let mut other = skip.clone();
    let at = other.iter().position(|word| word == "--gtid").context("--gtid")? + 1;
    let there = std::mem::replace(&mut other[at], "0-1-1".to_owned());
    let said = run(&estate, &other, 1).await?;
    ensure!(said.contains(&format!("has halted at group {there}, and not at 0-1-1")), "{said}");
    let dry: Vec<String> = skip.iter().cloned().chain(words(&["--dry-run"])).collect();
    let said = run(&estate, &dry, 0).await?;
    ensure!(said.contains("this was a dry run") && open_marks(shard).await? == 0, "{said}");
    let quiet: Vec<String> = skip.iter().filter(|word| *word != "--yes").cloned().collect();
    let said = run(&estate, &quiet, 3).await?;
    ensure!(said.contains("give --yes") && open_marks(shard).await? == 0, "{said}");

    let said = run(&estate, &skip, 0).await.with_context(|| running.last_words(60))?;
    // A statement may have set off what wrote to any of them.
    for rule in &estate.rules {
        ensure!(said.contains(&format!(" --table {}", rule.table)), "{said}");
    }
    let said = run(&estate, &words(&["status"]), 1).await?;
    let line = format!("SKIPPED group {there} (REASON): not proven equal since: acct, ");
    ensure!(said.contains(&line), "{said}");
    let said = run(&estate, &words(&["audit"]), 0).await?;
    ensure!(said.contains("modshift skip") && said.contains(&there), "{said}");
    let waits =
        "SELECT COUNT(*) FROM modshift_parked WHERE blocked_by LIKE 'left by modshift skip%'";
    let parked = wait_until("the row whose place is taken", LIMIT, || async {
        let mut rows = 0;
        for new in &estate.new {
            rows += new.value::<u64>(waits).await?;
        }
        Ok((rows == 1).then_some(()))
    });
    parked.await.with_context(|| running.last_words(40))?;
    // And it is deleted, unseen as well: it must not move in once its place is free.
    all(&mut conn, &["DELETE FROM uq WHERE id = 3"]).await?;
    let skip = halts_again(shard, "a statement-format DELETE").await?;
    run(&estate, &skip, 0).await.with_context(|| running.last_words(60))?;
    made_up(&estate, &running).await?;
    ensure!(open_marks(shard).await? == 0);
    for new in &estate.new {
        let left = "SELECT COUNT(*) FROM modshift_skip WHERE what = 'stream'";
        ensure!(new.value::<u64>(left).await? == 0, "a stream that was proven is as any other");
    }

    // What a trigger wrote that is no more there when the group is passed over.
    let (ops, schema) = (shard.address().with_schema("ops"), &shard.schema);
    ops.run("CREATE TABLE log (a INT)").await?;
    let trigger = format!(
        "CREATE TRIGGER told AFTER INSERT ON log FOR EACH ROW UPDATE {schema}.acct SET v = v + 77 WHERE id = 2"
    );
    ops.run(&trigger).await?;
    all(&mut conn, &["INSERT INTO ops.log VALUES (1)"]).await?;
    let skip = halts_again(shard, "has triggers").await?;
    ops.run("DROP TRIGGER told").await?;
    run(&estate, &skip, 0).await.with_context(|| running.last_words(60))?;
    made_up(&estate, &running).await?;

    // One that is gone when a reader that was started anew comes to the group again: nothing tells that
    // it was there, but that it is dropped behind it.
    ops.run(&trigger).await?;
    all(&mut conn, &["INSERT INTO ops.log VALUES (2)"]).await?;
    halts_again(shard, "has triggers").await?;
    ops.run("DROP TRIGGER told").await?;
    running.stop(LIMIT).await?;
    let running = daemon(&estate)?;
    let skip = halts(&running, shard, "takes away a TRIGGER").await?;
    run(&estate, &skip, 0).await.with_context(|| running.last_words(60))?;
    made_up(&estate, &running).await?;

    // A group of which rows have been applied already; killed before it is written down that the rest
    // is not.
    running.stop(LIMIT).await?;
    let command = estate.modshift(["run", "--listen", "127.0.0.1:0"]);
    let running = command.hold("skipped_before_recorded", 1).start()?;
    opens(&estate, &running).await.context("read once more")?;
    let mut conn = shard.address().connect().await?;
    all(&mut conn, &["START TRANSACTION", "CREATE TEMPORARY TABLE tmp (a INT)"]).await?;
    for id in 20..23 {
        let insert = format!("INSERT INTO uq VALUES ({id}, {id}, 'n{id}', REPEAT('x', 700000))");
        all(&mut conn, &[&insert]).await?;
    }
    all(&mut conn, &["ROLLBACK"]).await?;
    let skip = halts(&running, shard, "rolls back changes to planned tables").await?;
    let there = "SELECT COUNT(*) FROM uq WHERE id >= 20";
    let applied = wait_until("rows of the group on new shards", LIMIT, || async {
        let mut rows = 0;
        for new in &estate.new {
            rows += new.value::<u64>(there).await?;
        }
        Ok((rows > 0).then_some(()))
    });
    applied.await.with_context(|| running.last_words(40))?;
    let asking = estate.modshift(skip.clone()).start()?;
    running.wait_hold("skipped_before_recorded", LIMIT).await?;
    running.kill_9()?;
    let said = run(&estate, &words(&["gate"]), 1).await?;
    ensure!(said.contains("is to be passed over (REASON)"), "{said}");
    let running = daemon(&estate)?;
    let code = asking.wait_exit(LIMIT).await?;
    ensure!(code.success(), "{code}: {}\n{}", asking.output(), running.last_words(60));
    made_up(&estate, &running).await?;
    // Asked for again it is as it was.
    let said = run(&estate, &skip, 0).await?;
    ensure!(said.contains("no planned table has to be compared"), "{said}");
    running.stop(LIMIT).await.map(drop)
}

/// What the halt at a DDL says keeps the rest of the copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_altered_is_taken_out_of_the_plan_and_alone_is_copied_anew() -> Result<()>
{
    let mut estate = estate("").await?;
    let plan = estate.plan();
    let rules = estate.rules.clone();
    estate.rules.retain(|rule| rule.table != "acct");
    let without = estate.plan().replace("[check]", "[check]\nignore = [\"acct\"]");
    ensure!(without.contains("ignore"), "{without}");
    estate.rules = rules;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    let shard = &estate.old[0];
    shard.run("ALTER TABLE acct ADD w INT NOT NULL DEFAULT 4").await?;
    shard.run("INSERT INTO acct VALUES (10, 10, 1, '', 5)").await?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains("move the table from the plan to check.ignore"), "{halted}");
    for new in &estate.new {
        new.run("ALTER TABLE acct ADD w INT NOT NULL DEFAULT 4").await?;
    }
    running.stop(LIMIT).await?;
    let copied = "SELECT rows_copied FROM modshift_progress WHERE name <> 'acct' AND done \
                  ORDER BY name LIMIT 1";
    let epoch = "SELECT epoch FROM modshift_token";
    let before: (u64, u64) = (shard.value(copied).await?, shard.value(epoch).await?);

    std::fs::write(estate.plan_path(), &without)?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await.context("without the table")?;
    running.stop(LIMIT).await?;
    std::fs::write(estate.plan_path(), &plan)?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await.context("with the table again")?;
    ensure!(shard.value::<u64>(copied).await? == before.0, "another table was copied again");
    ensure!(shard.value::<u64>(epoch).await? > before.1);
    drained(&estate, LIMIT).await.with_context(|| running.last_words(40))?;
    estate.oracle().compare().await?.ensure_clean().with_context(|| running.last_words(40))?;
    running.stop(LIMIT).await.map(drop)
}
