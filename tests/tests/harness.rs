//! The harness, tested: an instrument that can't show a fault proves nothing.

#![expect(clippy::print_stdout, reason = "figures worth seeing with --nocapture")]

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use modshift_tests::{
    Address, Estate, EstateOptions, MariaDbOptions, MariaDbServer, Mix, Modshift, Proxy, Writer,
    WriterOptions,
    case::{self, Size},
    oracle::{Fault, Oracle},
    server::{Delay, KafkaBroker},
    wait_until,
    writer::{Giants, MoveOptions, Routes, UserMoves},
};
use mysql_async::prelude::Queryable;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn seven_servers_start_side_by_side_and_differ() -> Result<()> {
    let options = (1..=7).map(MariaDbOptions::with_server_id);
    let servers = MariaDbServer::start_all(options).await?;
    for (index, server) in servers.iter().enumerate() {
        assert_eq!(server.value::<u32>("SELECT @@server_id").await?, index as u32 + 1);
        assert_eq!(server.value::<String>("SELECT @@gtid_binlog_pos").await?, "");
        assert_eq!(server.value::<String>("SELECT @@binlog_format").await?, "ROW");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_server_is_dead_and_a_restart_keeps_its_data() -> Result<()> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    server.run("CREATE DATABASE a").await?;
    server.run("CREATE TABLE a.t (n INT PRIMARY KEY) ENGINE=InnoDB").await?;
    server.run("INSERT INTO a.t VALUES (1),(2)").await?;
    server.kill()?;
    assert!(server.connect().await.is_err());
    server.restart().await?;
    server.run("INSERT INTO a.t VALUES (3)").await?;
    server.stop().await?;
    assert!(server.connect().await.is_err());
    server.restart_with(&["--read-only=1"]).await?;
    assert_eq!(server.value::<i64>("SELECT SUM(n) FROM a.t").await?, 6);
    assert!(server.value::<bool>("SELECT @@read_only").await?);
    Ok(())
}

#[tokio::test]
async fn a_paused_server_answers_again_when_continued() -> Result<()> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    server.pause()?;
    let silent = tokio::time::timeout(Duration::from_millis(200), server.run("SELECT 1")).await;
    assert!(silent.is_err());
    server.cont()?;
    server.run("SELECT 1").await
}

#[tokio::test]
async fn a_message_goes_through_kafka_and_outlives_the_broker() -> Result<()> {
    let broker = KafkaBroker::start().await?;
    let topics = broker.topics()?;
    topics.create("changes", 2, &[("max.message.bytes", "33554432")]).await?;
    assert_eq!(topics.produce("changes", 1, Some(b"k"), b"one").await?, 0);
    broker.kill()?;
    broker.restart().await?;
    assert_eq!(topics.produce("changes", 1, None, b"two").await?, 1);
    let all = topics.read_all("changes", 1).await?;
    let payloads: Vec<_> = all.iter().filter_map(|m| m.payload.as_deref()).collect();
    assert_eq!(payloads, [b"one", b"two"]);
    assert_eq!(all[0].key.as_deref(), Some(&b"k"[..]));
    assert!(topics.read_all("changes", 0).await?.is_empty());

    topics.rewrite("changes", 2, &[], |m| m.offset != 0).await?;
    assert_eq!(topics.read_all("changes", 1).await?[0].payload.as_deref(), Some(&b"two"[..]));
    topics.delete("changes").await?;
    broker.stop().await
}

