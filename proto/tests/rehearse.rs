//! The plan of a rehearsal follows from the operator's, and shares nothing with it that matters.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use modshift_proto::plan::{AutoIncrement, FenceScope, Log, Plan};

fn plan(rehearse: &str) -> String {
    let mut text = r#"
name = "orders"
modulus = { old = 2, new = 3 }
log = { kind = "kafka", brokers = "127.0.0.1:9092" }
defaults = { user = "modshift", password = "secret", tls = "off", host = "db" }
gate = { hold = "10s", verify_age = "1h" }
back = { enabled = false }
cutover = { accounts = ["app@%"], user = "admin", password = "x" }
"#
    .to_owned();
    text.push_str("[[table]]\nname = \"t\"\nkey = \"k\"\nrule = \"floor_mod\"\n");
    text.push_str("[[routing]]\nkind = \"file\"\npath = \"r.json\"\n");
    for (side, count) in [("old", 2), ("new", 3)] {
        for shard in 0..count {
            text.push_str(&format!("[[{side}]]\nschema = \"{side}_{shard}\"\n"));
        }
    }
    text + rehearse
}

/// `[rehearse]` with so many shards, whose schemas begin so.
fn rehearse(old: usize, new: usize, prefix: &str) -> String {
    let mut text = "[rehearse]\nruns = 5\n".to_owned();
    for (side, count) in [("old", old), ("new", new)] {
        for shard in 0..count {
            let schema = format!("{prefix}{side}_{shard}");
            text.push_str(&format!("[[rehearse.{side}]]\nschema = \"{schema}\"\n"));
        }
    }
    text
}

fn parse(text: &str) -> Result<Plan, String> {
    Plan::parse(text, &|_| None).map_err(|errors| errors.to_string())
}

#[test]
fn nothing_of_a_rehearsal_reaches_the_real_ones() {
    let real = parse(&plan(&rehearse(2, 3, "r_"))).unwrap();
    assert_eq!(parse(&plan("")).unwrap().rehearsal("7", FenceScope::Server), None);
    let plan = real.rehearsal("7", FenceScope::Accounts).unwrap();
    assert_eq!(plan.name, "orders-rehearsal-7");
    assert_eq!((plan.tables.clone(), plan.old_modulus), (real.tables.clone(), real.old_modulus));
    assert_eq!(plan.new[2].schema, "r_new_2");
    assert!(plan.routing.is_empty() && plan.rehearse.is_none() && plan.back.enabled);
    let topic = |plan: &Plan| match &plan.log {
        Log::Kafka(log) => log.topic.clone(),
        Log::Direct { .. } => unreachable!("the plan says kafka"),
    };
    let other = real.rehearsal("8", FenceScope::Server).unwrap();
    let plans = [&real, &real.reversed(), &plan, &plan.reversed(), &other, &other.reversed()];
    let topics: BTreeSet<String> = plans.into_iter().map(topic).collect();
    assert_eq!(topics.len(), 6, "{topics:?}");
    assert_eq!((plan.gate.hold, plan.gate.verify_age), (Duration::from_millis(500), None));
    let cutover = &plan.cutover;
    assert_eq!((cutover.scope, &cutover.login), (FenceScope::Accounts, &None));
    assert_eq!(cutover.auto_increment, AutoIncrement::Keep);
    assert!(cutover.old_accounts[0].user.starts_with("modshift_rehearsal_"));
    assert_ne!(cutover.old_accounts, cutover.new_accounts);
    let all = [&real.old, &real.new, &plan.old, &plan.new];
    let ids: Vec<u32> = all.into_iter().flatten().map(|shard| shard.replica_server_id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 10, "{ids:?}");
}

#[test]
fn where_applications_go_is_nothing_that_a_rehearsal_takes_over() {
    // One address for every shard, of which a proxy or the schema tells them apart.
    let vip = "host = \"db\", application_host = \"vip\", application_port = 6033";
    let text = plan(&rehearse(2, 3, "")).replace("host = \"db\"", vip);
    let text = text.replace("[[rehearse.old]]\n", "[[rehearse.old]]\nhost = \"trial\"\n");
    let text = text.replace("[[rehearse.new]]\n", "[[rehearse.new]]\nhost = \"trial\"\n");
    let plan = parse(&text).unwrap();
    assert!(plan.old.iter().chain(&plan.new).all(|shard| shard.application().host == "vip"));
    let rehearse = plan.rehearse.unwrap();
    assert!(rehearse.old.iter().chain(&rehearse.new).all(|shard| shard.application.is_none()));
}

#[test]
fn server_ids_stay_apart_wherever_the_base_lies() {
    let text = plan(&rehearse(2, 3, "r_"));
    let first = parse(&text).unwrap().rehearse.unwrap().old[0].replica_server_id;
    for base in [first - 2048, first - 1, first, first + 2048] {
        let with = format!("host = \"db\", server_id_base = {base}");
        let plan = parse(&text.replace("host = \"db\"", &with)).unwrap();
        assert_ne!(plan.rehearse.unwrap().old[0].replica_server_id, first, "{base}");
    }
}

#[test]
fn shards_of_a_rehearsal_are_as_many_and_others() {
    let refused = |rehearse: &str| parse(&plan(rehearse)).unwrap_err();
    let few = refused(&rehearse(2, 2, "r_"));
    assert!(few.contains("modulus.new is 3, found 2 [[rehearse.new]]"), "{few}");
    let real = refused(&rehearse(2, 3, ""));
    assert!(real.contains("rehearse.old[1]: schema old_1 on db:3306 is that of old[1]"), "{real}");
    let unknown = refused(&format!("{}runs = 2\n", rehearse(2, 3, "r_")));
    assert!(unknown.contains("rehearse.new[2].runs: unknown key"), "{unknown}");
}

#[test]
fn it_reads_back_as_it_is_rendered() {
    let plan = parse(&plan(&rehearse(2, 3, "r_"))).unwrap();
    let again = parse(&plan.render_redacted()).unwrap().rehearse.unwrap();
    let rehearse = plan.rehearse.unwrap();
    assert_eq!((again.rows, again.runs, again.rate), (rehearse.rows, 5, rehearse.rate));
    let schemas = |shards: &[modshift_proto::plan::Endpoint]| -> Vec<String> {
        shards.iter().map(|shard| shard.schema.clone()).collect()
    };
    assert_eq!(schemas(&again.new), schemas(&rehearse.new));
}
