//! Events of a feed -> which readers a group concerns, decided once for all of them. Pure.
//!
//! Nearly every group of a server with many shards is of one schema, and most are modshift's own. To a
//! reader that has no table in it a group is its GTID and its checksum, and both are the same for
//! everyone; where all that it has in it is its token, it is shown that. Only a group that is known
//! from its first event to its last to be nothing but rows is judged: what holds a statement, or
//! cannot be read, or is cut, every reader sees for itself.

use std::ops::Range;

use modshift_mariadb::control;
use modshift_proto::{GroupDigest, Gtid};

use crate::binlog::{BinlogError, Decoder, Event, GroupHash, Statement, TableName, read_statement};

/// No table of a plan is named like this.
const OURS: &[u8] = b"modshift_";

/// A group that ended with the event just seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub digest: GroupDigest,
    /// Of the schemas whose readers it concerns.
    pub parts: Vec<Part>,
}

/// What a group is to the readers of a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// As the binlog spells it.
    pub schema: Vec<u8>,
    pub holds: Holds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A token of theirs, which is all in these events of the group, and nothing else for them.
    Token(Range<usize>),
    Rows,
}

struct Group {
    gtid: Gtid,
    hash: GroupHash,
    /// So far.
    events: usize,
    map: Map,
    parts: Vec<Part>,
}

/// What names the tables of the statement in progress.
#[derive(Clone, Copy)]
enum Map {
    None,
    /// The event with this number, and no other.
    One(usize),
    Several,
}

pub struct Judge {
    decoder: Decoder,
    /// In progress, and nothing but rows so far.
    group: Option<Group>,
}

impl Judge {
    pub fn new() -> Result<Judge, BinlogError> {
        // Without tables: it knows none, and reads no cell.
        Ok(Judge { decoder: Decoder::new(Vec::new())?, group: None })
    }

    /// A group that can still be judged has begun, and its end is to come.
    pub fn midway(&self) -> bool {
        self.group.is_some()
    }

    /// Takes the next event in. What is wrong with one is for the readers to say, by its name.
    pub fn event(&mut self, event: &[u8]) -> Option<Judged> {
        let Ok(event) = self.decoder.decode(event) else {
            self.group = None;
            return None;
        };
        if let Event::Gtid(header) = &event {
            let open = self.group.take().is_some();
            let xa = header.prepared_xa || header.completed_xa;
            if !open && !xa && !header.standalone {
                let (gtid, hash) = (header.gtid, GroupHash::new(header.gtid));
                let (map, parts) = (Map::None, Vec::new());
                self.group = Some(Group { gtid, hash, events: 1, map, parts });
            }
            return None;
        }
        let mut group = self.group.take()?;
        match event {
            Event::Rows(rows) => {
                group.hash.rows(&rows);
                group.rows(rows.name(), rows.statement_end);
            }
            Event::Query { sql, lexis, .. } => match read_statement(&sql, lexis) {
                Statement::Begin => {}
                Statement::Commit => {
                    group.hash.query(&sql);
                    return Some(group.end());
                }
                // A statement of any kind.
                _ => return None,
            },
            Event::Xid => return Some(group.end()),
            Event::TableMap => group.map(),
            Event::Control(_) => {}
            // In another file: this one was cut off.
            Event::Gtid(_)
            | Event::Format { .. }
            | Event::Rotate { .. }
            | Event::NewId(_)
            | Event::XaPrepare => return None,
        }
        group.events += 1;
        self.group = Some(group);
        None
    }
}

impl Group {
    /// The next event names a table.
    fn map(&mut self) {
        self.map = match self.map {
            Map::None => Map::One(self.events),
            Map::One(_) | Map::Several => Map::Several,
        };
    }

    /// The next event has rows of this table.
    fn rows(&mut self, name: &TableName, statement_end: bool) {
        let map = match statement_end {
            true => std::mem::replace(&mut self.map, Map::None),
            false => self.map,
        };
        let token = name.table == control::TOKEN.as_bytes();
        if name.table.starts_with(OURS) && !token {
            // What modshift writes there no reader looks at: not even that the rest is its own, if
            // there is no rest.
            return;
        }
        let end = self.events + 1;
        let from = match map {
            Map::One(from) if token => Some(from),
            _ => None,
        };
        let known = self.parts.iter_mut().find(|part| part.schema == name.schema);
        match (known, from) {
            (Some(part), from) => part.holds.add(from, end),
            (None, from) => {
                let holds = from.map_or(Holds::Rows, |from| Holds::Token(from..end));
                self.parts.push(Part { schema: name.schema.clone(), holds });
            }
        }
    }

    fn end(self) -> Judged {
        let digest = GroupDigest { gtid: self.gtid, checksum: self.hash.value() };
        Judged { digest, parts: self.parts }
    }
}

