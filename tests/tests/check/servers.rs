//! Servers: settings, accounts, privileges.

use anyhow::{Context, Result, ensure};
use modshift_tests::process::Launch;
use modshift_tests::server::{ADMIN, PASSWORD};
use modshift_tests::{MariaDbOptions, MariaDbServer};

use crate::case::{Case, LIMIT, NEW, OLD, TABLE, disks_are_told, options, shared};
use crate::report::Report;

#[tokio::test]
async fn what_could_write_through_the_fence_is_named() -> Result<()> {
    let server = MariaDbServer::start(options(3)).await?;
    let case = Case::new(&server, TABLE).await?;
    let schema = case.schema(0);
    server.run("DELETE FROM mysql.global_priv WHERE User = 'root'").await?;
    server.run("FLUSH PRIVILEGES").await?;
    for account in ["boss", "app", "batch"] {
        server.run(format!("CREATE USER {account}@'%' IDENTIFIED BY 'x'")).await?;
    }
    server.run("GRANT READ_ONLY ADMIN ON *.* TO boss@'%'").await?;
    server.run(format!("GRANT SELECT, INSERT, EXECUTE ON {schema}.* TO app@'%'")).await?;
    server.run(format!("GRANT UPDATE ON {schema}.t TO batch@'%'")).await?;
    case.run(0, "CREATE DEFINER=boss@'%' PROCEDURE p() INSERT INTO t (id, uid) VALUES (1, 2)")
        .await?;
    case.run(0, "CREATE DEFINER=boss@'%' EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t").await?;
    case.run(0, "CREATE DEFINER=boss@'%' VIEW w AS SELECT * FROM t").await?;
    case.run(0, "CREATE DEFINER=app@'%' PROCEDURE q() INSERT INTO t (id, uid) VALUES (1, 2)")
        .await?;
    let case = Case {
        // Both sides are on this server.
        tail: "[cutover]\nold_accounts = [\"app@%\"]\nnew_accounts = [\"app_new@%\"]\n[check]\nignore = [\"*\"]\n".into(),
        ..case
    };
    let report = case.quick().await?;
    let shard = "old shard 0: ";
    report.has("warning", "fence", &[shard, "boss@% may write"], "REVOKE READ_ONLY ADMIN")?;
    report.has("warning", "fence", &[shard, "routines p of boss@%"], "unprivileged DEFINER")?;
    report.has("warning", "fence", &[shard, "events e of boss@%"], "ALTER DEFINER")?;
    report.has("note", "fence", &[shard, "views w of boss@%"], "unprivileged DEFINER")?;
    report.has_no("fence", &["q of"])?;
    let mend = "cutover.accounts = [..., \"batch@%\"]";
    report.has("warning", "fence", &[shard, "batch@% may write and are not in cutover"], mend)?;
    report.has_no("fence", &["app@%"])?;
    // `batch` may write in the schema of old shard 0 only.
    report.has_no("fence", &["old shard 1", "batch@%"])?;

    server.run("REVOKE READ_ONLY ADMIN ON *.* FROM boss@'%'").await?;
    server.run(format!("REVOKE UPDATE ON {schema}.t FROM batch@'%'")).await?;
    let report = case.quick().await?;
    ensure!(report.of_rule("fence")?.is_empty(), "{:#}", report.json);
    Ok(())
}

