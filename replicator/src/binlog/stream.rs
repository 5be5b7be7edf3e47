//! The binlog of a server as a stream of whole events.
//!
//! [`ServerSocket`] brings the bytes (login, TLS, packets above 16 MiB) and leaves them where they
//! arrived; here is decided whether the start can be right at all, and every checksum and silence
//! is looked after. Events leave without their checksum. The stream ends with an error, always;
//! then connect again.

use std::time::Duration;

use modshift_mariadb::error::of;
use modshift_mariadb::{Conn, ServerSocket, Session, connect};
use modshift_proto::GtidSet;
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::checksum::Checksums;
use super::error::BinlogError;
use super::event::{EventKind, kind};

/// Silence for so many heartbeats means that the network or the server is gone.
const HEARTBEATS_MISSED_MAX: u32 = 3;
/// The same before the first group or heartbeat: until then the server goes through its log, and
/// past a transaction of many gigabytes it says nothing.
const FIRST_WAIT: Duration = Duration::from_secs(600);
/// The longest that backpressure may hold up the server's sender.
const NET_WRITE_TIMEOUT_S: u32 = 600;
const ASKING: &str = "asking for the binlog";
const READING: &str = "reading the binlog";

/// Within the common header of an event.
const SERVER_ID_AT: usize = 5;

const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_SLAVE: u8 = 0x15;
/// What precedes each event.
const EVENT: u8 = 0;
/// Ends the binlog: the server is going down.
const END: u8 = 0xfe;
/// An end is never longer.
const END_BYTES_MAX: usize = 8;

pub struct EventStream {
    at: String,
    server_id: u32,
    socket: ServerSocket,
    /// The first event, read to see whether the server agrees to the start at all, is still to be
    /// handed out.
    first: Option<Vec<u8>>,
    /// That first event, once it is.
    handed: Vec<u8>,
    checksums: Checksums,
    heartbeat: Duration,
    silence: Silence,
    /// A group or a heartbeat has come: from here on the server is never silent for long.
    begun: bool,
}

impl EventStream {
    /// Connects and asks for all event groups after `start`.
    pub async fn open(
        endpoint: &Endpoint,
        start: &GtidSet,
        heartbeat: Duration,
    ) -> Result<EventStream, BinlogError> {
        EventStream::open_as(endpoint, endpoint.replica_server_id, start, heartbeat).await
    }

    /// The same beside whoever reads there. One that names no id is no replica to the server, which
    /// ends the former connection of a replica for its next one.
    pub async fn look_back(
        endpoint: &Endpoint,
        start: &GtidSet,
        heartbeat: Duration,
    ) -> Result<EventStream, BinlogError> {
        EventStream::open_as(endpoint, 0, start, heartbeat).await
    }

    /// The same under another replica's id.
    pub(crate) async fn open_as(
        endpoint: &Endpoint,
        id: u32,
        start: &GtidSet,
        heartbeat: Duration,
    ) -> Result<EventStream, BinlogError> {
        let at = connect::label(endpoint);
        let mut conn = connect(endpoint, Session::Plain).await?;
        check_server(&mut conn, &at, start).await?;
        // Its server may be gone by now: the next connection will tell.
        let _ = conn.disconnect().await;
        let mut socket = ServerSocket::connect(endpoint).await?;
        set_up(&mut socket, start, heartbeat).await?;
        request(&mut socket, id).await?;
        let mut stream = EventStream {
            at,
            server_id: 0,
            socket,
            first: None,
            handed: Vec::new(),
            checksums: Checksums::default(),
            heartbeat,
            silence: Silence { waited: Duration::ZERO, since: Instant::now(), heard: 0 },
            begun: false,
        };
        // Refusals (purged, unknown GTID) come in place of the first event.
        let first = stream.next().await?.to_vec();
        stream.server_id = sender(&first);
        stream.first = Some(first);
        Ok(stream)
    }

    /// Which server is at the other end: an address may lead to another one tomorrow.
    pub fn server_id(&self) -> u32 {
        self.server_id
    }

