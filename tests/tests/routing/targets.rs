//! Targets that hold a version themselves, and refuse a lower one.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use modshift_mariadb::Conn;
use modshift_proto::plan::{RoutingKind, Secret};
use modshift_routing::{
    EtcdSource, Router, Side, Source,
    publish::{Ack, Failure, table},
};
use modshift_tests::{
    MariaDbOptions, MariaDbServer,
    place::{RunDir, free_port},
    server::EtcdServer,
};

use super::{LIMIT, document, etcd, publish};

#[tokio::test]
async fn the_table_of_a_shard_keeps_the_highest_version() -> Result<()> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    server.run("CREATE DATABASE shop").await?;
    let mut conn: Conn = server.address().with_schema("shop").connect().await?;
    let missing = table::held(&mut conn, "shop").await.err().context("a table")?.to_string();
    ensure!(missing.contains("modshift_routing of 127.0.0.1:"), "{missing}");
    for _ in 0..2 {
        server.address().with_schema("shop").run(table::CREATE_TABLE).await?;
    }
    assert_eq!(table::held(&mut conn, "shop").await?, None);

    let (first, second) = (document(1, Side::Old), document(2, Side::New));
    assert_eq!(table::store(&mut conn, &first).await?, Ack::Stored);
    assert_eq!(table::store(&mut conn, &first).await?, Ack::Held);
    assert_eq!(table::store(&mut conn, &second).await?, Ack::Stored);
    let older = table::store(&mut conn, &first).await.err().context("went back")?;
    assert!(matches!(older.failure, Failure::Newer { found: 2, version: 1 }), "{older}");
    let other = table::store(&mut conn, &document(2, Side::Old)).await.err().context("replaced")?;
    assert!(matches!(other.failure, Failure::Differs { version: 2 }), "{other}");
    assert_eq!(table::held(&mut conn, "shop").await?, Some(second));
    // Another plan on the same shard has a row of its own.
    let mut back = document(1, Side::Old);
    back.plan = "shop-back".to_owned();
    assert_eq!(table::store(&mut conn, &back).await?, Ack::Stored);

    let shop = server.address().with_schema("shop");
    let side: String = shop.value("SELECT side FROM modshift_routing WHERE plan='shop'").await?;
    assert_eq!(side, "new");
    shop.run("UPDATE modshift_routing SET document='{}' WHERE plan='shop'").await?;
    let foreign = table::held(&mut conn, "shop").await.err().context("parsed")?;
    assert!(matches!(foreign.failure, Failure::Foreign { .. }), "{foreign}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_keeps_the_highest_version_of_two_publishers() -> Result<()> {
    let server = EtcdServer::start().await?;
    let target = etcd(&[&server.endpoint()], LIMIT);
    let (first, second) = (document(1, Side::Old), document(2, Side::New));
    assert_eq!(publish(&target, &first).await?, Ack::Stored);
    assert_eq!(publish(&target, &first).await?, Ack::Held);
    assert_eq!(publish(&target, &second).await?, Ack::Stored);
    let older = publish(&target, &first).await.err().context("went back")?;
    assert!(matches!(older.failure, Failure::Newer { found: 2, version: 1 }), "{older}");
    ensure!(older.to_string().contains("routing target etcd-0"), "{older}");
    let other = publish(&target, &document(2, Side::Old)).await.err().context("replaced")?;
    assert!(matches!(other.failure, Failure::Differs { version: 2 }), "{other}");

    // Many at once: whoever is lower than the last is refused, and the highest stays.
    let racing = (3..20).map(|version| {
        let target = target.clone();
        tokio::spawn(async move { publish(&target, &document(version, Side::New)).await })
    });
    for done in racing.collect::<Vec<_>>() {
        if let Err(error) = done.await? {
            assert!(matches!(error.failure, Failure::Newer { .. }), "{error}");
        }
    }
    assert_eq!(publish(&target, &document(19, Side::New)).await?, Ack::Held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_away_is_an_error_and_another_member_is_asked() -> Result<()> {
    let server = EtcdServer::start().await?;
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let both = etcd(&[&nobody, &server.endpoint()], LIMIT);
    assert_eq!(publish(&both, &document(1, Side::Old)).await?, Ack::Stored);

    let gone = publish(&etcd(&[&nobody], LIMIT), &document(2, Side::New)).await;
    let gone = gone.err().context("published to nobody")?;
    assert!(matches!(gone.failure, Failure::Unreachable { .. }), "{gone}");
    ensure!(!gone.may_have_arrived() && gone.to_string().contains(&nobody), "{gone}");

    server.pause()?;
    let began = Instant::now();
    let silent = etcd(&[&server.endpoint()], Duration::from_millis(300));
    let error = publish(&silent, &document(2, Side::New)).await.err().context("no answer")?;
    ensure!(began.elapsed() < LIMIT, "{error} took {:?}", began.elapsed());
    server.cont()?;
    // What was given up is given up: publishing again says how it stands.
    publish(&both, &document(2, Side::New)).await?;

    server.kill()?;
    publish(&both, &document(3, Side::New)).await.err().context("killed")?;
    server.restart().await?;
    let older = publish(&both, &document(1, Side::Old)).await.err().context("went back")?;
    assert!(matches!(older.failure, Failure::Newer { found: 2, .. }), "{older}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_may_want_a_login() -> Result<()> {
    let server = EtcdServer::start().await?;
    // As `etcdctl` would, which is another package.
    for (path, body) in [
        ("auth/user/add", r#"{"name": "root", "password": "hunter2"}"#),
        ("auth/role/add", r#"{"name": "root"}"#),
        ("auth/user/grant", r#"{"user": "root", "role": "root"}"#),
        ("auth/enable", "{}"),
    ] {
        let url = format!("{}/v3/{path}", server.endpoint());
        tokio::task::spawn_blocking(move || ureq::post(&url).send(body).map(drop)).await??;
    }
    let mut target = etcd(&[&server.endpoint()], LIMIT);
    let stranger = publish(&target, &document(1, Side::Old)).await.err().context("let in")?;
    ensure!(stranger.to_string().contains("etcd answered"), "{stranger}");
    let mut log_in = |password: &str| {
        if let RoutingKind::Etcd(etcd) = &mut target.kind {
            etcd.login = Some(("root".to_owned(), Secret::new(password.to_owned())));
        }
        target.clone()
    };
    let wrong = publish(&log_in("hunter3"), &document(1, Side::Old)).await;
    let wrong = wrong.err().context("let in")?.to_string();
    ensure!(wrong.contains("authentication failed") && !wrong.contains("hunter3"), "{wrong}");
    assert_eq!(publish(&log_in("hunter2"), &document(1, Side::Old)).await?, Ack::Stored);
    Ok(())
}

fn openssl(dir: &RunDir, line: &str) -> Result<()> {
    let words = line.split_whitespace();
    let run = Command::new("openssl").args(words).current_dir(dir.path()).output()?;
    ensure!(run.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&run.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_as_strict_as_the_authority_that_is_named() -> Result<()> {
    let dir = RunDir::create("routing-tls")?;
    let key = "-newkey rsa:2048 -nodes -days 30";
    openssl(&dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority"))?;
    openssl(&dir, &format!("req -x509 {key} -keyout other.key -out other.pem -subj /CN=other"))?;
    openssl(&dir, "req -newkey rsa:2048 -nodes -keyout s.key -out s.csr -subj /CN=etcd")?;
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n")?;
    openssl(
        &dir,
        "x509 -req -in s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out s.pem",
    )?;
    let server = EtcdServer::start_tls(dir.join("s.pem"), dir.join("s.key")).await?;
    let endpoint = server.tls_endpoint().context("no TLS")?;
    let with = |ca: Option<&str>| {
        let mut target = etcd(&[&endpoint], LIMIT);
        if let RoutingKind::Etcd(etcd) = &mut target.kind {
            etcd.tls_ca = ca.map(|name| dir.join(name));
        }
        target
    };
    for refused in [None, Some("other.pem"), Some("names"), Some("missing.pem")] {
        let error = publish(&with(refused), &document(1, Side::Old)).await;
        let error = error.err().with_context(|| format!("{refused:?} was enough"))?;
        assert!(matches!(error.failure, Failure::Unreachable { .. }), "{error}");
    }
    assert_eq!(publish(&with(Some("ca.pem")), &document(1, Side::Old)).await?, Ack::Stored);
    let source = |ca: &str| {
        Source::Etcd(EtcdSource {
            endpoints: vec![endpoint.clone()],
            key: "/shop/routing".to_owned(),
            tls_ca: Some(dir.join(ca)),
            ..EtcdSource::default()
        })
    };
    let router = Router::follow(source("ca.pem"))?;
    assert_eq!(tokio::time::timeout(LIMIT, router.newer(0)).await?, 1);
    // No waiting mends this.
    assert!(Router::follow(source("missing.pem")).is_err());
    Ok(())
}
