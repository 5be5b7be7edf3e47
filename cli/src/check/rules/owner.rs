//! A shard belongs to one reshard at a time: to the readers and appliers of another, what modshift keeps
//! there would be their own.

use modshift_mariadb::control;

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let plan = survey.plan.forward_name();
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let Some(owner) = &facts.owner else { continue };
        if !owner.is_other(plan, &control::place(&survey.plan, &server.endpoint)) {
            continue;
        }
        let actual = format!(
            "modshift's tables there are those of the reshard {}, which has it as {}",
            owner.plan, owner.shard
        );
        faults.push(
            Fault::new(Severity::Fault, "owner", server.side, actual)
                .expected("no other reshard that still has the shard")
                .mend(owner.way_out()),
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};
    use modshift_mariadb::control::{Owner, Stage};

    #[test]
    fn a_shard_that_another_reshard_still_has_is_named_with_the_way_out() {
        let owned = |plan: &str, shard: &str, stage| {
            let owner = Owner { plan: plan.to_owned(), shard: shard.to_owned(), stage };
            lines(&check(&survey(|which, facts| facts.owner = (which == 0).then(|| owner.clone()))))
        };
        assert!(check(&survey(|_, _| {})).is_empty());
        assert!(owned("made", "old shard 0", Stage::Before).is_empty());
        // The same name, and other shards.
        assert_eq!(owned("made", "old shard 1", Stage::Before).len(), 1);
        let found = owned("first", "new shard 2", Stage::CutOver);
        assert!(
            found[0].contains("of the reshard first, which has it as new shard 2"),
            "{found:?}"
        );
        for (stage, expected) in [
            (Stage::CutOver, ["finish", "finish"]),
            (Stage::Finished, ["unfence", "unfence"]),
            (Stage::Before, ["restart-copy", "restart-copy"]),
            (Stage::Untold, ["finish", "restart-copy"]),
        ] {
            let found = owned("first", "new shard 2", stage);
            assert_eq!(found.len(), 1, "{found:?}");
            for command in ["finish", "unfence", "restart-copy"] {
                let line = format!("modshift {command} --plan FILE (FILE is the plan of first)");
                let says = found[0].contains(&line);
                assert_eq!(says, expected.contains(&command), "{stage:?}, {command}: {found:?}");
            }
        }
    }
}
