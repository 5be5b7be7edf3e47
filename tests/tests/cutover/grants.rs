//! There, back, there again and the end, with the least privileges: each command does what it is for, one
//! after the other.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    EstateOptions, Log, Modshift,
    estate::Shard,
    grants::{grant_all, grant_with},
    wait_until,
};
use mysql_async::prelude::Queryable;

use crate::site::{APP_ACCOUNT, LIMIT, Site, options, says};

const DAEMONS: &str = "resharder";
const SWITCHER: &str = "switcher";
const TOKEN: &str = "a-token-of-the-test";

#[tokio::test(flavor = "multi_thread")]
async fn the_grants_are_enough_for_cutover_rollback_and_finish() -> Result<()> {
    let usual = options(Log::kafka(), 41, "60s", &format!("\"{APP_ACCOUNT}\""));
    let login =
        format!("[cutover]\nuser = \"{SWITCHER}\"\npassword = \"${{MODSHIFT_PASSWORD}}\"\n");
    let plan_tail = usual.plan_tail.replace("[cutover]\n", &login);
    let plan_tail = format!("{plan_tail}\n[control]\ntoken = \"{TOKEN}\"\n");
    let site = Site::open(2, 3, EstateOptions { plan_tail, ..usual }).await?;
    let estate = &site.estate;
    grant_all(estate, DAEMONS, SWITCHER)?;
    for shard in estate.old.iter().chain(&estate.new) {
        // What is carried over, with the rights to do so.
        shard.run("CREATE SEQUENCE numbers").await?;
        shard.server.run("SET GLOBAL event_scheduler = ON").await?;
    }
    estate.old[0].run("SELECT NEXTVAL(numbers)").await?;
    // Three rows for new shard 2 that the application leaves alone.
    let rows = "INSERT INTO t_wallet (id, accountNo, balance, ver) \
                SELECT 9000000000000000000 + seq, seq * 6 + 2, 1, 1 FROM seq_1_to_3";
    estate.old[0].run(rows).await?;
    let plan = estate.plan().replace("user = \"modshift\"", &format!("user = \"{DAEMONS}\""));
    std::fs::write(estate.plan_path(), plan)?;
    // Each command that comes before the first row is copied, and those that only look.
    let list = estate.dir().join("meeting.tsv").display().to_string();
    for args in [
        &["schema"][..],
        &["schema", "--apply"],
        &["check", "--deep", "--sample", "--collisions", &list],
        &["check", "--trial"],
        &["audit"],
    ] {
        may(&site, args, &[0, 1]).await?;
    }
    let writer = site.writer(41, 60.0).await?;
    let mut daemons = site.daemons()?;
    may(&site, &["gate", "--wait", "120s"], &[0]).await.with_context(|| says(&daemons))?;
    for (role, daemon) in ["--consumer", "--replicator"].into_iter().zip(&daemons) {
        let url = daemon.pages(LIMIT).await?;
        for args in [&["pause"][..], &["throttle", "--ratio", "50%"], &["resume"]] {
            may(&site, &[args, &[role, &url]].concat(), &[0]).await?;
        }
        may(&site, &["throttle", "--off", role, &url], &[0]).await?;
    }
    // Rows that the reader copies again.
    let damage =
        "SET sql_log_bin = 0; UPDATE t_wallet SET balance = 2 WHERE id >= 9000000000000000000";
    estate.new[2].run(damage).await?;
    let repaired = may(&site, &["verify", "--repair"], &[0]).await;
    let repaired = repaired.with_context(|| says(&daemons))?;
    ensure!(repaired.contains("3 rows were copied again"), "{repaired}");
    // A stream that halted on a write that is none of ours, on a new shard.
    daemons = rearmed(&site, daemons, &estate.new[1], &["rearm", "--shard", "1"]).await?;
    may(&site, &["gate", "--wait", "120s"], &[0]).await.with_context(|| says(&daemons))?;
    // And the whole copy once more: rows that the daemons' login may only delete.
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    may(&site, &["restart-copy", "--dry-run"], &[0]).await?;
    may(&site, &["restart-copy", "--yes"], &[0]).await?;
    daemons = site.daemons()?;
    may(&site, &["gate", "--wait", "120s"], &[0]).await.with_context(|| says(&daemons))?;
    for args in [&["verify"][..], &["status"], &["cutover", "--dry-run"], &["check", "--quick"]] {
        may(&site, args, &[0, 1]).await?;
    }
    for (command, serves) in [("cutover", "new"), ("rollback", "old"), ("cutover", "new")] {
        let ran = site.command(&[command, "--wait", "150s"], &[0]).await;
        ran.with_context(|| says(&daemons))?;
        ensure!(site.accepts(true).await? == serves);
        writer.commits(30, LIMIT).await.with_context(|| says(&daemons))?;
        if serves == "new" {
            may(&site, &["verify", "--back"], &[0]).await.with_context(|| says(&daemons))?;
            may(&site, &["rollback", "--dry-run"], &[0, 1]).await?;
        }
    }
    writer.stop().await?;
    modshift_tests::drained_back(estate, LIMIT).await?;
    estate.oracle_back().compare().await?.ensure_clean()?;
    // And on an old one, behind a cutover that stands.
    let rearm = ["rearm", "--shard", "0", "--old"];
    daemons = rearmed(&site, daemons, &estate.old[0], &rearm).await?;
    may(&site, &["rollback", "--dry-run"], &[0]).await.with_context(|| says(&daemons))?;
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    for args in [
        &["check", "--quick"][..],
        &["finish", "--dry-run"],
        &["finish"],
        &["status"],
        &["unfence", "--dry-run"],
        &["unfence"],
        &["audit"],
    ] {
        // What would be removed is still needed.
        let cleanup = ["cleanup", "--leftovers", "--dry-run"];
        match args {
            ["finish", "--dry-run"] => {
                let refused = may(&site, &cleanup, &[1]).await?;
                ensure!(refused.contains("`modshift finish` ends it"), "{refused}");
                ensure!(refused.contains("a reshard that is not finished uses"), "{refused}");
            }
            ["unfence", "--dry-run"] => {
                let refused = may(&site, &cleanup, &[1]).await?;
                ensure!(refused.contains("`modshift unfence` of that plan"), "{refused}");
            }
            _ => {}
        }
        let only_looks = ["check", "status"].contains(&args[0]);
        let codes: &[i32] = if only_looks { &[0, 1, 2] } else { &[0] };
        let said = may(&site, args, codes).await?;
        if args == ["finish"] {
            let lines = "a restart opens it: read_only = 1, event_scheduler = OFF";
            for shard in 0..2 {
                let note = format!("no daemon keeps old shard {shard} closed any more");
                ensure!(said.contains(&note) && said.contains(lines), "{said}");
            }
        }
    }
    nothing_is_left(&site).await
}

