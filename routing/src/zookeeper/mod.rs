//! ZooKeeper as far as publishing needs it: nodes read, and several written at once or not at all.
//! Blocking, with a deadline for everything, and one session for one publication.
//!
//! No client crate: those that are kept bring another runtime, or a library in C, and this is one
//! socket without watches.

mod jute;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use modshift_proto::plan::HostPort;

use self::jute::{In, Malformed, Out};

/// A connection with its session, which ends with it.
pub struct Session {
    stream: TcpStream,
    server: HostPort,
    deadline: Instant,
    next: i32,
    /// Who may do what with the nodes that are made here.
    acl: Acl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acl {
    /// ShardingSphere's own choice where no digest is given.
    Anyone,
    Creator,
}

#[derive(Debug)]
pub struct ZooKeeperError {
    /// What was asked for may have been done.
    pub sent: bool,
    pub kind: Kind,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The way there and back.
    Connection,
    /// Another one wrote, created or deleted one of these nodes in between.
    Changed,
    /// The server's answer.
    Refused,
}

/// A node's data, and how often it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub data: Vec<u8>,
    pub version: i32,
}

/// One of the writes that are done together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Create {
        path: String,
        data: Vec<u8>,
    },
    /// If it is still of this version.
    Set {
        path: String,
        data: Vec<u8>,
        version: i32,
    },
    Delete {
        path: String,
    },
    /// Nothing is done unless it is of this version.
    Check {
        path: String,
        version: i32,
    },
}

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const GET_CHILDREN: i32 = 8;
const SYNC: i32 = 9;
const CHECK: i32 = 13;
const MULTI: i32 = 14;
const AUTH: i32 = 100;
const CLOSE: i32 = -11;
/// Of the answer to a login, whose request has no number of its own.
const AUTH_XID: i32 = -4;

const NO_NODE: i32 = -101;
const BAD_VERSION: i32 = -103;
const NODE_EXISTS: i32 = -110;
const NOT_EMPTY: i32 = -111;
/// Of writes that were undone because of another one, or never tried.
const OTHERS: [i32; 2] = [0, -2];

/// The server's own limit (`jute.maxbuffer`) is 1 MiB unless it says otherwise.
const FRAME_BYTES_MAX: usize = 16 << 20;
/// Longer than any publication, so that nobody needs to keep the session alive.
const SESSION_MS: i32 = 70_000;

impl Change {
    pub fn path(&self) -> &str {
        match self {
            Change::Create { path, .. }
            | Change::Set { path, .. }
            | Change::Delete { path }
            | Change::Check { path, .. } => path,
        }
    }

    pub fn bytes(&self) -> usize {
        let data = match self {
            Change::Create { data, .. } | Change::Set { data, .. } => data.len(),
            Change::Delete { .. } | Change::Check { .. } => 0,
        };
        // Numbers and the ACL beside it.
        self.path().len() + data + 64
    }

    fn code(&self) -> i32 {
        match self {
            Change::Create { .. } => CREATE,
            Change::Set { .. } => SET_DATA,
            Change::Delete { .. } => DELETE,
            Change::Check { .. } => CHECK,
        }
    }
}

