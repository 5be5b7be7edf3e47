//! Connecting, the errors of a server, and what the catalog and a server say of themselves.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_mariadb::catalog::{self, TableKind};
use modshift_mariadb::server::{ServerFacts, holders};
use modshift_mariadb::{
    CatalogError, Class, Conn, ServerError, ServerSocket, Session, connect, error,
};
use modshift_proto::DataType;
use modshift_proto::plan::{Endpoint, Secret, TlsMode};
use modshift_tests::certificates::{authority, certificate};
use modshift_tests::place::RunDir;
use modshift_tests::server::ADMIN;
use modshift_tests::{
    Address, Daemons, Estate, EstateOptions, MariaDbOptions, MariaDbServer, case::Size, copied,
    drained,
};
use mysql_async::prelude::Queryable;

fn endpoint(address: &Address, schema: &str) -> Endpoint {
    Endpoint {
        host: address.host.clone(),
        port: address.port,
        schema: schema.to_owned(),
        user: address.user.clone(),
        password: Secret::new(address.password.clone()),
        tls: TlsMode::Off,
        tls_ca: None,
        replica_server_id: 1000,
        replicas: Vec::new(),
        read_from: None,
        application: None,
        peers: None,
    }
}

async fn server() -> Result<(MariaDbServer, Endpoint)> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    server.run("CREATE DATABASE s").await?;
    let endpoint = endpoint(&server.address(), "s");
    Ok((server, endpoint))
}

/// By the driver, and by the connection of our own that reads binlogs: for the same reason.
async fn refused(endpoint: &Endpoint) -> Result<ServerError> {
    let Err(error) = connect(endpoint, Session::Plain).await else { anyhow::bail!("connected") };
    let Err(own) = ServerSocket::connect(endpoint).await else {
        anyhow::bail!("our own connection took what the driver refused: {error}");
    };
    ensure!(discriminant(&own) == discriminant(&error), "{own:?}, but {error:?}");
    ensure!(own.code() == error.code() && own.class() == error.class(), "{own:?}, but {error:?}");
    Ok(error)
}

async fn fails(conn: &mut Conn, sql: &str) -> Result<ServerError> {
    match conn.query_drop(sql).await {
        Ok(()) => anyhow::bail!("{sql} passed"),
        Err(error) => Ok(error::of("here", "testing", error)),
    }
}

#[tokio::test]
async fn a_refused_connection_says_what_is_wrong() -> Result<()> {
    let (server, good) = server().await?;
    connect(&good, Session::Exact).await?.disconnect().await?;
    let mut socket = ServerSocket::connect(&good).await?;
    socket.query("testing", "SET @a = 1").await?;
    let Err(error) = socket.query("testing", "SET @@no_such = 1").await else {
        anyhow::bail!("passed")
    };
    ensure!(matches!(error, ServerError::Statement { code: 1193, .. }), "{error:?}");
    // A password that is none.
    server.run("CREATE USER none@'%'; GRANT ALL ON s.* TO none@'%'").await?;
    let user = "none".to_owned();
    let none = Endpoint { user, password: Secret::new(String::new()), ..good.clone() };
    ServerSocket::connect(&none).await?.query("testing", "SET @a = 1").await?;
    let wrong = Endpoint { password: Secret::new("no".to_owned()), ..good.clone() };
    let error = refused(&wrong).await?;
    ensure!(matches!(error, ServerError::Login { code: 1045, .. }), "{error:?}");
    // It is mended on the server, while whoever needs it tries again.
    ensure!(error.class() == Class::Retry && !error.to_string().contains("'no'"), "{error}");
    let error = refused(&Endpoint { schema: "gone".to_owned(), ..good.clone() }).await?;
    ensure!(matches!(error, ServerError::NoSchema { .. }), "{error:?}");
    ensure!(error.to_string().contains("/gone: the server has no such schema"), "{error}");
    server.run("CREATE USER poor@'%' IDENTIFIED BY 'p'").await?;
    let poor =
        Endpoint { user: "poor".to_owned(), password: Secret::new("p".to_owned()), ..good.clone() };
    let error = refused(&poor).await?;
    ensure!(matches!(error, ServerError::Privilege { code: 1044, .. }), "{error:?}");
    server.stop().await?;
    let error = refused(&good).await?;
    ensure!(matches!(error, ServerError::Unreachable { .. }), "{error:?}");
    ensure!(error.class() == Class::Retry);
    Ok(())
}

