//! What is to go and what is to be made, so that a shard has the triggers that it should: table by table,
//! with as little as possible. Pure.

use std::collections::BTreeSet;

use modshift_mariadb::program::{Named, Program};

/// Those to drop, and those to make then, in their order.
///
/// One that is there is whole, and a new one goes behind the others of its table and time. So what is
/// missing is added, unless one that runs after it is there; then that table is made anew.
pub(super) fn mending<'a>(
    wanted: &[&'a Program],
    there: &[Named],
) -> (Vec<Named>, Vec<&'a Program>) {
    let tables = wanted.iter().map(|program| &program.table);
    let tables: BTreeSet<&String> = tables.chain(there.iter().map(|named| &named.table)).collect();
    let (mut surplus, mut missing) = (Vec::new(), Vec::new());
    for table in tables {
        let wanted = || wanted.iter().copied().filter(|program| program.table == *table);
        let there = || there.iter().filter(|named| named.table == *table);
        let whens: BTreeSet<&String> =
            wanted().map(|p| &p.when).chain(there().map(|named| &named.when)).collect();
        let begins = |when: &String| {
            let mut names = wanted().filter(|p| p.when == *when).map(|p| &p.name);
            there()
                .filter(|named| named.when == *when)
                .all(|named| names.next() == Some(&named.name))
        };
        if whens.into_iter().all(begins) {
            let is_there = |p: &&Program| there().any(|named| named.name == p.name);
            missing.extend(wanted().filter(|program| !is_there(program)));
        } else {
            surplus.extend(there().cloned());
            missing.extend(wanted());
        }
    }
    (surplus, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_mariadb::program::Kind;

    fn program(name: &str, table: &str, when: &str) -> Program {
        let text = String::new;
        Program {
            kind: Kind::Trigger,
            name: name.to_owned(),
            table: table.to_owned(),
            when: when.to_owned(),
            definer: text(),
            sql_mode: text(),
            charset: text(),
            collation: text(),
            time_zone: text(),
            database_collation: text(),
            header: text(),
            body: Vec::new(),
        }
    }

    /// Triggers are written `table.when.name`.
    fn check(there: &[&str], drops: &[&str], makes: &[&str]) {
        let wanted = ["a.i.1", "a.i.2", "a.u.3", "b.i.4"].map(|text| {
            let mut parts = text.split('.');
            let mut next = || parts.next().unwrap_or_default();
            let (table, when) = (next(), next());
            program(text, table, when)
        });
        let named = |text: &&str| {
            let mut parts = text.split('.');
            let mut next = || parts.next().unwrap_or_default();
            let (table, when) = (next(), next());
            Named::of(&program(text, table, when))
        };
        let there: Vec<Named> = there.iter().map(named).collect();
        let wanted: Vec<&Program> = wanted.iter().collect();
        let (surplus, missing) = mending(&wanted, &there);
        assert_eq!(surplus.iter().map(|named| named.name.as_str()).collect::<Vec<_>>(), drops);
        assert_eq!(missing.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), makes);
    }

    #[test]
    fn what_is_there_and_whole_stays() {
        check(&["a.i.1", "a.i.2", "a.u.3", "b.i.4"], &[], &[]);
        check(&[], &[], &["a.i.1", "a.i.2", "a.u.3", "b.i.4"]);
        check(&["b.i.4"], &[], &["a.i.1", "a.i.2", "a.u.3"]);
        check(&["a.i.1", "b.i.4"], &[], &["a.i.2", "a.u.3"]);
        // It would run behind the one that is there.
        check(&["a.i.2", "b.i.4"], &["a.i.2"], &["a.i.1", "a.i.2", "a.u.3"]);
        check(
            &["a.i.1", "a.i.9", "c.i.8"],
            &["a.i.1", "a.i.9", "c.i.8"],
            &["a.i.1", "a.i.2", "a.u.3", "b.i.4"],
        );
    }
}
