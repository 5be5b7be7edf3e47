//! Global settings that are the worst for whoever takes a session as the server gives it: each of
//! them changes a result, or how a statement ends. Every server of the tests has them unless told
//! otherwise; the harness's own sessions, and the application's, put them right for themselves.

/// Name, hostile value, and what the harness's own sessions have. That no variable is missing is
/// held against the product's list by a test.
pub const HOSTILE: &[(&str, &str, &str)] = &[
    ("max_statement_time", "0.5", "0"),
    ("completion_type", "'RELEASE'", "'NO_CHAIN'"),
    (
        "sql_mode",
        "'ORACLE,EMPTY_STRING_IS_NULL,NO_BACKSLASH_ESCAPES,HIGH_NOT_PRECEDENCE,PAD_CHAR_TO_FULL_LENGTH,\
         NO_UNSIGNED_SUBTRACTION,REAL_AS_FLOAT,NO_ZERO_DATE,NO_ZERO_IN_DATE,TIME_ROUND_FRACTIONAL'",
        "'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
    ),
    ("autocommit", "0", "1"),
    ("tx_isolation", "'READ-UNCOMMITTED'", "'REPEATABLE-READ'"),
    ("tx_read_only", "1", "0"),
    ("sql_select_limit", "1", "18446744073709551615"),
    ("max_join_size", "1", "18446744073709551615"),
    ("sql_big_selects", "0", "1"),
    ("sql_safe_updates", "1", "0"),
    ("tmp_disk_table_size", "16384", "18446744073709551615"),
    ("max_session_mem_used", "8388608", "9223372036854775807"),
    ("sort_buffer_size", "1024", "2097152"),
    ("max_sort_length", "64", "1024"),
    ("group_concat_max_len", "4", "1048576"),
    ("max_recursive_iterations", "1", "1000"),
    ("innodb_lock_wait_timeout", "1", "50"),
    ("lock_wait_timeout", "1", "86400"),
    ("idle_write_transaction_timeout", "1", "0"),
    ("idle_readonly_transaction_timeout", "1", "0"),
    ("idle_transaction_timeout", "1", "0"),
    ("wait_timeout", "5", "28800"),
    ("net_write_timeout", "1", "60"),
    ("net_read_timeout", "5", "30"),
    ("time_zone", "'+05:45'", "'+00:00'"),
    ("div_precision_increment", "0", "4"),
    ("default_week_format", "3", "0"),
    ("lc_time_names", "'de_DE'", "'en_US'"),
    ("default_regex_flags", "'DOTALL,EXTENDED'", "''"),
    ("sql_auto_is_null", "1", "0"),
    ("old_mode", "'NO_DUP_KEY_WARNINGS_WITH_IGNORE,ZERO_DATE_TIME_CAST'", "'UTF8_IS_UTF8MB3'"),
    ("explicit_defaults_for_timestamp", "0", "1"),
    ("system_versioning_asof", "'2020-01-01 00:00:00'", "DEFAULT"),
    ("in_predicate_conversion_threshold", "2", "1000"),
    ("query_cache_type", "1", "0"),
    ("sql_buffer_result", "1", "0"),
    ("unique_checks", "0", "1"),
    ("sql_if_exists", "1", "0"),
    ("default_storage_engine", "'MyISAM'", "'InnoDB'"),
    ("innodb_strict_mode", "0", "1"),
    ("innodb_compression_default", "1", "0"),
    ("alter_algorithm", "'COPY'", "'DEFAULT'"),
    ("sql_quote_show_create", "0", "1"),
    ("lc_messages", "'de_DE'", "'en_US'"),
    ("sql_notes", "0", "1"),
    ("sql_warnings", "1", "0"),
    ("max_error_count", "0", "64"),
    ("foreign_key_checks", "0", "1"),
    ("check_constraint_checks", "0", "1"),
    ("binlog_annotate_row_events", "1", "1"),
];

/// What some versions lack: the first that has it, as the server writes versions in its comments.
pub const LATER: &[(u32, &str, &str, &str)] = &[
    (101100, "system_versioning_insert_history", "1", "0"),
    (101106, "note_verbosity", "'explain'", "'basic'"),
    (100801, "binlog_alter_two_phase", "1", "0"),
    (101108, "innodb_snapshot_isolation", "1", "0"),
    (110201, "character_set_collations", "'utf8mb4=uca1400_ai_ci'", "''"),
    (110501, "max_tmp_session_space_usage", "65536", "0"),
];

/// Runs in every session of an account without CONNECTION ADMIN before its own first statement.
const INIT_CONNECT: &str = "SET timestamp = 1000, insert_id = 77; START TRANSACTION";

/// For `--init-file`: a statement a line.
pub(super) fn init_file() -> String {
    let usual = HOSTILE.iter().filter(|(name, ..)| *name != "query_cache_type");
    let mut text: String =
        usual.map(|(name, hostile, _)| format!("SET GLOBAL {name} = {hostile};\n")).collect();
    // A comment by itself would be an empty statement, at which the server stops reading the file.
    text += &format!("SET GLOBAL init_connect = '{INIT_CONNECT}'");
    for (since, name, hostile, _) in LATER {
        text += &format!(" /*M!{since} , GLOBAL {name} = {hostile} */");
    }
    text + ";\n"
}

/// Makes a server's new sessions those of an ordinary one.
pub fn ordinary() -> String {
    let usual = HOSTILE.iter().filter(|(name, ..)| *name != "query_cache_type");
    let each: Vec<String> =
        usual.map(|(name, _, calm)| format!("GLOBAL {name} = {calm}")).collect();
    format!("SET GLOBAL init_connect = '', {}", each.join(", "))
}

/// Begins a session in which nothing surprises.
pub(super) fn calm() -> String {
    let (first, rest) = HOSTILE.split_at(3);
    let set = |settings: &[(&str, &str, &str)]| -> String {
        let each: Vec<String> =
            settings.iter().map(|(name, _, calm)| format!("{name} = {calm}")).collect();
        each.join(", ")
    };
    let ordinary: Vec<(&str, &str, &str)> =
        rest.iter().filter(|(name, ..)| *name != "binlog_annotate_row_events").copied().collect();
    let later: String = LATER
        .iter()
        .map(|(since, name, _, calm)| format!(" /*M!{since} , {name} = {calm} */"))
        .collect();
    format!(
        "SET {}; ROLLBACK; SET {}, timestamp = DEFAULT, insert_id = DEFAULT{later}",
        set(first),
        set(&ordinary)
    )
}
