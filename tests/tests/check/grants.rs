//! What `check` asks each login for is what the files of deploy/mariadb grant, and no more.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use modshift_tests::MariaDbServer;
use modshift_tests::grants::grant;
use modshift_tests::server::{Address, PASSWORD};

use crate::case::{Case, NEW, OLD, TABLE, options};

/// Privileges of an account, by what they are held on.
type Held = BTreeMap<String, BTreeSet<String>>;

async fn held(server: &MariaDbServer, account: &str) -> Result<Held> {
    let mut held = Held::new();
    for row in server.query(format!("SHOW GRANTS FOR {account}")).await? {
        let line: String = row.get(0).unwrap_or_default();
        let Some((list, rest)) = line.strip_prefix("GRANT ").and_then(|l| l.split_once(" ON "))
        else {
            continue;
        };
        let on = rest.split(" TO ").next().unwrap_or_default().to_owned();
        // Columns come in an order of the server's own.
        let mut columns: Vec<&str> = list.split([' ', ',', '(', ')']).collect();
        columns.sort_unstable();
        let whole = match list.contains('(') {
            true => vec![columns.join(" ").trim().to_owned()],
            false => list.split(", ").map(str::to_owned).collect(),
        };
        held.entry(on).or_default().extend(whole.into_iter().filter(|p| p != "USAGE"));
    }
    held.retain(|_, privileges| !privileges.is_empty());
    Ok(held)
}

#[tokio::test]
async fn check_asks_for_what_the_files_grant_and_for_nothing_else() -> Result<()> {
    let server = MariaDbServer::start(options(91).arg("--event-scheduler=ON")).await?;
    // Keys are given out, and accounts are locked: all that a cutover may be for.
    let table = TABLE.replacen("id BIGINT NOT NULL", "id BIGINT NOT NULL AUTO_INCREMENT", 1);
    let case = Case::new(&server, &table).await?;
    // What only a replica needs is asked for, too.
    server.run("CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_USER = 'nobody'").await?;
    for which in 0..OLD + NEW {
        let file = if which < OLD { "grants-old.sql" } else { "grants-new.sql" };
        grant(&server.address(), &case.schema(which), "full", file)?;
        grant(&server.address(), &case.schema(which), "switcher", "grants-cutover.sql")?;
    }
    for user in ["bare", "naked"] {
        server.run(format!("CREATE USER {user}@'127.0.0.%' IDENTIFIED BY '{PASSWORD}'")).await?;
        for which in 0..OLD + NEW {
            let schema = case.schema(which).replace('_', "\\_");
            server.run(format!("GRANT SELECT ON `{schema}`.* TO {user}@'127.0.0.%'")).await?;
        }
    }
    let tail = "[cutover]\nuser = \"naked\"\npassword = \"${MODSHIFT_PASSWORD}\"\n\
                old_accounts = [\"app@%\"]\nnew_accounts = [\"app_new@%\"]\n";
    let case = Case { tail: tail.to_owned(), ..case };
    let report = case.check_as("bare", &["--quick"]).await?;
    let asked = report.of_rule("grants")?;
    ensure!(asked.len() > 50, "{asked:#?}");
    for finding in &asked {
        server.run(&finding.mend).await?;
    }
    // Whether it is a replica could not be seen before.
    for finding in case.check_as("bare", &["--quick"]).await?.of_rule("grants")? {
        server.run(&finding.mend).await?;
    }
    let report = case.check_as("bare", &["--quick"]).await?;
    ensure!(report.of_rule("grants")?.is_empty(), "{:#}", report.json);
    nothing_less(&server).await?;
    for (asked, granted) in [("bare", "full"), ("naked", "switcher")] {
        let mut asked = held(&server, &format!("{asked}@'127.0.0.%'")).await?;
        let mut granted = held(&server, &format!("{granted}@'127.0.0.%'")).await?;
        // Asked for by `check --trial` alone.
        // And the views: without them `check` says what it cannot see, and who can set that right.
        let apart = ["modshift_trial", "`modshift`.`accounts`", "`modshift`.`writers`"];
        asked.retain(|on, _| !apart.iter().any(|apart| on.contains(apart)));
        granted.retain(|on, _| !apart.iter().any(|apart| on.contains(apart)));
        for on in asked.keys().chain(granted.keys()).collect::<BTreeSet<_>>() {
            let (asked, granted) = (asked.get(on), granted.get(on));
            ensure!(
                asked == granted,
                "{on}: check asks for {asked:?}, the files grant {granted:?}"
            );
        }
    }
    Ok(())
}

/// Why the login of the cutover holds SUPER and CREATE USER: the server has nothing less for what it
/// does with them.
async fn nothing_less(server: &MariaDbServer) -> Result<()> {
    for sql in [
        "CREATE USER victim@'10.%', most@'127.0.0.%', clerk@'127.0.0.%', scribe@'127.0.0.%'",
        "GRANT ALL PRIVILEGES ON *.* TO most@'127.0.0.%'",
        "REVOKE SUPER, CREATE USER ON *.* FROM most@'127.0.0.%'",
        "REVOKE UPDATE ON *.* FROM most@'127.0.0.%'",
        "GRANT UPDATE ON mysql.global_priv TO clerk@'127.0.0.%'",
        "GRANT UPDATE ON mysql.* TO scribe@'127.0.0.%'",
    ] {
        server.run(sql).await.with_context(|| sql.to_owned())?;
    }
    let as_user = |user: &str| Address {
        user: user.to_owned(),
        password: String::new(),
        schema: String::new(),
        ..server.address()
    };
    let lock = "ALTER USER victim@'10.%' ACCOUNT LOCK";
    for (user, sql) in [
        ("most", "SET GLOBAL event_scheduler = OFF"),
        ("most", "SET GLOBAL auto_increment_increment = 3"),
        ("most", lock),
        ("clerk", lock),
    ] {
        let refused = as_user(user).run(sql).await.err();
        let refused = refused.with_context(|| format!("{user} may {sql}: grant less"))?;
        ensure!(format!("{refused:#}").contains("you need"), "{user}, {sql}: {refused:#}");
    }
    // And this can write whatever account it likes.
    as_user("scribe").run(lock).await
}
