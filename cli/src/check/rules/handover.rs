//! Triggers and events go to the other side within the cutover, exactly as they are: so they must be
//! the same on every shard of the side that serves, and the other side must be able to hold them.

use std::collections::BTreeSet;

use modshift_mariadb::program::{Kind, Program, difference};
use modshift_mariadb::value::quote;

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{Facts, Server, Survey};

const RULE: &str = "handover";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let new_serve = survey.news().any(|(server, _)| survey.takes_writes(server.side));
    let (from, to): (Vec<_>, Vec<_>) =
        survey.reached().partition(|(server, _)| server.side.is_old() != new_serve);
    let Some(&(first, facts)) = from.first() else { return Vec::new() };
    let carried = carried(survey, facts);
    let mut faults: Vec<Fault> = from.iter().flat_map(|at| unreadable(*at)).collect();
    faults.extend(from.iter().skip(1).filter_map(|(server, facts)| {
        let what = difference(&carried, &self::carried(survey, facts))?;
        let actual = format!("{} is the one, this is the other: {what}", first.side);
        let fault = Fault::new(Severity::Fault, RULE, server.side, actual)
            .expected("the same triggers and events on every shard that serves")
            .mend(
                "compare SHOW CREATE on both, drop the one that is wrong and create it as the other; or \
                 put its name into check.ignore, and it stays behind",
            );
        Some(fault)
    }));
    if carried.is_empty() {
        return faults;
    }
    let names = carried.iter().map(|program| format!("{} {}", program.kind.name(), program.name));
    let actual = format!("have {}, which the cutover hands over", some_of(names));
    let side = if new_serve { "new shards" } else { "old shards" };
    faults.push(
        Fault::new(Severity::Note, RULE, side, actual)
            .expected("that they are to go with the application")
            .mend("put the name of one that is to stay behind into check.ignore"),
    );
    faults.extend(to.iter().flat_map(|at| cannot_hold(survey, &carried, *at)));
    faults
}

fn carried(survey: &Survey, facts: &Facts) -> Vec<Program> {
    let known = facts.programs.iter().filter_map(|program| program.as_ref().ok());
    known.filter(|program| !survey.plan.check.ignores(&program.name)).cloned().collect()
}

fn unreadable((server, facts): (&Server, &Facts)) -> Vec<Fault> {
    let unknown = facts.programs.iter().filter_map(|program| program.as_ref().err());
    let fault = |named: &modshift_mariadb::program::Named| {
        let actual = format!("{} {} begins in an unknown form", named.kind.name(), named.name);
        Fault::new(Severity::Fault, RULE, server.side, actual)
            .expected("CREATE ... FOR EACH ROW, or DO, without executable comments before that")
            .mend(format!("create it again without them, after {}", named.drop()))
    };
    unknown.map(fault).collect()
}

/// Else the first write of the application would fail on the side that serves: the cutover refuses it.
fn of_definers(carried: &[Program], (server, facts): (&Server, &Facts)) -> Vec<Fault> {
    let Some(known) = &facts.definers else { return Vec::new() };
    // A role has no host.
    let definers: BTreeSet<&str> =
        carried.iter().map(|p| p.definer.as_str()).filter(|d| d.contains('@')).collect();
    let fault = |definer: &str| {
        let own: Vec<&Program> = carried.iter().filter(|p| p.definer == definer).collect();
        let triggers = own.iter().any(|p| p.kind == Kind::Trigger);
        let lacks = match known.get(definer) {
            None => "does not exist here",
            Some(false) if triggers => "lacks TRIGGER on the schema here",
            Some(_) => return None,
        };
        let names = own.iter().map(|p| format!("{} {}", p.kind.name(), p.name));
        let actual = format!("{definer}, in whose name {} run, {lacks}", some_of(names));
        let mend = match known.contains_key(definer) {
            true => {
                let (user, host) = definer.rsplit_once('@').unwrap_or((definer, "%"));
                let on = mend::on_schema(&server.endpoint.schema);
                let to = format!("{}@{}", quote(user), quote(host));
                Mend::run(Way::GrantSchema, [format!("GRANT TRIGGER ON {on} TO {to}")])
            }
            false => "make the account here as it is there: SHOW CREATE USER prints it".into(),
        };
        let fault = Fault::new(Severity::Fault, RULE, server.side, actual);
        Some(fault.expected("what runs in its name to be allowed there").mend(mend))
    };
    definers.into_iter().filter_map(fault).collect()
}

fn cannot_hold(
    survey: &Survey,
    carried: &[Program],
    (server, facts): (&Server, &Facts),
) -> Vec<Fault> {
    let mut faults = of_definers(carried, (server, facts));
    if let Some(other) = carried.iter().find(|p| p.database_collation != facts.collation) {
        let actual = format!("the collation of the schema is {}", facts.collation);
        let (name, expected) = (&other.name, &other.database_collation);
        faults.push(
            Fault::new(Severity::Fault, RULE, server.side, actual)
                .expected(format!("{expected}, as where {} {name} was written", other.kind.name()))
                .mend(format!(
                    "give the schema the same: ALTER DATABASE {} COLLATE {expected}",
                    quote(&server.endpoint.schema)
                )),
        );
    }
    // Of triggers `triggers` tells.
    let here = facts.programs.iter().filter_map(|program| program.as_ref().ok());
    for there in here.filter(|program| program.kind == Kind::Event) {
        let same = carried.iter().find(|c| c.kind == Kind::Event && c.name == there.name);
        let Some(differs) = same.and_then(|same| same.differs_in(there)) else { continue };
        let actual = format!("has event {} of another definition ({differs})", there.name);
        faults.push(
            Fault::new(Severity::Fault, RULE, server.side, actual)
                .expected("none of that name, or the same: the cutover hands that one over")
                .mend(format!(
                    "find out whose it is; once it is dropped here ({}), the cutover makes the other",
                    format_args!("DROP EVENT {}", quote(&there.name))
                )),
        );
    }
    let events = carried.iter().any(|program| program.kind == Kind::Event);
    if events && !facts.is_on("event_scheduler") && !survey.takes_writes(server.side) {
        let actual = format!("event_scheduler is {}", facts.variable("event_scheduler"));
        faults.push(
            Fault::new(Severity::Warning, RULE, server.side, actual)
                .expected("ON, if the events handed over are to run here")
                .mend(
                    "switch it on, with SET GLOBAL event_scheduler = ON and, under [mariadbd] in my.cnf, \
                     or a restart forgets it: event_scheduler = ON",
                ),
        );
    }
    faults
}
