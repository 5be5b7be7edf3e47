//! Gaps and zombies: whatever is lost on the way, and whoever comes back from the dead, the streams
//! halt and say why, or the rows are right. Never anything in between.

#![allow(clippy::print_stdout, reason = "counts are part of the outcome")]

mod lost_tail;

use std::{
    fs,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, KafkaBroker, Modshift, Writer, WriterOptions, case::Size, copied,
    drained, pages::dropped, printed, process::http_get, server::Topics, versions::ensure_rising,
    wait_until,
};
use tokio::sync::Mutex;

const LIMIT: Duration = Duration::from_secs(90);
/// The exit code of a daemon all of whose streams have halted.
const HALTED: i32 = 4;
/// As modshift creates its topic.
const TOPIC: [(&str, &str); 6] = [
    ("cleanup.policy", "delete"),
    ("retention.ms", "604800000"),
    ("retention.bytes", "-1"),
    ("max.message.bytes", "67174400"),
    ("min.insync.replicas", "1"),
    ("unclean.leader.election.enable", "false"),
];
const NEW: usize = 2;

/// One broker for all tests that run at the same time; each has a topic of its own.
async fn broker() -> Result<Arc<KafkaBroker>> {
    static SHARED: Mutex<Weak<KafkaBroker>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(broker) = shared.upgrade() {
        return Ok(broker);
    }
    let broker = KafkaBroker::start().await?;
    *shared = Arc::downgrade(&broker);
    Ok(broker)
}

/// One old shard, two new ones, replicator and consumer as processes.
struct Scene {
    estate: Estate,
    topics: Topics,
    topic: String,
    seed: u64,
}

impl Scene {
    async fn start(name: &str, seed: u64, rows: u64, plan_tail: &str) -> Result<Self> {
        let options = EstateOptions {
            name: name.to_owned(),
            seed,
            size: Size::rows(rows),
            // A daemon whose last stream has halted ends; nothing may keep it up.
            plan_tail: format!("[back]\nenabled = false\n\n{plan_tail}"),
            ..EstateOptions::default()
        };
        let (mut estate, broker) = tokio::try_join!(Estate::start(1, NEW, options), broker())?;
        let topics = broker.topics()?;
        estate.broker = Some(broker);
        fs::write(estate.plan_path(), estate.plan()).context("writing the plan")?;
        Ok(Self { estate, topics, topic: format!("modshift.{name}.changes"), seed })
    }

    fn daemon(&self, role: &str) -> Result<Modshift> {
        self.estate.modshift([role, "--listen", "127.0.0.1:0"]).stages().start()
    }

    fn consumer(&self) -> Result<Modshift> {
        self.daemon("consumer")
    }

    fn replicator(&self) -> Result<Modshift> {
        self.daemon("replicator")
    }

    /// Both daemons, with everything copied and applied.
    async fn running(&self) -> Result<(Modshift, Modshift)> {
        let (replicator, consumer) = (self.replicator()?, self.consumer()?);
        self.copied().await.with_context(|| says(&[&replicator, &consumer]))?;
        self.drained().await.with_context(|| says(&[&replicator, &consumer]))?;
        Ok((replicator, consumer))
    }

    async fn copied(&self) -> Result<()> {
        copied(&self.estate, LIMIT).await
    }

    async fn drained(&self) -> Result<()> {
        drained(&self.estate, LIMIT).await
    }

    async fn writer(&self) -> Result<Writer> {
        let options = WriterOptions {
            seed: self.seed,
            connections: 4,
            rate: Some(200.0),
            giants: None,
            ..WriterOptions::default()
        };
        Writer::start(options, self.estate.old_routes()).await
    }

    /// The application works for a while.
    async fn written(&self, commits: u64) -> Result<()> {
        let writer = self.writer().await?;
        writer.commits(commits, LIMIT).await?;
        writer.stop().await.map(drop)
    }

    /// Where new shard *j* resumes its partition.
    async fn resumes_at(&self, new: usize) -> Result<i64> {
        self.estate.new[new].value("SELECT MAX(log_offset) FROM modshift_watermark").await
    }

    async fn next_offset(&self, new: usize) -> Result<i64> {
        Ok(self.topics.bounds(&self.topic, new as i32).await?.1)
    }

    /// What a new shard holds and how far it is, to show that nothing moved.
    async fn state(&self, new: usize) -> Result<Vec<String>> {
        let mut state = Vec::new();
        for rule in &self.estate.rules {
            let sql =
                format!("SELECT CONCAT(COUNT(*),'/',COALESCE(SUM(ver),0)) FROM {}", rule.table);
            state.push(self.estate.new[new].value(&sql).await?);
        }
        let sql = "SELECT CONCAT(epoch,'/',number,'/',gtids) FROM modshift_watermark";
        state.push(self.estate.new[new].value(sql).await?);
        Ok(state)
    }

