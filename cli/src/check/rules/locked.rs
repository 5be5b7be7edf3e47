//! Accounts that the plan has the fence lock: the cutover refuses one that a server does not have, and
//! one of modshift's own would lock it out of its own fence.

use std::collections::BTreeMap;

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::{Account, Sort, Survey};

const RULE: &str = "locked";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let cutover = &survey.plan.cutover;
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let named = match server.side.is_old() {
            true => &cutover.old_accounts,
            false => &cutover.new_accounts,
        };
        let Some(there) = &facts.lockable else { continue };
        let names = named.iter().map(ToString::to_string);
        let absent: Vec<String> = names.filter(|name| !there.contains(name)).collect();
        if absent.is_empty() {
            continue;
        }
        let actual = format!("has no account {}, which the fence is to lock", some_of(absent));
        faults.push(
            Fault::new(Severity::Fault, RULE, server.side, actual)
                .expected("every account of the plan: the cutover refuses without")
                .mend("create it there, or correct cutover.accounts in the plan (or old_accounts, new_accounts)"),
        );
    }
    faults.extend(of_others(survey));
    let all = cutover.old_accounts.iter().chain(&cutover.new_accounts);
    let mut ours: Vec<String> =
        all.filter(|account| survey.is_ours(&account.user)).map(ToString::to_string).collect();
    ours.sort();
    ours.dedup();
    if !ours.is_empty() {
        let actual = format!("has the fence lock {}, of modshift itself", some_of(ours));
        faults.push(
            Fault::new(Severity::Fault, RULE, "the plan", actual)
                .expected("accounts of the application only")
                .mend("take it out of cutover.accounts, or give modshift a login of its own"),
        );
    }
    faults
}

/// Accounts of the plan that are none of an application, where a server shows what they are.
fn of_others(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let (named, key) = match server.side.is_old() {
            true => (&survey.plan.cutover.old_accounts, "cutover.old_accounts"),
            false => (&survey.plan.cutover.new_accounts, "cutover.new_accounts"),
        };
        let is_named = |account: &&Account| {
            named.iter().any(|of_plan| {
                of_plan.user == account.user && of_plan.host.eq_ignore_ascii_case(&account.host)
            })
        };
        let mut by_sort: BTreeMap<Sort, Vec<String>> = BTreeMap::new();
        for account in facts.accounts.iter().flatten().filter(is_named) {
            by_sort.entry(survey.sort_of(account)).or_default().push(account.shown());
        }
        // Our own are said of the plan.
        by_sort.retain(|sort, _| !matches!(sort, Sort::Application | Sort::Ours));
        for (sort, names) in by_sort {
            let why = match sort {
                Sort::Administrator => "and nobody may be left to open it by hand",
                Sort::Replication => "and replicas that log in by them stand still",
                Sort::ServersOwn => "and the views of the schema sys fail",
                _ => "though they are no accounts of the application",
            };
            let actual = format!("has the fence lock {}{}, {why}", sort.words(), some_of(&names));
            faults.push(
                Fault::new(Severity::Warning, RULE, server.side, actual)
                    .expected("accounts of the application only")
                    .mend(format!("take them out of {key} (or cutover.accounts) in the plan")),
            );
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use modshift_proto::plan::Account;

    use super::*;
    use crate::check::survey::made::{lines, survey};
    use crate::check::survey::{administrator, plain_account, replication_account};

    #[test]
    fn what_a_fence_cannot_or_must_not_lock_is_named() {
        let mut survey = survey(|which, facts| {
            let there =
                if which == 1 { vec![] } else { vec!["app@%".to_owned(), "u@%".to_owned()] };
            facts.lockable = Some(there);
        });
        let account = |user: &str| Account { user: user.into(), host: "%".into() };
        let plan = Arc::make_mut(&mut survey.plan);
        plan.cutover.old_accounts = vec![account("app")];
        plan.cutover.new_accounts = vec![account("app")];
        let found = lines(&check(&survey));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].starts_with("fault  old shard 1: has no account app@%, which"),
            "{found:?}"
        );
        Arc::make_mut(&mut survey.plan).cutover.new_accounts = vec![account("u")];
        let found = lines(&check(&survey));
        assert!(found[1].starts_with("fault  the plan: has the fence lock u@%, of"), "{found:?}");
    }

    #[test]
    fn whom_nobody_should_lock_is_called_what_it_is() {
        let mut survey = survey(|which, facts| {
            if which == 0 {
                facts.accounts = Some(vec![
                    administrator("root", "%"),
                    replication_account("repl", "%"),
                    plain_account("app", "%"),
                ]);
            }
        });
        let account = |user: &str| Account { user: user.into(), host: "%".into() };
        let plan = Arc::make_mut(&mut survey.plan);
        plan.cutover.old_accounts = ["root", "repl", "app"].map(account).to_vec();
        let found = lines(&check(&survey));
        for sort in
            ["administrators root@%, and nobody", "replication accounts repl@%, and replicas"]
        {
            let said = format!("warning  old shard 0: has the fence lock {sort}");
            assert!(found.iter().any(|line| line.starts_with(&said)), "{sort}: {found:#?}");
        }
        assert!(!found.iter().any(|line| line.contains("app@%")), "{found:#?}");
    }
}