impl Holds {
    /// A token in the events `from..end`, or other rows.
    fn add(&mut self, from: Option<usize>, end: usize) {
        *self = match (&*self, from) {
            // Nothing of others is in between.
            (Holds::Token(events), Some(from)) if (events.start..=events.end).contains(&from) => {
                Holds::Token(events.start..end)
            }
            _ => Holds::Rows,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::fuzz::events;

    const INSERT: &[u8] = include_bytes!("../../testdata/insert.group");
    const COMPRESSED: &[u8] = include_bytes!("../../testdata/compressed.group");
    const MISCELLANY: &[u8] = include_bytes!("../../testdata/miscellany.group");

    fn judge(group: &[u8]) -> Vec<Option<Judged>> {
        let mut judge = Judge::new().expect("without tables");
        events(group).into_iter().map(|event| judge.event(event)).collect()
    }

    /// What a reader makes of the same events.
    fn read(group: &[u8]) -> Judged {
        let mut decoder = Decoder::new(Vec::new()).expect("without tables");
        let (mut hash, mut gtid, mut parts) = (None, None, Vec::new());
        for event in events(group) {
            match decoder.decode(event).expect("as captured") {
                Event::Gtid(header) => {
                    (hash, gtid) = (Some(GroupHash::new(header.gtid)), Some(header.gtid));
                }
                Event::Rows(rows) => {
                    hash.as_mut().expect("begun").rows(&rows);
                    let schema = rows.name().schema.clone();
                    parts.push(Part { schema, holds: Holds::Rows });
                }
                _ => {}
            }
        }
        parts.dedup();
        let checksum = hash.expect("begun").value();
        Judged { digest: GroupDigest { gtid: gtid.expect("begun"), checksum }, parts }
    }

    #[test]
    fn a_group_of_rows_is_judged_at_its_end_and_is_what_a_reader_reads() {
        for group in [INSERT, COMPRESSED] {
            let mut judged = judge(group);
            assert_eq!(judged.pop().flatten(), Some(read(group)));
            assert!(judged.iter().all(Option::is_none), "before its end");
        }
    }

    /// What a group is to each schema, of these events behind its first: tables that are named, and
    /// rows, with `.` where a statement ends.
    fn parts(events: &str) -> Vec<(String, Option<Range<usize>>)> {
        let gtid = Gtid { domain: 0, server: 1, seq: 1 };
        let (hash, map) = (GroupHash::new(gtid), Map::None);
        let mut group = Group { gtid, hash, events: 1, map, parts: Vec::new() };
        for event in events.split(' ') {
            match event.trim_end_matches('.').split_once(':') {
                None => group.map(),
                Some((schema, table)) => {
                    let (schema, table) = (schema.as_bytes().to_vec(), table.as_bytes().to_vec());
                    group.rows(&TableName { schema, table }, event.ends_with('.'));
                }
            }
            group.events += 1;
        }
        let token = |holds| match holds {
            Holds::Token(events) => Some(events),
            Holds::Rows => None,
        };
        let named =
            |part: Part| (String::from_utf8(part.schema).expect("a name"), token(part.holds));
        group.end().parts.into_iter().map(named).collect()
    }

    #[test]
    fn who_has_no_more_than_a_token_in_a_group_is_shown_that() {
        let part = |schema: &str, token| (schema.to_owned(), token);
        let beat = "map a:modshift_token. map b:modshift_token. map b:modshift_progress. map c:t.";
        let expected = [part("a", Some(1..3)), part("b", Some(3..5)), part("c", None)];
        assert_eq!(parts(beat), expected);
        // What an applier writes concerns nobody, unless rows came with it.
        assert_eq!(parts("map a:modshift_watermark."), []);
        let applied = "map a:modshift_watermark. map a:t. map b:modshift_token.";
        assert_eq!(parts(applied), [part("a", None), part("b", Some(5..7))]);
        // A token and rows of one reader are for that reader to see in their order.
        assert_eq!(parts("map a:modshift_token. map a:t."), [part("a", None)]);
        assert_eq!(parts("map a:t. map a:modshift_token."), [part("a", None)]);
        // Several events of one statement, and several statements without others in between.
        let several = "map a:modshift_token a:modshift_token. map a:modshift_token.";
        assert_eq!(parts(several), [part("a", Some(1..6))]);
        let apart = "map a:modshift_token. map b:t. map a:modshift_token.";
        assert_eq!(parts(apart), [part("a", None), part("b", None)]);
        // Of two tables that are named together the rows need both names.
        let both = "map map a:modshift_token b:modshift_token.";
        assert_eq!(parts(both), [part("a", None), part("b", None)]);
    }

    #[test]
    fn what_holds_a_statement_or_cannot_be_read_is_not_judged() {
        let mut judge = Judge::new().expect("without tables");
        let queries = events(MISCELLANY).into_iter().filter(|event| {
            let decoded = Decoder::new(Vec::new()).expect("without tables").decode(event).ok();
            // What begins or commits a group of rows belongs to it.
            matches!(decoded, Some(Event::Query { ref sql, lexis, .. })
                if !matches!(read_statement(sql, lexis), Statement::Begin | Statement::Commit))
        });
        let insert = events(INSERT);
        let (last, begin) = insert.split_last().expect("events");
        for bad in queries.chain([&b"no event at all"[..]]) {
            begin.iter().for_each(|event| assert_eq!(judge.event(event), None));
            assert!(judge.midway());
            assert_eq!(judge.event(bad), None);
            assert!(!judge.midway());
            assert_eq!(judge.event(last), None, "the group is everyone's");
        }
        // A group inside another: the readers halt there.
        begin.iter().for_each(|event| assert_eq!(judge.event(event), None));
        insert.iter().for_each(|event| assert_eq!(judge.event(event), None));
        // And the next one is judged again.
        assert_eq!(insert.iter().filter_map(|event| judge.event(event)).count(), 1);
    }
}
