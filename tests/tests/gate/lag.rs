//! Never open with a lag above the limit: every yes is held against lags read beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{process::http_get, random::Random, server::Delay};
use mysql_async::{Conn, prelude::Queryable};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::{LIMIT, MAX_LAG, address, shop};

/// How far each new shard was behind each old one at some moment between two, never too much.
#[derive(Debug)]
struct Seen {
    from: Instant,
    until: Instant,
    lags_us: Vec<i64>,
}

/// How often lags are read, and /ready is asked.
const LOOK: Duration = Duration::from_millis(10);

/// Reads the lag of every stream again and again, with nothing of the product.
async fn watch(old: Vec<Conn>, new: Vec<Conn>, stop: CancellationToken) -> Result<Vec<Seen>> {
    let (mut old, mut new, mut seen) = (old, new, Vec::new());
    let mut looks = interval(LOOK);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let from = Instant::now();
        let (mut clocks, mut lags_us) = (Vec::new(), Vec::new());
        for conn in &mut old {
            let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)";
            clocks.push(conn.query_first::<i64, _>(sql).await?.context("no clock")?);
        }
        for conn in &mut new {
            let sql = "SELECT source, token_clock_us FROM modshift_watermark ORDER BY source";
            let marks: Vec<(usize, i64)> = conn.query(sql).await?;
            lags_us.extend(marks.into_iter().map(|(source, clock_us)| clocks[source] - clock_us));
        }
        seen.push(Seen { from, until: Instant::now(), lags_us });
    }
    Ok(seen)
}

/// For this long a yes may be shown after the shards were asked.
const YES_AGE: Duration = Duration::from_secs(1);

/// A yes between `asked` and `told` was true: each stream was within the limit at a moment that it
/// may speak of, as far as moments between two looks can be told.
fn was_true(seen: &[Seen], asked: Instant, told: Instant) -> Result<()> {
    let begin = asked.checked_sub(YES_AGE).unwrap_or(asked);
    let first = seen.partition_point(|one| one.until < begin);
    // One look beyond, which bounds what was before it.
    let last = seen.partition_point(|one| one.from <= told).min(seen.len() - 1);
    let window = &seen[first.min(last)..=last];
    let gap = window.windows(2).map(|two| two[1].from - two[0].from).max().unwrap_or_default();
    let limit = (MAX_LAG + gap).as_micros() as i64;
    for stream in 0..window[0].lags_us.len() {
        let least = window.iter().map(|one| one.lags_us[stream]).min().unwrap_or_default();
        ensure!(
            least <= limit,
            "open, though stream {stream} was never less than {} ms behind in the {:?} before \
             ({} looks, at most {gap:?} apart)",
            least / 1000,
            told - begin,
            window.len()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "how much was tried is part of the result")]
async fn it_is_never_open_with_a_lag_above_the_limit() -> Result<()> {
    const LEAST: (u64, u64) = (40, 40);
    let seed = std::env::var("MODSHIFT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("delays: repeat with MODSHIFT_SEED={seed}");
    let mut random = Random::new(seed);
    let mut shop = shop().await?;
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for shard in &shop.estate.old {
        old.push(shard.address().connect().await?);
    }
    for shard in &shop.estate.new {
        new.push(shard.address().connect().await?);
    }
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watch(old, new, stop.clone()));
    // Of the replicator, whose own way to the shards has no delays.
    let ready = format!("{}/ready", address(&shop.replicator).await?);
    let (mut yes, mut no) = (Vec::new(), 0_u64);
    let begun = Instant::now();
    let mut change_at = begun;
    let mut looks = interval(LOOK);
    while begun.elapsed() < Duration::from_secs(12)
        || (begun.elapsed() < LIMIT && ((yes.len() as u64) < LEAST.0 || no < LEAST.1))
    {
        if Instant::now() >= change_at {
            for shard in &shop.estate.new {
                let proxy = shard.proxy.as_ref().context("no proxy")?;
                proxy.reopen();
                proxy.delay(Delay::None);
                match random.below(8) {
                    0 => proxy.stall(),
                    // A batch takes a few answers: these are about and above the limit.
                    1 => proxy.delay(Delay::UpTo(Duration::from_millis(400))),
                    2 => proxy.delay(Delay::UpTo(Duration::from_millis(100))),
                    _ => {}
                }
            }
            change_at = Instant::now() + Duration::from_millis(1_000 + random.below(2_000));
        }
        looks.tick().await;
        let asked = Instant::now();
        match http_get(&ready).await?.0 {
            200 => yes.push((asked, Instant::now())),
            503 => no += 1,
            other => anyhow::bail!("/ready answered {other}"),
        }
    }
    for shard in &shop.estate.new {
        let proxy = shard.proxy.as_ref().context("no proxy")?;
        proxy.delay(Delay::None);
        proxy.reopen();
    }
    shop.opens().await?;
    stop.cancel();
    let seen = watching.await??;
    println!("{} times open, {no} times closed, {} looks", yes.len(), seen.len());
    let above = seen.iter().flat_map(|one| &one.lags_us).filter(|lag| **lag > 1_000_000).count();
    ensure!(above > 0, "no lag was above the limit");
    ensure!(yes.len() as u64 >= LEAST.0 && no >= LEAST.1, "one answer all the time proves little");
    for (asked, told) in yes {
        was_true(&seen, asked, told)?;
    }
    shop.sound = true;
    Ok(())
}