/// After the end: what remains is what README lists, and one command removes it, its own accounts last.
async fn nothing_is_left(site: &Site) -> Result<()> {
    let estate = &site.estate;
    for (index, shard) in estate.old.iter().chain(&estate.new).enumerate() {
        let mut remain = vec!["modshift_finished", "modshift_routing"];
        if index == estate.old.len() {
            let home =
                ["modshift_audit", "modshift_fence", "modshift_journal", "modshift_operator"];
            remain.extend(home);
        }
        let mut expected: Vec<String> =
            remain.into_iter().map(|name| format!("{}.{name}", shard.schema)).collect();
        let views: &[_] = if index < estate.old.len() { &["accounts", "writers"] } else { &[] };
        expected.extend(["fences"].iter().chain(views).map(|name| format!("modshift.{name}")));
        expected.extend([DAEMONS, SWITCHER].map(|user| format!("account {user}")));
        expected.push("schema modshift".to_owned());
        expected.sort();
        ensure!(of_modshift(shard).await? == expected, "{:#?}", of_modshift(shard).await?);
    }
    let clean = |more: &'static str| ["cleanup", "--leftovers", more];
    without_a_server_that_is_gone(site).await?;
    let listed = may(site, &clean("--dry-run"), &[0]).await?;
    for line in [
        "new shard 0: DROP TABLE IF EXISTS `modshift_journal`;",
        "old shard 1: table modshift_routing stays: applications may follow it",
        "the server of old shard 0: DROP DATABASE IF EXISTS `modshift`;",
        "the server of new shard 2: DROP USER `switcher`@`127.0.0.%`;",
        "kafka: topic ",
    ] {
        ensure!(listed.contains(line), "no {line} in {listed}");
    }
    site.command(&["cleanup", "--leftovers"], &[3]).await?;
    let done = may(site, &clean("--yes"), &[0]).await?;
    ensure!(done.ends_with("cleanup: done"), "{done}");
    for shard in estate.old.iter().chain(&estate.new) {
        let left = of_modshift(shard).await?;
        ensure!(left == [format!("{}.modshift_routing", shard.schema)], "{left:?}");
    }
    Ok(())
}

