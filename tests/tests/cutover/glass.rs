//! The journal's server is lost in the pause, or only for whoever is told to do without it: the run
//! is undone by what each shard holds, and both sides never serve.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use modshift_routing::{Document, Side};
use modshift_tests::{Log, Modshift, drained_back, server::PASSWORD, wait_until};

use crate::site::{LIMIT, Site, metric, says};

const ALONE: [&str; 3] = ["cutover", "--abort", "--without-journal"];

/// The plan of somebody who does not reach new shard 0.
fn cut_off(site: &Site) -> Result<PathBuf> {
    let port = format!("port = {}\n", site.estate.new[0].server.port());
    let plan = site.estate.plan();
    ensure!(plan.matches(&port).count() == 1, "{port} in\n{plan}");
    let path = site.estate.dir().join("cut_off.toml");
    std::fs::write(&path, plan.replace(&port, "port = 1\n"))?;
    Ok(path)
}

async fn alone(plan: &Path, expected: i32) -> Result<String> {
    let launch = Modshift::launch(ALONE).arg("--plan").arg(plan.display().to_string());
    let (code, said) = launch.env("MODSHIFT_PASSWORD", PASSWORD).finish(LIMIT).await?;
    println!("{said}");
    ensure!(code == expected, "{ALONE:?} ended with {code}:\n{said}");
    Ok(said)
}

fn routed(site: &Site) -> Result<Side> {
    let document = Document::from_json(&std::fs::read(&site.routing)?).context("the routing")?;
    Ok(document.side)
}

