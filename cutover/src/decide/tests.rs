use super::*;
use crate::step::{Direction, Side};

/// As it stands when this step has been begun.
fn begun(step: Step) -> Journal {
    begun_of(Mode::Online, step)
}

fn begun_of(mode: Mode, step: Step) -> Journal {
    let mut journal = Journal::new(mode);
    for &before in mode.order() {
        journal.apply(Entry::Begun(before));
        if before == step {
            break;
        }
        journal.apply(Entry::Done(before));
    }
    journal
}

/// Follows `next` to the end, every step succeeding, and says what was done.
fn follow(mut journal: Journal, facts: Facts) -> (Vec<Action>, Journal) {
    let mut actions = Vec::new();
    loop {
        let action = next(&journal, &facts);
        actions.push(action);
        match action {
            Action::Take(step) => {
                journal.apply(Entry::Begun(step));
                journal.apply(Entry::Done(step));
            }
            Action::TurnBack => journal.apply(Entry::TurnedBack),
            Action::Undo(step) => journal.apply(Entry::Undone(step)),
            Action::End(end) => journal.apply(Entry::Ended(end)),
            Action::Stop(_) => return (actions, journal),
        }
    }
}

#[test]
fn a_run_takes_every_step_in_order_and_ends() {
    for mode in [Mode::Online, Mode::StopWrites, Mode::Promote] {
        let (actions, journal) = follow(Journal::new(mode), Facts::new(Wish::Forward));
        let mut expected: Vec<Action> = mode.order().iter().copied().map(Action::Take).collect();
        expected.extend([Action::End(End::To), Action::Stop(Stop::Ended)]);
        assert_eq!(actions, expected);
        assert_eq!(serving(&journal), Serving::To);
    }
}

#[test]
fn trouble_before_the_opening_takes_back_routing_then_triggers_then_fence() {
    use Step::{Drain, Fence, Handover, Publish, Seal};
    let trouble = Facts { trouble: true, ..Facts::new(Wish::Forward) };
    let check = |at: Step, undone: &[Step]| {
        let mut expected = vec![Action::TurnBack];
        expected.extend(undone.iter().map(|&step| Action::Undo(step)));
        expected.extend([Action::End(End::From), Action::Stop(Stop::Ended)]);
        let (actions, journal) = follow(begun(at), trouble);
        assert_eq!(actions, expected, "{at}");
        assert_eq!(serving(&journal), Serving::From);
        assert_eq!(follow(begun(at), Facts::new(Wish::Back)).0, expected, "{at}");
    };
    check(Step::Gate, &[]);
    check(Fence, &[Fence]);
    check(Drain, &[Fence]);
    check(Handover, &[Handover, Fence]);
    check(Publish, &[Publish, Handover, Fence]);
    check(Seal, &[Publish, Handover, Fence]);
}

#[test]
fn a_promotion_is_undone_by_routing_then_fence_then_split() {
    use Step::{Close, Counters, Drain, Fence, Gate, Guard, Publish, Seal, Split};
    let trouble = Facts { trouble: true, ..Facts::new(Wish::Forward) };
    let check = |at: Step, undone: &[Step]| {
        let mut expected = vec![Action::TurnBack];
        expected.extend(undone.iter().map(|&step| Action::Undo(step)));
        expected.extend([Action::End(End::From), Action::Stop(Stop::Ended)]);
        let (actions, journal) = follow(begun_of(Mode::Promote, at), trouble);
        assert_eq!(actions, expected, "{at}");
        assert_eq!(serving(&journal), Serving::From);
    };
    check(Gate, &[]);
    check(Drain, &[Fence]);
    check(Split, &[Fence, Split]);
    check(Counters, &[Fence, Split]);
    check(Guard, &[Fence, Split]);
    check(Publish, &[Publish, Fence, Split]);
    check(Seal, &[Publish, Fence, Split]);
    // Who resumes it splits and guards again, once it has been drained anew.
    let mut journal = begun_of(Mode::Promote, Seal);
    journal.apply(Entry::Resumed);
    let (actions, _) = follow(journal, Facts::new(Wish::Forward));
    assert_eq!(actions[..5], [Close, Fence, Drain, Split, Counters].map(Action::Take));
}

