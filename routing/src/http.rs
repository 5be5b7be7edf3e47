//! HTTP as far as it is needed: one request, one bounded answer, blocking.

use std::path::Path;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};

/// No document comes near it: 1024 shards and thousands of tables are a few hundred KiB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

pub(crate) struct Call {
    pub method: &'static str,
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<Vec<u8>>,
}

pub(crate) struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    pub body: Vec<u8>,
}

pub(crate) struct CallError {
    /// The request may have had its effect.
    pub sent: bool,
    pub detail: String,
}

/// `timeout` bounds a whole call. Without a certificate authority, the well-known ones.
pub(crate) fn agent(tls_ca: Option<&Path>, timeout: Duration) -> Result<Agent, String> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = tls_ca {
        let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let pem = std::fs::read(path).map_err(|error| fault(&error))?;
        let mut roots = Vec::new();
        for item in ureq::tls::parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|error| fault(&error))? {
                roots.push(Certificate::to_owned(&certificate));
            }
        }
        if roots.is_empty() {
            return Err(fault(&"no certificate in it"));
        }
        tls = tls.root_certs(RootCerts::from(roots));
    }
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .timeout_global(Some(timeout))
        // Straight to the server: none of the environment's proxies sees tokens and passwords.
        .proxy(None)
        // The document is on this server or it is not; a PUT is not sent elsewhere.
        .max_redirects(0)
        .http_status_as_error(false)
        .build();
    Ok(Agent::new_with_config(config))
}

pub(crate) fn call(agent: &Agent, call: &Call) -> Result<Answer, CallError> {
    let before =
        |error: &dyn std::fmt::Display| CallError { sent: false, detail: error.to_string() };
    let mut request = ureq::http::Request::builder().method(call.method).uri(&call.url);
    for (name, value) in &call.headers {
        request = request.header(*name, value);
    }
    let answer = match &call.body {
        Some(body) => {
            let request = request.body(&body[..]).map_err(|error| before(&error))?;
            agent.run(request)
        }
        None => {
            let request = request.body(()).map_err(|error| before(&error))?;
            agent.run(request)
        }
    };
    let mut answer = answer
        .map_err(|error| CallError { sent: !never_sent(&error), detail: error.to_string() })?;
    let status = answer.status().as_u16();
    let etag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    let body = body.map_err(|error| CallError { sent: true, detail: error.to_string() })?;
    Ok(Answer { status, etag, body })
}

/// Errors of the way to the server; all others leave it open how far the request came.
fn never_sent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::BadUri(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_)
        | ureq::Error::Pem(_) => true,
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => true,
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

/// The beginning of an answer's first line, for an error message.
pub(crate) fn excerpt(body: &[u8]) -> String {
    const CHARACTERS: usize = 200;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * CHARACTERS)]);
    let line: String = text.trim().lines().next().unwrap_or("").chars().take(CHARACTERS).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}
