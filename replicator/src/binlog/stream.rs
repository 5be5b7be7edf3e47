//! The binlog of a server as a stream of whole events.
//!
//! `mysql_async` brings the bytes (login, TLS, packets above 16 MiB); what it leaves to others is
//! done here: whether the start can be right at all, every checksum, and silence. Events leave
//! without their checksum. The stream ends with an error, always; then connect again.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use modshift_mariadb::error::of;
use modshift_mariadb::{Conn, connect};
use modshift_proto::GtidSet;
use modshift_proto::plan::Endpoint;
use mysql_async::binlog::events::{BinlogEventHeader, Event};
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest};
use tokio::time::Instant;

use super::code;
use super::error::BinlogError;
use super::event::{FLAGS_AT, HEADER_LEN};

/// One event: header and body.
#[derive(Clone, Debug)]
pub struct RawEvent(Vec<u8>);

impl RawEvent {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Silence for so many heartbeats means that the network or the server is gone.
const HEARTBEATS_MISSED_MAX: u32 = 3;
/// The longest that backpressure may hold up the server's sender.
const NET_WRITE_TIMEOUT_S: u32 = 600;
const READING: &str = "reading the binlog";
/// Flag of a format description whose file is still written.
const BINLOG_IN_USE_F: u8 = 1;

pub struct EventStream {
    at: String,
    inner: BinlogStream,
    /// The first event, read to see whether the server agrees to the start at all.
    first: Option<RawEvent>,
    described: bool,
    heartbeat: Duration,
    silence: Silence,
}

impl EventStream {
    /// Connects and asks for all event groups after `start`.
    pub async fn open(
        endpoint: &Endpoint,
        start: &GtidSet,
        heartbeat: Duration,
    ) -> Result<EventStream, BinlogError> {
        let at = connect::label(endpoint);
        let mut conn = connect::open(endpoint).await?;
        check_server(&mut conn, &at, start).await?;
        set_up(&mut conn, &at, start, heartbeat).await?;
        // No `with_gtid`: that is MySQL's command. The session's variables say where to start.
        let request = BinlogStreamRequest::new(endpoint.replica_server_id).with_pos(4);
        let inner =
            conn.get_binlog_stream(request).await.map_err(|error| of(&at, READING, error))?;
        let mut stream = EventStream {
            at,
            inner,
            first: None,
            described: false,
            heartbeat,
            silence: Silence { waited: Duration::ZERO, since: Instant::now() },
        };
        // Refusals (purged, unknown GTID) come in place of the first event.
        stream.first = Some(stream.next().await?);
        Ok(stream)
    }

    /// The next event if it is here already: without the clock and the timer of a wait.
    pub fn here(&mut self) -> Option<Result<RawEvent, BinlogError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let next = AssertUnwindSafe(self.inner.next()).catch_unwind().now_or_never()?;
        self.silence.waited = Duration::ZERO;
        Some(self.arrived(next))
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Result<RawEvent, BinlogError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let limit = self.heartbeat * HEARTBEATS_MISSED_MAX;
        let mut wait = self.silence.wait(self.heartbeat);
        let deadline = wait.start + limit.saturating_sub(wait.silence.waited);
        // Bytes too few for their own header's length make the driver panic.
        let next = AssertUnwindSafe(self.inner.next()).catch_unwind();
        let next = tokio::time::timeout_at(deadline, next).await;
        wait.answered = next.is_ok();
        drop(wait);
        match next {
            Err(_) => Err(BinlogError::Silent { at: self.at.clone(), seconds: limit.as_secs() }),
            Ok(next) => self.arrived(next),
        }
    }

    fn arrived(&mut self, next: Arrived) -> Result<RawEvent, BinlogError> {
        match next {
            Err(panic) => Err(not_an_event(self.at.clone(), panic)),
            Ok(None) => Err(BinlogError::Ended { at: self.at.clone() }),
            Ok(Some(Err(error))) => Err(of(&self.at, READING, error).into()),
            Ok(Some(Ok(event))) => verify(&self.at, &mut self.described, &event),
        }
    }
}

/// What the driver gives: nothing at a graceful end; it panics over bytes too few for a header.
type Arrived = Result<Option<Result<Event, mysql_async::Error>>, Box<dyn Any + Send>>;

