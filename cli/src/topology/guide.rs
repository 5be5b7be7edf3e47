//! What an operator reads: which file goes where, and in which order.

use std::fmt::Write as _;

use modshift_proto::plan::{Plan, Topology};

use super::pairs::{self, Mover, Pair, Stage};
use super::{File, PUBLIC};

/// Where to begin.
pub const FILE: &str = "README";

pub fn overview(plan: &Plan, topology: &Topology) -> Result<File, String> {
    let (before, after) = (pairs::of(plan, Stage::Before)?, pairs::of(plan, Stage::After)?);
    let (movers, crowded) = (pairs::movers(plan)?, pairs::crowded(plan)?);
    let dir = topology.dir.display();
    let mut text = format!(
        "Pairs of masters of plan {name}, written by `modshift topology` from the plan alone. The same\n\
         plan gives the same files; a file that somebody has edited is never replaced unasked.\n\
         \n\
         The files of a server, and where they go on it (owner root, modes as here):\n\
         \n\
         \x20 my.cnf               /etc/mysql/mariadb.conf.d/90-modshift.cnf\n\
         \x20 accounts.sql         nowhere: mariadb < accounts.sql, then away with it (a password)\n\
         \x20 seed-from-backup.sh  nowhere: makes an empty server a copy of its peer, which goes on (never\n\
         \x20                      run it on the server that holds the rows)\n\
         \x20 seed-from-dump.sh    nowhere: the same for little data; its peer takes no writes meanwhile\n\
         \x20 replication.sql      nowhere: mariadb < replication.sql, then away with it (a password)\n\
         \x20 watch.cnf            {dir}/watch.cnf (a password)\n\
         \x20 check.sh, notify.sh  {dir}/\n\
         \x20 keepalived.conf      /etc/keepalived/keepalived.conf\n\
         \n",
        name = plan.name,
    );
    let mut stage = |title: &str, pairs: &[Pair]| {
        let _ = writeln!(text, "{title}\n");
        for pair in pairs {
            let vip = match &pair.peers.vip {
                Some(vip) => format!("behind {}", vip.cidr()),
                None => "without a virtual address".to_owned(),
            };
            let [a, b] = &pair.peers.servers;
            let _ = writeln!(text, "  {}: {} and {} {vip}", pair.shard(), a.at, b.at);
        }
        if pairs.is_empty() {
            text.push_str("  no pair\n");
        }
        text.push('\n');
    };
    stage("BEFORE, while the old shards serve:", &before);
    stage("AFTER, once the new shards serve:", &after);
    text.push_str(
        "To set up a pair of which one server holds the rows already (the first, below) and the other is\n\
         empty (the second). The plan does not tell which is which; a pair that lost one is set up again in\n\
         the same way:\n\
         \n\
         \x201. both: install my.cnf; what it says of server_id, gtid_domain_id, log_bin and\n\
         \x20   log_slave_updates takes a restart where it was otherwise. Where a server has a binlog already,\n\
         \x20   keep the name that it has (log_bin). After the restart the server is read-only:\n\
         \x20   where the first serves without a virtual address by now, SET GLOBAL read_only = 0 there.\n\
         \x202. the first: mariadb < accounts.sql\n\
         \x203. the second: seed-from-backup.sh with the server stopped and its data directory empty, then\n\
         \x20   start it, mariadb < seeded.sql; or, for little data, seed-from-dump.sh with it running. Either\n\
         \x20   brings the accounts of the first, too.\n\
         \x204. the second: mariadb < accounts.sql, mariadb < replication.sql; wait until SHOW SLAVE STATUS\n\
         \x20   says Yes twice and Seconds_Behind_Master 0.\n\
         \x205. the first: mariadb < replication.sql\n\
         \x206. both: install watch.cnf, check.sh, notify.sh, keepalived.conf; `keepalived --config-test`;\n\
         \x20   start keepalived on the first, and once it has the address on the second.\n\
         \x20   **This closes the first for some seconds**, where it serves by now: keepalived begins as a\n\
         \x20   standby, which is read-only and without sessions, until two checks have passed and three\n\
         \x20   adverts have not come.\n\
         \n\
         Events: a seed leaves them ENABLED on both servers, and one that is created later is\n\
         SLAVESIDE_DISABLED on the other. Neither notify.sh nor keepalived changes that. Keep\n\
         event_scheduler = OFF on the server that does not serve, set it ON behind a failover, and ALTER\n\
         EVENT ... ENABLE there what is SLAVESIDE_DISABLED.\n\
         \n\
         While keepalived gives a server the address, notify.sh keeps it open: to close it by hand, stop\n\
         keepalived there.\n\
         A server that was away comes back read-only and takes in what it missed; it does not take the\n\
         address back. Where it had acknowledged writes that its peer never got, they reach the peer then,\n\
         each under its own GTID. **That may leave the two different, without an error**: an UPDATE of a row\n\
         that the peer has changed since replaces the newer values on the peer, while the server that was\n\
         away gets the peer's. A row that is there twice (INSERT) or not at all (UPDATE, DELETE) stops\n\
         replication with an error. Nothing is passed over; compare the rows of both before you rely on\n\
         the one that was away, or seed it anew.\n\
         The same holds where the two could not reach each other while clients reached both: each may take\n\
         writes until they can again. Then one is closed, the other takes in what the first wrote, and is\n\
         open again; where replication cannot bring it (an error, or a minute) it is opened without, and\n\
         syslog says so.\n\
         An application must use the virtual address alone, by accounts without READ_ONLY ADMIN.\n\
         \n",
    );
    if !crowded.is_empty() {
        let _ = write!(
            text,
            "Several servers of pairs are on {hosts}: watch.cnf, check.sh and notify.sh of each lie in {dir}/NAME\n\
             there, NAME being that of its folder here. Let each server read its own my.cnf alone, and run a\n\
             keepalived for each: keepalived --use-file=... --pid=... --vrrp_pid=...\n\n",
            hosts = crowded.join(", "),
        );
    }
    text.push_str(match movers.is_empty() {
        true => {
            "The new shards have servers of their own: set up their pairs as above before the copy\n\
             begins, and leave the old pairs as they are. See during/README for the pause.\n"
        }
        false => "Servers change their pair on the way: see during/README.\n",
    });
    Ok(File { path: FILE.to_owned(), mode: PUBLIC, text })
}

