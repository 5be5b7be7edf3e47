//! What an operator does next about a reader that has halted.

use modshift_mariadb::ServerError;
use modshift_proto::plan::{Direction, LOST_BACK};
use modshift_proto::{Gtid, OldShard};

use super::{Foreign, ReadError};
use crate::binlog::BinlogError;

/// The way past one group that keeps all of the rest, ready to be pasted.
fn skip(shard: OldShard, gtid: Gtid, direction: Direction) -> String {
    let back = match direction {
        Direction::Forward => "",
        Direction::Back => " --back",
    };
    format!(
        "`modshift skip{back} --source {} --gtid {gtid} --why \"REASON\"` passes over all of this group, \
         and the gate stays closed until `modshift verify{back} --repair` has made equal what it changed",
        shard.0
    )
}

impl Foreign {
    /// Why it came to this, and how it does not come to it again.
    fn cause(&self) -> &'static str {
        match self {
            Foreign::Group(_) => "the binlog file is damaged: check it with mariadb-binlog",
            Foreign::Xa(_) => {
                "a part of the group is missing: check the binlog file with mariadb-binlog"
            }
            Foreign::XaUnprepared(_) => {
                "which rows it has changed cannot be told any more: keep binlogs for longer than a \
                 transaction stays prepared (binlog_expire_logs_seconds)"
            }
            Foreign::Ddl { .. } => {
                "change planned tables before a reshard or after it. Make the same change on every other \
                 shard, old and new; stop the daemons, move the table from the plan to check.ignore, start \
                 them, wait until every reader has passed the change, stop them, and move it back: it \
                 alone is copied anew"
            }
            Foreign::StatementFormat { .. } => {
                "a session wrote in statement format: set binlog_format=ROW for every session"
            }
            Foreign::Unseen { .. } => {
                "where modshift may not see it or its triggers, GRANT SELECT, TRIGGER, SHOW VIEW on \
                 that schema to its login and start the daemons again: they go on at this group. Else \
                 it may have changed planned tables unseen: set binlog_format=ROW for every session"
            }
            Foreign::Undone { .. } => {
                "the statements were read when this had happened already, so nothing tells any more what \
                 else they wrote: set binlog_format=ROW for every session"
            }
            Foreign::Unknown { .. } => {
                "it may have changed rows unseen: run such statements before a reshard or after it"
            }
        }
    }
}

impl ReadError {
    /// What the operator does next about a reader of this direction.
    pub fn hint_for(&self, direction: Direction) -> Option<String> {
        let lost = matches!(
            self,
            ReadError::ProgressLost { .. }
                | ReadError::ProgressUnreadable { .. }
                | ReadError::HistoryChanged { .. }
                | ReadError::HistoryMissing { .. }
                | ReadError::GroupChanged { .. }
                | ReadError::GroupCut { .. }
                | ReadError::SequenceBack { .. }
                | ReadError::Binlog(
                    BinlogError::UnknownDomain { .. }
                        | BinlogError::BehindStart { .. }
                        | BinlogError::Server(ServerError::Binlog { .. })
                )
        );
        if let Some(hint) = self.past_group(direction) {
            return Some(hint);
        }
        match direction {
            Direction::Back if matches!(self, ReadError::Drift { .. }) => {
                Some(format!("{WITHOUT_BINLOG}, and verify --back; {LOST_BACK}"))
            }
            Direction::Forward => self.hint(direction),
            Direction::Back if lost => Some(LOST_BACK.to_owned()),
            Direction::Back => {
                self.hint(direction).map(|hint| match hint.contains("restart-copy") {
                    // Nothing is copied on the way back.
                    true => LOST_BACK.to_owned(),
                    false => direction.words(&hint),
                })
            }
        }
    }

    /// About what lies in one group.
    fn past_group(&self, direction: Direction) -> Option<String> {
        if let ReadError::Firm { error, why } = self {
            return Some(error.firm(why, direction));
        }
        let skip = skip(self.skips_of()?, self.skips()?, direction);
        Some(match self {
            ReadError::Statement { what: what @ Foreign::Ddl { .. }, .. } => {
                format!("{}. If it changed rows and no definition (TRUNCATE): {skip}", what.cause())
            }
            ReadError::Statement { what, .. } => format!("{}; {skip}", what.cause()),
            _ => match self.hint(direction) {
                Some(hint) => format!("{}; or {skip}", direction.words(&hint)),
                None => skip,
            },
        })
    }

