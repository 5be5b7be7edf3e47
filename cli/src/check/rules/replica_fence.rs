//! What could write to a replica through the fence (`read_only`): as on a primary, but only what
//! the primary has not, which replication brings along.

use std::collections::BTreeSet;

use super::fence::revoked;
use crate::check::fault::{Fault, Severity, once_each, some_of};
use crate::check::mend::{Mend, Way};
use crate::check::survey::{Account, Part, Sort, Survey};
use modshift_mariadb::value::quote;

const RULE: &str = "fence";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut found = Vec::new();
    for part in survey.replicas() {
        let of_part =
            [events(part), accounts(survey, part), bodies(survey, part), prepared(survey, part)];
        let at = part.further.at().to_string();
        found.extend(of_part.into_iter().flatten().map(|fault| (at.clone(), fault)));
    }
    once_each(found)
}

/// Replicated events are SLAVESIDE_DISABLED; one that is not runs here.
fn events(part: Part<'_>) -> Option<Fault> {
    let events = part.schema()?.events.as_ref()?;
    let enabled = events.iter().filter(|event| event.status == "ENABLED");
    let names: Vec<&str> = enabled.map(|event| event.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let running = part.facts.variables.is_on("event_scheduler");
    let state = if running { "running" } else { "off" };
    let actual = format!("has enabled events {}, event_scheduler is {state}", some_of(&names));
    let severity = if running { Severity::Warning } else { Severity::Note };
    let alter = names.iter().map(|name| format!("ALTER EVENT {} DISABLE ON SLAVE", quote(name)));
    let unlogged = |value| format!("SET SESSION sql_log_bin = {value}");
    let mend = std::iter::once(unlogged(0)).chain(alter).chain([unlogged(1)]);
    Some(
        Fault::new(severity, RULE, part.name(), actual)
            .expected("events that run on the primary only: here they write beside replication")
            .mend(Mend::run(Way::DisableEvent, mend)),
    )
}

/// Those that read_only does not stop.
fn privileged<'a>(
    accounts: &'a [Account],
    version: &str,
) -> (bool, impl Iterator<Item = &'a Account> + use<'a>) {
    let super_suffices = super::version::of(version).is_some_and(|v| v < (10, 11));
    let found = accounts
        .iter()
        .filter(move |a| !a.is_servers_own() && a.may_write_when_read_only(super_suffices));
    (super_suffices, found)
}

fn beside(survey: &Survey, account: &Account, name: String) -> String {
    match survey.sort_of(account) {
        Sort::Application | Sort::Role => name,
        Sort::Administrator => format!("{name} (administrator)"),
        Sort::Replication => format!("{name} (of replication)"),
        Sort::Anonymous => format!("{name} (anonymous)"),
        Sort::ServersOwn | Sort::Ours => format!("{name} (not of the application)"),
    }
}

fn accounts(survey: &Survey, part: Part<'_>) -> Option<Fault> {
    let of_primary = survey.primary(part.role.side).map(|(_, facts)| facts);
    let Some(accounts) = &part.facts.accounts else {
        // Said of the primary already, and mended there; or the schema with the view is not here.
        of_primary?.accounts.as_ref()?;
        part.schema()?;
        return Some(
            Fault::new(
                Severity::Warning,
                RULE,
                part.name(),
                "cannot see which accounts read_only does not stop",
            )
            .expected("to know what writes through the fence")
            .mend(
                "let it replicate the view modshift.accounts of deploy/mariadb/grants-old.sql, or \
                 create it there",
            ),
        );
    };
    let known: BTreeSet<String> = of_primary
        .and_then(|facts| Some((facts.accounts.as_ref()?, &facts.version)))
        .map(|(accounts, version)| privileged(accounts, version).1.map(Account::name).collect())
        .unwrap_or_default();
    let (super_suffices, found) = privileged(accounts, &part.facts.version);
    let others =
        found.filter(|account| !survey.is_ours(&account.user) && !known.contains(&account.name()));
    let others: Vec<&Account> = others.filter(|account| !account.locked).collect();
    if others.is_empty() {
        return None;
    }
    let names = others.iter().map(|account| account.shown());
    let mut sorts: Vec<&str> =
        others.iter().map(|account| survey.sort_of(account).words()).collect();
    sorts.sort_unstable();
    sorts.dedup();
    // Of several sorts each is said behind its name.
    let names: Vec<String> = match sorts[..] {
        [_] => names.collect(),
        _ => {
            others.iter().zip(names).map(|(account, name)| beside(survey, account, name)).collect()
        }
    };
    let what = if let [only] = sorts[..] { only } else { "" };
    let actual = format!("{what}{} may write while the server is read-only", some_of(names));
    let fault = Fault::new(Severity::Warning, RULE, part.name(), actual)
        .expected("nobody but modshift, and whom the primary has");
    // Not to be locked out: see the same of a primary.
    let ordinary = [Sort::Application, Sort::Role];
    if others.iter().any(|account| !ordinary.contains(&survey.sort_of(account))) {
        return Some(fault.mend("keep whoever logs in by them away until the cutover has ended"));
    }
    let mend = revoked(&others, super_suffices);
    Some(fault.mend(mend.first("SET SESSION sql_log_bin = 0")))
}

