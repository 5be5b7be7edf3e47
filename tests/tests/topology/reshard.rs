//! A shard that is a pair of masters, reached by its virtual address, is a shard like any other: its
//! address moves while it is copied and while it is tailed, a master dies and comes back, and the cutover
//! closes both.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use modshift_proto::Gtid;
use modshift_tests::{
    Estate, EstateOptions, MariaDbOptions, MariaDbServer, Modshift, Oracle, WriterOptions,
    application::{Application, plan_tail},
    case::{self, Size},
    drained_back, wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);
const FIRST: u32 = 101;
const SECOND: u32 = 301;
const NEW_FIRST: u32 = 201;
const NEW_SECOND: u32 = 401;

struct Pair {
    estate: Estate,
    second: Arc<MariaDbServer>,
    /// Of new shard 0, where that is a pair, too.
    new_second: Option<MariaDbServer>,
}

fn options(id: u32, domain: Option<u32>, usual: MariaDbOptions) -> MariaDbOptions {
    let usual = usual.calm().arg("--log-slave-updates=ON").arg("--binlog-checksum=CRC32");
    MariaDbOptions { server_id: id, gtid_domain_id: domain, ..usual }
}

/// `domain`: under which both write; each under one of its own without it.
async fn start(domain: Option<u32>) -> Result<Pair> {
    let first = Arc::new(move |index: usize, usual: MariaDbOptions| match index {
        0 => options(FIRST, domain, usual),
        _ => usual,
    });
    let estate = Estate::start(
        2,
        3,
        EstateOptions {
            size: Size::rows(3_000),
            proxies: true,
            neighbours: false,
            old_options: first,
            new_options: Arc::new(|index, usual| match index {
                0 => options(NEW_FIRST, None, usual),
                _ => usual,
            }),
            gate: ("5s".to_owned(), "500ms".to_owned()),
            plan_tail: format!(
                "[reader]\nheartbeat = \"50ms\"\n[snapshot]\nchunk_rows_max = 100\nparallel = 1\n{}",
                plan_tail("budget = \"60s\"")
            ),
            ..EstateOptions::default()
        },
    )
    .await?;
    for shard in estate.old.iter().chain(&estate.new) {
        let sql = "ALTER TABLE t_wallet MODIFY id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT";
        shard.run(sql).await?;
    }
    let closed = options(SECOND, domain, MariaDbOptions::default()).arg("--read-only=ON");
    let second = MariaDbServer::start(closed).await?;
    let second = Arc::new(second);
    let first = &estate.old[0].server;
    second.follow(first).await?;
    first.follow(&second).await?;
    let line = format!("schema = \"{}\"\n", estate.old[0].schema);
    let [a, b] = [domain.unwrap_or(FIRST), domain.unwrap_or(SECOND)];
    let peers = format!(
        "{line}[old.peers]\nservers = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\n\
         server_ids = [{FIRST}, {SECOND}]\ndomains = [{a}, {b}]\n",
        first.port(),
        second.port()
    );
    let mut plan = estate.plan().replacen(&line, &peers, 1);
    let mut new_second = None;
    if domain.is_none() {
        let first = &estate.new[0];
        let closed = options(NEW_SECOND, None, MariaDbOptions::default()).arg("--read-only=ON");
        let second = MariaDbServer::start(closed).await?;
        second.follow(&first.server).await?;
        first.server.follow(&second).await?;
        let line = format!("schema = \"{}\"\n", first.schema);
        let peers = format!(
            "{line}[new.peers]\nservers = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\n\
             server_ids = [{NEW_FIRST}, {NEW_SECOND}]\n",
            first.server.port(),
            second.port()
        );
        plan = plan.replacen(&line, &peers, 1);
        new_second = Some(second);
    }
    std::fs::write(estate.plan_path(), plan)?;
    Ok(Pair { estate, second, new_second })
}

/// Step and offset of the keys that a server gives out.
async fn step(server: &MariaDbServer) -> Result<(u64, u64)> {
    let step = server.value("SELECT @@GLOBAL.auto_increment_increment").await?;
    Ok((step, server.value("SELECT @@GLOBAL.auto_increment_offset").await?))
}

impl Pair {
    fn first(&self) -> &MariaDbServer {
        &self.estate.old[0].server
    }

    /// What `notify.sh` does: the loser closes, the winner has all of it, and only then opens.
    async fn moves(&self, from: &MariaDbServer, to: &MariaDbServer) -> Result<()> {
        from.run("SET GLOBAL read_only = 1").await?;
        caught_up(to, from).await?;
        to.run("SET GLOBAL read_only = 0").await?;
        self.leads_to(to);
        Ok(())
    }

    fn leads_to(&self, to: &MariaDbServer) {
        if let Some(proxy) = &self.estate.old[0].proxy {
            proxy.lead_to(to.port());
        }
    }

