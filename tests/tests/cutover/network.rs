//! Something that the run needs goes away in the middle of it, and comes back.
//!
//! What, how and when is drawn from a printed seed; `MODSHIFT_SOAK=1` takes all of it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use modshift_routing::{Document, Side};
use modshift_tests::{
    EstateOptions, Log, Modshift, drained, drained_back, random::Random, server::EtcdServer,
    wait_until,
};
use mysql_async::prelude::Queryable;

use crate::site::{APP_ACCOUNT, LIMIT, Site, options, sample, says, seed, unwatched};

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// Index of the shard.
    Old(usize),
    /// Number 0 keeps the journal.
    New(usize),
    Etcd,
    Broker,
}

/// How it is away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// Connections end and new ones are refused.
    Refuses,
    /// Nothing moves.
    Silent,
}

/// What becomes of the operator's process.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Stays,
    /// Killed as soon as it has noticed; then the next one does this.
    Dies(&'static str),
}

const POINTS: [&str; 6] = [
    "before_fence",
    "before_drain",
    "before_counters",
    "before_publish",
    "before_seal",
    "mid_open",
];
const CASES: usize = 3;

struct Network {
    site: Site,
    etcd: EtcdServer,
    daemons: Vec<Modshift>,
}

impl Network {
    async fn start(log: Log, seed: u64) -> Result<Network> {
        let etcd = EtcdServer::start().await?;
        let usual = unwatched(options(log, seed, "12s", &format!("\"{APP_ACCOUNT}\"")));
        let options = EstateOptions {
            proxies: true,
            plan_tail: format!(
                "{}\n[[routing]]\nkind = \"etcd\"\nendpoints = [\"{}\"]\nkey = \"/routing\"\n",
                usual.plan_tail,
                etcd.endpoint()
            ),
            ..usual
        };
        let site = Site::open(2, 3, options).await?;
        let daemons = site.daemons()?;
        Ok(Network { site, etcd, daemons })
    }

    fn away(&self, what: What, how: How) -> Result<()> {
        let estate = &self.site.estate;
        let broker = || estate.broker.as_ref().context("no broker");
        match (what, how) {
            (What::Old(_) | What::New(_), _) => {
                let proxy = self.proxy(what)?;
                if how == How::Refuses {
                    proxy.refuse()
                } else {
                    proxy.stall()
                }
                Ok(())
            }
            (What::Etcd, How::Refuses) => self.etcd.kill(),
            (What::Etcd, How::Silent) => self.etcd.pause(),
            (What::Broker, How::Refuses) => broker()?.kill(),
            (What::Broker, How::Silent) => broker()?.pause(),
        }
    }

    async fn back(&self, what: What, how: How) -> Result<()> {
        let broker = self.site.estate.broker.as_ref().context("no broker");
        match (what, how) {
            (What::Old(_) | What::New(_), _) => self.proxy(what)?.reopen(),
            (What::Etcd, How::Refuses) => self.etcd.restart().await?,
            (What::Etcd, How::Silent) => self.etcd.cont()?,
            (What::Broker, How::Refuses) => broker?.restart().await?,
            (What::Broker, How::Silent) => broker?.cont()?,
        }
        Ok(())
    }

    fn proxy(&self, what: What) -> Result<&modshift_tests::server::Proxy> {
        let estate = &self.site.estate;
        let shard = match what {
            What::Old(index) => &estate.old[index],
            What::New(index) => &estate.new[index],
            What::Etcd | What::Broker => anyhow::bail!("{what:?} has no proxy"),
        };
        shard.proxy.as_deref().context("no proxy")
    }

    /// A run that stands still at this point until the file is there.
    async fn hold(&self, command: &str, point: &str) -> Result<(Modshift, PathBuf)> {
        let estate = &self.site.estate;
        let file = estate.dir().join("release");
        std::fs::remove_file(&file).ok();
        let launch = estate.modshift([command, "--wait", "150s"]);
        let process = launch.hold_until(point, 1, &file).start()?;
        process.wait_hold(point, LIMIT).await.with_context(|| process.output())?;
        Ok((process, file))
    }

