//! The bytes of a binlog as a real server sends them: with and without checksums, in packets of
//! every size, encrypted, and cut off.

use std::time::Duration;

use anyhow::{Result, ensure};
use modshift_proto::GtidSet;
use modshift_proto::plan::{Endpoint, Secret, TlsMode};
use modshift_replicator::binlog::{BinlogError, Decoder, Event, EventStream};
use modshift_tests::certificates::{authority, certificate};
use modshift_tests::place::RunDir;
use modshift_tests::server::{Delay, Proxy};
use modshift_tests::{Address, MariaDbOptions, MariaDbServer};

const HEARTBEAT: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(60);

fn endpoint(address: &Address) -> Endpoint {
    Endpoint {
        host: address.host.clone(),
        port: address.port,
        schema: "s".to_owned(),
        user: address.user.clone(),
        password: Secret::new(address.password.clone()),
        tls: TlsMode::Off,
        tls_ca: None,
        replica_server_id: 1001,
        replicas: Vec::new(),
        read_from: None,
        application: None,
        peers: None,
    }
}

async fn position(server: &MariaDbServer) -> Result<GtidSet> {
    Ok(server.value::<String>("SELECT @@gtid_binlog_pos").await?.parse()?)
}

/// Rows and their bytes in everything up to the group that ends at `end`.
async fn read(stream: &mut EventStream, end: &GtidSet) -> Result<(u32, usize)> {
    let mut decoder = Decoder::new(Vec::new())?;
    let (mut rows, mut bytes, mut last) = (0, 0, false);
    let reading = async {
        loop {
            match decoder.decode(stream.next().await?)? {
                Event::Gtid(header) => last = end.get(header.gtid.domain) == Some(header.gtid),
                Event::Rows(event) => {
                    rows += event.count_rows()?;
                    bytes += event.data().len();
                }
                Event::Xid if last => return Ok((rows, bytes)),
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, reading).await?
}

#[tokio::test]
async fn a_server_may_turn_checksums_on_and_off_under_a_reader() -> Result<()> {
    let server =
        MariaDbServer::start(MariaDbOptions::default().arg("--binlog-checksum=NONE")).await?;
    server.run("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY) ENGINE=InnoDB").await?;
    let start = position(&server).await?;
    server.run("INSERT INTO s.t VALUES (1)").await?;
    let mut stream = EventStream::open(&endpoint(&server.address()), &start, HEARTBEAT).await?;
    let (rows, _) = read(&mut stream, &position(&server).await?).await?;
    ensure!(rows == 1, "{rows}");
    for (id, checksum) in [(2, "CRC32"), (3, "NONE"), (4, "CRC32")] {
        server.run(format!("SET GLOBAL binlog_checksum = {checksum}")).await?;
        server.run(format!("INSERT INTO s.t VALUES ({id})")).await?;
        let (rows, _) = read(&mut stream, &position(&server).await?).await?;
        ensure!(rows == 1, "{checksum}: {rows}");
    }
    Ok(())
}

#[tokio::test]
async fn events_of_every_size_pass_in_clear_and_encrypted() -> Result<()> {
    let dir = RunDir::create("binlog-tls")?;
    authority(dir.path(), "ca")?;
    certificate(dir.path(), "ca", "server", "DNS:db.test")?;
    let options = MariaDbOptions::default()
        .arg(&format!("--ssl-cert={}", dir.join("server.pem").display()))
        .arg(&format!("--ssl-key={}", dir.join("server.key").display()));
    let server = MariaDbServer::start(options).await?;
    let table = "CREATE TABLE s.t (id INT PRIMARY KEY, b LONGBLOB) ENGINE=InnoDB";
    server.run(format!("CREATE DATABASE s; {table}")).await?;
    let start = position(&server).await?;
    // Around the buffer's and the packet's edges (of 2^24 - 1 bytes), and beyond.
    let mut lengths: Vec<usize> = (0..300).map(|n| n * 331).collect();
    lengths.extend([65_400, 65_536, 262_000, 262_144, 1 << 20]);
    lengths.extend((16_777_100..16_777_216).step_by(29));
    lengths.push(40 << 20);
    for (id, length) in lengths.iter().enumerate() {
        server.run(format!("INSERT INTO s.t VALUES ({id}, REPEAT('x', {length}))")).await?;
    }
    let end = position(&server).await?;
    let clear = endpoint(&server.address());
    let encrypted =
        Endpoint { tls: TlsMode::VerifyCa, tls_ca: Some(dir.join("ca.pem")), ..clear.clone() };
    // NULL bitmap, id, and the length of the blob before it.
    let expected: usize = lengths.iter().map(|length| length + 1 + 4 + 4).sum();
    for endpoint in [clear, encrypted] {
        let mut stream = EventStream::open(&endpoint, &start, HEARTBEAT).await?;
        let got = read(&mut stream, &end).await?;
        ensure!(got == (lengths.len() as u32, expected), "{:?}: {got:?}", endpoint.tls);
    }
    Ok(())
}

#[tokio::test]
async fn a_large_event_on_a_slow_line_is_no_silence() -> Result<()> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    server.run("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY, b LONGBLOB)").await?;
    let start = position(&server).await?;
    server.run("INSERT INTO s.t VALUES (1, 'x')").await?;
    let proxy = Proxy::start(server.host(), server.port()).await?;
    let heartbeat = Duration::from_millis(500);
    let endpoint = endpoint(&server.address().through(proxy.port()));
    let mut stream = EventStream::open(&endpoint, &start, heartbeat).await?;
    read(&mut stream, &position(&server).await?).await?;
    // Some four seconds on the way, where a server that says nothing for 1.5 is given up.
    proxy.delay(Delay::Fixed(Duration::from_millis(100)));
    let length = 40 * 16 * 1024;
    server.run(format!("INSERT INTO s.t VALUES (2, REPEAT('x', {length}))")).await?;
    let began = std::time::Instant::now();
    let (rows, bytes) = read(&mut stream, &position(&server).await?).await?;
    ensure!(rows == 1 && bytes > length, "{rows} rows of {bytes} bytes");
    ensure!(began.elapsed() > heartbeat * 3, "the line was not slow: {:?}", began.elapsed());
    // And one that does say nothing is told.
    proxy.stall();
    let silent = async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(LIMIT, silent).await?;
    ensure!(matches!(error, BinlogError::Silent { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_goes_ends_the_stream_by_name() -> Result<()> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    server.run("CREATE DATABASE s").await?;
    let endpoint = endpoint(&server.address());
    let start = position(&server).await?;
    for kill in [false, true] {
        let mut stream = EventStream::open(&endpoint, &start, HEARTBEAT).await?;
        let id: u32 = server.value("SELECT @@server_id").await?;
        ensure!(stream.server_id() == id, "{} is at the other end", stream.server_id());
        if kill {
            server.kill()?
        } else {
            server.stop().await?
        }
        let ended = async {
            loop {
                if let Err(error) = stream.next().await {
                    return error;
                }
            }
        };
        let error = tokio::time::timeout(LIMIT, ended).await?;
        let named = matches!(error, BinlogError::Ended { .. } | BinlogError::Server(_));
        ensure!(named, "{error:?}");
        ensure!(error.class() == modshift_replicator::binlog::Class::Retry, "{error}");
        server.restart().await?;
    }
    Ok(())
}
