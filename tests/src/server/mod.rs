//! The parts of an estate, started, broken and stopped by the tests.
//!
//! Each server has its own port, socket and data directory, and dies with the test. Every method
//! takes `&self`, so that a server can be shared by the writer, the test and whoever breaks it.

mod address;
mod etcd;
pub mod hostile;
mod jars;
mod kafka;
mod mariadb;
mod options;
mod program;
mod proxy;
mod topic;
mod zookeeper;

pub use address::{ADMIN, Address, PASSWORD};
pub use etcd::EtcdServer;
pub use hostile::{HOSTILE, LATER};
pub use jars::class_path;
pub use kafka::{KafkaBroker, KafkaOptions, SASL_PASSWORD, SASL_USER};
pub use mariadb::MariaDbServer;
pub use options::{MariaDbOptions, Place};
pub use proxy::{Delay, Proxy};
pub use topic::{RawMessage, Topics};
pub use zookeeper::{JARS as CLUSTER_JARS, ZooKeeperServer, quiet};