    /// The shard of the group in which the reason lies.
    fn skips_of(&self) -> Option<OldShard> {
        match self {
            ReadError::Statement { shard, .. }
            | ReadError::RollbackInGroup { shard, .. }
            | ReadError::HeldTooLarge { shard, .. }
            | ReadError::GroupTooLarge { shard, .. }
            | ReadError::Stray { shard, .. }
            | ReadError::Row { shard, .. } => Some(*shard),
            _ => None,
        }
    }

    /// About a group that cannot be passed over.
    fn firm(&self, why: &str, direction: Direction) -> String {
        if let ReadError::Statement { what: what @ Foreign::Ddl { .. }, .. } = self {
            // As long as the table is not in the plan the change is nobody's.
            return what.cause().to_owned();
        }
        let (old, shard) = match (direction, self.skips_of()) {
            (Direction::Forward, shard) => (" --old", shard),
            (Direction::Back, shard) => ("", shard),
        };
        match shard {
            Some(shard) if why == crate::tail::NOT_SERVING => format!(
                "{why}, so nothing may be written there: find out who does and stop it, undo what was \
                 written, stop the daemons, run `modshift rearm --shard {}{old}`, start them again, and \
                 verify",
                shard.0
            ),
            _ => {
                let way_out = match direction {
                    Direction::Forward => "start over with `modshift restart-copy`",
                    Direction::Back => LOST_BACK,
                };
                format!("modshift skip cannot pass it over, since {why}: {way_out}")
            }
        }
    }

