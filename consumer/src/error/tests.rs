use modshift_proto::row::RowError;
use modshift_proto::rule::RuleError;
use modshift_proto::{GroupDigest, Gtid, GtidSet, Position};

use super::*;

fn text() -> String {
    "x".to_owned()
}

/// One of each variant: a new one does not compile until it stands here.
fn sequences() -> Vec<SequenceError> {
    let old = OldShard(1);
    let gtid: Gtid = "0-101-77".parse().unwrap();
    let digest = GroupDigest { gtid, checksum: 1 };
    let set = GtidSet::default;
    let position = Position { gtid, ordinal: 1 };
    let all = vec![
        SequenceError::Gap { old, epoch: 1, expected: 2, found: 3 },
        SequenceError::NoMarker { old, epoch: 1, found: 3 },
        SequenceError::MarkerInside { old, number: 3 },
        SequenceError::NoWatermark { old, resumes_after: set() },
        SequenceError::NotCovered { old, resumes_after: set(), applied: set() },
        SequenceError::ForeignResume { old, resumes_after: set(), newest: digest },
        SequenceError::LostTail { old, applied: digest, found: text() },
        SequenceError::OtherGroup { old, had: gtid, found: gtid },
        SequenceError::Backwards { old, had: position, found: position },
        SequenceError::Domains { old, partial: gtid, found: gtid },
        SequenceError::DomainsWithoutTables { old, partial: gtid, found: gtid },
    ];
    for error in &all {
        match error {
            SequenceError::Gap { .. }
            | SequenceError::NoMarker { .. }
            | SequenceError::MarkerInside { .. }
            | SequenceError::NoWatermark { .. }
            | SequenceError::NotCovered { .. }
            | SequenceError::ForeignResume { .. }
            | SequenceError::LostTail { .. }
            | SequenceError::OtherGroup { .. }
            | SequenceError::Backwards { .. }
            | SequenceError::Domains { .. }
            | SequenceError::DomainsWithoutTables { .. } => {}
        }
    }
    all
}

fn changes() -> Vec<ChangeError> {
    let (old, new) = (OldShard(1), NewShard(2));
    let table = || "t".to_owned();
    let all = vec![
        ChangeError::UnknownTable { table: 3, tables: 2 },
        ChangeError::UnplannedTable { table: table() },
        ChangeError::Definition { table: table(), old, new, sent: 1, own: 2 },
        ChangeError::Misrouted { table: table(), old, new, place: 0 },
        ChangeError::Stray { table: table(), old, place: 0 },
        ChangeError::Feeder { table: table(), from: old, old },
        ChangeError::Row { table: table(), error: RowError("x") },
    ];
    for error in &all {
        match error {
            ChangeError::UnknownTable { .. }
            | ChangeError::UnplannedTable { .. }
            | ChangeError::Definition { .. }
            | ChangeError::Misrouted { .. }
            | ChangeError::Stray { .. }
            | ChangeError::Feeder { .. }
            | ChangeError::Row { .. } => {}
        }
    }
    all
}

fn targets() -> Vec<TargetError> {
    let table = || "t".to_owned();
    let all = vec![
        TargetError::NoPrimaryKey { table: table() },
        TargetError::GeneratedKey { table: table(), column: text() },
        TargetError::NoShardKey { table: table(), column: text() },
        TargetError::Rule { table: table(), error: RuleError::Generated { column: text() } },
    ];
    for error in &all {
        match error {
            TargetError::NoPrimaryKey { .. }
            | TargetError::GeneratedKey { .. }
            | TargetError::NoShardKey { .. }
            | TargetError::Rule { .. } => {}
        }
    }
    all
}

