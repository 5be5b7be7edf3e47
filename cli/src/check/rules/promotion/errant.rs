//! Has the server to promote transactions that its primary has not? They would be in a shard that
//! serves, and on no other server.

use super::joined;
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let found = joined(survey).filter_map(|(pair, both)| {
        let errant = both.errant();
        if errant.is_empty() {
            return None;
        }
        let actual = format!("has transactions that its primary lacks, up to {}", some_of(&errant));
        Some(
            Fault::new(Severity::Fault, "errant", pair.name(), actual)
                .expected("nothing but what comes from the primary")
                .mend(
                    "look at them with mariadb-binlog: where they change rows, build the replica anew; \
                     what may stay is made known to the primary by a statement that does nothing there, \
                     under the same GTID",
                ),
        )
    });
    found.collect()
}
