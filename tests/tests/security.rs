//! What modshift leaves on a server, seen by those who are not to use it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, Daemons, Estate, EstateOptions, application::APP, case::Size, copied,
    estate::as_application, grants::grant_all,
};
use mysql_async::prelude::Queryable;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(120);
const DAEMONS: &str = "resharder";
const SWITCHER: &str = "switcher";

/// Error number of what must not pass.
async fn refused(conn: &mut mysql_async::Conn, sql: &str) -> Result<u16> {
    match conn.query_drop(sql).await {
        Err(mysql_async::Error::Server(error)) => Ok(error.code),
        other => anyhow::bail!("{sql}: {other:?}"),
    }
}

/// The application may do everything in its schema, and modshift is at work there.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_learns_nothing_of_accounts_and_stops_nothing_of_ours() -> Result<()> {
    let options = EstateOptions { size: Size::rows(300), ..EstateOptions::default() };
    let estate = Estate::start(1, 2, options).await?;
    for shard in estate.old.iter().chain(&estate.new) {
        let all = format!("GRANT ALL ON `{}`.* TO {APP}@'%'", shard.schema.replace('_', "\\_"));
        shard.server.run(all).await?;
    }
    // As an earlier version left it.
    estate.old[0].run("CREATE VIEW modshift_accounts AS SELECT * FROM mysql.global_priv").await?;
    let (_, output) = estate.modshift(["check"]).finish(LIMIT).await?;
    let said = "`shard_old_0`.modshift_accounts shows privileges to the application";
    ensure!(output.contains(said), "{output}");
    let plan = estate.plan().replace("user = \"modshift\"", &format!("user = \"{DAEMONS}\""));
    std::fs::write(estate.plan_path(), plan)?;
    grant_all(&estate, DAEMONS, SWITCHER)?;
    let (_, output) = estate.modshift(["check"]).finish(LIMIT).await?;
    ensure!(!output.contains("cannot see which"), "{output}");
    ensure!(!output.contains("shows privileges"), "the former view is still there:\n{output}");
    let daemons = Daemons::start(&estate)?;
    copied(&estate, LIMIT).await.with_context(|| daemons.output())?;

    for shard in estate.old.iter().chain(&estate.new) {
        let address: Address = as_application(shard.address());
        let mut conn = address.connect().await?;
        for sql in [
            "SELECT * FROM modshift.accounts",
            "SELECT * FROM modshift.writers",
            "SHOW CREATE VIEW modshift.accounts",
            "SHOW TABLES FROM modshift",
            "USE modshift",
            "CREATE VIEW peek AS SELECT * FROM modshift.accounts",
            "CREATE OR REPLACE VIEW modshift.accounts AS SELECT 1",
            "DROP VIEW modshift.accounts",
            "DROP DATABASE modshift",
            "SELECT * FROM mysql.global_priv",
            "SHOW GRANTS FOR resharder@'127.0.0.%'",
            "SET GLOBAL read_only = 0",
            "SHOW BINLOG EVENTS",
            "SHOW SLAVE HOSTS",
            "STOP SLAVE",
        ] {
            let code = refused(&mut conn, sql).await?;
            ensure!([1044, 1142, 1227, 1146, 1347, 4092].contains(&code), "{sql}: error {code}");
        }
        // Not even that there is something.
        let seen: Vec<String> = conn
            .query("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'modshift'")
            .await?;
        ensure!(seen.is_empty(), "{seen:?}");
        // Sessions of ours: neither seen nor ended.
        let users: Vec<String> =
            conn.query("SELECT DISTINCT USER FROM information_schema.PROCESSLIST").await?;
        ensure!(users == [APP], "{users:?}");
        let sql = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{DAEMONS}'");
        let ours: Vec<u64> =
            shard.server.query(sql).await?.into_iter().map(mysql_async::from_row).collect();
        ensure!(!ours.is_empty(), "modshift has no session here");
        for id in ours {
            let code = refused(&mut conn, &format!("KILL {id}")).await?;
            // Not the owner, or gone meanwhile.
            ensure!([1094, 1095].contains(&code), "KILL: error {code}");
        }
        // Whatever lies in the application's own schema names no account of others.
        let sql = "SELECT TABLE_NAME FROM information_schema.TABLES \
                   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'modshift\\_%'";
        let tables: Vec<String> = conn.query(sql).await?;
        ensure!(tables.iter().any(|name| name == "modshift_token"), "{tables:?}");
        for table in tables {
            let rows: Vec<mysql_async::Row> =
                conn.query(format!("SELECT * FROM `{table}`")).await?;
            let text = format!("{rows:?}");
            for secret in ["neighbour", "mariadb.sys", "root", "mysql_native_password"] {
                ensure!(!text.contains(secret), "{table} shows {secret}: {text}");
            }
        }
    }
    daemons.stop(LIMIT).await
}

/// A request with its body, which may come in a packet of its own; what came of it if it ends before.
async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = vec![];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if length.is_none_or(|length| length.parse().is_ok_and(|length| body.len() >= length)) {
                return text.into_owned();
            }
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
    }
}

/// Whoever comes, with what each has sent; everything is answered with an empty object.
async fn listener() -> Result<(String, Arc<Mutex<Vec<String>>>)> {
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", socket.local_addr()?);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                let text = request(&mut stream).await;
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok((url, seen))
}

fn said(seen: &Mutex<Vec<String>>) -> Vec<String> {
    seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_pass_by_the_proxies_of_the_environment() -> Result<()> {
    let (target, asked) = listener().await?;
    let (proxy, listened) = listener().await?;
    let routing = format!(
        "[control]\ntoken = \"daemon-secret-of-a-test\"\n[[routing]]\nkind = \"http\"\nurl = \"{target}/hook\"\n\
         token = \"hook-secret\"\n[[routing]]\nkind = \"etcd\"\nendpoints = [\"{target}\"]\n\
         key = \"/shop\"\nuser = \"root\"\npassword = \"etcd-secret\"\n"
    );
    let options =
        EstateOptions { size: Size::rows(1), plan_tail: routing, ..EstateOptions::default() };
    let estate = Estate::start(1, 2, options).await?;
    let run = async |args: &[&str]| {
        let mut launch = estate.modshift(args.iter().copied());
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            launch = launch.env(name, proxy.clone()).env(&name.to_uppercase(), proxy.clone());
        }
        // Nobody is spared.
        launch.env("no_proxy", "").env("NO_PROXY", "").finish(LIMIT).await
    };
    // Targets take what is so anyway before the gate is asked.
    let (code, output) = run(&["cutover"]).await?;
    ensure!(code != 0, "cut over without a daemon: {output}");
    run(&["pause", "--run", &target]).await?;
    let all = said(&asked);
    for secret in ["hook-secret", "etcd-secret", "daemon-secret-of-a-test"] {
        ensure!(
            all.iter().any(|request| request.contains(secret)),
            "no {secret}: {output}\n{all:#?}"
        );
    }
    ensure!(said(&listened).is_empty(), "through the proxy: {:#?}", said(&listened));
    Ok(())
}