#[test]
fn a_server_that_does_not_join_again_does_not_hold_up_the_fence() {
    let mut journal = begun_of(Mode::Promote, Step::Seal);
    journal.apply(Entry::TurnedBack);
    let failed = Facts { rejoin_failed: true, ..Facts::new(Wish::Back) };
    let (actions, journal) = follow(journal, failed);
    let undone = [Step::Publish, Step::Fence].map(Action::Undo);
    assert_eq!(actions[..2], undone);
    assert_eq!(actions[2..], [Action::Stop(Stop::Apart)]);
    assert_eq!(serving(&journal), Serving::From);
    // Nobody waits, but its primary lacks a replica: a daemon sees to it.
    let since = Since { written: NO_CHOICE_IDLE, ..Since::default() };
    assert!(due(&journal, since, Duration::from_secs(5)));
    let (actions, _) = follow(journal, Facts::new(Wish::Back));
    assert_eq!(actions[..2], [Action::Undo(Step::Split), Action::End(End::From)]);
}

#[test]
fn from_the_opening_on_there_is_only_forward() {
    let open = begun(Step::Open);
    assert_eq!(next(&open, &Facts::new(Wish::Back)), Action::Stop(Stop::NoReturn));
    let trouble = Facts { trouble: true, ..Facts::new(Wish::Forward) };
    assert_eq!(next(&open, &trouble), Action::Stop(Stop::Unopened));
    assert_eq!(serving(&open), Serving::Opening);
    let mut resumed = open;
    resumed.apply(Entry::Resumed);
    let (actions, _) = follow(resumed, Facts::new(Wish::Forward));
    assert_eq!(actions[..2], [Action::Take(Step::Open), Action::End(End::To)]);
}

#[test]
fn an_opening_that_was_not_taken_because_the_fence_was_undone_turns_back() {
    let reopened = Facts { reopened: true, ..Facts::new(Wish::Forward) };
    let (actions, _) = follow(begun(Step::Open), reopened);
    assert_eq!(actions[0], Action::TurnBack);
    // The same before it: the fence is simply taken again.
    let mut drained = begun(Step::Drain);
    drained.apply(Entry::Resumed);
    assert_eq!(next(&drained, &reopened), Action::Take(Step::Close));
}

#[test]
fn a_target_that_does_not_answer_does_not_hold_up_the_fence() {
    let mut journal = begun(Step::Seal);
    journal.apply(Entry::TurnedBack);
    let failed = Facts { unpublish_failed: true, ..Facts::new(Wish::Back) };
    let (actions, journal) = follow(journal, failed);
    let undone = [Step::Handover, Step::Fence].map(Action::Undo);
    assert_eq!(actions[..2], undone);
    assert_eq!(actions[2..], [Action::Stop(Stop::Unpublished)]);
    let (actions, _) = follow(journal, Facts::new(Wish::Back));
    assert_eq!(actions[..2], [Action::Undo(Step::Publish), Action::End(End::From)]);
}

#[test]
fn a_shard_that_keeps_its_triggers_does_not_hold_up_the_fence() {
    let mut journal = begun(Step::Handover);
    journal.apply(Entry::TurnedBack);
    let failed = Facts { takedown_failed: true, ..Facts::new(Wish::Back) };
    let (actions, journal) = follow(journal, failed);
    assert_eq!(actions, [Action::Undo(Step::Fence), Action::Stop(Stop::HandedOver)]);
    assert_eq!(serving(&journal), Serving::From);
    let (actions, _) = follow(journal, Facts::new(Wish::Back));
    assert_eq!(actions[..2], [Action::Undo(Step::Handover), Action::End(End::From)]);
}

#[test]
fn the_journal_of_a_run_that_knew_no_handover_can_be_read() {
    let mut journal = begun(Step::Handover);
    let mut earlier = begun(Step::Counters);
    earlier.apply(Entry::Done(Step::Counters));
    assert!(!legal(&earlier, Entry::Begun(Step::Publish)));
    earlier.without_handover();
    assert!(legal(&earlier, Entry::Begun(Step::Publish)));
    // Who resumes it before the opening takes the step.
    earlier.apply(Entry::Begun(Step::Publish));
    earlier.apply(Entry::Resumed);
    assert!(follow(earlier, Facts::new(Wish::Forward)).0.contains(&Action::Take(Step::Handover)));
    journal.without_handover();
    assert_eq!(journal, begun(Step::Handover));
    // A promotion has none.
    let mut promoted = begun_of(Mode::Promote, Step::Publish);
    promoted.without_handover();
    assert_eq!(promoted, begun_of(Mode::Promote, Step::Publish));
}

