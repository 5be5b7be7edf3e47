//! A plan is read whole or refused with every fault at once.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use modshift_proto::plan::{
    Compression, Direction, Log, Placement, Plan, PlanErrors, Secret, TlsMode, default,
};
use modshift_proto::rule::{Charset, ShardRule};
use modshift_proto::{Modulus, OldShard};
use proptest::prelude::*;

/// Three old shards, four new ones, and a table of each kind.
fn orders() -> String {
    let mut text = r#"
name = "orders"
modulus = { old = 3, new = 4 }

[log]
kind = "kafka"
brokers = "127.0.0.1:9092"

[defaults]
user = "modshift"
password = "${MODSHIFT_PASSWORD}"
tls = "off"

[[table]]
name = "t_trade_order"
key = "accountNo"
rule = "floor_mod"

[[table]]
name = "t_user"
key = "login"
rule = "crc32"
charset = "utf8mb4"

[[table]]
name = "t_currency"
broadcast = 0

[gate]
max_lag = "1s"
hold = "10s"

[check]
ignore = ["tmp_*"]
"#
    .to_owned();
    for (side, shards, port) in [("old", 3, 3311), ("new", 4, 3321)] {
        for shard in 0..shards {
            let port = port + shard;
            write!(
                text,
                "\n[[{side}]]\nhost = \"127.0.0.1\"\nport = {port}\nschema = \"trade_{shard}\"\n"
            )
            .unwrap();
        }
    }
    text
}

fn env(name: &str) -> Option<String> {
    (name == "MODSHIFT_PASSWORD").then(|| "s3cret \"quoted\"".to_owned())
}

fn parse(text: &str) -> Result<Plan, PlanErrors> {
    Plan::parse(text, &env)
}

/// The plan of `orders` with one text in place of another.
fn changed(from: &str, to: &str) -> String {
    let text = orders();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

/// Every fault of a plan, a line each, `line:column: path: message`.
fn check(text: &str, expected: &[&str]) {
    let found = match parse(text) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    };
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found, expected, "of\n{text}");
}

/// One fault, whatever its place.
fn check_change(from: &str, to: &str, expected: &str) {
    let errors = parse(&changed(from, to)).expect_err(to);
    let found: Vec<String> =
        errors.faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    assert_eq!(found, [expected], "of {to}");
}

#[test]
fn a_plan_is_read_with_its_defaults() {
    let plan = parse(&orders()).unwrap();
    assert_eq!(plan.name, "orders");
    assert_eq!((plan.old_modulus, plan.new_modulus), (modulus(3), modulus(4)));
    assert_eq!((plan.old.len(), plan.new.len()), (3, 4));
    let shard = &plan.new[3];
    assert_eq!((shard.host.as_str(), shard.port), ("127.0.0.1", 3324));
    assert_eq!((shard.schema.as_str(), shard.user.as_str()), ("trade_3", "modshift"));
    assert_eq!(shard.password.expose(), "s3cret \"quoted\"");
    assert_eq!(shard.tls, TlsMode::Off);
    let placements: Vec<_> = plan.tables.iter().map(|table| table.placement.clone()).collect();
    assert_eq!(
        placements,
        [
            Placement::Sharded { key: "accountNo".to_owned(), rule: ShardRule::FloorMod },
            Placement::Sharded {
                key: "login".to_owned(),
                rule: ShardRule::Crc32 { charset: Charset::Utf8mb4 }
            },
            Placement::Broadcast { source: OldShard(0) },
        ]
    );
    let Log::Kafka(kafka) = &plan.log else { panic!("{:?}", plan.log) };
    assert_eq!(kafka.topic, "modshift.orders.changes");
    assert_eq!((kafka.replication, kafka.min_insync), (3, 2));
    assert_eq!(kafka.retention, Duration::from_secs(7 * 86_400));
    assert_eq!(kafka.message_bytes_max, 64 << 20);
    assert_eq!(kafka.buffer_bytes, 8 << 20);
    assert_eq!(kafka.compression, Compression::Lz4);
    assert_eq!(plan.snapshot.chunk_time, Duration::from_millis(200));
    assert_eq!(plan.apply.batch_rows, 2000);
    assert_eq!(plan.gate.verify_age, None);
    assert_eq!(plan.check.ignore, ["tmp_*"]);
    assert_eq!(plan.http.run, None);
}

