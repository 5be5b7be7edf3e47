//! What each server will have to carry, against what it lets in: forty shards of one server take more
//! connections than a default `max_connections` leaves to its application.

use std::collections::BTreeMap;

use crate::check::fault::{Fault, Severity, Side, sides_of};
use crate::check::load::{Here, Load};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{Connections, Facts, Server, Survey};

const RULE: &str = "connections";
/// Beyond what was ever used, for a busier day.
const SPARE: f64 = 1.25;
/// Fuller than that is close.
const CLOSE: f64 = 0.9;

/// Servers where it is too much, or close to it.
pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut found = all(survey);
    found.retain(|fault| fault.severity != Severity::Note);
    found
}

/// What the other servers will have to carry.
pub fn tell(survey: &Survey) -> Vec<Fault> {
    let mut found = all(survey);
    found.retain(|fault| fault.severity == Severity::Note);
    found
}

fn all(survey: &Survey) -> Vec<Fault> {
    let mut servers: BTreeMap<String, Vec<(&Server, &Facts)>> = BTreeMap::new();
    for (server, facts) in survey.reached() {
        servers.entry(facts.variables.identity()).or_default().push((server, facts));
    }
    servers.values().flat_map(|shards| of_server(survey, shards)).collect()
}

/// What lives on one server, whatever names lead to it.
fn here(survey: &Survey, shards: &[(&Server, &Facts)]) -> Here {
    let back = survey.plan.back.enabled;
    let count = |is: &dyn Fn(&Server) -> bool| shards.iter().filter(|(s, _)| is(s)).count();
    let mut doors = Vec::new();
    for login in shards.iter().map(|(server, _)| server.endpoint.login()) {
        if !doors.contains(&login) {
            doors.push(login);
        }
    }
    Here {
        old: count(&|server| server.side.is_old()),
        new: count(&|server| !server.side.is_old()),
        read: count(&|server| match server.side.is_old() {
            true => server.endpoint.read_from.is_none(),
            false => back && server.endpoint.read_from.is_none(),
        }),
        doors: doors.len(),
        journal: count(&|server| matches!(server.side, Side::New(shard) if shard.0 == 0)) > 0,
    }
}

fn of_server(survey: &Survey, shards: &[(&Server, &Facts)]) -> Vec<Fault> {
    let Some((first, facts)) = shards.first() else { return Vec::new() };
    let subject = sides_of(shards.iter().map(|(server, _)| server.side));
    let load = Load::of(&survey.plan, &here(survey, shards));
    let said = format!(
        "modshift will have {} connections to its server at rest and up to {} while copying, \
         modshift verify up to {} more, a cutover up to {} more",
        load.at_rest(),
        load.copying(),
        load.verify,
        load.cutover
    );
    let Some(now) = &facts.connections else { return Vec::new() };
    let found = judge(load.most(), facts.number("max_connections") as u64, now);
    let limit = facts.number("max_connections");
    let (severity, left) = match found {
        Room::None => (Severity::Fault, "the application would be refused"),
        Room::Close => (Severity::Warning, "which leaves the application little"),
        Room::Enough => (Severity::Note, "which leaves the application enough"),
    };
    let actual = format!(
        "{said}; others have {} now and at most had {}; max_connections is {limit}, {left}",
        now.others(),
        now.others_most()
    );
    let fault = Fault::new(severity, RULE, &subject, actual);
    let wanted = wanted(load.most(), now);
    let fault = match severity {
        Severity::Note => fault.expected("room for all").mend(
            "nothing; limits.connections_per_server in the plan bounds what copying and verifying take",
        ),
        Severity::Fault | Severity::Warning => fault.expected(format!("at least {wanted}")).mend(
            Mend::set(Way::SetMaxConnections, "max_connections", wanted)
                .at([first.side])
                .note("and in the server's configuration; or fewer shards on this server"),
        ),
    };
    let mut faults = vec![fault];
    faults.extend(of_login(&subject, first, facts, now, load.most()));
    faults
}

/// What the account of the daemons may have at once, by its own limit or by that of all accounts.
fn of_login(
    subject: &str,
    server: &Server,
    facts: &Facts,
    now: &Connections,
    most: u64,
) -> Option<Fault> {
    let limit = now.login_max.filter(|&limit| limit > 0 && limit < most)?;
    let user = &server.endpoint.user;
    let account = mend::account(&facts.grants, user);
    let wanted = round_up(most as f64 * SPARE);
    let actual = format!(
        "user {user} may have {limit} connections, by MAX_USER_CONNECTIONS of its account or by the \
         server's max_user_connections, and modshift will have up to {most}"
    );
    let alter = format!("ALTER USER {account} WITH MAX_USER_CONNECTIONS {wanted}");
    Some(
        Fault::new(Severity::Fault, RULE, subject, actual)
            .expected(format!("at least {most}"))
            .mend(Mend::run(Way::RaiseUserConnections, [alter]).at([server.side])),
    )
}

#[derive(Debug, PartialEq, Eq)]
enum Room {
    None,
    Close,
    Enough,
}

/// `most`: of modshift, its operators' commands included.
fn judge(most: u64, limit: u64, now: &Connections) -> Room {
    // Now is what it has for certain; the most that it ever had it may have again.
    if most + now.others().max(1) > limit {
        Room::None
    } else if (most + now.others_most()) as f64 > limit as f64 * CLOSE {
        Room::Close
    } else {
        Room::Enough
    }
}

fn wanted(most: u64, now: &Connections) -> u64 {
    // The server's own default is no example of too many.
    round_up((most + now.others_most()) as f64 * SPARE).max(151)
}

fn round_up(number: f64) -> u64 {
    (number / 10.0).ceil() as u64 * 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};

    fn now(connected: u64, ours: u64, most: u64) -> Connections {
        Connections { connected, ours, most, login_max: None }
    }

    #[test]
    fn the_application_keeps_what_it_has() {
        assert_eq!(judge(100, 151, &now(20, 1, 30)), Room::Enough);
        assert_eq!(judge(100, 151, &now(20, 1, 40)), Room::Close);
        assert_eq!(judge(100, 151, &now(60, 1, 60)), Room::None);
        assert_eq!(judge(151, 151, &now(1, 1, 1)), Room::None, "nothing is left for anybody");
        // While the daemons run, theirs are not the application's.
        assert_eq!(judge(100, 151, &now(120, 100, 120)), Room::Enough);
        assert_eq!(wanted(100, &now(60, 1, 60)), 200);
    }

    #[test]
    fn servers_are_counted_by_what_they_say_of_themselves() {
        let crowded = |which: usize, facts: &mut Facts| {
            facts.variables.set("port", if which < 2 { "1" } else { "2" });
            facts.variables.set("max_connections", if which < 2 { "151" } else { "20" });
            facts.connections = Some(now(5, 1, 9));
        };
        let survey = survey(crowded);
        let found = all(&survey);
        let severities: Vec<_> =
            found.iter().map(|fault| (fault.severity, &*fault.subject)).collect();
        assert_eq!(
            severities,
            [(Severity::Note, "old shards 0, 1"), (Severity::Fault, "new shards 0-2")]
        );
        let line = &lines(&found)[1];
        assert!(line.contains("max_connections is 20, the application would be refused"), "{line}");
        assert!(line.contains("mend: SET GLOBAL max_connections = 151;"), "{line}");
    }
}
