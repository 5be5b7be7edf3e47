//! Opening a connection: TLS, login, and a session in a known state ([`crate::session`]).
//!
//! Connections never come from a pool: each belongs to one task, and a session that was set up for
//! exact values is never handed to someone who expects another.

use std::time::Duration;

use modshift_proto::plan::{Endpoint, Secret, TlsMode};
use mysql_async::{Conn, Opts, OptsBuilder};

use crate::desk::NOWHERE;
use crate::error::{self, ServerError};
use crate::socket::ServerSocket;
use crate::{refused, session, tls};

const ACCESS_DENIED: u16 = 1045;
/// After the first, of a login whose password is known to be right.
const DRIVER_ATTEMPTS: u32 = 3;
/// Name lookup, TCP, TLS and login together. Enough for a server across a continent under load,
/// short enough that a dead address does not hold up its task.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections (a tail between two quiet hours) notice a host that vanished without a word.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// The protocol's bound. Left to itself the driver takes the server's `max_allowed_packet` as its
/// own limit, for reading too: a larger row or event then fails (and a bulk execute is split,
/// which loses parameter types). What a server accepts is the sender's business:
/// see [`ServerFacts`](crate::ServerFacts).
const PACKET_BYTES_MAX: usize = 1 << 30;
/// A few statements for each table of a plan stay prepared.
const STATEMENTS_CACHED: usize = 256;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Text in utf8mb4, times in UTC: catalog, control tables, settings.
    Plain,
    /// Rows of planned tables, read and written.
    Exact,
}

/// How errors and logs call a server: `host:port/schema`, or `host:port` where no shard is meant.
pub fn label(endpoint: &Endpoint) -> String {
    let Endpoint { host, port, schema, .. } = endpoint;
    match schema.as_str() {
        NOWHERE => format!("{host}:{port}"),
        schema => format!("{host}:{port}/{schema}"),
    }
}

pub async fn connect(endpoint: &Endpoint, session: Session) -> Result<Conn, ServerError> {
    let mut conn = open(endpoint).await?;
    let set_up = session::set_up(&mut conn, session).await;
    set_up.map_err(|error| error::of(&label(endpoint), "setting up a session", error))?;
    Ok(conn)
}

/// A connection as the server gives it: for what reads no values, see [`connect`].
async fn open(endpoint: &Endpoint) -> Result<Conn, ServerError> {
    let mut outcome = Box::pin(opened(endpoint)).await;
    // Of nonces of ed25519 that end with a zero byte the driver leaves that out, and so one login in
    // 256 is refused whose password is right. Our own connection doesn't, and tells.
    for _ in 0..DRIVER_ATTEMPTS {
        let refused = matches!(outcome, Err(ServerError::Login { code: ACCESS_DENIED, .. }));
        if !refused || Box::pin(ServerSocket::connect(endpoint)).await.is_err() {
            break;
        }
        outcome = Box::pin(opened(endpoint)).await;
    }
    refused::note(endpoint, &outcome);
    outcome
}

/// What to log in with now: a file may hold another password than when the plan was read. While it
/// cannot be read, or is empty amid being written, the last one known counts.
pub(crate) fn password(endpoint: &Endpoint) -> String {
    let known = &endpoint.password;
    let read = known.file().and_then(|file| {
        let content = std::fs::read_to_string(file).ok()?;
        Some(Secret::of_file(file.to_owned(), &content))
    });
    let read = read.filter(|read| !read.expose().is_empty());
    read.as_ref().unwrap_or(known).expose().to_owned()
}

async fn opened(endpoint: &Endpoint) -> Result<Conn, ServerError> {
    // To the driver a missing file looks like a server that is not there.
    tls::readable(endpoint)?;
    let error = match attempt(endpoint, opts(endpoint)).await? {
        Ok(conn) => return Ok(conn),
        Err(error) => error,
    };
    // The certificate passed its authority's check and is for another name, which verify-ca
    // allows and the driver does not: once more, asking for a name that it has.
    let name = tls::presented_name(&error).filter(|_| endpoint.tls == TlsMode::VerifyCa);
    let Some(name) = name else { return Err(of_connecting(endpoint, error)) };
    let tls = tls::options(endpoint).map(|tls| tls.with_danger_tls_hostname_override(Some(name)));
    attempt(endpoint, builder(endpoint).ssl_opts(tls).into())
        .await?
        .map_err(|error| of_connecting(endpoint, error))
}

/// Options of every connection.
pub fn opts(endpoint: &Endpoint) -> Opts {
    builder(endpoint).into()
}

fn builder(endpoint: &Endpoint) -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname(endpoint.host.clone())
        .tcp_port(endpoint.port)
        .user(Some(endpoint.user.clone()))
        .pass(Some(password(endpoint)))
        .db_name(Some(endpoint.schema.clone()))
        .prefer_socket(false)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .max_allowed_packet(Some(PACKET_BYTES_MAX))
        // Spares a query: only a pool reads it.
        .wait_timeout(Some(28_800))
        .stmt_cache_size(STATEMENTS_CACHED)
        .ssl_opts(tls::options(endpoint))
}

async fn attempt(
    endpoint: &Endpoint,
    opts: Opts,
) -> Result<Result<Conn, mysql_async::Error>, ServerError> {
    within_connect_timeout(endpoint, Conn::new(opts)).await
}

pub(crate) async fn within_connect_timeout<T>(
    endpoint: &Endpoint,
    connecting: impl Future<Output = T>,
) -> Result<T, ServerError> {
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| ServerError::Unreachable {
        at: label(endpoint),
        detail: format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
    })
}

fn of_connecting(endpoint: &Endpoint, error: mysql_async::Error) -> ServerError {
    unreached(error::of(&label(endpoint), "connecting", error))
}

/// A connection lost before it was made.
pub(crate) fn unreached(error: ServerError) -> ServerError {
    match error {
        ServerError::Lost { at, detail, .. } => ServerError::Unreachable { at, detail },
        other => other,
    }
}

/// The [`label`] of the server behind a connection.
pub fn label_of(conn: &Conn) -> String {
    let opts = conn.opts();
    let schema = opts.db_name().unwrap_or_default();
    format!("{}:{}/{schema}", opts.ip_or_hostname(), opts.tcp_port())
}