impl Session {
    /// With the first of the servers that answers; each has its part of the time that is left.
    pub fn open(
        servers: &[HostPort],
        digest: Option<&str>,
        deadline: Instant,
    ) -> Result<Session, ZooKeeperError> {
        let mut failed = Vec::new();
        for (tried, server) in servers.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(servers.len() - tried).unwrap_or(u32::MAX);
            match Session::with(server, digest, Instant::now() + share, deadline) {
                // The same login is refused everywhere.
                Err(error) if error.kind == Kind::Refused => return Err(error),
                Err(error) => failed.push(error.detail),
                Ok(session) => return Ok(session),
            }
        }
        Err(connection(false, failed.join("; ")))
    }

    fn with(
        server: &HostPort,
        digest: Option<&str>,
        until: Instant,
        deadline: Instant,
    ) -> Result<Session, ZooKeeperError> {
        let fault = |error: std::io::Error| connection(false, format!("{server}: {error}"));
        let stream = connect(server, until).map_err(fault)?;
        stream.set_nodelay(true).map_err(fault)?;
        let acl = if digest.is_some() { Acl::Creator } else { Acl::Anyone };
        let mut session = Session { stream, server: server.clone(), deadline: until, next: 1, acl };
        session.begin(digest).map_err(|error| ZooKeeperError { sent: false, ..error })?;
        session.deadline = deadline;
        Ok(session)
    }

    fn begin(&mut self, digest: Option<&str>) -> Result<(), ZooKeeperError> {
        let mut hello = Out::default();
        // Version, last transaction seen, timeout, no session yet and so no password of one.
        hello.int(0).long(0).int(SESSION_MS).long(0).buffer(&[0; 16]).flag(false);
        self.send(&hello.0)?;
        let answer = self.receive()?;
        let mut answer = In(&answer);
        let granted = (|| -> Result<i32, Malformed> {
            answer.int()?;
            answer.int()
        })();
        if granted.map_err(|_| self.malformed())? <= 0 {
            return Err(self.refused("it grants no session".to_owned()));
        }
        let Some(digest) = digest else { return Ok(()) };
        let mut login = Out::default();
        login.int(AUTH_XID).int(AUTH).int(0).text("digest").text(digest);
        self.send(&login.0)?;
        match self.answer(AUTH_XID)? {
            (0, _) => Ok(()),
            (code, _) => Err(self.refused(format!("the login of digest: {}", name_of(code)))),
        }
    }

    /// After this, what was written anywhere before it is seen here too.
    pub fn sync(&mut self, path: &str) -> Result<(), ZooKeeperError> {
        let (code, _) = self.ask(SYNC, |out| {
            out.text(path);
        })?;
        self.done(code, path)
    }

    pub fn get(&mut self, path: &str) -> Result<Option<Node>, ZooKeeperError> {
        let (code, body) = self.ask(GET_DATA, |out| {
            out.text(path).flag(false);
        })?;
        if code == NO_NODE {
            return Ok(None);
        }
        self.done(code, path)?;
        let node = |mut body: In<'_>| -> Result<Node, Malformed> {
            let data = body.buffer()?.to_vec();
            Ok(Node { data, version: body.version_of_stat()? })
        };
        node(In(&body)).map(Some).map_err(|_| self.malformed())
    }

    /// Names of the nodes below; none where there is no such node.
    pub fn children(&mut self, path: &str) -> Result<Vec<String>, ZooKeeperError> {
        let (code, body) = self.ask(GET_CHILDREN, |out| {
            out.text(path).flag(false);
        })?;
        if code == NO_NODE {
            return Ok(Vec::new());
        }
        self.done(code, path)?;
        In(&body).texts().map_err(|_| self.malformed())
    }

    /// All of them, or none.
    pub fn write(&mut self, writes: &[Change]) -> Result<(), ZooKeeperError> {
        let acl = self.acl;
        let (code, body) = self.ask(MULTI, |out| {
            for write in writes {
                out.int(write.code()).flag(false).int(-1).text(write.path());
                match write {
                    Change::Create { data, .. } => {
                        acl.put(out.buffer(data)).int(0);
                    }
                    Change::Set { data, version, .. } => {
                        out.buffer(data).int(*version);
                    }
                    Change::Delete { .. } => {
                        out.int(-1);
                    }
                    Change::Check { version, .. } => {
                        out.int(*version);
                    }
                }
            }
            out.int(-1).flag(true).int(-1);
        })?;
        let failed = failure_of(writes, In(&body)).map_err(|_| self.malformed());
        let (code, path) = match (code, failed) {
            (0, failed) => match failed? {
                None => return Ok(()),
                Some((code, path)) => (code, path),
            },
            (_, Ok(Some((code, path)))) => (code, path),
            (code, _) => (code, "these nodes"),
        };
        let kind = match code {
            NO_NODE | BAD_VERSION | NODE_EXISTS | NOT_EMPTY => Kind::Changed,
            _ => Kind::Refused,
        };
        let detail = format!("{}: writing {path}: {}", self.server, name_of(code));
        // An answer: so nothing of it was done.
        Err(ZooKeeperError { sent: false, kind, detail })
    }

    /// What is not told goes with its timeout.
    pub fn close(mut self) {
        let _ = self.ask(CLOSE, |_| ());
    }

    fn ask(
        &mut self,
        code: i32,
        put: impl FnOnce(&mut Out),
    ) -> Result<(i32, Vec<u8>), ZooKeeperError> {
        let xid = self.next;
        self.next += 1;
        let mut out = Out::default();
        out.int(xid).int(code);
        put(&mut out);
        self.send(&out.0)?;
        self.answer(xid)
    }

    /// The code and what is behind it.
    fn answer(&mut self, expected: i32) -> Result<(i32, Vec<u8>), ZooKeeperError> {
        let frame = self.receive()?;
        let mut head = In(&frame);
        let read = |head: &mut In<'_>| -> Result<(i32, i32), Malformed> {
            let xid = head.int()?;
            head.long()?;
            Ok((xid, head.int()?))
        };
        match read(&mut head) {
            Ok((xid, code)) if xid == expected => Ok((code, head.0.to_vec())),
            _ => Err(self.malformed()),
        }
    }

    fn send(&mut self, body: &[u8]) -> Result<(), ZooKeeperError> {
        if body.len() > FRAME_BYTES_MAX {
            return Err(self.refused(format!("a request of {} bytes", body.len())));
        }
        let mut frame = Out::default();
        frame.buffer(body);
        let wait = self.wait()?;
        let sent = self.stream.set_write_timeout(Some(wait));
        let sent = sent.and_then(|()| self.stream.write_all(&frame.0));
        sent.map_err(|error| connection(true, format!("{}: {error}", self.server)))
    }

    fn receive(&mut self) -> Result<Vec<u8>, ZooKeeperError> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).ok();
        let length = length.filter(|&length| length <= FRAME_BYTES_MAX);
        let mut frame = vec![0; length.ok_or_else(|| self.malformed())?];
        self.fill(&mut frame)?;
        Ok(frame)
    }

    fn fill(&mut self, mut rest: &mut [u8]) -> Result<(), ZooKeeperError> {
        while !rest.is_empty() {
            let wait = self.wait()?;
            let read = self.stream.set_read_timeout(Some(wait));
            match read.and_then(|()| self.stream.read(rest)) {
                Ok(0) => {
                    let detail = format!("{}: it closed the connection", self.server);
                    return Err(connection(true, detail));
                }
                Ok(count) => rest = &mut rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A timeout ends in `wait`.
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(connection(true, format!("{}: {error}", self.server))),
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<Duration, ZooKeeperError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(connection(true, format!("{}: no answer in time", self.server))),
            false => Ok(left),
        }
    }

    fn done(&self, code: i32, path: &str) -> Result<(), ZooKeeperError> {
        match code {
            0 => Ok(()),
            code => Err(self.refused(format!("{path}: {}", name_of(code)))),
        }
    }

    fn refused(&self, what: String) -> ZooKeeperError {
        let detail = format!("{}: {what}", self.server);
        ZooKeeperError { sent: false, kind: Kind::Refused, detail }
    }

    fn malformed(&self) -> ZooKeeperError {
        connection(true, format!("{}: its answer is not ZooKeeper's", self.server))
    }
}