/// Stored code that the primary has not, or has in another's name.
fn bodies(survey: &Survey, part: Part<'_>) -> Option<Fault> {
    let bodies = part.schema()?.bodies.as_ref()?;
    let (_, holders) = privileged(part.facts.accounts.as_ref()?, &part.facts.version);
    let holders: BTreeSet<String> = holders.map(Account::name).collect();
    let primary = survey.primary(part.role.side);
    let known = primary.and_then(|(_, facts)| facts.bodies.as_deref()).unwrap_or_default();
    let own = bodies.iter().filter(|body| {
        ["routine", "event"].contains(&body.kind)
            && holders.contains(&body.definer)
            && !known.contains(body)
    });
    let names: Vec<String> =
        own.map(|body| format!("{} {} of {}", body.kind, body.name, body.definer)).collect();
    if names.is_empty() {
        return None;
    }
    let actual = format!("{} writes while the server is read-only", some_of(&names));
    Some(
        Fault::new(Severity::Warning, RULE, part.name(), actual)
            .expected("a DEFINER without READ_ONLY ADMIN")
            .mend("take each down there, in a session with sql_log_bin = 0: the primary has none such"),
    )
}

/// Those of the primary are prepared here too, and are the primary's to end.
fn prepared(survey: &Survey, part: Part<'_>) -> Option<Fault> {
    let primary = survey.primary(part.role.side).map(|(_, facts)| facts)?;
    let own: Vec<&String> = part.facts.xa.iter().filter(|id| !primary.xa.contains(id)).collect();
    if own.is_empty() {
        return None;
    }
    let actual = format!("has prepared XA transactions that its primary has not: {}", some_of(own));
    Some(
        Fault::new(Severity::Warning, "xa", part.name(), actual)
            .expected("none: they survive read_only, and lock rows that replication needs")
            .mend("roll back each that XA RECOVER lists there, with XA ROLLBACK"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey_further};
    use crate::check::survey::{Body, privileged_account};
    use modshift_mariadb::catalog::EventInfo;

    #[test]
    fn only_what_the_primary_has_not_is_told_of_a_replica() {
        let body = |name: &str| Body {
            kind: "routine",
            name: name.to_owned(),
            definer: "boss@%".to_owned(),
        };
        let survey = survey_further(
            |_, facts| {
                facts.accounts = Some(vec![privileged_account("boss")]);
                facts.bodies = Some(vec![body("p")]);
                facts.xa = vec!["both".to_owned()];
            },
            |which, facts| {
                facts.accounts = Some(vec![privileged_account("boss")]);
                facts.xa = vec!["both".to_owned()];
                let Some(schema) = facts.schemas.get_mut("s") else { return };
                schema.bodies = Some(vec![body("p")]);
                let event = |status: &str| EventInfo { name: "e".into(), status: status.into() };
                schema.events = Some(vec![event("SLAVESIDE_DISABLED")]);
                if which == 1 {
                    facts.accounts.as_mut().unwrap().push(privileged_account("local"));
                    facts.xa.push("here".to_owned());
                    facts.variables.set("event_scheduler", "ON");
                    schema.bodies.as_mut().unwrap().push(body("q"));
                    schema.events.as_mut().unwrap().push(event("ENABLED"));
                }
            },
        );
        let found = lines(&check(&survey));
        let wanted = [
            "has enabled events e, event_scheduler is running",
            "local@% may write while the server is read-only",
            "routine q of boss@% writes while the server is read-only",
            "has prepared XA transactions that its primary has not: here",
        ];
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
        for (found, wanted) in found.iter().zip(wanted) {
            let start = format!("warning  replica spare:3306 of old shard 0: {wanted}, expected");
            assert!(found.starts_with(&start), "{found}\n{start}");
        }
    }
}