    /// The next event if it is here already: without the clock and the timer of a wait.
    pub fn here(&mut self) -> Result<Option<&[u8]>, BinlogError> {
        if self.first.is_some() {
            return Ok(None);
        }
        let Some(payload) = self.socket.here(READING)? else { return Ok(None) };
        self.silence.waited = Duration::ZERO;
        let event = event(payload, &mut self.checksums, &self.at)?;
        self.begun = self.begun || begins(event);
        Ok(Some(event))
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Result<&[u8], BinlogError> {
        if let Some(first) = self.first.take() {
            self.handed = first;
            return Ok(&self.handed);
        }
        loop {
            let limit = match self.begun {
                true => self.heartbeat * HEARTBEATS_MISSED_MAX,
                false => FIRST_WAIT,
            };
            let mut wait = self.silence.wait(self.heartbeat, self.socket.received());
            let deadline = wait.start + limit.saturating_sub(wait.silence.waited);
            let next = tokio::time::timeout_at(deadline, self.socket.arrives(READING)).await;
            wait.answered = next.is_ok();
            drop(wait);
            match next {
                Ok(arrived) => break arrived?,
                // A large event on a slow line.
                Err(_) if self.silence.heard != self.socket.received() => {}
                Err(_) => {
                    let (at, seconds) = (self.at.clone(), limit.as_secs());
                    return Err(BinlogError::Silent { at, seconds });
                }
            }
        }
        let payload = self.socket.payload(READING)?;
        let event = event(payload, &mut self.checksums, &self.at)?;
        self.begun = self.begun || begins(event);
        Ok(event)
    }
}

/// Does the server send what is new from here on?
fn begins(event: &[u8]) -> bool {
    matches!(kind(event), Ok(EventKind::Group(_) | EventKind::Heartbeat))
}

/// Of the first event, which the server makes up for this connection: its own id.
fn sender(event: &[u8]) -> u32 {
    let id = event.get(SERVER_ID_AT..SERVER_ID_AT + 4);
    id.and_then(|id| id.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The event in a payload, its checksum verified and cut off.
#[inline]
fn event<'a>(
    payload: &'a [u8],
    checksums: &mut Checksums,
    at: &str,
) -> Result<&'a [u8], BinlogError> {
    match payload {
        [EVENT, event @ ..] => checksums.verify(event, at),
        [END, ..] if payload.len() <= END_BYTES_MAX => {
            Err(BinlogError::Ended { at: at.to_owned() })
        }
        _ => Err(BinlogError::NotAnEvent { at: at.to_owned() }),
    }
}

/// How long the server has said nothing, over all calls of `next`, cancelled ones included. Time
/// in which nobody listened does not count.
struct Silence {
    waited: Duration,
    /// End of the last wait.
    since: Instant,
    /// Bytes received by then.
    heard: u64,
}

impl Silence {
    fn wait(&mut self, heartbeat: Duration, received: u64) -> Waiting<'_> {
        let start = Instant::now();
        if start.duration_since(self.since) > heartbeat || self.heard != received {
            // The caller was busy elsewhere; what has arrived meanwhile is yet to be seen. Or part
            // of an event has come.
            self.waited = Duration::ZERO;
            self.heard = received;
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
    type Facts = (bool, String, String, String, String, u32);
    let facts: Option<Facts> = conn
        .query_first(
            "SELECT @@global.log_bin, @@global.binlog_format, @@global.binlog_row_image, \
             @@global.gtid_binlog_pos, @@global.gtid_binlog_state, @@global.server_id",
        )
        .await
        .map_err(|error| of(at, "reading its binlog settings", error))?;
    let Some((log_bin, format, image, now, state, server)) = facts else {
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
    let (known, forgotten): (Vec<_>, Vec<_>) =
        start.iter().partition(|gtid| state.get(gtid.domain).is_some());
    if known.iter().any(|gtid| !now.covers(*gtid)) {
        let (at, now, start) = (at.to_owned(), now.to_string(), start.to_string());
        return Err(BinlogError::BehindStart { at, now, start });
    }
    let Some(first) = forgotten.first() else { return Ok(()) };
    // The server that wrote what was read last has deleted a domain of which its binlogs held nothing any
    // more (FLUSH BINARY LOGS DELETE_DOMAIN_ID). It still has to be asked from there: the list at the
    // beginning of a file may name the domain (`contains_all_slave_gtid`, sql_repl.cc), and should it be
    // used again the server refuses. Another server may have lost what was read of it.
    if !known.iter().any(|gtid| gtid.server == server) {
        let (at, start) = (at.to_owned(), start.to_string());
        return Err(BinlogError::UnknownDomain { at, domain: first.domain, start });
    }
    let domains: Vec<String> = forgotten.iter().map(|gtid| gtid.domain.to_string()).collect();
    tracing::info!(at, domains = domains.join(", "), "the server has deleted GTID domains");
    Ok(())
}

/// How a replica of MariaDB introduces itself before it asks for the binlog.
async fn set_up(
    socket: &mut ServerSocket,
    start: &GtidSet,
    heartbeat: Duration,
) -> Result<(), BinlogError> {
    // Capability 4: understands GTID events; else the server rewrites them. In strict mode a GTID
    // that the server does not have is an error. A replica that names no algorithm of checksums
    // gets events without. To a session with skip_replication (init_connect) the server does not
    // send what another such session wrote. The dump thread waits for a slow reader as long as `net_write_timeout`:
    // backpressure is no reason to hang up.
    let set = format!(
        "SET @mariadb_slave_capability = 4, @slave_connect_state = '{start}', \
         @slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0, \
         @master_binlog_checksum = @@global.binlog_checksum, \
         @master_heartbeat_period = {}, net_write_timeout = {NET_WRITE_TIMEOUT_S}, skip_replication = 0",
        heartbeat.as_nanos()
    );
    Ok(socket.query(ASKING, &set).await?)
}

/// Asks for everything after `@slave_connect_state`: an empty file name, and the position that
/// every file begins at.
async fn request(socket: &mut ServerSocket, server_id: u32) -> Result<(), BinlogError> {
    if server_id != 0 {
        // Host, user and password, for SHOW SLAVE HOSTS, are empty; so are port, rank and master.
        let mut register = vec![COM_REGISTER_SLAVE];
        register.extend_from_slice(&server_id.to_le_bytes());
        register.extend_from_slice(&[0; 3 + 2 + 4 + 4]);
        socket.command(ASKING, &register).await?;
    }
    let mut dump = vec![COM_BINLOG_DUMP];
    dump.extend_from_slice(&4u32.to_le_bytes());
    dump.extend_from_slice(&0u16.to_le_bytes());
    dump.extend_from_slice(&server_id.to_le_bytes());
    Ok(socket.request(ASKING, &dump).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_from_an_event_and_from_nonsense() {
        let shown = |payload: &[u8]| {
            event(payload, &mut Checksums::default(), "s")
                .map(<[u8]>::len)
                .map_err(|e| e.to_string())
        };
        assert!(matches!(
            event(&[END, 0, 0, 2, 0], &mut Checksums::default(), "s"),
            Err(BinlogError::Ended { .. })
        ));
        assert!(matches!(
            event(&[7], &mut Checksums::default(), "s"),
            Err(BinlogError::NotAnEvent { .. })
        ));
        assert!(matches!(
            event(&[], &mut Checksums::default(), "s"),
            Err(BinlogError::NotAnEvent { .. })
        ));
        assert!(shown(&[EVENT]).is_err(), "shorter than its header");
    }

    #[test]
    fn silence_adds_up_over_cancelled_waits_but_not_while_nobody_listens() {
        let heartbeat = Duration::from_secs(3600);
        let long_ago = Instant::now();
        let mut silence = Silence { waited: Duration::from_secs(5), since: long_ago, heard: 7 };
        drop(silence.wait(heartbeat, 7));
        assert!(silence.waited >= Duration::from_secs(5));
        silence.wait(heartbeat, 7).answered = true;
        assert_eq!(silence.waited, Duration::ZERO);
        silence.waited = Duration::from_secs(5);
        let wait = silence.wait(Duration::ZERO, 7);
        assert_eq!(wait.silence.waited, Duration::ZERO, "the caller was away");
        drop(wait);
        silence.waited = Duration::from_secs(5);
        let wait = silence.wait(heartbeat, 8);
        assert_eq!(wait.silence.waited, Duration::ZERO, "a part of an event has come");
    }
}
