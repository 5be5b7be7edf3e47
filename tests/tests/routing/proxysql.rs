//! ProxySQL's admin interface, with a MariaDB in its place: what matters here is how it is spoken to.

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::{ProxySqlAdmin, ProxySqlMatch, ProxySqlTarget, RoutingKind, Secret};
use modshift_routing::publish::{Ack, Failure};
use modshift_routing::{Side, Target};
use modshift_tests::certificates::{authority, certificate};
use modshift_tests::place::RunDir;
use modshift_tests::{Address, MariaDbOptions, MariaDbServer};

use super::{LIMIT, document, publish};

const USER: &str = "radmin";
const PASSWORD: &str = "hunter2";

fn target(server: &MariaDbServer, password: &str) -> Target {
    let admin = ProxySqlAdmin {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        user: USER.to_owned(),
        password: Secret::new(password.to_owned()),
    };
    let kind = RoutingKind::ProxySql(ProxySqlTarget {
        file: None,
        admin: Some(admin),
        hostgroup_base: 4000,
        rule_base: 500,
        matching: ProxySqlMatch::Hint,
    });
    Target { name: "proxysql-0".to_owned(), timeout: LIMIT, follow_symlinks: false, kind }
}

/// Its interface has no schemas, and its rules hold what was published last.
async fn stand_in(options: MariaDbOptions, requires: &str) -> Result<MariaDbServer> {
    let server = MariaDbServer::start(options.calm()).await?;
    let held = serde_json::to_string(&document(1, Side::Old))?;
    for sql in [
        "CREATE DATABASE main",
        "CREATE TABLE main.runtime_mysql_query_rules (rule_id INT PRIMARY KEY, comment TEXT)",
        &format!(
            "INSERT INTO main.runtime_mysql_query_rules VALUES (500, 'modshift routing {held}')"
        ),
        &format!("CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}' {requires}"),
        &format!("GRANT SELECT ON main.* TO {USER}@'%'"),
        "SET GLOBAL init_connect = 'USE main'",
    ] {
        server.run(sql).await.with_context(|| sql.to_owned())?;
    }
    Ok(server)
}

#[tokio::test]
async fn proxysql_is_spoken_to_in_tls_where_it_has_it() -> Result<()> {
    let dir = RunDir::create("proxysql")?;
    authority(dir.path(), "own")?;
    // Of an authority that nobody knows, for another host: as ProxySQL makes it at its start.
    certificate(dir.path(), "own", "admin", "DNS:elsewhere.test")?;
    let file = |name: &str| dir.join(name).display().to_string();
    let with_tls = MariaDbOptions::with_server_id(1)
        .arg(&format!("--ssl-cert={}", file("admin.pem")))
        .arg(&format!("--ssl-key={}", file("admin.key")));
    let without = MariaDbOptions::with_server_id(2).arg("--skip-ssl");
    let (secure, plain) =
        tokio::try_join!(stand_in(with_tls, "REQUIRE SSL"), stand_in(without, ""))?;

    // Who comes in clear text is not let in.
    let clear = Address { user: USER.into(), password: PASSWORD.into(), ..secure.address() };
    let refused = clear.run("SELECT 1").await.err().context("let in without TLS")?;
    ensure!(format!("{refused:#}").contains("Access denied"), "{refused:#}");
    let same = document(1, Side::Old);
    assert_eq!(publish(&target(&secure, PASSWORD), &same).await?, Ack::Held);
    assert_eq!(publish(&target(&plain, PASSWORD), &same).await?, Ack::Held);

    for server in [&secure, &plain] {
        let older = publish(&target(server, PASSWORD), &document(0, Side::Old)).await;
        let older = older.err().context("went back")?;
        assert!(matches!(older.failure, Failure::Newer { found: 1, .. }), "{older}");
        let wrong = publish(&target(server, "hunter3"), &same).await.err().context("let in")?;
        ensure!(!wrong.to_string().contains("hunter"), "{wrong}");
    }
    Ok(())
}
