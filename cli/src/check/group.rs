//! What a report says once: findings that differ only in the shard, or in the table, at which they
//! were made. Programs get each by itself, in JSON.

use std::fmt::Write as _;

use super::fault::{Fault, Severity, runs};
use crate::terminal::{Terminal, Tone};

/// Where what a finding says begins, under its severity.
const INDENT: &str = "           ";

/// At least one, all of one severity and rule.
pub struct Group<'a> {
    found: Vec<Found<'a>>,
}

struct Found<'a> {
    fault: &'a Fault,
    subject: Subject<'a>,
}

/// `old shard 3: table t`: a place, and what is meant there.
#[derive(Clone, Copy)]
struct Subject<'a> {
    /// With its shard: `old shard ` and 3. `None` where the subject is no single shard.
    shard: Option<(&'a str, u16)>,
    /// `: table ` and the table, if it is one.
    object: &'a str,
    table: Option<&'a str>,
}

impl<'a> Subject<'a> {
    fn of(subject: &'a str) -> Subject<'a> {
        let shard = ["old shard ", "new shard "].into_iter().find_map(|side| {
            let rest = subject.strip_prefix(side)?;
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, object) = rest.split_at(digits);
            // Anything else behind the number is another place: a replica, a list of shards.
            let ends = object.is_empty() || object.starts_with(": ");
            Some((side, number.parse().ok().filter(|_| ends)?, object))
        });
        let (shard, object) = match shard {
            Some((side, number, object)) => (Some((side, number)), object),
            None => (None, subject),
        };
        let table = match shard.is_some() {
            true => object.strip_prefix(": table "),
            false => object.strip_prefix("table "),
        };
        let object = table.map_or(object, |table| &object[..object.len() - table.len()]);
        Subject { shard, object, table }
    }

    fn side(&self) -> Option<&'a str> {
        self.shard.map(|(side, _)| side)
    }
}

/// All findings, in their order, each in one group. First those of one table over the shards, then
/// those of one list of shards over the tables.
pub fn groups(faults: &[Fault]) -> Vec<Group<'_>> {
    let found = faults.iter().map(|fault| Found { fault, subject: Subject::of(&fault.subject) });
    let mut by_place: Vec<Group<'_>> = Vec::new();
    for one in found {
        let place = by_place.iter_mut().find(|group| group.found[0].differs_in_shard(&one));
        match place {
            Some(group) => group.found.push(one),
            None => by_place.push(Group { found: vec![one] }),
        }
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for mut group in by_place {
        match groups.iter_mut().find(|had| had.differs_in_table(&group)) {
            Some(had) => had.found.append(&mut group.found),
            None => groups.push(group),
        }
    }
    groups
}

impl Found<'_> {
    fn is_like(&self, other: &Found<'_>) -> bool {
        let (a, b) = (self.fault, other.fault);
        a.severity == b.severity && a.rule == b.rule && self.subject.object == other.subject.object
    }

    fn differs_in_shard(&self, other: &Found<'_>) -> bool {
        let (a, b) = (self.fault, other.fault);
        let words = |fault: &Fault| {
            let expected = fault.expected.as_deref().unwrap_or_default();
            (masked(&fault.actual), masked(expected))
        };
        self.is_like(other)
            && self.subject.shard.is_some()
            && self.subject.side() == other.subject.side()
            && self.subject.table == other.subject.table
            && words(a) == words(b)
            && mend_of(a).map(|mend| masked(&mend)) == mend_of(b).map(|mend| masked(&mend))
    }
}