    /// What the operator does next.
    fn hint(&self, direction: Direction) -> Option<String> {
        let text = match self {
            ReadError::Server(error) => return error.hint().map(|hint| hint.to_string()),
            ReadError::Catalog(error) => return error.hint().map(|hint| hint.to_string()),
            ReadError::Binlog(error) => return error.hint().map(|hint| hint.to_string()),
            ReadError::Log(error) => return error.hint().map(|hint| hint.to_string()),
            ReadError::Superseded { .. } => {
                "run one replicator per old shard; this one has lost nothing, and takes over again when \
                 the other one is gone"
            }
            ReadError::ProgressLost { .. } | ReadError::ProgressUnreadable { .. } => {
                "the resume point is gone: start over with `modshift restart-copy`"
            }
            ReadError::HistoryMissing { .. } => {
                "another server of the shard may have it, such as the peer that served before a \
                 failover: bring that one back, wait until this one has applied what it sends, and start \
                 the daemons again. Where it is lost (crash without sync_binlog=1, a server that is gone \
                 for good) new shards may hold rows that no longer exist: start over with `modshift \
                 restart-copy`"
            }
            ReadError::HistoryChanged { .. }
            | ReadError::GroupChanged { .. }
            | ReadError::GroupCut { .. } => {
                "the server lost the end of its binlog (crash without sync_binlog=1, or failover \
                 to a replica that was behind); new shards may hold rows that no longer exist: \
                 start over with `modshift restart-copy`"
            }
            ReadError::SequenceBack { .. } => {
                "somebody has written GTIDs by hand (gtid_seq_no, gtid_domain_id), or a second server \
                 writes: find out who and stop it, SET GLOBAL gtid_strict_mode = 1, also in my.cnf, and \
                 start over with `modshift restart-copy`"
            }
            ReadError::Stray { .. } => {
                "the application wrote a row to the wrong shard, or the plan's rule is not the \
                 application's: `modshift check` lists strays. Move such a row to its own shard, or \
                 correct the rule in the plan, and start the daemons again"
            }
            ReadError::ForeignWrite { shard, .. } => {
                return Some(format!(
                    "find out who writes to a shard that does not serve and stop it. If the run that \
                     fenced the shard is undone, the reader carries the write over and goes on by \
                     itself. If not, undo what was written, stop the daemons, run `modshift rearm \
                     --shard {}{}`, start them again, and verify",
                    shard.0,
                    if direction == Direction::Forward { " --old" } else { "" }
                ));
            }
            ReadError::CopyWhileApplying { .. } => {
                "tables can be added to the plan before the cutover only: take it out again, and start \
                 the daemons with that"
            }
            ReadError::Drift { .. } => {
                return Some(format!(
                    "{WITHOUT_BINLOG}, and modshift verify; otherwise make the table the same on \
                     all shards, move it from the plan to check.ignore, start the daemons, stop \
                     them, and move it back: it alone is copied anew"
                ));
            }
            ReadError::PlanChanged { .. } => {
                "start the daemons with the tables that the plan had at the cutover; others are \
                 for another reshard, after modshift finish"
            }
            ReadError::Spill { .. } => {
                "make room there, or name another folder as reader.spill_dir in the plan"
            }
            ReadError::HeldTooLarge { .. } => {
                "raise reader.spill_max in the plan, with as much room in reader.spill_dir, and \
                 start the daemons again: they go on at this group"
            }
            ReadError::ReplicaBehind { .. } => {
                "wait for the replica, or take read_from out of the plan"
            }
            ReadError::Unpageable { .. } => {
                "pages by primary key would leave rows out: give those rows other keys, or where the \
                 column is a CHAR make it a VARCHAR on every shard; then start the daemons again. \
                 Nothing of the table has been copied so far"
            }
            ReadError::OwnGroup { .. } => {
                "what modshift wrote there cannot be passed over: start over with `modshift restart-copy`"
            }
            ReadError::NoPrimaryKey { .. } => {
                "add a primary key on every shard, or take its [[table]] out of the plan, and start the \
                 daemons again"
            }
            ReadError::Engine { .. } => {
                "ALTER TABLE ... ENGINE=InnoDB, or take its [[table]] out of the plan, and start the \
                 daemons again"
            }
            ReadError::Rule { source, .. } => {
                return Some(format!(
                    "{} (the [[table]] of the plan), and start the daemons again",
                    source.hint()
                ));
            }
            ReadError::NoKeyColumn { .. } => {
                "correct key of that [[table]] in the plan (modshift check names what there is), and \
                 start the daemons again"
            }
            // Of a row of the copy; what lies in a group has a way past it.
            ReadError::Row { .. } | ReadError::Value { .. } => {
                "the row or its table was altered while it was read: start the daemons again. If it \
                 comes again, modshift check names what cannot be carried over; change that row, or \
                 take the [[table]] out of the plan"
            }
            ReadError::NoGroup { .. } => {
                "start the daemons again; if it stops at the same place, the binlog file is damaged: \
                 check it with mariadb-binlog --verify-binlog-checksum, and start over with `modshift \
                 restart-copy`"
            }
            // Their way past the group is all there is to say.
            ReadError::Statement { .. }
            | ReadError::RollbackInGroup { .. }
            | ReadError::GroupTooLarge { .. }
            | ReadError::Firm { .. }
            // It is tried again at once.
            | ReadError::GroupGone { .. } => return None,
        };
        Some(text.to_owned())
    }
}

const WITHOUT_BINLOG: &str = "it was changed without the binlog (sql_log_bin = 0), or by a DDL \
     further on in it, at which the reader would halt as well; undo the change in the way it was \
     made, start the daemons";

#[cfg(test)]
mod tests {
    use modshift_changelog::LogError;
    use modshift_mariadb::CatalogError;
    use modshift_mariadb::value::ValueError;
    use modshift_proto::row::RowError;
    use modshift_proto::rule::RuleError;
    use modshift_proto::{GroupDigest, GtidSet};

    use super::*;
    use crate::error::Class;