fn modulus(shards: u16) -> Modulus {
    Modulus::new(shards).unwrap()
}

#[test]
fn the_direct_log_needs_nothing_else() {
    let kafka = "kind = \"kafka\"\nbrokers = \"127.0.0.1:9092\"";
    let plan = parse(&changed(kafka, "kind = \"direct\"")).unwrap();
    assert_eq!(plan.log, Log::Direct { buffer_bytes: default::DIRECT_BUFFER_BYTES });
    let with_brokers = "kind = \"direct\"\nbrokers = \"127.0.0.1:9092\"";
    check_change(kafka, with_brokers, "log.brokers: only a log of kind kafka has it");
}

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
fn every_fault_is_reported_at_once_with_its_place() {
    let text = r#"name = "Orders!"
modulus = { old = 2, new = 2 }
modul = 3

[log]
kind = "kafka"
broker = "127.0.0.1:9092"
compression = "gzip"
retention = 7
replication = 1
min_insync = 2

[defaults]
user = "modshift"
password = "${NOWHERE}"
tls = "on"

[[old]]
host = "a"
schema = "s"

[[old]]
host = "A"
port = 3306
schema = "s"
password_file = "/nowhere/at/all"

[[new]]
host = "a"
port = 70000
schema = "n"
prot = 1

[[table]]
name = "t"
key = "id"

[[table]]
name = "t"
key = "id"
rule = "modulo"

[[table]]
name = "u"
key = "id"
rule = "floor_mod"
charset = "utf8mb4"
broadcast = 2

[[table]]
name = "modshift_token"
rule = "crc32"

[snapshot]
paralel = 3
chunk_bytes_max = "4MB"

[gate]
max_lag = "1 fortnight"
hold = "-1s"

[check]
ignore = "tmp_*"
accept_unsafe_durability = "yes"
"#;
    check(
        text,
        &[
            r#"1:8: name: expected 1 to 64 characters of a-z, 0-9, _ and -, found "Orders!""#,
            "2:11: modulus: old and new are the same: nothing would move",
            "3:1: modul: unknown key, did you mean modulus?",
            "5:1: log.brokers: missing, expected host:port, comma separated",
            "7:1: log.broker: unknown key, did you mean brokers?",
            r#"8:15: log.compression: expected one of none, lz4, zstd, found "gzip""#,
            r#"9:13: log.retention: expected a duration such as "200ms" or "1h", 1s to 3650d, found 7"#,
            "11:14: log.min_insync: expected at most replication, which is 1",
            "15:12: defaults.password: the environment has no variable NOWHERE",
            "16:7: defaults.tls: expected one of off, required, verify-ca, verify-identity, found \"on\"",
            "22:1: old[1]: schema s on A:3306 is that of old[0] too",
            "26:17: old[1].password_file: /nowhere/at/all cannot be read: No such file or directory (os error 2)",
            "28:1: new: modulus.new is 2, found 1 [[new]]",
            "30:8: new[0].port: expected a whole number, 1 to 65535, found 70000",
            "32:1: new[0].prot: unknown key, did you mean port?",
            "34:1: table[0].rule: missing, expected floor_mod, abs_mod or crc32: what the application uses",
            "39:8: table[1].name: table t is that of table[0] too",
            r#"41:8: table[1].rule: expected one of floor_mod, abs_mod, crc32, found "modulo""#,
            "45:7: table[2].key: a broadcast table has none: its rows are on every shard",
            "46:8: table[2].rule: a broadcast table has none: its rows are on every shard",
            "47:11: table[2].charset: a broadcast table has none: its rows are on every shard",
            "48:13: table[2].broadcast: expected a whole number, 0 to 1, found 2",
            "50:1: table[3].key: missing, expected the column that places a row, or broadcast = an old shard",
            "50:1: table[3].charset: missing, expected the character set whose bytes crc32 hashes",
            "51:8: table[3].name: expected no name that begins with modshift_: ours do",
            "55:1: snapshot.paralel: unknown key, did you mean parallel?",
            r#"56:19: snapshot.chunk_bytes_max: expected a size such as "64MiB" or bytes, 1KiB to 1GiB, found "4MB""#,
            r#"59:11: gate.max_lag: expected a duration such as "200ms" or "1h", 1ms to 1d, found "1 fortnight""#,
            r#"60:8: gate.hold: expected a duration such as "200ms" or "1h", 0s to 1d, found "-1s""#,
            r#"63:10: check.ignore: expected an array, found "tmp_*""#,
            r#"64:28: check.accept_unsafe_durability: expected true or false, found "yes""#,
        ],
    );
}

