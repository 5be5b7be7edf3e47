//! The plan's tables are fixed by the cutover: afterwards both sides have rows of a table that comes
//! or goes, and nobody knows which are newer.

use anyhow::{Context, Result, ensure};
use modshift_tests::Log;

use crate::site::{LIMIT, Site, says};

#[tokio::test(flavor = "multi_thread")]
async fn after_the_cutover_no_table_comes_or_goes() -> Result<()> {
    let site = Site::start(1, 2, Log::Direct, 81, "60s").await?;
    let estate = &site.estate;
    let whole = estate.plan();
    let without = |table: &str| -> Result<String> {
        let begin = whole.find(&format!("[[table]]\nname = \"{table}\"")).context("no table")?;
        let end = whole[begin + 1..].find("\n[").map_or(whole.len(), |end| begin + 2 + end);
        let ignored = format!("[check]\nignore = [\"{table}\"]");
        Ok(format!("{}{}", &whole[..begin], &whole[end..]).replace("[check]", &ignored))
    };
    // Cut over without the currencies; the routing document names the tables.
    std::fs::remove_file(&site.routing)?;
    std::fs::write(estate.plan_path(), without("t_currency")?)?;
    let daemons = site.daemons()?;
    site.command(&["cutover", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    for (plan, changed) in [
        (whole.clone(), "has t_currency in addition"),
        (without("t_user")?, "has t_currency in addition, and lacks t_user"),
    ] {
        std::fs::write(estate.plan_path(), plan)?;
        for command in [["rollback", "--dry-run"], ["verify", "--back"]] {
            let refused = site.command(&command, &[3]).await?;
            ensure!(refused.contains(&format!("the plan {changed}")), "{refused}");
        }
        let refused = site.command(&["rollback"], &[3]).await?;
        ensure!(refused.contains("has been cut over with the tables it had then"), "{refused}");
        let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
        for shard in ["old shard 0", "new shard 0", "new shard 1"] {
            let said = format!("{shard}: the plan {changed}, but the reshard has been cut over");
            daemon.wait_line(&said, LIMIT).await?;
        }
        daemon.stop(LIMIT).await?;
        ensure!(site.serves().await? == "new");
    }
    // The way out.
    std::fs::write(estate.plan_path(), without("t_currency")?)?;
    let daemons = site.daemons()?;
    site.command(&["rollback", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    ensure!(site.serves().await? == "old");
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    Ok(())
}