    #[test]
    fn a_halt_that_lies_in_one_group_names_the_command_that_passes_it_over() {
        let gtid = "0-101-77".parse().expect("a GTID");
        let what = Foreign::Unknown { statement: "CALL p()".to_owned() };
        let error = ReadError::Statement { shard: OldShard(1), gtid, what };
        assert_eq!(error.skips(), Some(gtid));
        let hint = error.hint_for(Direction::Forward).expect("a hint");
        let command = "`modshift skip --source 1 --gtid 0-101-77 --why \"REASON\"`";
        assert!(hint.contains(command) && hint.contains("`modshift verify --repair`"), "{hint}");
        assert!(!hint.contains("restart-copy"), "{hint}");
        let hint = error.hint_for(Direction::Back).expect("a hint");
        let command = "`modshift skip --back --source 1 --gtid 0-101-77 --why \"REASON\"`";
        assert!(
            hint.contains(command) && hint.contains("`modshift verify --back --repair`"),
            "{hint}"
        );
        // Raising the limit keeps more, and comes first.
        let large = ReadError::HeldTooLarge { shard: OldShard(1), gtid, max: 7 };
        let hint = large.hint_for(Direction::Forward).expect("a hint");
        assert!(
            hint.starts_with("raise reader.spill_max") && hint.contains("modshift skip"),
            "{hint}"
        );
    }

    #[test]
    fn what_cannot_be_passed_over_names_another_way() {
        let gtid = "0-101-77".parse().expect("a GTID");
        let what = Foreign::Unknown { statement: "CALL p()".to_owned() };
        let error = ReadError::Statement { shard: OldShard(1), gtid, what };
        let firm = ReadError::Firm { error: Box::new(error), why: crate::tail::NOT_SERVING };
        assert_eq!(firm.skips(), None);
        for (direction, command) in [
            (Direction::Forward, "`modshift rearm --shard 1 --old`"),
            (Direction::Back, "`modshift rearm --shard 1`"),
        ] {
            let hint = firm.hint_for(direction).expect("a hint");
            assert!(hint.contains(command) && !hint.contains("modshift skip"), "{hint}");
        }
        let (expected, found) = (gtid, "0-101-78".parse().expect("a GTID"));
        let lost = ReadError::HistoryMissing { shard: OldShard(1), expected, found };
        assert_eq!(lost.skips(), None);
        assert!(lost.hint_for(Direction::Forward).expect("a hint").contains("restart-copy"));
        // A row of the copy lies in no group.
        let (table, position) = ("t".to_owned(), "the copy".to_owned());
        let stray =
            ReadError::Stray { shard: OldShard(1), table, position, group: None, placed: 0 };
        assert!(!stray.hint_for(Direction::Forward).expect("a hint").contains("modshift skip"));
    }

