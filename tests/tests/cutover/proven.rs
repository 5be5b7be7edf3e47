//! What the gate asks so that a cutover which it lets begin does not have to wait for it with the
//! application: proofs, what `check` finds by now, a run that is not over, changes that nobody keeps.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, EstateOptions, Log, application::pause_ms, estate::Shard, wait_until,
};
use mysql_async::prelude::Queryable;

use crate::site::{APP, APP_ACCOUNT, LIMIT, Site, options, says};

const BUDGET: Duration = Duration::from_secs(3);
/// Beside the pause, what an acknowledged commit may take on a loaded machine.
const SLACK: Duration = Duration::from_millis(1500);

async fn gate(site: &Site, args: &[&str]) -> Result<(i32, String)> {
    let all = ["gate"].iter().chain(args).copied();
    site.estate.modshift(all).finish(LIMIT).await
}

/// Statements that no binlog shows, as a person runs them on one server after the other.
async fn unlogged(shard: &Shard, statements: &[&str]) -> Result<()> {
    let mut conn = shard.address().connect().await?;
    conn.query_drop("SET sql_log_bin = 0").await?;
    for sql in statements {
        conn.query_drop(*sql).await.with_context(|| (*sql).to_owned())?;
    }
    Ok(())
}

/// The gate and a cutover both refuse, naming this.
async fn refuses(site: &Site, words: &str) -> Result<()> {
    for command in ["gate", "cutover"] {
        let output = site.command(&[command], &[1]).await?;
        ensure!(output.contains(words), "{command} does not say {words:?}:\n{output}");
    }
    ensure!(site.accepts(true).await? == "old", "a refused cutover changed who serves");
    Ok(())
}