impl<'a> Group<'a> {
    fn differs_in_table(&self, other: &Group<'a>) -> bool {
        let (first, theirs) = (&self.found[0], &other.found[0]);
        let said =
            |found: &Found<'a>| (found.fault.actual.as_str(), found.fault.expected.as_deref());
        let shards = |group: &Group<'a>, table: Option<&str>| -> Vec<u16> {
            let of_table = group.found.iter().filter(|found| found.subject.table == table);
            of_table.filter_map(|found| Some(found.subject.shard?.1)).collect()
        };
        first.is_like(theirs)
            && first.subject.table.is_some()
            && theirs.subject.table.is_some()
            && first.subject.side() == theirs.subject.side()
            && shards(self, first.subject.table) == shards(other, theirs.subject.table)
            && self.found.iter().chain(&other.found).all(|found| said(found) == said(first))
    }

    pub fn severity(&self) -> Severity {
        self.found[0].fault.severity
    }

    /// How many findings it stands for.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    fn subject(&self) -> String {
        let first = &self.found[0];
        if self.found.len() == 1 {
            return first.fault.subject.clone();
        }
        let mut numbers: Vec<u16> =
            self.found.iter().filter_map(|found| Some(found.subject.shard?.1)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let place = match (first.subject.side(), &numbers[..]) {
            (Some(side), [only]) => format!("{side}{only}"),
            (Some(side), _) => format!("{}s {}", side.trim_end(), runs(&numbers)),
            (None, _) => String::new(),
        };
        let mut tables: Vec<&str> = self.found.iter().filter_map(|f| f.subject.table).collect();
        tables.dedup();
        let object = match &tables[..] {
            [] => first.subject.object.to_owned(),
            [only] => format!("{}{only}", first.subject.object),
            all => format!("{}s {}", first.subject.object.trim_end(), all.join(", ")),
        };
        place + &object
    }

    /// Severity and finding on a line of their own, which scripts may grep for; then how it is seen
    /// where, if not alike everywhere; then what mends it, statements as a client takes them.
    pub fn text(&self, terminal: Terminal) -> String {
        let severity = self.severity();
        let tone = match severity {
            Severity::Fault => Tone::Bad,
            Severity::Warning => Tone::Warning,
            Severity::Note => Tone::Faint,
        };
        let mut text = terminal.paint(tone, format_args!("{severity:<7}"));
        text.push_str("  ");
        let said: Vec<String> = self.found.iter().map(|found| said(found.fault)).collect();
        let subject = self.subject();
        // Writing to a String does not fail.
        let _ = match said.iter().all(|one| *one == said[0]) {
            true => write!(text, "{subject}: {}", said[0]),
            false => write!(text, "{subject}:"),
        };
        if said.iter().any(|one| *one != said[0]) {
            for (found, said) in self.found.iter().zip(&said) {
                let _ = write!(text, "\n{INDENT}{}: {said}", found.fault.subject);
            }
        }
        for (label, mend) in self.mends() {
            let _ = write!(text, "\n{INDENT}{} {mend}", terminal.paint(Tone::Strong, label));
        }
        text
    }

    /// What each is, with whose it is.
    fn mends(&self) -> Vec<(String, String)> {
        let all: Vec<Option<String>> =
            self.found.iter().map(|found| mend_of(found.fault)).collect();
        if all.iter().any(|mend| *mend != all[0]) {
            let whose = |found: &Found<'_>| format!("mend of {}:", found.fault.subject);
            let each = self.found.iter().zip(all);
            return each.filter_map(|(found, mend)| Some((whose(found), mend?))).collect();
        }
        let each = self.found.len() > 1 && self.found[0].is_run_where_found();
        let label = if each { "mend, on each:" } else { "mend:" };
        all.into_iter().take(1).flatten().map(|mend| (label.to_owned(), mend)).collect()
    }
}

impl Found<'_> {
    /// Statements that name no place of their own.
    fn is_run_where_found(&self) -> bool {
        use super::mend::Mend;
        matches!(&self.fault.mend, Some(Mend::Run { at, .. }) if at.is_empty())
    }
}

fn said(fault: &Fault) -> String {
    let mut text = fault.actual.clone();
    if let Some(expected) = &fault.expected {
        // Writing to a String does not fail.
        let _ = write!(text, ", expected {expected}");
    }
    text
}

fn mend_of(fault: &Fault) -> Option<String> {
    fault.mend.as_ref().map(ToString::to_string)
}

