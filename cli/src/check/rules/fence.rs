//! What could write to an old shard through its fence (`read_only`, and locked accounts).
//!
//! Seen on 10.11.19: READ_ONLY ADMIN writes on; a procedure, function or event whose definer has
//! it does so for anyone who may call it (an event for nobody). Triggers and views do not by
//! themselves, but a routine with SQL SECURITY INVOKER called by one runs in its definer's name.

use std::collections::BTreeMap;

use super::views;
use crate::check::ahead;
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{Account, Facts, Server, Sort, Survey};

const RULE: &str = "fence";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let named = ahead::application_accounts(&survey.plan);
    let of = |(server, facts)| of_server(survey, server, facts, named.as_deref());
    let mut faults: Vec<Fault> = survey.olds().flat_map(of).collect();
    faults.extend(named.is_none().then(of_restarts));
    faults
}

/// Locked accounts stay locked; a global variable is what the configuration file says.
fn of_restarts() -> Fault {
    let actual = "names no accounts: an old shard whose server restarts after the cutover takes \
                  the writes of clients that still have the old routing";
    Fault::new(Severity::Warning, RULE, "the plan", actual)
        .expected("a fence that a restart of the server does not open")
        .mend(
            "cutover.accounts = [...] in the plan, or read_only = 1 in the servers' files after it",
        )
}

fn of_server(
    survey: &Survey,
    server: &Server,
    facts: &Facts,
    named: Option<&[String]>,
) -> Vec<Fault> {
    let Some(accounts) = &facts.accounts else {
        let actual = "cannot see which accounts read_only does not stop";
        let account = mend::account(&facts.grants, &server.endpoint.user);
        return vec![
            Fault::new(Severity::Warning, RULE, server.side, actual)
                .expected("to know what writes through the fence")
                .mend(views::mend("accounts", &account)),
        ];
    };
    let mut faults = Vec::new();
    let super_suffices = super::version::of(&facts.version).is_some_and(|v| v < (10, 11));
    let privileged: Vec<&Account> = accounts
        .iter()
        .filter(|a| !a.is_servers_own() && a.may_write_when_read_only(super_suffices))
        .collect();
    let of = |sorts: &[Sort]| -> Vec<&Account> {
        let open = privileged.iter().filter(|account| !account.locked);
        open.filter(|account| sorts.contains(&survey.sort_of(account))).copied().collect()
    };
    let others = of(&[Sort::Application, Sort::Role]);
    let may = |accounts: &[&Account]| {
        let names = some_of(accounts.iter().map(|account| account.shown()));
        format!("{names} may write while the server is read-only")
    };
    let warning = |actual: String| Fault::new(Severity::Warning, RULE, server.side, actual);
    if !others.is_empty() {
        faults.push(
            warning(may(&others))
                .expected("nobody but modshift, or accounts that nobody uses during the cutover")
                .mend(revoked(&others, super_suffices)),
        );
    }
    for sort in [Sort::Administrator, Sort::Replication, Sort::Anonymous] {
        let accounts = of(&[sort]);
        if !accounts.is_empty() {
            let away = "keep jobs and people that log in by them away until the cutover has ended";
            faults.push(
                warning(format!("{}{}", sort.words(), may(&accounts)))
                    .expected("nobody to write by them during the cutover")
                    .mend(away),
            );
        }
    }
    faults.extend(of_bodies(server, facts, &privileged));
    faults.extend(of_writers(survey, server, facts, accounts, named));
    faults
}

/// SUPER alone did so before 10.11.
pub fn revoked(accounts: &[&Account], super_suffices: bool) -> Mend {
    let privileges = ["READ_ONLY ADMIN", "SUPER"];
    let privileges = if super_suffices { &privileges[..] } else { &privileges[..1] };
    let revoke = accounts.iter().map(|account| account.revoke(privileges));
    Mend::run(Way::RevokeReadOnlyAdmin, revoke).note("or ALTER USER ... ACCOUNT LOCK for each")
}

