//! Sequences of the side that serves: the other side needs them, beyond what has been given out and
//! without meeting each other. What a run would refuse in its pause is judged as the run judges it.

use std::collections::BTreeSet;

use modshift_cutover::sequences::{Sequence, Then, carried};
use modshift_mariadb::value::quote;

use crate::check::ahead;
use crate::check::fault::{Fault, Severity, Side};
use crate::check::mend::{Mend, Way};
use crate::check::rows::matrix::gcd;
use crate::check::survey::{Facts, Server, Survey};

const RULE: &str = "sequences";
/// Share of a sequence's values after which one should think of wider bounds.
const USED_MAX: f64 = 0.8;
/// The widest bounds that a sequence of BIGINT has.
const FIRST: i128 = i64::MIN as i128 + 1;
const LAST: i128 = i64::MAX as i128 - 1;

type Shard<'a> = (&'a Server, &'a Facts);

pub fn check(survey: &Survey) -> Vec<Fault> {
    let (olds, news): (Vec<_>, Vec<_>) = (survey.olds().collect(), survey.news().collect());
    let of = |name| of_sequence(survey, name, &olds, &news);
    let mut faults: Vec<Fault> = names(&olds).into_iter().flat_map(of).collect();
    faults.extend(unknown(survey));
    if ahead::way_back(&survey.plan) {
        // Once new shards serve, a rollback carries theirs back.
        match news.iter().any(|(server, _)| survey.serves(server.side)) {
            true => faults.extend(refused(&news, &olds)),
            false => faults.extend(strayed_while_serving(&olds)),
        }
    }
    faults
}

/// Over a plan turned around: what its run would refuse.
pub fn check_back(survey: &Survey) -> Vec<Fault> {
    let (from, to): (Vec<_>, Vec<_>) = (survey.olds().collect(), survey.news().collect());
    let mut faults = refused(&from, &to);
    faults.extend(unknown(survey));
    faults
}

/// A run reads those of both sides, and is refused by one that says what it does not understand.
fn unknown(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        for (name, row) in &facts.unknown_sequences {
            let actual = format!("is in an unknown form: {row:?}");
            faults.push(
                Fault::new(Severity::Fault, RULE, subject(server.side, name), actual)
                    .expected("seven numbers, which the cutover carries over")
                    .mend(format!(
                        "SELECT * FROM {} there shows which of its values is no whole number; carry it \
                         over by hand under another name, or use a version of modshift that knows it",
                        quote(name)
                    )),
            );
        }
    }
    faults
}

fn names<'a>(shards: &[Shard<'a>]) -> BTreeSet<&'a str> {
    shards.iter().flat_map(|(_, facts)| facts.sequences.keys().map(String::as_str)).collect()
}

