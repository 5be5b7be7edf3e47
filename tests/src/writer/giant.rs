//! Transactions of many thousand rows: one block of orders is inserted, updated, moved between the
//! shards of another modulus, and deleted, each in one transaction.

use tokio::time::Instant;

use super::{Giants, Live, Probe, Row, Statement, plan::Book};

#[derive(Clone, Debug)]
struct Block {
    first: u64,
    rows: u64,
    shard: usize,
    modulus: usize,
    /// Of the first row.
    account: i64,
    ver: u64,
}

pub(super) struct Giant {
    options: Giants,
    pub due: Instant,
    block: Option<Block>,
}

pub(super) struct Act {
    pub kind: &'static str,
    pub shard: usize,
    pub statement: Statement,
    pub probe: Probe,
    after: Option<Block>,
}

impl Giant {
    pub fn new(options: Giants) -> Self {
        Self { options, due: Instant::now() + options.interval, block: None }
    }

    /// What to do next; the same again until it is `done`, unless the modulus has changed: then the
    /// rows of the block lie on several shards, and are left alone from now on.
    pub fn next(&mut self, modulus: usize, book: &mut Book) -> Act {
        match self.block.clone().filter(|block| block.modulus == modulus) {
            None => self.insert(modulus, book),
            Some(block) if block.ver == 1 => {
                let after = Block { ver: 2, ..block.clone() };
                change("giant update", &block, "price=price+0.5, note='giant'", after)
            }
            Some(block) if block.ver == 2 => {
                let step = modulus as u64;
                let account = block.account + (step * (1 + block.first % 5)) as i64;
                let after = Block { ver: 3, account, ..block.clone() };
                let sets = format!("accountNo=accountNo+{step}*(1+id MOD 5)");
                change("giant move", &block, &sets, after)
            }
            Some(block) => delete(&block),
        }
    }

    pub fn done(&mut self, act: Act) {
        self.block = act.after;
        self.due = Instant::now() + self.options.interval;
    }

    fn insert(&self, modulus: usize, book: &mut Book) -> Act {
        let rows = self.options.rows.max(1);
        let first = book.numbers.block(rows);
        let shard = book.random.index(modulus);
        let block = Block { first, rows, shard, modulus, account: shard as i64, ver: 1 };
        let sql = format!(
            "INSERT INTO t_trade_order (id,accountNo,symbol,side,quantity,price,note,created,ver) \
             SELECT {first}+seq, {modulus}*(seq MOD 997)+{shard}, 'ALV', 1+seq MOD 3, seq/8, seq/3, \
             REPEAT('ü',seq MOD 60), NOW(6), 1 FROM seq_0_to_{}",
            rows - 1
        );
        act("giant insert", shard, sql, Some(block), rows)
    }
}

fn act(kind: &'static str, shard: usize, sql: String, after: Option<Block>, rows: u64) -> Act {
    let block = after.as_ref();
    let row =
        Row::Order { id: block.map_or(0, |b| b.first), account: block.map_or(0, |b| b.account) };
    let ver = block.map_or(0, |b| b.ver);
    let probe = Probe { row: Live { row, ver }, version: Some(ver) };
    Act { kind, shard, statement: Statement::many(sql, rows), probe, after }
}

fn condition(block: &Block) -> String {
    let last = block.first + block.rows - 1;
    format!("id BETWEEN {} AND {last} AND ver={}", block.first, block.ver)
}

fn change(kind: &'static str, block: &Block, sets: &str, after: Block) -> Act {
    let sql = format!("UPDATE t_trade_order SET {sets}, ver=ver+1 WHERE {}", condition(block));
    act(kind, block.shard, sql, Some(after), block.rows)
}

fn delete(block: &Block) -> Act {
    let sql = format!("DELETE FROM t_trade_order WHERE {}", condition(block));
    let row = Row::Order { id: block.first, account: block.account };
    let probe = Probe { row: Live { row, ver: block.ver }, version: None };
    let statement = Statement::many(sql, block.rows);
    Act { kind: "giant delete", shard: block.shard, statement, probe, after: None }
}