/// An application that changes some rows as fast as it can, for as long as it may.
fn hammer(app: Address, last: u64) -> tokio::task::JoinHandle<u64> {
    const AGAIN: [u16; 2] = [1205, 1213];
    tokio::spawn(async move {
        let mut changes = 0;
        let Ok(mut conn) = app.connect().await else { return 0 };
        loop {
            // Hundreds of values: one that comes again at once would be equal again at once.
            let letter = |number: u64| char::from(b'a' + (number % 26) as u8);
            let country = format!("{}{}", letter(changes / 26), letter(changes));
            let sql = format!("UPDATE t_user SET country = '{country}' WHERE user_id <= {last}");
            match conn.query_drop(&sql).await {
                Ok(()) => {
                    changes += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(mysql_async::Error::Server(error)) if AGAIN.contains(&error.code) => {}
                Err(_) => return changes,
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_yes_the_pause_keeps_its_budget() -> Result<()> {
    let mut options = options(Log::Direct, 91, "3s", &format!("\"{APP_ACCOUNT}\""));
    options.plan_tail += "\n[verify]\ncontinuous = true\n";
    let site = Site::open(2, 3, EstateOptions { verify_age: "1h".to_owned(), ..options }).await?;
    let estate = &site.estate;
    let mut daemons = site.daemons()?;
    let writer = site.writer(91, 60.0).await?;
    let id: u64 = estate.old[0]
        .value("SELECT user_id FROM t_user ORDER BY user_id LIMIT 1 OFFSET 30")
        .await?;
    let app = |shard: &Shard| Address {
        user: APP.to_owned(),
        password: APP.to_owned(),
        ..shard.address()
    };
    // They never stand still: no round could ever settle them.
    let hot = hammer(app(&estate.old[0]), id);

    let moving = wait_until("rows that are left for the fence", LIMIT, || async {
        let sql = "SELECT COUNT(*) FROM modshift_mismatch WHERE kind = 'moving'";
        let mut moving = 0;
        for shard in &estate.new {
            moving += shard.value::<u64>(sql).await.unwrap_or(0);
        }
        Ok((moving > 0).then_some(moving))
    });
    println!("{} rows move", moving.await.with_context(|| says(&daemons))?);
    let asked = gate(&site, &["--wait", "120s"]).await?;
    ensure!(asked.0 == 0, "{asked:?}\n{}", says(&daemons));

    // What check finds by now is found by the gate, and again before the fence.
    let cascade = "ALTER TABLE t_currency ADD CONSTRAINT self FOREIGN KEY (code) REFERENCES \
                   t_currency (code) ON DELETE CASCADE";
    let (old, new) = (&estate.old[1], &estate.new[2]);
    unlogged(old, &[cascade]).await?;
    refuses(&site, "foreign key self has ON DELETE CASCADE").await?;
    unlogged(old, &["ALTER TABLE t_currency DROP FOREIGN KEY self", "CREATE SEQUENCE s_order"])
        .await?;
    refuses(&site, "new shard 2: sequence s_order: is missing").await?;
    // One that is there and has left its own values would be refused within the pause.
    for shard in &estate.new {
        let create = "CREATE SEQUENCE s_order START WITH 3 INCREMENT BY 3";
        unlogged(shard, &[create, "ALTER SEQUENCE s_order RESTART WITH 7"]).await?;
    }
    refuses(&site, "new shard 2: sequence s_order: gives out 7 next, which is none of").await?;
    for shard in estate.new.iter().chain([old]) {
        unlogged(shard, &["DROP SEQUENCE s_order"]).await?;
    }
    unlogged(new, &["CREATE TRIGGER early BEFORE INSERT ON t_user FOR EACH ROW SET @a = 1"])
        .await?;
    refuses(&site, "has trigger early").await?;
    unlogged(new, &["DROP TRIGGER early"]).await?;

    // What would keep the fence waiting is named before one is tried.
    let mut other = old.address().connect().await?;
    for (hold, words, release) in [
        ("LOCK TABLES t_device WRITE", "LOCK TABLES … WRITE", "UNLOCK TABLES"),
        ("FLUSH TABLES WITH READ LOCK", "FLUSH TABLES WITH READ LOCK or BACKUP", "UNLOCK TABLES"),
        (
            "BEGIN; UPDATE t_user SET country = 'zz' LIMIT 1; DO SLEEP(3)",
            "and has changed",
            "ROLLBACK",
        ),
    ] {
        other.query_drop(hold).await.with_context(|| hold)?;
        let (code, output) = gate(&site, &[]).await?;
        ensure!(code == 1 && output.contains(words), "{hold}: {code}\n{output}");
        ensure!(output.contains("old shard 1: "), "{output}");
        other.query_drop(release).await?;
    }
    drop(other);
    let (code, output) = gate(&site, &["--wait", "120s"]).await?;
    ensure!(code == 0, "nothing is in the way any more: {code}\n{output}\n{}", says(&daemons));

    // A run that nobody finishes: no yes, whatever the streams say.
    let killed = estate.modshift(["cutover", "--wait", "120s"]).hold("after_fence", 1).start()?;
    killed.wait_hold("after_fence", LIMIT).await.with_context(|| killed.output())?;
    killed.kill_9()?;
    let (code, output) = wait_until("the server to miss the operator", LIMIT, || async {
        let (code, output) = gate(&site, &[]).await?;
        Ok((!output.contains("its operator is at it")).then_some((code, output)))
    })
    .await?;
    ensure!(code == 1 && output.contains("neither side serves"), "{code}\n{output}");
    ensure!(output.contains("modshift cutover --resume or --abort"), "{output}");
    site.command(&["cutover", "--abort"], &[0, 1]).await?;
    ensure!(site.accepts(true).await? == "old");
    hot.await?;
    let hot = hammer(app(&estate.old[0]), id);

    // A consumer that was started again has forgotten what it was to compare.
    for daemon in &daemons {
        daemon.kill_9()?;
    }
    daemons = site.daemons()?;
    let last = std::cell::RefCell::new(String::new());
    let missing = wait_until("the gate to miss what is not kept", LIMIT, || async {
        let (code, output) = gate(&site, &[]).await?;
        ensure!(code != 0, "open, and nobody has compared anything since the restart:\n{output}");
        *last.borrow_mut() = output.clone();
        let said = output.contains("not compared as a whole since the consumers keep changes");
        Ok((said && output.contains("rows are left")).then_some(()))
    });
    missing.await.with_context(|| format!("{}\n{}", last.borrow(), says(&daemons)))?;
    let refused = site.command(&["cutover"], &[1]).await?;
    ensure!(refused.contains("not compared as a whole"), "{refused}");
    let (code, output) = gate(&site, &["--wait", "120s"]).await?;
    ensure!(code == 0, "{code}\n{output}\n{}", says(&daemons));
    let begun = tokio::time::Instant::now();
    let output = site.command(&["cutover", "--wait", "30s"], &[0]).await;
    let output = output.with_context(|| says(&daemons))?;
    let pause = Duration::from_secs_f64(pause_ms(&output)? / 1e3);
    ensure!(pause <= BUDGET, "a pause of {pause:?} after a yes:\n{output}");
    println!("the pause was {pause:?}; the hot rows changed {} times", hot.await?);
    writer.commits(50, LIMIT).await.with_context(|| says(&daemons))?;
    let ended = tokio::time::Instant::now();

    // The other way round, and there again from a consumer that has just been started.
    site.command(&["rollback", "--wait", "120s"], &[0]).await.with_context(|| says(&daemons))?;
    for daemon in &daemons {
        daemon.kill_9()?;
    }
    daemons = site.daemons()?;
    let again = Instant::now();
    let output = site.command(&["cutover", "--wait", "120s"], &[0]).await;
    let output = output.with_context(|| says(&daemons))?;
    println!("{:?} from the restart to the cutover", again.elapsed());
    let pause = Duration::from_secs_f64(pause_ms(&output)? / 1e3);
    ensure!(pause <= BUDGET, "a pause of {pause:?} after a restart:\n{output}");
    writer.commits(50, LIMIT).await.with_context(|| says(&daemons))?;
    let ledger = writer.stop().await?;
    let gap = ledger.longest_gap_between(begun, ended);
    ensure!(gap.is_none_or(|gap| gap <= BUDGET + SLACK), "the application waited {gap:?}");
    modshift_tests::drained_back(estate, LIMIT).await.with_context(|| says(&daemons))?;
    estate.oracle_back().compare().await?.ensure_clean()
}
