//! What a guard is and what it lacks, out of the triggers that are there. Pure.

use std::collections::BTreeMap;

use modshift_mariadb::control::HOME_GUARD;

use super::trigger::{self, Trigger};

/// A trigger of the schema, the application's included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct There {
    pub name: String,
    pub table: String,
    /// `BEFORE INSERT`
    pub when: String,
    /// Among those of its table and time.
    pub order: u64,
    pub body: String,
    pub sql_mode: String,
}

impl There {
    pub fn is_guard(&self) -> bool {
        self.name.starts_with(HOME_GUARD)
    }
}

/// How a guard stands on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Triggers that are there as they should be.
    pub whole: usize,
    pub faults: Vec<Fault>,
    /// A setting of the server under which it is none, in words.
    pub setting: Option<String>,
}

/// Something that somebody has dropped or changed, or that has not been put up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Missing(Trigger),
    /// It refuses other rows, or lets other sessions pass.
    Other(Trigger),
    /// That one may give a row another key behind it.
    Behind {
        trigger: Trigger,
        other: String,
    },
    /// Of a guard, and not of this one.
    Surplus {
        name: String,
        table: String,
    },
}

impl Fault {
    pub fn words(&self) -> String {
        match self {
            Fault::Missing(trigger) => {
                format!("table {} has no guard {}", trigger.table, trigger.when)
            }
            Fault::Other(trigger) => format!(
                "table {} has another guard {} than it should: trigger {}",
                trigger.table, trigger.when, trigger.name
            ),
            Fault::Behind { trigger, other } => format!(
                "table {}: trigger {other} runs behind the guard {} and could give a row another key",
                trigger.table, trigger.when
            ),
            Fault::Surplus { name, table } => {
                format!("table {table} has trigger {name} of another guard")
            }
        }
    }
}

impl Status {
    /// Every row that is not at home is refused.
    pub fn is_up(&self) -> bool {
        self.faults.iter().all(|fault| matches!(fault, Fault::Surplus { .. }))
            && self.setting.is_none()
    }

    /// Nothing of a guard is there.
    pub fn is_down(&self) -> bool {
        self.whole == 0 && self.faults.iter().all(|fault| matches!(fault, Fault::Missing(_)))
    }

    pub fn words(&self) -> String {
        const SHOWN_MAX: usize = 5;
        if self.is_down() {
            return "it is not up".to_owned();
        }
        let setting = self.setting.iter().cloned();
        let all: Vec<String> = setting.chain(self.faults.iter().map(Fault::words)).collect();
        match all.len().checked_sub(SHOWN_MAX) {
            _ if all.is_empty() => "it is up".to_owned(),
            Some(more @ 1..) => format!("{} and {more} more", all[..SHOWN_MAX].join("; ")),
            _ => all.join("; "),
        }
    }
}

pub fn judge(wanted: &[Trigger], there: &[There]) -> Status {
    let mut status = Status::default();
    for trigger in wanted {
        let found = there.iter().find(|there| there.name == trigger.name);
        status.faults.push(match (found, last(trigger, there)) {
            (None, _) => Fault::Missing(trigger.clone()),
            (Some(found), _) if !is_same(trigger, found) => Fault::Other(trigger.clone()),
            (Some(found), Some(other))
                if trigger.when.must_be_last() && other.order > found.order =>
            {
                Fault::Behind { trigger: trigger.clone(), other: other.name.clone() }
            }
            (Some(_), _) => {
                status.whole += 1;
                continue;
            }
        });
    }
    let surplus = there.iter().filter(|there| {
        there.is_guard() && !wanted.iter().any(|trigger| trigger.name == there.name)
    });
    status.faults.extend(
        surplus
            .map(|there| Fault::Surplus { name: there.name.clone(), table: there.table.clone() }),
    );
    status
}

fn is_same(trigger: &Trigger, there: &There) -> bool {
    // What is written in a trigger means what it says under one sql_mode alone.
    trigger.table == there.table
        && trigger.when.sql() == there.when
        && trigger.body == there.body
        && there.sql_mode.is_empty()
}

/// The last one of the application at the same table and time.
fn last<'a>(trigger: &Trigger, there: &'a [There]) -> Option<&'a There> {
    let beside = there.iter().filter(|there| {
        there.table == trigger.table && there.when == trigger.when.sql() && !there.is_guard()
    });
    beside.max_by_key(|there| there.order)
}

