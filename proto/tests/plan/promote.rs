//! A plan whose new shards are servers of the old ones.

use modshift_proto::plan::{Endpoint, Guard, Log, Plan, Scheme};
use modshift_proto::{NewShard, OldShard};

use crate::parse;
use crate::render::redacted;

/// `old` shards, each with `replicas` more servers; whatever else is said, at the top and below.
fn pairs((old, new): (u16, u16), replicas: u16, top: &str, below: &str) -> String {
    let mut text = format!(
        "name = \"pairs\"\nscheme = \"promote\"\n{top}\nmodulus = {{ old = {old}, new = {new} }}\n\
         [defaults]\nuser = \"modshift\"\npassword = \"p\"\ntls = \"off\"\n\
         [[table]]\nname = \"t\"\nkey = \"uid\"\nrule = \"floor_mod\"\n"
    );
    for shard in 0..old {
        let list: Vec<String> =
            (1..=replicas).map(|r| format!("\"db-{shard}-{r}:330{r}\"")).collect();
        text += &format!(
            "[[old]]\nhost = \"db-{shard}\"\nschema = \"s{shard}\"\nreplicas = [{}]\n",
            list.join(", ")
        );
    }
    text + below
}

fn read(text: &str) -> Plan {
    let plan = parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(parse(&plan.render_redacted()).unwrap(), redacted(plan.clone()));
    plan
}

fn refused(text: &str, expected: &[&str]) {
    let errors = parse(text).expect_err(text);
    let found: Vec<String> =
        errors.faults.iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
    assert_eq!(found, expected, "of\n{text}");
}

fn place(shard: &Endpoint) -> String {
    let servers: Vec<String> = shard.replicas.iter().map(|server| format!(" +{server}")).collect();
    format!("{}:{}/{}{}", shard.host, shard.port, shard.schema, servers.concat())
}

fn places(plan: &Plan) -> Vec<String> {
    plan.new.iter().map(place).collect()
}

#[test]
fn the_new_shards_follow_from_the_old_ones() {
    let plan = read(&pairs((2, 4), 1, "", ""));
    assert_eq!(plan.scheme, Scheme::Promote { guard: Guard::Triggers });
    assert!(matches!(plan.log, Log::Direct { .. }), "{:?}", plan.log);
    assert_eq!(places(&plan), ["db-0:3306/s0", "db-1:3306/s1", "db-0-1:3301/s0", "db-1-1:3301/s1"]);
    let ids: Vec<u32> = plan.new.iter().map(|shard| shard.replica_server_id).collect();
    assert_eq!(ids, [0, 1, 2, 3].map(|above| plan.old[0].replica_server_id + 2048 + above));
    assert_eq!(plan.new[3].user, "modshift");

    // One pair becomes two, and three servers a shard become three.
    assert_eq!(places(&read(&pairs((1, 2), 1, "", ""))), ["db-0:3306/s0", "db-0-1:3301/s0"]);
    let plan = read(&pairs((3, 9), 2, "guard = \"triggers\"", ""));
    assert_eq!(place(&plan.new[5]), "db-2-1:3301/s2");
    assert_eq!(place(&plan.new[7]), "db-1-2:3302/s1");
}

#[test]
fn who_lives_where_is_asked_of_the_plan_whichever_way_it_goes() {
    let plan = read(&pairs((2, 6), 2, "", ""));
    for plan in [plan.clone(), plan.reversed()] {
        let homes: Vec<_> = (0..6).map(|shard| plan.home(NewShard(shard)).unwrap().0).collect();
        assert_eq!(homes, [0, 1, 0, 1, 0, 1]);
        let in_place: Vec<_> = (0..6).filter(|&shard| plan.is_in_place(NewShard(shard))).collect();
        assert_eq!(in_place, [0, 1]);
        assert_eq!(plan.promoted().collect::<Vec<_>>(), [2, 3, 4, 5].map(NewShard));
        assert_eq!(plan.heirs(OldShard(1)).collect::<Vec<_>>(), [1, 3, 5].map(NewShard));
    }
    let pair = plan.pair(OldShard(1)).unwrap();
    let servers: Vec<&str> = pair.old.iter().chain(&pair.new).map(|s| s.host.as_str()).collect();
    assert_eq!(servers, ["db-1", "db-1-1", "db-1-2"]);
    assert_eq!((pair.old_modulus.get(), pair.new_modulus.get()), (1, 2));
    let copy = parse(&crate::orders()).unwrap();
    assert_eq!(copy.pair(OldShard(0)), None);
    assert_eq!(copy.scheme, Scheme::Copy);
    assert_eq!((copy.home(NewShard(0)), copy.is_in_place(NewShard(0))), (None, false));
    assert_eq!((copy.promoted().count(), copy.heirs(OldShard(0)).count()), (0, 0));
}

