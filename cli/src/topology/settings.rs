//! Configuration files: the server's, that of the scripts' client, keepalived's.

use std::path::Path;
use std::time::Duration;

use modshift_proto::plan::{TlsMode, Topology};

use super::pairs::{Pair, Stage, name};

pub fn my_cnf(pair: &Pair, index: usize) -> String {
    let (own, peer) = (pair.server(index), pair.peers.other(index));
    let domain = match pair.peers.share_a_domain() {
        true => {
            "# Its peer writes under the same domain: nothing but the order in which the two take over keeps\n\
                 # their sequence numbers apart. A domain of its own is safer."
        }
        false => "# A domain of its own: what its peer writes meanwhile never stands in its way.",
    };
    let steps = match pair.steps {
        Some(steps) => {
            let (step, offset) = steps[index];
            format!(
                "# Generated keys leave the remainder of the shard, and the two masters never give out the same.\n\
                 auto_increment_increment        = {step}\n\
                 auto_increment_offset           = {offset}\n"
            )
        }
        None => "# Several shards have this server, and each would need other generated keys: sessions set\n\
                 # auto_increment_increment and auto_increment_offset themselves.\n"
            .to_owned(),
    };
    let later = match pair.stage {
        Stage::Before => "",
        Stage::After => {
            "# What stands here and not in its present file needs no restart where the server runs already:\n\
             # the cutover sets auto_increment_*, and all else is as before.\n"
        }
    };
    format!(
        "# {at} as a master of {shard}; its peer is {peer}.\n\
         # For /etc/mysql/mariadb.conf.d/90-modshift.cnf. What a machine decides\n\
         # (innodb_buffer_pool_size, datadir, bind_address) stands in a file of yours.\n\
         # To edit: log_bin, where the server has one already. SELECT @@log_bin_basename says how its files\n\
         # are called: under another name it begins anew, with GTIDs that it has given out before, and\n\
         # whoever reads from it does not find its place.\n\
         {later}\
         [mariadbd]\n\
         server_id                       = {id}\n\
         {domain}\n\
         gtid_domain_id                  = {gtid_domain}\n\
         gtid_strict_mode                = ON\n\
         # Every change as full row images, those that it takes from its peer too.\n\
         log_bin                         = binlog\n\
         binlog_format                   = ROW\n\
         binlog_row_image                = FULL\n\
         binlog_checksum                 = CRC32\n\
         log_slave_updates               = ON\n\
         binlog_expire_logs_seconds      = 604800\n\
         # What was acknowledged survives a crash, here and in what the peer has been sent.\n\
         sync_binlog                     = 1\n\
         innodb_flush_log_at_trx_commit  = 1\n\
         relay_log_recovery              = ON\n\
         # A peer that a cut network hides is asked anew soon after it is there again.\n\
         slave_net_timeout               = 5\n\
         # An error of replication stops it; none is passed over.\n\
         slave_skip_errors               = OFF\n\
         slave_exec_mode                 = STRICT\n\
         {steps}\
         # It starts read-only, and takes writes only when it is told to: a master that died and comes\n\
         # back finds its peer serving.\n\
         read_only                       = ON\n",
        at = own.at,
        shard = pair.shard(),
        peer = peer.at,
        id = own.server_id,
        gtid_domain = own.domain,
    )
}

pub fn watch_cnf(pair: &Pair, topology: &Topology, dir: &Path) -> String {
    let dir = dir.display();
    let (tls, edit) = match pair.tls {
        // Clients of 11.4 and later insist on TLS unless told.
        TlsMode::Off => ("skip-ssl\n".to_owned(), "nothing".to_owned()),
        TlsMode::Required => {
            ("ssl\nskip-ssl-verify-server-cert\n".to_owned(), "nothing".to_owned())
        }
        TlsMode::VerifyCa | TlsMode::VerifyIdentity => {
            let verify = match pair.tls {
                TlsMode::VerifyIdentity => "ssl-verify-server-cert\n",
                _ => "skip-ssl-verify-server-cert\n",
            };
            match &pair.tls_ca {
                Some(ca) => (
                    format!("ssl\nssl-ca = {dir}/{ca}\n{verify}"),
                    format!("nothing; the authority's certificate lies beside it as {ca}"),
                ),
                None => (format!("ssl\n{verify}"), "nothing".to_owned()),
            }
        }
    };
    format!(
        "# The login of check.sh and notify.sh, on this server and on its peer. For {dir}/watch.cnf,\n\
         # owner root, mode 0600: it holds a password. To edit: {edit}.\n\
         [client]\n\
         user = \"{user}\"\n\
         password = \"{password}\"\n\
         {tls}",
        user = option(&topology.watch.user),
        password = option(topology.watch.password.expose()),
    )
}

