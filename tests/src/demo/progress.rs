//! Shows how far the reshard is: bars and a live table on a terminal, plain lines otherwise. Reads
//! modshift's own tables, as a dashboard would.

use std::{
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mysql_async::{Conn, prelude::Queryable};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Estate, Writer, server::Address};

const SAMPLE: Duration = Duration::from_millis(100);
const PLAIN_LINE: Duration = Duration::from_secs(2);

/// Lags of all streams, sampled since the copy was complete.
#[derive(Clone, Debug, Default)]
pub struct Lags {
    pub samples_ms: Vec<i64>,
}

impl Lags {
    /// `share` from 0.0 to 1.0.
    pub fn percentile(&self, share: f64) -> Option<i64> {
        let mut sorted = self.samples_ms.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        sorted.get((last as f64 * share).round() as usize).copied()
    }
}

pub struct Progress {
    cancel: CancellationToken,
    task: JoinHandle<Result<Lags>>,
    screen: Arc<Screen>,
}

/// Where things are shown.
struct Screen {
    bars: Option<Bars>,
    last_line: Mutex<Option<Instant>>,
}

struct Bars {
    all: MultiProgress,
    copied: Vec<ProgressBar>,
    streams: Vec<ProgressBar>,
    writer: ProgressBar,
}

/// One look at all servers.
struct Look {
    /// Per old shard: rows copied, rows estimated.
    copied: Vec<(u64, u64)>,
    /// Per new shard and old shard: age of the newest token applied, in milliseconds.
    lags_ms: Vec<Vec<Option<i64>>>,
    all_copied: bool,
    parked: u64,
}

impl Progress {
    pub fn start(estate: &Estate, writer: &Writer) -> Progress {
        let cancel = CancellationToken::new();
        let screen = Arc::new(Screen::new(estate.old.len(), estate.new.len()));
        let watcher = Watcher {
            old: estate.old_addresses(),
            new: estate.new_addresses(),
            screen: Arc::clone(&screen),
            cancel: cancel.clone(),
            committed: writer.counter(),
        };
        Progress { cancel, task: tokio::spawn(watcher.run()), screen }
    }

    pub fn note(&self, text: &str) {
        self.screen.note(text);
    }

    /// Ends the display and says which lags were seen.
    pub async fn stop(self) -> Result<Lags> {
        self.cancel.cancel();
        let lags = self.task.await.context("the display has failed")??;
        self.screen.clear();
        Ok(lags)
    }
}

struct Watcher {
    old: Vec<Address>,
    new: Vec<Address>,
    screen: Arc<Screen>,
    cancel: CancellationToken,
    committed: Arc<std::sync::atomic::AtomicU64>,
}

impl Watcher {
    async fn run(self) -> Result<Lags> {
        let mut old = connect(&self.old).await?;
        let mut new = connect(&self.new).await?;
        let mut lags = Lags::default();
        let mut ticks = tokio::time::interval(SAMPLE);
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return Ok(lags),
                _ = ticks.tick() => {}
            }
            // Before the daemons have made their tables there is nothing to see.
            let Ok(look) = look(&mut old, &mut new).await else { continue };
            if look.all_copied {
                lags.samples_ms.extend(look.lags_ms.iter().flatten().flatten());
            }
            let committed = self.committed.load(std::sync::atomic::Ordering::Relaxed);
            self.screen.show(&look, committed);
        }
    }
}

async fn connect(addresses: &[Address]) -> Result<Vec<Conn>> {
    let mut conns = Vec::new();
    for address in addresses {
        conns.push(address.connect().await?);
    }
    Ok(conns)
}