#[test]
fn an_empty_plan_lacks_everything() {
    check(
        "",
        &[
            "1:1: name: missing, expected 1 to 64 characters of a-z, 0-9, _ and -",
            "1:1: modulus: missing, expected { old = N, new = M }",
            "1:1: table: missing, expected at least one [[table]]",
            "1:1: log: missing, expected [log] with kind = \"kafka\" or \"direct\"",
        ],
    );
}

#[test]
fn broken_toml_is_reported_beside_wrong_values() {
    check(
        "name = orders\nmodulus = { old = 3, new = 4 }\n[gate]\nhold = 5\n",
        &[
            "1:8: string values must be quoted, expected literal string",
            r#"4:8: gate.hold: expected a duration such as "200ms" or "1h", 0s to 1d, found 5"#,
        ],
    );
}

#[test]
fn single_faults() {
    check_change("old = 3", "old = 0", "modulus.old: expected a whole number, 1 to 1024, found 0");
    check_change("old = 3", "old = 2", "old: modulus.old is 2, found 3 [[old]]");
    check_change(
        "3312\nschema = \"trade_1\"",
        "3311\nschema = \"trade_0\"",
        "old[1]: schema trade_0 on 127.0.0.1:3311 is that of old[0] too",
    );
    check_change(
        "3322\nschema = \"trade_1\"",
        "3311\nschema = \"trade_0\"",
        "new[1]: schema trade_0 on 127.0.0.1:3311 is that of old[0] too",
    );
    check_change(
        "user = \"modshift\"\n",
        "user = \"\"\n",
        "defaults.user: expected 1 to 128 characters, found \"\"",
    );
    check_change(
        "charset = \"utf8mb4\"",
        "charset = \"utf16\"",
        "table[1].charset: expected one of binary, ascii, latin1, utf8mb3, utf8mb4, found \"utf16\"",
    );
    check_change(
        "\"floor_mod\"",
        "\"abs_mod\"\ncharset = \"binary\"",
        "table[0].charset: only rule crc32 has a character set",
    );
    check_change(
        "max_lag = \"1s\"",
        "max_lag = \"200ms\"",
        "gate.max_lag: expected more than reader.heartbeat: it would never be met",
    );
    check_change(
        "[check]",
        "[reader]\nheartbeat_copying = \"1s\"\n[check]",
        "reader.heartbeat_copying: expected at most heartbeat",
    );
    check_change(
        "[check]",
        "[log.properties]\nacks = 1\n[check]",
        "log.properties.acks: expected no property that modshift sets itself",
    );
    check_change(
        "[check]",
        "[http]\nrun = \"9479\"\n[check]",
        "http.run: expected an address and port, 127.0.0.1:9477, found \"9479\"",
    );
    check_change(
        "127.0.0.1:9092",
        "127.0.0.1",
        "log.brokers: expected host:port, comma separated, found \"127.0.0.1\"",
    );
    check_change("[check]", "[chekc]\n[check]", "chekc: unknown key, did you mean check?");
    check_change(
        "hold = \"10s\"",
        "zzz = 1",
        "gate.zzz: unknown key, expected one of max_lag, max_lag_groups, hold, verify_age",
    );
}

#[test]
fn a_limit_of_the_throttle_may_be_none() {
    let throttle = |text: &str| {
        parse(&changed("[check]", &format!("[throttle]\n{text}\n[check]"))).unwrap().throttle
    };
    let defaults = throttle("");
    assert_eq!(defaults.threads_running_max, Some(default::THREADS_RUNNING_MAX));
    assert_eq!(defaults.replica_lag_max, Some(default::REPLICA_LAG_MAX));
    assert_eq!(defaults.commit_latency_max, Some(default::COMMIT_LATENCY_MAX));
    let off = throttle(
        "threads_running_max = \"none\"\nreplica_lag_max = \"none\"\ncommit_latency_max = \"none\"",
    );
    assert_eq!(
        (off.threads_running_max, off.replica_lag_max, off.commit_latency_max),
        (None, None, None)
    );
    assert_eq!(throttle("threads_running_max = 5").threads_running_max, Some(5));
    check_change(
        "[check]",
        "[throttle]\nreplica_lag_max = \"none at all\"\n[check]",
        "throttle.replica_lag_max: expected a duration such as \"200ms\" or \"1h\", 1s to 1h, \
         found \"none at all\"",
    );
}

