//! What a plan means where it is silent. Each default says why it is what it is.

use std::time::Duration;

use super::{AutoIncrement, Compression, FenceScope, Guard, HttpMethod, TlsMode};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// MariaDB's own.
pub const PORT: u16 = 3306;
/// Passwords and rows cross a network; less protection than this has to be asked for.
pub const TLS: TlsMode = TlsMode::VerifyIdentity;

/// Enough to keep every stream of one new shard busy while a batch commits, and with 16 new
/// shards still a small process.
pub const DIRECT_BUFFER_BYTES: usize = 8 * MIB;
/// A round trip to three brokers takes some 10 ms, in which a fast reader sends about 2 MiB; the
/// rest rides out a leader election. A replicator of three busy old shards stays under 64 MiB.
pub const KAFKA_BUFFER_BYTES: usize = 8 * MIB;
/// The largest value of `max_allowed_packet` that is common; a larger row needs a larger limit on
/// the brokers too, so it has to be asked for.
pub const MESSAGE_BYTES_MAX: usize = 64 * MIB;
/// A consumer down over a long weekend still finds its offset.
pub const RETENTION: Duration = days(7);
/// Survives a broker's loss during another's maintenance.
pub const REPLICATION: u16 = 3;
/// With three replicas: a message acknowledged is on two brokers, and one may be away.
pub const MIN_INSYNC: u16 = 2;
/// Halves row data at a cost in CPU that does not show; zstd costs several times that.
pub const COMPRESSION: Compression = Compression::Lz4;

/// Long enough that the cost of opening a chunk is lost in it, short enough that its keys stay
/// few and that a purge or a DDL waits no longer than it would for a common query.
pub const CHUNK_TIME: Duration = Duration::from_millis(200);
/// Of narrow rows, about what 200 ms read; bounds the touched keys that can matter to one chunk.
pub const CHUNK_ROWS_MAX: u32 = 20_000;
/// Of wide rows; four old shards with two chunks each then hold 32 MiB.
pub const CHUNK_BYTES_MAX: usize = 4 * MIB;
/// One chunk is read while the other waits for the tail to pass it.
pub const PARALLEL: u16 = 2;
/// Ten times what a busy shard writes during a chunk; about 16 MiB of keys at worst.
pub const TOUCHED_KEYS_MAX: usize = 200_000;
/// XA branches between prepare and commit live for seconds; a minute covers a slow coordinator.
pub const XA_GRACE: Duration = Duration::from_secs(60);

/// A fifth of the default lag limit: the newest token is never the reason for a closed gate. Five
/// small commits a second do not show on a server.
pub const HEARTBEAT: Duration = Duration::from_millis(200);
/// A chunk waits for the tail to reach a token written after it: ten times shorter than a chunk
/// takes keeps that wait out of the copy's time.
pub const HEARTBEAT_COPYING: Duration = Duration::from_millis(10);
/// What a restart replays at most, and drops as known; one small write per old shard.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Larger than any transaction that anybody should have: most disks have the room.
pub const SPILL_MAX: usize = 64 << 30;

/// From 500 rows on a transaction costs the server no less per row; 2000 keep that true of mixed
/// tables, whose batch is split by table and operation.
pub const BATCH_ROWS: usize = 2000;
/// A quarter of MariaDB's default `max_allowed_packet`.
pub const BATCH_BYTES: usize = 4 * MIB;
/// A commit takes a few milliseconds: waiting longer for company adds lag and saves little.
pub const BATCH_AGE: Duration = Duration::from_millis(20);
/// Sixty times the lag at which the gate would open: by then the other half of a move is here.
pub const PARKED_AGE_MAX: Duration = Duration::from_secs(60);
/// Parked rows are looked at after each batch; more than this are no moves of single users.
pub const PARKED_ROWS_MAX: usize = 10_000;

/// What a cutover may keep writers waiting for at most.
pub const MAX_LAG: Duration = Duration::from_secs(1);
/// About a second of a busy shard; catches a lag that a stopped clock would hide.
pub const MAX_LAG_GROUPS: u64 = 10_000;
/// Ten times the limit: a lag that was low by accident does not open the gate.
pub const HOLD: Duration = Duration::from_secs(10);