#[test]
fn what_a_dead_process_found_out_is_found_out_again() {
    let mut journal = begun(Step::Seal);
    journal.apply(Entry::Resumed);
    assert!(journal.stands(Step::Publish) && journal.stands(Step::Fence));
    let (actions, _) = follow(journal, Facts::new(Wish::Forward));
    let again = Mode::Online.order().iter().copied().filter(|&step| step != Step::Gate);
    assert_eq!(actions[..8], again.map(Action::Take).collect::<Vec<_>>());
}

#[test]
fn a_gate_is_asked_again_unless_the_fence_has_begun() {
    let first = |mut journal: Journal| {
        journal.apply(Entry::Resumed);
        let (actions, _) = follow(journal, Facts::new(Wish::Forward));
        actions[..3].to_vec()
    };
    let mut asked = begun(Step::Gate);
    asked.apply(Entry::Done(Step::Gate));
    use Step::{Close, Drain, Fence, Gate};
    assert_eq!(first(asked.clone()), [Close, Gate, Fence].map(Action::Take));
    asked.apply(Entry::Begun(Fence));
    assert_eq!(first(asked), [Close, Fence, Drain].map(Action::Take));
    // Where writes were stopped first the fence stands, and the gate has said its yes behind it.
    let mut stopped = Journal::new(Mode::StopWrites);
    for step in [Close, Fence, Gate] {
        stopped.apply(Entry::Begun(step));
        stopped.apply(Entry::Done(step));
    }
    assert_eq!(first(stopped), [Close, Fence, Drain].map(Action::Take));
}

#[test]
fn a_daemon_goes_on_with_a_run_once_its_budget_is_over_or_no_choice_is_left() {
    let s = Duration::from_secs;
    let since = |written, paused: Option<u64>| Since {
        written: s(written),
        paused: paused.map(s),
        waited: paused.map(s),
    };
    let check = |journal: &Journal, since: Since, expected| {
        assert_eq!(due(journal, since, s(5)), expected, "{since:?} {journal:?}");
    };
    check(&begun(Step::Gate), since(900, None), false);
    check(&begun(Step::Drain), since(1, Some(4)), false);
    check(&begun(Step::Drain), since(0, Some(5)), true);
    check(&begun(Step::Open), since(1, Some(9)), false);
    check(&begun(Step::Open), since(3, Some(4)), true);
    let mut turned = begun(Step::Seal);
    turned.apply(Entry::TurnedBack);
    check(&turned, since(3, Some(4)), true);
    turned.apply(Entry::Undone(Step::Fence));
    check(&turned, since(3, None), true);
    turned.apply(Entry::Undone(Step::Handover));
    check(&turned, since(3, None), true);
    turned.apply(Entry::Undone(Step::Publish));
    check(&turned, since(900, None), false);
    let mut copying = Journal::new(Mode::StopWrites);
    for step in [Step::Close, Step::Fence] {
        copying.apply(Entry::Begun(step));
        copying.apply(Entry::Done(step));
    }
    check(&copying, since(900, None), false);
    check(&begun_of(Mode::Promote, Step::Guard), since(0, Some(5)), true);
}

#[test]
fn a_daemon_takes_the_way_that_is_left() {
    use Direction::{Cutover, Rollback};
    let ask = |direction, journal: Journal| {
        admit(Some(&Run { direction: Cutover, journal }), Ask::Watch(direction))
    };
    let nothing = Err(Refusal::NothingUnderWay(Cutover));
    assert_eq!(admit(None, Ask::Watch(Cutover)), nothing);
    assert_eq!(ask(Cutover, begun(Step::Gate)), nothing);
    assert_eq!(ask(Cutover, begun(Step::Drain)), Ok(Admission::Continue(Wish::Back)));
    assert_eq!(ask(Rollback, begun(Step::Drain)), Err(Refusal::Unfinished(Cutover, Left::Both)));
    assert_eq!(ask(Cutover, begun(Step::Open)), Ok(Admission::Continue(Wish::Forward)));
    let (_, over) = follow(begun(Step::Drain), Facts::new(Wish::Back));
    assert_eq!(ask(Cutover, over), nothing);
}

