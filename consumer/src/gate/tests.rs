mod way_back;

use std::time::Duration;

use modshift_proto::message::TokenPhase;
use modshift_proto::plan::Gate;
use modshift_proto::{GroupDigest, OldShard};
use proptest::prelude::*;

use super::facts::{
    BackFacts, Beside, Coverage, Facts, NewFacts, OldFacts, Outside, ResyncFacts, TokenFacts,
    Verification,
};
use super::{Decision, Hold, Reason, SkipFacts, decide};
use crate::sequence::{TokenMark, Watermark};
use crate::watermark::Kept;

const SECOND: i64 = 1_000_000;

fn gate() -> Gate {
    Gate {
        max_lag: Duration::from_secs(1),
        max_lag_groups: 10,
        hold: Duration::from_secs(10),
        verify_age: None,
    }
}

/// One old and one new shard, all well.
fn well() -> Facts {
    let digest = GroupDigest { gtid: "0-1-100".parse().unwrap(), checksum: 1 };
    Facts {
        old: vec![Ok(OldFacts {
            read_only: false,
            now_us: 1000 * SECOND,
            gtids: "0-1-110".parse().unwrap(),
            token: Some(TokenFacts {
                epoch: 5,
                writes: 60,
                clock_us: 1000 * SECOND - 200_000,
                halted: None,
                phase: TokenPhase::Serving,
                fence: None,
            }),
            tables: Vec::new(),
            unrecorded: Vec::new(),
            repairs_refused: 0,
            resyncs: Vec::new(),
            skipped: Vec::new(),
            plan_changed: None,
        })],
        new: vec![Ok(NewFacts {
            marks: vec![Kept {
                source: OldShard(0),
                version: 1,
                mark: Watermark {
                    epoch: 5,
                    number: 9,
                    gtids: "0-1-100".parse().unwrap(),
                    partial: None,
                    token: Some(TokenMark { digest, awaited: false }),
                    token_clock_us: 1000 * SECOND - 300_000,
                    token_writes: 55,
                    copied: true,
                    tables: 0,
                },
                offset: None,
                halted: None,
            }],
            parked: 0,
            parked_ms: None,
            refused: 0,
            parked_for: Vec::new(),
        })],
        back: None,
        beside: None,
        coverage: Coverage::default(),
        outside: Outside { schema_differences: Some(Vec::new()), ..Outside::default() },
    }
}

fn old(facts: &mut Facts) -> &mut OldFacts {
    facts.old[0].as_mut().unwrap()
}

fn token(facts: &mut Facts) -> &mut TokenFacts {
    old(facts).token.as_mut().unwrap()
}

fn new(facts: &mut Facts) -> &mut NewFacts {
    facts.new[0].as_mut().unwrap()
}

fn mark(facts: &mut Facts) -> &mut Watermark {
    &mut new(facts).marks[0].mark
}

/// The decision after the same facts for longer than the hold.
fn settled(facts: &Facts, gate: &Gate) -> Decision {
    let mut hold = Hold::default();
    let mut now = Duration::ZERO;
    loop {
        let (decision, next) = decide(facts, hold, gate, now);
        if now > gate.hold {
            return decision;
        }
        hold = next;
        now += Duration::from_millis(250);
    }
}

/// One thing goes wrong; the gate names it, and nothing else.
#[track_caller]
fn check(kind: &str, line: &str, spoil: impl FnOnce(&mut Facts, &mut Gate)) {
    let (mut facts, mut gate) = (well(), gate());
    spoil(&mut facts, &mut gate);
    let decision = settled(&facts, &gate);
    assert!(!decision.open);
    let lines: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
    let kinds: Vec<&str> = decision.reasons.iter().map(Reason::kind).collect();
    assert_eq!(
        (kinds.as_slice(), lines.as_slice()),
        ([kind].as_slice(), [line.to_owned()].as_slice())
    );
    assert!(Reason::KINDS.contains(&kind));
    let json = serde_json::to_value(&decision.reasons[0]).unwrap();
    assert_eq!(json["kind"], kind);
}

#[test]
fn a_gtid_domain_that_the_old_shard_has_deleted_is_no_lag() {
    let mut facts = well();
    mark(&mut facts).gtids = "0-1-100,7-1-5".parse().unwrap();
    let decision = settled(&facts, &gate());
    assert!(decision.open, "{:?}", decision.reasons);
}

#[test]
fn open_when_all_is_well_for_long_enough() {
    let decision = settled(&well(), &gate());
    assert!(decision.open, "{:?}", decision.reasons);
    assert_eq!(decision.notes, ["way back: not configured", super::decide::UNPROVEN]);
    assert_eq!((decision.streams[0].lag_ms, decision.streams[0].groups), (Some(300), Some(5)));
}