#[tokio::test]
async fn settings_of_a_new_shard_are_checked_for_its_time_as_a_source() -> Result<()> {
    let odd = MariaDbOptions { sync_binlog: 0, max_allowed_packet: 96 << 20, ..options(4) };
    let odd = odd.arg("--event-scheduler=ON").arg("--skip-log-bin");
    let odd = MariaDbServer::start(odd).await?;
    odd.run("SET GLOBAL sql_mode = 'ANSI'").await?;
    let good = shared().await?;
    let case = Case::on([good, good, &odd, good, good], TABLE).await?;
    case.run(2, "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t").await?;
    case.run(2, "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 'x'").await?;
    case.run(0, "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 'x'").await?;
    let shard = "new shard 0: ";
    let report = case.quick().await?;
    report.has("fault", "back", &[shard, "log_bin is OFF, ON"], "log_bin = binlog")?;
    report.has("warning", "back", &[shard, "sync_binlog is 0"], "SET GLOBAL sync_binlog = 1")?;
    let packet = report.has(
        "warning",
        "back",
        &["old shard 1: max_allowed_packet", "as on new shard 0"],
        "SET GLOBAL max_allowed_packet = 100663296",
    )?;
    let mode =
        report.has("warning", "alike", &[shard, "sql_mode is 'REAL"], "SET GLOBAL sql_mode")?;
    let mode = mode.split(';').next().context("no statement")?.to_owned();
    let event =
        report.has("fault", "events", &["shard 0: ", "enabled events e"], "ALTER EVENT `e`")?;
    let trigger = report.has("fault", "triggers", &["shard 0: table t"], "DROP TRIGGER `tr`")?;
    report.has(
        "fault",
        "handover",
        &["old shard 1: ", "trigger tr is on the one only"],
        "drop the one",
    )?;
    report.has_no("disk", &["new shard 0:", "has"])?;
    report.has("note", "disk", &["new shard 0", "SQL cannot tell"], "SONAME 'disks'")?;

    case.run(2, &event).await?;
    case.run(2, &trigger).await?;
    case.run(2, &mode).await?;
    case.run(2, "SET GLOBAL sync_binlog = 1; SET GLOBAL max_allowed_packet = 67108864").await?;
    ensure!(packet.starts_with("SET GLOBAL"), "{packet}");
    odd.run("INSTALL SONAME 'disks'").await?;
    let report = case.quick().await?;
    for rule in ["events", "triggers", "alike"] {
        report.has_no(rule, &["new shard 0"])?;
    }
    report.has_no("back", &["sync_binlog"])?;
    report.has_no("back", &["max_allowed_packet"])?;
    match disks_are_told() {
        true => report.has_no("disk", &["new shard 0"])?,
        false => {
            let words = ["new shard 0", "DISKS answers error 1105"];
            report.has("note", "disk", &words, "ln -s /proc/mounts /etc/mtab")?;
        }
    }

    // A read-only shard takes an account that may write there.
    let user = "CREATE USER plain@'%' IDENTIFIED BY 'modshift'; GRANT ALL ON *.* TO plain@'%'; \
                REVOKE READ_ONLY ADMIN ON *.* FROM plain@'%'; SET GLOBAL read_only = 1";
    case.run(2, user).await?;
    let path = case.plan()?;
    let plan = std::fs::read_to_string(&path)?;
    let port = format!("port = {}\n", odd.port());
    std::fs::write(&path, plan.replace(&port, &format!("{port}user = \"plain\"\n")))?;
    let launch = Launch::new(["check", "--quick", "--plan"]).arg(path.display().to_string());
    let (code, output) = launch.env("MODSHIFT_PASSWORD", PASSWORD).finish(LIMIT).await?;
    let line = "new shard 0: is read-only, and user plain has no READ_ONLY ADMIN";
    ensure!(code == 1 && output.contains(line), "{code}: {output}");
    ensure!(output.contains("mend: GRANT READ_ONLY ADMIN ON *.* TO `plain`@"), "{output}");
    Ok(())
}

#[tokio::test]
async fn privileges_of_the_way_back_and_of_the_fence_are_asked_for() -> Result<()> {
    let server = MariaDbServer::start(options(6)).await?;
    let case = Case::new(&server, TABLE).await?;
    server.run(format!("CREATE USER poor@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
    for which in 0..OLD + NEW {
        let grants = if which < OLD { "SELECT, TRIGGER" } else { "ALL" };
        server.run(format!("GRANT {grants} ON {}.* TO poor@'%'", case.schema(which))).await?;
    }
    let plan = case.plan()?;
    let text = std::fs::read_to_string(&plan)?.replace(&format!("\"{ADMIN}\""), "\"poor\"");
    std::fs::write(&plan, text)?;
    let args = ["check", "--quick", "--json", "--plan"];
    let check = async || -> Result<Report> {
        let launch = Launch::new(args).arg(plan.display().to_string());
        let (code, output) = launch.env("MODSHIFT_PASSWORD", PASSWORD).finish(LIMIT).await?;
        let report = Report { code, json: serde_json::from_str(&output)? };
        report.is_whole()?;
        Ok(report)
    };
    let report = check().await?;
    let old = "old shard 0: user poor: lacks ";
    report.has(
        "fault",
        "grants",
        &[old, "INSERT, UPDATE, DELETE on", "way back"],
        "GRANT INSERT",
    )?;
    report.has("fault", "grants", &[old, "`modshift_parked`", "way back"], "GRANT CREATE, ")?;
    let new = "new shard 1: user poor: lacks REPLICATION SLAVE on *.*";
    report.has(
        "fault",
        "grants",
        &[new, "way back"],
        "GRANT REPLICATION SLAVE ON *.* TO `poor`@`%`",
    )?;
    report.has(
        "warning",
        "grants",
        &[old, "READ_ONLY ADMIN", "cutover"],
        "GRANT READ_ONLY ADMIN",
    )?;
    report.has("warning", "fence", &["old shard 0", "cannot see which"], "modshift.accounts")?;
    // Every statement at once, as printed.
    for finding in report.of_rule("grants")? {
        server.run(&finding.mend).await?;
    }
    let report = check().await?;
    ensure!(report.of_rule("grants")?.is_empty(), "{:#}", report.json);
    Ok(())
}
