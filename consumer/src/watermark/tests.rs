use super::*;

fn mark() -> Watermark {
    Watermark {
        epoch: 5,
        number: 6,
        gtids: "0-1-7".parse().unwrap(),
        partial: Some(Partial {
            position: Position { gtid: "0-1-9".parse().unwrap(), ordinal: 4 },
            awaited: Awaited::Yes,
        }),
        token: None,
        token_clock_us: 0,
        token_writes: 0,
        copied: false,
        tables: 0,
    }
}

fn kept(source: u16, version: u64) -> Kept {
    Kept { source: OldShard(source), version, mark: mark(), offset: None, halted: None }
}

#[test]
fn a_move_compares_and_an_insert_compares_all_others() {
    let mut versions = Versions::take_over(&[kept(0, (3 << 40) + 8)], 3, 77);
    versions.commit_took(Duration::from_micros(1500));
    let moved = |source| Move { source: OldShard(source), mark: mark() };
    let base = 4u64 << 40;
    let marked = "epoch = 5, number = 6, gtids = '0-1-7', group_gtid = '0-1-9?', \
         group_ordinal = 4, token_digest = NULL, token_writes = 0, token_clock_us = 0, \
         copied = 0, tables = 0, commit_us = 1500";
    let expected = CompareAndSet {
        text: format!(
            "UPDATE modshift_watermark SET version = {}, {marked}, log_offset = 12 \
             WHERE source IN (0) AND version = {base}",
            base + 1
        ),
        rows: 1,
        update: true,
    };
    assert_eq!(versions.compare_and_set(&[moved(0)], Some(12)), [expected]);
    // Of the other row no more than the version.
    let compared = format!(
        "UPDATE modshift_watermark SET version = {}, commit_us = 1500 WHERE source IN (0) AND \
         version = {base}",
        base + 1
    );
    let inserted =
        format!("INSERT INTO modshift_watermark SET source = 2, version = {}, {marked}", base + 1);
    let set = versions.compare_and_set(&[moved(2)], None);
    let set: Vec<_> = set.into_iter().map(|set| (set.text, set.rows, set.update)).collect();
    assert_eq!(set, [(compared, 1, true), (inserted, 1, false)]);
}

#[test]
fn rows_that_move_together_are_compared_and_set_by_one_statement() {
    let mut versions = Versions::take_over(&[kept(0, 0), kept(1, 0), kept(2, 0)], 3, 0);
    let moved = |source, number| Move {
        source: OldShard(source),
        mark: Watermark { number, partial: None, ..mark() },
    };
    versions.committed(&[moved(1, 1)]);
    let base = 1u64 << 40;
    let set = versions.compare_and_set(&[moved(0, 7), moved(1, 8), moved(2, 7)], None);
    let expected = format!(
        "UPDATE modshift_watermark SET version = CASE source WHEN 0 THEN {a} WHEN 1 THEN {b} \
         WHEN 2 THEN {a} END, epoch = 5, number = CASE source WHEN 0 THEN 7 WHEN 1 THEN 8 WHEN 2 \
         THEN 7 END, gtids = '0-1-7', group_gtid = NULL, group_ordinal = 0, token_digest = NULL, \
         token_writes = 0, token_clock_us = 0, copied = 0, tables = 0, commit_us = 0 WHERE source \
         IN (0, 1, 2) AND version = CASE source WHEN 0 THEN {base} WHEN 1 THEN {a} WHEN 2 THEN \
         {base} END",
        a = base + 1,
        b = base + 2,
    );
    assert_eq!(set, [CompareAndSet { text: expected, rows: 3, update: true }]);
    // However many there are.
    let many: Vec<Kept> = (0..150).map(|source| kept(source, 0)).collect();
    let versions = Versions::take_over(&many, 150, 0);
    let moves: Vec<Move> = (0..150).map(|source| moved(source, 1)).collect();
    let rows = versions.compare_and_set(&moves, None).into_iter().map(|set| set.rows);
    assert_eq!(rows.collect::<Vec<_>>(), [64, 64, 22]);
}

