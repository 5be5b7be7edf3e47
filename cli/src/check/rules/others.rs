//! A fence of the server stops whoever else is there: other schemas, other plans, what it replicates
//! from. And what keeps it up when nobody looks after it.

use std::collections::BTreeSet;

use modshift_mariadb::control;
use modshift_proto::plan::FenceScope;

use crate::check::fault::{Fault, Severity, Side, some_of};
use crate::check::survey::{Facts, Server, Survey, endpoint};

const RULE: &str = "others";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut said = BTreeSet::new();
    for (server, facts) in survey.reached() {
        let by_server = survey.plan.cutover.scope == FenceScope::Server
            && !on_same_server(survey, facts).any(|side| side.is_old() != server.side.is_old());
        if by_server && said.insert(facts.variables.identity()) {
            faults.extend(of_schemas(survey, server, facts));
        }
        if by_server {
            faults.extend(of_other_plans(survey, server, facts));
            faults.extend(of_restarts(survey, server, facts));
            faults.extend(of_standing(server, facts));
        }
        faults.extend(of_upstream(survey, server, facts, by_server));
    }
    faults
}

/// Shards of the plan that live where this one lives.
fn on_same_server<'a>(survey: &'a Survey, facts: &Facts) -> impl Iterator<Item = Side> + use<'a> {
    let identity = facts.variables.identity();
    let same = move |(server, facts): (&Server, &Facts)| {
        (facts.variables.identity() == identity).then_some(server.side)
    };
    survey.reached().filter_map(same)
}

fn of_schemas(survey: &Survey, server: &Server, facts: &Facts) -> Vec<Fault> {
    let plan = &survey.plan;
    let mut ours: BTreeSet<&str> =
        on_same_server(survey, facts).map(|side| endpoint(plan, side).schema.as_str()).collect();
    if let Some(rehearse) = &plan.rehearse {
        ours.extend(rehearse.old.iter().chain(&rehearse.new).map(|shard| shard.schema.as_str()));
    }
    let others = facts.beside.schemas.iter().filter(|(schema, _)| !ours.contains(schema.as_str()));
    let (plans, plain): (Vec<_>, Vec<_>) =
        others.partition(|(_, tables)| tables.contains(control::TOKEN));
    let stops = "the fence stops writes, events and replication of the whole server";
    let found = [(plain, "schemas of others"), (plans, "shards of another plan")];
    let found = found.into_iter().filter(|(schemas, _)| !schemas.is_empty());
    let fault = |(schemas, what): (Vec<(&String, _)>, &str)| {
        let names = some_of(schemas.iter().map(|(schema, _)| *schema));
        let actual = format!("its server has {what}, too ({names}): {stops}");
        Fault::new(Severity::Warning, RULE, server.side, actual)
            .expected("a server of its own, or a fence of accounts alone")
            .mend("cutover.fence = \"accounts\" in the plan")
    };
    found.map(fault).collect()
}

/// The cutover would be refused.
fn of_other_plans(survey: &Survey, server: &Server, facts: &Facts) -> Option<Fault> {
    let own = survey.plan.forward_name();
    let (plan, shard) = facts.beside.closed_for.iter().find(|(plan, _)| plan.as_str() != own)?;
    let actual = format!("its server is kept closed for {shard} of plan {plan}");
    Some(
        Fault::new(Severity::Fault, RULE, server.side, actual)
            .expected("a server that nobody else keeps closed, since it could not serve")
            .mend(format!(
                "modshift rollback, or finish and unfence, with plan {plan}; if nothing of it is \
                 left: DELETE FROM {} WHERE plan = '{plan}'",
                control::FENCES
            )),
    )
}

/// Locked accounts stay locked; `read_only` is what the server's file says.
fn of_restarts(survey: &Survey, server: &Server, facts: &Facts) -> Option<Fault> {
    let fenced = facts.beside.left && facts.is_on("read_only");
    if !fenced || facts.variables.is_configured("read_only") {
        return None;
    }
    let actual = "is fenced by a statement: a restart forgets read_only unless the server's file says \
                  it, which shows after its next start";
    let (severity, actual) = match survey.plan.centres().next() {
        // Nothing else keeps that account out until a daemon closes the server again.
        Some((_, centre)) => {
            let user = &centre.units.user;
            (Severity::Warning, format!("{actual}; {user} of ShardingSphere's units is not locked"))
        }
        None => (Severity::Note, actual.to_owned()),
    };
    Some(
        Fault::new(severity, RULE, server.side, actual)
            .expected(
                "read_only out of the server's own configuration, for as long as it is fenced",
            )
            .mend(
                "read_only = 1, event_scheduler = OFF and skip_slave_start under [mariadbd] of its \
                 configuration, there and on its replicas (there without skip_slave_start)",
            ),
    )
}

