//! The way back, as the gate sees it.

use super::*;

/// The same with a way back that is as well, armed.
fn both_ways() -> Facts {
    let mut facts = well();
    let mut sources = facts.old.clone();
    sources[0].as_mut().unwrap().token.as_mut().unwrap().phase = TokenPhase::Fenced;
    facts.back = Some(BackFacts { sources, targets: facts.new.clone() });
    facts
}

fn back_source(facts: &mut Facts) -> &mut OldFacts {
    facts.back.as_mut().unwrap().sources[0].as_mut().unwrap()
}

fn back_target(facts: &mut Facts) -> &mut NewFacts {
    facts.back.as_mut().unwrap().targets[0].as_mut().unwrap()
}

#[test]
fn the_way_back_must_be_as_well() {
    assert!(settled(&both_ways(), &gate()).open);
    let check = |line: &str, spoil: &dyn Fn(&mut Facts)| {
        let mut facts = both_ways();
        spoil(&mut facts);
        let decision = settled(&facts, &gate());
        let lines: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [line]);
        assert!(Reason::KINDS.contains(&decision.reasons[0].kind()));
    };
    check("way back: new shard 0 has never been read", &|f| back_source(f).token = None);
    check("way back: reader of new shard 0 stopped: new shard 0: a write", &|f| {
        back_source(f).token.as_mut().unwrap().halted = Some("new shard 0: a write".to_owned());
    });
    check(
        "way back: reader of new shard 0 wrote its last token 1.500 s ago (limit 1.000 s)",
        &|f| back_source(f).token.as_mut().unwrap().clock_us -= 1_300_000,
    );
    let (gtid, why, tables) = ("0-1-7".to_owned(), "a CALL".to_owned(), vec!["t".to_owned()]);
    let group = SkipFacts { gtid, why, passed: true, tables };
    check(
        "way back: group 0-1-7 of new shard 0 was passed over (a CALL), and t may lack what it changed: \
         modshift verify --back --repair --table t makes them equal and proves it",
        &|f| back_source(f).skipped = vec![group.clone()],
    );
    check("way back: old shard 0 has applied nothing of new shard 0", &|f| {
        back_target(f).marks.clear();
    });
    check("way back: applier of old shard 0 stopped: gap", &|f| {
        back_target(f).marks[0].halted = Some("gap".to_owned());
    });
    check("way back: old shard 0 is 1.001 s behind new shard 0 (limit 1.000 s)", &|f| {
        back_target(f).marks[0].mark.token_clock_us = 999 * SECOND - 1000;
    });
    let text = "way back: a resync of new shard 0 is not over, of t: the same modshift resync --back goes \
                on with it, modshift resync --back --cancel takes it back";
    check(text, &|f| {
        let (table, refused) = ("t".to_owned(), false);
        let resync = ResyncFacts { table, rows_copied: 0, rows_estimated: 0, refused };
        back_source(f).resyncs = vec![resync];
    });
    check("new shard 0 serves already", &|f| {
        back_source(f).token.as_mut().unwrap().phase = TokenPhase::Serving;
    });
    check("new shard 0 does not answer: gone", &|f| {
        f.new[0] = Err("gone".to_owned());
        f.back.as_mut().unwrap().sources[0] = Err("gone".to_owned());
    });
}

#[test]
fn modshift_s_own_groups_are_no_lag_on_the_way_back() {
    let mut facts = both_ways();
    back_source(&mut facts).gtids = "0-1-99999".parse().unwrap();
    assert!(settled(&facts, &gate()).open);
}