/// The statements that put it up, table by table. What is whole stays, unless all of it is to come
/// `anew`.
pub fn to_put_up(wanted: &[Trigger], there: &[There], anew: bool) -> BTreeMap<String, Vec<String>> {
    let mut statements: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let faults = judge(wanted, there).faults;
    for fault in &faults {
        // Another guard's first: where it refuses what is at home by now, it would go on to.
        if let Fault::Surplus { name, table } = fault {
            statements.entry(table.clone()).or_default().push(trigger::drop(name));
        }
    }
    for one in wanted {
        let is_faulty = |fault: &Fault| match fault {
            Fault::Missing(trigger) | Fault::Other(trigger) | Fault::Behind { trigger, .. } => {
                trigger == one
            }
            Fault::Surplus { .. } => false,
        };
        if anew || faults.iter().any(is_faulty) {
            let behind = last(one, there).map(|other| other.name.as_str());
            statements.entry(one.table.clone()).or_default().push(one.create(behind));
        }
    }
    statements
}

/// Whatever is called as a trigger of a guard, of tables that are planned no longer too.
pub fn to_take_down(there: &[There]) -> BTreeMap<String, Vec<String>> {
    let mut statements: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in there.iter().filter(|there| there.is_guard()) {
        statements.entry(one.table.clone()).or_default().push(trigger::drop(&one.name));
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::trigger::When;

    fn wanted() -> Vec<Trigger> {
        let of = |short: &str, when| Trigger {
            name: format!("{HOME_GUARD}{short}"),
            table: "t".to_owned(),
            when,
            body: format!("BEGIN {short} END"),
        };
        vec![of("bi", When::BeforeInsert), of("bd", When::BeforeDelete)]
    }

    fn there(trigger: &Trigger, order: u64) -> There {
        There {
            name: trigger.name.clone(),
            table: trigger.table.clone(),
            when: trigger.when.sql().to_owned(),
            order,
            body: trigger.body.clone(),
            sql_mode: String::new(),
        }
    }

    fn of_application(name: &str, when: When, order: u64) -> There {
        let name = name.to_owned();
        There {
            name,
            ..there(
                &Trigger { name: String::new(), table: "t".into(), when, body: "x".into() },
                order,
            )
        }
    }

    fn check(there: &[There], words: &str, statements: usize) {
        let wanted = wanted();
        let status = judge(&wanted, there);
        assert_eq!(status.words(), words);
        assert_eq!(status.is_up(), words == "it is up" || words.ends_with("of another guard"));
        let made = to_put_up(&wanted, there, false);
        assert_eq!(made.values().map(Vec::len).sum::<usize>(), statements, "{made:#?}");
    }

    #[test]
    fn a_guard_is_up_only_as_it_should_be_and_behind_all_that_could_change_a_key() {
        let wanted = wanted();
        let (bi, bd) = (there(&wanted[0], 1), there(&wanted[1], 1));
        check(&[], "it is not up", 2);
        check(&[of_application("a", When::BeforeInsert, 1)], "it is not up", 2);
        check(&[bi.clone(), bd.clone()], "it is up", 0);
        check(std::slice::from_ref(&bi), "table t has no guard BEFORE DELETE", 1);
        let other = There { body: "BEGIN END".to_owned(), ..bd.clone() };
        let words =
            "table t has another guard BEFORE DELETE than it should: trigger modshift_home_bd";
        check(&[bi.clone(), other], words, 1);
        check(&[bi.clone(), There { sql_mode: "ANSI_QUOTES".into(), ..bd.clone() }], words, 1);
        let behind = of_application("later", When::BeforeInsert, 2);
        let words = "table t: trigger later runs behind the guard BEFORE INSERT and could give a row \
                     another key";
        check(&[bi.clone(), bd.clone(), behind.clone()], words, 1);
        let made = to_put_up(&wanted, &[bi.clone(), bd.clone(), behind], false);
        assert!(made["t"][0].contains("FOLLOWS `later`"), "{made:#?}");
        // What runs behind a DELETE changes no key.
        check(&[bi.clone(), bd.clone(), of_application("d", When::BeforeDelete, 2)], "it is up", 0);
        let surplus =
            There { name: format!("{HOME_GUARD}x"), ..of_application("", When::AfterInsert, 1) };
        let words = "table t has trigger modshift_home_x of another guard";
        check(&[bi.clone(), bd.clone(), surplus.clone()], words, 1);
        let setting = Some("as it must not be".to_owned());
        assert!(!Status { setting, ..judge(&wanted, &[bi.clone(), bd.clone()]) }.is_up());
        // Down goes whatever is a guard's, and nothing else; anew comes all.
        let all = [bi, bd, surplus, of_application("a", When::BeforeInsert, 1)];
        assert_eq!(to_take_down(&all)["t"].len(), 3);
        assert_eq!(to_put_up(&wanted, &all, true)["t"].len(), 3);
    }
}
