//! What modshift knows of a server's accounts is for nobody else to read.

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::Survey;

/// Earlier versions of `deploy/mariadb/grants-old.sql` made them in the application's schema, where
/// whoever may read there reads the privileges of all accounts.
const FORMER: [&str; 2] = ["modshift_accounts", "modshift_writers"];

pub fn check(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "exposed";
    let of = |(server, facts): (&crate::check::survey::Server, &crate::check::survey::Facts)| {
        let found: Vec<String> = facts
            .objects
            .iter()
            .filter(|object| object.kind == "view" && FORMER.contains(&object.name.as_str()))
            .map(|object| format!("`{}`.{}", server.endpoint.schema, object.name))
            .collect();
        let actual = format!("{} shows privileges to the application", some_of(found.iter()));
        (!found.is_empty()).then(|| {
            Fault::new(Severity::Warning, RULE, server.side, actual)
                .expected("these views in the schema modshift, as deploy/mariadb/grants-old.sql makes them")
                .mend("run deploy/mariadb/grants-old.sql again: it removes them and makes them there")
        })
    };
    survey.reached().filter_map(of).collect()
}
