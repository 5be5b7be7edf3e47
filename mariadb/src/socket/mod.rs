//! A connection without a driver in between: payloads where the network put them.
//!
//! For the binlog, of which a busy shard sends hundreds of megabytes a second: the driver copies
//! each event three times, and asks the network for eight kilobytes at once. Everything else goes
//! through the driver. Login and TLS modes are those of [`crate::connect()`].

mod login;
mod packets;

use std::io;

use futures_util::FutureExt;
use modshift_proto::plan::Endpoint;
use mysql_async::{Error, IoError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use self::login::Greeting;
use self::packets::{Broken, Packets};
use crate::connect::{label, unreached, within_connect_timeout};
use crate::error::{self, ServerError};
use crate::{refused, session, tls};

const CONNECTING: &str = "connecting";
const OK: u8 = 0;
/// Asks for another way to log in.
const SWITCH: u8 = 0xfe;
const ERR: u8 = 0xff;
const COM_QUERY: u8 = 3;

enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub struct ServerSocket {
    at: String,
    link: Link,
    packets: Packets,
    received: u64,
}

impl ServerSocket {
    /// Connects and logs in.
    pub async fn connect(endpoint: &Endpoint) -> Result<ServerSocket, ServerError> {
        let connected = within_connect_timeout(endpoint, Self::begin(endpoint)).await;
        let connected = connected.and_then(|begun| begun.map_err(unreached));
        refused::note(endpoint, &connected);
        connected
    }

    async fn begin(endpoint: &Endpoint) -> Result<ServerSocket, ServerError> {
        let mut socket = Self::log_in(endpoint).await?;
        for sql in session::OF_SOCKETS {
            socket.query("setting up a session", sql).await?;
        }
        Ok(socket)
    }

    async fn log_in(endpoint: &Endpoint) -> Result<ServerSocket, ServerError> {
        let at = label(endpoint);
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
        let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|error| lost(&at, CONNECTING, error))?;
        let refused = |message| ServerError::Login { at: at.clone(), code: 0, message };
        let mut socket = ServerSocket {
            at: at.clone(),
            link: Link::Plain(stream),
            packets: Packets::new(),
            received: 0,
        };
        let greeting = Greeting::parse(socket.next(CONNECTING).await?).map_err(refused)?;
        if let Some(tls) = tls::client(endpoint)? {
            if !greeting.has_tls() {
                let detail = "the server has no TLS".to_owned();
                return Err(ServerError::Tls { at, detail });
            }
            socket.send(CONNECTING, &greeting.ask_for_tls()).await?;
            let Link::Plain(stream) = socket.link else { unreachable!("not encrypted yet") };
            let stream = tls.connect(stream).await.map_err(|error| lost(&at, CONNECTING, error))?;
            socket.link = Link::Tls(Box::new(stream));
        }
        socket.send(CONNECTING, &greeting.answer(endpoint)).await?;
        let mut answer = socket.next(CONNECTING).await?;
        if answer.first() == Some(&SWITCH) {
            let proof = login::switch(answer, endpoint).map_err(refused)?;
            socket.send(CONNECTING, &proof).await?;
            answer = socket.next(CONNECTING).await?;
        }
        match answer.first() {
            Some(&OK) => Ok(socket),
            _ => Err(refused("its answer to the login is unknown".to_owned())),
        }
    }

    /// A statement that returns no rows.
    pub async fn query(&mut self, doing: &'static str, sql: &str) -> Result<(), ServerError> {
        self.command(doing, &[&[COM_QUERY], sql.as_bytes()].concat()).await
    }

    /// A command that is answered with OK.
    pub async fn command(&mut self, doing: &'static str, bytes: &[u8]) -> Result<(), ServerError> {
        self.request(doing, bytes).await?;
        match self.next(doing).await?.first() {
            Some(&OK) => Ok(()),
            _ => {
                let (at, detail) = (self.at.clone(), "unexpected answer".to_owned());
                Err(ServerError::Driver { at, doing, detail })
            }
        }
    }

    /// A command whose answers are for [`Self::next`].
    pub async fn request(&mut self, doing: &'static str, bytes: &[u8]) -> Result<(), ServerError> {
        self.packets.set_sequence(0);
        self.send(doing, bytes).await
    }

    async fn send(&mut self, doing: &'static str, payload: &[u8]) -> Result<(), ServerError> {
        let mut bytes = Vec::with_capacity(payload.len() + 4);
        let next = packets::write(payload, self.packets.sequence(), &mut bytes);
        self.packets.set_sequence(next);
        let written = match &mut self.link {
            Link::Plain(stream) => stream.write_all(&bytes).await,
            Link::Tls(stream) => match stream.write_all(&bytes).await {
                Ok(()) => stream.flush().await,
                Err(error) => Err(error),
            },
        };
        written.map_err(|error| lost(&self.at, doing, error))
    }

    /// The next payload. What the server sends as an error is one. Cancel safe.
    pub async fn next(&mut self, doing: &'static str) -> Result<&[u8], ServerError> {
        self.arrives(doing).await?;
        self.payload(doing)
    }

    /// Bytes that have come from the server: more of them means that it is alive, even where a
    /// payload takes long to be whole.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Waits for the next payload, which [`Self::payload`] then shows. Cancel safe.
    pub async fn arrives(&mut self, doing: &'static str) -> Result<(), ServerError> {
        while !self.advance(doing)? {
            let space = self.packets.space();
            let read = match &mut self.link {
                Link::Plain(stream) => stream.read(space).await,
                Link::Tls(stream) => stream.read(space).await,
            };
            self.filled(doing, read)?;
        }
        Ok(())
    }

    /// The next payload, if it can be had without waiting.
    pub fn here(&mut self, doing: &'static str) -> Result<Option<&[u8]>, ServerError> {
        while !self.advance(doing)? {
            let space = self.packets.space();
            let read = match &mut self.link {
                Link::Plain(stream) => stream.try_read(space),
                Link::Tls(stream) => match stream.read(space).now_or_never() {
                    Some(read) => read,
                    None => return Ok(None),
                },
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                read => self.filled(doing, read)?,
            }
        }
        self.payload(doing).map(Some)
    }

    fn advance(&mut self, doing: &'static str) -> Result<bool, ServerError> {
        self.packets.advance().map_err(|broken| {
            let at = self.at.clone();
            match broken {
                Broken::OutOfOrder => {
                    ServerError::Lost { at, doing, detail: "packet out of order".to_owned() }
                }
                Broken::TooLarge => {
                    ServerError::TooLarge { at, doing, message: "above 1 GiB".to_owned() }
                }
            }
        })
    }

    fn filled(&mut self, doing: &'static str, read: io::Result<usize>) -> Result<(), ServerError> {
        match read {
            Ok(0) => {
                let detail = "closed by the server".to_owned();
                Err(ServerError::Lost { at: self.at.clone(), doing, detail })
            }
            Ok(count) => {
                self.packets.filled(count);
                self.received += count as u64;
                Ok(())
            }
            Err(error) => Err(lost(&self.at, doing, error)),
        }
    }

    /// The payload that has arrived.
    pub fn payload(&self, doing: &'static str) -> Result<&[u8], ServerError> {
        match self.packets.current() {
            [ERR, rest @ ..] => Err(error::of(&self.at, doing, server_error(rest))),
            payload => Ok(payload),
        }
    }
}

fn lost(at: &str, doing: &'static str, error: io::Error) -> ServerError {
    error::of(at, doing, Error::Io(IoError::Io(error)))
}

/// Code, SQLSTATE (not before the login) and text.
fn server_error(rest: &[u8]) -> Error {
    let (code, rest) = match rest {
        [low, high, rest @ ..] => (u16::from_le_bytes([*low, *high]), rest),
        _ => (0, rest),
    };
    let (state, message) = match rest {
        [b'#', rest @ ..] if rest.len() >= 5 => rest.split_at(5),
        _ => (&b"HY000"[..], rest),
    };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Error::Server(mysql_async::ServerError { code, message: text(message), state: text(state) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_server_come_with_and_without_a_state() {
        let shown = |rest: &[u8]| error::of("s", "reading", server_error(rest)).to_string();
        assert_eq!(
            shown(b"\x7e\x05#42000Data too long"),
            "s: error 1406 (42000) while reading: Data too long"
        );
        assert_eq!(
            shown(b"\x10\x04Too many connections"),
            "s is not able just now while reading: Too many connections"
        );
        assert_eq!(shown(b""), "s: error 0 (HY000) while reading: ");
    }
}
