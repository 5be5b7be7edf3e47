//! An application that follows a routing document sees no failed transaction across a switch.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, ensure};
use modshift_proto::plan::{Plan, RoutingKind};
use modshift_routing::{Document, Side, Source, Target};
use modshift_tests::{
    Address, MariaDbOptions, MariaDbServer, Rule, Writer, WriterOptions,
    case::{self, Size},
    place::RunDir,
    server::PASSWORD,
    wait_until,
    writer::{Follow, Giants},
};

use super::{LIMIT, publish};

pub const APP: &str = "app";
const OLD: usize = 2;
const NEW: usize = 3;

pub fn plan(old: &[Address], new: &[Address], tables: &str) -> Result<Plan> {
    let mut text = format!(
        "name = \"orders\"\nmodulus = {{ old = {OLD}, new = {NEW} }}\n\
         log = {{ kind = \"direct\" }}\n[defaults]\nuser = \"modshift\"\npassword = \"\"\n"
    );
    for (kind, shards) in [("old", old), ("new", new)] {
        for Address { host, port, schema, .. } in shards {
            // Clients know what is published for applications, and nothing else of a shard.
            write!(
                text,
                "[[{kind}]]\nhost = \"{schema}.invalid\"\napplication_host = \"{host}\"\n\
                 application_port = {port}\nschema = \"{schema}\"\n"
            )?;
        }
    }
    text.push_str(tables);
    Ok(Plan::parse(&text, &|_| None)?)
}

pub fn schemas(server: &MariaDbServer, kind: &str, count: usize) -> Vec<Address> {
    (0..count).map(|i| server.address().with_schema(&format!("{kind}_{i}"))).collect()
}

/// What a reshard does, with the help of a standstill and of all shards on one server.
async fn copy(server: &Address, from: &[Address], to: &[Address]) -> Result<()> {
    for (index, place) in to.iter().enumerate() {
        server.run(format!("DROP DATABASE IF EXISTS {}", place.schema)).await?;
        case::create_schema(server, &place.schema).await?;
        for rule in case::rules() {
            let table = &rule.table;
            let columns: String = server
                .value(format!(
                    "SELECT GROUP_CONCAT('`', column_name, '`') FROM information_schema.columns \
                     WHERE table_schema='{}' AND table_name='{table}' \
                     AND generation_expression IS NULL",
                    place.schema
                ))
                .await?;
            for (number, source) in from.iter().enumerate() {
                let here = match rule.rule {
                    Rule::Broadcast { .. } => (number == 0).to_string(),
                    _ => format!("{} = {index}", rule.rule.sql(to.len())),
                };
                let (to, from) = (&place.schema, &source.schema);
                let mode = "SET sql_mode='ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO'";
                let sql = format!(
                    "{mode}; INSERT INTO {to}.{table} ({columns}) \
                     SELECT {columns} FROM {from}.{table} WHERE {here}"
                );
                server.run(sql).await?;
            }
        }
    }
    Ok(())
}

const RIGHTS: &str = "SELECT,INSERT,UPDATE,DELETE";

pub async fn grant(server: &Address, side: &str) -> Result<()> {
    server.run(format!("GRANT {RIGHTS} ON `{side}\\_%`.* TO '{APP}'@'%'")).await
}

/// Keeps the side that was left shut, for clients that have not read the newest document yet: the
/// two share a server, so that whatever opens one opens both. A connection goes on with the rights
/// that its schema had when it chose it, and has to go.
pub async fn leave(server: &Address, side: &str) -> Result<()> {
    server.run(format!("REVOKE {RIGHTS} ON `{side}\\_%`.* FROM '{APP}'@'%'")).await?;
    wait_until("no session on the side that was left", LIMIT, || async {
        kill_application(server).await?;
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.processlist \
             WHERE user='{APP}' AND db LIKE '{side}\\_%'"
        );
        Ok((server.value::<u64>(sql).await? == 0).then_some(()))
    })
    .await
}

