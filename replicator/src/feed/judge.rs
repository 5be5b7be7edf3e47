//! Events of a feed -> which readers a group concerns, decided once for all of them. Pure.
//!
//! Nearly every group of a server with many shards is of one schema, and most are modshift's own. To a
//! reader that has no table in it a group is its GTID and its checksum, and both are the same for
//! everyone. Only a group that is known from its first event to its last to be nothing but rows is
//! judged: what holds a statement, or cannot be read, or is cut, every reader sees for itself.

use modshift_proto::{GroupDigest, Gtid};

use crate::binlog::{BinlogError, Decoder, Event, GroupHash, Statement, read_statement};

/// A group that ended with the event just seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub digest: GroupDigest,
    /// As the binlog spells them.
    pub schemas: Vec<Vec<u8>>,
}

struct Group {
    gtid: Gtid,
    hash: GroupHash,
    schemas: Vec<Vec<u8>>,
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
                self.group = Some(Group { gtid, hash, schemas: Vec::new() });
            }
            return None;
        }
        let mut group = self.group.take()?;
        match event {
            Event::Rows(rows) => {
                group.hash.rows(&rows);
                let schema = &rows.name().schema;
                if !group.schemas.contains(schema) {
                    group.schemas.push(schema.clone());
                }
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
            Event::TableMap | Event::Control(_) => {}
            // In another file: this one was cut off.
            Event::Gtid(_) | Event::Format | Event::Rotate { .. } | Event::NewId(_) => return None,
        }
        self.group = Some(group);
        None
    }
}

impl Group {
    fn end(self) -> Judged {
        let digest = GroupDigest { gtid: self.gtid, checksum: self.hash.value() };
        Judged { digest, schemas: self.schemas }
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
        let (mut hash, mut gtid, mut schemas) = (None, None, Vec::new());
        for event in events(group) {
            match decoder.decode(event).expect("as captured") {
                Event::Gtid(header) => {
                    (hash, gtid) = (Some(GroupHash::new(header.gtid)), Some(header.gtid));
                }
                Event::Rows(rows) => {
                    hash.as_mut().expect("begun").rows(&rows);
                    schemas.push(rows.name().schema.clone());
                }
                _ => {}
            }
        }
        schemas.dedup();
        let checksum = hash.expect("begun").value();
        Judged { digest: GroupDigest { gtid: gtid.expect("begun"), checksum }, schemas }
    }

    #[test]
    fn a_group_of_rows_is_judged_at_its_end_and_is_what_a_reader_reads() {
        for group in [INSERT, COMPRESSED] {
            let mut judged = judge(group);
            assert_eq!(judged.pop().flatten(), Some(read(group)));
            assert!(judged.iter().all(Option::is_none), "before its end");
        }
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
