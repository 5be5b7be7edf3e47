//! The plan: the one TOML file that describes a reshard. Every command and daemon takes it.
//!
//! This module is what a plan says once it has been read and found whole; `parse` turns TOML and
//! the environment into it, or into every fault at once.

mod control;
mod cutover;
pub mod default;
mod endpoint;
mod fault;
mod log;
mod nearest;
mod parse;
mod peers;
mod policy;
mod promoted;
mod quantity;
mod rehearse;
mod render;
mod reverse;
mod routing;
mod scheme;
mod section;
mod server;
mod sphere;
mod table;
mod throttle;
mod topology;
mod variable;
mod verify;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::cutover::{Account, AutoIncrement, Cutover, FenceScope};
pub use self::fault::{Fault, PlanErrors};
pub use self::parse::SHARDS_MAX;
pub use self::peers::{Peer, Peers, Vip, key_step};
pub use self::rehearse::{Rehearse, SUFFIX as REHEARSAL_SUFFIX};
pub use self::reverse::{Direction, LOST_BACK};
pub use self::routing::{
    EtcdTarget, HttpMethod, ProxySqlAdmin, ProxySqlMatch, ProxySqlTarget, RoutingKind,
    RoutingTarget,
};
pub use self::scheme::{Guard, Scheme};
pub use self::server::{Address, Login};
pub use self::sphere::{Jdbc, Place, ShardingSphereTarget, StorageUnits, ZooKeeperTarget};
pub use self::topology::{Account as TopologyAccount, Topology};
use crate::rule::ShardRule;
use crate::shard::{Modulus, NewShard, OldShard};

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub name: String,
    pub scheme: Scheme,
    pub old_modulus: Modulus,
    pub new_modulus: Modulus,
    /// Index = old shard number; as many as the old modulus.
    pub old: Vec<Endpoint>,
    /// Index = new shard number; as many as the new modulus.
    pub new: Vec<Endpoint>,
    /// Index = table number on the wire.
    pub tables: Vec<Table>,
    pub log: Log,
    pub snapshot: Snapshot,
    pub limits: Limits,
    pub reader: Reader,
    pub apply: Apply,
    pub gate: Gate,
    pub cutover: Cutover,
    pub verify: Verify,
    pub check: Check,
    pub http: Http,
    pub back: Back,
    /// The plan of which this one is the way back, see [`Plan::reversed`]; `None` as parsed.
    pub forward: Option<Arc<Plan>>,
    /// In the order in which a routing document is published; may be empty.
    pub routing: Vec<RoutingTarget>,
    pub throttle: Throttle,
    pub control: Control,
    /// The servers on which the whole way is gone once beforehand; `None`: none are named.
    pub rehearse: Option<Rehearse>,
    /// What `modshift topology` needs; `None`: it has nothing to write.
    pub topology: Option<Topology>,
}

/// A server, a schema on it, and how to log in.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub schema: String,
    pub user: String,
    pub password: Secret,
    pub tls: TlsMode,
    /// PEM file of the certificate authority; the system's roots without it.
    pub tls_ca: Option<PathBuf>,
    /// The server id under which the reader of this shard registers as a replica. Unless the plan
    /// names one: `server_id_base` plus the number of an old shard, or plus 2048 and the number
    /// of a new one; without a base see [`default::SERVER_ID_RANGE`].
    pub replica_server_id: u32,
    /// The shard's further servers, which replicate from this one: a fence closes them too.
    pub replicas: Vec<HostPort>,
    /// The replica whose binlog and rows are read in place of the primary's. One of `replicas`.
    pub read_from: Option<HostPort>,
    /// Where applications reach the shard, if not at `host` and `port`: a virtual address, say. It is
    /// published; modshift itself never connects to it.
    pub application: Option<HostPort>,
    /// The pair of masters that the shard is. Those that are not the shard's own host are among
    /// `replicas` too.
    pub peers: Option<Peers>,
}

impl Endpoint {
    /// Leads nowhere, for unit tests: what one is about it sets itself.
    #[doc(hidden)]
    pub fn sample() -> Endpoint {
        Endpoint {
            host: "192.0.2.1".to_owned(),
            port: 1,
            schema: "s".to_owned(),
            user: "u".to_owned(),
            password: Secret::new("p".to_owned()),
            tls: TlsMode::Off,
            tls_ca: None,
            replica_server_id: 1,
            replicas: Vec::new(),
            read_from: None,
            application: None,
            peers: None,
        }
    }