#[test]
fn servers_left_over_stay_with_the_primary_unless_a_promoted_one_names_them() {
    let kept = read(&pairs((1, 2), 3, "", ""));
    assert_eq!(places(&kept), ["db-0:3306/s0 +db-0-2:3302 +db-0-3:3303", "db-0-1:3301/s0"]);
    let new = "[[new]]\n[[new]]\nreplicas = [\"db-0-3:3303\"]\nread_from = \"db-0-3:3303\"\n";
    let divided = read(&pairs((1, 2), 3, "", new));
    assert_eq!(places(&divided), ["db-0:3306/s0 +db-0-2:3302", "db-0-1:3301/s0 +db-0-3:3303"]);
    assert_eq!(divided.new[1].tailed().host, "db-0-3");
    refused(
        &pairs((1, 2), 1, "", "[[new]]\n[[new]]\nreplicas = [\"else:1\"]\n"),
        &[
            "new[1].replicas: expected servers that the old shard's replicas list too, behind those \
           that are promoted, and of no other new shard: else:1 is none",
        ],
    );
    refused(
        &pairs((1, 2), 2, "", "[[new]]\nreplicas = [\"db-0-1:3301\"]\n[[new]]\n"),
        &["new[0].replicas: expected [\"db-0-2:3302\"]"],
    );
}

#[test]
fn what_is_said_of_a_new_shard_must_agree() {
    let said = "[[new]]\nhost = \"DB-0\"\nport = 3306\nschema = \"s0\"\n\
                [[new]]\nhost = \"db-0-1\"\nport = 3301\ntls = \"required\"\n";
    let plan = read(&pairs((1, 2), 1, "", said));
    assert_eq!(places(&plan), ["db-0:3306/s0", "db-0-1:3301/s0"]);
    let why = "or nothing: with scheme = \"promote\" new shard 1 lives on a server of old[0]";
    refused(
        &pairs((1, 2), 1, "", "[[new]]\n[[new]]\nhost = \"x\"\nport = 1\nschema = \"y\"\n"),
        &[
            &format!("new[1].host: expected db-0-1, {why}"),
            &format!("new[1].port: expected 3301, {why}"),
            &format!("new[1].schema: expected s0, {why}"),
        ],
    );
    refused(
        &pairs((1, 2), 1, "", "[[new]]\nhost = \"db-0\"\n"),
        &["new: modulus.new is 2, found 1 [[new]]: all or none"],
    );
    refused(
        &pairs((1, 2), 1, "", "[[new]]\nhosts = \"db-0\"\n[[new]]\n"),
        &["new[0].hosts: unknown key, did you mean host?"],
    );
}

#[test]
fn the_application_may_call_a_shard_otherwise() {
    let new = "[[new]]\n[[new]]\napplication_host = \"vip-2\"\napplication_port = 3307\n";
    let text = pairs((1, 2), 1, "", new)
        .replace("schema = \"s0\"", "schema = \"s0\"\napplication_host = \"vip-1\"");
    let plan = read(&text);
    let called = |plan: &Plan| -> Vec<String> {
        plan.old.iter().chain(&plan.new).map(|shard| shard.application().to_string()).collect()
    };
    // In place it is still called what it was; the promoted one is not.
    assert_eq!(called(&plan), ["vip-1:3306", "vip-1:3306", "vip-2:3307"]);
    let silent = read(&text.replace(new, ""));
    assert_eq!(called(&silent)[2], "db-0-1:3301");
    assert_eq!(silent.new[1].application, None);
    refused(
        &text.replace("vip-2\"\napplication_port = 3307", "VIP-1\"\napplication_port = 3306"),
        &["new[1]: applications reach schema s0 of new[0] at VIP-1:3306 too"],
    );
    // One address for all, by [defaults], is none for any.
    let text = text.replace(new, "");
    refused(
        &text.replace(
            "tls = \"off\"",
            "tls = \"off\"\napplication_host = \"vip-1\"\napplication_port = 3306",
        ),
        &["new[1]: applications reach schema s0 of new[0] at vip-1:3306 too"],
    );
}

#[test]
fn rows_of_the_old_mapping_are_refused_by_something() {
    let why = "with none, rows that a client writes by the old mapping would stay on a shard that is not \
               theirs, and so far nothing watches the binlogs for them";
    refused(
        &pairs((1, 2), 1, "guard = \"none\"", ""),
        &[&format!("guard: expected triggers or accounts: {why}")],
    );
}

#[test]
fn a_shard_without_a_host_is_one_fault() {
    let text =
        pairs((2, 4), 1, "", "").replace("host = \"db-0\"\n", "").replace("host = \"db-1\"\n", "");
    let missing = "missing, expected a host name, here or in [defaults]";
    let same = text.replace("\"s1\"", "\"s0\"");
    for text in [text, same] {
        refused(&text, &[&format!("old[0].host: {missing}"), &format!("old[1].host: {missing}")]);
    }
    // What is known of them still counts: one schema for two shards at one address.
    refused(
        &pairs((2, 4), 1, "", "").replace("\"s1\"", "\"s0\"").replace(
            "schema = \"s0\"",
            "schema = \"s0\"\napplication_host = \"vip\"\napplication_port = 3306",
        ),
        &[
            "new[1]: applications reach schema s0 of new[0] at vip:3306 too",
            "old[1]: applications reach schema s0 of old[0] at vip:3306 too",
        ],
    );
}