#[test]
fn an_unanswered_commit_is_told_from_another_owner() {
    let mut versions = Versions::take_over(&[kept(0, 0), kept(1, 0)], 2, 0);
    let moves = [Move { source: OldShard(0), mark: mark() }];
    let base = 1 << 40;
    assert_eq!(versions.outcome(&moves, &[(0, base), (1, base)]), Outcome::NotCommitted);
    assert_eq!(versions.outcome(&moves, &[(0, base + 1), (1, base)]), Outcome::Committed);
    assert_eq!(versions.outcome(&moves, &[(0, 2 << 40), (1, 2 << 40)]), Outcome::TakenOver);
    versions.committed(&moves);
    assert_eq!(versions.outcome(&moves, &[(0, base + 1)]), Outcome::NotCommitted);
}

#[test]
fn two_first_owners_differ() {
    let one = Versions::take_over(&[], 1, 5);
    let other = Versions::take_over(&[], 1, 6);
    assert_ne!(one.after(OldShard(0)), other.after(OldShard(0)));
}

#[test]
fn an_older_watermark_is_told_from_another_owner_s() {
    let moves = [0, 1].map(|source| Move { source: OldShard(source), mark: mark() });
    let mut versions = Versions::take_over(&[kept(0, 7), kept(1, 9)], 2, 0);
    let base = versions.base();
    versions.committed(&moves);
    versions.committed(&moves);
    // What a replica still lacks: the last commit, all of them, the take-over too.
    assert!(versions.older(&moves, &[(0, base + 1), (1, base + 1)]));
    assert!(versions.older(&moves, &[(0, base + 2), (1, base + 1)]));
    assert!(versions.older(&moves, &[(0, base), (1, base)]));
    assert!(versions.older(&moves, &[(0, 7), (1, 9)]));
    assert!(versions.older(&moves, &[]));
    // One row was raised there although the server lacks what came before of the other.
    assert!(versions.older(&moves[..1], &[(0, base + 3), (1, base + 1)]));
    assert!(!versions.older(&moves[..1], &[(0, base + 4), (1, base + 1)]));
    assert!(!versions.older(&moves, &[(0, base + 2), (1, base + 2)]), "it has all of it");
    // Whoever takes over has a higher generation; of two first owners either may have.
    let theirs = (8 << GENERATION_BITS) + 1;
    assert!(!versions.older(&moves, &[(0, theirs), (1, theirs)]));
    assert!(!versions.older(&moves, &[(0, base + 1), (1, theirs)]));
    let mut first = Versions::take_over(&[], 2, 6);
    first.committed(&moves);
    let other = Versions::take_over(&[], 2, 5).base() + 1;
    assert!(!first.older(&moves, &[(0, other), (1, other)]));
}

#[test]
fn every_row_must_be_as_it_was_left_whatever_the_batch_moves() {
    let moves = [0, 1].map(|source| Move { source: OldShard(source), mark: mark() });
    let mut versions = Versions::take_over(&[kept(0, 7), kept(1, 9)], 3, 0);
    let base = versions.base();
    versions.committed(&moves);
    let first = &moves[..1];
    assert!(versions.as_left(first, false, &[(0, base + 1), (1, base + 1)]));
    // The replica lacks the last commit of the other stream, or has a row that nobody knows.
    assert!(!versions.as_left(first, false, &[(0, base + 1), (1, base)]));
    assert!(!versions.as_left(first, false, &[(0, base + 1), (1, base + 1), (2, base)]));
    // A COMMIT that nobody answered may be in, and of none but what it moves.
    assert!(!versions.as_left(first, false, &[(0, base + 2), (1, base + 1)]));
    assert!(versions.as_left(first, true, &[(0, base + 2), (1, base + 1)]));
    assert!(!versions.as_left(first, true, &[(0, base + 1), (1, base + 2)]));
}