fn of_bodies(server: &Server, facts: &Facts, privileged: &[&Account]) -> Vec<Fault> {
    let Some(bodies) = &facts.bodies else {
        let actual = "cannot see in whose name routines and events run";
        let account = mend::account(&facts.grants, &server.endpoint.user);
        let grants = [
            ("proc", "db, name, type, definer, security_type"),
            ("event", "db, name, status, definer"),
        ]
        .map(|(table, columns)| format!("GRANT SELECT ({columns}) ON mysql.{table} TO {account}"));
        let mend = Mend::run(Way::GrantColumns, grants);
        return vec![
            Fault::new(Severity::Warning, RULE, server.side, actual)
                .expected("to know what writes through the fence")
                .mend(mend),
        ];
    };
    let mut by_kind: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for body in bodies.iter().filter(|b| privileged.iter().any(|a| a.name() == b.definer)) {
        by_kind.entry(body.kind).or_default().push(format!("{} of {}", body.name, body.definer));
    }
    let mut faults = Vec::new();
    for (kind, names) in by_kind {
        let names = some_of(names);
        let (severity, actual, mend) = match kind {
            "routine" => (
                Severity::Warning,
                format!("routines {names} write while the server is read-only, whoever calls them"),
                "each made anew with an unprivileged DEFINER: SHOW CREATE prints it",
            ),
            "event" => (
                Severity::Warning,
                format!("events {names} write while the server is read-only"),
                "an unprivileged DEFINER for each: ALTER DEFINER = … EVENT …",
            ),
            other => (
                Severity::Note,
                format!(
                    "{other}s {names} run with READ_ONLY ADMIN: a routine with SQL SECURITY INVOKER \
                     that one calls writes while the server is read-only"
                ),
                "each made anew with an unprivileged DEFINER: SHOW CREATE prints it",
            ),
        };
        faults.push(
            Fault::new(severity, RULE, server.side, actual)
                .expected("a DEFINER without READ_ONLY ADMIN")
                .mend(mend),
        );
    }
    faults
}

/// Accounts that write here and that the fence does not lock: where old and new shards share a
/// server, `read_only` stays off and locking is all there is.
fn of_writers(
    survey: &Survey,
    server: &Server,
    facts: &Facts,
    accounts: &[Account],
    named: Option<&[String]>,
) -> Vec<Fault> {
    let Some(named) = named else { return Vec::new() };
    let Some(writers) = &facts.writers else {
        let actual = "cannot see which accounts may write in the schema";
        let account = mend::account(&facts.grants, &server.endpoint.user);
        return vec![
            Fault::new(Severity::Warning, RULE, server.side, actual)
                .expected("to compare them with cutover.accounts")
                .mend(views::mend("writers", &account)),
        ];
    };
    let everywhere = accounts.iter().filter(|a| a.may_write() && !a.locked);
    let mut unlocked: Vec<String> = everywhere.map(Account::shown).collect();
    unlocked.extend(writers.iter().cloned());
    unlocked.sort();
    unlocked.dedup();
    let mut by_sort: BTreeMap<Sort, Vec<String>> = BTreeMap::new();
    for account in unlocked.into_iter().filter(|account| !named.contains(account)) {
        let known = accounts.iter().find(|known| known.shown() == account);
        // A user's name may hold an @, a host's may not.
        let user = account.rsplit_once('@').map_or(account.as_str(), |(user, _)| user);
        let sort = match known {
            Some(known) => survey.sort_of(known),
            None if survey.is_ours(user) => Sort::Ours,
            None => Sort::Application,
        };
        by_sort.entry(sort).or_default().push(account);
    }
    let mut faults = Vec::new();
    for (sort, names) in by_sort {
        let actual = format!(
            "{}{} may write and are not in cutover.accounts",
            sort.words(),
            some_of(&names)
        );
        let (severity, expected, mend) = match sort {
            Sort::Application => (
                Severity::Warning,
                "every account that writes to be locked by the fence",
                plan_line("cutover.accounts", &names) + ", or REVOKE what they write with",
            ),
            Sort::Role => (
                Severity::Warning,
                "every account that holds one of them to be locked by the fence",
                "the accounts of the application that hold them belong in cutover.accounts: SELECT \
                 User, Host, Role FROM mysql.roles_mapping names them"
                    .to_owned(),
            ),
            Sort::Administrator => (
                Severity::Note,
                "nobody to write by them during the cutover; the fence does not lock them",
                "keep jobs and people that log in by them away until the cutover has ended".to_owned(),
            ),
            Sort::Replication => (
                Severity::Note,
                "nobody but replicas to log in by them; the fence does not lock them",
                "none, where only replicas use them".to_owned(),
            ),
            Sort::Anonymous => (
                Severity::Warning,
                "no account by which a client logs in under any name",
                "find out who logs in by them, and DROP USER each".to_owned(),
            ),
            // Nobody logs in by the one; the other has to write through the fence.
            Sort::ServersOwn | Sort::Ours => continue,
        };
        faults.push(Fault::new(severity, RULE, server.side, actual).expected(expected).mend(mend));
    }
    faults
}

/// What belongs into the plan: accounts of the application alone.
pub(super) fn plan_line(key: &str, accounts: &[String]) -> String {
    let list: Vec<String> = accounts.iter().map(|account| format!("\"{account}\"")).collect();
    format!("{key} = [..., {}] in the plan", list.join(", "))
}
