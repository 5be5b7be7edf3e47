//! Routing against real servers: the table and etcd as targets, the client over each of its
//! sources, and an application that writes across a switch.

mod clients;
mod follow;
mod proxysql;
mod targets;
mod writer;
mod zookeeper;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use modshift_proto::plan::{EtcdTarget, RoutingKind};
use modshift_routing::{
    Document, PublishError, Shard, Side, Target,
    document::{DefaultRule, FORMAT},
    publish::Ack,
};

const LIMIT: Duration = Duration::from_secs(60);

fn document(version: u64, side: Side) -> Document {
    let modulus = match side {
        Side::Old => 2,
        Side::New => 3,
    };
    let shard = |index| Shard {
        index,
        host: format!("{}-{index}", side.name()),
        port: 3306,
        schema: "shop".to_owned(),
        server: None,
    };
    Document {
        format: FORMAT,
        plan: "shop".to_owned(),
        version,
        side,
        modulus,
        shards: (0..modulus).map(shard).collect(),
        tables: BTreeMap::new(),
        default: Some(DefaultRule::FloorMod),
    }
}

fn etcd(endpoints: &[&str], timeout: Duration) -> Target {
    Target {
        name: "etcd-0".to_owned(),
        timeout,
        follow_symlinks: false,
        kind: RoutingKind::Etcd(EtcdTarget {
            endpoints: endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect(),
            key: "/shop/routing".to_owned(),
            login: None,
            tls_ca: None,
        }),
    }
}

/// What one target answers, as text.
async fn publish(target: &Target, document: &Document) -> Result<Ack, PublishError> {
    let mut tried = modshift_routing::publish(std::slice::from_ref(target), document).await;
    assert_eq!(tried.len(), 1);
    let (name, result) = tried.remove(0);
    assert_eq!(name, target.name);
    result
}