/// Ends the application's connections, in the middle of whatever they do.
pub async fn kill_application(server: &Address) -> Result<()> {
    server.run(format!("KILL HARD USER '{APP}'@'%'")).await
}

/// Of the application's connections.
pub async fn none_left(server: &Address) -> Result<()> {
    wait_until("no session of the application", LIMIT, || async {
        kill_application(server).await?;
        let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE user='{APP}'");
        Ok((server.value::<u64>(sql).await? == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "figures worth seeing with --nocapture")]
async fn no_transaction_fails_across_fences_kills_and_switches() -> Result<()> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    let admin = server.address();
    let (old, new) = (schemas(&server, "old", OLD), schemas(&server, "new", NEW));
    for (index, place) in old.iter().enumerate() {
        case::create_schema(&admin, &place.schema).await?;
        case::seed_rows(place, index, OLD, Size::rows(2_000), 1).await?;
    }
    admin.run(format!("CREATE USER '{APP}'@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
    grant(&admin, "old").await?;
    let tables: String =
        case::rules().iter().map(|rule| rule.rule.plan_toml(&rule.table)).collect();
    let plan = plan(&old, &new, &tables)?;
    let dir = RunDir::create("routing")?;
    let path = dir.join("routing.json");
    let kind = RoutingKind::File { path: path.clone() };
    let target = Target { name: "file-0".to_owned(), timeout: LIMIT, follow_symlinks: false, kind };
    publish(&target, &Document::of_plan(&plan, Side::Old, 1)).await?;

    let options = WriterOptions {
        rate: Some(400.0),
        giants: Some(Giants { rows: 500, interval: Duration::from_millis(500) }),
        rows_known: 100,
        ..WriterOptions::default()
    };
    let follow = Follow {
        user: APP.to_owned(),
        other_modulus: Some(NEW),
        ..Follow::new(Source::File(path))
    };
    let writer = Writer::follow(options, follow).await?;
    writer.commits(300, LIMIT).await?;

    // Killed again and again, in COMMIT too; each time something has come through since, so that
    // no machine is too fast for the writer.
    for _ in 0..60 {
        kill_application(&admin).await?;
        writer.commits(4, LIMIT).await?;
    }

    // There: fenced by read_only.
    admin.run("SET GLOBAL read_only=1").await?;
    kill_application(&admin).await?;
    let fenced = writer.committed();
    copy(&admin, &old, &new).await?;
    publish(&target, &Document::of_plan(&plan, Side::New, 2)).await?;
    ensure!(writer.committed() == fenced, "committed behind the fence");
    leave(&admin, "old").await?;
    grant(&admin, "new").await?;
    admin.run("SET GLOBAL read_only=0").await?;
    writer.commits(500, LIMIT).await?;

    // And back: fenced by its account, as where both sides share a server.
    admin.run(format!("ALTER USER '{APP}'@'%' ACCOUNT LOCK")).await?;
    none_left(&admin).await?;
    copy(&admin, &new, &old).await?;
    publish(&target, &Document::of_plan(&plan, Side::Old, 3)).await?;
    leave(&admin, "new").await?;
    grant(&admin, "old").await?;
    admin.run(format!("ALTER USER '{APP}'@'%' ACCOUNT UNLOCK")).await?;
    writer.commits(300, LIMIT).await?;

    let ledger = writer.stop().await?;
    println!(
        "{} transactions, {} retries, {} planned anew, {} without an answer, longest {:?}, {} rows audited",
        ledger.transactions,
        ledger.retries,
        ledger.replanned,
        ledger.unanswered,
        ledger.longest,
        ledger.audited
    );
    assert_eq!(ledger.refused, 0, "{:?}", ledger.last_refusal);
    ensure!(ledger.retries > 0 && ledger.replanned > 0, "{ledger:?}");
    ensure!(ledger.audited > 1000, "{} rows looked for", ledger.audited);
    ensure!(ledger.longest >= Duration::from_millis(1), "{:?}", ledger.longest);
    ensure!(ledger.giants > 0, "no transaction of many rows");
    Ok(())
}
