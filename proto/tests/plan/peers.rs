//! Shards that are pairs of masters.

use super::render::redacted;
use super::{changed, check_change, orders, parse};
use modshift_proto::plan::HostPort;

const FIRST: &str = "port = 3311\nschema = \"trade_0\"\n";

fn with_peers(lines: &str) -> String {
    format!("{FIRST}[old.peers]\n{lines}")
}

const PAIR: &str = "servers = [\"127.0.0.1:3311\", \"db-b:3306\"]\nserver_ids = [11, 12]\n\
     vip = \"10.0.0.100/24\"\ninterface = \"eth0\"\nrouter_id = 51\n";

#[test]
fn a_pair_is_read_and_its_other_master_is_a_further_server() {
    let plan = parse(&changed(FIRST, &with_peers(PAIR))).unwrap();
    let shard = &plan.old[0];
    let peers = shard.peers.as_ref().unwrap();
    let domains = peers.servers.clone().map(|peer| (peer.server_id, peer.domain));
    assert_eq!(domains, [(11, 11), (12, 12)]);
    assert_eq!(peers.vip.as_ref().unwrap().cidr(), "10.0.0.100/24");
    let other = HostPort { host: "db-b".to_owned(), port: 3306 };
    assert_eq!(shard.replicas, std::slice::from_ref(&other), "a fence closes it");
    assert!(plan.has_peers() && plan.old[1].peers.is_none());
    assert!(!parse(&orders()).unwrap().has_peers());
    // By a virtual address either may answer.
    let by_vip = PAIR.replace("127.0.0.1:3311", "db-a:3306");
    let shard = &parse(&changed(FIRST, &with_peers(&by_vip))).unwrap().old[0];
    assert_eq!(shard.replicas.len(), 2);
    // One that is listed as well is no third server.
    let listed = format!("{FIRST}replicas = [\"db-b:3306\"]\n[old.peers]\n{PAIR}");
    assert_eq!(parse(&changed(FIRST, &listed)).unwrap().old[0].replicas, [other]);
}

#[test]
fn what_is_wrong_with_a_pair_is_named() {
    for (from, to, expected) in [
        (
            "\"db-b:3306\"",
            "\"127.0.0.1:3311\"",
            "servers: expected two different servers, each as \
          host:port",
        ),
        (
            "[11, 12]",
            "[11, 11]",
            "server_ids: expected two different server ids, one of each \
          server: a master takes nothing from one with its own id",
        ),
        ("[11, 12]", "[11]", "server_ids: expected two different server ids, one of each server"),
        (
            "/24",
            "",
            "vip: expected an address with its prefix, such as \"10.0.0.100/24\", found \
          \"10.0.0.100\"",
        ),
        (
            "interface = \"eth0\"\n",
            "",
            "interface: missing, expected the network interface that \
          carries the vip",
        ),
        (
            "router_id = 51",
            "router_id = 256",
            "router_id: expected a whole number, 1 to 255, found \
          256",
        ),
        (
            "vip = \"10.0.0.100/24\"\ninterface = \"eth0\"\n",
            "",
            "router_id: is of no use without vip",
        ),
    ] {
        check_change(
            FIRST,
            &with_peers(&PAIR.replace(from, to)),
            &format!("old[0].peers.{expected}"),
        );
    }
}

#[test]
fn pairs_do_not_contradict_each_other() {
    let second = "port = 3312\nschema = \"trade_1\"\n";
    let two = |lines: &str| {
        let text = changed(FIRST, &with_peers(PAIR));
        // The new shards have a schema of that name too, at another port.
        text.replace(second, &format!("{second}[old.peers]\n{lines}"))
    };
    let faults = |lines: &str| {
        let errors = parse(&two(lines)).err().map(|errors| errors.to_string()).unwrap_or_default();
        errors.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let other = PAIR.replace("127.0.0.1:3311", "127.0.0.1:3312").replace("db-b", "db-c");
    let other = other.replace("11, 12", "13, 14").replace(".100", ".101").replace("51", "52");
    assert_eq!(faults(&other), Vec::<String>::new());
    assert_eq!(
        faults(&other.replace("13, 14", "13, 12")),
        ["old[1].peers: server id 12 is that of db-b:3306 in old[0].peers too"]
    );
    assert_eq!(
        faults(&other.replace("db-c", "db-b")),
        ["old[1].peers: db-b:3306 has another server id or domain in old[0].peers"]
    );
    assert_eq!(
        faults(&other.replace("52", "51")),
        [
            "old[1].peers: vip 10.0.0.101 with router_id 51 meets vip 10.0.0.100 with router_id 51 of \
          old[0].peers: one router_id stands for one address"
        ]
    );
}

#[test]
fn the_accounts_of_a_topology_have_passwords() {
    let with = |lines: &str| format!("{}\n[topology]\n{lines}", orders());
    let errors = parse(&with("dir = \"etc\"\n")).unwrap_err();
    let found: Vec<&str> = errors.faults.iter().map(|fault| fault.path.as_str()).collect();
    let [dir, replication, watch] = ["dir", "replication_password", "watch_password"];
    let mut found = found;
    found.sort_unstable();
    assert_eq!(found, [dir, replication, watch].map(|key| format!("topology.{key}")));
    let given = with("replication_password = \"a b'c\"\nwatch_password = \"d\"\n");
    let topology = parse(&given).unwrap().topology.unwrap();
    assert_eq!(topology.replication.user, "modshift_repl");
    assert_eq!(topology.replication.password.expose(), "a b'c");
    let plan = parse(&given.replace(FIRST, &with_peers(PAIR))).unwrap();
    let text = plan.render_redacted();
    assert!(!text.contains("a b'c"));
    assert_eq!(parse(&text).unwrap(), redacted(plan));
}

#[test]
fn a_pair_that_is_doubled_gives_each_master_a_new_peer() {
    let plan = |old: &str, host: &str, new: &str| {
        parse(&format!(
            "name = \"shop\"\nscheme = \"promote\"\nmodulus = {{ old = 1, new = 2 }}\n\
             [defaults]\nuser = \"u\"\npassword = \"p\"\ntls = \"off\"\nschema = \"shop\"\n\
             [[table]]\nname = \"t\"\nkey = \"uid\"\nrule = \"floor_mod\"\n\
             [[old]]\nhost = \"{host}\"\n[old.peers]\nservers = [{old}]\nserver_ids = [11, 12]\n\
             [[new]]\n[new.peers]\nservers = [\"a:3306\", \"c:3306\"]\nserver_ids = [11, 13]\n\
             [[new]]\n[new.peers]\nservers = [{new}, \"d:3306\"]\nserver_ids = [12, 14]\n"
        ))
    };
    let pair = "\"a:3306\", \"b:3306\"";
    let whole = plan(pair, "a", "\"b:3306\"").unwrap();
    let hosts: Vec<&str> = whole.new.iter().map(|shard| shard.host.as_str()).collect();
    assert_eq!(hosts, ["a", "b"], "the other master is promoted");
    // They hold nothing yet.
    assert!(whole.new.iter().all(|shard| shard.replicas.is_empty() && shard.peers.is_some()));
    assert_eq!(parse(&whole.render_redacted()).unwrap(), redacted(whole));
    for (host, new, path) in
        [("vip", "\"b:3306\"", "old[0].peers"), ("a", "\"e:3306\"", "new[1].peers")]
    {
        let errors = plan(pair, host, new).unwrap_err();
        let found = errors.faults.iter().find(|fault| fault.path == path);
        let found = found.unwrap_or_else(|| panic!("{errors}"));
        assert!(found.message.contains("as one of the two"), "{}", found.message);
    }
}