/// Verifies the checksum and joins header and body. `described`: a format description came before.
fn verify(at: &str, described: &mut bool, event: &Event) -> Result<RawEvent, BinlogError> {
    let code = event.header().event_type_raw();
    let mut bytes = Vec::with_capacity(HEADER_LEN + event.data().len());
    write_header(&event.header(), &mut bytes);
    bytes.extend_from_slice(event.data());
    let is_description = code == code::FORMAT_DESCRIPTION;
    if !*described && !is_description {
        // Before the format description the driver cannot know of checksums: the first event, an
        // artificial ROTATE, comes with its own still at the end.
        let body_end = bytes.len().saturating_sub(4);
        let (body, sum) = bytes.split_at(body_end);
        if body_end >= HEADER_LEN && crc32fast::hash(body).to_le_bytes() == *sum {
            bytes.truncate(body_end);
        }
        return Ok(RawEvent(bytes));
    }
    *described = true;
    let Some(expected) = event.checksum() else { return Ok(RawEvent(bytes)) };
    let mut crc = crc32fast::Hasher::new();
    if is_description {
        // A file in use is marked so, but not in its checksum; the driver has cut the algorithm
        // off the end.
        let mut header = bytes.get(..HEADER_LEN).unwrap_or_default().to_vec();
        if let Some(flags) = header.get_mut(FLAGS_AT) {
            *flags &= !BINLOG_IN_USE_F;
        }
        let algorithm = event.footer().get_checksum_alg().ok().flatten();
        crc.update(&header);
        crc.update(event.data());
        crc.update(&[algorithm.map_or(0, |algorithm| algorithm as u8)]);
    } else {
        crc.update(&bytes);
    }
    if crc.finalize().to_le_bytes() != expected {
        return Err(BinlogError::Checksum { at: at.to_owned(), event: code::name(code) });
    }
    Ok(RawEvent(bytes))
}

/// How long the server has said nothing, over all calls of `next`, cancelled ones included. Time
/// in which nobody listened does not count.
struct Silence {
    waited: Duration,
    /// End of the last wait.
    since: Instant,
}

impl Silence {
    fn wait(&mut self, heartbeat: Duration) -> Waiting<'_> {
        let start = Instant::now();
        if start.duration_since(self.since) > heartbeat {
            // The caller was busy elsewhere; what has arrived meanwhile is yet to be seen.
            self.waited = Duration::ZERO;
        }
        Waiting { silence: self, start, answered: false }
    }
}

struct Waiting<'a> {
    silence: &'a mut Silence,
    start: Instant,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.silence.since = Instant::now();
        self.silence.waited += self.silence.since.duration_since(self.start);
        if self.answered {
            self.silence.waited = Duration::ZERO;
        }
    }
}

/// Facts that make every event after them worthless, each with its own error.
async fn check_server(conn: &mut Conn, at: &str, start: &GtidSet) -> Result<(), BinlogError> {
    type Facts = (bool, String, String, String, String);
    let facts: Option<Facts> = conn
        .query_first(
            "SELECT @@global.log_bin, @@global.binlog_format, @@global.binlog_row_image, \
             @@global.gtid_binlog_pos, @@global.gtid_binlog_state",
        )
        .await
        .map_err(|error| of(at, "reading its binlog settings", error))?;
    let Some((log_bin, format, image, now, state)) = facts else {
        return Err(BinlogError::NotAnEvent { at: at.to_owned() });
    };
    let setting = |setting, value: String, wanted| {
        Err(BinlogError::Setting { at: at.to_owned(), setting, value, wanted })
    };
    if !log_bin {
        return setting("log_bin", "OFF".to_owned(), "ON");
    }
    if format != "ROW" {
        return setting("binlog_format", format, "ROW");
    }
    if image != "FULL" {
        return setting("binlog_row_image", image, "FULL");
    }
    let parse = |text: &str| {
        let bad = |_| BinlogError::NotAnEvent { at: at.to_owned() };
        text.parse::<GtidSet>().map_err(bad)
    };
    let (now, state) = (parse(&now)?, parse(&state)?);
    for gtid in start.iter() {
        // The server would take a domain that it does not know for "from the beginning".
        if state.get(gtid.domain).is_none() {
            let (at, start) = (at.to_owned(), start.to_string());
            return Err(BinlogError::UnknownDomain { at, domain: gtid.domain, start });
        }
        if !now.covers(gtid) {
            let (at, now, start) = (at.to_owned(), now.to_string(), start.to_string());
            return Err(BinlogError::BehindStart { at, now, start });
        }
    }
    Ok(())
}