#[tokio::test]
async fn what_passes_by_itself_is_told_from_what_does_not() -> Result<()> {
    let (server, endpoint) = server().await?;
    let mut one = connect(&endpoint, Session::Exact).await?;
    let mut two = connect(&endpoint, Session::Exact).await?;
    one.query_drop("CREATE TABLE t (id INT PRIMARY KEY, u INT, t MEDIUMTEXT, UNIQUE uk (u))")
        .await?;
    one.query_drop("INSERT INTO t VALUES (1,1,''),(2,2,'')").await?;
    let error = fails(&mut one, "INSERT INTO t VALUES (3,1,'')").await?;
    ensure!(error.duplicate_key() == Some("uk") && error.class() == Class::Halt, "{error:?}");
    one.query_drop("BEGIN").await?;
    one.query_drop("UPDATE t SET u = 5 WHERE id = 1").await?;
    two.query_drop("SET innodb_lock_wait_timeout = 1").await?;
    let error = fails(&mut two, "UPDATE t SET u = 6 WHERE id = 1").await?;
    ensure!(matches!(error, ServerError::Conflict { code: 1205, .. }), "{error:?}");
    one.query_drop("COMMIT").await?;
    // Connections that are killed while idle.
    let killed = two.id();
    one.query_drop(format!("KILL {killed}")).await?;
    let error = fails(&mut two, "DO 1").await?;
    ensure!(error.is_connection_lost() && error.class() == Class::Retry, "{error:?}");
    let error = fails(&mut two, "DO 1").await?;
    ensure!(error.is_connection_lost(), "{error:?}");
    // The server takes 64 MiB. It answers and hangs up without reading the rest: where that rest is
    // still being sent, the hanging up may come first, and the answer is lost.
    let huge = vec![0u8; 65 << 20];
    for batch in [false, true] {
        let mut errors = Vec::new();
        while errors.len() < 10 && !matches!(errors.last(), Some(ServerError::TooLarge { .. })) {
            let mut two = connect(&endpoint, Session::Exact).await?;
            let outcome = match batch {
                false => two.exec_drop("DO ?", (&huge,)).await,
                true => two.exec_batch("INSERT INTO t VALUES (9, 9, ?)", vec![(&huge,)]).await,
            };
            let Err(error) = outcome else { anyhow::bail!("passed") };
            errors.push(error::of("here", "testing", error));
        }
        let (last, before) = errors.split_last().context("an error")?;
        ensure!(matches!(last, ServerError::TooLarge { .. }), "{errors:?}");
        ensure!(before.iter().all(ServerError::is_connection_lost), "{errors:?}");
    }
    server.run("CREATE USER app@'%' IDENTIFIED BY 'p'; GRANT INSERT ON s.* TO app@'%'").await?;
    let app = Endpoint {
        user: "app".to_owned(),
        password: Secret::new("p".to_owned()),
        ..endpoint.clone()
    };
    let mut app = connect(&app, Session::Exact).await?;
    let error = fails(&mut app, "SELECT * FROM t").await?;
    let ServerError::Privilege { missing, .. } = &error else { anyhow::bail!("{error:?}") };
    ensure!(missing == "SELECT ON `s`.`t`", "{missing}");
    let error = fails(&mut app, "SHOW MASTER STATUS").await?;
    ensure!(error.hint().is_some_and(|hint| hint.contains("BINLOG MONITOR")), "{error:?}");
    server.run("SET GLOBAL read_only = 1").await?;
    let error = fails(&mut app, "INSERT INTO t (id) VALUES (9)").await?;
    ensure!(matches!(error, ServerError::ReadOnly { .. }), "{error:?}");
    server.kill()?;
    let error = fails(&mut app, "DO 1").await?;
    ensure!(error.is_connection_lost(), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn tls_goes_as_far_as_the_plan_asks() -> Result<()> {
    let dir = RunDir::create("tls")?;
    authority(dir.path(), "ca")?;
    authority(dir.path(), "other")?;
    certificate(dir.path(), "ca", "s", "DNS:db.test")?;
    let path = |name: &str| dir.join(name).display().to_string();
    let options = MariaDbOptions::default()
        .arg(&format!("--ssl-cert={}", path("s.pem")))
        .arg(&format!("--ssl-key={}", path("s.key")))
        .arg("--plugin-load-add=auth_ed25519");
    let server = MariaDbServer::start(options).await?;
    server
        .run(
            "CREATE DATABASE s; CREATE USER e@'%' IDENTIFIED VIA ed25519 USING PASSWORD('secret') \
             REQUIRE SSL; GRANT ALL ON s.* TO e@'%'",
        )
        .await?;
    let base = Endpoint {
        user: "e".to_owned(),
        password: Secret::new("secret".to_owned()),
        ..endpoint(&server.address(), "s")
    };
    let with = |tls, ca: Option<&str>| Endpoint {
        tls,
        tls_ca: ca.map(|name| dir.join(name)),
        ..base.clone()
    };
    let error = refused(&with(TlsMode::Off, None)).await?;
    ensure!(matches!(error, ServerError::Login { .. }), "{error:?}");
    for good in [with(TlsMode::Required, None), with(TlsMode::VerifyCa, Some("ca.pem"))] {
        let mut conn =
            connect(&good, Session::Exact).await.with_context(|| format!("{:?}", good.tls))?;
        let cipher: Option<(String, String)> =
            conn.query_first("SHOW STATUS LIKE 'Ssl_cipher'").await?;
        ensure!(cipher.is_some_and(|(_, name)| !name.is_empty()), "not encrypted");
        let mut socket = ServerSocket::connect(&good).await?;
        socket.query("testing", "SET @through = 'tls'").await?;
    }
    for bad in [
        with(TlsMode::VerifyCa, Some("other.pem")),
        with(TlsMode::VerifyCa, None),
        // Issued for another name than 127.0.0.1.
        with(TlsMode::VerifyIdentity, Some("ca.pem")),
        with(TlsMode::VerifyIdentity, Some("other.pem")),
    ] {
        let error = refused(&bad).await?;
        ensure!(matches!(error, ServerError::Tls { .. }), "{:?}: {error:?}", bad.tls);
        ensure!(error.class() == Class::Halt && error.hint().is_some());
    }
    // Never in clear text for want of TLS on the other side.
    let plain = MariaDbServer::start(MariaDbOptions::with_server_id(2).arg("--skip-ssl")).await?;
    let plain = Endpoint { tls: TlsMode::Required, ..endpoint(&plain.address(), "mysql") };
    let error = refused(&plain).await?;
    ensure!(matches!(error, ServerError::Tls { .. }), "{error:?}");
    Ok(())
}

/// One login in 256 has a nonce that ends with a zero byte.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_password_is_let_in_whatever_the_server_asks() -> Result<()> {
    const LOGINS: usize = 2_000;
    let options = MariaDbOptions::default().arg("--plugin-load-add=auth_ed25519");
    let server = MariaDbServer::start(options).await?;
    let account = "CREATE DATABASE s; GRANT ALL ON s.* TO e@'%' \
                   IDENTIFIED VIA ed25519 USING PASSWORD('secret')";
    server.run(account).await?;
    let endpoint = Endpoint {
        user: "e".to_owned(),
        password: Secret::new("secret".to_owned()),
        ..endpoint(&server.address(), "s")
    };
    let (mut drivers, mut sockets) = (0, 0);
    for _ in 0..LOGINS {
        drivers += usize::from(connect(&endpoint, Session::Plain).await.is_err());
        sockets += usize::from(ServerSocket::connect(&endpoint).await.is_err());
    }
    ensure!(
        (drivers, sockets) == (0, 0),
        "of {LOGINS} logins {drivers} and {sockets} were refused"
    );
    Ok(())
}

/// Every connection there is, the binlog's too: the account is let in through TLS alone, and the
/// certificate is for the very address that the plan names.
#[tokio::test(flavor = "multi_thread")]
async fn a_reshard_runs_through_tls_whose_certificates_name_the_servers() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(120);
    let dir = RunDir::create("tls")?;
    authority(dir.path(), "ca")?;
    certificate(dir.path(), "ca", "s", "IP:127.0.0.1")?;
    let files = [("cert", "s.pem"), ("key", "s.key")];
    let files = files.map(|(what, file)| format!("--ssl-{what}={}", dir.join(file).display()));
    let secured = move |_: usize, options: MariaDbOptions| options.arg(&files[0]).arg(&files[1]);
    let (old_options, new_options) = (Arc::new(secured.clone()), Arc::new(secured));
    let size = Size::rows(300);
    let options = EstateOptions { size, old_options, new_options, ..EstateOptions::default() };
    let estate = Estate::start(1, 2, options).await?;
    for shard in estate.old.iter().chain(&estate.new) {
        let account = "CREATE USER secure@'%' IDENTIFIED BY 'behind-tls' REQUIRE SSL; \
                       GRANT ALL ON *.* TO secure@'%'";
        shard.server.run(account).await?;
    }
    let ca = dir.join("ca.pem").display().to_string();
    let plan = estate
        .plan()
        .replace("tls = \"off\"", &format!("tls = \"verify-identity\"\ntls_ca = \"{ca}\""))
        .replace(&format!("user = \"{ADMIN}\""), "user = \"secure\"");
    std::fs::write(estate.plan_path(), plan)?;
    let login =
        |launch: modshift_tests::process::Launch| launch.env("MODSHIFT_PASSWORD", "behind-tls");
    let daemons = Daemons::start_with(&estate, login)?;
    copied(&estate, LIMIT).await.with_context(|| daemons.output())?;
    // After the copy: only the binlog brings these.
    estate.old[0].run("UPDATE t_trade_order SET ver = ver + 1").await?;
    drained(&estate, LIMIT).await?;
    let encrypted: Vec<(String, u64)> = estate.old[0]
        .address()
        .query("SELECT USER, COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%' GROUP BY USER")
        .await?
        .into_iter()
        .map(mysql_async::from_row)
        .collect();
    ensure!(encrypted == [("secure".to_owned(), 1)], "who reads the binlog: {encrypted:?}");
    daemons.stop(LIMIT).await?;
    estate.oracle().compare().await?.ensure_clean()?;
    // The same servers by a name that their certificates do not carry.
    let plan = std::fs::read_to_string(estate.plan_path())?;
    std::fs::write(
        estate.plan_path(),
        plan.replace("host = \"127.0.0.1\"", "host = \"localhost\""),
    )?;
    let (code, output) =
        login(estate.modshift(["run", "--listen", "127.0.0.1:0"])).finish(LIMIT).await?;
    ensure!(code != 0 && output.contains("TLS: "), "{code}:\n{output}");
    Ok(())
}