/// What a source took before the fence has to arrive in it: the cutover waits for that, and gives up.
fn of_standing(server: &Server, facts: &Facts) -> Vec<Fault> {
    let standing = facts.beside.upstream.iter().filter_map(|source| {
        let actual = format!("replicates from {}, which stands: {}", source.at, source.stands.as_ref()?);
        let fault = Fault::new(Severity::Warning, RULE, server.side, actual);
        Some(
            fault
                .expected("both to be Yes: a fence waits for what the source took, and gives up")
                .mend("SHOW ALL SLAVES STATUS there names what keeps it; or STOP SLAVE before the cutover"),
        )
    });
    standing.collect()
}

fn of_upstream(survey: &Survey, server: &Server, facts: &Facts, by_server: bool) -> Option<Fault> {
    let listed: Vec<u32> = survey
        .replicas()
        .filter(|part| part.role.side == server.side)
        .filter_map(|part| part.facts.variables.text("server_id").parse().ok())
        .collect();
    let foreign = facts.beside.upstream.iter();
    let foreign = foreign.filter(|source| !by_server || !listed.contains(&source.server_id));
    let names: Vec<&str> = foreign.map(|source| source.at.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let names = some_of(names);
    let fault = match by_server {
        true => Fault::new(
            Severity::Warning,
            RULE,
            server.side,
            format!(
                "replicates from {names}, which the plan does not list among its replicas: the fence \
                 stops that replication and does not close {names}"
            ),
        )
        .expected("no source, or one that the fence closes, too")
        .mend("replicas = [...] of the shard in the plan, or STOP SLAVE before the cutover"),
        false => Fault::new(
            Severity::Warning,
            RULE,
            server.side,
            format!("replicates from {names}, which a fence of accounts does not stop"),
        )
        .expected("nothing to come into the shard's schema behind the fence")
        .mend("cutover.fence = \"server\" in the plan, or STOP SLAVE before the cutover"),
    };
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::Upstream;
    use crate::check::survey::made::{lines, survey, survey_further, with_centre};

    #[test]
    fn whoever_else_is_on_the_server_is_named_once() {
        let made = survey(|which, facts| {
            if which < 2 {
                // Both old shards on one server; `s` is theirs.
                facts.variables.set("port", "3306");
                let tables = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
                facts.beside.schemas = [
                    ("s".to_owned(), tables(&["t"])),
                    ("blog".to_owned(), tables(&["post"])),
                    ("mall_0".to_owned(), tables(&["t", "modshift_token"])),
                ]
                .into();
            }
        });
        let found = lines(&check(&made));
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].contains("schemas of others, too (blog)"), "{found:?}");
        assert!(found[1].contains("shards of another plan, too (mall_0)"), "{found:?}");
    }

    #[test]
    fn another_plans_fence_and_one_that_a_restart_forgets_are_told() {
        let made = survey(|which, facts| {
            let of = |plan: &str| (plan.to_owned(), "old shard 0".to_owned());
            match which {
                0 => facts.beside.closed_for = vec![of("made"), of("other")],
                1 | 2 => {
                    facts.beside.left = true;
                    facts.variables.set("read_only", "ON");
                    let origin = if which == 1 { "SQL" } else { "CONFIG" };
                    facts.variables.set_origin("read_only", origin);
                }
                _ => {}
            }
        });
        let found = lines(&check(&made));
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].contains("kept closed for old shard 0 of plan other"), "{found:?}");
        assert!(found[1].starts_with("note  old shard 1: is fenced by a statement"), "{found:?}");
        let mut made = made;
        with_centre(&mut made);
        let found = lines(&check(&made));
        assert!(
            found[1].starts_with("warning  old shard 1: is fenced by a statement"),
            "{found:?}"
        );
        assert!(found[1].contains("shop_sphere of ShardingSphere's units is not"), "{found:?}");
    }

    #[test]
    fn a_source_that_the_fence_does_not_close_is_told() {
        let made = survey_further(
            |which, facts| {
                if which == 0 {
                    let source = |at: &str, server_id| {
                        let stands = (server_id == 11).then(|| "Slave_SQL_Running No".to_owned());
                        Upstream { at: at.to_owned(), server_id, stands }
                    };
                    // Server id 11 is that of its replica.
                    facts.beside.upstream = vec![source("tailed:3306", 11), source("far:3306", 99)];
                }
            },
            |_, _| {},
        );
        let found = lines(&check(&made));
        assert_eq!(found.len(), 2, "{found:#?}");
        let standing = "replicates from tailed:3306, which stands: Slave_SQL_Running No";
        assert!(found[0].contains(standing), "{found:?}");
        assert!(found[1].contains("replicates from far:3306, which the plan"), "{found:?}");
    }
}
