//! Every session of ours is the same on every server, whatever its global settings, its
//! `init_connect` and the account's limits say.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use modshift_mariadb::session::{LEFT, PRIVILEGED, settings};
use modshift_mariadb::{Conn, Session, connect};
use modshift_proto::plan::{Endpoint, Secret, TlsMode};
use modshift_tests::server::{HOSTILE, LATER};
use modshift_tests::{MariaDbOptions, MariaDbServer};
use mysql_async::prelude::Queryable;

/// An account as the daemons have one: without CONNECTION ADMIN, BINLOG ADMIN or SUPER.
async fn server(options: MariaDbOptions) -> Result<(MariaDbServer, Endpoint)> {
    let server = MariaDbServer::start(options).await?;
    for sql in [
        "CREATE DATABASE s",
        "CREATE TABLE s.t (id INT PRIMARY KEY) ENGINE=InnoDB",
        "INSERT INTO s.t VALUES (1), (2), (3)",
        "CREATE USER u@'%' IDENTIFIED BY 'p' WITH MAX_STATEMENT_TIME 0.001",
        "GRANT ALL ON s.* TO u@'%'",
    ] {
        server.run(sql).await?;
    }
    let address = server.address();
    let endpoint = Endpoint {
        host: address.host.clone(),
        port: address.port,
        schema: "s".to_owned(),
        user: "u".to_owned(),
        password: Secret::new("p".to_owned()),
        tls: TlsMode::Off,
        replica_server_id: 1000,
        ..Endpoint::sample()
    };
    Ok((server, endpoint))
}

async fn variables(conn: &mut Conn) -> Result<BTreeMap<String, String>> {
    let rows: Vec<(String, String)> = conn.query("SHOW SESSION VARIABLES").await?;
    Ok(rows.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect())
}

/// As `SHOW VARIABLES` prints what we set.
fn shown(value: &str) -> String {
    value.trim_matches('\'').to_owned()
}

fn same(shown_value: &str, wanted: &str) -> bool {
    let switch = match wanted {
        "0" => "OFF",
        "1" => "ON",
        _ => wanted,
    };
    let set = |text: &str| -> BTreeSet<String> { text.split(',').map(str::to_owned).collect() };
    shown_value == switch
        || set(shown_value) == set(wanted)
        || shown_value.parse::<f64>().ok().is_some_and(|x| wanted.parse() == Ok(x))
}

#[tokio::test]
async fn a_session_is_the_same_whatever_the_server_says() -> Result<()> {
    let (server, endpoint) = server(MariaDbOptions::default()).await?;
    let globals: Vec<(String, String)> = server
        .query("SHOW GLOBAL VARIABLES")
        .await?
        .into_iter()
        .map(mysql_async::from_row)
        .collect();
    let globals: BTreeMap<_, _> = globals.into_iter().collect();
    ensure!(!globals["init_connect"].is_empty(), "no init_connect");
    for session in [Session::Plain, Session::Exact] {
        let mut conn = connect(&endpoint, session).await?;
        let version = conn.server_version();
        let now = variables(&mut conn).await?;
        // The last word on a name counts.
        let wanted: BTreeMap<&str, &str> =
            settings(session, version).map(|setting| (setting.name, setting.value)).collect();
        for (name, value) in wanted {
            let found = now.get(name).with_context(|| format!("no variable {name}"))?;
            if value == "DEFAULT" {
                continue;
            }
            ensure!(same(found, &shown(value)), "{name} is {found} instead of {value}");
            // The server wanted something else. What one kind of session has 0 the other has 1.
            let both = ["foreign_key_checks", "check_constraint_checks"].contains(&name);
            if !both && let Some(global) = globals.get(name) {
                ensure!(!same(global, &shown(value)), "{name} is not hostile: {global}");
            }
        }
        let names = match session {
            Session::Plain => "utf8mb4",
            Session::Exact => "binary",
        };
        for name in ["character_set_client", "character_set_connection", "character_set_results"] {
            ensure!(now[name] == names, "{name} is {}", now[name]);
        }
        ensure!(now["tx_isolation"] == "REPEATABLE-READ" && now["tx_read_only"] == "OFF");
        ensure!(now["insert_id"] == "0" && now["in_transaction"] == "0", "init_connect is left");
        ensure!(now["system_versioning_asof"] == "DEFAULT");
        let (schema, year): (String, u16) =
            conn.query_first("SELECT DATABASE(), YEAR(NOW())").await?.context("a row")?;
        ensure!(schema == "s" && year > 2020, "{schema} in {year}");
        let rows: Vec<u32> = conn.query("SELECT id FROM t").await?;
        ensure!(rows == [1, 2, 3], "{rows:?}");
        // Longer than any limit that the server or the account has.
        conn.query_drop("DO SLEEP(0.7)").await?;
        let error = conn.query_drop("INSERT INTO t VALUES (1)").await;
        let text = error.err().context("a duplicate passed")?.to_string();
        ensure!(text.contains("for key 'PRIMARY'"), "not English: {text}");
    }
    Ok(())
}

