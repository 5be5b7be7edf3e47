//! Old shards that merge: users move between them while one stream or another is late, so that the
//! two halves of a move reach a new shard in either order.

#![allow(clippy::print_stdout, reason = "a test says what it has seen")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Daemons, Estate, EstateOptions, Log, Writer, WriterOptions,
    case::Size,
    copied, drained,
    random::Random,
    server::Delay,
    wait_until,
    writer::{MoveOptions, UserMoves},
};
use mysql_async::{Conn, prelude::Queryable};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(120);

async fn start(old: usize, new: usize, options: EstateOptions) -> Result<(Estate, Daemons)> {
    let estate = Estate::start(old, new, EstateOptions { proxies: true, ..options }).await?;
    let daemons = Daemons::start(&estate)?;
    Ok((estate, daemons))
}

/// Rows that were seen parked: by old shard, and by the key that was taken.
#[derive(Debug, Default)]
struct Seen {
    rows: BTreeSet<(usize, u64)>,
    by_source: BTreeMap<u16, u64>,
    by_key: BTreeMap<String, u64>,
}

/// Looks at one new shard's parked rows again and again.
async fn watch(mut conn: Conn, new: usize, cancel: CancellationToken) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while cancel.run_until_cancelled(looks.tick()).await.is_some() {
        let parked: Vec<(u64, u16, String, String)> = conn
            .query("SELECT id, source, table_name, blocked_by FROM modshift_parked")
            .await
            .context("looking at the parked rows")?;
        for (id, source, table, blocked_by) in parked {
            if seen.rows.insert((new, id)) {
                let key = blocked_by.split(" of ").next().unwrap_or_default();
                *seen.by_source.entry(source).or_default() += 1;
                *seen.by_key.entry(format!("{table} {key}")).or_default() += 1;
            }
        }
    }
    Ok(seen)
}

struct Watch {
    cancel: CancellationToken,
    tasks: JoinSet<Result<Seen>>,
}

impl Watch {
    async fn start(estate: &Estate) -> Result<Self> {
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (new, shard) in estate.new.iter().enumerate() {
            tasks.spawn(watch(shard.address().connect().await?, new, cancel.clone()));
        }
        Ok(Self { cancel, tasks })
    }

    async fn stop(mut self) -> Result<Seen> {
        self.cancel.cancel();
        let mut all = Seen::default();
        while let Some(done) = self.tasks.join_next().await {
            let Seen { rows, by_source, by_key } = done.context("a watch panicked")??;
            all.rows.extend(rows);
            for (source, count) in by_source {
                *all.by_source.entry(source).or_default() += count;
            }
            for (key, count) in by_key {
                *all.by_key.entry(key).or_default() += count;
            }
        }
        Ok(all)
    }
}

async fn parked(estate: &Estate) -> Result<u64> {
    let mut rows = 0;
    for shard in &estate.new {
        rows += shard.value::<u64>("SELECT COUNT(*) FROM modshift_parked").await?;
    }
    Ok(rows)
}

