//! One reshard after another: what was new becomes old, and shards that an earlier one has left are
//! taken again. Until the earlier one is finished nobody begins.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, EstateOptions, Log, Modshift, application::create_account, case, oracle::Oracle,
    process::Launch, server::PASSWORD,
};
use mysql_async::prelude::Queryable;

use crate::site::{APP_ACCOUNT, LIMIT, Site, options, says};

/// A plan beside that of the site, over the same servers and tables.
struct Reshard {
    name: &'static str,
    old: Vec<Address>,
    new: Vec<Address>,
    path: PathBuf,
}

impl Reshard {
    fn write(site: &Site, name: &'static str, old: &[Address], new: &[Address]) -> Result<Self> {
        let all = site.estate.plan();
        let (head, rest) = all.split_once("[[old]]").context("no old shards")?;
        let tables = &rest[rest.find("[[table]]").context("no tables")?..];
        let head = head.replace("name = \"orders\"", &format!("name = \"{name}\""));
        let was = format!("old = {}, new = {}", site.estate.old.len(), site.estate.new.len());
        let mut text = head.replace(&was, &format!("old = {}, new = {}", old.len(), new.len()));
        for (kind, shards) in [("old", old), ("new", new)] {
            for Address { host, port, schema, .. } in shards {
                text += &format!(
                    "[[{kind}]]\nhost = \"{host}\"\nport = {port}\nschema = \"{schema}\"\n\n"
                );
            }
        }
        text += &tables.replace("routing.json", &format!("routing-{name}.json"));
        let path = site.estate.dir().join(format!("{name}.toml"));
        std::fs::write(&path, text)?;
        Ok(Self { name, old: old.to_vec(), new: new.to_vec(), path })
    }

    fn launch(&self, args: &[&str]) -> Launch {
        let plan = self.path.display().to_string();
        Launch::new(args.iter().copied()).arg("--plan").arg(plan).env("MODSHIFT_PASSWORD", PASSWORD)
    }

    async fn command(&self, args: &[&str], codes: &[i32]) -> Result<String> {
        let (code, output) = self.launch(args).finish(LIMIT).await?;
        println!("$ modshift {} ({})\n{output}\n=> {code}", args.join(" "), self.name);
        ensure!(codes.contains(&code), "{}, {args:?} ended with {code}:\n{output}", self.name);
        Ok(output)
    }

    fn daemon(&self) -> Result<Modshift> {
        self.launch(&["run", "--listen", "127.0.0.1:0"]).start()
    }

    /// `check` and the daemons name what has to be done first.
    async fn refused(&self, hint: &str, shard: &str) -> Result<()> {
        let line = |text: &str| {
            text.lines().any(|line| line.contains(shard) && line.contains(hint))
                || text.contains(hint) && text.contains(shard)
        };
        let said = self.command(&["check", "--quick"], &[1]).await?;
        ensure!(line(&said), "check does not say {hint}: {said}");
        let said = self.command(&["run", "--listen", "127.0.0.1:0"], &[3]).await?;
        ensure!(line(&said), "the daemon does not say {hint}: {said}");
        Ok(())
    }

    /// All the way, and every row is where it belongs.
    async fn through(&self, site: &Site) -> Result<()> {
        let daemon = self.daemon()?;
        let cut = self.command(&["cutover", "--wait", "150s"], &[0]).await;
        cut.with_context(|| daemon.last_words(60))?;
        let rules = site.estate.rules.clone();
        let oracle = Oracle::new(self.old.clone(), self.new.clone(), rules);
        oracle.compare().await?.ensure_clean().with_context(|| self.name)?;
        daemon.stop(LIMIT).await?;
        Ok(())
    }
}

/// Shards that are to be new ones again: whoever wants that empties them himself.
async fn emptied(site: &Site, shards: &[Address]) -> Result<()> {
    for shard in shards {
        let mut conn = shard.connect().await?;
        conn.query_drop("SET foreign_key_checks = 0").await?;
        for rule in &site.estate.rules {
            conn.query_drop(format!("TRUNCATE TABLE `{}`", rule.table)).await?;
        }
        conn.disconnect().await?;
    }
    Ok(())
}

/// Shards that a stream of this reshard can go on from.
async fn tokens(reshard: &Reshard) -> Result<u64> {
    let mut count = 0;
    for shard in reshard.old.iter().chain(&reshard.new) {
        let sql = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                   AND TABLE_NAME = 'modshift_token'";
        count += shard.value::<u64>(sql).await?;
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_reshard_begins_where_the_last_one_was_finished() -> Result<()> {
    let usual = options(Log::Direct, 92, "60s", &format!("\"{APP_ACCOUNT}\""));
    let site = Site::open(2, 3, EstateOptions { one_server_a_side: true, ..usual }).await?;
    let estate = &site.estate;
    let (first, second) = (&estate.old[0].server, &estate.new[0].server);
    let two = estate.old_addresses();
    let three = estate.new_addresses();
    let mut four = two.clone();
    for schema in ["shard_third_2", "shard_third_3"] {
        case::create_schema(&first.address(), schema).await?;
        create_account(first, schema).await?;
        four.push(first.address().with_schema(schema));
    }
    let next = Reshard::write(&site, "second", &three, &four)?;
    let back = Reshard::write(&site, "third", &four, &three)?;

    let daemons = site.daemons()?;
    let of_first = "--plan FILE (FILE is the plan of orders)";
    modshift_tests::copied(estate, LIMIT).await.with_context(|| says(&daemons))?;
    next.refused("go on with orders; or give it up", "new shard 0").await?;
    let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
    cut.with_context(|| says(&daemons))?;
    next.refused(&format!("modshift finish {of_first}"), "old shard 0").await?;
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    site.command(&["finish"], &[0]).await?;
    // Its old shards are fenced, and their triggers written down there.
    next.refused(&format!("modshift unfence {of_first}"), "new shard 0").await?;
    site.command(&["unfence"], &[0]).await?;

    // To more shards: two that were left, and two that are new.
    emptied(&site, &two).await?;
    first.run("SET GLOBAL read_only = 1").await?;
    let said = next.command(&["check", "--quick"], &[0, 1]).await?;
    ensure!(!said.contains("of the reshard orders"), "{said}");
    next.through(&site).await?;
    // Given again the commands of the one before touch nothing of it.
    let before = tokens(&next).await?;
    for again in ["unfence", "finish"] {
        let said = site.command(&[again], &[0]).await?;
        let left = said.lines().filter(|line| line.contains("is left alone: it is ")).count();
        ensure!(left == if again == "unfence" { 2 } else { 5 }, "{said}");
    }
    ensure!(tokens(&next).await? == before && before == 7, "{before} tokens");
    next.command(&["finish"], &[0]).await?;
    next.command(&["unfence"], &[0]).await?;

    // To fewer, which are those of before, with the journal of the first on new shard 0.
    emptied(&site, &three).await?;
    second.run("SET GLOBAL read_only = 1").await?;
    back.through(&site).await?;
    // Each still knows its own: whose end was said is over, and the last can go back.
    let said = site.command(&["rollback"], &[1]).await?;
    ensure!(said.contains("the reshard is finished"), "{said}");
    let daemon = back.daemon()?;
    let rolled = back.command(&["rollback", "--wait", "150s"], &[0]).await;
    rolled.with_context(|| daemon.last_words(60))?;
    let said = back.command(&["status"], &[0, 1]).await?;
    ensure!(said.contains("the old shards serve"), "{said}");
    Ok(())
}