/// How a replica of MariaDB introduces itself before it asks for the binlog.
async fn set_up(
    conn: &mut Conn,
    at: &str,
    start: &GtidSet,
    heartbeat: Duration,
) -> Result<(), BinlogError> {
    // Capability 4: understands GTID events; else the server rewrites them. In strict mode a GTID
    // that the server does not have is an error. The dump thread waits for a slow reader as long
    // as `net_write_timeout`: backpressure is no reason to hang up.
    let set = format!(
        "SET @mariadb_slave_capability = 4, @slave_connect_state = '{start}', \
         @slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0, \
         @master_heartbeat_period = {}, net_write_timeout = {NET_WRITE_TIMEOUT_S}",
        heartbeat.as_nanos()
    );
    conn.query_drop(set).await.map_err(|error| of(at, "asking for the binlog", error).into())
}

fn not_an_event(at: String, _panic: Box<dyn Any + Send>) -> BinlogError {
    BinlogError::NotAnEvent { at }
}

/// The header as it came, out of the driver's reading of it.
fn write_header(header: &BinlogEventHeader, out: &mut Vec<u8>) {
    out.extend_from_slice(&header.timestamp().to_le_bytes());
    out.push(header.event_type_raw());
    out.extend_from_slice(&header.server_id().to_le_bytes());
    out.extend_from_slice(&header.event_size().to_le_bytes());
    out.extend_from_slice(&header.log_pos().to_le_bytes());
    out.extend_from_slice(&header.flags_raw().to_le_bytes());
}

#[cfg(test)]
mod tests {
    use mysql_async::binlog::BinlogVersion;
    use mysql_async::binlog::events::FormatDescriptionEvent;

    use super::super::fuzz::events;
    use super::*;

    const GROUP: &[u8] = include_bytes!("../../testdata/miscellany.group");

    /// As the server sent it: the length that the header says counts what was cut off.
    fn sent(event: &[u8], tail: &[u8]) -> Vec<u8> {
        let mut bytes = [event, tail].concat();
        let mut summed = bytes.clone();
        summed[FLAGS_AT] &= !BINLOG_IN_USE_F;
        bytes.extend_from_slice(&crc32fast::hash(&summed).to_le_bytes());
        bytes
    }

    #[test]
    fn a_flipped_bit_anywhere_is_a_wrong_checksum() {
        const CRC32: u8 = 1;
        let captured = events(GROUP);
        let description = captured.iter().find(|event| event[4] == code::FORMAT_DESCRIPTION);
        let description = sent(description.unwrap(), &[CRC32]);
        let fde = FormatDescriptionEvent::new(BinlogVersion::Version4);
        let first = Event::read(&fde, &description[..]).unwrap();
        let mut described = false;
        verify("s", &mut described, &first).unwrap();
        assert!(described);
        let fde = fde.with_footer(first.footer());
        for event in captured.iter().filter(|event| event[4] == code::GTID) {
            let bytes = sent(event, &[]);
            let good = Event::read(&fde, &bytes[..]).unwrap();
            assert_eq!(verify("s", &mut described, &good).unwrap().bytes(), *event);
            for at in (0..bytes.len()).filter(|at| !(9..13).contains(at)) {
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                let Ok(bad) = Event::read(&fde, &bad[..]) else { continue };
                let error = verify("s", &mut described, &bad).unwrap_err();
                assert!(matches!(error, BinlogError::Checksum { .. }), "{error}");
            }
        }
    }

    #[test]
    fn silence_adds_up_over_cancelled_waits_but_not_while_nobody_listens() {
        let heartbeat = Duration::from_secs(3600);
        let long_ago = Instant::now();
        let mut silence = Silence { waited: Duration::from_secs(5), since: long_ago };
        drop(silence.wait(heartbeat));
        assert!(silence.waited >= Duration::from_secs(5));
        silence.wait(heartbeat).answered = true;
        assert_eq!(silence.waited, Duration::ZERO);
        silence.waited = Duration::from_secs(5);
        let wait = silence.wait(Duration::ZERO);
        assert_eq!(wait.silence.waited, Duration::ZERO, "the caller was away");
    }
}
