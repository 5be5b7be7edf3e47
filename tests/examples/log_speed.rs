//! How many messages of 250 bytes pass through the change log, in both forms: one writer, four
//! partitions, a reader for each. `cargo run --release -p modshift-tests --example log_speed`.

// Its output is what it is for.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use anyhow::Result;
use modshift_changelog::{DirectLog, KafkaReader, KafkaWriter, LogReader, LogWriter, ensure_topic};
use modshift_proto::{
    NewShard, OldShard,
    plan::{Compression, KafkaLog},
};
use modshift_tests::server::{KafkaBroker, KafkaOptions};
use tokio::task::JoinSet;

const SHARDS: u16 = 4;
const BYTES: usize = 250;
const OLD: OldShard = OldShard(0);

/// Half of it compresses: numbers and short texts, as rows are.
fn message(number: u64) -> [u8; BYTES] {
    let mut message = [b'a'; BYTES];
    let mut state = number;
    for byte in &mut message[..BYTES / 2] {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *byte = (state >> 56) as u8;
    }
    message
}

async fn pass<W, R>(name: &str, mut writer: W, readers: Vec<R>, count: u64) -> Result<()>
where
    W: LogWriter + 'static,
    R: LogReader + 'static,
{
    let messages: Vec<_> = (0..1024).map(message).collect();
    let each = count / u64::from(SHARDS);
    let cpu = cpu_time()?;
    let began = Instant::now();
    let mut reading = JoinSet::new();
    for mut reader in readers {
        reading.spawn(async move {
            let mut read = 0;
            while read < each {
                reader.next().await?;
                read += 1;
                if read % 1000 == 0 || read == each {
                    reader.applied(OLD, 1, read - 1);
                }
            }
            // Kept, lest the direct log ends its writer.
            anyhow::Ok(reader)
        });
    }
    for number in 0..count {
        let to = NewShard((number % u64::from(SHARDS)) as u16);
        writer.send(to, &number.to_le_bytes(), &messages[number as usize % 1024]).await?;
    }
    writer.flush().await?;
    let sent = began.elapsed();
    for to in (0..SHARDS).map(NewShard) {
        while writer.acked(to) < each {
            writer.acknowledged().await?;
        }
    }
    let acked = began.elapsed();
    let mut kept = Vec::new();
    while let Some(reader) = reading.join_next().await {
        kept.push(reader??);
    }
    let (all, cpu) = (began.elapsed(), cpu_time()? - cpu);
    let rate = count as f64 / all.as_secs_f64();
    println!(
        "{name}: {count} messages, {rate:.0}/s, {:.0} MB/s; sent after {sent:.2?}, acknowledged \
         after {acked:.2?}, read after {all:.2?}; {:.2} us of CPU per message in this process; \
         peak memory {}",
        rate * BYTES as f64 / 1e6,
        cpu.as_micros() as f64 / count as f64,
        peak()?,
    );
    Ok(())
}

/// User and system time of this process.
fn cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.split_whitespace().collect();
    let ticks: u64 = fields[13].parse::<u64>()? + fields[14].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn peak() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    Ok(line.and_then(|line| line.split_once(':')).map(|(_, n)| n.trim()).unwrap_or("?").to_owned())
}

#[tokio::main]
async fn main() -> Result<()> {
    let direct = DirectLog::new(1, SHARDS, 8 << 20);
    let readers = (0..SHARDS).map(|to| direct.reader(NewShard(to))).collect::<Result<_, _>>()?;
    pass("direct", direct.writer(OLD, 1), readers, 8_000_000).await?;

    let options = KafkaOptions {
        heap_mb: 1024,
        tuned_for_speed: true,
        extra: Vec::new(),
        ..KafkaOptions::default()
    };
    let broker = KafkaBroker::start_with(options).await?;
    for compression in [Compression::Lz4, Compression::Zstd] {
        let log = KafkaLog {
            brokers: broker.bootstrap(),
            topic: format!("speed-{compression:?}"),
            replication: 1,
            min_insync: 1,
            retention: Duration::from_secs(3600),
            message_bytes_max: 16 << 20,
            compression,
            buffer_bytes: 16 << 20,
            properties: Vec::new(),
        };
        ensure_topic(&log, SHARDS).await?;
        for round in ["cold", "warm"] {
            let mut readers = Vec::new();
            let bounds = broker.topics()?.bounds(&log.topic, 0).await?;
            for to in (0..SHARDS).map(NewShard) {
                readers.push(KafkaReader::open(&log, to, Some(bounds.1), "speed").await?);
            }
            let writer = KafkaWriter::open(&log, OLD, SHARDS).await?;
            pass(&format!("kafka, {compression:?}, {round}"), writer, readers, 2_000_000).await?;
        }
    }
    Ok(())
}
