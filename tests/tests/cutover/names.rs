//! Names of tables: those that modshift's own have in part, letters beyond ASCII, quotes, and a server
//! to which case means nothing.

use anyhow::{Context, Result, ensure};
use modshift_tests::{EstateOptions, Log, Rule, TableRule, drained, drained_back};

use crate::site::{APP_ACCOUNT, LIMIT, Site, options, says};

const NAMES: [&str; 9] =
    ["entry", "run", "state", "token", "server", "account", "größe", "of 'x y", "表"];

/// There and back, with rows written on either side and DDL in other schemas that has these names.
async fn there_and_back(
    server: &'static [&'static str],
    names: &[&str],
    seed: u64,
) -> Result<Site> {
    let usual = options(Log::Direct, seed, "60s", &format!("\"{APP_ACCOUNT}\""));
    let with = move |_, options: modshift_tests::MariaDbOptions| {
        server.iter().fold(options, |options, option| options.arg(option))
    };
    let options = EstateOptions {
        old_options: std::sync::Arc::new(with),
        new_options: std::sync::Arc::new(with),
        size: modshift_tests::case::Size::rows(20),
        ..usual
    };
    let mut site = Site::open(1, 2, options).await?;
    std::fs::remove_file(&site.routing)?;
    let quoted: Vec<String> = names.iter().map(|n| format!("`{}`", n.replace('`', "``"))).collect();
    for shard in site.estate.old.iter().chain(&site.estate.new) {
        let mut conn = shard.address().connect().await?;
        for name in &quoted {
            use mysql_async::prelude::Queryable;
            let sql = format!("CREATE TABLE {name} (id INT PRIMARY KEY, uid INT NOT NULL, v INT)");
            conn.query_drop(sql).await?;
        }
        conn.disconnect().await?;
    }
    for name in names {
        site.estate.rules.push(TableRule::new(name, Rule::floor_mod("uid")));
    }
    std::fs::write(site.estate.plan_path(), site.estate.plan())?;
    let estate = &site.estate;
    for name in &quoted {
        estate.old[0].run(&format!("INSERT INTO {name} VALUES (1, 1, 0), (2, 2, 0)")).await?;
    }
    let daemons = site.daemons()?;
    let words = |to: &str| format!("{to}:\n{}", says(&daemons));
    modshift_tests::copied(estate, LIMIT).await.with_context(|| words("copied"))?;
    for name in &quoted {
        let write = [
            format!("INSERT INTO {name} VALUES (3, 3, 0), (4, 4, 0)"),
            format!("UPDATE {name} SET v = v + 1, uid = uid + 1 WHERE id < 4"),
            format!("CREATE DATABASE {name}"),
            format!("CREATE TABLE {name}.{name} (a INT) COMMENT 'of others'"),
            format!("CREATE INDEX by_v ON {name} (v)"),
            format!("DROP DATABASE {name}"),
        ];
        for sql in write {
            estate.old[0].run(&sql).await?;
        }
    }
    drained(estate, LIMIT).await.with_context(|| words("drained"))?;
    site.command(&["cutover", "--wait", "100s"], &[0]).await.with_context(|| words("cutover"))?;
    estate.oracle_back().compare().await?.ensure_clean()?;
    for (name, shard) in quoted.iter().flat_map(|name| estate.new.iter().map(move |s| (name, s))) {
        shard.run(&format!("UPDATE {name} SET v = v + 10")).await?;
    }
    for name in &quoted {
        estate.new[0].run(&format!("INSERT INTO {name} VALUES (6, 6, 6)")).await?;
    }
    drained_back(estate, LIMIT).await.with_context(|| words("drained back"))?;
    site.command(&["rollback", "--wait", "100s"], &[0]).await.with_context(|| words("rollback"))?;
    estate.oracle().compare().await?.ensure_clean()?;
    ensure!(site.serves().await? == "old");
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
        let halted = daemon.lines().into_iter().find(|line| line.contains("halted"));
        ensure!(halted.is_none(), "{halted:?}");
    }
    Ok(site)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_may_be_called_as_modshifts_own_and_in_any_letters() -> Result<()> {
    there_and_back(&[], &NAMES, 91).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_case_means_nothing_the_plan_has_names_as_the_server_spells_them() -> Result<()> {
    let site = there_and_back(&["--lower-case-table-names=1"], &["entry", "größe"], 92).await?;
    let plan = site.estate.plan().replace("\"entry\"", "\"Entry\"");
    std::fs::write(site.estate.plan_path(), plan)?;
    let (_, said) = site.estate.modshift(["check", "--quick"]).finish(LIMIT).await?;
    let words = "table `shard_old_0`.`Entry` is called `entry` there";
    ensure!(said.contains(words) && said.contains("write the name in the plan"), "{said}");
    ensure!(!said.contains("table Entry: is missing"), "{said}");
    Ok(())
}
