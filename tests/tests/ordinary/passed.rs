//! A group is passed over amid the copy, on the way back, and behind a crash that took it away.

use std::fs::OpenOptions;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    drained, drained_back,
    estate::Shard,
    marker::{covered, mark_all},
};

use crate::skip::{halts, halts_again, made_up, open_marks, run, words};
use crate::{LIMIT, all, binlog, daemon, estate, opens, starts_on_a_cut_event};

const DONE: &str = "SELECT COUNT(*) FROM modshift_progress WHERE done AND name <> '@resume'";
const STREAMS: &str = "SELECT COUNT(*) FROM modshift_skip WHERE what = 'stream'";

#[tokio::test(flavor = "multi_thread")]
async fn amid_the_copy_and_on_the_way_back_a_group_is_passed_over_as_it_is_elsewhere() -> Result<()>
{
    let estate = estate("").await?;
    let shard = &estate.old[0];
    let release = estate.plan_path().with_file_name("goes-on");
    let command = estate.modshift(["run", "--listen", "127.0.0.1:0"]);
    let running = command.hold_until("mid_chunk", 1, &release).start()?;
    running.wait_hold("mid_chunk", LIMIT).await?;
    let mut conn = shard.address().connect().await?;
    let unseen = ["SET binlog_format = 'STATEMENT'", "UPDATE acct SET v = v + 7"];
    all(&mut conn, &unseen).await?;
    // It stands amid a chunk, and comes to that before the next one.
    std::fs::write(&release, "")?;
    let skip = halts(&running, shard, "a statement-format UPDATE").await?;
    let left = estate.rules.len() as u64 - shard.value::<u64>(DONE).await?;
    ensure!(left > 0, "all was copied already");
    run(&estate, &skip, 0).await.with_context(|| running.last_words(60))?;
    made_up(&estate, &running).await?;

    let (old, new) = (estate.old_addresses(), estate.new_addresses());
    let fences = mark_all(&old, "fenced", "there").await?;
    covered(&new, &fences, LIMIT).await?;
    mark_all(&new, "serving", "there").await?;
    let target = &estate.new[0];
    let mut conn = target.address().connect().await?;
    all(&mut conn, &unseen).await?;
    target.run("UPDATE acct SET pad = 'seen'").await?;
    let skip = halts_again(target, "a statement-format UPDATE").await?;
    ensure!(skip.contains(&"--back".to_owned()), "{skip:?}");
    let forward: Vec<String> = skip.iter().filter(|word| *word != "--back").cloned().collect();
    let said = run(&estate, &forward, 1).await?;
    ensure!(said.contains("nothing was passed over: the reader of old shard 0 has not"), "{said}");
    let said = run(&estate, &skip, 0).await.with_context(|| running.last_words(60))?;
    ensure!(said.contains("of new shard 0 was passed over"), "{said}");
    ensure!(open_marks(target).await? > 0 && shard.value::<u64>(STREAMS).await? == 1);
    let said = run(&estate, &words(&["status"]), 0).await?;
    let line = said.lines().find(|line| line.starts_with("way back: ")).unwrap_or_default();
    let makes_equal = "modshift verify --back --repair --table acct ";
    ensure!(line.contains("was passed over (REASON)") && line.contains(makes_equal), "{said}");
    let repair = ["verify", "--back", "--repair"];
    run(&estate, &words(&repair), 0).await.with_context(|| running.last_words(60))?;
    ensure!(open_marks(target).await? == 0, "proven");
    ensure!(shard.value::<u64>(STREAMS).await? == 0, "a stream that was proven is as any other");
    drained_back(&estate, LIMIT).await.with_context(|| running.last_words(40))?;
    estate.oracle_back().compare().await?.ensure_clean()?;
    running.stop(LIMIT).await.map(drop)
}

/// Kills the server, takes this group but for its beginning out of its binlog, and all behind it, as if it
/// had been killed while it wrote that.
async fn taken_back(shard: &Shard, gtid: &str) -> Result<()> {
    let path = binlog(shard).await?;
    let file = path.file_name().and_then(|name| name.to_str()).context("a file")?.to_owned();
    let events = shard.address().query(format!("SHOW BINLOG EVENTS IN '{file}'")).await?;
    let group = events.iter().skip_while(|row| {
        let info = row.get::<String, _>("Info").unwrap_or_default();
        !info.contains(&format!("GTID {gtid}"))
    });
    let written = group.take(2).last().context("an event of the group")?;
    let kind: String = written.get("Event_type").context("a type")?;
    let end: u64 = written.get("End_log_pos").context("a position")?;
    ensure!(kind == "Query", "{kind}");
    shard.server.kill()?;
    OpenOptions::new().write(true).open(&path)?.set_len(end)?;
    shard.server.restart().await?;
    // The storage engine had not committed it either.
    let mut conn = shard.address().connect().await?;
    all(&mut conn, &["SET sql_log_bin = 0", "DELETE FROM acct WHERE id >= 5000"]).await?;
    conn.disconnect().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_group_with_the_gtid_of_one_to_be_passed_over_is_read_as_any_other() -> Result<()> {
    let estate = estate("").await?;
    let shard = &estate.old[0];
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    if !starts_on_a_cut_event(shard).await? {
        return running.stop(LIMIT).await.map(drop);
    }
    // Its GTID goes to an application's group, or to one of modshift's own: an applier's of the way back, or
    // the reader's next epoch.
    for (round, other) in [(1, true), (2, false)] {
        let mut conn = shard.address().connect().await?;
        let unseen = [
            "SET binlog_format = 'STATEMENT'",
            "START TRANSACTION",
            "INSERT INTO acct VALUES (5000, 5000, 1, 'unseen')",
            "INSERT INTO acct VALUES (5001, 5001, 1, 'unseen')",
            "COMMIT",
        ];
        all(&mut conn, &unseen).await?;
        let mut skip = halts_again(shard, "a statement-format INSERT").await?;
        let at = skip.iter().position(|word| word == "--gtid").context("--gtid")? + 1;
        let gtid = skip[at].clone();
        taken_back(shard, &gtid).await?;
        if other {
            shard.run("INSERT INTO acct VALUES (1000, 1000, 2, 'seen'), (7, 7, 7, '')").await?;
        }
        let said = run(&estate, &skip, 1).await.with_context(|| running.last_words(60))?;
        ensure!(said.contains("is not there any more"), "{said}");
        // Asked for again it is as it was.
        skip.push("--json".to_owned());
        let said = run(&estate, &skip, 1).await?;
        ensure!(said.contains("\"refused\"") && said.contains("is not there any more"), "{said}");
        drained(&estate, LIMIT).await.with_context(|| running.last_words(40))?;
        estate.oracle().compare().await?.ensure_clean().with_context(|| running.last_words(40))?;
        ensure!(open_marks(shard).await? == 0, "round {round}: a mark is open");
        for new in &estate.new {
            ensure!(new.value::<u64>(STREAMS).await? == 0, "round {round}: it was never passed");
        }
    }
    opens(&estate, &running).await?;
    running.stop(LIMIT).await.map(drop)
}