async fn look(old: &mut [Conn], new: &mut [Conn]) -> Result<Look> {
    let mut marks = Vec::new();
    let mut parked = 0;
    for conn in new.iter_mut() {
        // The watermark is read before the clock: the lag shown errs on the side of too long.
        let sql = "SELECT source, token_clock_us, copied FROM modshift_watermark";
        marks.push(conn.query::<(usize, i64, bool), _>(sql).await?);
        let sql = "SELECT COUNT(*) FROM modshift_parked";
        parked += conn.query_first::<u64, _>(sql).await?.unwrap_or(0);
    }
    let mut copied = Vec::new();
    let mut clocks = Vec::new();
    for conn in old.iter_mut() {
        let sql = "SELECT CAST(COALESCE(SUM(rows_copied), 0) AS UNSIGNED),
                          CAST(COALESCE(SUM(GREATEST(rows_copied, rows_estimated)), 0) AS UNSIGNED)
                   FROM modshift_progress WHERE name <> '@resume'";
        copied.push(conn.query_first(sql).await?.unwrap_or((0, 0)));
        let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)";
        clocks.push(conn.query_first::<i64, _>(sql).await?.unwrap_or(0));
    }
    let all_copied = marks
        .iter()
        .all(|marks| marks.len() == clocks.len() && marks.iter().all(|(_, _, copied)| *copied));
    let lags_ms = marks
        .iter()
        .map(|marks| {
            let lag = |source| {
                let mark = marks.iter().find(|(other, ..)| *other == source);
                mark.map(|(_, clock, _)| (clocks[source] - clock) / 1000)
            };
            (0..clocks.len()).map(lag).collect()
        })
        .collect();
    Ok(Look { copied, lags_ms, all_copied, parked })
}

impl Screen {
    fn new(old: usize, new: usize) -> Screen {
        let bars = std::io::stdout().is_terminal().then(|| Bars::new(old, new));
        Screen { bars, last_line: Mutex::new(None) }
    }

    fn note(&self, text: &str) {
        match &self.bars {
            // A terminal that cannot be written to is nobody watching.
            Some(bars) => drop(bars.all.println(format!("demo: {text}"))),
            None => super::say(text),
        }
    }

    fn clear(&self) {
        if let Some(bars) = &self.bars {
            drop(bars.all.clear());
        }
    }

    fn show(&self, look: &Look, committed: u64) {
        match &self.bars {
            Some(bars) => bars.show(look, committed),
            None => self.line(look, committed),
        }
    }

    fn line(&self, look: &Look, committed: u64) {
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < PLAIN_LINE) {
            return;
        }
        *last = Some(Instant::now());
        let (rows, estimated) =
            look.copied.iter().fold((0, 0), |(a, b), (rows, estimated)| (a + rows, b + estimated));
        let lag = look.lags_ms.iter().flatten().map(|lag| lag.unwrap_or(i64::MAX)).max();
        let lag = match lag {
            Some(i64::MAX) | None => "unknown".to_owned(),
            Some(ms) => format!("{ms} ms"),
        };
        let state = if look.all_copied { "copied" } else { "copying" };
        super::say(&format!(
            "{state} {rows} of about {estimated} rows; largest lag {lag}; parked {}; \
             {committed} transactions written",
            look.parked
        ));
    }
}

impl Bars {
    fn new(old: usize, new: usize) -> Bars {
        let all = MultiProgress::new();
        let copy_style = "{prefix:>12} [{bar:40}] {pos}/{len} rows";
        let copied = (0..old)
            .map(|index| {
                let bar = all.add(ProgressBar::new(1).with_prefix(format!("old shard {index}")));
                if let Ok(style) = ProgressStyle::with_template(copy_style) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar
            })
            .collect();
        let text = |prefix: String| {
            let bar = all.add(ProgressBar::new_spinner().with_prefix(prefix));
            if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {msg}") {
                bar.set_style(style);
            }
            bar
        };
        let streams = (0..new).map(|index| text(format!("new shard {index}"))).collect();
        let writer = text("writer".to_owned());
        Bars { all, copied, streams, writer }
    }

    fn show(&self, look: &Look, committed: u64) {
        for (bar, (rows, estimated)) in self.copied.iter().zip(&look.copied) {
            bar.set_length((*estimated).max(1));
            bar.set_position(*rows);
        }
        for (bar, lags) in self.streams.iter().zip(&look.lags_ms) {
            let lags = lags.iter().enumerate().map(|(source, lag)| match lag {
                Some(ms) => format!("from {source}: {ms:>5} ms"),
                None => format!("from {source}:     none"),
            });
            bar.set_message(format!("lag {}", lags.collect::<Vec<_>>().join("   ")));
        }
        self.writer.set_message(format!("{committed} transactions, {} rows parked", look.parked));
    }
}
