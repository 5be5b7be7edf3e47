//! Decides what the next transaction of a connection does. No I/O: rows are taken out of the book
//! while they are in a plan, and come back as they were or as they became.

use super::{
    Live, Mix, TABLES,
    book::{Numbers, Row},
    session::{Probe, Statement},
};
use crate::random::Random;

/// One row's way through a transaction.
#[derive(Clone, Debug)]
pub struct Step {
    pub kind: &'static str,
    pub before: Option<Live>,
    pub after: Option<Live>,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub shard: usize,
    pub statements: Vec<Statement>,
    pub steps: Vec<Step>,
}

/// Rows whose deletion is remembered, so that they can be inserted again with a higher version.
const GRAVES: usize = 200;
/// How often a row of the wanted shard is looked for at random.
const LOOKS: usize = 24;

pub struct Book {
    rows: [Vec<Live>; TABLES.len()],
    graves: Vec<Live>,
    pub numbers: Numbers,
    pub random: Random,
}

impl Book {
    pub fn new(numbers: Numbers, random: Random) -> Self {
        Self { rows: Default::default(), graves: Vec::new(), numbers, random }
    }

    pub fn add(&mut self, live: Live) {
        self.rows[live.row.table()].push(live);
    }

    /// Every row that must be there, and in which version.
    pub fn live(&self) -> impl Iterator<Item = &Live> {
        self.rows.iter().flatten()
    }

    /// Rows that must be gone.
    pub fn dead(&self) -> &[Live] {
        &self.graves
    }

    fn take(&mut self, table: usize, shard: usize, modulus: usize) -> Option<Live> {
        let rows = &mut self.rows[table];
        for _ in 0..LOOKS.min(rows.len()) {
            let at = self.random.index(rows.len());
            if rows[at].row.shard(modulus) == shard {
                return Some(rows.swap_remove(at));
            }
        }
        None
    }

    fn exhume(&mut self, shard: usize, modulus: usize) -> Option<Live> {
        let at = self.graves.iter().position(|live| live.row.shard(modulus) == shard)?;
        Some(self.graves.swap_remove(at))
    }

    pub fn plan(&mut self, modulus: usize, mix: &Mix) -> Plan {
        let shard = self.random.index(modulus);
        let mut plan = Plan { shard, statements: Vec::new(), steps: Vec::new() };
        let (low, high) = mix.changes;
        for _ in 0..self.random.between(low.into(), high.into()) {
            self.change(&mut plan, modulus, mix);
        }
        plan
    }

    fn change(&mut self, plan: &mut Plan, modulus: usize, mix: &Mix) {
        let shard = plan.shard;
        let table = *self.random.pick(&mix.tables);
        let mut dice = self.random.below(mix.total().into()) as u32;
        let mut falls = |weight: u32| {
            let here = dice < weight;
            dice = dice.wrapping_sub(weight);
            here
        };
        if falls(mix.insert) {
            return self.insert(plan, table, modulus);
        }
        if falls(mix.reinsert) {
            return match self.exhume(shard, modulus) {
                Some(dead) => self.put(plan, "reinsert", dead.next()),
                None => self.insert(plan, table, modulus),
            };
        }
        let Some(live) = self.take(table, shard, modulus) else {
            return self.insert(plan, table, modulus);
        };
        if falls(mix.update) {
            self.update(plan, live);
        } else if falls(mix.delete) {
            let sql = Statement::one(live.delete_sql());
            plan.push("delete", sql, Some(live), None);
        } else if falls(mix.move_key) {
            let to = live.row.moved(modulus, &mut self.numbers, &mut self.random);
            rekey(plan, "move", live, to);
        } else if falls(mix.change_primary_key) {
            let to = live.row.rekeyed(&mut self.numbers, &mut self.random);
            rekey(plan, "rekey", live, to);
        } else {
            self.swap(plan, live, modulus);
        }
    }

    fn insert(&mut self, plan: &mut Plan, table: usize, modulus: usize) {
        let row = Row::invent(table, plan.shard, modulus, &mut self.numbers, &mut self.random);
        self.put(plan, "insert", Live { row, ver: 1 });
    }