#[tokio::test]
async fn the_catalog_tells_what_a_schema_holds() -> Result<()> {
    let (_server, endpoint) = server().await?;
    let mut conn = connect(&endpoint, Session::Exact).await?;
    let c = &mut conn;
    for sql in [
        "CREATE TABLE `we``ird` (a INT, `B b` VARCHAR(9) COLLATE latin1_bin, n INT AS (a + 1) STORED, \
         h BIGINT UNSIGNED INVISIBLE, j JSON, PRIMARY KEY (`B b`, a), UNIQUE z (n, h), UNIQUE y (h))",
        "CREATE TABLE nokey (a INT) ENGINE=MyISAM",
        "CREATE TABLE prefixed (a BLOB, PRIMARY KEY (a(10)))",
        "CREATE TABLE parent (id INT PRIMARY KEY)",
        "CREATE TABLE child (id INT PRIMARY KEY, p INT, q INT, \
         CONSTRAINT gone FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE, \
         CONSTRAINT kept FOREIGN KEY (q) REFERENCES parent (id))",
        "CREATE TABLE history (id INT PRIMARY KEY) WITH SYSTEM VERSIONING",
        "CREATE VIEW look AS SELECT 1",
        "CREATE SEQUENCE counter",
        "CREATE PROCEDURE act() DO 1",
        "CREATE TRIGGER watch BEFORE INSERT ON parent FOR EACH ROW SET @a = 1",
        "CREATE EVENT tick ON SCHEDULE EVERY 1 DAY DO DO 1",
    ] {
        c.query_drop(sql).await.with_context(|| sql.to_owned())?;
    }
    let table = catalog::table(c, "s", "we`ird").await?;
    let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
    ensure!(names == ["a", "B b", "n", "h", "j"], "{names:?}");
    ensure!(table.primary_key == [1, 0], "{:?}", table.primary_key);
    let unique: Vec<_> =
        table.unique_keys.iter().map(|k| (k.name.as_str(), &k.columns[..])).collect();
    ensure!(unique == [("y", &[3][..]), ("z", &[2, 3][..])], "{unique:?}");
    ensure!(table.columns[2].generated && !table.columns[3].generated);
    ensure!(table.columns[3].data == DataType::Int { bytes: 8, unsigned: true });
    ensure!(table.columns[1].collation.as_deref() == Some("latin1_bin"));
    ensure!(catalog::table(c, "s", "nokey").await?.primary_key.is_empty());
    let error = catalog::table(c, "s", "prefixed").await.err().context("prefix passed")?;
    ensure!(matches!(error, CatalogError::PrefixKey { length: 10, .. }), "{error}");
    for (name, kind) in [("look", "view"), ("counter", "sequence"), ("history", "system versioned")]
    {
        let error = catalog::table(c, "s", name).await.err().context("not a table")?;
        ensure!(matches!(&error, CatalogError::NotATable { kind: k, .. } if k == kind), "{error}");
    }
    let error = catalog::table(c, "s", "none").await.err().context("no such table")?;
    ensure!(matches!(error, CatalogError::NoSuchTable { .. }), "{error}");
    let tables = catalog::tables(c, "s").await?;
    let kinds: Vec<_> = tables.iter().map(|table| (table.name.as_str(), table.kind)).collect();
    ensure!(kinds.contains(&("look", TableKind::View)), "{kinds:?}");
    ensure!(kinds.contains(&("counter", TableKind::Sequence)), "{kinds:?}");
    ensure!(kinds.contains(&("history", TableKind::Versioned)), "{kinds:?}");
    ensure!(kinds.contains(&("nokey", TableKind::Table)) && kinds.len() == 8, "{kinds:?}");
    let keys = catalog::foreign_keys(c, "s").await?;
    let cascades: Vec<_> = keys.iter().map(|key| (key.name.as_str(), key.cascades())).collect();
    ensure!(cascades == [("gone", true), ("kept", false)], "{keys:?}");
    ensure!(catalog::routines(c, "s").await?.len() == 1);
    ensure!(catalog::triggers(c, "s").await?[0].when == "BEFORE INSERT");
    ensure!(catalog::events(c, "s").await?[0].name == "tick");
    let made = catalog::show_create_table(c, "s", "we`ird").await?;
    ensure!(made.starts_with("CREATE TABLE `we``ird`"), "{made}");
    let error = catalog::show_create_table(c, "s", "none").await.err().context("no such table")?;
    ensure!(matches!(error, CatalogError::NoSuchTable { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_server_tells_its_settings_and_our_privileges() -> Result<()> {
    let (server, endpoint) = server().await?;
    // By one connection: the server hands a prepared transaction over to others only once it has let
    // go of the connection that prepared it, which is some time after the client has.
    server
        .run(
            "CREATE TABLE s.t (id INT PRIMARY KEY) ENGINE=InnoDB; XA START 'x'; \
             INSERT INTO s.t VALUES (1); XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'",
        )
        .await?;
    server
        .run(
            "CREATE USER app@'%' IDENTIFIED BY 'p'; GRANT SELECT ON s.* TO app@'%'; \
             CREATE USER boss@'%'; GRANT BINLOG ADMIN ON *.* TO boss@'%'",
        )
        .await?;
    let mut conn = connect(&endpoint, Session::Plain).await?;
    let facts = ServerFacts::load(&mut conn).await?;
    ensure!(facts.is_mariadb && facts.version_number >= (10, 5, 0), "{facts:?}");
    ensure!(facts.log_bin && facts.binlog_format == "ROW" && facts.server_id == 1, "{facts:?}");
    ensure!(facts.xa_commits == 1 && facts.xa_prepared == 0, "{facts:?}");
    ensure!(facts.max_allowed_packet == 64 << 20 && !facts.gtid_binlog_pos.is_empty(), "{facts:?}");
    ensure!(facts.grants.has_global("REPLICATION SLAVE"), "{facts:?}");
    ensure!(
        facts.replica_server_ids == Some(vec![]) && facts.is_replica == Some(false),
        "{facts:?}"
    );
    let holders = holders(&mut conn, &facts.grants, &["BINLOG ADMIN"]).await?.context("visible")?;
    ensure!(holders.iter().any(|(account, _)| account == "'boss'@'%'"), "{holders:?}");
    let app = Endpoint {
        user: "app".to_owned(),
        password: Secret::new("p".to_owned()),
        ..endpoint.clone()
    };
    let mut conn = connect(&app, Session::Plain).await?;
    let facts = ServerFacts::load(&mut conn).await?;
    ensure!(facts.replica_server_ids.is_none() && facts.is_replica.is_none(), "{facts:?}");
    ensure!(facts.grants.has_on_schema("s", "SELECT"), "{facts:?}");
    ensure!(!facts.grants.has_on_schema("s", "INSERT"), "{facts:?}");
    Ok(())
}
