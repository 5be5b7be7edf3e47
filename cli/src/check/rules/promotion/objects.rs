//! Has the server to promote whatever its primary has in the schema? `tables` compares definitions of
//! what the plan names; everything else serves on as well.

use super::joined;
use crate::check::fault::{Fault, Severity, Side, some_of};
use crate::check::survey::{Facts, Survey};

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (pair, _) in joined(survey) {
        let (Some((_, here)), Some((_, there))) =
            (survey.primary(Side::New(pair.shard)), survey.primary(Side::Old(pair.home)))
        else {
            continue;
        };
        // What only one of the two may see is no difference.
        if here.unseen != there.unseen {
            continue;
        }
        let lacks = beyond(survey, there, here);
        let more = beyond(survey, here, there);
        for (names, word, mend) in [
            (lacks, "lacks", "build the replica anew, or create them there with sql_log_bin = 0"),
            (
                more,
                "has, and the primary has not,",
                "drop them there with sql_log_bin = 0, or build the replica anew",
            ),
        ] {
            if !names.is_empty() {
                let actual = format!("{word} {}", some_of(names));
                faults.push(
                    Fault::new(Severity::Fault, "objects", pair.name(), actual)
                        .expected(format!("the same as {}: it replicates all of it", pair.home))
                        .mend(mend),
                );
            }
        }
    }
    faults
}

/// Planned tables are for `tables` to say.
fn beyond(survey: &Survey, one: &Facts, other: &Facts) -> Vec<String> {
    let planned = |name: &str| survey.plan.tables.iter().any(|table| table.name == name);
    let objects = one.objects.iter().filter(|object| !planned(&object.name));
    let missing = objects.filter(|object| !other.objects.contains(object));
    missing.map(|object| format!("{} {}", object.kind, object.name)).collect()
}
