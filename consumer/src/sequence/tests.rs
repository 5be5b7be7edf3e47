use modshift_proto::message::{Body, Change, Envelope, Op, Start, Token, TokenPhase};
use modshift_proto::{GroupDigest, OldShard, Position};

use super::{Dropped, SequenceError, Stream, Verdict};

/// Feeds one line per message and gives one word per verdict:
/// `epoch.number body`, where the body is `start GTIDS [DIGEST] [initial] [anew] [tables] [skips=GTID]`
/// (`tables`: others than without the word), `token GTIDS CHECKSUM`,
/// `row GTID:ORDINAL` or `chunk`.
fn feed(stream: &mut Stream, line: &str) -> Result<String, SequenceError> {
    let mut words = line.split_whitespace();
    let (epoch, number) = words.next().unwrap().split_once('.').unwrap();
    let envelope = Envelope {
        source: OldShard(1),
        epoch: epoch.parse().unwrap(),
        number: number.parse().unwrap(),
    };
    let body = match words.next().unwrap() {
        "start" => {
            let gtids = words.next().unwrap().parse().unwrap();
            let rest: Vec<&str> = words.collect();
            let digest = rest.iter().find(|word| word.contains('#'));
            Body::Start(Start {
                gtids,
                digest: digest.map(|text| text.parse().unwrap()),
                initial: rest.contains(&"initial"),
                anew: rest.iter().filter(|word| **word == "anew").map(|_| "t".to_owned()).collect(),
                tables: u32::from(rest.contains(&"tables")),
                skipped: rest
                    .iter()
                    .filter_map(|word| word.strip_prefix("skips="))
                    .map(|gtid| gtid.parse().unwrap())
                    .collect(),
            })
        }
        "token" => {
            let gtids: modshift_proto::GtidSet = words.next().unwrap().parse().unwrap();
            let last = gtids.iter().next().unwrap();
            let checksum = u32::from_str_radix(words.next().unwrap(), 16).unwrap();
            let digest = GroupDigest { gtid: last, checksum };
            Body::Token(Token {
                gtids,
                digest,
                writes: 1,
                clock_us: 7,
                copied: true,
                phase: TokenPhase::Serving,
                fence: None,
                beat: false,
            })
        }
        kind => {
            let position = (kind == "row").then(|| {
                let (gtid, ordinal) = words.next().unwrap().split_once(':').unwrap();
                Position { gtid: gtid.parse().unwrap(), ordinal: ordinal.parse().unwrap() }
            });
            Body::Change(Change { table: 0, fingerprint: 0, position, op: Op::Upsert, row: &[] })
        }
    };
    stream.accept(&envelope, &body).map(|verdict| match verdict {
        Verdict::Apply => "apply".to_owned(),
        Verdict::Progress => "progress".to_owned(),
        Verdict::Drop(reason) => format!("drop {}", reason.name()),
    })
}

/// Each line `message => verdict`; an error is written as its `reason`.
#[track_caller]
fn check(script: &str) -> Stream {
    let mut stream = Stream::new(OldShard(1), None);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (message, expected) = line.split_once(" => ").unwrap();
        let before = stream.mark().cloned();
        let found = feed(&mut stream, message).unwrap_or_else(|error| {
            assert_eq!(stream.mark(), before.as_ref(), "moved by an error: {line}");
            error.reason().to_owned()
        });
        assert_eq!(found, expected, "{line}");
    }
    stream
}

#[test]
fn the_first_message_ever_is_an_initial_marker() {
    check("5.3 row 0-1-9:0 => no_marker");
    check("5.1 start 0-1-8 initial => no_marker");
    check("5.0 start 0-1-8 0-1-8#0000000a => no_watermark");
    check("5.0 start 0-1-8 initial => progress");
}

#[test]
fn numbers_have_no_gap_and_no_repeat() {
    check(
        "5.0 start 0-1-8 initial => progress
         5.2 row 0-1-9:0 => gap
         5.1 row 0-1-9:0 => apply
         5.1 row 0-1-9:0 => drop number
         5.0 start 0-1-8 initial => drop number
         5.2 start 0-1-8 initial => marker_inside
         4.2 row 0-1-9:2 => drop epoch
         5.2 chunk => apply
         6.1 row 0-1-9:0 => no_marker
         5.4 chunk => gap",
    );
}

#[test]
fn what_a_table_new_to_the_plan_had_before_the_last_change_is_dropped() {
    let begin = "5.0 start 0-1-8 initial => progress
         5.1 row 0-1-9:0 => apply
         5.2 row 0-1-12:4 => apply\n";
    let new_table = "6.0 start 0-1-8 anew => progress
         6.1 row 0-1-10:0 => drop position
         6.2 row 0-1-12:2 => drop position
         6.3 row 0-1-12:4 => drop position
         6.4 row 0-1-13:0 => apply";
    check(&format!("{begin}{new_table}"));
    // Without one it is a server that gives out its sequence numbers again.
    check(&format!("{begin}6.0 start 0-1-8 => progress\n6.1 row 0-1-10:0 => backwards"));
}

