//! One reader at a time over the in-process log, held against what the server says.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use modshift_changelog::{DirectLog, DirectReader, LogReader};
use modshift_mariadb::pace::Throttle;
use modshift_proto::{
    NewShard, OldShard,
    message::{self, Body, Op},
    plan::Plan,
};
use modshift_replicator::{ReadError, ReaderStatus, Together, run_reader};
use modshift_tests::{
    Estate, EstateOptions, Writer, WriterOptions, case::Size, server::PASSWORD, wait_until,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);

fn plan(estate: &Estate) -> Result<Arc<Plan>> {
    let env = |name: &str| (name == "MODSHIFT_PASSWORD").then(|| PASSWORD.to_owned());
    Ok(Arc::new(Plan::parse(&estate.plan(), &env)?))
}

/// Rows by table and primary key, as the messages of all partitions make them.
#[derive(Default)]
struct Folded {
    rows: HashMap<(u32, u16), HashMap<Vec<u8>, Vec<u8>>>,
    numbers: HashMap<(u64, u16), u64>,
    copied: Vec<bool>,
    clock_us: i64,
    /// Of new shard 0: tokens that say that not all is copied.
    while_copying: u64,
    /// The newest token's count of writes.
    writes: u64,
}

impl Folded {
    fn fold(&mut self, to: u16, bytes: &[u8], plan_keys: &[Vec<usize>]) -> Result<(u64, u64)> {
        let (envelope, body) = message::decode(bytes)?;
        let expected = self.numbers.entry((envelope.epoch, to)).or_default();
        anyhow::ensure!(envelope.number == *expected, "number {} is not next", envelope.number);
        *expected += 1;
        match body {
            Body::Change(change) => {
                let cells = change.row()?.cells().collect::<Result<Vec<_>, _>>()?;
                let rows = self.rows.entry((change.table, to)).or_default();
                let key = |indexes: &mut dyn Iterator<Item = usize>| -> Vec<u8> {
                    indexes
                        .flat_map(|index| {
                            let cell = cells[index].unwrap_or_default();
                            [&[cell.len() as u8], cell].concat()
                        })
                        .collect()
                };
                match change.op {
                    Op::Upsert => {
                        let key = key(&mut plan_keys[change.table as usize].iter().copied());
                        rows.insert(key, change.row.to_vec());
                    }
                    Op::Delete => {
                        rows.remove(&key(&mut (0..cells.len())));
                    }
                }
            }
            Body::Token(token) => {
                self.copied[usize::from(to)] = token.copied;
                self.clock_us = token.clock_us;
                self.while_copying += u64::from(to == 0 && !token.copied);
                self.writes = token.writes;
            }
            Body::Start(_) => {}
        }
        Ok((envelope.epoch, envelope.number))
    }
}

struct Run {
    log: DirectLog,
    status: ReaderStatus,
    cancel: CancellationToken,
    reader: JoinHandle<Result<(), ReadError>>,
}

fn start(plan: &Arc<Plan>, log: &DirectLog) -> Run {
    let (status, cancel) = (ReaderStatus::default(), CancellationToken::new());
    let writer = {
        let log = log.clone();
        move |epoch| std::future::ready(Ok(log.writer(OldShard(0), epoch)))
    };
    let reader = tokio::spawn(run_reader(
        Arc::clone(plan),
        OldShard(0),
        writer,
        status.clone(),
        Throttle::new(plan),
        Together::default(),
        cancel.clone(),
    ));
    Run { log: log.clone(), status, cancel, reader }
}

/// Places of the primary key columns among those sent, by table.
async fn keys(estate: &Estate, plan: &Plan) -> Result<Vec<Vec<usize>>> {
    let mut conn = estate.old[0].address().connect().await?;
    let mut keys = Vec::new();
    for table in &plan.tables {
        let schema =
            modshift_mariadb::catalog::table(&mut conn, &plan.old[0].schema, &table.name).await?;
        let sent: Vec<usize> = schema.sent_columns().collect();
        let place = |column: &usize| sent.iter().position(|sent| sent == column);
        keys.push(schema.primary_key.iter().filter_map(place).collect());
    }
    Ok(keys)
}