#[tokio::test]
async fn a_proxy_cuts_refuses_and_delays() -> Result<()> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    let proxy = Proxy::start(server.host(), server.port()).await?;
    let address = server.address().through(proxy.port());
    let mut conn = address.connect().await?;
    proxy.cut();
    assert!(conn.ping().await.is_err());
    address.run("SELECT 1").await?;

    proxy.refuse();
    wait_until("a refusal", SOON, || async { Ok(address.connect().await.is_err().then_some(())) })
        .await?;
    proxy.reopen();
    wait_until("an open proxy", SOON, || async { Ok(address.connect().await.ok()) }).await?;

    let mut conn = address.connect().await?;
    proxy.delay(Delay::Fixed(Duration::from_millis(150)));
    let started = std::time::Instant::now();
    conn.ping().await?;
    assert!(started.elapsed() >= Duration::from_millis(150));
    proxy.delay(Delay::None);
    proxy.stall();
    assert!(tokio::time::timeout(Duration::from_millis(200), conn.ping()).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_rows_are_seeded_in_seconds_and_lie_where_they_should() -> Result<()> {
    let options = EstateOptions { size: Size::rows(200_000), ..EstateOptions::default() };
    let started = std::time::Instant::now();
    let estate = Estate::start(3, 0, options).await?;
    println!("started and seeded in {:?}", started.elapsed());
    let mut total = 0;
    for (index, shard) in estate.old.iter().enumerate() {
        for rule in case::rules() {
            let (table, place) = (&rule.table, rule.rule.sql(3));
            let rows: u64 = shard.value(&format!("SELECT COUNT(*) FROM {table}")).await?;
            let strays = format!("SELECT COUNT(*) FROM {table} WHERE {place} <> {index}");
            assert_eq!(shard.value::<u64>(&strays).await?, 0, "strays in {table}");
            assert!(rows > 0, "{table} is empty");
            total += rows;
        }
    }
    assert!(total >= 190_000, "{total} rows");
    let negative = "SELECT COUNT(*) FROM t_account_entry WHERE accountNo < 0";
    assert!(estate.old[1].value::<u64>(negative).await? > 100);

    let started = std::time::Instant::now();
    let report = Oracle::new(estate.old_addresses(), estate.old_addresses(), case::rules());
    let report = report.compare().await?;
    println!("{total} rows compared in {:?}", started.elapsed());
    report.ensure_clean()?;
    assert_eq!(report.rows_old.iter().sum::<u64>(), total);
    assert_eq!(report.rows_moved, 0);
    Ok(())
}

/// Two schemas of one server with the same rows: what one oracle run needs, in a second.
async fn equal_pair(old: usize) -> Result<(Arc<MariaDbServer>, Vec<Address>, Vec<Address>)> {
    let server = Arc::new(MariaDbServer::start(MariaDbOptions::default()).await?);
    let places = |kind: &str| -> Vec<Address> {
        (0..old).map(|i| server.address().with_schema(&format!("{kind}_{i}"))).collect()
    };
    let (old, new) = (places("old"), places("new"));
    for (index, (old_place, new_place)) in old.iter().zip(&new).enumerate() {
        for place in [old_place, new_place] {
            case::create_schema(place, &place.schema).await?;
            case::seed_rows(place, index, old.len(), Size::rows(2000), 3).await?;
        }
    }
    Ok((server, old, new))
}

fn oracle(old: &[Address], new: &[Address]) -> Oracle {
    Oracle::new(old.to_vec(), new.to_vec(), case::rules())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_passes_equal_rows_and_sees_each_planted_fault() -> Result<()> {
    let (_server, old, new) = equal_pair(2).await?;
    oracle(&old, &new).compare().await?.ensure_clean()?;

    // Where, what is planted, and what takes it away again.
    let plants = [
        (0, "UPDATE t_trade_order SET note=CONCAT(note,' ') WHERE note IS NOT NULL LIMIT 1"),
        (1, "UPDATE t_trade_order SET note='' WHERE note IS NULL LIMIT 1"),
        (0, "UPDATE t_trade_order SET filled=filled*(1+2.3e-16) WHERE filled > 1 LIMIT 1"),
        (1, "UPDATE t_trade_order SET updated=updated+INTERVAL 1 MICROSECOND LIMIT 1"),
        (
            0,
            "UPDATE t_account_entry SET at_time=at_time+INTERVAL 1 MICROSECOND WHERE at_time IS NOT NULL LIMIT 1",
        ),
        (1, "UPDATE t_user SET login=UPPER(login) WHERE login LIKE 'anna%' LIMIT 1"),
        (0, "UPDATE t_device SET device=x'0000000000000001' LIMIT 1"),
        (
            1,
            "UPDATE t_all_types SET f32=f32*1.0000002 WHERE ABS(f32) > 1 AND ABS(f32) < 1e30 LIMIT 1",
        ),
        (
            0,
            "UPDATE t_all_types SET f64=f64*(1+2.3e-16) WHERE ABS(f64) > 1 AND ABS(f64) < 1e300 LIMIT 1",
        ),
        (1, "UPDATE t_all_types SET dec_large=dec_large+1e-30 WHERE ABS(dec_large) < 1e34 LIMIT 1"),
        (0, "UPDATE t_all_types SET enum_=5-enum_ WHERE enum_ IS NOT NULL LIMIT 1"),
        (1, "UPDATE t_all_types SET set_=set_^512 WHERE set_ IS NOT NULL LIMIT 1"),
        (0, "UPDATE t_all_types SET bit64=bit64^1 WHERE bit64 IS NOT NULL LIMIT 1"),
        (
            1,
            "UPDATE t_all_types SET longblob_=CONCAT(longblob_,x'00') WHERE longblob_ IS NOT NULL LIMIT 1",
        ),
        (
            0,
            "UPDATE t_all_types SET vc_utf16=CONCAT('x',LEFT(vc_utf16,5)) WHERE vc_utf16 IS NOT NULL LIMIT 1",
        ),
        (1, "UPDATE t_all_types SET inet6_='::2' WHERE inet6_ IS NOT NULL LIMIT 1"),
        (0, "UPDATE t_all_types SET inet4_='9.9.9.9' WHERE inet4_ IS NOT NULL LIMIT 1"),
        (
            1,
            "UPDATE t_all_types SET uuid_='00000000-0000-4000-8000-000000000001' WHERE uuid_ IS NOT NULL LIMIT 1",
        ),
        (0, "UPDATE t_all_types SET datetime0='2020-02-30 00:00:00' LIMIT 1"),
        (1, "UPDATE t_all_types SET year_=1999 WHERE year_ IS NOT NULL LIMIT 1"),
        (0, "UPDATE t_currency SET sign=CONCAT(sign,x'00') WHERE code='EUR'"),
        (1, "DELETE FROM t_wallet LIMIT 1"),
        (0, "DELETE FROM t_currency WHERE code='XXX'"),
        (1, "INSERT INTO t_currency VALUES ('NEW','new',1,NULL,1)"),
        (0, "INSERT INTO t_device VALUES ('nobody',x'0102030405060708',NULL,NULL,NULL,NULL,1)"),
        (1, "ALTER TABLE t_wallet MODIFY phone VARCHAR(25)"),
        (0, "CREATE TABLE left_over (id INT PRIMARY KEY)"),
    ];
    for (shard, plant) in plants {
        let place = &new[shard];
        let mut conn = place.connect().await?;
        conn.query_drop("SET sql_mode='ALLOW_INVALID_DATES'").await?;
        conn.query_drop(plant).await?;
        assert!(
            plant.starts_with("ALTER") || plant.starts_with("CREATE") || conn.affected_rows() == 1,
            "{plant}"
        );
        let report = oracle(&old, &new).compare().await?;
        // A changed key is a missing row and an extra one.
        assert!((1..=2).contains(&report.difference_count), "{plant}: {report}");
        if let Fault::Differs { columns, .. } = &report.differences[0].fault {
            let named = |c: &str| plant.contains(&format!("{c}="));
            assert!(columns.iter().any(|c| named(&c.column)), "{plant}: {report}");
        }
        restore(&old[shard], place).await?;
    }
    oracle(&old, &new).compare().await?.ensure_clean()
}

/// Makes the new schema equal to the old one again.
async fn restore(old: &Address, new: &Address) -> Result<()> {
    new.run(format!("DROP DATABASE `{}`", new.schema)).await.ok();
    case::create_schema(new, &new.schema).await?;
    let index = if old.schema.ends_with('0') { 0 } else { 1 };
    case::seed_rows(new, index, 2, Size::rows(2000), 3).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_sees_a_row_on_the_wrong_shard_and_a_row_with_two_owners() -> Result<()> {
    let (_server, old, new) = equal_pair(2).await?;
    let (a, b) = (&new[0].schema, &new[1].schema);
    let id: u64 = new[0].value("SELECT MIN(id) FROM t_wallet").await?;
    new[0]
        .run(format!("INSERT INTO {b}.t_wallet SELECT * FROM {a}.t_wallet WHERE id={id}"))
        .await?;
    let report = oracle(&old, &new).compare().await?;
    assert_eq!(report.difference_count, 1, "{report}");
    assert_eq!(report.differences[0].fault, Fault::WrongShard { expected: 0, found: 1 });

    new[0].run(format!("DELETE FROM t_wallet WHERE id={id}")).await?;
    let report = oracle(&old, &new).compare().await?;
    assert_eq!(report.difference_count, 2, "{report}");
    new[1].run(format!("DELETE FROM t_wallet WHERE id={id}")).await?;
    let report = oracle(&old, &new).compare().await?;
    assert_eq!(report.differences[0].fault, Fault::Missing { old: 0, expected: 0 });

    let (a, b) = (&old[0].schema, &old[1].schema);
    let sql = format!(
        "INSERT INTO {b}.t_wallet SELECT * FROM {a}.t_wallet WHERE id<>{id} ORDER BY id LIMIT 1"
    );
    old[0].run(sql).await?;
    let report = oracle(&old, &new).compare().await?;
    let has = |wanted: &Fault| report.differences.iter().any(|d| d.fault == *wanted);
    assert!(has(&Fault::TwoOwners { old: [0, 1] }), "{report}");
    assert!(has(&Fault::Stray { old: 1, belongs: 0 }), "{report}");
    Ok(())
}

fn fast_writer(seed: u64) -> WriterOptions {
    WriterOptions {
        seed,
        rate: None,
        giants: Some(Giants { rows: 2000, interval: Duration::from_millis(300) }),
        broadcast_interval: Some(Duration::from_millis(200)),
        ..WriterOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_counts_what_it_commits_and_leaves_no_stray() -> Result<()> {
    // Every event group that is counted is the writer's.
    let options = EstateOptions { neighbours: false, ..EstateOptions::default() };
    let estate = Estate::start(3, 0, options).await?;
    let before: Vec<u64> = gtid_sequences(&estate).await?;
    let writer = Writer::start(fast_writer(5), estate.old_routes()).await?;
    writer.commits(2000, SOON).await?;
    let all_kinds = || async { Ok((writer.giants() >= 4).then_some(())) };
    wait_until("an insert, an update, a move and a delete of many rows", SOON, all_kinds).await?;
    let ledger = writer.stop().await?;
    println!("{:.0} transactions/s, {:?}", ledger.rate(), ledger.changes);

    let groups: u64 = gtid_sequences(&estate).await?.iter().zip(before).map(|(a, b)| a - b).sum();
    let broadcasts = ledger.changes["broadcast"] * 3;
    assert_eq!(groups, ledger.transactions + broadcasts, "one event group per commit");
    assert_eq!(ledger.transactions, ledger.acknowledged.len() as u64);
    for kind in [
        "insert",
        "reinsert",
        "update",
        "delete",
        "move",
        "rekey",
        "swap",
        "giant insert",
        "giant delete",
    ] {
        assert!(ledger.changes.get(kind).is_some_and(|&rows| rows > 0), "no {kind}");
    }
    assert!(ledger.longest_gap().is_some_and(|(_, gap)| gap > Duration::ZERO));
    // Against themselves the old shards show strays and rows with two owners, if there are any.
    let old = estate.old_addresses();
    oracle(&old, &old).compare().await?.ensure_clean()
}

async fn gtid_sequences(estate: &Estate) -> Result<Vec<u64>> {
    let mut sequences = Vec::new();
    for shard in &estate.old {
        let position: String = shard.value("SELECT @@gtid_binlog_pos").await?;
        sequences.push(position.rsplit('-').next().unwrap_or_default().parse()?);
    }
    Ok(sequences)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_outlives_killed_servers_and_follows_a_switch() -> Result<()> {
    let estate = Estate::start(2, 0, EstateOptions::default()).await?;
    let writer = Writer::start(fast_writer(6), estate.old_routes()).await?;
    writer.commits(300, SOON).await?;
    for shard in &estate.old {
        shard.server.kill()?;
        shard.server.restart().await?;
        writer.commits(100, SOON).await?;
    }
    shard_read_only(&estate, true).await?;
    shard_read_only(&estate, false).await?;
    writer.commits(100, SOON).await?;

    // A cutover by hand: the writer pauses, the rows are carried over, the writer goes on there.
    writer.pause().await?;
    let old = estate.old_addresses();
    let new: Vec<Address> = old.iter().map(|place| place.with_schema("there")).collect();
    for place in &old {
        carry_over(place, "there").await?;
    }
    oracle(&old, &new).compare().await?.ensure_clean()?;
    writer.switch(Routes::new(new.clone()));
    writer.resume();
    writer.commits(300, SOON).await?;
    let ledger = writer.stop().await?;
    assert!(ledger.refused > 0, "nothing was refused");
    println!("refused {}, unanswered {}", ledger.refused, ledger.unanswered);
    let report = oracle(&old, &new).compare().await?;
    assert!(report.difference_count > 0, "the writer went on writing to the old shards");
    oracle(&new, &new).compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_finds_out_what_became_of_a_commit_without_an_answer() -> Result<()> {
    let estate = Estate::start(2, 0, EstateOptions { proxies: true, ..Default::default() }).await?;
    let routes = Routes::new(estate.old.iter().map(|shard| shard.planned()).collect());
    let writer = Writer::start(fast_writer(7), routes).await?;
    for shard in &estate.old {
        shard.proxy.iter().for_each(|p| p.delay(Delay::UpTo(Duration::from_millis(4))));
    }
    for _ in 0..60 {
        writer.commits(10, SOON).await?;
        estate.old.iter().filter_map(|shard| shard.proxy.as_ref()).for_each(|p| p.cut());
    }
    let ledger = writer.stop().await?;
    println!("refused {}, unanswered {}", ledger.refused, ledger.unanswered);
    assert!(ledger.unanswered > 0, "no COMMIT lost its answer: this run proved nothing");
    assert_eq!(ledger.transactions, ledger.acknowledged.len() as u64 + ledger.unanswered);
    let old = estate.old_addresses();
    oracle(&old, &old).compare().await?.ensure_clean()
}

async fn shard_read_only(estate: &Estate, on: bool) -> Result<()> {
    // The harness's account may write in spite of it: this only shows that nothing breaks.
    for shard in &estate.old {
        shard.run(&format!("SET GLOBAL read_only={}", u8::from(on))).await?;
    }
    Ok(())
}

/// Every table within one server: the one copy that is exact without any product.
async fn carry_over(from: &Address, to: &str) -> Result<()> {
    case::create_schema(from, to).await?;
    let mut conn = from.connect().await?;
    // Not strict: generated columns in the list are passed over, and every date is taken.
    conn.query_drop("SET sql_mode='ALLOW_INVALID_DATES'").await?;
    for rule in case::rules() {
        let table = rule.table;
        conn.query_drop(format!("INSERT INTO {to}.{table} SELECT * FROM {table}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_move_between_shards_and_end_on_exactly_one() -> Result<()> {
    let estate = Estate::start(3, 0, EstateOptions::default()).await?;
    let options = MoveOptions { rate: None, ..MoveOptions::default() };
    let moves = UserMoves::start(options, estate.old_routes()).await?;
    let calm = WriterOptions { mix: Mix::without_moves(), giants: None, ..fast_writer(8) };
    let writer = Writer::start(calm, estate.old_routes()).await?;
    writer.commits(1500, SOON).await?;
    let ledger = writer.stop().await?;
    assert!(!ledger.changes.contains_key("move"));
    let moved = moves.stop().await?;
    println!("{moved:?}");
    assert!(moved.delete_first > 0 && moved.insert_first > 0 && moved.handed_over > 0);
    let old = estate.old_addresses();
    oracle(&old, &old).compare().await?.ensure_clean()?;
    let routes = Routes::new(old);
    assert_eq!(routes.modulus, 3);
    Ok(())
}

/// Stands in for the product: it keeps the stage protocol.
fn stand_in(script: &str) -> Result<Modshift> {
    Modshift::launch(["-c", script]).binary("/bin/sh").hold("sent", 2).start()
}

#[tokio::test]
async fn a_process_is_watched_and_stopped_where_the_test_wants_it() -> Result<()> {
    let process = stand_in(
        "echo ready; echo stage sent rows=0 >&2; echo stage sent rows=3 >&2;
         echo stage sent rows=4 hold >&2; exec sleep 1000",
    )?;
    assert_eq!(process.wait_line("ead", SOON).await?, "ready");
    assert_eq!(process.wait_stage("sent", SOON).await?.rows, 3);
    let held = process.wait_hold("sent", SOON).await?;
    assert_eq!((held.rows, held.held), (4, true));
    assert_eq!(process.stages().len(), 3);
    assert!(process.running()? && process.peak_rss_bytes()? > 0);
    process.sigstop()?;
    process.sigcont()?;
    process.kill_9()?;
    assert!(!process.running()?);
    let error = process.wait_line("never", SOON).await.expect_err("it has ended");
    assert!(format!("{error:#}").contains("it ended"), "{error:#}");

    let polite = stand_in("trap 'echo bye; exit 3' TERM; echo on; while :; do sleep 0.01; done")?;
    polite.wait_line("on", SOON).await?;
    assert_eq!(polite.stop(SOON).await?, 3);
    assert!(polite.output().ends_with("bye"));
    let launch = Modshift::launch(["-c", "echo $MODSHIFT_STAGE_HOLD; exit 4"]).binary("/bin/sh");
    assert_eq!(launch.hold("a", 7).finish(SOON).await?, (4, "a:7".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_too_long_to_be_compared_is_an_error() -> Result<()> {
    let (server, old, new) = equal_pair(1).await?;
    for place in old.iter().chain(&new) {
        place.run("UPDATE t_all_types SET longblob_=REPEAT('x', 900000) WHERE id=1").await?;
    }
    server.run("SET GLOBAL max_allowed_packet=1048576").await?;
    let error = oracle(&old, &new).compare().await.expect_err("HEX() gave NULL");
    assert!(format!("{error:#}").contains("hex()"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn an_estate_writes_a_plan_of_the_agreed_shape() -> Result<()> {
    let options =
        EstateOptions { proxies: true, size: Size::rows(600), ..EstateOptions::default() };
    let estate = Estate::start(1, 2, options).await?;
    let plan = std::fs::read_to_string(estate.plan_path())?;
    assert!(plan.contains("modulus = { old = 1, new = 2 }"), "{plan}");
    assert!(plan.contains(&format!("port = {}", estate.old[0].planned().port)), "{plan}");
    assert!(!plan.contains(&format!("port = {}\n", estate.old[0].server.port())), "{plan}");
    assert!(plan.contains("name = \"t_user\"\nkey = \"login\"\nrule = \"crc32\""), "{plan}");
    assert!(plan.contains("name = \"t_currency\"\nbroadcast = 0"), "{plan}");
    Ok(())
}