/// It may have been taken down before `unfence` came to it, which then remembers what it was.
async fn without_a_server_that_is_gone(site: &Site) -> Result<()> {
    let (home, gone) = (&site.estate.new[0], &site.estate.old[1]);
    let address = home.server.address().with_schema(&home.schema);
    let remember = format!(
        "INSERT INTO modshift_fence SELECT DISTINCT plan, 'old 127.0.0.1:{}', '{{}}', UTC_TIMESTAMP(6) \
         FROM modshift_journal",
        gone.server.port()
    );
    address.run(&remember).await?;
    let dry = ["cleanup", "--leftovers", "--dry-run"];
    let without: Vec<&str> = [&dry[..], &["--gone-old", "1"]].concat();
    let refused = may(site, &dry, &[1]).await?;
    ensure!(refused.contains("remembers what old 127.0.0.1:"), "{refused}");
    let refused = may(site, &without, &[1]).await?;
    ensure!(refused.contains("old shard 1 answers: leave it out of --gone-old"), "{refused}");
    gone.server.stop().await?;
    let refused = may(site, &dry, &[2]).await?;
    ensure!(refused.contains("is gone for good, give --gone-old 1"), "{refused}");
    let listed = may(site, &without, &[0]).await?;
    ensure!(listed.contains("the server of old shard 0: DROP DATABASE"), "{listed}");
    ensure!(!listed.contains("old shard 1"), "{listed}");
    gone.server.restart().await?;
    address.run("DELETE FROM modshift_fence").await?;

    let away = &site.estate.new[1];
    away.server.stop().await?;
    let refused = may(site, &dry, &[2]).await?;
    ensure!(refused.contains("is gone for good, give --gone-new 1"), "{refused}");
    let refused = may(site, &[&dry[..], &["--gone-new", "0,1"]].concat(), &[1]).await?;
    ensure!(refused.contains("--gone-new 0: new shard 0 holds the journal"), "{refused}");
    let listed = may(site, &[&dry[..], &["--gone-new", "1"]].concat(), &[0]).await?;
    ensure!(listed.contains("the server of new shard 2: DROP USER"), "{listed}");
    ensure!(!listed.contains("new shard 1"), "{listed}");
    away.server.restart().await
}

/// Every table, view, routine, trigger, event, schema and account that is modshift's on the server.
async fn of_modshift(shard: &Shard) -> Result<Vec<String>> {
    const MINE: &str = "LIKE 'modshift%'";
    let sql = format!(
        "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES \
         WHERE TABLE_NAME LIKE 'modshift\\_%' OR TABLE_SCHEMA = 'modshift' \
         UNION ALL SELECT CONCAT('schema ', SCHEMA_NAME) FROM information_schema.SCHEMATA \
         WHERE SCHEMA_NAME {MINE} \
         UNION ALL SELECT CONCAT('routine ', ROUTINE_NAME) FROM information_schema.ROUTINES \
         WHERE ROUTINE_NAME {MINE} \
         UNION ALL SELECT CONCAT('trigger ', TRIGGER_NAME) FROM information_schema.TRIGGERS \
         WHERE TRIGGER_NAME {MINE} \
         UNION ALL SELECT CONCAT('event ', EVENT_NAME) FROM information_schema.EVENTS \
         WHERE EVENT_NAME {MINE} \
         UNION ALL SELECT DISTINCT CONCAT('account ', User) FROM mysql.global_priv \
         WHERE User IN ('{DAEMONS}', '{SWITCHER}')"
    );
    let mut conn = shard.server.connect().await?;
    let mut found: Vec<String> = conn.query(sql).await?;
    found.sort();
    Ok(found)
}

