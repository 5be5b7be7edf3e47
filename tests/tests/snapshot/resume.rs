//! A copy that is interrupted goes on where it was.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use modshift_proto::message::{Body, decode};
use modshift_tests::{
    Estate, EstateOptions, Log, Modshift, case::Size, copied, drained, server::PASSWORD, wait_until,
};

use crate::{
    LIMIT, create_new_tables,
    hot::{HOT, add_hot_tables},
    load::Load,
};

/// Rows by old shard and table.
type Counts = BTreeMap<(u16, String), u64>;

/// What the old shards say of their copy.
#[derive(Default)]
struct Recorded {
    /// Of the last reader, by old shard.
    epochs: Vec<u64>,
    /// The group of the token up to which everything is durable, by old shard. `None`: not even
    /// the first.
    resume: Vec<Option<String>>,
    rows: Counts,
}

async fn recorded(estate: &Estate) -> Result<Recorded> {
    let mut recorded = Recorded::default();
    for (source, shard) in estate.old.iter().enumerate() {
        let (epoch, digest) = (
            "SELECT epoch FROM modshift_token",
            "SELECT digest FROM modshift_progress WHERE name='@resume'",
        );
        recorded.epochs.push(shard.value(epoch).await?);
        recorded.resume.push(shard.value(digest).await?);
        let sql = "SELECT name, rows_copied FROM modshift_progress WHERE name<>'@resume'";
        for row in shard.address().query(sql).await? {
            let (table, rows) = mysql_async::from_row(row);
            recorded.rows.insert((source as u16, table), rows);
        }
    }
    Ok(recorded)
}

/// Rows of the copy that the log holds of one reader.
#[derive(Default)]
struct Sent {
    all: Counts,
    /// Those before the token of the resume point.
    durable: Counts,
}

/// The rows that each of these readers, known by its epoch, has sent.
async fn sent(estate: &Estate, starts: &[Recorded]) -> Result<BTreeMap<u64, Sent>> {
    let topics = estate.broker.as_ref().context("a broker")?.topics()?;
    let resume: BTreeMap<u64, &str> = starts
        .iter()
        .flat_map(|s| s.epochs.iter().copied().zip(&s.resume))
        .filter_map(|(epoch, resume)| Some((epoch, resume.as_deref()?)))
        .collect();
    let mut sent: BTreeMap<u64, Sent> = BTreeMap::new();
    for partition in 0..estate.new.len() {
        let mut counts: BTreeMap<u64, Counts> = BTreeMap::new();
        for message in topics.read_all("modshift.orders.changes", partition as i32).await? {
            let payload = message.payload.context("a message without a payload")?;
            let (envelope, body) = decode(&payload)?;
            let (epoch, source) = (envelope.epoch, envelope.source.0);
            let so_far = counts.entry(epoch).or_default();
            match body {
                Body::Change(change) if change.position.is_none() => {
                    let table = estate.rules[change.table as usize].table.clone();
                    *so_far.entry((source, table)).or_default() += 1;
                }
                Body::Token(token) if resume.get(&epoch) == Some(&&*token.digest.to_string()) => {
                    add(&mut sent.entry(epoch).or_default().durable, so_far);
                }
                _ => {}
            }
        }
        for (epoch, counts) in counts {
            add(&mut sent.entry(epoch).or_default().all, &counts);
        }
    }
    Ok(sent)
}

fn add(sum: &mut Counts, counts: &Counts) {
    for (key, rows) in counts {
        *sum.entry(key.clone()).or_default() += rows;
    }
}

