//! The plan's tables are fixed by the cutover: afterwards both sides have rows of a table that comes
//! or goes, and nobody knows which are newer.

use anyhow::{Context, Result, ensure};
use modshift_tests::{EstateOptions, Log};

use crate::site::{APP_ACCOUNT, LIMIT, Site, options, says};

/// The plan with that table left out by name.
fn without(whole: &str, table: &str) -> Result<String> {
    let begin = whole.find(&format!("[[table]]\nname = \"{table}\"")).context("no table")?;
    let end = whole[begin + 1..].find("\n[").map_or(whole.len(), |end| begin + 2 + end);
    let ignored = format!("[check]\nignore = [\"{table}\"]");
    Ok(format!("{}{}", &whole[..begin], &whole[end..]).replace("[check]", &ignored))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_cutover_no_table_comes_or_goes() -> Result<()> {
    let site = Site::start(1, 2, Log::Direct, 81, "60s").await?;
    let estate = &site.estate;
    let whole = estate.plan();
    let without = |table: &str| without(&whole, table);
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

/// Without a way back no reader has ever written a token on the new shards: that they serve must stand
/// there all the same.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_way_back_nothing_is_copied_over_what_serves() -> Result<()> {
    let options = options(Log::Direct, 82, "60s", &format!("\"{APP_ACCOUNT}\""));
    let plan_tail = format!("{}\n[back]\nenabled = false\n", options.plan_tail);
    let site = Site::open(1, 2, EstateOptions { plan_tail, ..options }).await?;
    let estate = &site.estate;
    let whole = estate.plan();
    std::fs::remove_file(&site.routing)?;
    std::fs::write(estate.plan_path(), without(&whole, "t_wallet")?)?;
    let daemons = site.daemons()?;
    site.command(&["cutover", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    // The application goes on where it is now.
    let insert = "INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES (7, 0, 1, 1)";
    estate.new[0].run(insert).await?;
    for (plan, changed) in [
        (whole.clone(), "has t_wallet in addition"),
        (without(&whole, "t_user")?, "has t_wallet in addition, and lacks t_user"),
    ] {
        std::fs::write(estate.plan_path(), plan)?;
        let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
        let said = format!("old shard 0: the plan {changed}, but the reshard has been cut over");
        daemon.wait_line(&said, LIMIT).await?;
        daemon.stop(LIMIT).await?;
    }
    let rows: u64 = estate.new[0].value("SELECT COUNT(*) FROM t_wallet").await?;
    ensure!(rows == 1, "{rows} rows");
    // No mend of `check` treats a shard that serves as a copy.
    std::fs::write(estate.plan_path(), &whole)?;
    estate.new[0].run("ALTER TABLE t_user ADD COLUMN nickname VARCHAR(20)").await?;
    let (_, said) = estate.modshift(["check"]).finish(LIMIT).await?;
    ensure!(said.contains("nickname") && !said.contains("DROP COLUMN"), "{said}");
    Ok(())
}
