//! What is refused, with its place.

use crate::{changed, check, check_change, parse};

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