#[test]
fn every_reason_closes_it_and_is_named() {
    check("unreachable", "old shard 0 does not answer: gone", |f, _| f.old[0] = Err("gone".into()));
    check("unreachable", "new shard 0 does not answer: gone", |f, _| f.new[0] = Err("gone".into()));
    check("no_reader", "old shard 0 has never been read", |f, _| old(f).token = None);
    check("reader_halted", "reader of old shard 0 stopped: purged", |f, _| {
        token(f).halted = Some("purged".into());
    });
    check(
        "reader_silent",
        "reader of old shard 0 wrote its last token 1.500 s ago (limit 1.000 s)",
        |f, _| token(f).clock_us -= 1_300_000,
    );
    check(
        "clock_back",
        "clock of old shard 0 went back: a token is 2.000 s ahead of it",
        |f, _| token(f).clock_us += 2_200_000,
    );
    check("nothing_applied", "new shard 0 has applied nothing of old shard 0", |f, _| {
        new(f).marks.clear();
    });
    check("applier_halted", "applier of new shard 0 stopped: gap", |f, _| {
        new(f).marks[0].halted = Some("gap".into());
    });
    check(
        "other_reader",
        "new shard 0 has applied nothing yet of old shard 0's present reader",
        |f, _| token(f).epoch = 6,
    );
    check(
        "proof_pending",
        "new shard 0 waits for old shard 0's reader to show again what was applied",
        |f, _| mark(f).token.as_mut().unwrap().awaited = true,
    );
    check("copying", "old shard 0 is still being copied to new shard 0", |f, _| {
        mark(f).copied = false;
    });
    check(
        "repairs_refused",
        "the reader of old shard 0 has refused 3 requests for a repair: its log says why; verify, \
         and delete them from modshift_repair there (sent = 2)",
        |f, _| old(f).repairs_refused = 3,
    );
    let resync = |table: &str, refused| ResyncFacts {
        table: table.to_owned(),
        rows_copied: 1,
        rows_estimated: 2,
        refused,
    };
    check(
        "resync",
        "a resync of old shard 0 is not over, of s, t: the same modshift resync goes on with it, \
         modshift resync --cancel takes it back",
        |f, _| old(f).resyncs = ["t", "s", "t"].map(|table| resync(table, false)).to_vec(),
    );
    check(
        "resync_refused",
        "the reader of old shard 0 has refused a resync of t: mend what the same modshift resync says \
         of it, or take it back with modshift resync --cancel",
        |f, _| old(f).resyncs = vec![resync("t", true)],
    );
    let group = |passed, tables: &[&str]| SkipFacts {
        gtid: "0-1-77".to_owned(),
        why: "a CALL".to_owned(),
        passed,
        tables: tables.iter().map(|table| (*table).to_owned()).collect(),
    };
    check(
        "skipped",
        "group 0-1-77 of old shard 0 is to be passed over (a CALL), and its reader has not come by it \
         yet: it does within seconds where its daemon runs",
        |f, _| old(f).skipped = vec![group(false, &[])],
    );
    check(
        "skipped",
        "group 0-1-77 of old shard 0 was passed over (a CALL), and t, s may lack what it changed: \
         modshift verify --repair --table t --table s makes them equal and proves it",
        |f, _| old(f).skipped = vec![group(true, &["t", "s"])],
    );
    check("time_lag", "new shard 0 is 1.001 s behind old shard 0 (limit 1.000 s)", |f, _| {
        mark(f).token_clock_us = 999 * SECOND - 1000
    });
    check(
        "position_lag",
        "new shard 0 is 11 event groups behind old shard 0 (limit 10)",
        |f, _| old(f).gtids = "0-1-116".parse().unwrap(),
    );
    check(
        "position_lag",
        "new shard 0 is 12 event groups behind old shard 0 (limit 10)",
        |f, _| old(f).gtids = "0-1-110,3-1-7".parse().unwrap(),
    );
    check(
        "primary_behind",
        "old shard 0 is at 0-1-99, behind what new shard 0 has applied, 0-1-100",
        |f, _| old(f).gtids = "0-1-99".parse().unwrap(),
    );
    check("copy_unrecorded", "old shard 0 has not recorded yet that it is copied: t.a", |f, _| {
        old(f).unrecorded = vec!["t.a".to_owned()];
    });
    check("parked", "3 rows wait for their place on new shard 0", |f, _| new(f).parked = 3);
    check(
        "parked",
        "3 rows wait for their place on new shard 0: t for uq of old shard 1, u; modshift_parked \
         there lists all, each with what it waits for",
        |f, _| {
            new(f).parked = 3;
            new(f).parked_for = ["t for uq of old shard 1", "u"].map(str::to_owned).to_vec();
        },
    );
    check(
        "parked",
        "3 rows wait for their place on new shard 0, 2 of them for a change on their old shard: \
         they cannot be stored as they are (blocked_by in modshift_parked says why)",
        |f, _| (new(f).parked, new(f).refused) = (3, 2),
    );
    check("schema_unknown", "tables of old and new shards were not compared", |f, _| {
        f.outside.schema_differences = None;
    });
    check("schema_difference", "tables differ: t.a", |f, _| {
        f.outside.schema_differences = Some(vec!["t.a".into()]);
    });
    check("daemon", "consumer is dead", |f, _| f.outside.daemons = vec!["consumer is dead".into()]);
    check(
        "not_verified",
        "the rows were never verified: modshift verify compares them while the application writes",
        |_, g| g.verify_age = Some(Duration::from_secs(60)),
    );
    let verification = |age_s: Option<u64>| Verification {
        age: age_s.map(Duration::from_secs),
        ..Default::default()
    };
    check(
        "not_verified",
        "the rows were never verified (t_a not proven equal): modshift verify compares them while \
         the application writes",
        |f, g| {
            g.verify_age = Some(Duration::from_secs(60));
            let unproven = vec!["t_a".to_owned()];
            f.outside.verification = Some(Verification { unproven, ..verification(None) });
        },
    );
    check(
        "verification_old",
        "the last verification is 61 s old (limit 60 s): modshift verify makes a new one",
        |f, g| {
            g.verify_age = Some(Duration::from_secs(60));
            f.outside.verification = Some(verification(Some(61)));
        },
    );
    // What is known to differ closes it with or without a proof asked for.
    for age in [None, Some(60)] {
        check(
            "verification_failed",
            "the last verification failed: 1 row; modshift verify names the rows",
            |f, g| {
                g.verify_age = age.map(Duration::from_secs);
                let failed = Some("1 row".to_owned());
                f.outside.verification = Some(Verification { failed, ..verification(None) });
            },
        );
    }
    check("check", "modshift check: a sequence is missing", |f, _| {
        f.outside.faults = vec!["a sequence is missing".to_owned()];
    });
    check("obstacle", "old shard 0: LOCK TABLES", |f, _| {
        f.outside.obstacles = vec!["old shard 0: LOCK TABLES".to_owned()];
    });
}

