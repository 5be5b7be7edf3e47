//! What the statements do to tables like ProxySQL's, in SQLite; and which statements the hints'
//! patterns match.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::publish::test_documents::document;

/// The columns that are used, as ProxySQL has them, and one that an operator sets.
const TABLES: &str = "
    CREATE TABLE mysql_servers (
        hostgroup_id INT NOT NULL DEFAULT 0 CHECK (hostgroup_id >= 0),
        hostname VARCHAR NOT NULL, port INT NOT NULL DEFAULT 3306 CHECK (port BETWEEN 0 AND 65535),
        max_connections INT NOT NULL DEFAULT 1000, comment VARCHAR NOT NULL DEFAULT '',
        PRIMARY KEY (hostgroup_id, hostname, port));
    CREATE TABLE mysql_query_rules (
        rule_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
        active INT NOT NULL DEFAULT 0 CHECK (active IN (0, 1)), schemaname VARCHAR,
        match_pattern VARCHAR, destination_hostgroup INT DEFAULT NULL, error_msg VARCHAR,
        apply INT NOT NULL DEFAULT 0 CHECK (apply IN (0, 1)), comment VARCHAR);
    INSERT INTO mysql_servers (hostgroup_id, hostname, port) VALUES (1, 'theirs', 1);
    INSERT INTO mysql_query_rules (rule_id, active, apply) VALUES (1, 1, 1), (9999, 1, 1);
";
const LOADS: [&str; 4] = [
    "LOAD MYSQL SERVERS TO RUNTIME",
    "LOAD MYSQL QUERY RULES TO RUNTIME",
    "SAVE MYSQL SERVERS TO DISK",
    "SAVE MYSQL QUERY RULES TO DISK",
];

fn target(matching: ProxySqlMatch) -> ProxySqlTarget {
    ProxySqlTarget { file: None, admin: None, hostgroup_base: 4000, rule_base: 500, matching }
}

/// Gives a program its input; its output.
fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error} (install.sh --test installs it)"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // grep's 1 is for nothing found.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{program}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The tables after these publications, one after the other.
fn check(documents: &[Document], matching: ProxySqlMatch, query: &str, expected: &str) {
    let mut script = TABLES.to_owned();
    for document in documents {
        let all = statements(&target(matching), document).unwrap();
        let (changes, loads) = all.split_at(all.len() - LOADS.len());
        assert_eq!(loads, LOADS, "loaded in the end, and then saved");
        script.push_str(&changes.join(";\n"));
        script.push_str(";\n");
    }
    let found = run("sqlite3", &["-bail", ":memory:"], &format!("{script}{query};\n"));
    assert_eq!(found, expected);
}

#[test]
fn the_rules_send_each_hint_to_its_shard_and_stop_stale_ones() {
    let both = [document(1, Side::Old), document(2, Side::New)];
    let query = "SELECT rule_id, match_pattern, destination_hostgroup, error_msg, active, apply \
                 FROM mysql_query_rules ORDER BY 1";
    let expected = "1||||1|1\n\
         500|/\\*\\s*shard=0/4\\s*\\*/|5024||1|1\n\
         501|/\\*\\s*shard=1/4\\s*\\*/|5025||1|1\n\
         502|/\\*\\s*shard=2/4\\s*\\*/|5026||1|1\n\
         503|/\\*\\s*shard=3/4\\s*\\*/|5027||1|1\n\
         1524|/\\*\\s*shard=[0-9]+/[0-9]+\\s*\\*/||modshift: this shard hint is not of modulus 4, \
         which routing version 2 has|1|1\n\
         9999||||1|1\n";
    check(&both, ProxySqlMatch::Hint, query, expected);
}

