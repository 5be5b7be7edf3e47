//! Where the application is told to go: the address by which modshift knows a replica is seldom the one
//! that applications are given.

use crate::check::fault::{Fault, Severity, Side};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let plan = &survey.plan;
    let silent =
        plan.promoted().filter(|shard| plan.new[usize::from(shard.0)].application.is_none());
    silent
        .map(|shard| {
            let at = plan.new[usize::from(shard.0)].application();
            let actual = format!(
                "the routing document will name {at} to applications: the address by which the plan \
                 lists the replica"
            );
            Fault::new(Severity::Warning, "application", Side::New(shard), actual)
                .expected("the address by which applications reach it, a virtual one say")
                .mend(
                    "application_host in [[new]] (all of them, in the order of their numbers; each may be \
                     empty but for that), or nothing where they reach it at that very address",
                )
        })
        .collect()
}