#[test]
fn a_run_that_is_not_over_closes_it() {
    check("journal", "neither side serves", |f, _| {
        f.outside.journal = Some(Ok(Some("neither side serves".to_owned())));
    });
    check("unreachable", "the journal on new shard 0 does not answer: damaged", |f, _| {
        f.outside.journal = Some(Err("damaged".to_owned()));
    });
    check(
        "fenced",
        "old shard 0 is fenced, though no run is under way: it does not serve; modshift status shows \
         what happened",
        |f, _| {
            f.outside.journal = Some(Ok(None));
            token(f).phase = TokenPhase::Fenced;
        },
    );
    // A run that fenced first asks for itself.
    let mut own = well();
    token(&mut own).phase = TokenPhase::Fenced;
    assert!(settled(&own, &gate()).open);
}

#[test]
fn whatever_the_drain_waits_for_is_asked_for_before() {
    let quarter = Duration::from_millis(750);
    let beside = || Beside { settle_max: quarter, ..Beside::default() };
    let mut ready = well();
    ready.beside = Some(Beside { waiting: vec![(0, 500, quarter)], ..beside() });
    assert!(settled(&ready, &gate()).open);
    check(
        "changes_not_kept",
        "changes on new shard 0 are not kept for the comparison at the fence: nobody says so",
        |f, _| {
            f.beside = Some(Beside { absent: vec![(0, "nobody says so".to_owned())], ..beside() });
        },
    );
    let tables = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    check(
        "round_missing",
        "these tables were not compared as a whole since the consumers keep changes: a, b; about \
         1200000 rows are left, some 4 min at the pace so far",
        |f, _| {
            let (lacking, rows_per_s) = (tables(&["a", "b"]), Some(5000));
            f.beside = Some(Beside { lacking, lacking_rows: 1_200_000, rows_per_s, ..beside() });
        },
    );
    check(
        "round_missing",
        "1 table was not compared as a whole since the consumers keep changes: a; about 7 rows are \
         left",
        |f, _| {
            f.beside = Some(Beside { lacking: tables(&["a"]), lacking_rows: 7, ..beside() });
        },
    );
    check(
        "settlement_long",
        "90000 changed keys of new shard 0 wait to be compared, which takes about 4.500 s (limit \
         0.750 s, a quarter of cutover.budget): the verifier is slowed down, or changes come too fast",
        |f, _| {
            let waiting = vec![(0, 90_000, Duration::from_millis(4500))];
            f.beside = Some(Beside { waiting, ..beside() });
        },
    );
}