    /// The address under which applications reach the shard.
    pub fn application(&self) -> HostPort {
        let own = || HostPort { host: self.host.clone(), port: self.port };
        self.application.clone().unwrap_or_else(own)
    }

    /// The same shard on another of its servers, reached with the same login.
    pub fn on(&self, server: &HostPort) -> Endpoint {
        let HostPort { host, port } = server.clone();
        Endpoint { host, port, ..self.alone() }
    }

    /// The server whose binlog and rows are read.
    pub fn tailed(&self) -> Endpoint {
        self.read_from.as_ref().map_or_else(|| self.clone(), |server| self.on(server))
    }

    /// Every server of the shard, the primary first.
    pub fn servers(&self) -> Vec<Endpoint> {
        let replicas = self.replicas.iter().map(|server| self.on(server));
        std::iter::once(self.alone()).chain(replicas).collect()
    }

    /// The shard's own server, without the further ones.
    fn alone(&self) -> Endpoint {
        Endpoint { replicas: Vec::new(), read_from: None, peers: None, ..self.clone() }
    }
}

/// A server without its schemas.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An IPv6 address has colons of its own.
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Off,
    /// Encrypted, whoever answers.
    Required,
    /// Encrypted, certificate signed by a known authority.
    VerifyCa,
    /// The same, and issued for the host name connected to.
    VerifyIdentity,
}

/// A password: never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret {
    text: String,
    /// Where it was read, and may be another by now.
    file: Option<PathBuf>,
}

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret { text, file: None }
    }

    /// As such a file has it: the newline with which editors end it is no part of it.
    pub fn of_file(file: PathBuf, content: &str) -> Secret {
        let line = content.strip_suffix('\n').unwrap_or(content);
        let text = line.strip_suffix('\r').unwrap_or(line).to_owned();
        Secret { text, file: Some(file) }
    }

    /// As of when the plan was read.
    pub fn expose(&self) -> &str {
        &self.text
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub name: String,
    pub placement: Placement,
}

/// Which shards hold a row of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Placement {
    /// The one that the rule finds from the value of this column.
    Sharded { key: String, rule: ShardRule },
    /// All of them; one old shard feeds all new ones.
    Broadcast { source: OldShard },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Log {
    /// Bounded in-process channels; `buffer_bytes` for each new shard.
    Direct {
        buffer_bytes: usize,
    },
    Kafka(KafkaLog),
}

