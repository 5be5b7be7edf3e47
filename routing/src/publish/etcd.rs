//! A key of etcd, written only in the place of what was read: two publishers at once cannot bring
//! a version back.

use std::time::{Duration, Instant};

use modshift_proto::plan::EtcdTarget;

use super::error::Failure;
use super::{Ack, judge};
use crate::document::Document;
use crate::etcd::{EtcdError, Gateway};

pub async fn publish(
    target: &EtcdTarget,
    timeout: Duration,
    document: &Document,
) -> Result<Ack, Failure> {
    let (target, document) = (target.clone(), document.clone());
    let deadline = Instant::now() + timeout;
    tokio::task::spawn_blocking(move || put(&target, timeout, deadline, &document))
        .await
        .unwrap_or_else(|error| Err(Failure::Unanswered { detail: error.to_string() }))
}

fn put(
    target: &EtcdTarget,
    timeout: Duration,
    deadline: Instant,
    document: &Document,
) -> Result<Ack, Failure> {
    let doing = || format!("etcd key {}", target.key);
    let login = target.login.clone().map(|(user, password)| (user, password.expose().to_owned()));
    let ca = target.tls_ca.as_deref();
    let mut gateway = Gateway::new(&target.endpoints, login, ca, timeout)
        .map_err(|detail| Failure::Unreachable { doing: doing(), detail })?;
    // Whether a write of ours got no answer: it may be the very document that is read next.
    let mut unanswered = None;
    loop {
        let held = match gateway.get(&target.key) {
            Ok(held) => held,
            Err(EtcdError { detail, .. }) => {
                return Err(match unanswered {
                    Some(detail) => Failure::Unanswered { detail },
                    None => Failure::Unreachable { doing: doing(), detail },
                });
            }
        };
        let found = held.as_ref().map(|held| Document::from_json(&held.value)).transpose();
        let found = found
            .map_err(|error| Failure::Foreign { place: doing(), detail: error.to_string() })?;
        match judge(found.as_ref(), document)? {
            Some(_) if unanswered.is_some() => return Ok(Ack::Stored),
            Some(ack) => return Ok(ack),
            None if Instant::now() >= deadline => return Err(Failure::Timeout { after: timeout }),
            None => {}
        }
        let revision = held.map_or(0, |held| held.revision);
        match gateway.put(&target.key, document.to_json().as_bytes(), revision) {
            Ok(true) => return Ok(Ack::Stored),
            // Someone else wrote in between, or our own write did whose answer was lost.
            Ok(false) => {}
            Err(error) if error.sent => unanswered = Some(error.detail),
            Err(error) => {
                return Err(Failure::Unreachable { doing: doing(), detail: error.detail });
            }
        }
    }
}
