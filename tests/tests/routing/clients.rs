//! docs/routing.md and what stands beside it: the schema describes the documents, and the clients in
//! Python, Java and Go place keys as the daemons do and lose nothing across fences, kills and switches.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::RoutingKind;
use modshift_routing::{
    Document, Server, Side, Target,
    document::{DefaultRule, Key, TableRule},
};
use modshift_tests::{
    Address, MariaDbOptions, MariaDbServer,
    child::{Child, mortal},
    place::RunDir,
    server::{PASSWORD, class_path, hostile},
    wait_until,
};

use super::{LIMIT, document, publish, writer};

const LANGUAGES: [&str; 3] = ["python", "java", "go"];
const PYTHON: &str = "/usr/bin/python3";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// One of the clients, which answers a line with a line.
struct Client {
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Client {
    fn start(language: &str, routing: &Path) -> Result<Client> {
        let folder = docs().join("clients");
        let mut command = match language {
            "python" => {
                let mut command = mortal(PYTHON);
                command.arg(folder.join("client.py"));
                command
            }
            "java" => {
                let mut command = mortal("java");
                let jars = "/usr/share/java/gson.jar:/usr/share/java/mariadb-java-client.jar";
                command
                    .args(["-Dfile.encoding=UTF-8", "-cp", jars])
                    .arg(folder.join("Client.java"));
                command
            }
            _ => mortal(build_go(&folder)?),
        };
        command.arg(routing).args([writer::APP, PASSWORD]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = Child::spawn(language, command)?;
        let to = child.take_input().context("no input")?;
        let from = BufReader::new(child.take_output().0.context("no output")?);
        Ok(Client { _child: child, to, from })
    }

    fn ask(&mut self, parts: &[&str]) -> Result<String> {
        writeln!(self.to, "{}", parts.join("\t"))?;
        let mut answer = String::new();
        ensure!(self.from.read_line(&mut answer)? > 0, "it ended at {parts:?}");
        Ok(answer.trim_end().to_owned())
    }
}

/// With the driver as Debian has it, and without a module proxy.
fn build_go(folder: &Path) -> Result<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    // Of this process alone: two tests at once build the same.
    let program = place.join(format!("client-{}-{}", std::process::id(), NUMBER.next()));
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(folder.join("client.go"))
        .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode"), ("GOFLAGS", "")])
        .env("GOCACHE", place.join("cache"))
        .output()
        .context("running go")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}

struct Number(AtomicU64);

impl Number {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

static NUMBER: Number = Number(AtomicU64::new(0));

/// With a table of each rule.
fn of_all_rules(version: u64, default: Option<DefaultRule>) -> Document {
    let key = || "k".to_owned();
    let crc32 = |charset: &str| TableRule::Crc32 { key: key(), charset: charset.to_owned() };
    let tables = [
        ("floor", TableRule::FloorMod { key: key() }),
        ("abs", TableRule::AbsMod { key: key() }),
        ("binary", crc32("binary")),
        ("ascii", crc32("ascii")),
        ("latin1", crc32("latin1")),
        ("utf8mb3", crc32("utf8mb3")),
        ("utf8mb4", crc32("utf8mb4")),
        ("everywhere", TableRule::Broadcast),
    ];
    let tables: BTreeMap<_, _> = tables.map(|(name, rule)| (name.to_owned(), rule)).into();
    Document { tables, default, ..document(version, Side::New) }
}

#[test]
fn the_clients_place_every_key_as_the_daemons_do() -> Result<()> {
    let dir = RunDir::create("clients")?;
    let document = of_all_rules(3, Some(DefaultRule::FloorMod));
    let path = dir.join("routing.json");
    std::fs::write(&path, document.to_json())?;
    let integers = ["0", "1", "-1", "-5", "9223372036854775807", "-9223372036854775808"];
    let unsigned = ["9223372036854775808", "18446744073709551615"];
    let texts = ["a", "shop 7", "é", "ÿþ", "漢字", "😀"];
    let mut cases: Vec<(&str, &str, Option<u16>)> = Vec::new();
    let placed =
        |table: &str, key: Key<'_>| document.route(table, key).ok().map(|shard| shard.index);
    for table in ["floor", "abs", "another", "everywhere"] {
        for key in integers {
            cases.push((table, key, placed(table, Key::Int(key.parse()?))));
        }
        for key in unsigned {
            cases.push((table, key, placed(table, Key::UInt(key.parse()?))));
        }
        cases.push((table, "no number", placed(table, Key::Text("no number"))));
    }
    for table in ["binary", "ascii", "latin1", "utf8mb3", "utf8mb4"] {
        cases.extend(texts.map(|key| (table, key, placed(table, Key::Text(key)))));
    }
    ensure!(cases.iter().filter(|case| case.2.is_none()).count() > 20, "some are refused");
    place_by_crc32(&dir, document.modulus, &cases)?;
    for language in LANGUAGES {
        let mut client = Client::start(language, &path)?;
        for (table, key, shard) in &cases {
            let answer = client.ask(&["shard", table, key])?;
            match shard {
                Some(shard) => {
                    ensure!(answer == format!("ok {shard}"), "{language}, {table} {key}: {answer}")
                }
                None => ensure!(answer.starts_with("error"), "{language}, {table} {key}: {answer}"),
            }
        }
        // What is older, of another plan, of another format or half written changes nothing.
        let kept = client.ask(&["shard", "floor", "-5"])?;
        let other =
            Document { plan: "other".to_owned(), version: 9, modulus: 2, ..document.clone() };
        let odd =
            document.to_json().replace("\"format\": 1", "\"format\": 2").replace(": 3,", ": 9,");
        let older = Document { version: 2, side: Side::Old, ..super::document(2, Side::Old) };
        for text in [older.to_json(), other.to_json(), odd, "{\"format\": 1, \"pl".to_owned()] {
            std::fs::write(&path, text)?;
            ensure!(client.ask(&["shard", "floor", "-5"])? == kept, "{language}");
        }
        let none = Client::start(language, &dir.join("away"))?.ask(&["shard", "floor", "1"])?;
        ensure!(
            none.starts_with("error") && none.contains("no routing document"),
            "{language}: {none}"
        );
        std::fs::write(&path, document.to_json())?;
    }
    Ok(())
}

/// The class for ShardingSphere, asked for the keys of rule crc32 as ShardingSphere would.
fn place_by_crc32(dir: &RunDir, modulus: u16, cases: &[(&str, &str, Option<u16>)]) -> Result<()> {
    let jars = class_path("shardingsphere")?;
    let output = Command::new("javac")
        .args(["-nowarn", "-encoding", "UTF-8", "-cp", &jars, "-d"])
        .arg(dir.path())
        .arg(docs().join("clients/Crc32Sharding.java"))
        .arg(docs().join("../tests/java/PlaceByCrc32.java"))
        .output()
        .context("running javac")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let charsets = ["binary", "ascii", "latin1", "utf8mb3", "utf8mb4"];
    // The tables are called as their character sets.
    let of_crc32: Vec<_> = cases.iter().filter(|(table, ..)| charsets.contains(table)).collect();
    ensure!(of_crc32.iter().filter(|(_, _, shard)| shard.is_some()).count() > 10, "{of_crc32:?}");
    let lines: Vec<String> =
        of_crc32.iter().map(|(table, key, _)| format!("{table}\t{key}\n")).collect();
    let keys = dir.join("keys");
    std::fs::write(&keys, lines.concat())?;
    let output = mortal("java")
        .args(["-cp", &format!("{}:{jars}", dir.path().display()), "PlaceByCrc32", "shop_new_"])
        .arg(modulus.to_string())
        .stdin(std::fs::File::open(&keys)?)
        .output()
        .context("running java")?;
    let said = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{errors}");
    let expected = of_crc32.iter().map(|(_, _, shard)| match shard {
        Some(shard) => format!("shop_new_{shard}"),
        None => "refused".to_owned(),
    });
    assert_eq!(said.lines().collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{lines:?}");
    Ok(())
}

#[test]
fn the_schema_describes_what_is_published_and_nothing_else() -> Result<()> {
    let whole = of_all_rules(u64::MAX, Some(DefaultRule::Crc32 { charset: "latin1".to_owned() }));
    let server = Server { host: "db-3".to_owned(), port: 3307 };
    let mut behind = document(2, Side::Old);
    behind.shards[1].server = Some(server);
    let good = [whole.to_json(), of_all_rules(1, None).to_json(), behind.to_json()];
    let bad = [
        ("\"format\": 1", "\"format\": 2"),
        ("\"side\": \"new\"", "\"side\": \"both\""),
        ("\"rule\": \"abs_mod\"", "\"rule\": \"mod\""),
        ("\"charset\": \"utf8mb3\"", "\"charset\": \"utf8\""),
        ("\"version\": 18446744073709551615", "\"version\": 0"),
        ("\"modulus\"", "\"moduli\""),
        ("\"port\": 3306", "\"port\": \"3306\""),
    ];
    let bad_of_today = [("\"port\": 3307", "\"port\": 0"), ("\"host\": \"db-3\"", "\"name\": 3")];
    let dir = RunDir::create("schema")?;
    let mut expected = Vec::new();
    let mut command = Command::new(PYTHON);
    // By what was released first, too: its clients read what is published today.
    command.arg("-c").arg(
        "import json, sys, jsonschema\n\
         for schema in sys.argv[1:3]:\n\
         \x20   check = jsonschema.Draft202012Validator(json.load(open(schema)))\n\
         \x20   check.check_schema(check.schema)\n\
         \x20   print(*(check.is_valid(json.load(open(path))) for path in sys.argv[3:]))",
    );
    command.arg(docs().join("routing.schema.json"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routing/schema.first.json"));
    let mut add = |text: &str, valid: [bool; 2]| -> Result<()> {
        let path = dir.join(&format!("{}.json", expected.len()));
        std::fs::write(&path, text)?;
        command.arg(path);
        expected.push(valid);
        Ok(())
    };
    for text in &good {
        add(text, [true, true])?;
    }
    for (from, to) in bad {
        ensure!(good[0].contains(from), "{from} is not in {}", good[0]);
        add(&good[0].replace(from, to), [false, false])?;
    }
    for (from, to) in bad_of_today {
        ensure!(good[2].contains(from), "{from} is not in {}", good[2]);
        add(&good[2].replace(from, to), [false, true])?;
    }
    let output = command.output().context("running python3")?;
    let said = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let verdicts = |schema: usize| {
        let words = expected.iter().map(|valid| if valid[schema] { "True" } else { "False" });
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(said.lines().collect::<Vec<_>>(), [verdicts(0), verdicts(1)], "{errors}");
    Ok(())
}

const OLD: usize = 2;
const NEW: usize = 3;

async fn create(server: &Address, place: &Address) -> Result<()> {
    let schema = &place.schema;
    server.run(format!("DROP DATABASE IF EXISTS {schema}")).await?;
    server.run(format!("CREATE DATABASE {schema}")).await?;
    let columns = "uid BIGINT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (uid, number)";
    server.run(format!("CREATE TABLE {schema}.letter ({columns})")).await
}

/// What a reshard does, with the help of a standstill and of all shards on one server.
async fn copy(server: &Address, from: &[Address], to: &[Address]) -> Result<()> {
    for (index, place) in to.iter().enumerate() {
        create(server, place).await?;
        for source in from {
            let (to, from, modulus) = (&place.schema, &source.schema, to.len());
            let sql = format!(
                "INSERT INTO {to}.letter SELECT * FROM {from}.letter WHERE uid % {modulus} = {index}"
            );
            server.run(sql).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_lose_nothing_across_fences_kills_and_switches() -> Result<()> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    let admin = server.address();
    // What its sessions are like is an application's own affair, and no part of the contract.
    admin.run(hostile::ordinary()).await?;
    let (old, new) = (writer::schemas(&server, "old", OLD), writer::schemas(&server, "new", NEW));
    for place in &old {
        create(&admin, place).await?;
    }
    admin.run(format!("CREATE USER '{}'@'%' IDENTIFIED BY '{PASSWORD}'", writer::APP)).await?;
    writer::grant(&admin, "old").await?;
    let tables = "[[table]]\nname = \"letter\"\nkey = \"uid\"\nrule = \"floor_mod\"\n";
    let plan = writer::plan(&old, &new, tables)?;
    let dir = RunDir::create("clients")?;
    let path = dir.join("routing.json");
    let kind = RoutingKind::File { path: path.clone() };
    let target = Target { name: "file-0".to_owned(), timeout: LIMIT, follow_symlinks: false, kind };
    publish(&target, &Document::of_plan(&plan, Side::Old, 1)).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let mut writing = Vec::new();
    let mut written = Vec::new();
    for (number, language) in LANGUAGES.into_iter().enumerate() {
        let mut client = Client::start(language, &path)?;
        let (stop, counter) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
        written.push(Arc::clone(&counter));
        let thread = std::thread::spawn(move || -> Result<(u64, u64)> {
            let first = number as u64 * 1_000_000;
            let mut next = first;
            while !stop.load(Ordering::Relaxed) {
                let uid = (next % 7).to_string();
                let insert = format!("INSERT INTO letter VALUES ({uid}, {next})");
                let question = format!(
                    "SELECT 1 FROM letter WHERE uid = {uid} AND number = {next} FOR UPDATE"
                );
                let answer = client.ask(&["write", "letter", &uid, &insert, &question])?;
                // A duplicate key would say that it was made again although it had been done.
                ensure!(answer == "ok", "{language}: {answer}");
                next += 1;
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Ok((first, next))
        });
        writing.push(thread);
    }
    let more = async |count: u64| {
        let before: Vec<u64> = written.iter().map(|one| one.load(Ordering::Relaxed)).collect();
        wait_until("every client to write on", LIMIT, || async {
            let all = written.iter().zip(&before);
            let through =
                all.clone().all(|(now, then)| now.load(Ordering::Relaxed) >= then + count);
            // One that has ended has its error to tell.
            Ok((through || writing.iter().any(std::thread::JoinHandle::is_finished)).then_some(()))
        })
        .await
    };
    more(20).await?;
    for _ in 0..30 {
        writer::kill_application(&admin).await?;
        more(1).await?;
    }

    // There: fenced by read_only.
    admin.run("SET GLOBAL read_only = 1").await?;
    writer::kill_application(&admin).await?;
    copy(&admin, &old, &new).await?;
    publish(&target, &Document::of_plan(&plan, Side::New, 2)).await?;
    writer::leave(&admin, "old").await?;
    writer::grant(&admin, "new").await?;
    admin.run("SET GLOBAL read_only = 0").await?;
    more(50).await?;

    // And back: fenced by its account.
    admin.run(format!("ALTER USER '{}'@'%' ACCOUNT LOCK", writer::APP)).await?;
    writer::none_left(&admin).await?;
    copy(&admin, &new, &old).await?;
    publish(&target, &Document::of_plan(&plan, Side::Old, 3)).await?;
    writer::leave(&admin, "new").await?;
    writer::grant(&admin, "old").await?;
    admin.run(format!("ALTER USER '{}'@'%' ACCOUNT UNLOCK", writer::APP)).await?;
    more(50).await?;

    stop.store(true, Ordering::Relaxed);
    for (thread, language) in writing.into_iter().zip(LANGUAGES) {
        let (first, next) = thread.join().ok().context("a thread panicked")??;
        let mut found = 0;
        for (index, place) in old.iter().enumerate() {
            let of = format!("{}.letter WHERE number BETWEEN {first} AND {next}", place.schema);
            found += admin.value::<u64>(format!("SELECT COUNT(*) FROM {of}")).await?;
            let astray = format!("SELECT COUNT(*) FROM {of} AND uid % {OLD} <> {index}");
            ensure!(admin.value::<u64>(astray).await? == 0, "{language} wrote to the wrong shard");
        }
        ensure!(next - first > 150, "{language} wrote {}", next - first);
        ensure!(found == next - first, "{language}: {} acknowledged, {found} there", next - first);
    }
    Ok(())
}