    /// The gate is closed, and says why.
    async fn closed(&self, why: &str) -> Result<()> {
        let (code, output) = self.estate.modshift(["gate"]).finish(LIMIT).await?;
        ensure!(code == 1 && output.contains(why), "the gate says ({code}), not {why}:\n{output}");
        Ok(())
    }

    /// What the halt says to do, as it stands in `modshift status`, to its end: the daemons are stopped, the
    /// copy starts over, and all rows are right.
    async fn starts_over(&self, daemons: &[&Modshift]) -> Result<()> {
        let (_, said) = self.estate.modshift(["status"]).finish(LIMIT).await?;
        ensure!(said.contains("`modshift restart-copy`"), "status names no way out:\n{said}");
        for daemon in daemons {
            stopped(daemon).await?;
        }
        let (code, said) = self.estate.modshift(["restart-copy", "--yes"]).finish(LIMIT).await?;
        ensure!(code == 0, "restart-copy ended with {code}:\n{said}");
        let (replicator, consumer) = self.running().await?;
        self.written(20).await?;
        // Their binlogs have every row twice by now: only what is there can be compared.
        self.drained().await.with_context(|| says(&[&replicator, &consumer]))?;
        self.estate.oracle().compare().await?.ensure_clean()?;
        stopped(&replicator).await?;
        stopped(&consumer).await
    }

    async fn correct(&self) -> Result<()> {
        self.drained().await?;
        self.estate.oracle().compare().await?.ensure_clean()?;
        ensure_rising(&self.estate).await.map(drop)
    }
}

fn says(daemons: &[&Modshift]) -> String {
    daemons.iter().map(|daemon| format!("{}\n---\n", daemon.last_words(30))).collect()
}

async fn stopped(daemon: &Modshift) -> Result<()> {
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "it ended with {code}:\n{}", says(&[daemon]));
    Ok(())
}

/// The daemon ends because all its streams have halted, and each of `facts` is in a line that says
/// so.
async fn halts(daemon: &Modshift, facts: &[&str]) -> Result<()> {
    let status = daemon.wait_exit(LIMIT).await.with_context(|| says(&[daemon]))?;
    let lines = daemon.lines();
    for fact in facts {
        let named = lines.iter().any(|line| line.contains("halted") && line.contains(fact));
        ensure!(named, "no halt names {fact:?}:\n{}", says(&[daemon]));
    }
    ensure!(status.code() == Some(HALTED), "it ended with {status}:\n{}", says(&[daemon]));
    println!("halted, naming {facts:?}");
    Ok(())
}