/// Folds all partitions until every one of them says that it is copied and `until` holds.
async fn fold(
    run: &Run,
    readers: &mut [(NewShard, DirectReader)],
    folded: &mut Folded,
    keys: &[Vec<usize>],
    mut until: impl FnMut(&Folded) -> bool,
) -> Result<()> {
    let folding = async {
        loop {
            let mut idle = true;
            for (to, reader) in readers.iter_mut() {
                while let Some(delivery) = reader.try_next()? {
                    idle = false;
                    let (epoch, number) = folded.fold(to.0, &delivery.message, keys)?;
                    reader.applied(OldShard(0), epoch, number);
                }
            }
            if until(folded) {
                return Ok(());
            }
            anyhow::ensure!(!run.reader.is_finished(), "{:?}", run.status.get().halted);
            if idle {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(LIMIT, folding)
        .await
        .with_context(|| format!("the reader does not get there: {:?}", run.status.get()))?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_copies_what_is_there_and_follows_what_changes() -> Result<()> {
    let options = EstateOptions { size: Size::rows(6_000), ..EstateOptions::default() };
    let estate = Estate::start(1, 3, options).await?;
    let plan = plan(&estate)?;
    let keys = keys(&estate, &plan).await?;
    let log = DirectLog::new(1, 3, 1 << 20);
    let writer = Writer::start(WriterOptions::default(), estate.old_routes()).await?;
    let run = start(&plan, &log);
    let mut readers = Vec::new();
    for to in plan.new_shards() {
        readers.push((to, run.log.reader(to)?));
    }

    let mut folded = Folded { copied: vec![false; 3], ..Folded::default() };
    fold(&run, &mut readers, &mut folded, &keys, |folded| {
        folded.copied.iter().all(|copied| *copied)
    })
    .await?;
    // Written every few milliseconds, and sent at the pace of heartbeats.
    let (sent, written) = (folded.while_copying, folded.writes);
    assert!(sent > 0 && sent * 3 < written, "{sent} of {written} tokens were sent");
    writer.stop().await?;
    let now: i64 =
        estate.old[0].value("SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)").await?;
    fold(&run, &mut readers, &mut folded, &keys, |folded| folded.clock_us > now).await?;

    for (index, rule) in estate.rules.iter().enumerate() {
        let table = &rule.table;
        let mut expected = BTreeMap::new();
        for to in 0..3_u16 {
            let filter = match rule.rule.sql(3).as_str() {
                "NULL" => "1".to_owned(),
                sql => format!("{sql} = {to}"),
            };
            let count: u64 = estate.old[0]
                .value(&format!("SELECT COUNT(*) FROM `{table}` WHERE {filter}"))
                .await?;
            expected.insert(to, count);
        }
        let found: BTreeMap<u16, u64> = (0..3)
            .map(|to| {
                (to, folded.rows.get(&(index as u32, to)).map_or(0, |rows| rows.len() as u64))
            })
            .collect();
        assert_eq!(found, expected, "rows of {table} by new shard");
    }
    run.cancel.cancel();
    run.reader.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reader_takes_over_and_the_first_says_so() -> Result<()> {
    let options = EstateOptions { size: Size::rows(500), ..EstateOptions::default() };
    let estate = Estate::start(1, 2, options).await?;
    let plan = plan(&estate)?;
    let first = start(&plan, &DirectLog::new(1, 2, 1 << 20));
    wait_until("the first reader", LIMIT, || async {
        let state = first.status.get();
        anyhow::ensure!(state.halted.is_none(), "{:?}", state.halted);
        Ok((state.epoch > 0).then_some(()))
    })
    .await?;
    let second = start(&plan, &DirectLog::new(1, 2, 1 << 20));
    let stopped = tokio::time::timeout(LIMIT, first.reader).await??;
    assert!(matches!(stopped, Err(ReadError::Superseded { .. })), "{stopped:?}");
    let reason = first.status.get().halted.unwrap_or_default();
    assert!(reason.contains("another reader has taken over"), "{reason}");
    second.cancel.cancel();
    second.reader.await??;
    Ok(())
}