    /// One run in which this happens; who serves in the end, for sure and by every sign.
    async fn run(
        &self,
        serving: &str,
        (what, how, point): (What, How, &'static str),
        operator: Operator,
    ) -> Result<&'static str> {
        let site = &self.site;
        let command = if serving == "old" { "cutover" } else { "rollback" };
        println!("== {command} from {serving}: {what:?} {how:?} at {point}, operator {operator:?}");
        let (process, file) = self.hold(command, point).await?;
        self.away(what, how)?;
        std::fs::write(&file, "")?;
        // It has noticed, and may be trying to undo what it did; or it is past caring.
        wait_until("trouble", LIMIT, || async {
            let noticed = ["trouble", "not done yet"];
            let noticed = noticed.iter().any(|word| process.output().contains(word));
            Ok((noticed || !process.running()?).then_some(()))
        })
        .await?;
        if operator != Operator::Stays && process.running()? {
            process.kill_9()?;
        }
        site.accepts(false).await?;
        self.back(what, how).await?;
        if operator == Operator::Stays {
            let status = process.wait_exit(LIMIT).await?;
            println!("{}\n=> {status}", process.output());
        }
        site.accepts(false).await?;
        self.settle(command, operator).await
    }

    /// A run that was undone leaves nothing behind that keeps the next one from its end.
    async fn cut_over_after_all(&self) -> Result<()> {
        let site = &self.site;
        let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
        cut.with_context(|| says(&self.daemons))?;
        ensure!(site.accepts(true).await? == "new");
        drained_back(&site.estate, LIMIT).await?;
        site.estate.oracle_back().compare().await?.ensure_clean()
    }

    /// The operator finishes what is left over; then every sign says the same.
    async fn settle(&self, command: &str, operator: Operator) -> Result<&'static str> {
        let site = &self.site;
        // The lock of one that was cut off outlives him by some seconds.
        let status = wait_until("the operator to be gone", LIMIT, || async {
            let status = site.estate.modshift(["status"]).finish(LIMIT).await?.1;
            Ok((!status.contains(" is at it)")).then_some(status))
        });
        let status = status.await?;
        if status.contains("finishes it") {
            let ask = match operator {
                Operator::Dies(ask) => ask,
                Operator::Stays => "--abort",
            };
            // Who resumes a run that had turned back gets it undone, which is not what was asked for.
            let codes = if ask == "--resume" { &[0, 1, 2][..] } else { &[0, 2] };
            let output = site.command(&[command, ask], codes).await?;
            if output.contains("may serve already") {
                site.command(&[command, "--resume"], &[0]).await?;
            }
        }
        let accepts = site.accepts(true).await?;
        let serves = site.serves().await?;
        ensure!(serves == accepts, "status says {serves}, and {accepts} accepts");
        Ok(accepts)
    }
}

fn cases(whats: &[What]) -> Vec<(What, How, &'static str)> {
    let each = |&what: &What| {
        let hows = [How::Refuses, How::Silent];
        hows.into_iter().flat_map(move |how| POINTS.map(|point| (what, how, point)))
    };
    whats.iter().flat_map(each).collect()
}

