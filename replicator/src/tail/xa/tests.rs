use super::*;
use crate::binlog::fuzz::{events, planned};

const INSERT: &[u8] = include_bytes!("../../../testdata/insert.group");

const QUERY: u8 = 2;
const XA_PREPARE: u8 = 38;
const GTID: u8 = 162;
const PREPARES: u8 = 64;
const COMPLETES: u8 = 128;
const COMMITTED: u64 = 100;

fn event(code: u8, body: &[u8]) -> Vec<u8> {
    let mut event = vec![0; 19];
    event[4] = code;
    event[5] = 1;
    event.extend_from_slice(body);
    event
}

/// A group that prepares or completes a transaction of this name.
fn begin(seq: u64, flags: u8, name: u8) -> Vec<u8> {
    let xid = [1, 0, 0, 0, 1, 0, name];
    event(GTID, &[&seq.to_le_bytes()[..], &[0; 4], &[flags], &xid].concat())
}

fn statement(sql: &str) -> Vec<u8> {
    event(QUERY, &[&[0; 14][..], sql.as_bytes()].concat())
}

/// As captured, without what begins and commits the group.
fn rows() -> Vec<Vec<u8>> {
    let is_row = |event: &&[u8]| matches!(event.get(4), Some(19..=25));
    events(INSERT).into_iter().filter(is_row).map(<[u8]>::to_vec).collect()
}

fn prepare(seq: u64, name: u8, within: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let end = event(XA_PREPARE, &[0; 14]);
    [&[begin(seq, PREPARES, name)], within, &[end]].concat()
}

fn complete(seq: u64, how: &str) -> Vec<Vec<u8>> {
    vec![begin(seq, COMPLETES, b'x'), statement(&format!("XA {how} X'78',X'',1"))]
}

fn looking() -> LookBack {
    let gtid = |seq| Gtid { domain: 0, server: 1, seq };
    let mut decoder = Decoder::new(Vec::new()).expect("without tables");
    let named = begin(1, PREPARES, b'x');
    let Event::Gtid(GtidEvent { xid: Some(xid), .. }) = decoder.decode(&named).expect("good")
    else {
        panic!("no name");
    };
    let spill = Spill { dir: std::env::temp_dir(), max: 1 << 20 };
    let (shard, committed) = (OldShard(0), gtid(COMMITTED));
    let table = planned();
    let names = Names::new(table.schema_name, false, vec![table.table.name.clone()]);
    let names = Arc::new(names);
    LookBack {
        shard,
        committed,
        xid,
        names,
        spill,
        questions: Vec::new(),
        group: None,
        ending: false,
        found: None,
        rolled_back: false,
    }
}

/// What one file shows: rows or none of a planned table, or nothing of the transaction.
fn shown(decoder: &mut Decoder, file: &[Vec<Vec<u8>>]) -> Result<(Option<bool>, bool), ReadError> {
    let mut looking = looking();
    for event in file.concat() {
        if looking.event(decoder, &event)? == Older::Commits {
            break;
        }
    }
    let over = looking.is_over();
    Ok((looking.branch().map(|branch| matches!(branch, Branch::Rows(_))), over))
}

fn check(file: &[Vec<Vec<u8>>], expected: (Option<bool>, bool)) {
    let mut decoder = Decoder::new(vec![planned()]).expect("as planned");
    assert_eq!(shown(&mut decoder, file).expect("passes"), expected);
}

#[test]
fn a_transaction_is_found_as_it_was_prepared_last() {
    let commit = || complete(COMMITTED, "COMMIT");
    check(&[prepare(1, b'x', &rows()), commit()], (Some(true), false));
    check(&[prepare(1, b'x', &[]), commit()], (Some(false), false));
    check(&[prepare(1, b'y', &rows()), commit()], (None, false));
    check(&[commit(), prepare(101, b'x', &rows())], (None, false));
    let cut = vec![begin(1, PREPARES, b'x'), rows().swap_remove(0)];
    check(&[cut, commit()], (None, false));
}

#[test]
fn what_was_rolled_back_is_over_and_what_a_crash_left_prepared_is_not() {
    let (first, last) = (prepare(1, b'x', &rows()), complete(COMMITTED, "COMMIT"));
    check(&[first.clone(), complete(2, "COMMIT"), last.clone()], (Some(true), false));
    check(&[first.clone(), complete(2, "ROLLBACK"), last.clone()], (None, true));
    check(&[complete(2, "ROLLBACK"), last.clone()], (None, true));
    check(&[complete(2, "COMMIT"), last.clone()], (None, false));
    let again = prepare(3, b'x', &[]);
    check(&[first, complete(2, "ROLLBACK"), again, last], (Some(false), false));
}