#[test]
fn a_replay_is_dropped_up_to_the_change_that_was_applied() {
    let stream = check(
        "5.0 start 0-1-8 initial => progress
         5.1 token 0-1-9 a => progress
         5.2 row 0-1-10:0 => apply
         5.3 row 0-1-11:0 => apply
         5.4 row 0-1-11:2 => apply
         6.0 start 0-1-8 initial => progress
         6.1 token 0-1-9 a => progress
         6.2 row 0-1-10:0 => drop position
         6.3 row 0-1-11:0 => drop position
         6.4 row 0-1-11:2 => drop position
         6.5 row 0-1-11:4 => apply
         6.6 row 0-1-12:0 => apply",
    );
    assert_eq!(stream.mark().unwrap().gtids.to_string(), "0-1-11");
}

#[test]
fn a_token_completes_everything_in_its_set() {
    let stream = check(
        "5.0 start 0-1-8 initial => progress
         5.1 row 0-1-10:0 => apply
         5.2 token 0-1-12 a => progress
         5.3 row 0-1-12:0 => drop position",
    );
    let mark = stream.mark().unwrap();
    assert_eq!((mark.gtids.to_string().as_str(), mark.partial), ("0-1-12", None));
    assert!(mark.copied && !mark.proof_pending());
}

#[test]
fn a_reader_may_only_resume_at_or_before_what_was_applied() {
    let begun = "5.0 start 0-1-8 initial => progress
         5.1 token 0-1-9 a => progress";
    check(&format!("{begun}\n 6.0 start 0-1-10 0-1-10#0000000b => not_covered"));
    check(&format!("{begun}\n 6.0 start 1-1-3 1-1-3#0000000b => not_covered"));
    check(&format!("{begun}\n 6.0 start 0-1-9 0-1-9#0000000b => lost_tail"));
    check(&format!("{begun}\n 6.0 start 0-2-9 0-2-9#0000000a => lost_tail"));
    check(&format!("{begun}\n 6.0 start 0-1-9 initial => foreign_resume"));
    let same = check(&format!("{begun}\n 6.0 start 0-1-9 0-1-9#0000000a => progress"));
    assert!(!same.mark().unwrap().proof_pending());
    let earlier = check(&format!("{begun}\n 6.0 start 0-1-8 initial => progress"));
    assert!(earlier.mark().unwrap().proof_pending());
}

#[test]
fn a_server_that_lost_its_tail_is_noticed_before_anything_of_it_is_applied() {
    let begun = "5.0 start 0-1-8 initial => progress
         5.1 row 0-1-9:0 => apply
         5.2 token 0-1-10 a => progress
         6.0 start 0-1-8 initial => progress
         6.1 row 0-1-9:0 => drop position";
    check(&format!("{begun}\n 6.2 token 0-1-10 b => lost_tail"));
    check(&format!("{begun}\n 6.2 token 0-2-10 a => lost_tail"));
    check(&format!("{begun}\n 6.2 row 0-1-10:0 => lost_tail"));
    check(&format!("{begun}\n 6.2 row 0-1-11:0 => lost_tail"));
    check(&format!("{begun}\n 6.2 token 0-1-11 a => lost_tail"));
    let proven =
        check(&format!("{begun}\n 6.2 token 0-1-10 a => progress\n 6.3 row 0-1-11:0 => apply"));
    assert!(!proven.mark().unwrap().proof_pending());
}

#[test]
fn a_pending_proof_outlives_the_reader_that_owed_it() {
    check(
        "5.0 start 0-1-8 initial => progress
         5.1 token 0-1-10 a => progress
         6.0 start 0-1-8 initial => progress
         7.0 start 0-1-8 initial => progress
         6.1 token 0-1-10 a => drop epoch
         7.1 row 0-1-11:0 => lost_tail
         7.1 token 0-1-10 a => progress
         7.2 row 0-1-11:0 => apply",
    );
}

#[test]
fn a_group_that_was_half_applied_must_come_again() {
    let begun = "5.0 start 0-1-8 initial => progress
         5.1 row 0-1-9:0 => apply
         6.0 start 0-1-8 initial => progress";
    check(&format!("{begun}\n 6.1 row 0-1-10:0 => other_group"));
    check(&format!("{begun}\n 6.1 row 0-2-9:2 => other_group"));
    check(&format!("{begun}\n 6.1 token 0-1-10 a => other_group"));
    check(&format!("{begun}\n 6.1 row 1-1-1:0 => domains"));
    check(&format!("{begun}\n 6.1 row 0-1-9:0 => drop position\n 6.2 row 1-1-1:0 => apply"));
}

#[test]
fn sequence_numbers_rise_within_a_domain() {
    check(
        "5.0 start 0-1-8 initial => progress
         5.1 row 0-1-10:0 => apply
         5.2 row 0-1-9:0 => backwards
         5.2 row 0-1-10:0 => backwards
         5.2 row 3-1-2:0 => apply
         5.3 row 3-1-1:0 => backwards
         5.3 token 0-1-11,3-1-2 a => progress",
    );
}