#[test]
fn the_control_token_is_long_and_the_certificate_has_a_key() {
    let control = |text: &str| parse(&changed("[check]", &format!("[control]\n{text}\n[check]")));
    assert_eq!(control("").unwrap().control, modshift_proto::plan::Control::default());
    let good = control("token = \"0123456789abcdef\"\ntls_cert = \"c.pem\"\ntls_key = \"k.pem\"");
    let good = good.unwrap().control;
    assert_eq!(good.token.unwrap().expose(), "0123456789abcdef");
    assert_eq!(good.tls.unwrap().key, Path::new("k.pem"));
    let long = "expected 16 to 1024 printable ASCII characters without spaces, such as the answer of \
                `openssl rand -hex 32`";
    for (text, expected) in [
        ("token = \"s3cret\"", format!("control.token: {long}")),
        ("token = \"0123456789 abcdef\"", format!("control.token: {long}")),
        ("token_file = \"gone\"", "control.token_file: gone cannot be read: ".to_owned()),
        ("tls_cert = \"c\"", "control.tls_key: missing, expected".to_owned()),
        ("tls_key = \"k\"", "control.tls_cert: missing, expected".to_owned()),
        (
            "token = \"0123456789abcdef\"\ntoken_file = \"x\"",
            "control.token_file: token is given too".to_owned(),
        ),
    ] {
        let found = control(text).expect_err(text).to_string();
        assert!(found.contains(&expected) && !found.contains("s3cret"), "{found}");
    }
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
fn a_plan_file_names_files_beside_it() {
    let folder = std::env::temp_dir().join(format!("modshift-plan-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("password"), "from a file \n").unwrap();
    let text = changed("password = \"${MODSHIFT_PASSWORD}\"", "password_file = \"password\"");
    std::fs::write(folder.join("plan.toml"), text).unwrap();
    let plan = Plan::load(folder.join("plan.toml")).unwrap();
    assert_eq!(plan.old[0].password.expose(), "from a file ");
    std::fs::write(folder.join("plan.toml"), "x = 1\n").unwrap();
    let shown = Plan::load(folder.join("plan.toml")).unwrap_err().to_string();
    let file = folder.join("plan.toml");
    assert!(shown.starts_with(&format!("{}:1:1: ", file.display())), "{shown}");
    std::fs::remove_dir_all(&folder).unwrap();
    let gone = Plan::load(&file).unwrap_err().to_string();
    assert!(gone.contains("plan.toml: the plan cannot be read: No such file"), "{gone}");
}

/// Secrets as they come out of a rendered plan.
fn redacted(mut plan: Plan) -> Plan {
    let hidden = || Secret::new("<redacted>".to_owned());
    plan.old.iter_mut().chain(&mut plan.new).for_each(|shard| shard.password = hidden());
    if let Some(rehearse) = &mut plan.rehearse {
        let shards = rehearse.old.iter_mut().chain(&mut rehearse.new);
        shards.for_each(|shard| shard.password = hidden());
    }
    if let Log::Kafka(kafka) = &mut plan.log {
        kafka.properties.iter_mut().for_each(|(_, value)| *value = hidden());
    }
    // It is not rendered at all: what stands for it would be a token that anyone can read.
    plan.control.token = None;
    plan
}

#[test]
fn the_rendered_plan_reads_back_without_its_secrets() {
    let properties = "[log.properties]\nsasl.password = \"hunter2\"\n\"ssl.ca.location\" = \"x\"\n\
                      [control]\ntoken = \"hunter2-and-more\"\n\
                      [gate]\nverify_age = \"1h\"\n";
    let plan = parse(&changed("[gate]\n", properties)).unwrap();
    let Log::Kafka(kafka) = &plan.log else { panic!("{:?}", plan.log) };
    let names: Vec<&str> = kafka.properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["sasl.password", "ssl.ca.location"]);
    let text = plan.render_redacted();
    for shown in [text.clone(), format!("{plan:?}")] {
        assert!(!shown.contains("s3cret") && !shown.contains("hunter2"), "{shown}");
    }
    assert_eq!(parse(&text).unwrap(), redacted(plan));
}

#[test]
fn no_fault_shows_a_secret() {
    let secret = "s3cret";
    for wrong in [
        "password = \"s3cret ${X}\"",
        "password = \"s3cret ${\"",
        "password = [\"s3cret\"]",
        "password = s3cret",
        "password = \"s3cret",
        "host = \" ${MODSHIFT_PASSWORD}\"\npassword = 5",
    ] {
        let errors =
            parse(&changed("password = \"${MODSHIFT_PASSWORD}\"", wrong)).expect_err(wrong);
        assert!(!errors.to_string().contains(secret), "{errors}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is done to a plan's text, it is read or refused, and never without a reason.
    #[test]
    fn no_text_is_too_odd(at in 0usize..1000, cut in 0usize..40, put in "\\PC{0,12}|[\\[\\]{}=\"'\n.#$]{0,6}") {
        let mut text: Vec<char> = orders().chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, put.chars());
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(plan) => prop_assert_eq!(parse(&plan.render_redacted()).unwrap(), redacted(plan)),
            Err(errors) => prop_assert!(!errors.faults.is_empty()),
        }
    }
}

#[test]
fn the_way_back_is_the_plan_turned_around() {
    let plan = parse(&changed("broadcast = 0", "broadcast = 2")).unwrap();
    let back = plan.reversed();
    assert_eq!((plan.direction(), back.direction()), (Direction::Forward, Direction::Back));
    assert_eq!(back.name, "orders-back");
    assert_eq!((back.old_modulus, back.new_modulus), (modulus(4), modulus(3)));
    assert_eq!((&back.old, &back.new), (&plan.new, &plan.old));
    let Log::Kafka(log) = &back.log else { panic!("{:?}", back.log) };
    assert_eq!(log.topic, "modshift.orders-back.changes");
    assert_eq!(back.tables[2].placement, Placement::Broadcast { source: OldShard(0) });
    assert_eq!(back.tables[..2], plan.tables[..2]);
    assert_eq!(back.apply, plan.apply);
    // Whatever could not be turned is there again.
    assert_eq!(back.reversed(), plan);
}

#[test]
fn no_plan_is_called_like_a_way_back() {
    let expected = "name: expected no name that ends in -back: it is that of a way back";
    check_change("name = \"orders\"", "name = \"orders-back\"", expected);
}

#[test]
fn the_way_back_is_open_unless_the_plan_closes_it() {
    assert!(parse(&orders()).unwrap().back.enabled);
    let closed = parse(&changed("[gate]\n", "[back]\nenabled = false\n[gate]\n")).unwrap();
    assert!(!closed.back.enabled);
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

#[test]
fn the_accounts_of_a_cutover_are_those_of_create_user() {
    let plan = parse(&changed(
        "[gate]\n",
        "[cutover]\naccounts = [\"app@10.0.%\", \"a@b@%\"]\nnew_accounts = []\nbudget = \"800ms\"\n\
         user = \"root\"\npassword = \"${MODSHIFT_PASSWORD}\"\nauto_increment = \"keep\"\n[gate]\n",
    ))
    .unwrap();
    let names: Vec<_> =
        plan.cutover.old_accounts.iter().map(|a| (a.user.as_str(), a.host.as_str())).collect();
    assert_eq!(names, [("app", "10.0.%"), ("a@b", "%")]);
    assert_eq!(plan.cutover.new_accounts, []);
    assert_eq!(plan.cutover.budget, Duration::from_millis(800));
    assert!(!plan.render_redacted().contains("s3cret"));
    let back = parse(&plan.render_redacted()).unwrap();
    assert_eq!(back.cutover.old_accounts, plan.cutover.old_accounts);
    assert_eq!(back.cutover.auto_increment, plan.cutover.auto_increment);

    let check = |line: &str, expected: &str| {
        check_change("[gate]\n", &format!("[cutover]\n{line}\n[gate]\n"), expected);
    };
    check(
        "accounts = [\"app\"]",
        "cutover.accounts[0]: expected an account such as \"app@%\", found \"app\"",
    );
    check("user = \"root\"", "cutover: expected both user and password, or neither");
    check("account = []", "cutover.account: unknown key, did you mean accounts?");
}
