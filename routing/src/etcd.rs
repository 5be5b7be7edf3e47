//! etcd by way of its JSON gateway (v3, part of etcd itself since 3.4): a key read, and a key
//! written if nobody has written it since. Blocking.
//!
//! No etcd client crate: they all bring gRPC, and two requests need none.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use ureq::Agent;

use crate::http::{self, Answer, Call, CallError};

pub(crate) struct Gateway {
    agent: Agent,
    endpoints: Vec<String>,
    login: Option<(String, String)>,
    token: Option<String>,
}

/// A key's value, and when it was last written.
pub(crate) struct Held {
    pub value: Vec<u8>,
    pub revision: i64,
}

#[derive(Debug)]
pub(crate) struct EtcdError {
    /// A write may have had its effect.
    pub sent: bool,
    pub detail: String,
}

/// As protobuf's JSON has it: 64-bit numbers are strings, and what is zero or empty is left out.
#[derive(Deserialize)]
struct RangeAnswer {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    #[serde(default)]
    value: String,
    #[serde(deserialize_with = "number")]
    mod_revision: i64,
}

#[cfg(feature = "publish")]
#[derive(Deserialize)]
struct TxnAnswer {
    #[serde(default)]
    succeeded: bool,
}

#[derive(Deserialize)]
struct LoginAnswer {
    token: String,
}

fn number<'de, D: Deserializer<'de>>(text: D) -> Result<i64, D::Error> {
    String::deserialize(text)?.parse().map_err(serde::de::Error::custom)
}

impl Gateway {
    /// `timeout` is for one call, which asks the endpoints in turn until one answers.
    pub fn new(
        endpoints: &[String],
        login: Option<(String, String)>,
        tls_ca: Option<&Path>,
        timeout: Duration,
    ) -> Result<Gateway, String> {
        let each = timeout / u32::try_from(endpoints.len().max(1)).unwrap_or(u32::MAX);
        let agent = http::agent(tls_ca, each)?;
        Ok(Gateway { agent, endpoints: endpoints.to_vec(), login, token: None })
    }

    /// What the cluster agrees on, not what one member remembers.
    pub fn get(&mut self, key: &str) -> Result<Option<Held>, EtcdError> {
        let answer = self.ask("/v3/kv/range", &json!({ "key": BASE64.encode(key) }))?;
        let answer: RangeAnswer = parse(&answer)?;
        let Some(found) = answer.kvs.into_iter().next() else { return Ok(None) };
        let value = BASE64.decode(&found.value).map_err(|error| malformed(&error))?;
        Ok(Some(Held { value, revision: found.mod_revision }))
    }

    /// Writes the key if it is still of this revision, 0 for a key that is not there. False if it
    /// is not.
    #[cfg(feature = "publish")]
    pub fn put(&mut self, key: &str, value: &[u8], revision: i64) -> Result<bool, EtcdError> {
        let key = BASE64.encode(key);
        let txn = json!({
            "compare": [{
                "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string()
            }],
            "success": [{ "request_put": { "key": key, "value": BASE64.encode(value) } }],
        });
        let answer: TxnAnswer = parse(&self.ask("/v3/kv/txn", &txn)?)?;
        Ok(answer.succeeded)
    }

    fn ask(&mut self, path: &str, body: &Value) -> Result<Vec<u8>, EtcdError> {
        self.log_in()?;
        let mut answer = self.anyone(path, body)?;
        if answer.status == 401 && self.token.take().is_some() {
            // The token has run out.
            self.log_in()?;
            answer = self.anyone(path, body)?;
        }
        accepted(answer)
    }

    fn log_in(&mut self) -> Result<(), EtcdError> {
        if let (None, Some((name, password))) = (&self.token, &self.login) {
            let login = json!({ "name": name, "password": password });
            let answer = accepted(self.anyone("/v3/auth/authenticate", &login)?)?;
            self.token = Some(parse::<LoginAnswer>(&answer)?.token);
        }
        Ok(())
    }

    /// The answer of the first endpoint that gives one.
    fn anyone(&self, path: &str, body: &Value) -> Result<Answer, EtcdError> {
        let mut failed = EtcdError { sent: false, detail: String::new() };
        for endpoint in &self.endpoints {
            let mut headers = vec![("Content-Type", "application/json".to_owned())];
            headers.extend(self.token.iter().map(|token| ("Authorization", token.clone())));
            let url = format!("{endpoint}{path}");
            let body = Some(body.to_string().into_bytes());
            match http::call(&self.agent, &Call { method: "POST", url, headers, body }) {
                // A member without a leader says so with a 503: another may have one.
                Ok(answer) if answer.status == 503 => {
                    failed.add(endpoint, &format!("status 503{}", http::excerpt(&answer.body)));
                    failed.sent = true;
                }
                Ok(answer) => return Ok(answer),
                Err(CallError { sent, detail }) => {
                    failed.add(endpoint, &detail);
                    failed.sent |= sent;
                }
            }
        }
        Err(failed)
    }
}

impl EtcdError {
    fn add(&mut self, endpoint: &str, detail: &str) {
        if !self.detail.is_empty() {
            self.detail.push_str("; ");
        }
        self.detail.push_str(&format!("{endpoint}: {detail}"));
    }
}

fn accepted(answer: Answer) -> Result<Vec<u8>, EtcdError> {
    if answer.status == 200 {
        return Ok(answer.body);
    }
    let said = http::excerpt(&answer.body);
    Err(EtcdError { sent: true, detail: format!("etcd answered {}{said}", answer.status) })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, EtcdError> {
    serde_json::from_slice(text).map_err(|error| malformed(&error))
}

fn malformed(error: &dyn std::fmt::Display) -> EtcdError {
    EtcdError { sent: true, detail: format!("unexpected answer of etcd: {error}") }
}