/// A program that reads on hears of the end, whatever a command could not do.
async fn end_by_line(site: &Site) -> Result<()> {
    let commands: [&[&str]; 8] = [
        &["verify"],
        &["resync", "--table", "t_wallet"],
        &["skip", "--source", "0", "--gtid", "0-1-1", "--why", "a test", "--yes"],
        &["restart-copy", "--yes"],
        &["cleanup", "--leftovers", "--yes"],
        &["audit"],
        &["finish"],
        &["rearm", "--shard", "1"],
    ];
    let ends = commands.map(async |command| {
        let launch = site.estate.modshift([command, &["--json"]].concat());
        let (code, output) = launch.finish(LIMIT).await?;
        let objects: Vec<serde_json::Value> =
            output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let end = objects.last().with_context(|| format!("{command:?}: {code}\n{output}"))?;
        let says = || format!("{command:?}: {code}\n{output}");
        ensure!(end["kind"] == "end" && end["exit"] == code && code == 2, "{}", says());
        ensure!(end["text"].as_str().is_some_and(|text| !text.is_empty()), "{}", says());
        ensure!(end["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{}", says());
        let ends = objects.iter().filter(|object| object["kind"] == "end").count();
        ensure!(ends == 1, "{}", says());
        Ok(())
    });
    join_all(ends).await.into_iter().collect()
}

/// `[old, new]`, as the metric has it.
async fn serve(daemon: &Modshift, expected: [f64; 2]) -> Result<()> {
    let last = RefCell::new([-1.0; 2]);
    let shown = wait_until("the metric of who serves", LIMIT, || async {
        let old = metric(daemon, "modshift_serving{side=\"old\"}").await?;
        let new = metric(daemon, "modshift_serving{side=\"new\"}").await?;
        last.replace([old, new]);
        Ok(([old, new] == expected).then_some(()))
    });
    shown.await.with_context(|| format!("{:?} in place of {expected:?}", last.borrow()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_undone_without_its_journal_and_never_opens_both_sides() -> Result<()> {
    let site = Site::unwatched(2, 3, Log::Direct, 91, "120s").await?;
    let daemons = site.daemons()?;
    let refused = site.command(&ALONE, &[1]).await?;
    ensure!(refused.contains("nothing to undo"), "{refused}");

    // Its operator still has the journal, and stands in front of the opening.
    let file = site.estate.dir().join("release");
    let launch = site.estate.modshift(["cutover", "--wait", "150s"]);
    let first = launch.hold_until("before_open", 1, &file).start()?;
    let held = first.wait_hold("before_open", LIMIT).await;
    held.with_context(|| format!("{}\n{}", first.output(), says(&daemons)))?;
    ensure!(routed(&site)? == Side::New);
    let refused = site.command(&ALONE, &[1]).await?;
    ensure!(refused.contains("the journal answers"), "{refused}");
    let plan = cut_off(&site)?;
    let undone = alone(&plan, 0).await?;
    ensure!(undone.contains("new shard 1 is barred"), "{undone}");
    ensure!(site.accepts(true).await? == "old");
    ensure!(routed(&site)? == Side::Old);
    std::fs::write(&file, "")?;
    let status = first.wait_exit(LIMIT).await?;
    let said = first.output();
    ensure!(status.code() == Some(2) && said.contains("cannot be opened"), "{status}: {said}");
    ensure!(site.accepts(true).await? == "old", "{said}");
    // Who has the journal writes down what is so.
    site.command(&["cutover", "--abort"], &[0]).await?;
    ensure!(site.serves().await? == "old");

    // Operator and journal are lost in earnest.
    let held = site.estate.modshift(["cutover", "--wait", "150s"]).hold("after_seal", 1).start()?;
    let reached = held.wait_hold("after_seal", LIMIT).await;
    reached.with_context(|| format!("{}\n{}", held.output(), says(&daemons)))?;
    // While an operator is at it nobody moves a stream or has rows copied again.
    let damaged = &site.estate.new[1];
    let damage =
        "SET sql_log_bin = 0; UPDATE t_wallet SET balance = balance + 1 ORDER BY id LIMIT 1";
    damaged.run(damage).await?;
    for (args, words) in [
        (&["verify", "--repair"][..], "nothing was repaired: "),
        (&["rearm", "--shard", "0", "--old"], "nothing was rearmed: "),
        (&["rearm", "--shard", "1"], "nothing was rearmed: "),
    ] {
        let refused = site.command(args, &[1]).await?;
        ensure!(refused.contains(words) && refused.contains(" is at it since "), "{refused}");
    }
    // A pause is no accident as long as somebody is at it.
    let (code, serves) = site.said().await?;
    let text = serves["text"].as_str().unwrap_or_default();
    ensure!(code == 1 && serves["attended"] == "operator", "{code}: {serves}");
    ensure!(
        text.starts_with("neither side serves: ") && text.ends_with("; its operator is at it)")
    );
    serve(&daemons[0], [0.0, 0.0]).await?;
    ensure!(metric(&daemons[0], "modshift_run_left").await? == 0.0);
    held.kill_9()?;
    wait_until("the run to be left", LIMIT, || async {
        Ok((metric(&daemons[0], "modshift_run_left").await? == 1.0).then_some(()))
    })
    .await?;
    let (code, serves) = site.said().await?;
    let text = serves["text"].as_str().unwrap_or_default();
    ensure!(code == 4 && serves["attended"].is_null(), "{code}: {serves}");
    ensure!(text.ends_with("modshift cutover --resume or --abort finishes it)"), "{text}");
    let lost = &site.estate.new[0];
    lost.server.kill()?;
    site.command(&["cutover", "--abort"], &[2]).await?;
    // Of a side that serves the daemons know without the journal, as applications do.
    serve(&daemons[0], [0.0, 0.0]).await?;
    end_by_line(&site).await?;
    site.command(&ALONE, &[0]).await?;
    ensure!(site.accepts(true).await? == "old");
    serve(&daemons[0], [1.0, 0.0]).await?;
    ensure!(routed(&site)? == Side::Old);
    lost.server.restart().await?;
    // Written down where it could be.
    let audited = site.command(&["audit"], &[0]).await?;
    let lines: Vec<&str> = audited.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.contains("written down on new shard 1"));
    let at = at.with_context(|| format!("not in {audited}"))?;
    ensure!(lines[at - 1].contains("--without-journal"), "{audited}");
    ensure!(lines[at + 1].ends_with("undone without its journal"), "{audited}");
    site.command(&["cutover", "--abort"], &[0]).await?;
    ensure!(site.serves().await? == "old");
    // Now that is mended, and written down.
    site.command(&["verify", "--repair"], &[0]).await.with_context(|| says(&daemons))?;
    let audited = site.command(&["audit"], &[0]).await?;
    let repair = "modshift verify --repair";
    ensure!(audited.contains(repair) && audited.contains("has 1 rows copied again"), "{audited}");

    // And the next one is an ordinary one, which cannot be undone so.
    let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
    cut.with_context(|| says(&daemons))?;
    ensure!(site.accepts(true).await? == "new");
    let refused = alone(&plan, 1).await?;
    ensure!(refused.contains("new shard 1 serves"), "{refused}");
    ensure!(site.accepts(true).await? == "new");
    drained_back(&site.estate, LIMIT).await?;
    site.estate.oracle_back().compare().await?.ensure_clean()
}