async fn lost_in_the_middle(test: &str, log: Log, whats: &[What], count: usize) -> Result<()> {
    let mut random = Random::new(seed(test)?);
    let network = Network::start(log, random.next()).await?;
    let site = &network.site;
    let context = || says(&network.daemons);
    let mut serving = "old";
    for case in sample(&mut random, &cases(whats), count) {
        let operator =
            *random.pick(&[Operator::Stays, Operator::Dies("--abort"), Operator::Dies("--resume")]);
        let ran = network.run(serving, case, operator).await;
        serving = ran.with_context(|| format!("{case:?}\n{}", context()))?;
    }
    // Everything is as it was before: the next run is an ordinary one.
    let command = if serving == "old" { "cutover" } else { "rollback" };
    site.command(&[command, "--wait", "150s"], &[0]).await.with_context(context)?;
    ensure!(site.accepts(true).await? != serving);
    if serving == "new" {
        drained(&site.estate, LIMIT).await?;
        site.estate.oracle().compare().await?.ensure_clean()
    } else {
        drained_back(&site.estate, LIMIT).await?;
        site.estate.oracle_back().compare().await?.ensure_clean()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_or_a_target_lost_in_the_middle_never_lets_both_sides_serve() -> Result<()> {
    let whats = [What::Old(1), What::New(2), What::New(0), What::Etcd];
    lost_in_the_middle("lost", Log::Direct, &whats, CASES).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_lost_in_the_middle_never_lets_both_sides_serve() -> Result<()> {
    lost_in_the_middle("broker", Log::kafka(), &[What::Broker], 1).await
}

/// What it could not write down while it undid, it writes down once it can: the journal must not
/// say that something was undone of a run that had not turned back.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_away_while_the_run_turned_back_can_be_read_again() -> Result<()> {
    let network = Network::start(Log::Direct, seed("turned back")?).await?;
    let site = &network.site;
    let (process, file) = network.hold("cutover", "before_counters").await?;
    network.away(What::New(0), How::Refuses)?;
    std::fs::write(&file, "")?;
    // The second one is that it cannot write that it turns back.
    wait_until("a journal that is lost", LIMIT, || async {
        let troubles = process.output().matches("trouble: ").count();
        Ok((troubles > 1 || !process.running()?).then_some(()))
    })
    .await
    .with_context(|| process.output())?;
    network.back(What::New(0), How::Refuses).await?;
    let status = process.wait_exit(LIMIT).await?;
    println!("{}\n=> {status}", process.output());
    ensure!(network.settle("cutover", Operator::Stays).await? == "old");
    let mut conn = site.estate.new[0].address().connect().await?;
    let sql = format!(
        "SELECT CONCAT(state, ' ', COALESCE(step, '')) FROM {}.modshift_journal ORDER BY entry",
        site.estate.new[0].schema
    );
    let entries: Vec<String> = conn.query(sql).await?;
    let place = |text: &str| entries.iter().position(|entry| entry == text);
    let (turned, undone) = (place("turned back "), place("undone fence"));
    ensure!(turned.is_some() && turned < undone, "{entries:?}");
    let _ = conn.disconnect().await;
    network.cut_over_after_all().await
}

/// The journal's server is not to serve, so it keeps nobody away from the shards that do.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_led_back_to_the_old_shards_while_the_journal_is_away() -> Result<()> {
    let network = Network::start(Log::Direct, seed("led back")?).await?;
    let site = &network.site;
    let routed = || Document::from_json(&std::fs::read(&site.routing)?).context("the routing");
    let (process, file) = network.hold("cutover", "before_seal").await?;
    ensure!(routed()?.side == Side::New, "{:?}", routed()?);
    network.away(What::New(0), How::Refuses)?;
    std::fs::write(&file, "")?;
    let status = process.wait_exit(LIMIT).await?;
    println!("{}\n=> {status}", process.output());
    ensure!(site.accepts(false).await? == "old");
    ensure!(routed()?.side == Side::Old, "{:?}", routed()?);
    network.back(What::New(0), How::Refuses).await?;
    ensure!(network.settle("cutover", Operator::Stays).await? == "old");
    network.cut_over_after_all().await
}

/// Nor does one of the shards that are to serve keep clients away from the others; and it is waited
/// for, which needs the journal and no target.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_led_back_to_the_old_shards_while_one_of_them_is_away() -> Result<()> {
    let network = Network::start(Log::Direct, seed("led back to one")?).await?;
    let site = &network.site;
    let (process, file) = network.hold("cutover", "before_seal").await?;
    network.away(What::Old(1), How::Refuses)?;
    std::fs::write(&file, "")?;
    wait_until("the routing to be taken back", LIMIT, || async {
        let document =
            Document::from_json(&std::fs::read(&site.routing)?).context("the routing")?;
        Ok((document.side == Side::Old && site.accepts(false).await? == "old").then_some(()))
    })
    .await
    .with_context(|| process.output())?;
    ensure!(process.running()?, "nobody waits for the other shard:\n{}", process.output());
    network.back(What::Old(1), How::Refuses).await?;
    let status = process.wait_exit(LIMIT).await?;
    println!("{}\n=> {status}", process.output());
    ensure!(site.accepts(true).await? == "old");
    ensure!(network.settle("cutover", Operator::Stays).await? == "old");
    network.cut_over_after_all().await
}