    fn put(&mut self, plan: &mut Plan, kind: &'static str, live: Live) {
        let sql = live.insert_sql(&mut self.numbers, &mut self.random);
        // What comes back from the grave goes there again if the transaction fails.
        let before = (kind == "reinsert").then(|| Live { ver: live.ver - 1, ..live.clone() });
        plan.push(kind, Statement::one(sql), before, Some(live));
    }

    /// Now and then twice in one transaction.
    fn update(&mut self, plan: &mut Plan, live: Live) {
        let sql = Statement::one(live.update_sql(&mut self.numbers, &mut self.random));
        let mut after = live.next();
        plan.statements.push(sql);
        if self.random.percent(10) {
            let again = after.update_sql(&mut self.numbers, &mut self.random);
            plan.statements.push(Statement::one(again));
            after = after.next();
        }
        plan.steps.push(Step { kind: "update", before: Some(live), after: Some(after) });
    }

    /// Two wallets exchange their phone numbers: a unique value goes by way of NULL.
    fn swap(&mut self, plan: &mut Plan, live: Live, modulus: usize) {
        const WALLET: usize = 4;
        let first = match live.row.table() {
            WALLET => live,
            _ => {
                self.add(live);
                match self.take(WALLET, plan.shard, modulus) {
                    Some(wallet) => wallet,
                    None => return self.insert(plan, WALLET, modulus),
                }
            }
        };
        let Some(second) = self.take(WALLET, plan.shard, modulus) else {
            return self.update(plan, first);
        };
        let (a, b) = (self.numbers.take(), self.numbers.take());
        // Both get a known number first, then they swap.
        let (a, b) = (format!("'+27-{a}'"), format!("'+27-{b}'"));
        let sets = [(0, &a), (1, &b), (0, &"NULL".to_owned()), (1, &a), (0, &b)];
        let mut now = [first.clone(), second.clone()];
        for (which, phone) in sets {
            let sql = now[which].update_with(&format!("phone={phone}"));
            plan.statements.push(Statement::one(sql));
            now[which] = now[which].next();
        }
        for (before, after) in [first, second].into_iter().zip(now) {
            plan.steps.push(Step { kind: "swap", before: Some(before), after: Some(after) });
        }
    }

    /// The plan took place.
    pub fn keep(&mut self, plan: Plan) {
        for step in plan.steps {
            match (step.before, step.after) {
                (_, Some(after)) => self.add(after),
                (Some(dead), None) if self.graves.len() < GRAVES => self.graves.push(dead),
                _ => {}
            }
        }
    }

    /// It did not.
    pub fn undo(&mut self, plan: Plan) {
        for step in plan.steps {
            match step.before {
                Some(dead) if step.kind == "reinsert" => self.graves.push(dead),
                Some(before) => self.add(before),
                None => {}
            }
        }
    }
}

fn rekey(plan: &mut Plan, kind: &'static str, live: Live, to: Row) {
    let sql = Statement::one(live.rekey_sql(&to));
    let after = Live { row: to, ver: live.ver + 1 };
    plan.push(kind, sql, Some(live), Some(after));
}

impl Plan {
    fn push(
        &mut self,
        kind: &'static str,
        sql: Statement,
        before: Option<Live>,
        after: Option<Live>,
    ) {
        self.statements.push(sql);
        self.steps.push(Step { kind, before, after });
    }

    /// The shard on which all its rows lie under this modulus, before and after, if there is one.
    pub fn shard_under(&self, modulus: usize) -> Option<usize> {
        let rows = self.steps.iter().flat_map(|step| [&step.before, &step.after]).flatten();
        let mut shards = rows.map(|live| live.row.shard(modulus));
        let first = shards.next()?;
        shards.all(|shard| shard == first).then_some(first)
    }

    /// Every step shows the outcome of the whole; one that leaves a row is as good as one that
    /// removes it.
    pub fn probe(&self) -> Option<Probe> {
        let step = self.steps.first()?;
        match (&step.after, &step.before) {
            (Some(after), _) => Some(Probe { row: after.clone(), version: Some(after.ver) }),
            (None, Some(before)) => Some(Probe { row: before.clone(), version: None }),
            (None, None) => None,
        }
    }
}