/// Each old shard's reader has begun: the one that is held does not wait for the others.
async fn begun(estate: &Estate, before: Option<&Recorded>) -> Result<()> {
    let tables = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                  AND TABLE_NAME = 'modshift_token'";
    wait_until("every reader to begin", LIMIT, || async {
        for (source, shard) in estate.old.iter().enumerate() {
            if shard.value::<u64>(tables).await? == 0 {
                return Ok(None);
            }
            let sql = "SELECT COALESCE(MAX(epoch), 0) FROM modshift_token";
            if shard.value::<u64>(sql).await? <= before.map_or(0, |b| b.epochs[source]) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// The server has done all that a process that is gone had asked for.
async fn forgotten(estate: &Estate, account: &str) -> Result<()> {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.processlist \
         WHERE user='{account}' AND command<>'Binlog Dump'"
    );
    wait_until("the end of a killed process's connections", LIMIT, || async {
        for shard in &estate.old {
            if shard.value::<u64>(&sql).await? > 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Rows that are recorded as copied, of some tables.
fn done(recorded: &Recorded, of: impl Fn(&str) -> bool) -> u64 {
    recorded.rows.iter().filter(|((_, table), _)| of(table)).map(|(_, rows)| rows).sum()
}

/// Killed in the middle of chunks, until two of the kills came after progress. What is read again are the chunks in flight: those sent
/// after the last token that is known to be durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_goes_on_where_it_was() -> Result<()> {
    const ROWS: u64 = 1_000;
    const ACCOUNT: &str = "copier";
    let options = EstateOptions {
        log: Log::kafka(),
        size: Size::rows(8_000),
        seed: 53,
        create_new_tables: false,
        plan_tail: "[snapshot]\nchunk_rows_max = 20\nparallel = 4\n\
                    [reader]\nprogress_interval = \"20ms\"\n"
            .to_owned(),
        ..EstateOptions::default()
    };
    let mut estate = Estate::start(2, 3, options).await?;
    add_hot_tables(&mut estate, ROWS).await?;
    create_new_tables(&estate).await?;
    // An account of its own tells the replicator's connections from all others.
    for shard in &estate.old {
        shard.run(&format!("CREATE USER {ACCOUNT}@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
        shard.run(&format!("GRANT ALL ON *.* TO {ACCOUNT}@'%'")).await?;
    }
    let plan = estate.dir().join("replicator.toml");
    let old = format!("[[old]]\nuser = \"{ACCOUNT}\"");
    std::fs::write(&plan, estate.plan().replace("[[old]]", &old))?;
    let replicator = || {
        Modshift::launch(["replicator", "--listen", "127.0.0.1:0", "--plan"])
            .arg(plan.display().to_string())
            .env("MODSHIFT_PASSWORD", PASSWORD)
    };
    // One table is hammered; the rows of the others can be counted.
    let quiet = |table: &str| table != HOT[0].0 && table != "t_currency";
    let load = Load::start(&estate, ROWS, &[0], 2, 53);
    let mut rows = Counts::new();
    for (source, shard) in estate.old.iter().enumerate() {
        for rule in estate.rules.iter().filter(|rule| quiet(&rule.table)) {
            let count = shard.value(&format!("SELECT COUNT(*) FROM {}", rule.table)).await?;
            rows.insert((source as u16, rule.table.clone()), count);
        }
    }

    let consumer = estate.modshift(["consumer", "--listen", "127.0.0.1:0"]).start()?;
    let mut starts: Vec<Recorded> = Vec::new();
    let (mut useful, mut before) = (0, 0);
    while useful < 2 {
        ensure!(starts.len() < 10, "no kill came after progress");
        let replicator = replicator().hold("mid_chunk", 120).start()?;
        replicator.wait_hold("mid_chunk", LIMIT).await?;
        begun(&estate, starts.last()).await?;
        replicator.kill_9()?;
        forgotten(&estate, ACCOUNT).await?;
        let recorded = recorded(&estate).await?;
        let now = done(&recorded, quiet);
        useful += u32::from(now > before);
        before = now;
        starts.push(recorded);
    }
    let replicator = replicator().start()?;
    let says = || format!("{}\n{}", replicator.output(), consumer.output());
    copied(&estate, LIMIT).await.with_context(says)?;
    let (commits, _) = load.stop().await?;
    drained(&estate, LIMIT).await?;
    for daemon in [&replicator, &consumer] {
        let code = daemon.stop(LIMIT).await?;
        ensure!(code == 0, "a daemon ended with {code}:\n{}", daemon.output());
    }
    starts.push(recorded(&estate).await?);
    estate.oracle().compare().await?.ensure_clean()?;

    let (sent, none) = (sent(&estate, &starts).await?, Sent::default());
    let mut before = Counts::new();
    for (start, recorded) in starts.iter().enumerate() {
        for (source, epoch) in recorded.epochs.iter().enumerate() {
            // Killed before its start marker: nothing may be recorded of it.
            let sent = sent.get(epoch).unwrap_or(&none);
            let (mut read, mut in_vain) = (0, 0);
            for (key, &rows) in rows.iter().filter(|((from, _), _)| usize::from(*from) == source) {
                let of = |counts: &Counts| counts.get(key).copied().unwrap_or(0);
                let (before, all, durable) = (of(&before), of(&sent.all), of(&sent.durable));
                let after = of(&recorded.rows);
                // Done is what lies before the token of the resume point, in whole chunks; and
                // what was done before was not read again.
                ensure!(
                    after == before + durable && before + all <= rows,
                    "start {start}, {key:?} of {rows} rows: {before} were done before, {all} were \
                     sent, {durable} of them durable, and {after} are recorded as done"
                );
                read += all;
                in_vain += all - durable;
            }
            println!("start {start}, old shard {source}: {read} rows sent, {in_vain} in vain");
        }
        before = recorded.rows.clone();
    }
    let done: Vec<u64> = starts.iter().map(|start| done(start, quiet)).collect();
    println!("rows recorded after each start: {done:?}; {commits} transactions meanwhile");
    let all: u64 = rows.values().sum();
    ensure!(done.last() == Some(&all), "{all} rows in all");
    Ok(())
}
