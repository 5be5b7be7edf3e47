//! Accounts by which a client of the application comes in although the fence has locked those of the
//! plan. A session is ended by its user name, since no server tells which account it is of.

use std::collections::{BTreeMap, BTreeSet};

use modshift_cutover::accounts::shared_user;
use modshift_proto::plan::{self, FenceScope};

use super::fence::plan_line;
use crate::check::fault::{Fault, Severity, Side, sides_of, some_of};
use crate::check::survey::{Account, Sort, Survey};

const RULE: &str = "fence";

/// The plan's accounts of a side, and the keys that name them.
fn named(survey: &Survey, side: Side) -> (&[plan::Account], &'static str) {
    match side.is_old() {
        true => (&survey.plan.cutover.old_accounts, "cutover.old_accounts"),
        false => (&survey.plan.cutover.new_accounts, "cutover.new_accounts"),
    }
}

/// Are locked accounts the whole fence there? So it is where shards of both sides share the server.
pub(super) fn accounts_only(survey: &Survey, side: Side) -> bool {
    survey.plan.cutover.scope == FenceScope::Accounts
        || shared(survey).iter().any(|sides| sides.contains(&side))
}

/// Of each server with shards of both sides: its shards.
fn shared(survey: &Survey) -> Vec<BTreeSet<Side>> {
    let mut places: BTreeMap<String, BTreeSet<Side>> = BTreeMap::new();
    for (server, facts) in survey.reached() {
        places.entry(facts.variables.identity()).or_default().insert(server.side);
    }
    let both = |sides: &BTreeSet<Side>| {
        sides.iter().any(|side| side.is_old()) && sides.iter().any(|side| !side.is_old())
    };
    places.into_values().filter(both).collect()
}

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let (named, key) = named(survey, server.side);
        let Some(accounts) = &facts.accounts else { continue };
        let is_named = |account: &&Account| {
            let same = |of_plan: &plan::Account| {
                of_plan.user == account.user && of_plan.host.eq_ignore_ascii_case(&account.host)
            };
            named.iter().any(same)
        };
        let open = accounts.iter().filter(|account| !account.is_role() && !account.locked);
        let doors: Vec<&Account> = open
            .clone()
            .filter(|account| named.iter().any(|of_plan| of_plan.user == account.user))
            .filter(|account| !is_named(account))
            .collect();
        let mut by_sort: BTreeMap<Sort, Vec<String>> = BTreeMap::new();
        for account in doors {
            by_sort.entry(survey.sort_of(account)).or_default().push(account.name());
        }
        for (sort, names) in by_sort {
            let actual = format!(
                "{}{} has a user name of {key} and is not in it: a client that a locked account \
                 refuses logs in by it",
                sort.words(),
                some_of(&names)
            );
            let (expected, mend) = match sort {
                Sort::Application => (
                    "every account of such a user name to be locked by the fence",
                    plan_line(key, &names),
                ),
                // The cutover ends and locks by user name, and must not lock these.
                _ => (
                    "a user name that only the application has",
                    format!("RENAME USER: another name for it, or for the accounts of {key}"),
                ),
            };
            faults.push(
                Fault::new(Severity::Fault, RULE, server.side, actual)
                    .expected(expected)
                    .mend(mend),
            );
        }
        let proxies: Vec<&str> = facts
            .proxies
            .iter()
            .filter(|(_, proxied)| named.iter().any(|of_plan| of_plan.user == *proxied))
            .map(|(account, _)| account.as_str())
            .filter(|account| !named.iter().any(|of_plan| of_plan.to_string() == *account))
            .collect();
        if !proxies.is_empty() && accounts_only(survey, server.side) {
            let sort_of = |name: &str| {
                let known = accounts.iter().find(|account| account.name() == name);
                known.map_or(Sort::Application, |account| survey.sort_of(account))
            };
            let mut by_sort: BTreeMap<Sort, Vec<String>> = BTreeMap::new();
            for name in proxies {
                by_sort.entry(sort_of(name)).or_default().push(name.to_owned());
            }
            for (sort, names) in by_sort {
                let actual = format!(
                    "{}{} may act in the place of an account of {key} and is not in it",
                    sort.words(),
                    some_of(&names)
                );
                let mend = match sort {
                    Sort::Application => plan_line(key, &names),
                    _ => {
                        format!("REVOKE PROXY on the accounts of {key} from it: nothing else of it")
                    }
                };
                faults.push(
                    Fault::new(Severity::Fault, RULE, server.side, actual)
                        .expected(
                            "nobody to come in by it once those are locked: the cutover refuses it",
                        )
                        .mend(mend),
                );
            }
        }
        let anonymous: Vec<String> =
            open.filter(|a| a.user.is_empty()).map(|a| format!("''@'{}'", a.host)).collect();
        if !anonymous.is_empty() && !named.is_empty() {
            let severity = match accounts_only(survey, server.side) {
                true => Severity::Fault,
                false => Severity::Warning,
            };
            let actual = format!(
                "has anonymous accounts {}, by which a client logs in under any user name",
                some_of(&anonymous)
            );
            let drops: Vec<String> =
                anonymous.iter().map(|account| format!("DROP USER {account}")).collect();
            faults.push(
                Fault::new(severity, RULE, server.side, actual)
                    .expected("none: the fence locks accounts by name")
                    .mend(format!("remove them: {}", drops.join("; "))),
            );
        }
    }
    faults.extend(of_shared(survey));
    faults.extend(of_units(survey));
    faults
}

