//! Targets in their order, hooks and commands included.

#![cfg(feature = "publish")]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use modshift_mariadb::Class;
use modshift_proto::plan::{HttpMethod, RoutingKind, Secret};
use modshift_routing::document::{DefaultRule, FORMAT};
use modshift_routing::{Ack, Document, Failure, PublishError, Shard, Side, Target};
use modshift_routing::{preview, publish};

const LONG: Duration = Duration::from_secs(60);

fn document(version: u64) -> Document {
    let shard =
        Shard { index: 0, host: "h".to_owned(), port: 1, schema: "s".to_owned(), server: None };
    Document {
        format: FORMAT,
        plan: "shop".to_owned(),
        version,
        side: Side::New,
        modulus: 1,
        shards: vec![shard],
        tables: BTreeMap::new(),
        default: Some(DefaultRule::FloorMod),
    }
}

fn target(name: &str, timeout: Duration, kind: RoutingKind) -> Target {
    Target { name: name.to_owned(), timeout, follow_symlinks: false, kind }
}

fn file(path: PathBuf) -> Target {
    target("file", LONG, RoutingKind::File { path })
}

fn command(timeout: Duration, script: &str) -> Target {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    target(
        "command",
        timeout,
        RoutingKind::Command { argv, env: vec!["CARGO_PKG_NAME".to_owned()] },
    )
}

fn hook(url: &str, timeout: Duration) -> Target {
    let token = Some(Secret::new("hunter2".to_owned()));
    let (url, method) = (url.to_owned(), HttpMethod::Post);
    target("hook", timeout, RoutingKind::Http { url, method, token, tls_ca: None })
}

async fn one(target: &Target, version: u64) -> Result<Ack, PublishError> {
    let mut tried = publish(std::slice::from_ref(target), &document(version)).await;
    assert_eq!(tried.len(), 1);
    tried.remove(0).1
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("modshift-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Answers one request with this; what it was.
fn serve(answer: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/routing", listener.local_addr().unwrap());
    let (sender, request) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            reader.read_line(&mut text).unwrap();
        }
        let length = text.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse())
        });
        let mut body = vec![0; length.unwrap().unwrap()];
        reader.read_exact(&mut body).unwrap();
        text.push_str(&String::from_utf8(body).unwrap());
        sender.send(text).unwrap();
        // Without an answer, the caller is the one who hangs up.
        match answer {
            "" => drop(reader.read_to_end(&mut Vec::new())),
            _ => stream.write_all(answer.as_bytes()).unwrap(),
        }
    });
    (url, request)
}