impl Acl {
    /// One entry: every right, and whose.
    fn put(self, out: &mut Out) -> &mut Out {
        let (scheme, id) = match self {
            Acl::Anyone => ("world", "anyone"),
            Acl::Creator => ("auth", ""),
        };
        out.int(1).int(31).text(scheme).text(id)
    }
}

fn connection(sent: bool, detail: String) -> ZooKeeperError {
    ZooKeeperError { sent, kind: Kind::Connection, detail }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// To one of the addresses that the name stands for.
fn connect(server: &HostPort, until: Instant) -> std::io::Result<TcpStream> {
    let mut failed = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (server.host.as_str(), server.port).to_socket_addrs()? {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The first write that failed by itself, if one did.
fn failure_of<'a>(
    writes: &'a [Change],
    mut body: In<'_>,
) -> Result<Option<(i32, &'a str)>, Malformed> {
    let mut failed = None;
    for write in writes {
        let (code, _, _) = (body.int()?, body.flag()?, body.int()?);
        match code {
            -1 => {
                let code = body.int()?;
                if !OTHERS.contains(&code) && failed.is_none() {
                    failed = Some((code, write.path()));
                }
            }
            CREATE => drop(body.text()?),
            SET_DATA => drop(body.version_of_stat()?),
            DELETE | CHECK => {}
            _ => return Err(Malformed),
        }
    }
    Ok(failed)
}

fn name_of(code: i32) -> String {
    let name = match code {
        NO_NODE => "there is no such node",
        -102 => "not allowed: see the node's ACL, and digest in [[routing]]",
        BAD_VERSION => "somebody else wrote it meanwhile",
        NODE_EXISTS => "it is there already",
        NOT_EMPTY => "it has nodes below it",
        -4 => "connection lost",
        -5 => "the server could not read the request (is it above its jute.maxbuffer?)",
        -112 => "session expired",
        -114 => "not a valid ACL",
        -115 => "refused",
        -119 => "the server is read-only: it has no quorum",
        _ => return format!("error {code}"),
    };
    name.to_owned()
}