/// There the account by which ShardingSphere follows its centre is stopped by nothing.
fn of_units(survey: &Survey) -> Option<Fault> {
    let sides = shared(survey).into_iter().next()?;
    let (target, centre) = survey.plan.centres().next()?;
    let subject = sides_of(sides.iter().copied());
    let actual = format!(
        "share a server, and {}, by which ShardingSphere follows routing target {target}, is no account \
         that the fence locks",
        centre.units.user
    );
    Some(
        Fault::new(Severity::Fault, RULE, subject, actual)
            .expected("servers of its own for each side: read_only alone stops that account")
            .mend("move the shards of one side, or take that target out of the plan"),
    )
}

/// Where old and new shards share a server, only their accounts tell them apart.
fn of_shared(survey: &Survey) -> Option<Fault> {
    let sides = shared(survey).into_iter().next()?;
    let cutover = &survey.plan.cutover;
    let subject = sides_of(sides.iter().copied());
    let what = if cutover.old_accounts.is_empty() || cutover.new_accounts.is_empty() {
        "share a server, and the plan does not name the accounts of both sides".to_owned()
    } else {
        let user = shared_user(&cutover.old_accounts, &cutover.new_accounts)?;
        format!("share a server, and both sides have accounts of the user name {user}")
    };
    Some(
        Fault::new(Severity::Fault, RULE, subject, what)
            .expected(
                "user names of its own for each side: read_only would stop both, and a session \
                 does not tell by which account of a user name it came in",
            )
            .mend(
                "cutover.old_accounts = [...] and cutover.new_accounts = [...] in the plan, no user \
                 name in both",
            ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::check::survey::made::{lines, survey, with_centre};
    use crate::check::survey::{administrator, plain_account, replication_account};

    fn with_plan(mut survey: Survey, old: &[(&str, &str)], new: &[(&str, &str)]) -> Survey {
        let of = |accounts: &[(&str, &str)]| -> Vec<plan::Account> {
            let account = |&(user, host): &(&str, &str)| plan::Account {
                user: user.to_owned(),
                host: host.to_owned(),
            };
            accounts.iter().map(account).collect()
        };
        let mut plan = (*survey.plan).clone();
        plan.cutover.old_accounts = of(old);
        plan.cutover.new_accounts = of(new);
        survey.plan = Arc::new(plan);
        survey
    }

    #[test]
    fn every_account_of_a_named_user_is_to_be_named() {
        let made = survey(|which, facts| {
            if which == 0 {
                let mut locked = plain_account("app", "10.2.%");
                locked.locked = true;
                facts.accounts = Some(vec![
                    plain_account("app", "%"),
                    plain_account("app", "10.1.%"),
                    locked,
                    plain_account("", "localhost"),
                    plain_account("other", "%"),
                    plain_account("app", ""),
                ]);
            }
        });
        let found = check(&with_plan(made, &[("app", "%")], &[]));
        let found = lines(&found);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(
            found[0].contains("fault  old shard 0: app@10.1.% has a user name of"),
            "{found:?}"
        );
        assert!(found[1].starts_with("warning  old shard 0: has anonymous accounts"), "{found:?}");
        assert!(found[1].ends_with("mend: remove them: DROP USER ''@'localhost'"), "{found:?}");
    }

    #[test]
    fn what_is_no_account_of_the_application_is_called_what_it_is() {
        let made = survey(|which, facts| {
            if which == 0 {
                let ours = plain_account("u", "10.9.%");
                facts.accounts = Some(vec![
                    plain_account("app", "%"),
                    administrator("app", "localhost"),
                    replication_account("app", "10.3.%"),
                    ours,
                ]);
                facts.proxies = vec![("root@localhost".to_owned(), "app".to_owned())];
                facts.accounts.as_mut().unwrap().push(administrator("root", "localhost"));
            }
        });
        let mut survey = with_plan(made, &[("app", "%"), ("u", "%")], &[]);
        Arc::make_mut(&mut survey.plan).cutover.scope = FenceScope::Accounts;
        let found = lines(&check(&survey));
        for (sort, rest) in [
            ("replication accounts app@10.3.%", "RENAME USER"),
            ("administrators app@localhost", "RENAME USER"),
            ("modshift's own accounts u@10.9.%", "RENAME USER"),
            ("administrators root@localhost may act in the place", "REVOKE PROXY"),
        ] {
            let one = found.iter().find(|line| line.contains(sort));
            assert!(one.is_some_and(|line| line.contains(rest)), "{sort}: {found:#?}");
        }
        assert!(!found.iter().any(|line| line.contains("[...,")), "{found:#?}");
    }

    #[test]
    fn sides_on_one_server_need_user_names_of_their_own() {
        let made = || {
            survey(|which, facts| {
                if which < 3 {
                    facts.variables.set("port", "3306");
                }
            })
        };
        let of = |old: &[(&str, &str)], new: &[(&str, &str)]| {
            lines(&check(&with_plan(made(), old, new)))
        };
        let apart = of(&[("app", "%")], &[("app_new", "%")]);
        assert!(apart.is_empty(), "{apart:?}");
        let same = of(&[("app", "10.0.%")], &[("app", "10.1.%")]);
        assert!(same[0].contains("both sides have accounts of the user name app"), "{same:?}");
        let none = of(&[], &[("app", "%")]);
        assert!(none[0].contains("does not name the accounts of both sides"), "{none:?}");

        let centred = |survey| {
            let mut survey = with_plan(survey, &[("app", "%")], &[("app_new", "%")]);
            with_centre(&mut survey);
            lines(&check(&survey))
        };
        let found = centred(made());
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("fault  old shards 0, 1, new shard 0: share a"), "{found:?}");
        assert!(found[0].contains("shop_sphere, by which ShardingSphere"), "{found:?}");
        let apart = centred(survey(|_, _| {}));
        assert!(apart.is_empty(), "{apart:?}");
    }
}