/// Where the plan names no accounts, no events run and keys are the application's own, the login of the
/// cutover is neither SUPER nor one that makes accounts.
#[tokio::test(flavor = "multi_thread")]
async fn without_accounts_events_and_counters_a_cutover_takes_no_administrator() -> Result<()> {
    let usual = options(Log::Direct, 42, "60s", "");
    let login = format!(
        "[cutover]\nauto_increment = \"keep\"\nuser = \"{SWITCHER}\"\n\
         password = \"${{MODSHIFT_PASSWORD}}\"\n"
    );
    let plan_tail = usual.plan_tail.replace("[cutover]\n", &login);
    let site = Site::open(1, 2, EstateOptions { plan_tail, ..usual }).await?;
    let estate = &site.estate;
    for shard in estate.old.iter().chain(&estate.new) {
        let server = shard.server.address();
        let less = "@super = 0, @locks = 0";
        grant_with(&server, &shard.schema, SWITCHER, "grants-cutover.sql", less)?;
        let sql = format!("SHOW GRANTS FOR {SWITCHER}@'127.0.0.%'");
        let held: String = shard.server.value(sql).await?;
        ensure!(!held.contains("SUPER") && !held.contains("CREATE USER"), "{held}");
    }
    let checked = site.command(&["check", "--quick"], &[0, 1]).await?;
    ensure!(!checked.contains(&format!("user {SWITCHER}: lacks")), "{checked}");
    let daemons = site.daemons()?;
    for (command, serves) in [("cutover", "new"), ("rollback", "old")] {
        may(&site, &[command, "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
        ensure!(site.accepts(true).await? == serves);
    }
    Ok(())
}

/// A privileged write where nobody should write, and the way out once it is undone.
async fn rearmed(
    site: &Site,
    daemons: Vec<Modshift>,
    shard: &Shard,
    rearm: &[&str],
) -> Result<Vec<Modshift>> {
    shard.run("CREATE TABLE kept AS SELECT * FROM t_wallet ORDER BY id DESC LIMIT 1").await?;
    shard.run("DELETE FROM t_wallet WHERE id IN (SELECT id FROM kept)").await?;
    wait_until("a stream to halt", LIMIT, || async {
        let (code, said) = site.estate.modshift(["status"]).finish(LIMIT).await?;
        Ok((code == 4 && said.contains("modshift rearm")).then_some(()))
    })
    .await
    .with_context(|| says(&daemons))?;
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    // The application may have changed that row since, which brought it back.
    shard.run("INSERT IGNORE INTO t_wallet SELECT * FROM kept").await?;
    shard.run("DROP TABLE kept").await?;
    may(site, rearm, &[0]).await?;
    let daemons = site.daemons()?;
    for daemon in &daemons {
        // From here on a signal is an orderly end, and no longer that of a process that begins.
        daemon.wait_line("starting", LIMIT).await?;
    }
    Ok(daemons)
}

/// A command that no server refuses anything.
async fn may(site: &Site, args: &[&str], codes: &[i32]) -> Result<String> {
    let said = site.command(args, codes).await?;
    for word in ["denied", "lacks ", "you need (at least one of)"] {
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(word)).collect();
        ensure!(lines.is_empty(), "modshift {}: {lines:#?}", args.join(" "));
    }
    Ok(said)
}