#[test]
fn the_other_master_of_a_pair_is_promoted_before_any_replica() {
    let pair = |replicas: &str, times: u16| {
        let text = pairs((1, times), 0, "", "");
        let peers = "[old.peers]\nservers = [\"db-0:3306\", \"q:3306\"]\nserver_ids = [1, 2]\n";
        text.replace("replicas = []\n", &format!("replicas = [{replicas}]\n{peers}"))
    };
    let hosts = |text: &str| -> Vec<String> {
        read(text).new.iter().map(|shard| shard.host.clone()).collect()
    };
    assert_eq!(hosts(&pair("", 2)), ["db-0", "q"]);
    assert_eq!(hosts(&pair("\"x:3306\"", 2)), ["db-0", "q"]);
    assert_eq!(hosts(&pair("\"x:3306\"", 3)), ["db-0", "q", "x"]);
    // Where it is listed, the order of the plan counts.
    assert_eq!(hosts(&pair("\"x:3306\", \"q:3306\"", 2)), ["db-0", "x"]);
    assert_eq!(hosts(&pair("\"x:3306\", \"q:3306\"", 3)), ["db-0", "x", "q"]);
    // Two are not three, however they are named.
    refused(
        &pair("\"q:3306\"", 3),
        &[
            "old[0].replicas: expected at least 2, found 1: with scheme = \"promote\" and this modulus the \
           primary and as many replicas become a new shard each",
        ],
    );
}

#[test]
fn what_cannot_be_promoted_is_refused() {
    let replicas = "expected at least 2, found 1: with scheme = \"promote\" and this modulus the \
                    primary and as many replicas become a new shard each";
    refused(
        &pairs((2, 6), 1, "", ""),
        &[&format!("old[0].replicas: {replicas}"), &format!("old[1].replicas: {replicas}")],
    );
    let multiple = "modulus.new: expected a multiple of old = 4, such as 8, found";
    let why = "with scheme = \"promote\" every old shard becomes the same number of new ones";
    refused(&pairs((4, 6), 1, "", ""), &[&format!("{multiple} 6: {why}")]);
    refused(&pairs((4, 2), 1, "", ""), &[&format!("{multiple} 2: {why}")]);
    refused(&pairs((2, 2), 1, "", ""), &["modulus: old and new are the same: nothing would move"]);
    // Two shards' servers in one place would be one shard.
    let meeting = pairs((2, 4), 1, "", "").replace("db-1-1:3301", "db-0-1:3301");
    refused(
        &meeting.replace("\"s1\"", "\"s0\""),
        &["new[3]: schema s0 on db-0-1:3301 is that of new[2] too"],
    );
    read(&meeting);
}

#[test]
fn a_promotion_has_no_use_for_what_copies() {
    let below = "[snapshot]\nparallel = 3\n[rehearse]\n[log]\nkind = \"kafka\"\nbrokers = \"k:1\"\n\
                 [verify]\ncontinuous = true\n[check]\naccept_meeting = [\"t\"]\n";
    let text =
        pairs((1, 2), 1, "", below).replace("[[old]]\n", "[[old]]\nread_from = \"db-0-1:3301\"\n");
    let errors = parse(&text).expect_err(&text);
    let mut found: Vec<&str> = errors.faults.iter().map(|fault| fault.path.as_str()).collect();
    found.retain(|path| !path.starts_with("rehearse."));
    assert_eq!(
        found,
        [
            "old[0].read_from",
            "snapshot",
            "rehearse",
            "log.kind",
            "verify.continuous",
            "check.accept_meeting"
        ]
    );
}

#[test]
fn accounts_guard_only_where_the_mappings_have_their_own() {
    let with = |accounts: &str| {
        pairs((1, 2), 1, "guard = \"accounts\"", &format!("[cutover]\n{accounts}\n"))
    };
    let plan = read(&with("old_accounts = [\"app2@%\"]\nnew_accounts = [\"app4@%\"]"));
    assert_eq!(plan.scheme, Scheme::Promote { guard: Guard::Accounts });
    refused(&with(""), &["guard: accounts needs old_accounts and new_accounts in [cutover]"]);
    refused(
        &with("accounts = [\"app@%\"]"),
        &[
            "guard: accounts needs a user name of its own for either mapping: app is in old_accounts \
           and new_accounts of [cutover]",
        ],
    );
    crate::check_change(
        "name = \"orders\"",
        "name = \"orders\"\nguard = \"none\"",
        "guard: only scheme = \"promote\" has one",
    );
}