/// What was compared an hour ago was compared under the same release and the same schema, and a round
/// over a large estate takes about as long.
pub const VERIFY_AGE: Duration = Duration::from_secs(60 * 60);

/// A way back that was not kept open from the start cannot be opened after the flip.
pub const BACK_ENABLED: bool = true;
/// What users take for a slow answer and not for a failure; clients retry that long.
pub const PAUSE_BUDGET: Duration = Duration::from_secs(3);
/// An operator's process that dies amid the pause must not leave the application without any side.
pub const WATCHDOG: bool = true;
/// It holds against accounts that nobody has thought of; what else lives on the servers waits, too.
pub const FENCE: FenceScope = FenceScope::Server;
/// The only one that holds against a client that nobody has thought of.
pub const GUARD: Guard = Guard::Triggers;
/// Otherwise new shards give out the same keys, and the rows meet on the way back.
pub const AUTO_INCREMENT: AutoIncrement = AutoIncrement::Interleave;
/// A third of the pause that a cutover allows itself: one slow target does not use it up.
pub const ROUTING_TIMEOUT: Duration = Duration::from_secs(1);
/// The document replaces the one before it.
pub const ROUTING_METHOD: HttpMethod = HttpMethod::Put;
/// A server of the usual 8 to 32 cores works on about as many statements at once; with twice as many
/// its users feel each further one.
pub const THREADS_RUNNING_MAX: u32 = 64;
/// Applications that read from replicas are told to expect seconds.
pub const REPLICA_LAG_MAX: Duration = Duration::from_secs(10);
/// Ten times what a commit takes on a disk that is no longer quick: below it is a busy server,
/// above it one that holds its users up.
pub const COMMIT_LATENCY_MAX: Duration = Duration::from_millis(250);
/// A server with the default `max_connections` of 151 leaves its application more than half of it, with
/// forty shards on it too; and as many chunks at once as a server of 8 to 16 cores reads well.
pub const CONNECTIONS_PER_SERVER: u16 = 16;
/// As for a chunk of the copy: short enough for a purge or a DDL to wait behind.
pub const VERIFY_CHUNK_TIME: Duration = Duration::from_millis(200);
/// Of rows on one shard, some 50 ms of reading: what is between two chunks hardly counts beside it.
/// When a chunk differs its keys and checksums are fetched: some 10 MiB.
pub const VERIFY_CHUNK_ROWS_MAX: u32 = 100_000;
/// Sixty times the lag at which the gate would open.
pub const VERIFY_SETTLE_MAX: Duration = Duration::from_secs(60);
/// About 16 MiB of keys for each new shard at worst; beyond it whole tables are compared again.
pub const VERIFY_CHANGED_KEYS_MAX: usize = 200_000;

/// As many as make batches and a tail of the usual size, and are copied within seconds.
pub const REHEARSE_ROWS: u32 = 10_000;
/// The fewest of which a p99 is at least the maximum of something.
pub const REHEARSE_RUNS: u32 = 20;
/// Enough that every shard has writes under way at any moment; a real load is for the plan to say.
pub const REHEARSE_RATE: u32 = 200;

/// Server ids of readers: `SERVER_ID_RANGE + (crc32(plan name) & 0xfff) * 4096 + n`, where n is
/// the number of the old shard, or 2048 plus that of the new one. Far above the ids that people
/// give out, the same at every start (two readers with one id push each other out, which is what
/// a second reader of the same shard shall do), and most likely different for two plans.
pub const SERVER_ID_RANGE: u32 = 0x6d00_0000;

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 60 * 60)
}

/// Accounts of pairs of masters, where `[topology]` names no others.
pub const REPLICATION_USER: &str = "modshift_repl";
pub const WATCH_USER: &str = "modshift_vip";
/// Where keepalived's scripts lie on each server.
pub const TOPOLOGY_DIR: &str = "/etc/modshift";
/// VRRP's own default.
pub const ADVERT: Duration = Duration::from_secs(1);
