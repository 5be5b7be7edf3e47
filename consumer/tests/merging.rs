//! Invariant 3 by trying everything: whatever old shards do, and however their streams interleave
//! and are cut into batches, the new shard ends with what they hold, and with nothing parked.
//!
//! A stream *i→j* is a sequence of upserts and deletes whatever caused them: a row that a changed
//! shard key moves to another new shard is a delete here. So users that move between old shards in
//! both statement orders and back, unique values that move between rows and shards, and shard key
//! updates are all among the histories below.

#![allow(clippy::unwrap_used, reason = "what the model encoded it can decode")]
#![allow(clippy::print_stdout, reason = "seeds and counts are part of the outcome")]

mod model;

use model::{Act, Model, Rows, Without, merged, perform};

/// Acts of one old shard, and what it holds after them.
type Stream = (Vec<Act>, Rows);

/// Every sequence of `len` acts that the old shard's database allows.
fn streams(owner: u16, begin: &Rows, ids: u8, uniques: u8, len: usize) -> Vec<Stream> {
    let mut all = vec![(Vec::new(), begin.clone())];
    for step in 0..len {
        let mut longer = Vec::new();
        for (acts, rows) in &all {
            for id in 0..ids {
                let version = 10 * (owner as u8 + 1) + step as u8;
                let puts = (0..uniques).map(|unique| Act::Put { id, unique, version });
                for act in puts.chain([Act::Delete { id }]) {
                    if let Some(after) = perform(rows, owner, act) {
                        let mut acts: Vec<Act> = acts.clone();
                        acts.push(act);
                        longer.push((acts, after));
                    }
                }
            }
        }
        all = longer;
    }
    all
}

/// Every order in which the streams can arrive, each stream in its own order.
fn interleavings(streams: &[&[Act]]) -> Vec<Vec<(u16, Act)>> {
    fn go(
        streams: &[&[Act]],
        taken: &mut Vec<usize>,
        order: &mut Vec<(u16, Act)>,
        all: &mut Vec<Vec<(u16, Act)>>,
    ) {
        if taken.iter().zip(streams).all(|(&taken, stream)| taken == stream.len()) {
            all.push(order.clone());
            return;
        }
        for shard in 0..streams.len() {
            if let Some(&act) = streams[shard].get(taken[shard]) {
                taken[shard] += 1;
                order.push((shard as u16, act));
                go(streams, taken, order, all);
                order.pop();
                taken[shard] -= 1;
            }
        }
    }
    let mut all = Vec::new();
    go(streams, &mut vec![0; streams.len()], &mut Vec::new(), &mut all);
    all
}

/// Applies an order in batches, cut after those places whose bit is set; tells what went wrong.
fn run(
    begin: &[Rows],
    order: &[(u16, Act)],
    cuts: u32,
    end: &Rows,
    off: Without,
) -> Option<String> {
    let mut model = Model::new(merged(begin).expect("a legal beginning"), off);
    let mut from = 0;
    for to in 1..=order.len() {
        if to == order.len() || cuts & (1 << (to - 1)) != 0 {
            if let Err(error) = model.apply(&order[from..to]) {
                return Some(error);
            }
            from = to;
        }
    }
    if model.rows != *end {
        return Some(format!("{:?} instead of {end:?}", model.rows));
    }
    (!model.parked.is_empty()).then(|| format!("{:?} still parked", model.parked))
}

/// What the old shards hold at first, and how many acts each does.
struct Case {
    begin: Vec<Rows>,
    lengths: Vec<usize>,
    ids: u8,
    uniques: u8,
}

fn case(begin: &[&[(u8, u8)]], lengths: &[usize], ids: u8, uniques: u8) -> Case {
    let rows = |(owner, rows): (usize, &&[(u8, u8)])| {
        let row = |unique| model::Row { owner: owner as u16, unique, version: owner as u8 };
        rows.iter().map(|&(id, unique)| (id, row(unique))).collect()
    };
    Case {
        begin: begin.iter().enumerate().map(rows).collect(),
        lengths: lengths.to_vec(),
        ids,
        uniques,
    }
}

fn cases() -> Vec<Case> {
    vec![
        // One user here, one there; everything two shards can do in two or three acts each.
        case(&[&[(0, 0)], &[(1, 1)]], &[2, 2], 2, 2),
        case(&[&[(0, 0)], &[(1, 1)]], &[3, 2], 2, 2),
        case(&[&[(0, 0), (1, 1)], &[]], &[3, 2], 2, 2),
        // A value that moves between rows of one shard while another wants it.
        case(&[&[(0, 0), (1, 1)], &[(2, 2)]], &[2, 2], 3, 3),
        // Three old shards.
        case(&[&[(0, 0)], &[(1, 1)], &[]], &[2, 1, 2], 2, 2),
        case(&[&[(0, 0)], &[], &[]], &[2, 2, 2], 1, 2),
        // There and back again.
        case(&[&[(0, 0)], &[]], &[4, 4], 1, 1),
        case(&[&[(0, 0)], &[]], &[3, 4], 1, 2),
    ]
}

