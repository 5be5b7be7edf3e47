//! Brings a document to its targets, in the plan's order: each acknowledges, or an error names it.
//!
//! Publishing the same document again is acknowledged again. A version lower than the one that a
//! target holds is refused: by modshift where it can read what the target holds (file, etcd,
//! ProxySQL, ShardingSphere, ZooKeeper, the table), by the target itself where it cannot (HTTP hooks answer
//! 409, commands end with an exit code other than 0).

mod command;
mod error;
mod etcd;
mod file;
mod hook;
mod proxysql;
mod rights;
mod shardingsphere;
mod sphere_nodes;
pub mod table;
#[cfg(test)]
mod test_documents;
mod zookeeper;

use std::time::{Duration, Instant};

use modshift_proto::plan::RoutingKind;
pub use modshift_proto::plan::RoutingTarget as Target;

pub use self::error::{Failure, PublishError};
use crate::document::Document;

/// For the answer of a publication that ends by itself at its timeout.
const SELF_BOUNDED_GRACE: Duration = Duration::from_millis(250);

/// How a target acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It has taken the document.
    Stored,
    /// It held this very document already.
    Held,
}

/// Publishes to one target after the other and stops at the first that does not acknowledge.
///
/// The answer names the targets that were tried, in order: all have acknowledged but perhaps the
/// last. Where that failed, [`PublishError::may_have_arrived`] says whether it may hold the
/// document all the same; taking a publication back means publishing a higher version to every
/// target named here.
pub async fn publish(
    targets: &[Target],
    document: &Document,
) -> Vec<(String, Result<Ack, PublishError>)> {
    let mut tried = Vec::new();
    for target in targets {
        let result = publish_one(target, document).await;
        let failed = result.is_err();
        tried.push((target.name.clone(), result));
        if failed {
            break;
        }
    }
    tried
}

/// The same for a single target.
pub async fn publish_one(target: &Target, document: &Document) -> Result<Ack, PublishError> {
    let deadline = Instant::now() + target.timeout;
    let follow = target.follow_symlinks;
    let work = async {
        match &target.kind {
            RoutingKind::File { path } => {
                let place = file::Place { path, follow };
                let text = document.to_json();
                file::publish(place, &text, file::Form::Json, document, deadline).await
            }
            RoutingKind::Http { url, method, token, tls_ca } => {
                let hook = hook::Hook { url, method: *method, token: token.as_ref() };
                hook::publish(&hook, tls_ca.as_deref(), target.timeout, document).await
            }
            RoutingKind::Command { argv, env } => command::publish(argv, env, document).await,
            RoutingKind::Etcd(etcd) => etcd::publish(etcd, target.timeout, document).await,
            RoutingKind::ProxySql(proxysql) => {
                proxysql::publish(proxysql, follow, document, deadline).await
            }
            RoutingKind::ShardingSphere(sphere) => {
                shardingsphere::publish(sphere, follow, document, deadline).await
            }
            RoutingKind::ZooKeeper(keeper) => {
                zookeeper::publish(keeper, target.timeout, document).await
            }
        }
    };
    let limit = match &target.kind {
        // It keeps to the timeout by itself, and knows better than a clock whether it has written.
        RoutingKind::ZooKeeper(_) => target.timeout + SELF_BOUNDED_GRACE,
        _ => target.timeout,
    };
    let answer = tokio::time::timeout(limit, work).await;
    let answer = answer.unwrap_or(Err(error::Failure::Timeout { after: target.timeout }));
    answer.map_err(|failure| PublishError { target: target.name.clone(), failure })
}

/// What [`publish`] would send to a target, as text, secrets left out. Fails where the document
/// cannot be expressed for the target: worth asking before anything is fenced.
pub fn preview(target: &Target, document: &Document) -> Result<String, PublishError> {
    let text = match &target.kind {
        RoutingKind::File { path } => {
            Ok(format!("write {}:\n{}", path.display(), document.to_json()))
        }
        RoutingKind::Http { url, method, .. } => {
            Ok(format!("{} {url}:\n{}", hook::method_name(*method), document.to_json()))
        }
        RoutingKind::Command { argv, .. } => {
            Ok(format!("run {argv:?} on:\n{}", document.to_json()))
        }
        RoutingKind::Etcd(etcd) => Ok(format!("put {} in etcd:\n{}", etcd.key, document.to_json())),
        RoutingKind::ProxySql(proxysql) => proxysql::preview(proxysql, document),
        RoutingKind::ShardingSphere(sphere) => shardingsphere::preview(sphere, document),
        RoutingKind::ZooKeeper(keeper) => zookeeper::preview(keeper, document),
    };
    text.map_err(|failure| PublishError { target: target.name.clone(), failure })
}

/// What to do with a target that holds this.
fn judge(held: Option<&Document>, document: &Document) -> Result<Option<Ack>, error::Failure> {
    use error::Failure;
    let Some(held) = held else { return Ok(None) };
    if held.plan != document.plan {
        return Err(Failure::OtherPlan { found: held.plan.clone() });
    }
    let (found, version) = (held.version, document.version);
    match found.cmp(&version) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Greater => Err(Failure::Newer { found, version }),
        std::cmp::Ordering::Equal if held == document => Ok(Some(Ack::Held)),
        std::cmp::Ordering::Equal => Err(Failure::Differs { version }),
    }
}
