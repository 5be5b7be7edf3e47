//! A pair of masters that is set up from what `modshift topology` has written, and from nothing else,
//! and that fails over both ways under the application.

mod pair;
mod reshard;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_mariadb::control::FENCES_TABLE;
use modshift_tests::{
    Oracle, Writer, WriterOptions,
    case::{self, Size},
    process::Launch,
    wait_until,
    writer::Follow,
};

use pair::{APP, Pair};

const LIMIT: Duration = Duration::from_secs(90);

fn load() -> WriterOptions {
    WriterOptions {
        connections: 4,
        rate: Some(120.0),
        giants: None,
        rows_known: 50,
        ..WriterOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "a test that leaves something out should say so")]
async fn a_pair_fails_over_both_ways_and_loses_nothing() -> Result<()> {
    let pair = Pair::plan().await?;
    pair.config_is_taken().await?;
    // The first holds the rows, the second is filled from it.
    pair.start(0, None).await?;
    let first = pair.server(0);
    ensure!(first.value::<bool>("SELECT @@read_only").await?, "it did not start read-only");
    pair.client("before", 0, "accounts.sql").await?;
    pair.create_application().await?;

    // Little data by a dump, as long as a dump has it all.
    first.run("CREATE DATABASE small").await?;
    first
        .run("CREATE TABLE small.t (a INT PRIMARY KEY, b BLOB) SELECT 1 AS a, x'00ff27' AS b")
        .await?;
    pair.start(1, None).await?;
    pair.seed_from_dump("before", 1, 0).await?;
    let grants = format!("SHOW GRANTS FOR {APP}@'%'");
    let of_second: String = pair.server(1).value(&grants).await?;
    ensure!(of_second == first.value::<String>(&grants).await?, "not the accounts of the first");
    let at: String = first.value("SELECT @@gtid_binlog_pos").await?;
    let second = pair.server(1);
    ensure!(second.value::<String>("SELECT @@gtid_slave_pos").await? == at, "another position");
    ensure!(second.value::<Vec<u8>>("SELECT b FROM small.t").await? == [0, 255, 39]);
    ensure!(
        second.value::<String>("SELECT @@gtid_binlog_pos").await?.is_empty(),
        "it wrote itself"
    );
    second.run("DROP DATABASE small").await?;
    case::create_schema(&first.address(), pair::SCHEMA).await?;
    let refused = pair.seed_from_dump("before", 1, 0).await.expect_err("a dump cuts a FLOAT");
    ensure!(format!("{refused:#}").contains("t_all_types.f32 is a FLOAT"), "{refused:#}");
    pair.remove(1).await?;

    // All else by a backup.
    case::seed_rows(&pair.address(0), 0, 1, Size::rows(2_000), 1).await?;
    let data = pair.seed_from_backup("before", 1, 0).await?;
    pair.start(1, Some(data)).await?;
    pair.client("before", 1, "seeded.sql").await?;
    pair.client("before", 1, "accounts.sql").await?;
    pair.client("before", 1, "replication.sql").await?;
    pair.client("before", 0, "replication.sql").await?;
    pair.keep(0).await?;
    pair.serves(0).await?;
    pair.keep(1).await?;

    first.run("CREATE DATABASE cuts").await?;
    first.run("CREATE TABLE cuts.t (id INT PRIMARY KEY, at INT)").await?;
    let follow =
        Follow { user: APP.to_owned(), password: APP.to_owned(), ..Follow::new(pair.routing()?) };
    let writer = Writer::follow(load(), follow).await?;
    writer.commits(60, LIMIT).await?;

    // The network between the two is cut, while the one of the higher priority serves.
    writer.pause().await?;
    pair.catches_up(1).await?;
    pair.cut_and_heal(0).await?;
    writer.resume();
    writer.commits(30, LIMIT).await.with_context(|| pair.says())?;
    pair.serves(0).await?;

    // A split: what held the address is killed, and the address stays where it was.
    pair.kill_keeper(0)?;
    pair.serves(1).await?;
    ensure!(pair.server(0).value::<bool>("SELECT @@read_only").await?, "both take writes");
    pair.is_split()?;
    writer.commits(60, LIMIT).await.with_context(|| pair.says())?;
    pair.keep(0).await?;
    writer.commits(30, LIMIT).await.with_context(|| pair.says())?;

    // Back, in peace.
    pair.stop_keeper(1).await?;
    pair.serves(0).await?;
    ensure!(pair.server(1).value::<bool>("SELECT @@read_only").await?, "both take writes");
    writer.commits(60, LIMIT).await.with_context(|| pair.says())?;
    pair.keep(1).await?;

    // The server that serves dies. What it had acknowledged and not sent would be back with it alone:
    // so nothing is under way just then.
    writer.pause().await?;
    pair.catches_up(1).await?;
    pair.server(0).kill()?;
    pair.server_died(0).await?;
    pair.serves(1).await?;
    writer.resume();
    writer.commits(60, LIMIT).await.with_context(|| pair.says())?;
    pair.server(0).restart().await?;
    ensure!(pair.server(0).value::<bool>("SELECT @@read_only").await?, "it came back open");
    writer.commits(30, LIMIT).await.with_context(|| pair.says())?;

    // The same cut, while the other serves: behind it the address goes to the one that lacks its writes.
    writer.pause().await?;
    pair.catches_up(0).await?;
    let serving = usize::from(!pair.cut_and_heal(1).await?);
    writer.resume();
    writer.commits(30, LIMIT).await.with_context(|| pair.says())?;
    pair.serves(serving).await?;

    let ledger = writer.stop().await.with_context(|| pair.says())?;
    ensure!(ledger.audited > 0 && ledger.retries > 0, "nothing failed over: {ledger:?}");
    pair.catches_up(0).await?;
    pair.catches_up(1).await?;
    let oracle = Oracle::new(vec![pair.address(0)], vec![pair.address(1)], case::rules());
    oracle.compare().await?.ensure_clean()?;

    // What modshift has fenced is opened by no failover.
    let (server, other) = (pair.server(serving), 1 - serving);
    server.run("CREATE DATABASE modshift").await?;
    server.run(FENCES_TABLE).await?;
    server
        .run("INSERT INTO modshift.fences VALUES ('p', 'old shard 0', 1, 1, '', UTC_TIMESTAMP(6))")
        .await?;
    pair.stop_keeper(serving).await?;
    wait_until("the failover to be refused", LIMIT, || async {
        let last = pair.last_words(other);
        let refused = "MASTER: stays read-only: modshift keeps it closed for old shard 0 of plan p";
        Ok(last.contains(refused).then_some(()))
    })
    .await
    .with_context(|| pair.says())?;
    for index in 0..2 {
        let closed: bool = pair.server(index).value("SELECT @@read_only").await?;
        ensure!(closed, "{index} was opened behind a fence");
    }

    // Split into shards of their own: each is opened for itself, and neither closes the other.
    for index in 0..2 {
        pair.server(index).run("STOP SLAVE").await?;
        pair.server(index).run("RESET SLAVE ALL").await?;
    }
    server.run("SET GLOBAL read_only = 0").await?;
    pair.server(other).run("DELETE FROM modshift.fences").await?;
    pair.serves(other).await?;
    wait_until("the other to have been looked at", LIMIT, || async {
        let last = pair.last_words(other);
        Ok(last.contains("the peer is closed: none replicates from the other").then_some(()))
    })
    .await
    .with_context(|| pair.says())?;
    ensure!(!server.value::<bool>("SELECT @@read_only").await?, "a peer of former days was closed");
    println!(
        "{} transactions, {} retries, the longest took {:?}; {}",
        ledger.transactions,
        ledger.retries,
        ledger.longest,
        if pair.by_vrrp() { "by VRRP" } else { "WITHOUT VRRP" }
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_files_are_kept() -> Result<()> {
    let pair = Pair::plan_in(None).await?;
    let out = pair.out();
    let plan = pair.plan_path();
    let run = |more: &[&str]| {
        let fixed = ["topology", "--out", &out, "--plan", &plan].map(str::to_owned);
        let more = more.iter().map(|&word| word.to_owned());
        pair::with_passwords(Launch::new(fixed.into_iter().chain(more)))
    };
    let (code, listed) = run(&["--dry-run"]).finish(LIMIT).await?;
    ensure!(code == 0 && !listed.contains("new ") && listed.contains("same "), "{code}: {listed}");
    let file = pair.folder("before", 0).join("my.cnf");
    std::fs::write(&file, "mine")?;
    let (code, said) = run(&[]).finish(LIMIT).await?;
    ensure!(code == 1 && said.contains("edited") && said.contains("my.cnf"), "{code}: {said}");
    ensure!(std::fs::read_to_string(&file)? == "mine", "it was replaced");
    let (code, said) = run(&["--overwrite"]).finish(LIMIT).await?;
    ensure!(code == 0, "{code}: {said}");
    ensure!(std::fs::read_to_string(file.with_file_name("my.cnf.edited"))? == "mine");
    ensure!(std::fs::read_to_string(&file)?.contains("server_id"));
    Ok(())
}