pub fn during(plan: &Plan) -> Result<Vec<File>, String> {
    let movers = pairs::movers(plan)?;
    let mut text = String::new();
    if movers.is_empty() {
        text.push_str(
            "While the new shards are copied to, pairs fail over as ever.\n\
             \n\
             For the cutover itself: `modshift check` first, on a plan that names the pairs; the fence closes\n\
             both servers of each old pair, and waits until the one that serves has applied all that the other\n\
             has written. A virtual address that moves during the pause ends the run: it is undone, and the old\n\
             shards serve on. notify.sh opens no server that modshift has fenced.\n",
        );
        return Ok(vec![File { path: "during/README".to_owned(), mode: PUBLIC, text }]);
    }
    text.push_str(
        "Servers that are masters of one pair before and of another after:\n\
         \n",
    );
    for mover in &movers {
        let _ = writeln!(
            text,
            "  {}: of {} before, of {} after{}",
            mover.server().at,
            mover.before.shard(),
            mover.after.shard(),
            if mover.keeps_vip() { ", behind the same address" } else { "" },
        );
    }
    text.push_str(
        "\n\
         \x201. Their new peers: install my.cnf of after/ on them, and leave them empty.\n",
    );
    let (stay, leave): (Vec<&Mover>, Vec<&Mover>) =
        movers.iter().partition(|mover| mover.keeps_vip());
    if !leave.is_empty() {
        let _ = writeln!(
            text,
            "\x202. Stop keepalived on {}: the addresses stay where {} until the end. (systemctl disable\n\
             \x20   --now keepalived: it must not come back with a restart of the host. notify.sh makes those\n\
             \x20   servers read-only, as standbys are.) An address that is on one of them moves by this: wait\n\
             \x20   until its peer serves.",
            list(&leave),
            match stay.is_empty() {
                true => "their peers are".to_owned(),
                false => format!("{} serve{}", list(&stay), if stay.len() == 1 { "s" } else { "" }),
            },
        );
    }
    text.push_str(
        "\x203. Install my.cnf, watch.cnf, check.sh and notify.sh of after/ on the servers above. No restart:\n\
         \x20   what is new in my.cnf, the step of generated keys, is set by the switch itself; counters.sql\n\
         \x20   sets the same for servers where it was not (SET GLOBAL, for sessions that begin after it). A\n\
         \x20   notify.sh that runs goes on as the new one, which leaves the former peer alone.\n",
    );
    text.push_str(
        "\x204. Split: `modshift promote`. It ends the replication between the servers above.\n",
    );
    for mover in &leave {
        let Some(vip) = &mover.after.peers.vip else { continue };
        let _ = writeln!(
            text,
            "\x20   Before it, on {at}: ip address add {cidr} dev {dev}. The switch tells applications that\n\
             \x20   {shard} is at {address}, and keepalived gives that address out in step 5 alone.",
            at = mover.server().at,
            cidr = vip.cidr(),
            dev = vip.interface,
            shard = mover.after.shard(),
            address = vip.address,
        );
    }
    text.push_str(
        "\x205. Give each its new peer: after/, steps 2 to 6 of README; seed the new peer from the server\n\
         \x20   above. keepalived.conf of after/ on all; `systemctl enable --now keepalived` on those that\n\
         \x20   were stopped, `systemctl reload keepalived` on the others. **Where it is started it closes the\n\
         \x20   new shard for some seconds**, as in step 6 of README.\n",
    );
    let mut files = vec![File { path: "during/README".to_owned(), mode: PUBLIC, text }];
    files.extend(movers.iter().filter_map(counters));
    Ok(files)
}

fn list(movers: &[&Mover]) -> String {
    let names: Vec<String> = movers.iter().map(|mover| mover.server().at.to_string()).collect();
    names.join(", ")
}

fn counters(mover: &Mover) -> Option<File> {
    let (step, offset) = mover.after.steps?[mover.index];
    let text = format!(
        "-- Generated keys of {at} as a master of {shard}: the remainder of that shard, none of which its\n\
         -- new peer gives out. The switch sets the same. Run as root there. To edit: nothing.\n\
         SET GLOBAL auto_increment_increment = {step}, GLOBAL auto_increment_offset = {offset};\n",
        at = mover.server().at,
        shard = mover.after.shard(),
    );
    let path = format!("during/{}/counters.sql", pairs::name(mover.server()));
    Some(File { path, mode: PUBLIC, text })
}
