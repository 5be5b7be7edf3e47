//! Scripts: the texts of `templates/` with the names of a pair filled in.

use std::path::Path;

use modshift_proto::plan::Topology;

use super::pairs::{Pair, name};

const CHECK: &str = include_str!("templates/check.sh");
const NOTIFY: &str = include_str!("templates/notify.sh");
const SEED_FROM_BACKUP: &str = include_str!("templates/seed-from-backup.sh");
const SEED_FROM_DUMP: &str = include_str!("templates/seed-from-dump.sh");

pub fn check(pair: &Pair, index: usize, topology: &Topology, dir: &Path) -> String {
    with_accounts(CHECK, pair, index, topology, dir)
}

pub fn notify(pair: &Pair, index: usize, topology: &Topology, dir: &Path) -> String {
    with_accounts(NOTIFY, pair, index, topology, dir)
}

pub fn seed_from_backup(pair: &Pair, index: usize) -> String {
    filled(SEED_FROM_BACKUP, pair, index)
}

pub fn seed_from_dump(pair: &Pair, index: usize) -> String {
    filled(SEED_FROM_DUMP, pair, index)
}

fn with_accounts(
    template: &str,
    pair: &Pair,
    index: usize,
    topology: &Topology,
    dir: &Path,
) -> String {
    filled(template, pair, index)
        .replace("@DIR@", &dir.to_string_lossy())
        .replace("'@WATCH_USER@'", &in_sql_in_quotes(&topology.watch.user))
        .replace("'@REPLICATION_USER@'", &in_sql_in_quotes(&topology.replication.user))
}

/// An SQL string within a shell string between double quotes.
fn in_sql_in_quotes(text: &str) -> String {
    let sql = format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    sql.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`")
}

fn filled(template: &str, pair: &Pair, index: usize) -> String {
    let (own, peer) = (pair.server(index), pair.peers.other(index));
    let domain = match pair.peers.share_a_domain() {
        true => String::new(),
        false => own.domain.to_string(),
    };
    // The hosts of a pair are plain words to a shell.
    template
        .replace("@SELF_HOST@", &own.at.host)
        .replace("@SELF_PORT@", &own.at.port.to_string())
        .replace("@SELF_ID@", &own.server_id.to_string())
        .replace("@PEER_HOST@", &peer.at.host)
        .replace("@PEER_PORT@", &peer.at.port.to_string())
        .replace("@PEER_ID@", &peer.server_id.to_string())
        .replace("@SOURCE_HOST@", &peer.at.host)
        .replace("@SOURCE_PORT@", &peer.at.port.to_string())
        .replace("@OWN_DOMAIN@", &domain)
        .replace("@NAME@", &name(own))
}