#[test]
fn servers_of_both_sides_stay_apart_and_keep_their_settings() {
    let servers = "SELECT hostgroup_id, hostname, port, max_connections FROM mysql_servers \
                   ORDER BY 1";
    let there = [document(1, Side::Old), document(2, Side::New), document(3, Side::Old)];
    let expected = "1|theirs|1|1000\n\
         4000|db-old-0.internal|3306|1000\n\
         4001|db-old-1.internal|3307|1000\n\
         4002|db-old-2.internal|3308|1000\n\
         5024|db-new-0.internal|3306|1000\n\
         5025|db-new-1.internal|3307|1000\n\
         5026|db-new-2.internal|3308|1000\n\
         5027|db-new-3.internal|3309|1000\n";
    check(&there, ProxySqlMatch::Hint, servers, expected);

    // A shard that moved to another host, and what an operator set for one that did not.
    let (first, mut second) = (document(1, Side::Old), document(2, Side::Old));
    second.shards[1].host = "moved".to_owned();
    let statements = |document| statements(&target(ProxySqlMatch::Hint), document).unwrap();
    let changes = |document| {
        let all = statements(document);
        all[..all.len() - LOADS.len()].join(";\n") + ";\n"
    };
    let set = "UPDATE mysql_servers SET max_connections = 7 WHERE hostgroup_id >= 4000;\n";
    let script = format!("{TABLES}{}{set}{}{servers};\n", changes(&first), changes(&second));
    let expected = "1|theirs|1|1000\n\
         4000|db-old-0.internal|3306|7\n\
         4001|moved|3307|1000\n\
         4002|db-old-2.internal|3308|7\n";
    assert_eq!(run("sqlite3", &["-bail", ":memory:"], &script), expected);
}

#[test]
fn the_first_rule_says_what_is_loaded() {
    let document = document(7, Side::New);
    let all = statements(&target(ProxySqlMatch::Hint), &document).unwrap();
    let changes = all[..all.len() - LOADS.len()].join(";\n");
    let query = "SELECT comment FROM mysql_query_rules WHERE rule_id = 500";
    let script = format!("{TABLES}{changes};\n{query};\n");
    let comment = run("sqlite3", &["-bail", ":memory:"], &script);
    assert_eq!(held(500, comment.trim_end()).unwrap(), document);
    let foreign = held(500, "my own rule").unwrap_err();
    assert!(matches!(foreign, Failure::Foreign { .. }), "{foreign}");
}

#[test]
fn by_schema_each_connection_goes_to_its_shard() {
    let query = "SELECT schemaname, match_pattern IS NULL, destination_hostgroup \
                 FROM mysql_query_rules WHERE rule_id BETWEEN 500 AND 1524";
    let expected = "shop_0|1|4000\nshop_1|1|4001\nshop_2|1|4002\n";
    check(&[document(1, Side::Old)], ProxySqlMatch::Schema, query, expected);
    let mut same = document(1, Side::Old);
    same.shards[2].schema = "shop_0".to_owned();
    let unfit = preview(&target(ProxySqlMatch::Schema), &same).unwrap_err();
    assert!(matches!(unfit, Failure::Unfit { .. }), "{unfit}");
}

/// With PCRE, one of ProxySQL's two engines.
#[test]
fn a_hint_is_found_in_a_statement_and_nowhere_else() {
    let matches = |pattern: &str, text: &str| !run("grep", &["-iP", pattern], text).is_empty();
    let third = hint("3", "4");
    let any = hint("[0-9]+", "[0-9]+");
    for text in ["/* shard=3/4 */ SELECT 1", "INSERT /*shard=3/4*/ INTO t VALUES (1)"] {
        assert!(matches(&third, text) && matches(&any, text), "{text}");
    }
    for text in ["/* shard=13/4 */ SELECT 1", "/* shard=3/40 */ SELECT 1", "/* SHARD=0/4 */"] {
        assert!(!matches(&third, text) && matches(&any, text), "{text}");
    }
    for text in ["SELECT 'shard=3/4'", "/* shard=x/4 */", "/* shard=3 */ SELECT 1"] {
        assert!(!matches(&third, text) && !matches(&any, text), "{text}");
    }
}