#[test]
fn a_journal_refuses_what_cannot_be() {
    let open = begun(Step::Open);
    assert!(!legal(&open, Entry::Undone(Step::Fence)), "not turned back");
    assert!(!legal(&begun(Step::Fence), Entry::Begun(Step::Open)), "steps between");
    assert!(!legal(&begun(Step::Seal), Entry::Ended(End::From)), "the fence stands");
    let mut turned = begun(Step::Seal);
    turned.apply(Entry::TurnedBack);
    assert!(!legal(&turned, Entry::Begun(Step::Seal)));
    assert!(!legal(&turned, Entry::Done(Step::Seal)));
}

#[test]
fn the_budget_runs_while_the_application_waits() {
    assert!(!begun(Step::Gate).pausing());
    assert!(begun(Step::Fence).pausing());
    let mut offline = Journal::new(Mode::StopWrites);
    for step in [Step::Close, Step::Fence] {
        offline.apply(Entry::Begun(step));
        offline.apply(Entry::Done(step));
    }
    assert!(!offline.pausing(), "the copy is not under the budget");
    offline.apply(Entry::Begun(Step::Gate));
    offline.apply(Entry::Done(Step::Gate));
    assert!(offline.pausing());
    let budget = Budget { limit_ms: 3000, reserve_ms: 600 };
    assert_eq!([0, 2399, 2400, 9000].map(|ms| budget.left_ms(ms)), [2400, 1, 0, 0]);
}

#[test]
fn commands_are_admitted_by_what_the_last_run_left() {
    use Direction::{Cutover, Rollback};
    let run = |direction, journal| Run { direction, journal };
    let (_, over) = follow(Journal::new(Mode::Online), Facts::new(Wish::Forward));
    let (_, undone) = follow(begun(Step::Drain), Facts::new(Wish::Back));
    assert_eq!(admit(None, Ask::Start(Cutover)), Ok(Admission::Begin));
    assert_eq!(admit(None, Ask::Start(Rollback)), Err(Refusal::Serves(Side::Old)));
    assert_eq!(admit(None, Ask::Resume(Cutover)), Err(Refusal::NothingUnderWay(Cutover)));

    let cut = run(Cutover, over.clone());
    assert_eq!(admit(Some(&cut), Ask::Start(Cutover)), Err(Refusal::Serves(Side::New)));
    assert_eq!(admit(Some(&cut), Ask::Start(Rollback)), Ok(Admission::Begin));
    assert_eq!(admit(Some(&run(Rollback, over)), Ask::Start(Cutover)), Ok(Admission::Begin));
    assert_eq!(admit(Some(&run(Cutover, undone)), Ask::Start(Cutover)), Ok(Admission::Begin));

    let half = run(Cutover, begun(Step::Drain));
    let unfinished = |left| Err(Refusal::Unfinished(Cutover, left));
    assert_eq!(admit(Some(&half), Ask::Start(Cutover)), unfinished(Left::Both));
    assert_eq!(admit(Some(&half), Ask::Resume(Rollback)), unfinished(Left::Both));
    // No command is advised that would be refused, or would do something else.
    let opening = run(Cutover, begun(Step::Open));
    assert_eq!(admit(Some(&opening), Ask::Start(Rollback)), unfinished(Left::Forward));
    let hint = |left| Refusal::Unfinished(Cutover, left).hint();
    assert!(hint(Left::Both).contains("--resume") && hint(Left::Both).contains("--abort"));
    assert!(hint(Left::Forward).ends_with("modshift cutover --resume"));
    assert!(!hint(Left::Back).contains("--resume"));
    assert_eq!(admit(Some(&half), Ask::Resume(Cutover)), Ok(Admission::Continue(Wish::Forward)));
    let mut turned = half.clone();
    turned.journal.apply(Entry::TurnedBack);
    assert_eq!(admit(Some(&turned), Ask::Resume(Cutover)), Ok(Admission::Continue(Wish::Back)));
}

