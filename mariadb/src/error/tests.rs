use super::*;

fn check(code: u16, message: &str, class: Class, shown: &str) {
    let error =
        mysql_async::ServerError { code, message: message.to_owned(), state: "HY000".to_owned() };
    let error = of("db:3306/shard", "reading", Error::Server(error));
    assert_eq!(error.to_string(), shown);
    assert_eq!(error.class(), class);
    let shown = match error {
        ServerError::Lost { .. } => None,
        ServerError::ReadOnly { .. } => Some(1290),
        _ => Some(code),
    };
    assert_eq!(error.code(), shown);
}

/// One of each variant, and of each way out within it: a new one does not compile until it stands
/// here.
fn all() -> Vec<ServerError> {
    let (at, doing) = (|| "db:3306/shard".to_owned(), "reading");
    let text = || "x".to_owned();
    let owner = Owner { plan: text(), shard: text(), stage: crate::control::Stage::Before };
    let all = vec![
        ServerError::Unreachable { at: at(), detail: text() },
        ServerError::Lost { at: at(), doing, detail: text() },
        ServerError::Tls { at: at(), detail: text() },
        ServerError::Tls { at: at(), detail: "tls_ca x: no such file".to_owned() },
        ServerError::Login { at: at(), code: 1045, message: text() },
        ServerError::Privilege {
            at: at(),
            doing,
            code: 1142,
            missing: "SELECT ON t".to_owned(),
            message: text(),
        },
        ServerError::NoSchema { at: at(), message: text() },
        ServerError::Conflict { at: at(), doing, code: 1213, message: text() },
        ServerError::Full { at: at(), doing, code: 1114, message: text() },
        ServerError::Busy { at: at(), doing, code: 1040, message: text() },
        ServerError::ReadOnly { at: at(), doing, message: text() },
        ServerError::Unpromoted { at: at(), from: text() },
        ServerError::ReplicaIdTaken { at: at(), code: 4052, message: text() },
        ServerError::Binlog { at: at(), message: text() },
        ServerError::Binlog { at: at(), message: "have been purged".to_owned() },
        ServerError::Binlog {
            at: at(),
            message: "binlog truncated in the middle of event".to_owned(),
        },
        ServerError::TooLarge { at: at(), doing, message: text() },
        ServerError::EarlierTable { at: at(), table: "t", column: "plan" },
        ServerError::EarlierTable { at: at(), table: "t", column: "c" },
        ServerError::Finished { at: at(), plan: text() },
        ServerError::Restarting { at: at() },
        ServerError::OtherPlan { at: at(), owner },
        ServerError::Statement { at: at(), doing, code: 1, state: text(), message: text() },
        ServerError::Driver { at: at(), doing, detail: text() },
    ];
    for error in &all {
        match error {
            ServerError::Unreachable { .. }
            | ServerError::Lost { .. }
            | ServerError::Tls { .. }
            | ServerError::Login { .. }
            | ServerError::Privilege { .. }
            | ServerError::NoSchema { .. }
            | ServerError::Conflict { .. }
            | ServerError::Full { .. }
            | ServerError::Busy { .. }
            | ServerError::ReadOnly { .. }
            | ServerError::Unpromoted { .. }
            | ServerError::ReplicaIdTaken { .. }
            | ServerError::Binlog { .. }
            | ServerError::TooLarge { .. }
            | ServerError::EarlierTable { .. }
            | ServerError::Finished { .. }
            | ServerError::Restarting { .. }
            | ServerError::OtherPlan { .. }
            | ServerError::Statement { .. }
            | ServerError::Driver { .. } => {}
        }
    }
    all
}

#[test]
fn every_halt_names_a_command_or_a_setting() {
    const WAYS: [&str; 10] = [
        "tls_ca in the plan",
        "GRANT ",
        "CREATE DATABASE",
        "replica_server_id",
        "modshift restart-copy",
        "start the daemons again",
        "DROP TABLE",
        "another plan",
        "max_allowed_packet",
        "start the daemon again",
    ];
    for error in all().iter().filter(|error| error.class() == Class::Halt) {
        let hint = error.hint().unwrap_or_default();
        assert!(WAYS.iter().any(|way| hint.contains(way)), "{error}: {hint}");
    }
}

#[test]
fn a_missing_privilege_is_named() {
    check(
        1142,
        "SELECT command denied to user 'm'@'h' for table `d`.`t`",
        Class::Halt,
        "db:3306/shard: missing privilege SELECT ON `d`.`t` while reading: \
         SELECT command denied to user 'm'@'h' for table `d`.`t`",
    );
    check(
        1227,
        "Access denied; you need (at least one of) the BINLOG MONITOR privilege(s) for this \
         operation",
        Class::Halt,
        "db:3306/shard: missing privilege BINLOG MONITOR ON *.* while reading: \
         Access denied; you need (at least one of) the BINLOG MONITOR privilege(s) for this \
         operation",
    );
}

#[test]
fn what_passes_by_itself_is_retried_and_nothing_else() {
    check(1213, "Deadlock", Class::Retry, "db:3306/shard: Deadlock while reading");
    check(
        1927,
        "Connection was killed",
        Class::Retry,
        "db:3306/shard: connection lost while reading: Connection was killed",
    );
    check(
        1290,
        "The MariaDB server is running with the --read-only option",
        Class::Retry,
        "db:3306/shard is read-only while reading: \
         The MariaDB server is running with the --read-only option",
    );
    check(
        1290,
        "The MariaDB server is running with the --secure-file-priv option",
        Class::Halt,
        "db:3306/shard: error 1290 (HY000) while reading: \
         The MariaDB server is running with the --secure-file-priv option",
    );
    check(
        1114,
        "The table 't' is full",
        Class::Retry,
        "db:3306/shard has no room left while reading: The table 't' is full",
    );
    check(
        3,
        "Error writing file '/tmp/MLx' (Errcode: 28 \"No space left on device\")",
        Class::Retry,
        "db:3306/shard has no room left while reading: Error writing file '/tmp/MLx' (Errcode: 28 \
         \"No space left on device\")",
    );
    check(
        1030,
        "Got error 28 \"No space left on device\" from storage engine InnoDB",
        Class::Retry,
        "db:3306/shard has no room left while reading: Got error 28 \"No space left on device\" \
         from storage engine InnoDB",
    );
    // The errors of a file system that is full are told from others of the same statements.
    check(
        1030,
        "Got error 280 from storage engine",
        Class::Halt,
        "db:3306/shard: error 1030 (HY000) while reading: Got error 280 from storage engine",
    );
    check(
        1406,
        "Data too long",
        Class::Halt,
        "db:3306/shard: error 1406 (HY000) while reading: Data too long",
    );
}

#[test]
fn the_key_of_a_duplicate_is_found_whatever_the_value() {
    assert_eq!(duplicate_key("Duplicate entry 'a' for key 'b'' for key 'uk'"), Some("uk"));
    assert_eq!(duplicate_key("Duplicate entry '1' for key 'PRIMARY'"), Some("PRIMARY"));
    assert_eq!(duplicate_key("Duplicate"), None);
}