/// As a value between double quotes in an option file. An inner quote stands for itself there.
fn option(text: &str) -> String {
    text.replace('\\', "\\\\")
}

/// `None` without a virtual address.
pub fn keepalived(pair: &Pair, index: usize, topology: &Topology, dir: &Path) -> Option<String> {
    let vip = pair.peers.vip.as_ref()?;
    let (own, peer) = (pair.server(index), pair.peers.other(index));
    let dir = dir.display();
    let numbers: Vec<String> = pair.shards.iter().map(u16::to_string).collect();
    Some(format!(
        "# keepalived of {at}: gives the virtual address {cidr} of {shard} to it or to its peer {peer}.\n\
         # For /etc/keepalived/keepalived.conf. To edit: nothing; where the network passes no multicast,\n\
         # add unicast_peer to the instance. Check it with: keepalived --config-test\n\
         global_defs {{\n\
         \x20   router_id {name}\n\
         \x20   vrrp_version 3\n\
         \x20   # Scripts that anybody but root may change are not run.\n\
         \x20   script_user root\n\
         \x20   enable_script_security\n\
         }}\n\
         \n\
         # The server itself is asked, not its port.\n\
         vrrp_script modshift_server {{\n\
         \x20   script \"{dir}/check.sh\"\n\
         \x20   interval 1\n\
         \x20   timeout 5\n\
         \x20   fall 2\n\
         \x20   rise 2\n\
         }}\n\
         \n\
         vrrp_instance {instance} {{\n\
         \x20   # Both begin as BACKUP, and neither takes the address from one that has it.\n\
         \x20   state BACKUP\n\
         \x20   nopreempt\n\
         \x20   interface {interface}\n\
         \x20   virtual_router_id {router_id}\n\
         \x20   priority {priority}\n\
         \x20   advert_int {advert}\n\
         \x20   # Should two servers have the address (a keepalived that was killed leaves it behind),\n\
         \x20   # the network learns again and again who really has it.\n\
         \x20   garp_master_refresh 5\n\
         \x20   virtual_ipaddress {{\n\
         \x20       {cidr} dev {interface}\n\
         \x20   }}\n\
         \x20   track_script {{\n\
         \x20       modshift_server\n\
         \x20   }}\n\
         \x20   # The winner makes the loser read-only before it takes writes; the loser does so by itself, too.\n\
         \x20   notify_master \"{dir}/notify.sh MASTER\"\n\
         \x20   notify_backup \"{dir}/notify.sh BACKUP\"\n\
         \x20   notify_fault \"{dir}/notify.sh FAULT\"\n\
         \x20   notify_stop \"{dir}/notify.sh STOP\"\n\
         }}\n",
        at = own.at,
        cidr = vip.cidr(),
        shard = pair.shard(),
        peer = peer.at,
        name = name(own),
        instance = format_args!("{}_{}_{}", pair.plan, pair.stage.side(), numbers.join("_")),
        interface = vip.interface,
        router_id = vip.router_id,
        priority = 101 - index,
        advert = seconds(topology.advert),
    ))
}

/// keepalived counts hundredths of a second.
fn seconds(duration: Duration) -> String {
    let hundredths = duration.as_millis().div_ceil(10);
    match hundredths % 100 {
        0 => format!("{}", hundredths / 100),
        rest => format!("{}.{rest:02}", hundredths / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adverts_are_written_in_seconds() {
        for (ms, text) in [(1000, "1"), (200, "0.20"), (1250, "1.25"), (15, "0.02"), (40_000, "40")]
        {
            assert_eq!(seconds(Duration::from_millis(ms)), text);
        }
    }
}
