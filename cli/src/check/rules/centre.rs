//! What applications that follow ShardingSphere's centre meet at a cutover, and the fence cannot keep
//! from them: seen with 5.4.1, the last release whose parts can all be had.

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

const RULE: &str = "centre";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let of_target = |target: &str| {
        let subject = format!("routing target {target}");
        let warning = |actual: &str| Fault::new(Severity::Warning, RULE, subject.clone(), actual);
        [
            warning(
                "an application in ShardingSphere's cluster mode that has a transaction open across the \
                 switch commits half of it: the part on the former shards is gone, what it wrote after \
                 the switch is committed on the new ones, and COMMIT answers with an error",
            )
            .expected(
                "none that idles across a cutover or rollback for as long as its pause takes; after an \
                 error at COMMIT, every part to be looked for before it is made again",
            )
            .mend("shorter transactions, or the writers taken down for it; see docs/routing.md"),
            warning(
                "ShardingSphere 5.4.1 now and then loses one of the storage units of the first \
                 version, and then answers every statement for it with error 30000 until it is started \
                 again: behind a cutover that would be an outage",
            )
            .expected("every application started again since version 1 was published, and tried")
            .mend(
                "start the applications again once version 1 is there, and run a statement on every \
                 unit (SHOW STORAGE UNITS lists what an application knows) before the cutover",
            ),
        ]
    };
    survey.plan.centres().flat_map(|(target, _)| of_target(target)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey, with_centre};

    #[test]
    fn what_the_fence_does_not_keep_from_a_centre_is_told() {
        let mut made = survey(|_, _| {});
        assert!(check(&made).is_empty());
        with_centre(&mut made);
        let found = lines(&check(&made));
        assert_eq!(found.len(), 2, "{found:#?}");
        for (line, words) in found.iter().zip(["commits half of it", "error 30000"]) {
            assert!(line.starts_with("warning  routing target centre: "), "{line}");
            assert!(line.contains(words), "{line}");
        }
    }
}
