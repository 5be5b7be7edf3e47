//! Views in modshift's own schema, without which a login does not see what it must know: made by the
//! very statements of `deploy/mariadb/grants-old.sql`.

use modshift_mariadb::control;

use crate::check::mend::{Mend, Way, on_table};

const FILE: &str = include_str!("../../../../deploy/mariadb/grants-old.sql");

/// Makes the view, for the account to read.
pub fn mend(view: &str, account: &str) -> Mend {
    // The file's quoting is that of an empty sql_mode.
    let mut statements = vec![
        "SET SESSION sql_mode = ''".to_owned(),
        format!("CREATE DATABASE IF NOT EXISTS {}", control::SCHEMA),
    ];
    statements.extend(made(view));
    statements.push(format!("GRANT SELECT ON {} TO {account}", on_table(control::SCHEMA, view)));
    Mend::run(Way::CreateView, statements).note("as deploy/mariadb/grants-old.sql does")
}

/// On one line, as a finding is.
fn made(view: &str) -> Option<String> {
    let head =
        format!("CREATE OR REPLACE SQL SECURITY DEFINER VIEW {}.{view} AS ", control::SCHEMA);
    let statement = FILE.split(';').find_map(|part| part.find(&head).map(|at| &part[at..]))?;
    Some(statement.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_views_are_in_the_file() {
        for (view, words) in [("accounts", "FROM mysql.global_priv"), ("writers", "Delete(,|$)'")] {
            let made = super::made(view).unwrap_or_default();
            assert!(made.ends_with(words) && !made.contains('\n'), "{made}");
            let mend = super::mend(view, "`u`@`%`").to_string();
            assert!(mend.contains(&format!("GRANT SELECT ON `modshift`.`{view}` TO `u`@`%`;")));
        }
    }
}
