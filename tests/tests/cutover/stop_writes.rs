//! `--stop-writes`: the fence first, then copy, compare and switch.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, random::Random};

use crate::site::{APP, LIMIT, Site, sample, seed};

/// Where the daemon stands when writes are stopped: copying not begun, or in the middle of it.
const POINTS: [&str; 2] = ["epoch_raised_before_markers", "mid_chunk"];

async fn copied_behind_the_fence(point: &'static str, seed: u64) -> Result<()> {
    println!("{point}: seed {seed}");
    let site = Site::start(2, 3, Log::Direct, seed, "60s").await?;
    let estate = &site.estate;
    let plan = estate.plan().replace("verify_age = \"none\"", "verify_age = \"1h\"");
    std::fs::write(estate.plan_path(), plan)?;
    let writer = site.writer(seed, 100.0).await?;
    writer.commits(50, LIMIT).await?;

    // Markers have no row yet.
    let refused = site.command(&["cutover", "--stop-writes"], &[1]).await?;
    ensure!(refused.contains("start the daemons"), "{refused}");
    ensure!(site.accepts(true).await? == "old");

    let file = estate.dir().join("copy");
    let launch = estate.modshift(["run", "--listen", "127.0.0.1:0"]);
    let daemon = launch.hold_until(point, 1, &file).start()?;
    daemon.wait_hold(point, LIMIT).await.with_context(|| daemon.last_words(40))?;
    // The one that is held is one of two readers: until both have a token there is no fence.
    modshift_tests::wait_until("tokens", LIMIT, || async {
        for shard in &estate.old {
            if shard.value::<u64>("SELECT COUNT(*) FROM modshift_token").await.unwrap_or(0) == 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    let args = ["cutover", "--stop-writes", "--wait", "150s"];
    let cutover = estate.modshift(args).stages().start()?;
    let fenced = cutover.wait_stage("after_fence", LIMIT).await;
    fenced.with_context(|| format!("{}\n{}", cutover.output(), daemon.last_words(60)))?;
    let mut copied = 0;
    for shard in &estate.new {
        let sql = "SELECT COUNT(*) FROM modshift_watermark WHERE copied = 1";
        copied += shard.value::<u64>(sql).await?;
    }
    ensure!(copied < 6, "everything is copied before the fence");
    ensure!(site.accepts(false).await? == "none", "{APP} writes behind the fence");
    ensure!(site.serves().await? == "none");

    std::fs::write(&file, "")?;
    // The gate waits for a comparison, of rows that are all there.
    modshift_tests::copied(estate, LIMIT).await.with_context(|| daemon.last_words(60))?;
    ensure!(cutover.running()?, "not verified yet: {}", cutover.output());
    site.command(&["verify"], &[0]).await?;
    let status = cutover.wait_exit(LIMIT).await?;
    println!("{}", cutover.output());
    ensure!(status.success(), "{status}\n{}\n{}", cutover.output(), daemon.last_words(60));
    writer.commits(50, LIMIT).await?;
    ensure!(site.accepts(true).await? == "new" && site.serves().await? == "new");
    writer.stop().await?;
    modshift_tests::drained_back(estate, LIMIT).await?;
    estate.oracle_back().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_stopped_before_or_amid_the_copy_are_switched_once_all_is_compared() -> Result<()> {
    let mut random = Random::new(seed("stop_writes")?);
    for point in sample(&mut random, &POINTS, 1) {
        copied_behind_the_fence(point, random.next()).await.context(point)?;
    }
    Ok(())
}
