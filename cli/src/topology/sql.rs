//! Statements that set up replication between the two masters of a pair.

use std::path::Path;

use modshift_proto::plan::{TlsMode, Topology, TopologyAccount};

use super::pairs::{Pair, Stage};

/// A string as SQL has it under `sql_mode = ''`.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

pub fn accounts(pair: &Pair, index: usize, topology: &Topology) -> String {
    let create = |account: &TopologyAccount| {
        let (user, password) = (quote(&account.user), quote(account.password.expose()));
        format!(
            "CREATE USER IF NOT EXISTS {user}@'%' IDENTIFIED BY {password};\n\
             ALTER USER {user}@'%' IDENTIFIED BY {password};\n"
        )
    };
    let (replication, watch) = (&topology.replication, &topology.watch);
    format!(
        "-- The accounts of the pair of {shard} on {at}: that of replication, and that of keepalived's\n\
         -- scripts. Run as root there, on a server that was seeded as well; again, it sets the passwords\n\
         -- again. It holds passwords: mode 0600. To edit: nothing.\n\
         SET SESSION sql_mode = '';\n\
         -- Each server has its own: nothing of it is replicated.\n\
         SET SESSION sql_log_bin = 0;\n\
         {replicates}\
         GRANT REPLICATION SLAVE ON *.* TO {replication}@'%';\n\
         {watches}\
         -- Make either server read-only, end the sessions that it has then, and see how replication is.\n\
         GRANT READ_ONLY ADMIN, CONNECTION ADMIN, PROCESS, SLAVE MONITOR ON *.* TO {watch}@'%';\n\
         GRANT SELECT ON mysql.gtid_slave_pos TO {watch}@'%';\n\
         -- What modshift has fenced stays closed.\n\
         GRANT SELECT ON modshift.* TO {watch}@'%';\n",
        shard = pair.shard(),
        at = pair.server(index).at,
        replicates = create(replication),
        watches = create(watch),
        replication = quote(&replication.user),
        watch = quote(&watch.user),
    )
}

/// `dir`: where its files lie on the server. `holds_rows`: it never was empty.
pub fn replication(
    pair: &Pair,
    index: usize,
    topology: &Topology,
    (dir, holds_rows): (&Path, bool),
) -> String {
    let (own, peer) = (pair.server(index), pair.peers.other(index));
    let ca = pair.tls_ca.as_ref().map(|ca| {
        let path = dir.join(ca);
        format!(",\n    MASTER_SSL_CA = {}", quote(&path.to_string_lossy()))
    });
    let ca = ca.unwrap_or_default();
    let tls = match pair.tls {
        TlsMode::Off => ",\n    MASTER_SSL = 0".to_owned(),
        TlsMode::Required => ",\n    MASTER_SSL = 1, MASTER_SSL_VERIFY_SERVER_CERT = 0".to_owned(),
        TlsMode::VerifyCa => {
            format!(",\n    MASTER_SSL = 1, MASTER_SSL_VERIFY_SERVER_CERT = 0{ca}")
        }
        TlsMode::VerifyIdentity => {
            format!(",\n    MASTER_SSL = 1, MASTER_SSL_VERIFY_SERVER_CERT = 1{ca}")
        }
    };
    let when = match (pair.stage, holds_rows) {
        (_, false) => "after it was seeded, or, where it holds the rows, once its peer was",
        (Stage::Before, true) => "once its peer was seeded",
        (Stage::After, true) => {
            "once its peer was seeded, and not before the cutover or promotion is past: until then the\n\
             -- server may still replicate from another"
        }
    };
    format!(
        "-- {at} replicates from its peer {peer}, from where gtid_slave_pos stands. Run as root there,\n\
         -- {when}.\n\
         -- It holds a password: mode 0600. To edit: nothing.\n\
         SET SESSION sql_mode = '';\n\
         STOP SLAVE;\n\
         CHANGE MASTER TO\n\
         \x20   MASTER_HOST = {host}, MASTER_PORT = {port},\n\
         \x20   MASTER_USER = {user},\n\
         \x20   MASTER_PASSWORD = {password},\n\
         \x20   MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 2, MASTER_HEARTBEAT_PERIOD = 1{tls};\n\
         START SLAVE;\n",
        at = own.at,
        peer = peer.at,
        host = quote(&peer.at.host),
        port = peer.at.port,
        user = quote(&topology.replication.user),
        password = quote(topology.replication.password.expose()),
    )
}