#[derive(Clone, Debug, PartialEq)]
pub struct KafkaLog {
    pub brokers: String,
    /// `modshift.<plan>.changes` unless the plan names another.
    pub topic: String,
    pub replication: u16,
    pub min_insync: u16,
    /// How long Kafka keeps a change: the longest a consumer may be down.
    pub retention: Duration,
    /// Largest message, hence the largest row that passes.
    pub message_bytes_max: usize,
    pub compression: Compression,
    /// Bytes in flight to the brokers, per old shard.
    pub buffer_bytes: usize,
    /// Further librdkafka properties, for security settings. Values may hold secrets.
    pub properties: Vec<(String, Secret)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Lz4,
    Zstd,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// What one chunk should take to read.
    pub chunk_time: Duration,
    /// Upper bounds of one chunk, whatever its time.
    pub chunk_rows_max: u32,
    pub chunk_bytes_max: usize,
    /// Chunks of one old shard in flight at once.
    pub parallel: u16,
    /// Keys touched by the tail that are remembered per table while its chunks are in flight.
    pub touched_keys_max: usize,
    /// How long keys committed by XA stay untrusted, and how long the tail must have run first
    /// on a server that has seen XA.
    pub xa_grace: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    /// Token interval when nothing is being copied; the resolution of time lag.
    pub heartbeat: Duration,
    /// Token interval while chunks are in flight.
    pub heartbeat_copying: Duration,
    /// How often the resume point is written.
    pub progress_interval: Duration,
    /// Where a large transaction is kept until its end tells whether it counts; the system's folder
    /// for temporary files if not given.
    pub spill_dir: Option<PathBuf>,
    /// Bytes of one transaction kept there, at most.
    pub spill_max: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Apply {
    pub batch_rows: usize,
    pub batch_bytes: usize,
    /// How long the first change of a batch waits for company.
    pub batch_age: Duration,
    /// A parked row that its peers have had this long to make room for is a true duplicate.
    pub parked_age_max: Duration,
    pub parked_rows_max: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    pub max_lag: Duration,
    /// Event groups that a new shard may be behind an old one, modshift's own left out.
    pub max_lag_groups: u64,
    pub hold: Duration,
    /// How old the last clean verification may be; `None`: the plan gives it up, in words.
    pub verify_age: Option<Duration>,
}

/// Comparing old and new rows while both are written.
#[derive(Clone, Debug, PartialEq)]
pub struct Verify {
    /// Beside the appliers, round after round.
    pub continuous: bool,
    /// Rows a second on all old shards together; `None`: as fast as the servers go.
    pub rows_per_s_max: Option<u32>,
    /// What one chunk should take.
    pub chunk_time: Duration,
    pub chunk_rows_max: u32,
    /// How long a difference may wait for its stream to pass it. After that it is unsettled,
    /// which is no damage and no proof.
    pub settle_max: Duration,
    /// Keys changed since they were compared, remembered for each new shard.
    pub changed_keys_max: usize,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Check {
    /// Names or `*` patterns of tables, views, routines, triggers and events left behind on
    /// purpose.
    pub ignore: Vec<String>,
    /// Accept `sync_binlog` or `innodb_flush_log_at_trx_commit` other than 1.
    pub accept_unsafe_durability: bool,
    /// Accept accounts that may switch `binlog_format` or `sql_log_bin` in their session.
    pub accept_session_binlog_control: bool,
    /// Tables of which rows of different old shards may meet on a new one: they park there until
    /// one goes, or their stream halts after `apply.parked_age_max`.
    pub accept_meeting: Vec<String>,
}

impl Check {
    /// Is an object of this name left behind on purpose?
    pub fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|pattern| matches(pattern, name))
    }
}

/// `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Where the daemons listen. `None`: loopback and the default port of the command.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Http {
    pub replicator: Option<String>,
    pub consumer: Option<String>,
    pub run: Option<String>,
}

/// The streams from the new shards to the old ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Back {
    /// They run beside the forward ones from the start, silent until the new shards serve.
    pub enabled: bool,
    /// Largest age of the last clean `modshift verify --back` for a rollback; `None`: none is asked
    /// for.
    pub verify_age: Option<Duration>,
}

/// From where on copying and verifying slow down, on any shard. `None`: not looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Throttle {
    /// The server's `Threads_running`.
    pub threads_running_max: Option<u32>,
    /// Of the server behind its own primary, and of its replicas behind it.
    pub replica_lag_max: Option<Duration>,
    /// Of modshift's own commits there.
    pub commit_latency_max: Option<Duration>,
}

/// What a process may take of a server for work that can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections to one server that copy and verify, of all of its shards together. What streams
    /// need beside it is not limited: see `modshift check`.
    pub connections_per_server: u16,
}

/// The daemons' control API.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Control {
    /// What a request must carry. `None`: the API is off.
    pub token: Option<Secret>,
    /// With it the daemons answer HTTPS, and nothing else.
    pub tls: Option<Tls>,
    /// PEM file of the authority by which the commands know the daemons; the well-known
    /// authorities without it.
    pub tls_ca: Option<PathBuf>,
}

/// PEM files: a certificate with its chain, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Plan {
    pub fn old_shards(&self) -> impl Iterator<Item = OldShard> + use<> {
        (0..self.old_modulus.get()).map(OldShard)
    }

    pub fn new_shards(&self) -> impl Iterator<Item = NewShard> + use<> {
        (0..self.new_modulus.get()).map(NewShard)
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in
            [("a", "a"), ("*", "x"), ("tmp_*", "tmp_1"), ("*_old", "a_old"), ("a*b*c", "axxbyc")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("tmp_*", "xtmp_1"), ("*_old", "a_old2"), ("a*a", "a")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