#[test]
fn rows_of_others_are_not_read_by_a_definition_of_today() {
    let mut altered = planned();
    let mut table = (*altered.table).clone();
    table.columns.pop();
    altered.table = table.into();
    let mut decoder = Decoder::new(vec![altered]).expect("as altered");
    let others = [rows(), prepare(1, b'y', &rows())];
    let sought = prepare(2, b'x', &[statement("INSERT INTO ops.t VALUES (1)")]);
    let file = [&others[..], &[sought], &others].concat();
    assert_eq!(shown(&mut decoder, &file).expect("passed over"), (Some(false), false));
    let file = [prepare(1, b'x', &rows())];
    assert!(matches!(shown(&mut decoder, &file), Err(ReadError::Binlog(_))));
}

#[test]
fn only_a_rollback_to_a_savepoint_takes_planned_rows_back() {
    let mut decoder = Decoder::new(vec![planned()]).expect("as planned");
    let mut with = |sql: &str| {
        let within = [rows(), vec![statement(sql)]].concat();
        shown(&mut decoder, &[prepare(1, b'x', &within)])
    };
    for sql in ["SAVEPOINT a", "RELEASE SAVEPOINT a"] {
        assert_eq!(with(sql).expect("passes"), (Some(true), false), "{sql}");
    }
    for sql in ["ROLLBACK TO a", "ROLLBACK WORK TO SAVEPOINT `a`", "SAVEPOINT a b"] {
        assert!(matches!(with(sql), Err(ReadError::RollbackInGroup { .. })), "{sql}");
    }
    let early = [vec![statement("ROLLBACK TO a")], rows()].concat();
    check(&[prepare(1, b'x', &early)], (Some(true), false));
}

/// What one file that prepares the transaction with this statement shows, and what is to be asked.
fn with_statement(sql: &str) -> Result<(Option<bool>, Vec<Question>), ReadError> {
    let mut decoder = Decoder::new(vec![planned()]).expect("as planned");
    let mut looking = looking();
    for event in prepare(1, b'x', &[statement(sql)]) {
        looking.event(&mut decoder, &event)?;
    }
    let questions = looking.questions();
    Ok((looking.branch().map(|branch| matches!(branch, Branch::Rows(_))), questions))
}

#[test]
fn a_statement_that_writes_planned_rows_unseen_halts_where_it_was_not_read_live() {
    let table = planned();
    let planned = format!("INSERT INTO `{}`.`{}` VALUES (1)", table.schema_name, table.table.name);
    for (sql, by_name) in [(planned.as_str(), true), ("what is this", false)] {
        let Err(ReadError::Statement { what, .. }) = with_statement(sql) else {
            panic!("{sql} passes");
        };
        assert_eq!(matches!(what, Foreign::StatementFormat { .. }), by_name, "{sql}: {what}");
    }
    let (rows, questions) = with_statement("INSERT INTO ops.t VALUES (f())").expect("passes");
    assert_eq!(rows, Some(false));
    // Whether that has triggers, or the function is a stored one.
    assert_eq!(questions.len(), 1, "{questions:?}");
    assert_eq!(questions[0].targets, [("ops".to_owned(), "t".to_owned())]);
    assert_eq!(questions[0].calls, ["f"]);
}

#[test]
fn what_no_longer_fits_goes_from_the_oldest_on() {
    let xid = |number: usize| {
        let mut decoder = Decoder::new(Vec::new()).expect("without tables");
        let xid = [1, 0, 0, 0, 2, 0, (number / 250) as u8, (number % 250) as u8];
        let begin = event(GTID, &[&1u64.to_le_bytes()[..], &[0; 4], &[PREPARES], &xid].concat());
        match decoder.decode(&begin).expect("good") {
            Event::Gtid(GtidEvent { xid: Some(xid), .. }) => xid,
            _ => panic!("no name"),
        }
    };
    let mut branches = Branches::default();
    for number in 0..=BRANCHES_MAX {
        branches.keep(xid(number), Branch::Nothing);
    }
    assert!(branches.take(&xid(0)).is_none(), "the oldest");
    assert!(branches.take(&xid(1)).is_some() && branches.take(&xid(BRANCHES_MAX)).is_some());
    assert_eq!(branches.known.len(), branches.ages.len());
}