fn furthest(shards: &[Shard<'_>], name: &str) -> Option<Sequence> {
    let of_name = shards.iter().filter_map(|(_, facts)| facts.sequences.get(name));
    of_name.copied().reduce(Sequence::furthest)
}

fn subject(side: Side, name: &str) -> String {
    format!("{side}: sequence {name}")
}

/// What keeps the to-shards' own sequences from going on after those of the from-shards.
fn refused(from: &[Shard<'_>], to: &[Shard<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for name in names(from) {
        let Some(most) = furthest(from, name) else { continue };
        for (server, facts) in to {
            let Some(own) = facts.sequences.get(name) else { continue };
            let fault = |actual: String| {
                Fault::new(Severity::Fault, RULE, subject(server.side, name), actual)
            };
            match carried(own, &most) {
                Then::Strayed => faults.push(
                    fault(strayed(own))
                        .expected("one of these, or nobody knows which are its own")
                        .mend(restarted(name, own, &most)),
                ),
                Then::UsedUp(value) => faults.push(
                    fault(ends(own, value))
                        .expected("values left for it to give out")
                        .mend(widened(name, own)),
                ),
                Then::AsItIs | Then::Set(..) => {}
            }
        }
    }
    faults
}

fn strayed(own: &Sequence) -> String {
    format!(
        "gives out {} next, which is none of the values that it counts from {} in steps of {}",
        own.next, own.start, own.increment
    )
}

fn ends(own: &Sequence, value: i128) -> String {
    let end = if own.descends() { own.minimum } else { own.maximum };
    format!("ends at {end}, and has to go on from {value}")
}

/// Nobody draws from it yet.
fn restarted(name: &str, own: &Sequence, most: &Sequence) -> Mend {
    let beyond = if own.round > most.round { own.next } else { most.next };
    let Some(first) = own.own_from(beyond) else { return widened(name, own) };
    let name = quote(name);
    Mend::run(Way::RestartSequence, [format!("ALTER SEQUENCE {name} RESTART WITH {first}")]).note(
        format!(
            "or ALTER SEQUENCE {name} START WITH {} if that is what it shall count from",
            own.next
        ),
    )
}

fn widened(name: &str, like: &Sequence) -> Mend {
    let bound = match like.descends() {
        true => format!("MINVALUE {FIRST}"),
        false => format!("MAXVALUE {LAST}"),
    };
    Mend::run(Way::WidenSequence, [format!("ALTER SEQUENCE {} {bound}", quote(name))])
        .note("as far as the columns that take its values hold them")
}

/// Where applications draw from a sequence it is never moved: what it gives out stays as it is, and
/// only what it counts from is said anew.
fn strayed_while_serving(olds: &[Shard<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in olds {
        for (name, own) in facts.sequences.iter().filter(|(_, own)| own.strayed()) {
            let start = format!("ALTER SEQUENCE {} START WITH {}", quote(name), own.next);
            faults.push(
                Fault::new(Severity::Warning, RULE, subject(server.side, name), strayed(own))
                    .expected("one of these: a rollback refuses it")
                    .mend(
                        Mend::run(Way::StartSequence, [start])
                            .note("it goes on giving out what it gives out now"),
                    ),
            );
        }
    }
    faults
}

/// Of one name, before the new shards serve.
fn of_sequence(survey: &Survey, name: &str, olds: &[Shard<'_>], news: &[Shard<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let of_olds = || {
        let of = |&(server, facts): &Shard<'_>| Some((server.side, *facts.sequences.get(name)?));
        olds.iter().filter_map(of)
    };
    let (Some((_, first)), Some(most)) = (of_olds().next(), furthest(olds, name)) else {
        return faults;
    };
    let down = first.descends();
    let ends_at = of_olds().map(|(_, s)| if down { s.minimum } else { s.maximum });
    let Some(end) = (if down { ends_at.max() } else { ends_at.min() }) else { return faults };
    let shards = i128::from(survey.plan.new_modulus.get());
    let number = |side| match side {
        Side::New(shard) => shard.0,
        Side::Old(shard) => shard.0,
    };
    for (server, facts) in news {
        // It serves: made anew, its sequence would give out what it has given out.
        if survey.serves(server.side) {
            continue;
        }
        let subject = subject(server.side, name);
        let index = i128::from(number(server.side));
        let create = || created(name, &first, (most.next, end), index, shards);
        let Some(own) = facts.sequences.get(name) else {
            let beyond = format!("it to go on from {}, the highest of the old shards", most.next);
            faults.push(
                Fault::new(Severity::Fault, RULE, subject, "is missing, or cannot be read")
                    .expected(beyond)
                    .mend(create()),
            );
            continue;
        };
        match carried(own, &most) {
            Then::Strayed => {
                let fault = Fault::new(Severity::Fault, RULE, subject, strayed(own));
                let mend = match own.own_from(most.next) {
                    Some(_) => restarted(name, own, &most),
                    None => create(),
                };
                let expected =
                    "one of these, or the cutover refuses it: nobody knows which are its own";
                faults.push(fault.expected(expected).mend(mend));
                continue;
            }
            Then::UsedUp(value) => {
                faults.push(
                    Fault::new(Severity::Fault, RULE, subject, ends(own, value))
                        .expected("values left for the new shards: the cutover refuses it")
                        .mend(create()),
                );
                continue;
            }
            Then::AsItIs | Then::Set(..) => {}
        }
        let twin = news.iter().find(|(other, facts)| {
            let Some(theirs) = facts.sequences.get(name) else { return false };
            let common = gcd(step(own), step(theirs)).max(1);
            other.side != server.side
                && (own.next - theirs.next).unsigned_abs().is_multiple_of(common.into())
        });
        let beyond = if down { own.next > most.next } else { own.next < most.next };
        let actual = if beyond {
            format!("goes on from {}, which old shards have given out", own.next)
        } else if let Some((other, _)) = twin {
            format!("gives out the same values as that of {}", other.side)
        } else {
            continue;
        };
        let expected = format!("values from {} on that no other new shard gives out", most.next);
        faults.push(
            Fault::new(Severity::Warning, RULE, subject, actual).expected(expected).mend(create()),
        );
    }
    let used = |s: &Sequence| s.next as f64 / if down { s.minimum } else { s.maximum } as f64;
    let narrow: Vec<Side> =
        of_olds().filter(|(_, s)| !s.cycles && used(s) > USED_MAX).map(|(side, _)| side).collect();
    if !narrow.is_empty() {
        let actual = format!("is at {} of {end}", most.next);
        let mut fault = Fault::new(Severity::Warning, RULE, format!("sequence {name}"), actual)
            .expected("values left for the new shards");
        fault = match end {
            FIRST | LAST => fault.mend("none is wider: take keys from another source"),
            _ => fault.mend(widened(name, &first).at(narrow)),
        };
        faults.push(fault);
    }
    faults
}

fn step(sequence: &Sequence) -> u64 {
    u64::try_from(sequence.increment.unsigned_abs()).unwrap_or(1)
}

/// One whose values no other new shard gives out: from the first at or beyond all old ones that is
/// this shard's. One that begins anew must do so within its own values.
fn created(
    name: &str,
    like: &Sequence,
    (highest, end): (i128, i128),
    index: i128,
    shards: i128,
) -> Mend {
    let name = quote(name);
    let sql = match (like.descends(), like.cycles) {
        (false, cycles) => {
            let own = |from: i128| from + (index - from).rem_euclid(shards);
            let start = own(highest);
            // Old ones that have run out say nothing about where to end.
            let end = if start > end { LAST } else { end };
            let (low, cycle) = match cycles {
                true => (format!(" MINVALUE {}", own(like.minimum)), " CYCLE"),
                false => (String::new(), ""),
            };
            format!(
                "CREATE OR REPLACE SEQUENCE {name} START WITH {start} INCREMENT BY {shards}{low} \
                 MAXVALUE {end}{cycle}"
            )
        }
        (true, cycles) => {
            let own = |from: i128| from - (from - index).rem_euclid(shards);
            let start = own(highest);
            let end = if start < end { FIRST } else { end };
            let (top, cycle) = match cycles {
                true => (own(like.maximum), " CYCLE"),
                false => (like.maximum, ""),
            };
            format!(
                "CREATE OR REPLACE SEQUENCE {name} START WITH {start} INCREMENT BY -{shards} \
                 MINVALUE {end} MAXVALUE {top}{cycle}"
            )
        }
    };
    Mend::run(Way::CreateSequence, [sql])
}

#[cfg(test)]
mod tests {
    use modshift_cutover::sequences::Sequence;
    use modshift_proto::message::TokenPhase;

    use crate::check::survey::Token;
    use crate::check::survey::made::{lines, survey};

    fn up(next: i128, start: i128, increment: i128) -> Sequence {
        let (minimum, maximum) = (1, 9_000);
        Sequence { next, minimum, maximum, start, increment, cycles: false, round: 0 }
    }

    /// Of old shards 0 and 1 and new shards 0, 1 and 2.
    fn check(sequences: [Sequence; 5], expected: &[&str]) {
        found(sequences, None, expected);
    }

    fn found(sequences: [Sequence; 5], news_are: Option<TokenPhase>, expected: &[&str]) {
        let survey = survey(|which, facts| {
            facts.sequences.insert("s".to_owned(), sequences[which]);
            let phase = news_are.filter(|_| which > 1);
            let clock = std::time::Duration::ZERO;
            facts.token = phase.map(|phase| Token { epoch: 1, clock, phase });
        });
        let found = lines(&super::check(&survey));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "no {expected} in {found}");
        }
    }

    #[test]
    fn what_a_cutover_would_refuse_is_a_fault() {
        let olds = [up(800, 1, 1), up(801, 1, 1)];
        let news = [up(702, 702, 3), up(703, 703, 3), up(701, 701, 3)];
        let with = |index: usize, sequence| {
            let mut all = [olds[0], olds[1], news[0], news[1], news[2]];
            all[index] = sequence;
            all
        };
        // They are behind, and the cutover carries them on: a warning.
        let behind = "which old shards have given out";
        check(with(0, olds[0]), &[behind, behind, behind]);
        let strayed = "fault  new shard 1: sequence s: gives out 705 next, which is none of the values \
                       that it counts from 703 in steps of 3, expected one of these";
        check(with(3, up(705, 703, 3)), &[behind, strayed, behind]);
        let mend =
            "mend: ALTER SEQUENCE `s` RESTART WITH 802; -- or ALTER SEQUENCE `s` START WITH 705";
        check(with(3, up(705, 703, 3)), &[behind, mend, behind]);
        let narrow = Sequence { maximum: 790, ..news[2] };
        let ends = "fault  new shard 2: sequence s: ends at 790, and has to go on from 803";
        check(with(4, narrow), &[behind, behind, ends]);
        // A rollback would refuse it.
        let old = "warning  old shard 1: sequence s: gives out 800 next, which is none of the values that \
                   it counts from 1 in steps of 2";
        let olds = [up(801, 1, 2), up(800, 1, 2)];
        check([olds[0], olds[1], news[0], news[1], news[2]], &[behind, behind, behind, old]);
    }

    #[test]
    fn one_that_a_run_could_not_read_is_named_with_what_it_says() {
        let of = |which: usize| {
            survey(|shard, facts| {
                if shard == which {
                    let said = "1.5 1 9 1 1 0 0".to_owned();
                    facts.unknown_sequences = [("s".to_owned(), said)].into();
                }
            })
        };
        // A cutover reads old and new ones; so does a rollback.
        for (which, name) in [(1, "old shard 1"), (2, "new shard 0")] {
            let said =
                format!("fault  {name}: sequence s: is in an unknown form: \"1.5 1 9 1 1 0 0\"");
            for found in [super::check(&of(which)), super::check_back(&of(which))] {
                assert!(lines(&found)[0].starts_with(&said), "{found:?}");
            }
        }
    }

    #[test]
    fn where_new_shards_serve_old_ones_are_judged_as_a_rollback_judges_them() {
        let news = [up(1_203, 702, 3), up(1_204, 703, 3), up(1_205, 701, 3)];
        let all = |old| [up(700, 2, 2), old, news[0], news[1], news[2]];
        let serving = Some(TokenPhase::Serving);
        found(all(up(701, 1, 2)), serving, &[]);
        found(all(up(702, 1, 2)), serving, &["mend: ALTER SEQUENCE `s` RESTART WITH 1205;"]);
        let narrow = Sequence { maximum: 1_000, ..up(701, 1, 2) };
        let ends = "fault  old shard 1: sequence s: ends at 1000, and has to go on from 1205";
        found(all(narrow), serving, &[ends]);
    }
}