/// Where the account may, what takes a privilege is right, too.
#[tokio::test]
async fn no_session_variable_of_the_server_is_unknown_to_us() -> Result<()> {
    let (server, endpoint) = server(MariaDbOptions::default()).await?;
    server.run("GRANT BINLOG ADMIN ON *.* TO u@'%'").await?;
    let mut conn = connect(&endpoint, Session::Exact).await?;
    let version = conn.server_version();
    let now = variables(&mut conn).await?;
    for setting in PRIVILEGED {
        let found = &now[setting.name];
        ensure!(same(found, &shown(setting.value)), "{} is {found}", setting.name);
    }
    let fixed: BTreeSet<&str> = [Session::Plain, Session::Exact]
        .into_iter()
        .flat_map(|session| settings(session, version))
        .chain(PRIVILEGED)
        .map(|setting| setting.name)
        .collect();
    let left: BTreeSet<&str> = LEFT.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    ensure!(fixed.is_disjoint(&left), "both fixed and left: {:?}", fixed.intersection(&left));
    let sql = "SELECT LOWER(VARIABLE_NAME), GLOBAL_VALUE IS NULL FROM \
               information_schema.SYSTEM_VARIABLES WHERE VARIABLE_SCOPE LIKE 'SESSION%'";
    let all: Vec<(String, bool)> = conn.query(sql).await?;
    ensure!(all.len() > 150, "{} variables", all.len());
    let unknown: Vec<&String> = all
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !fixed.contains(name.as_str()) && !left.contains(name.as_str()))
        .collect();
    ensure!(unknown.is_empty(), "neither fixed nor left as they are: {unknown:?}");
    // And the tests' servers turn each of them against us.
    let hostile: BTreeSet<&str> = HOSTILE
        .iter()
        .map(|(name, ..)| *name)
        .chain(LATER.iter().map(|(_, name, ..)| *name))
        .collect();
    // Of the binlog itself, and what only a session has.
    let own = ["binlog_format", "binlog_row_image", "sql_log_bin"];
    let spared: Vec<&String> = all
        .iter()
        .filter(|(name, only_session)| {
            let name = name.as_str();
            fixed.contains(name) && !only_session && !hostile.contains(name) && !own.contains(&name)
        })
        .map(|(name, _)| name)
        .collect();
    ensure!(spared.is_empty(), "no test makes these hostile: {spared:?}");
    Ok(())
}

/// `secure_timestamp` forbids to set the clock, but not to let it go.
#[tokio::test]
async fn a_server_that_forbids_to_set_the_clock_is_no_obstacle() -> Result<()> {
    let options = MariaDbOptions::default().calm().arg("--secure-timestamp=YES");
    let (_server, endpoint) = server(options).await?;
    let mut conn = connect(&endpoint, Session::Exact).await?;
    let rows: Vec<u32> = conn.query("SELECT id FROM t").await?;
    ensure!(rows == [1, 2, 3], "{rows:?}");
    Ok(())
}