#[test]
fn a_token_applied_from_the_future_closes_it() {
    let mut facts = well();
    mark(&mut facts).token_clock_us += 5 * SECOND;
    let decision = settled(&facts, &gate());
    assert_eq!(decision.reasons, [Reason::ClockBack { old: 0, ahead_ms: 4700 }]);
}

#[test]
fn a_break_or_a_silence_begins_the_hold_anew() {
    let gate = gate();
    let at = Duration::from_secs;
    let mut bad = well();
    new(&mut bad).parked = 1;
    let run = |samples: &[(u64, bool)]| {
        let mut hold = Hold::default();
        let mut open = false;
        for &(second, good) in samples {
            let facts = if good { well() } else { bad.clone() };
            let (decision, next) = decide(&facts, hold, &gate, at(second));
            (open, hold) = (decision.open, next);
        }
        open
    };
    let steady: Vec<(u64, bool)> = (0..=10).map(|second| (second, true)).collect();
    assert!(run(&steady));
    assert!(!run(&steady[..10]));
    let broken: Vec<_> = (0..=14).map(|second| (second, second != 5)).collect();
    assert!(!run(&broken));
    let silent: Vec<_> = (0..=14).filter(|s| !(3..8).contains(s)).map(|s| (s, true)).collect();
    assert!(!run(&silent));
}

#[test]
fn only_unreachable_shards_mean_cannot_tell() {
    let mut facts = well();
    facts.old[0] = Err("gone".into());
    assert!(settled(&facts, &gate()).cannot_tell());
    let proven = Gate { verify_age: Some(Duration::from_secs(60)), ..gate() };
    let mut silent = well();
    silent.new[0] = Err("gone".into());
    assert!(settled(&silent, &proven).cannot_tell());
    new(&mut facts).parked = 1;
    assert!(!settled(&facts, &gate()).cannot_tell());
    // Its server hangs, and the others were asked for their clocks seconds later.
    let mut facts = well();
    facts.new.push(Err("no answer within 4 s".to_owned()));
    old(&mut facts).now_us += 4 * SECOND;
    token(&mut facts).clock_us += 4 * SECOND;
    assert!(settled(&facts, &gate()).cannot_tell());
    facts.new.pop();
    assert!(!settled(&facts, &gate()).cannot_tell());
}

#[test]
fn own_groups_that_the_watermark_has_passed_are_not_left_out() {
    // Token 55 at 100; rows up to 105 came after it, and among them perhaps quiet tokens.
    let mut facts = well();
    mark(&mut facts).gtids = "0-1-105".parse().unwrap();
    let lag = |facts: &Facts| settled(facts, &gate()).streams[0].groups;
    assert_eq!(lag(&facts), Some(5));
    // No more than were passed.
    mark(&mut facts).gtids = "0-1-102".parse().unwrap();
    assert_eq!(lag(&facts), Some(5));
    // A rearmed stream has no token.
    mark(&mut facts).token = None;
    assert_eq!(lag(&facts), Some(3));
}

#[test]
fn a_stream_without_a_token_yet_is_not_half_a_century_behind() {
    let mut facts = well();
    mark(&mut facts).token_clock_us = 0;
    let decision = settled(&facts, &gate());
    assert_eq!(decision.reasons, [Reason::NothingApplied { old: 0, new: 0 }]);
    assert_eq!(decision.streams[0].lag_ms, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn never_open_with_a_lag_above_the_limit(
        now in 0i64..4_000_000,
        token_clock in 0i64..4_000_000,
        applied_clock in 0i64..4_000_000,
        primary in 0u64..60,
        applied in 0u64..60,
        writes in 0u64..20,
        applied_writes in 0u64..20,
    ) {
        let mut facts = well();
        old(&mut facts).now_us = now;
        old(&mut facts).gtids = format!("0-1-{primary}").parse().unwrap();
        token(&mut facts).clock_us = token_clock;
        token(&mut facts).writes = writes;
        mark(&mut facts).token_clock_us = applied_clock;
        mark(&mut facts).token_writes = applied_writes;
        mark(&mut facts).gtids = format!("0-1-{applied}").parse().unwrap();
        let decision = settled(&facts, &gate());
        if decision.open {
            prop_assert!((0..=SECOND).contains(&(now - applied_clock)));
            prop_assert!(now >= token_clock);
            prop_assert!(primary >= applied);
            prop_assert!(primary - applied <= 10 + writes.saturating_sub(applied_writes));
        } else {
            prop_assert!(!decision.reasons.is_empty());
        }
    }
}
