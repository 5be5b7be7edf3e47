//! One shard's server: its id, its replicas, and what it says otherwise than the defaults.

use std::path::Path;

use modshift_proto::plan::TlsMode;

use crate::render::redacted;
use crate::{changed, check_change, orders, parse};

#[test]
fn server_ids_are_the_same_at_every_start_and_differ_between_shards_and_plans() {
    let plan = parse(&orders()).unwrap();
    let base = 0x6d00_0000 + (crc32(b"orders") & 0xfff) * 4096;
    let ids = |shards: &[modshift_proto::plan::Endpoint]| {
        shards.iter().map(|shard| shard.replica_server_id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&plan.old), [base, base + 1, base + 2]);
    assert_eq!(ids(&plan.new), [2048, 2049, 2050, 2051].map(|above| base + above));
    let other = parse(&changed("name = \"orders\"", "name = \"orders2\"")).unwrap();
    assert_ne!(ids(&plan.old), ids(&other.old));
    let based = parse(&changed("tls = \"off\"", "tls = \"off\"\nserver_id_base = 700")).unwrap();
    assert_eq!(ids(&based.old), [700, 701, 702]);
    check_change(
        "port = 3312",
        &format!("port = 3312\nreplica_server_id = {}", base + 2),
        &format!("old[2].replica_server_id: {} is that of old[1] too", base + 2),
    );
}

/// The polynomial's definition, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |hash, &byte| {
        (0..8).fold(hash ^ u32::from(byte), |hash, _| {
            (hash >> 1) ^ if hash & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[test]
fn a_shard_overrides_the_defaults() {
    let own = "port = 3312\nuser = \"u\"\npassword = \"p$${x}\"\ntls = \"verify-ca\"\ntls_ca = \"/ca.pem\"";
    let plan = parse(&changed("port = 3312", own)).unwrap();
    assert_eq!((plan.old[1].user.as_str(), plan.old[1].password.expose()), ("u", "p${x}"));
    assert_eq!(plan.old[1].tls, TlsMode::VerifyCa);
    assert_eq!(plan.old[1].tls_ca.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(plan.old[2].user, "modshift");
}

#[test]
fn applications_may_reach_a_shard_elsewhere() {
    let with = |lines: &str| changed("port = 3311\n", &format!("port = 3311\n{lines}\n"));
    let at = |text: &str| {
        let plan = parse(text).unwrap();
        let both = plan.old[0].application.is_some();
        assert_eq!(plan.old[1].application().port, 3312);
        assert_eq!(parse(&plan.render_redacted()).unwrap(), redacted(plan.clone()));
        (plan.old[0].application().to_string(), both)
    };
    assert_eq!(at(&orders()), ("127.0.0.1:3311".to_owned(), false));
    let vip = "application_host = \"vip-0\"";
    assert_eq!(at(&with(vip)), ("vip-0:3311".to_owned(), true));
    assert_eq!(at(&with("application_port = 6033")), ("127.0.0.1:6033".to_owned(), true));
    let both = format!("{vip}\napplication_port = 6033");
    assert_eq!(at(&with(&both)), ("vip-0:6033".to_owned(), true));
    // What is its own address is no other.
    assert_eq!(at(&with("application_port = 3311")), ("127.0.0.1:3311".to_owned(), false));
    let of_all = changed("tls = \"off\"", "tls = \"off\"\napplication_host = \"vip\"");
    assert_eq!(at(&of_all), ("vip:3311".to_owned(), true));

    // The sides may share an address, the shards of one may not.
    let shared =
        changed("port = 3321\n", &format!("port = 3321\n{vip}\napplication_port = 3311\n"));
    let shared = shared.replace("\nport = 3311\n", &format!("\nport = 3311\n{vip}\n"));
    assert_eq!(at(&shared).0, "vip-0:3311");
    let same = with(vip).replace(
        "port = 3312\nschema = \"trade_1\"",
        "port = 3312\nschema = \"trade_0\"\napplication_host = \"VIP-0\"\napplication_port = 3311",
    );
    let errors = parse(&same).unwrap_err().to_string();
    let expected = "applications reach schema trade_0 of old[0] at VIP-0:3311 too";
    assert!(errors.contains(expected), "{errors}");
}

#[test]
fn a_shard_may_list_its_replicas() {
    let with = |lines: &str| changed("port = 3311\n", &format!("port = 3311\n{lines}\n"));
    let text = with("replicas = [\"r1:3306\", \"[fd00::1]:3307\"]\nread_from = \"r1:3306\"");
    let plan = parse(&text).unwrap();
    let shard = &plan.old[0];
    let servers: Vec<String> =
        shard.servers().iter().map(|server| format!("{} {}", server.host, server.port)).collect();
    assert_eq!(servers, ["127.0.0.1 3311", "r1 3306", "fd00::1 3307"]);
    assert_eq!((shard.tailed().host.as_str(), shard.tailed().port), ("r1", 3306));
    assert_eq!(shard.tailed().schema, shard.schema);
    assert_eq!(plan.old[1].tailed(), plan.old[1]);
    assert_eq!(parse(&plan.render_redacted()).unwrap(), redacted(plan));

    let refused = |lines: &str, expected: &str| {
        let errors = parse(&with(lines)).expect_err(lines);
        let found: Vec<String> =
            errors.faults.iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
        assert_eq!(found, [expected], "of {lines}");
    };
    refused("replicas = [\"r1\"]", "old[0].replicas[0]: expected host:port, found \"r1\"");
    refused(
        "replicas = [\"127.0.0.1:3311\"]",
        "old[0].replicas[0]: expected another server than the shard's own host and port",
    );
    refused("replicas = [\"r:1\", \"r:1\"]", "old[0].replicas[1]: r:1 is listed twice");
    refused("read_from = \"r:1\"", "old[0].read_from: expected one of the shard's replicas");
}
