//! Writes through a fence, by an account that read_only does not stop and the plan does not name:
//! carried over where the fence is undone, refused by name where the cutover ends.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, Modshift, drained, estate::Shard, wait_until};

use crate::site::{LIMIT, Site, says};

/// A row of an account that lives on this old shard.
async fn foreign(site: &Site, shard: &Shard, number: usize, id: u64) -> Result<()> {
    let account = number + 1_000_000 * site.estate.old.len();
    let sql = format!(
        "INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES ({id}, {account}, 1, 1)"
    );
    // As the administrator, who holds READ_ONLY ADMIN.
    shard.address().run(sql).await
}

async fn halted(site: &Site, daemons: &[Modshift]) -> Result<()> {
    wait_until("the gate to name the write", LIMIT, || async {
        let (code, said) = site.estate.modshift(["gate"]).finish(LIMIT).await?;
        Ok((code == 1 && said.contains("but the shard is fenced")).then_some(()))
    })
    .await
    .with_context(|| says(daemons))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_behind_a_fence_that_is_undone_is_carried_over() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 81, "60s").await?;
    let mut daemons = site.daemons()?;
    let mut id = 1 << 41;
    // Undone by the run itself, which learns of it; and by a second one, with the daemons started
    // anew in between.
    for restarted in [false, true] {
        let file = site.estate.dir().join("release");
        std::fs::remove_file(&file).ok();
        let launch = site.estate.modshift(["cutover", "--wait", "150s"]);
        let process = launch.hold_until("before_drain", 1, &file).start()?;
        let held = process.wait_hold("before_drain", LIMIT).await;
        held.with_context(|| format!("{}\n{}", process.output(), says(&daemons)))?;
        for (number, shard) in site.estate.old.iter().enumerate() {
            foreign(&site, shard, number, id).await?;
            id += 1;
        }
        halted(&site, &daemons).await?;
        if restarted {
            process.kill_9()?;
            daemons[0].kill_9()?;
            // Nobody is at the run, and whoever resumes it must not find the write passed over.
            let refused = site.command(&["rearm", "--shard", "0", "--old"], &[1]).await?;
            ensure!(refused.contains("a run is not over"), "{refused}");
            ensure!(refused.contains("--resume or --abort"), "{refused}");
            daemons = site.daemons()?;
            site.command(&["cutover", "--abort"], &[0]).await.with_context(|| says(&daemons))?;
        } else {
            // The seal's marker lies behind the write, too.
            std::fs::write(&file, "")?;
            let status = process.wait_exit(LIMIT).await?;
            let said = process.output();
            ensure!(status.code() == Some(1), "{status}: {said}\n{}", says(&daemons));
            ensure!(said.contains("reader of old shard"), "{said}");
        }
        site.command(&["gate", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
        drained(&site.estate, LIMIT).await.with_context(|| says(&daemons))?;
        site.estate.oracle().compare().await?.ensure_clean()?;
    }

    let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
    cut.with_context(|| says(&daemons))?;
    // Behind a cutover that stands it is on the wrong side.
    foreign(&site, &site.estate.old[0], 0, id).await?;
    wait_until("the status to name the write", LIMIT, || async {
        let (code, said) = site.estate.modshift(["status"]).finish(LIMIT).await?;
        Ok((code == 4 && said.contains("old shard 0: group")).then_some(()))
    })
    .await
    .with_context(|| says(&daemons))?;
    daemons[0].stop(LIMIT).await?;
    site.estate.old[0].address().run(format!("DELETE FROM t_wallet WHERE id = {id}")).await?;
    for wrong in [&["rearm", "--shard", "0"][..], &["rearm", "--shard", "1", "--old"]] {
        let refused = site.command(wrong, &[1]).await?;
        ensure!(refused.contains("nothing was done") || refused.contains("serves"), "{refused}");
    }
    site.command(&["rearm", "--shard", "0", "--old"], &[0]).await?;
    let audited = site.command(&["audit"], &[0]).await?;
    let moved = audited.split("moves a stream past what it halted on").nth(1).unwrap_or_default();
    ensure!(moved.lines().nth(1).is_some_and(|line| line.ends_with(": done")), "{audited}");
    let daemons = site.daemons()?;
    let back = site.command(&["rollback", "--wait", "150s"], &[0]).await;
    back.with_context(|| says(&daemons))?;
    ensure!(site.accepts(true).await? == "old");
    drained(&site.estate, LIMIT).await.with_context(|| says(&daemons))?;
    site.estate.oracle().compare().await?.ensure_clean()
}
