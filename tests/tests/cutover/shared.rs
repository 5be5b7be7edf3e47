//! A server that holds an old shard and a new one: read_only would stop both, so the fence is of
//! accounts only.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, Log,
    server::{ADMIN, PASSWORD},
    wait_until,
};
use mysql_async::prelude::Queryable;

use crate::site::{APP, APP_ACCOUNT, Site, says};

const NEW_APP: &str = "app_new";

/// Two old shards become one, which lies on the server of the first.
async fn put_together(site: &Site) -> Result<Address> {
    let (old, new) = (&site.estate.old[0], &site.estate.new[0]);
    modshift_tests::case::create_schema(&old.server.address(), &new.schema).await?;
    let schema = new.schema.replace('_', "\\_");
    for sql in [
        format!("CREATE USER {NEW_APP}@'%' IDENTIFIED BY '{NEW_APP}'"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON `{schema}`.* TO {NEW_APP}@'%'"),
        "SET GLOBAL event_scheduler = ON".to_owned(),
    ] {
        old.server.run(sql).await?;
    }
    std::fs::remove_file(&site.routing)?;
    let address = Address::admin(old.server.port(), &new.schema);
    Ok(Address { user: NEW_APP.into(), password: NEW_APP.into(), ..address })
}

fn write_plan(site: &Site, accounts: &str) -> Result<()> {
    let (old, new) = (&site.estate.old[0], &site.estate.new[0]);
    let port = |port: u16| format!("port = {port}\n");
    let plan = site.estate.plan().replace(&port(new.server.port()), &port(old.server.port()));
    let all = format!("accounts = [\"{APP_ACCOUNT}\"]\n");
    ensure!(plan.contains(&all), "{plan}");
    let plan = plan.replace(&all, &format!("{accounts}\n"));
    std::fs::write(site.estate.plan_path(), plan).context("writing the plan")
}

/// To the plan as it stands, but for the table that a centre cannot be told of.
fn add_centre(site: &Site) -> Result<()> {
    let mut plan = std::fs::read_to_string(site.estate.plan_path())?;
    for rule in &site.estate.rules {
        let table = rule.rule.plan_toml(&rule.table);
        if table.contains("broadcast") {
            plan = plan.replace(&table, "");
        }
    }
    plan += "\n[[routing]]\nkind = \"zookeeper\"\nservers = [\"127.0.0.1:1\"]\nnamespace = \"n\"\n\
             database = \"shop\"\nuser = \"sphere\"\npassword = \"p\"\ncrc32_class = \"a.B\"\n";
    std::fs::write(site.estate.plan_path(), plan).context("writing the plan")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_both_sides_is_fenced_by_accounts_of_each_side() -> Result<()> {
    let site = Site::start(2, 1, Log::Direct, 61, "60s").await?;
    let new_app = put_together(&site).await?;
    let shared = &site.estate.old[0];
    let old_app = Address { user: APP.into(), password: APP.into(), ..shared.address() };
    let write = "UPDATE t_wallet SET ver = ver + 1 ORDER BY id LIMIT 1";
    // One server gives out keys by one offset: refused where a table has keys from it, and only there.
    let apart = format!("old_accounts = [\"{APP_ACCOUNT}\"]\nnew_accounts = [\"{NEW_APP}@%\"]");
    write_plan(&site, &apart)?;
    let new = Address::admin(shared.server.port(), &site.estate.new[0].schema);
    new.run("ALTER TABLE t_wallet MODIFY id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT").await?;
    let refused = site.command(&["cutover", "--dry-run"], &[1, 3]).await?;
    ensure!(refused.contains("auto_increment_offset can be that of one"), "{refused}");
    let checked = site.command(&["check", "--quick"], &[1]).await?;
    ensure!(checked.contains("one auto_increment_offset for both"), "{checked}");
    new.run("ALTER TABLE t_wallet MODIFY id BIGINT UNSIGNED NOT NULL").await?;
    let checked = site.command(&["check", "--quick"], &[0, 1]).await?;
    ensure!(!checked.contains("auto_increment_offset"), "{checked}");
    // ShardingSphere follows its centre by an account that no fence may lock.
    add_centre(&site)?;
    let refused = site.command(&["cutover", "--dry-run"], &[1, 3]).await?;
    ensure!(refused.contains("sphere, by which ShardingSphere follows"), "{refused}");
    let checked = site.command(&["check", "--quick"], &[1]).await?;
    ensure!(checked.contains("is no account that the fence locks"), "{checked}");
    write_plan(&site, &format!("accounts = [\"{APP_ACCOUNT}\"]"))?;
    let checked = site.command(&["check", "--quick"], &[1]).await?;
    ensure!(checked.contains("so that the fence can only lock accounts"), "{checked}");
    let daemons = site.daemons()?;
    let refused = site.command(&["cutover", "--wait", "100s"], &[1, 3]).await?;
    ensure!(refused.contains("give each side accounts of its own"), "{refused}");
    old_app.run(write).await.context("refused, and not as before")?;

    // Accounts of one user name do not tell the sides apart either: hosts are shown as names.
    let by_host = format!("old_accounts = [\"{APP_ACCOUNT}\"]\nnew_accounts = [\"{APP}@%\"]");
    write_plan(&site, &by_host)?;
    let refused = site.command(&["cutover", "--wait", "100s"], &[1, 3]).await?;
    ensure!(refused.contains("no user name in both"), "{refused}");

    write_plan(&site, &apart)?;
    // What a refused client would log in by next.
    for (door, found) in [
        (format!("'{APP}'@'localhost'"), "logs in by it"),
        ("''@'10.9.9.9'".to_owned(), "has anonymous accounts"),
    ] {
        shared.server.run(format!("CREATE USER {door}")).await?;
        let refused = site.command(&["cutover", "--wait", "100s"], &[1]).await?;
        ensure!(refused.contains("accounts that the plan does not name"), "{refused}");
        ensure!(refused.contains(&door), "{refused}");
        let checked = site.command(&["check", "--quick"], &[1]).await?;
        ensure!(checked.contains(found), "{checked}");
        shared.server.run(format!("DROP USER {door}")).await?;
    }
    // Or in whose place another account acts.
    let proxy = "'deputy'@'10.9.9.8'";
    shared.server.run(format!("CREATE USER {proxy}")).await?;
    let granted = format!(
        "INSERT INTO mysql.proxies_priv SET Host = '10.9.9.8', User = 'deputy', \
         Proxied_host = '127.0.0.%', Proxied_user = '{APP}', With_grant = 0, Grantor = ''"
    );
    shared.server.run(granted).await?;
    shared.server.run("FLUSH PRIVILEGES").await?;
    let refused = site.command(&["cutover", "--wait", "100s"], &[1]).await?;
    ensure!(refused.contains(proxy), "{refused}");
    let checked = site.command(&["check", "--quick"], &[1]).await?;
    ensure!(checked.contains("deputy@10.9.9.8 may act in the place of"), "{checked}");
    shared.server.run(format!("DROP USER {proxy}")).await?;
    let mut pooled = old_app.connect().await?;
    pooled.query_drop(write).await?;
    let shown: String = old_app.value("SELECT USER()").await?;
    ensure!(shown.ends_with("@localhost"), "names are not resolved: {shown}");
    let events = "SELECT @@event_scheduler";
    // Until the fence the server goes on serving with all it has.
    let file = site.estate.dir().join("release");
    let held = site.estate.modshift(["cutover", "--wait", "100s"]);
    let held = held.hold_until("before_fence", 1, &file).start()?;
    let reached = held.wait_hold("before_fence", crate::site::LIMIT).await;
    reached.with_context(|| format!("{}\n{}", held.output(), says(&daemons)))?;
    ensure!(shared.value::<String>(events).await? == "ON", "stopped before its time");
    old_app.run(write).await?;
    ensure!(new_app.run(write).await.is_err(), "a new shard takes writes before its time");
    std::fs::write(&file, "")?;
    let status = held.wait_exit(crate::site::LIMIT).await?;
    ensure!(status.success(), "{}\n{}", held.output(), says(&daemons));
    ensure!(old_app.run(write).await.is_err(), "the old shard takes writes");
    ensure!(pooled.query_drop(write).await.is_err(), "a pooled session outlived the fence");
    new_app.run(write).await?;
    ensure!(!shared.value::<bool>("SELECT @@read_only").await?, "read_only stops both");
    ensure!(shared.value::<String>(events).await? == "OFF", "events write behind the fence");

    // The daemon that puts up fences again leaves this one as it is.
    let apart = &site.estate.old[1];
    apart.server.run("SET GLOBAL read_only = 0").await?;
    wait_until("the fence of a server of its own", crate::site::LIMIT, || async {
        Ok(apart.value::<bool>("SELECT @@read_only").await?.then_some(()))
    })
    .await?;
    new_app.run(write).await?;
    ensure!(!shared.value::<bool>("SELECT @@read_only").await?, "read_only stops both");

    site.command(&["rollback", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    old_app.run(write).await?;
    ensure!(new_app.run(write).await.is_err(), "the new shard takes writes");
    ensure!(shared.value::<String>(events).await? == "ON", "events are not put back");
    let admin = Address { user: ADMIN.into(), password: PASSWORD.into(), ..new_app };
    let sql = "SELECT COUNT(*) FROM t_wallet";
    let (mut old, new): (u64, u64) = (0, admin.value(sql).await?);
    for shard in &site.estate.old {
        old += shard.value::<u64>(sql).await?;
    }
    ensure!(old == new && old > 0, "{old} rows became {new}");
    Ok(())
}