fn all() -> Vec<ApplyError> {
    let (old, new) = (OldShard(1), NewShard(2));
    let table = || "t".to_owned();
    let record = || {
        let (topic, partition, offset) = (text(), 2, 7);
        Some(Box::new(Record { topic, partition, offset }))
    };
    let message =
        |record| ApplyError::Message { new, record, error: MessageError::Malformed(text()) };
    let rows = |code| {
        let (at, state, message) = (text(), text(), text());
        let error = Box::new(ServerError::Statement { at, doing: "x", code, state, message });
        ApplyError::Rows { new, table: table(), columns: text(), error }
    };
    let duplicate = Duplicate {
        new,
        table: table(),
        columns: text(),
        key: text(),
        old,
        holder: text(),
        waited_s: 60,
        values: text(),
    };
    let refused = Refused {
        new,
        table: table(),
        columns: text(),
        old,
        why: text(),
        waited_s: 60,
        values: text(),
    };
    let mut all = vec![
        ServerError::NoSchema { at: text(), message: text() }.into(),
        CatalogError::Form { at: text(), doing: "x" }.into(),
        LogError::NoTopic { topic: text() }.into(),
        message(record()),
        message(None),
        ApplyError::OtherVersion {
            new,
            record: record(),
            old,
            error: MessageError::Version { found: 9 },
        },
        ApplyError::OtherVersion { new, record: None, old, error: MessageError::Malformed(text()) },
        ApplyError::UnknownSource { new, record: record(), old, shards: 1 },
        ApplyError::UnknownSource { new, record: None, old, shards: 1 },
        ApplyError::Drift { new, table: table(), differences: text() },
        ApplyError::Value { new, table: table(), error: ValueError::Decimal },
        ApplyError::TakenOver { new },
        ApplyError::NotThereYet { new, at: text(), coming: Coming::No },
        ApplyError::CommitsLost { new, at: text(), coming: Coming::No },
        ApplyError::Triggers { new, triggers: text() },
        ApplyError::HandedOver { new },
        ApplyError::Serves { new, table: table() },
        ApplyError::Control { new, table: "modshift_watermark", detail: text() },
        rows(1118),
        rows(1146),
        rows(1264),
        ApplyError::Duplicate(Box::new(duplicate)),
        ApplyError::Refused(Box::new(refused)),
        ApplyError::TooManyParked { new, parked: 2, limit: 1 },
    ];
    all.extend(sequences().into_iter().map(|error| ApplyError::Sequence { new, error }));
    all.extend(changes().into_iter().map(|error| ApplyError::Change { new, error }));
    all.extend(targets().into_iter().map(|error| ApplyError::Target { new, error }));
    for error in &all {
        match error {
            ApplyError::Server(_)
            | ApplyError::Catalog(_)
            | ApplyError::Log(_)
            | ApplyError::Message { .. }
            | ApplyError::OtherVersion { .. }
            | ApplyError::UnknownSource { .. }
            | ApplyError::Sequence { .. }
            | ApplyError::Change { .. }
            | ApplyError::Target { .. }
            | ApplyError::Drift { .. }
            | ApplyError::Value { .. }
            | ApplyError::TakenOver { .. }
            | ApplyError::NotThereYet { .. }
            | ApplyError::CommitsLost { .. }
            | ApplyError::Triggers { .. }
            | ApplyError::HandedOver { .. }
            | ApplyError::Serves { .. }
            | ApplyError::Control { .. }
            | ApplyError::Rows { .. }
            | ApplyError::Duplicate(_)
            | ApplyError::Refused(_)
            | ApplyError::TooManyParked { .. } => {}
        }
    }
    all
}

#[test]
fn every_halt_of_either_way_names_what_goes_on_with_the_stream() {
    const WAYS: [&str; 10] = [
        "start this consumer",
        "start the daemon",
        "start them",
        "start both",
        "start the consumer",
        "then start again",
        "restart the reader",
        "`modshift restart-copy`",
        "`modshift skip",
        "`modshift rearm`",
    ];
    for error in all().iter().filter(|error| error.class() != Class::Retry) {
        // What the change log says has a test of its own; one that was taken over waits.
        if matches!(error, ApplyError::TakenOver { .. } | ApplyError::Log(_)) {
            continue;
        }
        for direction in [Direction::Forward, Direction::Back] {
            let hint = error.hint_for(direction).unwrap_or_default();
            assert!(WAYS.iter().any(|way| hint.contains(way)), "{direction:?}: {error}: {hint}");
            let copies = hint.contains("restart-copy");
            assert!(direction == Direction::Forward || !copies, "{error}: {hint}");
        }
    }
}
