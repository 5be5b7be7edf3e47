//! What speaks against emptying these shards: pure, from what they are and hold.

use modshift_mariadb::control;

use super::look::Shard;

/// One for each shard at most.
pub fn objections(shards: &[Shard]) -> Vec<String> {
    let olds: Vec<&Shard> = shards.iter().filter(|shard| shard.side.is_old()).collect();
    shards.iter().filter_map(|shard| objection(shard, &olds)).collect()
}

fn objection(shard: &Shard, olds: &[&Shard]) -> Option<String> {
    let (side, state) = (shard.side, &shard.state);
    if state.finished {
        let next = "a further reshard is another plan, of another name";
        return Some(format!("{side}: the reshard is finished; {next}"));
    }
    if let Some(other) = &state.other {
        return Some(format!("{side} is {other}"));
    }
    let phase = state.phase.as_deref();
    if side.is_old() {
        let next = "modshift status says by which run, and which command ends it";
        let fenced = phase.is_some_and(|phase| phase != "serving");
        return fenced.then(|| format!("{side} is fenced; {next}"));
    }
    if let Some(old) = olds.iter().find(|old| old.state.place == state.place) {
        return Some(format!(
            "{side} is the schema of {}, which serves: correct the plan, and run modshift check",
            old.side
        ));
    }
    if phase == Some("serving") || state.handed_over {
        return Some(format!("{side} serves: it is never emptied"));
    }
    let fed = state.has(control::WATERMARK) || state.has(control::RESTART);
    if let Some(filled) = state.filled.first().filter(|_| !fed) {
        return Some(format!(
            "{side} holds rows in table {}, and modshift has never applied any there: find out whose \
             they are. Where nobody needs them, empty the table by hand",
            filled.table
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use modshift_proto::plan::Plan;
    use modshift_proto::{NewShard, OldShard};

    use super::super::look::{Filled, State};
    use super::*;
    use crate::check::Side;

    fn shards(change: impl Fn(Side, &mut State)) -> Vec<Shard> {
        let text = "name = \"p\"\nmodulus = { old = 1, new = 2 }\n[log]\nkind = \"direct\"\n\
             [defaults]\nhost = \"h\"\nuser = \"u\"\npassword = \"p\"\n[[table]]\nname = \"t\"\n\
             key = \"k\"\nrule = \"floor_mod\"\n[[old]]\nschema = \"a\"\n[[new]]\nschema = \"b\"\n\
             [[new]]\nschema = \"c\"\n";
        let plan = Plan::parse(text, &|_| None).unwrap();
        let sides = [
            (Side::Old(OldShard(0)), "serving", &plan.old[0]),
            (Side::New(NewShard(0)), "fenced", &plan.new[0]),
            (Side::New(NewShard(1)), "fenced", &plan.new[1]),
        ];
        let make = |(side, phase, endpoint): (Side, &str, &modshift_proto::plan::Endpoint)| {
            let mut state = State {
                place: format!("h:3306:/data {}", endpoint.schema),
                phase: Some(phase.to_owned()),
                own: vec![control::TOKEN.to_owned(), control::WATERMARK.to_owned()],
                filled: vec![Filled { table: "t".to_owned(), rows: 7 }],
                ..State::default()
            };
            change(side, &mut state);
            Shard { side, endpoint: endpoint.clone(), state }
        };
        sides.into_iter().map(make).collect()
    }

    fn check(change: impl Fn(&mut State), at: Side, expected: &str) {
        let shards = shards(|side, state| {
            if side == at {
                change(state);
            }
        });
        let found = objections(&shards);
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}, not {expected}");
    }

    #[test]
    fn nothing_that_serves_and_nothing_of_others_is_emptied() {
        assert_eq!(objections(&shards(|_, _| {})), Vec::<String>::new());
        let (old, new) = (Side::Old(OldShard(0)), Side::New(NewShard(1)));
        check(|state| state.phase = Some("serving".to_owned()), new, "new shard 1 serves");
        check(|state| state.handed_over = true, new, "new shard 1 serves");
        check(|state| state.phase = Some("fenced".to_owned()), old, "old shard 0 is fenced");
        check(|state| state.finished = true, new, "the reshard is finished");
        check(
            |state| state.place = "h:3306:/data a".to_owned(),
            new,
            "new shard 1 is the schema of old shard 0",
        );
        check(|state| state.own.clear(), new, "new shard 1 holds rows in table t");
    }

    #[test]
    fn a_restart_that_was_killed_goes_on() {
        let killed = shards(|side, state| {
            state.phase = None;
            state.own = vec![control::RESTART.to_owned()];
            if !side.is_old() {
                state.filled.truncate(1);
            }
        });
        assert_eq!(objections(&killed), Vec::<String>::new());
        let fresh =
            shards(|_, state| *state = State { place: state.place.clone(), ..State::default() });
        assert_eq!(objections(&fresh), Vec::<String>::new());
    }
}