#[test]
fn the_way_back_ends_once_and_only_where_the_new_shards_serve() {
    let (_, over) = follow(Journal::new(Mode::Online), Facts::new(Wish::Forward));
    let mut cut = Run { direction: Direction::Cutover, journal: over };
    let back = Run { direction: Direction::Rollback, ..cut.clone() };
    assert_eq!(admit(None, Ask::Finish), Err(Refusal::Serves(Side::Old)));
    assert_eq!(admit(Some(&back), Ask::Finish), Err(Refusal::Serves(Side::Old)));
    assert_eq!(admit(Some(&cut), Ask::Unfence), Err(Refusal::NotFinished));
    assert_eq!(admit(Some(&cut), Ask::Finish), Ok(Admission::Begin));
    cut.journal.apply(Entry::Finished);
    assert!(!legal(&cut.journal, Entry::Finished));
    let rollback = Ask::Start(Direction::Rollback);
    assert_eq!(admit(Some(&cut), rollback), Err(Refusal::Finished));
    assert_eq!(admit(Some(&cut), Ask::Unfence), Ok(Admission::Begin));
    assert_eq!(admit(Some(&cut), Ask::Finish), Ok(Admission::Begin), "one that died");
}

#[test]
fn an_opening_stands_unless_the_from_shards_serve_and_nobody_else_does() {
    use Told::{Barred, Fenced, Serves, Silent};
    let ask = |from: [Told; 2], to: [Told; 2]| opening(Direction::Cutover, &from, &to);
    assert_eq!(ask([Fenced, Fenced], [Fenced, Fenced]), Opening::Stands);
    assert_eq!(ask([Fenced, Silent], [Silent, Serves]), Opening::Stands);
    assert_eq!(ask([Silent, Serves], [Fenced, Fenced]), Opening::Undone);
    assert_eq!(ask([Serves, Fenced], [Fenced, Serves]), Opening::BothServe(0, 1));
    assert_eq!(ask([Serves, Fenced], [Fenced, Silent]), Opening::Silent(Side::New, 1));
    assert_eq!(ask([Silent, Fenced], [Fenced, Fenced]), Opening::Silent(Side::Old, 0));
    // Undone without the journal, whatever has been done to the from-shards since.
    assert_eq!(ask([Fenced, Silent], [Silent, Barred]), Opening::Undone);
}

#[test]
fn in_place_one_that_was_let_go_keeps_all_shut() {
    use Vote::{Fenced, Opened, Silent, Undone};
    let ask = |votes: [Vote; 2]| opening_in_place(Direction::Promote, &votes);
    assert_eq!(ask([Fenced, Fenced]), Opening::Stands);
    assert_eq!(ask([Opened, Fenced]), Opening::Stands);
    assert_eq!(ask([Opened, Silent]), Opening::Stands);
    assert_eq!(ask([Fenced, Silent]), Opening::Silent(Side::Old, 1));
    assert_eq!(ask([Undone, Fenced]), Opening::Undone);
    assert_eq!(ask([Silent, Undone]), Opening::Undone);
    // Nothing is opened before all have voted so.
    assert_eq!(ask([Opened, Undone]), Opening::Undone);
}

#[test]
fn a_routing_is_published_under_a_version_that_no_target_refuses() {
    use Side::{New, Old};
    let routed = |version, side| Some(Routed { version, side });
    assert_eq!(version_to_publish(None, None), 1);
    assert_eq!(version_to_publish(routed(4, Old), None), 5);
    // Begun by the process before: it may have come to some targets, and 6 would take it back.
    assert_eq!(version_to_publish(routed(4, Old), Some(5)), 7);
    assert_eq!(version_to_publish(routed(5, New), Some(5)), 7);
    assert_eq!(version_to_publish(None, Some(5)), 7);
    assert_eq!(version_to_publish(routed(6, Old), Some(5)), 8);
    assert_eq!(next_version(routed(4, Old), Some(5)), 6);
    assert_eq!(next_version(None, None), 1);
}

#[test]
fn what_is_owed_makes_a_journal_that_can_be_read() {
    // Whether or not the beginning of a step arrived, what follows must be legal behind it.
    let of = |mode: Mode| mode.order().iter().map(move |&step| (mode, step));
    for (mode, step) in [Mode::Online, Mode::Promote].into_iter().flat_map(of) {
        let mut entries = vec![Entry::TurnedBack];
        let mut journal = begun_of(mode, step);
        assert_eq!(owed(Entry::Begun(step)), step != Step::Open);
        journal.apply(Entry::TurnedBack);
        for undone in UNDONE {
            if journal.stands(undone) {
                entries.push(Entry::Undone(undone));
                journal.apply(Entry::Undone(undone));
            }
        }
        assert!(legal(&journal, Entry::Ended(End::From)), "{step}");
        assert!(entries.into_iter().all(owed));
    }
}
