//! What a server's own configuration has to say, so that a restart does not forget what a statement
//! has set: `SET GLOBAL binlog_format = 'ROW'` into the line `binlog_format = ROW`.

/// One line for each variable that these statements set globally; of one that is set to nothing,
/// that its line is to go.
pub fn lines<'a>(statements: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    statements.into_iter().flat_map(of_statement).collect()
}

fn of_statement(statement: &str) -> Vec<String> {
    let Some(assignments) =
        after_word(statement, "SET").and_then(|rest| after_word(rest, "GLOBAL"))
    else {
        return Vec::new();
    };
    let parts = outside_quotes(assignments).into_iter();
    // `SET GLOBAL a = 1, GLOBAL b = 2`
    let parts = parts.map(|part| after_word(part, "GLOBAL").unwrap_or(part));
    parts.filter_map(|part| part.split_once('=')).map(|(name, value)| line(name, value)).collect()
}

/// As `[mariadbd]` takes it. `value` may be a literal of SQL.
pub fn line(name: &str, value: &str) -> String {
    let (name, value) = (option(name.trim()), value.trim());
    let inner = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
    match inner.unwrap_or(value) {
        "" => format!("no line {name}"),
        bare => format!("{name} = {bare}"),
    }
}

/// Some variables have an option of another name.
fn option(variable: &str) -> &str {
    match variable {
        "time_zone" => "default_time_zone",
        "tx_isolation" => "transaction_isolation",
        "tx_read_only" => "transaction_read_only",
        other => other,
    }
}

fn after_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let text = text.trim_start();
    let (first, rest) = text.split_once(char::is_whitespace)?;
    first.eq_ignore_ascii_case(word).then(|| rest.trim_start())
}

/// Split at commas. A sql_mode has commas of its own.
fn outside_quotes(text: &str) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '\'';
        c == ',' && !quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_statement_sets_is_a_line() {
        let check = |statement: &str, expected: &[&str]| {
            assert_eq!(lines([statement]), expected, "{statement}");
        };
        check("SET GLOBAL binlog_format = 'ROW'", &["binlog_format = ROW"]);
        check("SET GLOBAL sync_binlog = 1", &["sync_binlog = 1"]);
        check(
            "SET GLOBAL auto_increment_increment = 3, GLOBAL auto_increment_offset = 2",
            &["auto_increment_increment = 3", "auto_increment_offset = 2"],
        );
        check(
            "SET GLOBAL sql_mode = 'ANSI,STRICT_ALL_TABLES'",
            &["sql_mode = ANSI,STRICT_ALL_TABLES"],
        );
        check("SET GLOBAL time_zone = '+01:00'", &["default_time_zone = +01:00"]);
        check("SET GLOBAL init_connect = ''", &["no line init_connect"]);
        for other in ["SET SESSION sql_log_bin = 0", "STOP SLAVE", "GRANT SUPER ON *.* TO a", ""] {
            check(other, &[]);
        }
        let of_all = lines(["STOP SLAVE", "SET GLOBAL slave_exec_mode = 'STRICT'", "START SLAVE"]);
        assert_eq!(of_all, ["slave_exec_mode = STRICT"]);
    }
}
