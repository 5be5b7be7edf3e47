//! The client: the newest document, through every outage of its source.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use modshift_proto::plan::RoutingKind;
use modshift_routing::{
    ClientError, Document, EtcdSource, HttpSource, Intervals, Router, Side, Source, Target,
};
use modshift_tests::{place::RunDir, server::EtcdServer, wait_until};

use super::{LIMIT, document, etcd, publish};

/// What every client does, over a source on which the closures act: publish, break, mend.
async fn check<P, B, M>(source: Source, publish: P, damage: B, mend: M) -> Result<()>
where
    P: AsyncFn(Document) -> Result<()>,
    B: AsyncFn() -> Result<()>,
    M: AsyncFn() -> Result<()>,
{
    let router = Router::follow(source)?;
    let early = router.route("t", 5).err().context("nothing is published")?;
    assert!(matches!(early, ClientError::NoDocument { .. }), "{early}");
    let soon = Instant::now() + Duration::from_millis(200);
    let waiting = router.clone();
    let none = tokio::task::spawn_blocking(move || waiting.wait_newer(0, soon)).await?;
    assert!(matches!(none, Err(ClientError::NoDocument { .. })), "{none:?}");

    publish(document(3, Side::Old)).await?;
    assert_eq!(tokio::time::timeout(LIMIT, router.newer(0)).await?, 3);
    let route = router.route("t", 5)?;
    assert_eq!((route.shard, route.host.as_str(), route.version), (1, "old-1", 3));
    wait_until("a healthy client", LIMIT, || async {
        Ok(router.health().fault.is_none().then_some(()))
    })
    .await?;

    damage().await?;
    wait_until("the outage noticed", LIMIT, || async {
        Ok(router.health().fault.is_some().then_some(()))
    })
    .await?;
    // The last document stays in use, and is known to grow old.
    assert_eq!(router.route("t", 5)?.host, "old-1");
    let age = router.health().age.context("it was confirmed once")?;
    wait_until("an older document", LIMIT, || async {
        Ok(router.health().age.filter(|&now| now > age))
    })
    .await?;

    mend().await?;
    publish(document(4, Side::New)).await?;
    let waiting = router.clone();
    let newer =
        tokio::task::spawn_blocking(move || waiting.wait_newer(3, Instant::now() + LIMIT)).await?;
    assert_eq!(newer, Ok(4));
    let route = router.route("t", 5)?;
    assert_eq!((route.shard, route.host.as_str(), route.version), (2, "new-2", 4));
    assert_eq!(router.health().fault, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_follows_a_file_through_outages() -> Result<()> {
    let dir = RunDir::create("follow")?;
    let path = dir.join("routing.json");
    let kind = RoutingKind::File { path: path.clone() };
    let target = Target { name: "file-0".to_owned(), timeout: LIMIT, follow_symlinks: false, kind };
    let away = dir.join("away");
    check(
        Source::File(path.clone()),
        async |document| Ok(publish(&target, &document).await.map(drop)?),
        async || Ok(std::fs::rename(&path, &away)?),
        async || Ok(std::fs::rename(&away, &path)?),
    )
    .await?;

    // Half a file, then one of before: neither is taken.
    let router = Router::follow(Source::File(path.clone()))?;
    tokio::time::timeout(LIMIT, router.newer(3)).await?;
    let faults = [
        ("{\"format\": 1, \"pl".to_owned(), "not a routing document"),
        (document(1, Side::Old).to_json(), "it went back to version 1"),
        (document(4, Side::Old).to_json(), "it has another document of version 4"),
    ];
    for (text, expected) in faults {
        std::fs::write(&path, text)?;
        wait_until(expected, LIMIT, || async {
            let fault = router.health().fault.unwrap_or_default();
            Ok(fault.contains(expected).then_some(()))
        })
        .await?;
        assert_eq!(router.route("t", 5)?.version, 4);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_follows_etcd_through_outages() -> Result<()> {
    let server = EtcdServer::start().await?;
    let target = etcd(&[&server.endpoint()], LIMIT);
    let source = EtcdSource {
        endpoints: vec![server.endpoint()],
        key: "/shop/routing".to_owned(),
        ..EtcdSource::default()
    };
    check(
        Source::Etcd(source),
        async |document| Ok(publish(&target, &document).await.map(drop)?),
        async || server.kill(),
        async || server.restart().await,
    )
    .await
}

/// A configuration service: PUT and GET of one document, with an ETag.
#[derive(Default)]
struct Service {
    document: Mutex<Option<String>>,
    broken: AtomicBool,
    not_modified: AtomicU64,
}

impl Service {
    fn start(self: &Arc<Self>) -> Result<String> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let url = format!("http://{}/routing", listener.local_addr()?);
        let service = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that hangs up in between is its own affair.
                let _ = service.answer(stream);
            }
        });
        Ok(url)
    }

    fn answer(&self, mut stream: std::net::TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_ascii_lowercase());
        }
        let header = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name));
        let mut body = vec![0; header("content-length:").map_or(Ok(0), |n| n.trim().parse())?];
        std::io::Read::read_exact(&mut reader, &mut body)?;
        let mut document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        let version = |text: &str| format!("\"{}\"", text.len() + text.matches("new").count());
        let (status, etag, body) = match (&*document, lines[0].starts_with("put")) {
            _ if self.broken.load(Ordering::Relaxed) => ("500 Oops", None, "broken".to_owned()),
            (_, true) => {
                *document = Some(String::from_utf8(body)?);
                ("204 Done", None, String::new())
            }
            (None, false) => ("404 Not Found", None, String::new()),
            (Some(text), false) => match header("if-none-match:") {
                Some(tag) if tag.trim() == version(text) => {
                    self.not_modified.fetch_add(1, Ordering::Relaxed);
                    ("304 Not Modified", None, String::new())
                }
                _ => ("200 OK", Some(version(text)), text.clone()),
            },
        };
        let etag = etag.map(|tag| format!("ETag: {tag}\r\n")).unwrap_or_default();
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{etag}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_follows_http_through_outages() -> Result<()> {
    let service = Arc::new(Service::default());
    let url = service.start()?;
    let target = Target {
        name: "http-0".to_owned(),
        timeout: LIMIT,
        follow_symlinks: false,
        kind: RoutingKind::Http {
            url: url.clone(),
            method: modshift_proto::plan::HttpMethod::Put,
            token: None,
            tls_ca: None,
        },
    };
    check(
        Source::Http(HttpSource { url: url.clone(), ..HttpSource::default() }),
        async |document| Ok(publish(&target, &document).await.map(drop)?),
        async || {
            service.broken.store(true, Ordering::Relaxed);
            Ok(())
        },
        async || {
            service.broken.store(false, Ordering::Relaxed);
            Ok(())
        },
    )
    .await?;
    // A document that has not changed is not sent again.
    let millis = Duration::from_millis;
    let often = Intervals { idle: millis(10), waiting: millis(10) };
    let source = HttpSource { url, ..HttpSource::default() };
    let router = Router::follow_every(Source::Http(source), often)?;
    wait_until("an answer without a body", LIMIT, || async {
        Ok((service.not_modified.load(Ordering::Relaxed) > 2).then_some(()))
    })
    .await?;
    assert_eq!(router.version(), 4);
    Ok(())
}