    /// One of each variant: a new one does not compile until it stands here.
    fn all() -> Vec<ReadError> {
        let shard = OldShard(1);
        let (table, text) = (|| "t".to_owned(), || "x".to_owned());
        let gtid: Gtid = "0-101-77".parse().unwrap();
        let digest = GroupDigest { gtid, checksum: 1 };
        let unreadable = || "x".parse::<GtidSet>().unwrap_err();
        let row = || RowError("x");
        let stray =
            |group| ReadError::Stray { shard, table: table(), position: text(), group, placed: 0 };
        let of_row = |group| ReadError::Row {
            shard,
            table: table(),
            position: text(),
            group,
            source: row(),
        };
        let foreign = |what| ReadError::Statement { shard, gtid, what };
        let verb = || "INSERT".to_owned();
        let all = vec![
            ServerError::NoSchema { at: text(), message: text() }.into(),
            CatalogError::Form { at: text(), doing: "x" }.into(),
            BinlogError::NotAnEvent { at: text() }.into(),
            LogError::NoTopic { topic: text() }.into(),
            ReadError::Superseded { shard, ours: 1, theirs: 2 },
            ReadError::ProgressLost { shard },
            ReadError::ProgressUnreadable { shard, source: unreadable() },
            ReadError::HistoryChanged { shard, expected: digest, found: digest },
            ReadError::HistoryMissing { shard, expected: gtid, found: gtid },
            ReadError::GroupChanged { shard, gtid, events: 1 },
            ReadError::SequenceBack { shard, last: gtid, found: gtid },
            ReadError::NoGroup { shard, what: "rows" },
            stray(Some(gtid)),
            stray(None),
            of_row(Some(gtid)),
            of_row(None),
            ReadError::Value { shard, table: table(), source: ValueError::Decimal },
            ReadError::Rule {
                shard,
                table: table(),
                source: RuleError::Generated { column: text() },
            },
            ReadError::NoKeyColumn { shard, table: table(), column: text() },
            ReadError::NoPrimaryKey { shard, table: table() },
            ReadError::Engine { shard, table: table(), engine: text() },
            ReadError::Unpageable { shard, table: table(), statement: text() },
            ReadError::Drift { shard, at: text(), table: table(), differences: text() },
            ReadError::PlanChanged { shard, changed: text() },
            ReadError::ForeignWrite { shard, gtid, table: table() },
            ReadError::CopyWhileApplying { shard, table: table() },
            ReadError::ReplicaBehind { shard, at: text(), start: GtidSet::default() },
            foreign(Foreign::Group(gtid)),
            foreign(Foreign::Xa("an end")),
            foreign(Foreign::XaUnprepared(text())),
            foreign(Foreign::Ddl { what: text(), statement: text() }),
            foreign(Foreign::StatementFormat { verb: verb(), statement: text() }),
            foreign(Foreign::Unseen { verb: verb(), statement: text(), why: text() }),
            foreign(Foreign::Unknown { statement: text() }),
            ReadError::RollbackInGroup { shard, gtid },
            ReadError::GroupCut { shard, gtid },
            ReadError::Spill { shard, gtid, dir: text(), detail: text() },
            ReadError::HeldTooLarge { shard, gtid, max: 1 },
            ReadError::GroupTooLarge { shard, gtid },
            ReadError::OwnGroup { shard, gtid },
            ReadError::GroupGone { shard, gtid },
            ReadError::Firm { error: Box::new(ReadError::GroupTooLarge { shard, gtid }), why: "x" },
            ReadError::Firm {
                error: Box::new(ReadError::GroupTooLarge { shard, gtid }),
                why: crate::tail::NOT_SERVING,
            },
        ];
        for error in &all {
            match error {
                ReadError::Server(_)
                | ReadError::Catalog(_)
                | ReadError::Binlog(_)
                | ReadError::Log(_)
                | ReadError::Superseded { .. }
                | ReadError::ProgressLost { .. }
                | ReadError::ProgressUnreadable { .. }
                | ReadError::HistoryChanged { .. }
                | ReadError::HistoryMissing { .. }
                | ReadError::GroupChanged { .. }
                | ReadError::SequenceBack { .. }
                | ReadError::NoGroup { .. }
                | ReadError::Stray { .. }
                | ReadError::Row { .. }
                | ReadError::Value { .. }
                | ReadError::Rule { .. }
                | ReadError::NoKeyColumn { .. }
                | ReadError::NoPrimaryKey { .. }
                | ReadError::Engine { .. }
                | ReadError::Unpageable { .. }
                | ReadError::Drift { .. }
                | ReadError::PlanChanged { .. }
                | ReadError::ForeignWrite { .. }
                | ReadError::CopyWhileApplying { .. }
                | ReadError::ReplicaBehind { .. }
                | ReadError::Statement { .. }
                | ReadError::RollbackInGroup { .. }
                | ReadError::GroupCut { .. }
                | ReadError::Spill { .. }
                | ReadError::HeldTooLarge { .. }
                | ReadError::GroupTooLarge { .. }
                | ReadError::OwnGroup { .. }
                | ReadError::GroupGone { .. }
                | ReadError::Firm { .. } => {}
            }
        }
        all
    }

    #[test]
    fn every_halt_of_either_way_names_what_goes_on_with_the_stream() {
        const WAYS: [&str; 5] = [
            "start the daemon",
            "start them",
            "`modshift restart-copy`",
            "`modshift skip",
            "goes on by itself",
        ];
        for error in all().iter().filter(|error| error.class() == Class::Halt) {
            // It waits for the other one to go away.
            if matches!(error, ReadError::Superseded { .. } | ReadError::Log(_)) {
                continue;
            }
            for direction in [Direction::Forward, Direction::Back] {
                let hint = error.hint_for(direction).unwrap_or_default();
                assert!(
                    WAYS.iter().any(|way| hint.contains(way)),
                    "{direction:?}: {error}: {hint}"
                );
                let copies = hint.contains("restart-copy");
                assert!(direction == Direction::Forward || !copies, "{error}: {hint}");
            }
        }
    }
}