/// Without its numbers: sizes, ports, ids, the shard's own number in the name of its schema.
fn masked(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_ascii_digit() {
            true if masked.ends_with('#') => {}
            true => masked.push('#'),
            false => masked.push(c),
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::mend::{Mend, Way};

    fn fault(subject: &str, actual: &str) -> Fault {
        Fault::new(Severity::Fault, "rule", subject, actual).expected("ROW")
    }

    fn shown(faults: &[Fault]) -> Vec<String> {
        let groups = groups(faults);
        assert_eq!(groups.iter().map(Group::len).sum::<usize>(), faults.len());
        groups.iter().map(|group| group.text(Terminal::PLAIN)).collect()
    }

    #[test]
    fn what_is_the_same_over_shards_is_said_once() {
        let set = || Mend::set(Way::SetReadOnly, "read_only", 0);
        let faults: Vec<Fault> = [0, 1, 2, 3, 5]
            .map(|i| fault(&format!("old shard {i}"), "binlog_format is MIXED").mend(set()))
            .into();
        let one = Group { found: vec![Found { fault: &faults[0], subject: Subject::of("x") }] };
        assert_eq!(one.severity(), Severity::Fault);
        let expected = format!(
            "fault    old shards 0-3, 5: binlog_format is MIXED, expected ROW\n{INDENT}mend, on each: {}",
            set()
        );
        assert_eq!(shown(&faults), [expected]);
        // Another side, another rule's words, another table: another finding.
        let apart = [
            fault("old shard 0", "is a"),
            fault("new shard 0", "is a"),
            fault("old shard 0", "is b"),
        ];
        assert_eq!(shown(&apart).len(), 3);
        let apart = [fault("old shard 0: table a", "is a"), fault("old shard 1: user a", "is a")];
        assert_eq!(shown(&apart).len(), 2);
    }

    #[test]
    fn numbers_that_differ_stand_beneath() {
        let alter =
            |n| Mend::run(Way::AlterTable, [format!("ALTER TABLE `shop_{n}`.`t` ADD a INT")]);
        let faults = [(0, 10), (1, 12)].map(|(i, mib)| {
            fault(&format!("new shard {i}: table t"), &format!("{mib} MiB")).mend(alter(i))
        });
        let expected = format!(
            "fault    new shards 0, 1: table t:\n{INDENT}new shard 0: table t: 10 MiB, expected ROW\n\
             {INDENT}new shard 1: table t: 12 MiB, expected ROW\n\
             {INDENT}mend of new shard 0: table t: ALTER TABLE `shop_0`.`t` ADD a INT;\n\
             {INDENT}mend of new shard 1: table t: ALTER TABLE `shop_1`.`t` ADD a INT;"
        );
        assert_eq!(shown(&faults), [expected]);
    }

    #[test]
    fn tables_of_the_same_shards_share_a_line() {
        let missing = |table: &str| {
            [0, 1, 2].map(|i| {
                fault(&format!("new shard {i}: table {table}"), "is missing")
                    .mend("modshift schema")
            })
        };
        let mut faults = [missing("a"), missing("b"), missing("c")].concat();
        let all = "fault    new shards 0-2: tables a, b, c: is missing, expected ROW";
        assert_eq!(shown(&faults), [format!("{all}\n{INDENT}mend: modshift schema")]);
        // One of them on fewer shards stays by itself.
        faults.pop();
        assert_eq!(shown(&faults).len(), 2);
        let unplaced = [fault("table a", "is new"), fault("table b", "is new")];
        assert_eq!(shown(&unplaced), ["fault    tables a, b: is new, expected ROW"]);
    }

    #[test]
    fn a_place_that_is_no_single_shard_stays_as_it_is() {
        let replica = "replica 127.0.0.1:3306 of old shard 0";
        let list = "old shard 0, old shard 1";
        let faults = [fault(replica, "is off"), fault(list, "is off"), fault(list, "is off")];
        assert_eq!(shown(&faults).len(), 3);
        assert_eq!(shown(&faults)[0], format!("fault    {replica}: is off, expected ROW"));
    }
}