#[test]
fn snapshot_rows_count_by_number_alone() {
    let stream = check(
        "5.0 start 0-1-8 initial => progress
         5.1 chunk => apply
         5.2 chunk => apply
         5.2 chunk => drop number",
    );
    assert_eq!(stream.mark().unwrap().gtids.to_string(), "0-1-8");
    assert_eq!(Dropped::Number.name(), "number");
}

#[test]
fn a_group_logged_under_other_tables_need_not_come_again() {
    let begun = "5.0 start 0-1-8 initial => progress
                 5.1 token 0-1-8 a => progress
                 5.2 row 0-1-9:0 => apply
                 5.3 row 0-1-9:4 => apply";
    // The table of its last change has left; and the reader is replaced once more before the next.
    let left = "6.0 start 0-1-8 0-1-8#0000000a tables => progress
                7.0 start 0-1-8 0-1-8#0000000a tables => progress";
    let stream = check(&format!("{begun}\n{left}\n7.1 row 0-1-10:0 => apply"));
    assert_eq!(stream.mark().unwrap().gtids.to_string(), "0-1-9");
    let stream = check(&format!("{begun}\n{left}\n7.1 token 0-1-10 b => progress"));
    assert_eq!(stream.mark().unwrap().partial, None);
    // What is left of it comes, and counts once.
    check(&format!("{begun}\n{left}\n7.1 row 0-1-9:0 => drop position\n7.2 row 0-1-9:6 => apply"));
    // From then on all is as ever.
    check(&format!(
        "{begun}\n{left}\n7.1 row 0-1-10:0 => apply
         8.0 start 0-1-8 0-1-8#0000000a tables => progress\n8.1 row 0-1-11:0 => other_group"
    ));
    // With the same tables it has to come.
    let same = "6.0 start 0-1-8 0-1-8#0000000a => progress";
    check(&format!("{begun}\n{same}\n6.1 row 0-1-10:0 => other_group"));
    check(&format!("{begun}\n{same}\n6.1 token 0-1-10 b => other_group"));
}

#[test]
fn of_a_group_that_is_passed_over_nothing_more_comes() {
    let begun = "5.0 start 0-1-8 initial => progress
                 5.1 row 0-1-9:0 => apply
                 5.2 row 0-1-10:0 => apply
                 5.3 row 0-1-10:4 => apply";
    let skips = "6.0 start 0-1-8 initial skips=0-1-10 => progress
                 6.1 row 0-1-9:0 => drop position";
    let stream = check(&format!("{begun}\n{skips}\n6.2 row 0-1-11:0 => apply"));
    assert_eq!(stream.mark().unwrap().gtids.to_string(), "0-1-10");
    let stream = check(&format!("{begun}\n{skips}\n6.2 token 0-1-11 a => progress"));
    assert_eq!(stream.mark().unwrap().partial, None);
    // The next reader says so again; and where none does, the group has to come.
    let again = "7.0 start 0-1-8 initial skips=0-1-10 => progress\n7.1 row 0-1-11:0 => apply";
    check(&format!("{begun}\n{skips}\n{again}"));
    let other = "6.0 start 0-1-8 initial skips=0-1-9 => progress\n6.1 row 0-1-11:0 => other_group";
    check(&format!("{begun}\n{other}"));
}

#[test]
fn where_nobody_can_tell_whether_a_group_goes_on_its_tables_in_the_plan_again_are_the_way_out() {
    let begun = "5.0 start 0-1-8,1-1-3 initial => progress
                 5.1 row 0-1-9:0 => apply
                 5.2 row 0-1-9:4 => apply
                 6.0 start 0-1-8,1-1-3 initial tables => progress
                 6.1 row 1-1-4:0 => domains_without_tables";
    // As the message says: the tables are back, and one of them is copied anew.
    for back in ["", " anew"] {
        let stream = check(&format!(
            "{begun}
             7.0 start 0-1-8,1-1-3 initial{back} => progress
             7.1 row 0-1-9:0 => drop position
             7.2 row 0-1-9:4 => drop position
             7.3 row 0-1-9:6 => apply
             7.4 row 1-1-4:0 => apply"
        ));
        assert_eq!(stream.mark().unwrap().gtids.to_string(), "0-1-9,1-1-3");
    }
    // A token of beyond it tells, too.
    check(&format!("{begun}\n6.1 token 0-1-9,1-1-3 a => progress\n6.2 row 1-1-4:0 => apply"));
    let (partial, found) = ("0-1-9".parse().unwrap(), "1-1-4".parse().unwrap());
    let error = SequenceError::DomainsWithoutTables { old: OldShard(1), partial, found };
    let said = format!("{error}; {}", error.hint());
    for part in ["0-1-9 was half applied", "tables have left the plan", "put the tables"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("fresh copy"), "{said}");
}