#[tokio::test]
async fn targets_are_tried_in_order_up_to_the_first_that_fails() {
    let folder = folder("order");
    let (first, last) = (folder.join("first.json"), folder.join("last.json"));
    let refuses = "test ! -e \"$LAST\" && cat >/dev/null && echo no such luck >&2; exit 3";
    let script = refuses.replace("$LAST", &last.display().to_string());
    let targets = [
        file(first.clone()),
        command(LONG, &script),
        target("last", LONG, file(last.clone()).kind),
    ];
    let tried = publish(&targets, &document(5)).await;
    let names: Vec<&str> = tried.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["file", "command"]);
    assert_eq!(tried[0].1.as_ref().unwrap(), &Ack::Stored);
    let error = tried[1].1.as_ref().unwrap_err();
    let expected = "routing target command: refused: sh ended with exit status: 3: no such luck";
    assert_eq!(error.to_string(), expected);
    // It may have told half of those behind it.
    assert!(error.may_have_arrived() && error.class() == Class::Retry && error.hint().is_some());
    assert!(first.exists() && !last.exists());

    // Again, once it is mended: the first has it already.
    let targets = [targets[0].clone(), command(LONG, "cat >/dev/null"), targets[2].clone()];
    let tried = publish(&targets, &document(5)).await;
    let acks: Vec<Ack> = tried.into_iter().map(|(_, result)| result.unwrap()).collect();
    assert_eq!(acks, [Ack::Held, Ack::Stored, Ack::Stored]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_command_gets_document_and_version() {
    let folder = folder("command");
    let seen = folder.join("seen");
    let script = format!("cat >{0}; echo $MODSHIFT_ROUTING_VERSION >>{0}", seen.display());
    assert_eq!(one(&command(LONG, &script), 7).await.unwrap(), Ack::Stored);
    let seen = std::fs::read_to_string(&seen).unwrap();
    assert_eq!(seen, format!("{}7\n", document(7).to_json()));
    // Of our own environment only what is common, and what the plan names.
    let seen = folder.join("environment");
    assert!(std::env::var_os("CARGO_PKG_VERSION").is_some());
    let script = format!("env >{}", seen.display());
    assert_eq!(one(&command(LONG, &script), 7).await.unwrap(), Ack::Stored);
    let seen = std::fs::read_to_string(&seen).unwrap();
    assert!(seen.contains("CARGO_PKG_NAME=") && seen.contains("PATH="), "{seen}");
    assert!(!seen.contains("CARGO_PKG_VERSION"), "{seen}");
    std::fs::remove_dir_all(&folder).unwrap();

    // One that reads nothing, talks much, and leaves someone behind who holds its output open.
    let rude = "yes loud | head -c 300000 >&2; sleep 100 & exit 0";
    assert_eq!(one(&command(LONG, rude), 7).await.unwrap(), Ack::Stored);
    let missing =
        target("x", LONG, RoutingKind::Command { argv: vec!["/no/such".to_owned()], env: vec![] });
    let missing = one(&missing, 7).await.unwrap_err();
    assert!(matches!(missing.failure, Failure::Unreachable { .. }), "{missing}");
    assert!(missing.to_string().contains("running /no/such"), "{missing}");
    let killed = one(&command(LONG, "kill -9 $$"), 7).await.unwrap_err();
    assert!(killed.to_string().contains("signal: 9"), "{killed}");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed() {
    let folder = folder("slow");
    let (pid, began) = (folder.join("pid"), Instant::now());
    let script = format!("echo $$ >{0}.x; mv {0}.x {0}; exec sleep 100", pid.display());
    let slow = one(&command(Duration::from_millis(1500), &script), 7).await.unwrap_err();
    assert!(matches!(slow.failure, Failure::Timeout { .. }), "{slow}");
    assert!(slow.may_have_arrived() && began.elapsed() < LONG, "{slow}");
    let pid = std::fs::read_to_string(&pid).unwrap();
    let process = format!("/proc/{}/stat", pid.trim());
    // Gone, or dead and not yet asked for.
    let alive = || {
        let stat = std::fs::read_to_string(&process).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while alive() {
        assert!(began.elapsed() < LONG, "{process} lives");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_hook_gets_the_document_and_any_2xx_acknowledges() {
    let (url, request) = serve("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(one(&hook(&url, LONG), 9).await.unwrap(), Ack::Stored);
    let request = request.recv_timeout(LONG).unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, document(9).to_json());
    assert!(head.starts_with("POST /routing HTTP/1.1"), "{head}");
    let head = head.to_ascii_lowercase();
    for line in [
        "authorization: bearer hunter2",
        "modshift-routing-version: 9",
        "content-type: application/json",
    ] {
        assert!(head.lines().any(|found| found == line), "{line} of {head}");
    }
}

#[tokio::test]
async fn a_hook_that_does_not_acknowledge_is_an_error() {
    let conflict = "HTTP/1.1 409 Conflict\r\nContent-Length: 12\r\n\r\nversion is 9";
    let error = one(&hook(&serve(conflict).0, LONG), 8).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Refused { .. }), "{error}");
    let said = error.to_string();
    assert!(said.ends_with("answered 409: it holds a newer version: version is 9"), "{said}");

    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let error = one(&hook(&serve(moved).0, LONG), 8).await.unwrap_err();
    assert!(error.to_string().ends_with("answered 302"), "{error}");

    let (url, request) = serve("");
    let error = one(&hook(&url, Duration::from_millis(500)), 8).await.unwrap_err();
    assert!(error.may_have_arrived(), "{error}");
    request.recv_timeout(LONG).unwrap();

    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let error = one(&hook(&format!("http://{free}/x"), LONG), 8).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Unreachable { .. }), "{error}");
    assert!(!error.may_have_arrived() && !error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn a_preview_shows_everything_but_secrets() {
    let hook = hook("http://h/x", LONG);
    let text = preview(&hook, &document(3)).unwrap();
    assert!(text.starts_with("POST http://h/x:\n") && text.ends_with(&document(3).to_json()));
    assert!(!text.contains("hunter2"));
}