/// Every history of a case in every order and (up to 16 of) every way to cut batches. Gives the
/// number of runs, or stops at the first that `wrong` wants.
fn try_all(case: &Case, off: Without, mut wrong: impl FnMut(String) -> bool) -> u64 {
    let sides: Vec<Vec<Stream>> = (case.begin.iter().zip(&case.lengths).enumerate())
        .map(|(owner, (begin, &len))| streams(owner as u16, begin, case.ids, case.uniques, len))
        .collect();
    let mut runs = 0;
    let mut at = vec![0; sides.len()];
    loop {
        let chosen: Vec<&Stream> = sides.iter().zip(&at).map(|(side, &at)| &side[at]).collect();
        let ends: Vec<Rows> = chosen.iter().map(|(_, rows)| rows.clone()).collect();
        // Where the old shards disagree in the end, parked rows are right.
        if let Some(end) = merged(&ends) {
            let acts: Vec<&[Act]> = chosen.iter().map(|(acts, _)| acts.as_slice()).collect();
            for (index, order) in interleavings(&acts).into_iter().enumerate() {
                let ways = 1u32 << (order.len() - 1);
                let step = (ways / 8).max(1);
                for way in 0..ways.min(8) {
                    // Few of many: another few for each order.
                    let cuts = (way * step + index as u32 % step) % ways;
                    runs += 1;
                    if let Some(fault) = run(&case.begin, &order, cuts, &end, off)
                        && wrong(format!("{order:?} cut {cuts:b}: {fault}"))
                    {
                        return runs;
                    }
                }
            }
        }
        // The next choice of streams, as an odometer.
        let Some(digit) = (0..at.len()).find(|&digit| at[digit] + 1 < sides[digit].len()) else {
            return runs;
        };
        at[digit] += 1;
        at[..digit].fill(0);
    }
}

#[test]
fn every_interleaving_ends_in_the_right_state_with_nothing_parked() {
    let mut runs = 0;
    for case in cases() {
        runs += try_all(&case, Without::Nothing, |fault| panic!("{fault}"));
    }
    println!("{runs} runs");
    assert!(runs > 100_000, "only {runs} runs");
}

#[test]
fn every_rule_left_out_is_noticed() {
    for rule in Without::RULES {
        let noticed = cases().iter().any(|case| {
            let mut noticed = false;
            try_all(case, rule, |_| {
                noticed = true;
                true
            });
            noticed
        });
        assert!(noticed, "nothing goes wrong without {rule:?}");
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// Streams merged at random, each in its own order, now and then with one far behind.
fn arrival(acts: &[Vec<Act>], random: &mut Random) -> Vec<(u16, Act)> {
    let slow = random.below(2 * acts.len());
    let mut taken = vec![0; acts.len()];
    let mut order = Vec::new();
    let left = |taken: &[usize]| {
        let all = 0..acts.len();
        all.filter(|&shard| taken[shard] < acts[shard].len()).collect::<Vec<_>>()
    };
    loop {
        let open = left(&taken);
        if open.is_empty() {
            return order;
        }
        let shard = open[random.below(open.len())];
        if shard == slow && open.len() > 1 && random.below(8) != 0 {
            continue;
        }
        order.push((shard as u16, acts[shard][taken[shard]]));
        taken[shard] += 1;
    }
}

/// Longer histories of more shards, rows and values, at random: batches of any size end as batches
/// of one do, which is what one by one means.
#[test]
fn coalescing_equals_applying_one_by_one() {
    const CASES: usize = 10_000;
    let seed = match std::env::var("MODSHIFT_SEED") {
        Ok(text) => text.parse().expect("MODSHIFT_SEED is a number"),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64),
    };
    println!("MODSHIFT_SEED={seed}");
    let mut random = Random(seed);
    let mut done = 0;
    while done < CASES {
        let shards = 1 + random.below(3);
        let mut rows = vec![Rows::new(); shards];
        let mut acts: Vec<Vec<Act>> = vec![Vec::new(); shards];
        for step in 0..random.below(24) {
            let owner = random.below(shards);
            let (id, unique) = (random.below(4) as u8, random.below(4) as u8);
            let act = match random.below(3) {
                0 => Act::Delete { id },
                _ => Act::Put { id, unique, version: step as u8 },
            };
            if let Some(after) = perform(&rows[owner], owner as u16, act) {
                rows[owner] = after;
                acts[owner].push(act);
            }
        }
        // Rows that two shards hold in the end leave one of them.
        while merged(&rows).is_none() {
            let owner = random.below(shards);
            if let Some(&id) = rows[owner].keys().next() {
                rows[owner].remove(&id);
                acts[owner].push(Act::Delete { id });
            }
        }
        let order = arrival(&acts, &mut random);
        let Some(end) = merged(&rows).filter(|_| !order.is_empty()) else { continue };
        let begin = vec![Rows::new(); shards];
        let cuts = (random.below(1 << 16) << 16 | random.below(1 << 16)) as u32;
        for cuts in [u32::MAX, cuts, cuts & cuts >> 3, 0] {
            let order = &order[..];
            // Shifts beyond the bits of `cuts` would not be seen: such histories are rare.
            if order.len() < 32
                && let Some(fault) = run(&begin, order, cuts, &end, Without::Nothing)
            {
                panic!("MODSHIFT_SEED={seed}: {order:?} cut {cuts:b}: {fault}");
            }
        }
        done += 1;
    }
}
