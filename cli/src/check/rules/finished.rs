//! A reshard that is over does not begin again: its old shards would be copied over newer rows.

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let finished = survey.reached().filter(|(_, facts)| facts.finished);
    finished
        .map(|(server, _)| {
            let actual = format!("the reshard {} is finished", survey.plan.forward_name());
            Fault::new(Severity::Fault, "finished", server.side, actual)
                .mend("none: a further reshard is another plan, of another name")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};

    #[test]
    fn a_shard_that_says_so_is_named() {
        assert!(check(&survey(|_, _| {})).is_empty());
        let found = check(&survey(|which, facts| facts.finished = which == 3));
        let line = "fault  new shard 1: the reshard made is finished; mend: none: a further reshard \
                    is another plan, of another name";
        assert_eq!(lines(&found), [line]);
    }
}