/// Another daemon has all streams of this one, which stays to take them again.
async fn stands_by(daemon: &Modshift, fact: &str) -> Result<()> {
    let waiting = daemon.wait_line("waiting until it is gone", LIMIT).await;
    waiting.with_context(|| says(&[daemon]))?;
    ensure!(daemon.output().contains(fact), "nothing says {fact:?}:\n{}", says(&[daemon]));
    // It is no halt: nobody is paged.
    let (_, page) = http_get(&format!("{}/metrics", daemon.pages(LIMIT).await?)).await?;
    ensure!(page.contains("modshift_streams{state=\"halted\"} 0\n"), "{page}");
    ensure!(!page.contains("modshift_streams{state=\"taken\"} 0\n"), "{page}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_removed_or_aged_out_halts_and_names_the_gap() -> Result<()> {
    let scene = Scene::start("removed", 31, 600, "").await?;
    let (replicator, consumer) = scene.running().await?;
    stopped(&consumer).await?;
    scene.written(60).await?;
    let (first, second) = (scene.resumes_at(0).await?, scene.resumes_at(1).await?);
    // A stopping replicator waits until everything is acknowledged.
    stopped(&replicator).await?;
    let (end, other_end) = (scene.next_offset(0).await?, scene.next_offset(1).await?);
    ensure!(end > first + 4 && other_end > second + 4, "too few messages: {first} to {end}");

    let lost = (first + end) / 2;
    let keep = |message: &modshift_tests::server::RawMessage| {
        (message.partition, message.offset) != (0, lost)
    };
    scene.topics.rewrite(&scene.topic, NEW as i32, &TOPIC, keep).await?;
    scene.topics.delete_before(&scene.topic, 1, other_end - 1).await?;
    let before = scene.state(1).await?;

    let consumer = scene.consumer()?;
    let gone = format!("no longer holds offset {second}");
    halts(&consumer, &["missing from the change log: expected number", &gone]).await?;
    ensure!(scene.state(1).await? == before, "new shard 1 went on");
    // Everything before the gap is in, nothing after it.
    ensure!(scene.resumes_at(0).await? <= lost, "new shard 0 went beyond the gap");
    scene.closed("missing from the change log").await?;
    scene.closed("no longer holds offset").await?;
    // It stays so: a restart is no way around it.
    halts(&scene.consumer()?, &["missing from the change log", "no longer holds offset"]).await?;
    scene.starts_over(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_created_again_halts_however_full_it_is() -> Result<()> {
    let scene = Scene::start("recreated", 32, 600, "").await?;
    let (replicator, consumer) = scene.running().await?;
    stopped(&consumer).await?;
    scene.written(20).await?;
    stopped(&replicator).await?;
    let before = [scene.state(0).await?, scene.state(1).await?];
    scene.topics.delete(&scene.topic).await?;

    // Few messages since: the offset to resume from lies beyond the end.
    let replicator = scene.replicator()?;
    replicator.wait_line("topic created", LIMIT).await?;
    scene.written(5).await?;
    let consumer = scene.consumer()?;
    halts(&consumer, &["no longer holds offset"]).await?;

    // Many: a message lies there again, another one.
    let goal = [scene.resumes_at(0).await? + 20, scene.resumes_at(1).await? + 20];
    wait_until("a topic as long as it was", LIMIT, || async {
        scene.estate.old[0].run("UPDATE t_trade_order SET ver = ver + 1").await?;
        let ends = [scene.next_offset(0).await?, scene.next_offset(1).await?];
        Ok((ends[0] > goal[0] && ends[1] > goal[1]).then_some(()))
    })
    .await?;
    let consumer = scene.consumer()?;
    halts(&consumer, &["has no start marker: the first message has number"]).await?;
    ensure!(before == [scene.state(0).await?, scene.state(1).await?], "new shards went on");
    scene.closed("has no start marker").await?;
    scene.starts_over(&[&replicator]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_again_under_running_daemons_halts() -> Result<()> {
    let scene = Scene::start("under", 33, 600, "").await?;
    let (replicator, consumer) = scene.running().await?;
    let writer = scene.writer().await?;
    scene.topics.delete(&scene.topic).await?;
    scene.topics.create(&scene.topic, NEW as i32, &TOPIC).await?;
    halts(&consumer, &[]).await.with_context(|| says(&[&replicator]))?;
    writer.stop().await?;
    scene.closed("applier of new shard 0 stopped").await?;
    scene.closed("applier of new shard 1 stopped").await?;
    scene.starts_over(&[&replicator]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_control_tables_halt() -> Result<()> {
    let scene = Scene::start("emptied", 34, 600, "").await?;
    let (replicator, consumer) = scene.running().await?;
    stopped(&replicator).await?;
    scene.written(20).await?;
    let old = &scene.estate.old[0];

    old.run("DELETE FROM modshift_progress").await?;
    halts(&scene.replicator()?, &["modshift_progress has no resume point"]).await?;
    scene.closed("old shard 0").await?;

    // As if nothing had ever been read: it starts from now, and the consumer knows better.
    old.run("DELETE FROM modshift_token").await?;
    let before = [scene.state(0).await?, scene.state(1).await?];
    let replicator = scene.replicator()?;
    halts(&consumer, &["what lies between is lost"]).await?;
    ensure!(before == [scene.state(0).await?, scene.state(1).await?], "new shards went on");
    scene.closed("what lies between is lost").await?;

    // Under a running reader: it is not the owner of its shard any more.
    old.run("DELETE FROM modshift_token").await?;
    halts(&replicator, &["another reader has taken over"]).await?;
    scene.starts_over(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_comes_back_after_its_successor_stops() -> Result<()> {
    let tail = "[snapshot]\nchunk_rows_max = 40\n";
    let scene = Scene::start("readers", 35, 3_000, tail).await?;
    let consumer = scene.consumer()?;
    let writer = scene.writer().await?;
    let first = scene.replicator()?;
    first.next_stage("mid_chunk", LIMIT).await?;
    first.sigstop()?;
    let sql = "SELECT COUNT(*) FROM modshift_progress WHERE done = 1";
    let done: usize = scene.estate.old[0].value(sql).await?;
    ensure!(done < scene.estate.rules.len(), "the snapshot was over");

    let second = scene.replicator()?;
    scene.copied().await.with_context(|| says(&[&second, &consumer]))?;
    second.next_stage("after_send_before_ack", LIMIT).await?;
    first.sigcont()?;
    stands_by(&first, "another reader has taken over").await?;
    stopped(&first).await?;

    second.next_stage("after_send_before_ack", LIMIT).await?;
    second.sigstop()?;
    let third = scene.replicator()?;
    scene.drained().await.with_context(|| says(&[&third, &consumer]))?;
    writer.commits(50, LIMIT).await?;
    second.sigcont()?;
    stands_by(&second, "another reader has taken over").await?;

    writer.commits(50, LIMIT).await?;
    writer.stop().await?;
    scene.correct().await.with_context(|| says(&[&third, &consumer]))?;
    println!("dropped {:?}", dropped(&consumer).await?.0);
    // The duplicate goes away, and nobody starts anything.
    stopped(&third).await?;
    scene.written(20).await?;
    scene.correct().await.with_context(|| says(&[&second, &consumer]))?;
    second.wait_line("taking the streams again", LIMIT).await?;
    stopped(&second).await?;
    stopped(&consumer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_replaced_stops_and_says_so() -> Result<()> {
    let scene = Scene::start("consumers", 36, 600, "").await?;
    let (replicator, first) = scene.running().await?;
    let writer = scene.writer().await?;
    first.next_stage("after_apply_before_commit", LIMIT).await?;
    let second = scene.consumer()?;
    stands_by(&first, "another applier has taken over").await?;
    stopped(&first).await?;

    // Frozen with a transaction open, if need be: that must not keep the next one out.
    second.next_stage("after_apply_before_commit", LIMIT).await?;
    second.sigstop()?;
    let third = scene.consumer()?;
    scene.drained().await.with_context(|| says(&[&third]))?;
    second.sigcont()?;
    stands_by(&second, "another applier has taken over").await?;

    writer.commits(50, LIMIT).await?;
    writer.stop().await?;
    scene.correct().await.with_context(|| says(&[&replicator, &third]))?;
    println!("dropped {:?}", dropped(&third).await?.0);
    // The duplicate goes away, and nobody starts anything.
    stopped(&third).await?;
    scene.written(20).await?;
    scene.correct().await.with_context(|| says(&[&replicator, &second]))?;
    second.wait_line("taking the streams again", LIMIT).await?;
    stopped(&replicator).await?;
    stopped(&second).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_somebody_else_is_passed_over_alone() -> Result<()> {
    let scene = Scene::start("foreign", 40, 300, "").await?;
    let (replicator, mut consumer) = scene.running().await?;
    let mut offsets = Vec::new();
    for payload in [&b"no message of ours"[..], b"", b"another"] {
        offsets.push(scene.topics.produce(&scene.topic, 0, None, payload).await?);
    }
    scene.written(20).await?;
    for (index, offset) in offsets.into_iter().enumerate() {
        let lies = format!("topic {}, partition 0, offset {offset}", scene.topic);
        let halted = consumer.wait_line(&lies, LIMIT).await?;
        ensure!(halted.contains("applier halted"), "{halted}");
        // The log has the halt a moment before the shard does.
        let stands = format!(
            "SELECT COUNT(*) FROM modshift_skip WHERE state = 'halted' AND name = '{offset}'"
        );
        wait_until("the halt on the shard", LIMIT, || async {
            // Before the first one there is no table.
            let rows = scene.estate.new[0].value::<u64>(&stands).await.unwrap_or(0);
            Ok((rows == 1).then_some(()))
        })
        .await?;
        let mut skip = printed(&halted, "skip")?;
        skip.push("--yes".to_owned());
        let at = skip.iter().position(|word| *word == offset.to_string()).context("--offset")?;
        let mut other = skip.clone();
        other[at] = (offset + 1_000_000).to_string();
        let (code, said) = scene.estate.modshift(other).finish(LIMIT).await?;
        ensure!(code == 1 && said.contains("has not halted at offset"), "{code}: {said}");
        if index == 2 {
            // Asked for while nobody is there.
            stopped(&consumer).await?;
            let asking = scene.estate.modshift(skip).start()?;
            let asked =
                "SELECT COUNT(*) FROM modshift_skip WHERE what = 'record' AND state = 'asked'";
            wait_until("the question", LIMIT, || async {
                Ok((scene.estate.new[0].value::<u64>(asked).await? == 3).then_some(()))
            })
            .await?;
            consumer = scene.consumer()?;
            let code = asking.wait_exit(LIMIT).await?;
            ensure!(code.success(), "{code}: {}\n{}", asking.output(), says(&[&consumer]));
            continue;
        }
        let (code, said) = scene.estate.modshift(skip).finish(LIMIT).await?;
        ensure!(code == 0 && said.contains("was passed over"), "{code}: {said}");
    }
    scene.correct().await.with_context(|| says(&[&replicator, &consumer]))?;
    stopped(&replicator).await?;
    stopped(&consumer).await
}
