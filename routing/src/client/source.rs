//! Where a document comes from, read once at a time: what has not changed is not parsed again.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use ureq::Agent;

use super::Intervals;
use crate::document::Document;
use crate::etcd::Gateway;
use crate::http::{self, Call};

/// A source that does not answer for so long is away.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub enum Source {
    File(PathBuf),
    Http(HttpSource),
    Etcd(EtcdSource),
}

/// A GET of this address answers with the document. An `ETag` spares its body.
#[derive(Clone, Debug, Default)]
pub struct HttpSource {
    pub url: String,
    /// Sent as bearer token.
    pub token: Option<String>,
    /// PEM file of the certificate authority; the well-known ones without it.
    pub tls_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Default)]
pub struct EtcdSource {
    /// `http://host:2379`, tried in order.
    pub endpoints: Vec<String>,
    pub key: String,
    /// User and password.
    pub login: Option<(String, String)>,
    pub tls_ca: Option<PathBuf>,
}

impl Source {
    pub fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Http(http) => http.url.clone(),
            Source::Etcd(etcd) => format!("etcd key {}", etcd.key),
        }
    }

    /// Looking at a file costs nothing; others are asked over a network.
    pub fn intervals(&self) -> Intervals {
        let millis = Duration::from_millis;
        match self {
            Source::File(_) => Intervals { idle: millis(100), waiting: millis(2) },
            Source::Http(_) | Source::Etcd(_) => {
                Intervals { idle: millis(1000), waiting: millis(20) }
            }
        }
    }
}

pub(super) enum Reader {
    File { path: PathBuf, seen: Option<Stamp> },
    Http { agent: Agent, source: HttpSource, etag: Option<String> },
    Etcd { gateway: Gateway, key: String, revision: Option<i64> },
}

/// What changes when a file is replaced or written to.
#[derive(PartialEq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Stamp {
        let changed = (file.ctime(), file.ctime_nsec());
        Stamp { inode: file.ino(), bytes: file.len(), changed }
    }
}

impl Reader {
    pub fn new(source: Source) -> Result<Reader, String> {
        Ok(match source {
            Source::File(path) => Reader::File { path, seen: None },
            Source::Http(source) => {
                let agent = http::agent(source.tls_ca.as_deref(), TIMEOUT)?;
                Reader::Http { agent, source, etag: None }
            }
            Source::Etcd(EtcdSource { endpoints, key, login, tls_ca }) => {
                let gateway = Gateway::new(&endpoints, login, tls_ca.as_deref(), TIMEOUT)?;
                Reader::Etcd { gateway, key, revision: None }
            }
        })
    }

    /// The document; `None` if it is the one that was read before.
    pub fn read(&mut self) -> Result<Option<Document>, String> {
        let read = self.ask();
        if read.is_err() {
            // The source has to say it again, in full.
            self.forget();
        }
        read
    }

    fn ask(&mut self) -> Result<Option<Document>, String> {
        match self {
            Reader::File { path, seen } => {
                let file = fs::metadata(&*path).map_err(|error| error.to_string())?;
                let stamp = Stamp::of(&file);
                if seen.as_ref() == Some(&stamp) {
                    return Ok(None);
                }
                let text = fs::read(&*path).map_err(|error| error.to_string())?;
                // Of a file replaced in between, the stamp is the older one: it is read again.
                *seen = Some(stamp);
                parse(&text).map(Some)
            }
            Reader::Http { agent, source, etag } => {
                let mut headers = Vec::new();
                headers.extend(etag.iter().map(|tag| ("If-None-Match", tag.clone())));
                let bearer = |token| ("Authorization", format!("Bearer {token}"));
                headers.extend(source.token.iter().map(bearer));
                let call = Call { method: "GET", url: source.url.clone(), headers, body: None };
                let answer = http::call(agent, &call).map_err(|error| error.detail)?;
                match answer.status {
                    304 => Ok(None),
                    200 => {
                        let document = parse(&answer.body)?;
                        *etag = answer.etag;
                        Ok(Some(document))
                    }
                    status => Err(format!("status {status}{}", http::excerpt(&answer.body))),
                }
            }
            Reader::Etcd { gateway, key, revision } => {
                let held = gateway.get(key).map_err(|error| error.detail)?;
                let held = held.ok_or_else(|| "the key is not there".to_owned())?;
                if *revision == Some(held.revision) {
                    return Ok(None);
                }
                let document = parse(&held.value)?;
                *revision = Some(held.revision);
                Ok(Some(document))
            }
        }
    }

    fn forget(&mut self) {
        match self {
            Reader::File { seen, .. } => *seen = None,
            Reader::Http { etag, .. } => *etag = None,
            Reader::Etcd { revision, .. } => *revision = None,
        }
    }
}

fn parse(text: &[u8]) -> Result<Document, String> {
    Document::from_json(text).map_err(|error| error.to_string())
}
