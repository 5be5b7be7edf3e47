//! What rules will say once `modshift schema --apply` has made the tables that new shards lack: known
//! before, since they become what the first old shard has.

use std::collections::BTreeSet;

use super::fault::{Fault, Severity, some_of};
use super::mend::Mend;
use super::rules::Rule;
use super::survey::{Facts, Survey, Table};

/// What is found in addition to `faults`, and which tables it was found for. The survey is the same
/// afterwards.
pub fn faults(survey: &mut Survey, rules: &[Rule], faults: &[Fault]) -> Vec<Fault> {
    let made = make(survey);
    if made.is_empty() {
        return Vec::new();
    }
    let then: Vec<Fault> = rules.iter().flat_map(|rule| rule(survey)).collect();
    for (index, name) in &made {
        if let Ok(facts) = &mut survey.servers[*index].facts {
            facts.tables.remove(name);
        }
    }
    let names: BTreeSet<&String> = made.iter().map(|(_, name)| name).collect();
    let mut further: Vec<Fault> = then
        .into_iter()
        .filter(|fault| !faults.contains(fault))
        .filter_map(|fault| {
            let of_table =
                names.iter().any(|name| fault.subject.ends_with(&format!("table {name}")));
            if !of_table {
                return Some(fault);
            }
            // Made there as it is on old shards: it is mended on those, before it is made.
            let said =
                faults.iter().any(|other| other.rule == fault.rule && other.actual == fault.actual);
            let mend = fault.mend.as_ref().map(|mend| format!("once it is there: {mend}"));
            (!said).then(|| match mend {
                Some(mend) => fault.mend(Mend::from(mend)),
                None => fault,
            })
        })
        .collect();
    let actual = format!(
        "{} are not there yet on all of them: what is said of them here is by their definitions on the \
         old shards",
        some_of(names)
    );
    let expected = "modshift check again once they are there: whether they are the same (rules tables and \
         drift), what triggers are on them, and the room that they take follow then";
    further.push(
        Fault::new(Severity::Note, "tables", "new shards", actual)
            .expected(expected)
            .mend("modshift schema --apply, then modshift check"),
    );
    further
}

/// Puts them into the survey: index of the server, name of the table.
fn make(survey: &mut Survey) -> Vec<(usize, String)> {
    let mut missing = Vec::new();
    for (index, server) in survey.servers.iter().enumerate() {
        let Ok(facts) = &server.facts else { continue };
        if server.side.is_old() {
            continue;
        }
        for planned in &survey.plan.tables {
            let model = survey.olds().next().and_then(|(_, old)| old.tables.get(&planned.name));
            let model = model.and_then(|table| as_created(facts, table));
            if let Some(table) = model.filter(|_| !facts.tables.contains_key(&planned.name)) {
                missing.push((index, planned.name.clone(), table));
            }
        }
    }
    let into = |(index, name, table): (usize, String, Table)| {
        let Ok(facts) = &mut survey.servers[index].facts else { return None };
        facts.tables.insert(name.clone(), table);
        Some((index, name))
    };
    missing.into_iter().filter_map(into).collect()
}

/// `None` where it cannot be made: its name is taken, or it has a type that is not carried.
fn as_created(facts: &Facts, model: &Table) -> Option<Table> {
    let schema = model.schema.as_ref().ok()?;
    let taken = facts.objects.iter().any(|object| object.name == schema.name);
    (!taken).then(|| Table {
        engine: model.engine.clone(),
        create: model.create.clone(),
        schema: Ok(schema.clone()),
        empty: true,
        rows: 0,
        bytes: 0,
        counter: model.counter.as_ref().map(|(column, _)| (column.clone(), 1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::rules;
    use crate::check::survey::made::{lines, survey};
    use modshift_proto::TableSchema;
    use modshift_proto::schema::{Column, DataType};

    #[test]
    fn what_a_created_table_will_need_is_said_before_it_is_there() {
        let counted = |table: &mut Table| {
            table.counter = Some(("uid".to_owned(), 7));
            // What cannot be read is not made.
            table.schema = Ok(TableSchema {
                name: "t".to_owned(),
                columns: vec![Column {
                    name: "uid".to_owned(),
                    data: DataType::Int { bytes: 8, unsigned: false },
                    type_text: "bigint(20)".to_owned(),
                    charset: None,
                    collation: None,
                    nullable: false,
                    generated: false,
                }],
                primary_key: vec![0],
                unique_keys: Vec::new(),
            });
        };
        let limited = "GRANT SELECT ON *.* TO `u`@`%`";
        let mut missing = survey(|which, facts| {
            facts.grants = modshift_mariadb::Grants::parse([limited]);
            match which {
                0 | 1 => facts.tables.values_mut().for_each(counted),
                _ => facts.tables.clear(),
            }
        });
        let asked: &[Rule] = &[rules::grants::check_fence, rules::tables::check];
        let found: Vec<Fault> = asked.iter().flat_map(|rule| rule(&missing)).collect();
        let of_steps = |lines: &[String]| {
            lines.iter().any(|line| line.contains("new shard 0") && line.contains("lacks SUPER"))
        };
        assert!(!of_steps(&lines(&found)), "{:#?}", lines(&found));
        let further = faults(&mut missing, asked, &found);
        let said = lines(&further);
        assert!(of_steps(&said), "{said:#?}");
        assert!(said.last().is_some_and(|line| line.contains("modshift check again")), "{said:#?}");
        assert!(missing.news().all(|(_, facts)| facts.tables.is_empty()));
        // Nothing to say where all is there.
        let mut there = survey(|_, _| {});
        assert_eq!(faults(&mut there, asked, &[]), []);
    }
}