/// Users move under load; the network of one old shard after another is slow, or stalls.
async fn users_move(old: usize, new: usize, log: Log, seed: u64) -> Result<()> {
    let size = Size::rows(2_000);
    let options = EstateOptions { log, size, seed, ..EstateOptions::default() };
    let (estate, daemons) = start(old, new, options).await?;
    // Their moves begin while the tables are being copied.
    let options =
        MoveOptions { seed, connections: 4, users_each: 8, orders_each: 2, rate: Some(160.0) };
    let users = UserMoves::start(options, estate.old_routes()).await?;
    let options = WriterOptions { seed, rate: Some(80.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    copied(&estate, LIMIT).await?;

    let watch = Watch::start(&estate).await?;
    let mut random = Random::new(seed);
    const WEATHERS: usize = 14;
    for turn in 0..WEATHERS {
        let proxy = estate.old[(turn + random.index(2)) % old].proxy.as_ref().context("a proxy")?;
        let ms = Duration::from_millis;
        match random.below(3) {
            0 => proxy.delay(Delay::Fixed(ms(20 + random.below(300)))),
            1 => proxy.delay(Delay::UpTo(ms(20 + random.below(500)))),
            _ => proxy.stall(),
        }
        writer.commits(10 + random.below(50), LIMIT).await?;
        proxy.delay(Delay::None);
        proxy.reopen();
        writer.commits(random.below(15), LIMIT).await?;
    }
    let moves = users.stop().await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await.with_context(|| daemons.output())?;
    let seen = watch.stop().await?;
    println!(
        "{old} -> {new}, seed {seed}: {moves:?}\nparked on the way: {seen:?}",
        seen = (seen.rows.len(), &seen.by_source, &seen.by_key)
    );
    let left = parked(&estate).await?;
    ensure!(left == 0, "{left} rows are still parked after every stream has been applied");
    daemons.stop(LIMIT).await?;
    estate.oracle().compare().await?.ensure_clean()?;

    ensure!(moves.delete_first > 0 && moves.insert_first > 0, "moves in one order only");
    ensure!(moves.straight_back > 0 && moves.handed_over > 0, "no way back, or no hand-over");
    ensure!(seen.by_source.len() == old, "rows of some old shards were never parked: {seen:?}");
    for key in ["t_wallet PRIMARY", "t_trade_order PRIMARY", "t_wallet by_phone"] {
        ensure!(seen.by_key.contains_key(key), "nothing was parked for {key}: {seen:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_move_between_three_shards_that_become_two() -> Result<()> {
    users_move(3, 2, Log::Direct, 41).await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_move_between_two_shards_that_become_one_over_kafka() -> Result<()> {
    users_move(2, 1, Log::kafka(), 42).await
}

/// Everything that old shard `source` has committed so far is on new shard 0.
async fn applied(estate: &Estate, source: usize) -> Result<()> {
    let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)";
    let clock: i64 = estate.old[source].value(sql).await?;
    let sql =
        format!("SELECT token_clock_us > {clock} FROM modshift_watermark WHERE source={source}");
    wait_until(&format!("old shard {source} to be applied"), LIMIT, || async {
        Ok(estate.new[0].value::<bool>(&sql).await?.then_some(()))
    })
    .await
}

/// A wallet of a user who lives on old shard 0 (even account) or 1 (odd account).
fn insert(id: u64, account: u64, phone: Option<&str>) -> String {
    let phone = phone.map_or("NULL".to_owned(), |phone| format!("'{phone}'"));
    format!("INSERT INTO t_wallet VALUES ({id},{account},{phone},NULL,NULL,{account},1)")
}

fn delete(id: u64) -> String {
    format!("DELETE FROM t_wallet WHERE id={id}")
}

/// Statements in the order in which the application commits them, each with its shard: 0 is where
/// the user lives at first. `id` and `id + 1` are wallets of users there.
struct Script {
    name: &'static str,
    steps: Vec<(usize, String)>,
    /// Rows that park if the other shard's stream comes first.
    parked: u64,
}

fn scripts(first: u64) -> Vec<Script> {
    let script =
        |name, parked, steps: &[(usize, String)]| Script { name, parked, steps: steps.to_vec() };
    let mut scripts = Vec::new();
    let mut id = first;
    let mut next = || {
        id += 10;
        // Account of the old home, account of the new one, phone number.
        (id, id, id + 1, format!("+{id}"))
    };
    let (id, _, away, phone) = next();
    scripts.push(script(
        "delete, insert",
        1,
        &[(0, delete(id)), (1, insert(id, away, Some(&phone)))],
    ));
    let (id, _, away, phone) = next();
    scripts.push(script(
        "insert, delete",
        1,
        &[(1, insert(id, away, Some(&phone))), (0, delete(id))],
    ));
    let (id, home, away, phone) = next();
    scripts.push(script(
        "there and back, deletes first",
        0,
        &[
            (0, delete(id)),
            (1, insert(id, away, Some(&phone))),
            (1, delete(id)),
            (0, insert(id, home, Some(&phone))),
        ],
    ));
    let (id, home, away, phone) = next();
    scripts.push(script(
        "there and back, inserts first",
        0,
        &[
            (1, insert(id, away, Some(&phone))),
            (0, delete(id)),
            (0, insert(id, home, Some(&phone))),
            (1, delete(id)),
        ],
    ));
    let (id, _, away, phone) = next();
    scripts.push(script(
        "changed on arrival",
        1,
        &[
            (1, insert(id, away, Some(&phone))),
            (1, format!("UPDATE t_wallet SET balance=balance+1, ver=2 WHERE id={id}")),
            (0, delete(id)),
        ],
    ));
    let (id, home, away, phone) = next();
    scripts.push(script(
        "changed before the departure",
        1,
        &[
            (0, format!("UPDATE t_wallet SET accountNo={}, ver=2 WHERE id={id}", home + 2)),
            (0, delete(id)),
            (1, insert(id, away, Some(&phone))),
        ],
    ));
    let (id, _, away, phone) = next();
    scripts.push(script(
        "a phone number changes hands",
        1,
        &[
            (0, format!("UPDATE t_wallet SET phone=NULL, ver=2 WHERE id={id}")),
            (1, insert(id + 1, away, Some(&phone))),
        ],
    ));
    let (id, _, away, phone) = next();
    scripts.push(script(
        "a phone number on a chain",
        2,
        &[
            // Its new owner had it parked for the phone, and moves on to another primary key.
            (0, format!("UPDATE t_wallet SET phone=NULL, ver=2 WHERE id={id}")),
            (1, insert(id + 1, away, Some(&phone))),
            (1, format!("UPDATE t_wallet SET id={}, ver=2 WHERE id={}", id + 2, id + 1)),
            (0, delete(id)),
            (1, insert(id, away, Some(&format!("{phone}0")))),
        ],
    ));
    scripts
}

/// Both streams' parts of each script, one of them wholly before the other.
#[tokio::test(flavor = "multi_thread")]
async fn each_half_of_a_move_may_come_first() -> Result<()> {
    let options = EstateOptions { size: Size::rows(300), ..EstateOptions::default() };
    let (estate, daemons) = start(2, 1, options).await?;
    copied(&estate, LIMIT).await?;
    for (round, (home, late)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
        // Even accounts live on old shard 0: the numbers of a round begin with its first home.
        let scripts = scripts(1_000_000 + 1_000 * round as u64 + home as u64);
        let first = 1_000_000 + 1_000 * round as u64 + home as u64;
        for number in 1..=scripts.len() as u64 {
            let id = first + 10 * number;
            estate.old[home].run(&insert(id, id, Some(&format!("+{id}")))).await?;
        }
        applied(&estate, home).await?;
        let proxy = estate.old[late].proxy.as_ref().context("a proxy")?;
        proxy.stall();
        for (at, sql) in scripts.iter().flat_map(|script| &script.steps) {
            // 0 is the home, 1 the other shard.
            estate.old[(home + at) % 2].run(sql).await?;
        }
        applied(&estate, 1 - late).await?;
        let expected = if late == home { scripts.iter().map(|s| s.parked).sum() } else { 0 };
        let waiting = parked(&estate).await?;
        println!("home {home}, late {late}: {} scripts, {waiting} rows parked", scripts.len());
        ensure!(waiting == expected, "{waiting} rows are parked, expected {expected}");
        proxy.reopen();
        drained(&estate, LIMIT).await?;
        let left = parked(&estate).await?;
        ensure!(left == 0, "{left} rows are still parked, home {home}, late {late}");
        let names: Vec<&str> = scripts.iter().map(|script| script.name).collect();
        let report = estate.oracle().compare().await?;
        report.ensure_clean().with_context(|| format!("ten numbers each to {names:?}"))?;
    }
    daemons.stop(LIMIT).await
}

/// `sql` makes old shard 1 hold what old shard 0 already holds.
async fn a_duplicate_halts(key: &str, sql: &str) -> Result<()> {
    let options = EstateOptions {
        size: Size::rows(300),
        plan_tail: "[apply]\nparked_age_max = \"1s\"\n".to_owned(),
        ..EstateOptions::default()
    };
    let (estate, daemons) = start(2, 1, options).await?;
    estate.old[0].run(&insert(5_000_000, 5_000_000, Some("+49-5"))).await?;
    copied(&estate, LIMIT).await?;
    drained(&estate, LIMIT).await?;
    estate.old[1].run(sql).await?;
    let line = daemons.applier()?.wait_line("applier halted", LIMIT).await?;
    println!("{line}");
    for part in ["new shard 0", "t_wallet", key, "old shard 0", "old shard 1"] {
        ensure!(line.contains(part), "{part} is not named: {line}");
    }
    ensure!(parked(&estate).await? == 1, "the row that waits is kept");
    let there: u64 = estate.new[0].value("SELECT ver FROM t_wallet WHERE phone='+49-5'").await?;
    ensure!(there == 1, "the row that was there has gone");
    let (code, output) = estate.modshift(["gate"]).finish(LIMIT).await?;
    ensure!(
        code == 1 && output.contains("1 rows wait for their place on new shard 0: t_wallet for "),
        "the gate ended with {code}:\n{output}"
    );

    // The way out: the operator removes one of the two, and starts again.
    let halted = daemons.applier()?;
    halted.sigterm()?;
    halted.wait_exit(LIMIT).await?;
    estate.old[1].run("DELETE FROM t_wallet WHERE ver=7").await?;
    let again = Daemons::start(&estate)?;
    drained(&estate, LIMIT).await?;
    ensure!(parked(&estate).await? == 0, "the duplicate is gone, and its row still parked");
    again.stop(LIMIT).await?;
    estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_key_on_two_old_shards_halts_with_both_named() -> Result<()> {
    let sql = "INSERT INTO t_wallet VALUES (5000000,5000001,NULL,NULL,NULL,1,7)";
    a_duplicate_halts("PRIMARY", sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_value_on_two_old_shards_halts_with_both_named() -> Result<()> {
    let sql = "INSERT INTO t_wallet VALUES (5000002,5000001,'+49-5',NULL,NULL,1,7)";
    a_duplicate_halts("by_phone", sql).await
}