    /// What is wrong with the pair, in the words of `check`.
    async fn faults(&self) -> Result<Vec<String>> {
        let (code, report) = self.estate.modshift(["check", "--quick"]).finish(LIMIT).await?;
        ensure!(code == 0, "check ended with {code}:\n{report}");
        let of_pair = |line: &&str| {
            line.contains("old shard 0") && (line.contains("replica") || line.contains("peer"))
        };
        Ok(report.lines().filter(of_pair).map(str::to_owned).collect())
    }
}

async fn logged(server: &MariaDbServer) -> Result<Vec<Gtid>> {
    let text: String = server.value("SELECT @@gtid_binlog_state").await?;
    Ok(text.split(',').filter_map(|gtid| gtid.parse().ok()).collect())
}

/// Until one has logged all that the other has written.
async fn caught_up(server: &MariaDbServer, peer: &MariaDbServer) -> Result<()> {
    let id: u32 = peer.value("SELECT @@server_id").await?;
    let written: Vec<Gtid> = logged(peer).await?.into_iter().filter(|g| g.server == id).collect();
    wait_until(&format!("all of server {id} to be applied"), LIMIT, || async {
        let has = logged(server).await?;
        let covered = |gtid: &Gtid| {
            let same = |g: &&Gtid| (g.domain, g.server) == (gtid.domain, gtid.server);
            has.iter().find(same).is_some_and(|g| g.seq >= gtid.seq)
        };
        Ok(written.iter().all(covered).then_some(()))
    })
    .await
}

async fn a_pair_is_resharded(domain: Option<u32>) -> Result<()> {
    let pair = start(domain).await?;
    let (estate, first, second) = (&pair.estate, pair.first(), &*pair.second);
    caught_up(second, first).await?;
    let found = pair.faults().await?;
    ensure!(found.is_empty(), "{found:#?}");

    let application = Application::enter(estate).await?;
    if pair.new_second.is_some() {
        // A read-only server that replicates might be one that is to be promoted: streams wait for that.
        estate.new[0].run("SET GLOBAL read_only = 0").await?;
    }
    let options = WriterOptions {
        connections: 4,
        rate: Some(80.0),
        giants: None,
        ..WriterOptions::default()
    };
    let writer = application.writer(options).await?;
    let daemon: Modshift = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    let says = || daemon.last_words(60);

    // While it is copied.
    wait_until("the copy to begin", LIMIT, || async {
        let rows: u64 = estate.new[0].value("SELECT COUNT(*) FROM t_trade_order").await?;
        Ok((rows > 0).then_some(()))
    })
    .await
    .with_context(says)?;
    pair.moves(first, second).await?;
    writer.commits(60, LIMIT).await.with_context(says)?;
    let (code, output) = estate.modshift(["gate", "--wait", "100s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", says());

    // While it is tailed: back, and again, for the first dies.
    pair.moves(second, first).await?;
    writer.commits(60, LIMIT).await.with_context(says)?;
    writer.pause().await?;
    caught_up(second, first).await?;
    first.kill()?;
    second.run("SET GLOBAL read_only = 0").await?;
    pair.leads_to(second);
    writer.resume();
    writer.commits(60, LIMIT).await.with_context(says)?;
    first.restart_with(&["--read-only=ON"]).await?;
    writer.commits(30, LIMIT).await.with_context(says)?;

    let (code, output) = estate.modshift(["cutover", "--wait", "100s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the cutover ended with {code}:\n{output}\n{}", says());
    for server in [first, second] {
        ensure!(server.value::<bool>("SELECT @@read_only").await?, "a master was left open");
    }
    // Every third key is at home on a new shard, and of a pair each has every other of them.
    if let Some(new_second) = &pair.new_second {
        let found = [step(&estate.new[0].server).await?, step(new_second).await?];
        ensure!(found == [(6, 3), (6, 6)], "{found:?}");
        ensure!(new_second.value::<bool>("SELECT @@read_only").await?, "both would take writes");
        ensure!(step(&estate.new[1].server).await? == (3, 1), "no pair");
    }
    writer.commits(60, LIMIT).await.with_context(says)?;
    let ledger = writer.stop().await.with_context(says)?;
    ensure!(ledger.audited > 0, "nothing was looked for");

    drained_back(estate, LIMIT).await.with_context(says)?;
    caught_up(first, second).await?;
    for server in [first, second] {
        let of_pair = server.address().with_schema(&estate.old[0].schema);
        let old = vec![of_pair, estate.old[1].address()];
        let oracle = Oracle::new(estate.new_addresses(), old, case::rules());
        oracle.compare().await?.ensure_clean()?;
    }
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "the daemon ended with {code}:\n{}", says());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_of_two_domains_is_a_shard_like_any_other() -> Result<()> {
    a_pair_is_resharded(None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_of_one_domain_is_a_shard_like_any_other() -> Result<()> {
    a_pair_is_resharded(Some(7)).await
}
