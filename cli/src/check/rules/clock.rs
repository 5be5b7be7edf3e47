//! Clocks: lag is told by each old shard's own clock, so a wrong one harms nobody's rows; it
//! confuses people, logs and `NOW()` defaults after the cutover.

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

const RULE: &str = "clock";
const SKEW_MAX_US: u64 = 1_000_000;
const MEND: &str = "chronyc makestep on its host, and keep NTP running there";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    let skewed = survey.reached().filter(|(_, f)| f.clock_ahead_us.unsigned_abs() > SKEW_MAX_US);
    faults.extend(skewed.map(|(server, facts)| {
        let skew_s = facts.clock_ahead_us as f64 / 1e6;
        let word = if skew_s > 0.0 { "ahead of" } else { "behind" };
        let actual = format!("its clock is {:.1} s {word} this host's", skew_s.abs());
        Fault::new(Severity::Warning, RULE, server.side, actual)
            .expected("less than 1 s between them")
            .mend(MEND)
    }));
    let ahead = |&(_, facts): &(_, &crate::check::survey::Facts)| facts.clock_ahead_us;
    let (last, first) = (survey.reached().min_by_key(ahead), survey.reached().max_by_key(ahead));
    if let (Some((behind, slow)), Some((before, fast))) = (last, first) {
        let apart = fast.clock_ahead_us.abs_diff(slow.clock_ahead_us);
        if apart > SKEW_MAX_US {
            let actual = format!(
                "its clock is {:.1} s ahead of that of {}",
                apart as f64 / 1e6,
                behind.side
            );
            faults.push(
                Fault::new(Severity::Warning, RULE, before.side, actual)
                    .expected("less than 1 s between servers")
                    .mend(MEND),
            );
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};

    #[test]
    fn clocks_that_go_wrong_are_told() {
        let survey = survey(|which, facts| {
            facts.clock_ahead_us = [0, 900_000, -400_000, 0, 2_500_000][which];
        });
        assert_eq!(
            lines(&check(&survey)),
            [
                format!(
                    "warning  new shard 2: its clock is 2.5 s ahead of this host's, expected less \
                     than 1 s between them; mend: {MEND}"
                ),
                format!(
                    "warning  new shard 2: its clock is 2.9 s ahead of that of new shard 0, \
                     expected less than 1 s between servers; mend: {MEND}"
                ),
            ]
        );
    }
}
