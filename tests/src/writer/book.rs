//! The rows that one connection of the application works on: what they are, and the SQL for each
//! change of one.

use crate::{
    case::{COLUMNS, hex, quoted, random_row, random_value, uuid},
    random::Random,
    rule::{number_on, shard_of_number, shard_of_text, text_on},
};

/// What identifies and places a row, as far as the writer must remember it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Order { id: u64, account: i64 },
    Entry { account: i64, line: u32 },
    User { id: u64, login: String },
    Device { login: String, device: [u8; 8] },
    Wallet { id: u64, account: i64 },
    Types { id: i64, account: i64 },
}

/// A row with its version: `ver` as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub row: Row,
    pub ver: u64,
}

/// The tables that the writer changes; [`Row::table`] is an index into this.
pub const TABLES: [&str; 6] =
    ["t_trade_order", "t_account_entry", "t_user", "t_device", "t_wallet", "t_all_types"];

/// Numbers that no other connection hands out, of this writer or of an earlier one: each
/// connection has a range of its own, far above the numbers of the rows to begin with.
#[derive(Clone, Debug)]
pub struct Numbers {
    next: u64,
    next_line: u32,
}

impl Numbers {
    const PER_WORKER: u64 = 10_000_000_000;
    const LINES_PER_WORKER: u64 = 2_000_000;

    /// `slot` is unique to the connection within the test: 0, 1, 2 …
    pub fn new(slot: u64) -> Self {
        let line = 1_000_000 + slot * Self::LINES_PER_WORKER;
        let next_line = u32::try_from(line).expect("a test with thousands of connections");
        Self { next: (slot + 1) * Self::PER_WORKER, next_line }
    }

    pub fn take(&mut self) -> u64 {
        self.block(1)
    }

    /// The first of so many numbers in a row.
    pub fn block(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        first
    }

    fn next_line(&mut self) -> u32 {
        self.next_line += 1;
        self.next_line
    }
}

const ACCOUNTS: i64 = 30_000;
const NAMES: [&str; 5] = ["anna", "Jürgen", "ольга", "李雷", "zoë🙂"];
const LATIN_NAMES: [&str; 4] = ["bob", "Jürgen", "François", "Ñandú"];

impl Row {
    /// A new row of a table on a shard.
    pub fn invent(
        table: usize,
        shard: usize,
        modulus: usize,
        numbers: &mut Numbers,
        random: &mut Random,
    ) -> Self {
        let mut account = |low| number_on(shard, modulus, random.between(low, ACCOUNTS));
        match table {
            0 => Self::Order { id: numbers.take(), account: account(0) },
            1 => Self::Entry { account: account(-ACCOUNTS), line: numbers.next_line() },
            2 => {
                let stem = format!("{}-{}", random.pick(&NAMES), numbers.take());
                Self::User { id: numbers.take(), login: text_on(shard, modulus, &stem, random) }
            }
            3 => {
                let stem = format!("{}-{}", random.pick(&LATIN_NAMES), numbers.take());
                let login = text_on(shard, modulus, &stem, random);
                Self::Device { login, device: random.next().to_be_bytes() }
            }
            4 => Self::Wallet { id: numbers.take(), account: account(0) },
            _ => {
                let id = numbers.take() as i64;
                Self::Types { id: if id % 2 == 0 { id } else { -id }, account: account(-ACCOUNTS) }
            }
        }
    }

    pub fn table(&self) -> usize {
        match self {
            Self::Order { .. } => 0,
            Self::Entry { .. } => 1,
            Self::User { .. } => 2,
            Self::Device { .. } => 3,
            Self::Wallet { .. } => 4,
            Self::Types { .. } => 5,
        }
    }

    pub fn shard(&self, modulus: usize) -> usize {
        match self {
            Self::Order { account, .. }
            | Self::Entry { account, .. }
            | Self::Wallet { account, .. }
            | Self::Types { account, .. } => shard_of_number(*account, modulus),
            Self::User { login, .. } | Self::Device { login, .. } => shard_of_text(login, modulus),
        }
    }

    /// The condition on the primary key.
    fn key_sql(&self) -> String {
        match self {
            Self::Order { id, .. } | Self::Wallet { id, .. } => format!("id={id}"),
            Self::Types { id, .. } => format!("id={id}"),
            Self::User { id, .. } => format!("user_id={id}"),
            Self::Entry { account, line } => format!("accountNo={account} AND line_no={line}"),
            Self::Device { login, device } => {
                format!("login={} AND device=x'{}'", latin(login), hex(device))
            }
        }
    }

    /// The same row with a shard key that keeps it on its shard under this modulus, though not
    /// under another one.
    pub fn moved(&self, modulus: usize, numbers: &mut Numbers, random: &mut Random) -> Self {
        let shard = self.shard(modulus);
        let step = modulus as i64 * *random.pick(&[-5, -3, -2, -1, 1, 2, 3, 4, 7]);
        let mut moved = self.clone();
        match &mut moved {
            Self::Order { account, .. }
            | Self::Wallet { account, .. }
            | Self::Types { account, .. } => *account += step,
            Self::Entry { account, line } => {
                *account += step;
                *line = numbers.next_line();
            }
            Self::User { login, .. } | Self::Device { login, .. } => {
                *login = renamed(login, shard, modulus, random);
            }
        }
        moved
    }

    /// The same row under another primary key, in its place.
    pub fn rekeyed(&self, numbers: &mut Numbers, random: &mut Random) -> Self {
        let mut rekeyed = self.clone();
        match &mut rekeyed {
            Self::Order { id, .. } | Self::User { id, .. } | Self::Wallet { id, .. } => {
                *id = numbers.take();
            }
            Self::Types { id, .. } => *id = numbers.take() as i64,
            Self::Entry { line, .. } => *line = numbers.next_line(),
            Self::Device { device, .. } => *device = random.next().to_be_bytes(),
        }
        rekeyed
    }

    /// Assignments that turn the key columns of a row into this row's.
    fn key_sets(&self) -> String {
        match self {
            Self::Order { id, account } | Self::Wallet { id, account } => {
                format!("id={id}, accountNo={account}")
            }
            Self::Types { id, account } => format!("id={id}, accountNo={account}"),
            Self::Entry { account, line } => format!("accountNo={account}, line_no={line}"),
            Self::User { id, login } => format!("user_id={id}, login={}", quoted(login)),
            Self::Device { login, device } => {
                format!("login={}, device=x'{}'", latin(login), hex(device))
            }
        }
    }

    /// An assignment to columns that are no keys.
    fn value_sets(&self, numbers: &mut Numbers, random: &mut Random) -> String {
        let amount = random.between(-1_000_000, 1_000_000);
        const NOTES: [&str; 5] = ["", "ok ", "größer", "🙂", "a'b\\c"];
        let note = quoted(NOTES[random.index(NOTES.len())]);
        match self {
            Self::Order { .. } => {
                format!("price={amount}/7, note={note}, side={}", 1 + random.below(3))
            }
            Self::Entry { .. } => format!("amount={amount}/10000, memo={note}"),
            Self::User { .. } if random.percent(30) => {
                format!(
                    "email={}",
                    optional(random, |_| format!("'w{}@example.org'", numbers.take()))
                )
            }
            Self::User { .. } => {
                format!("balance=balance+{amount}/10000, profile={}", profile(random))
            }
            Self::Device { .. } => {
                format!("name={note}, fingerprint='{}', seen=NOW(6)", uuid(random))
            }
            Self::Wallet { .. } if random.percent(30) => {
                format!("phone={}", optional(random, |_| format!("'+27-{}'", numbers.take())))
            }
            Self::Wallet { .. } => format!("balance={amount}/100"),
            Self::Types { .. } => {
                let sets = (0..1 + random.below(6)).map(|_| {
                    let column = random.index(COLUMNS.len());
                    format!("{}={}", COLUMNS[column], random_value(column, random))
                });
                sets.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn latin(text: &str) -> String {
    format!("CONVERT({} USING latin1)", quoted(text))
}

fn optional(random: &mut Random, value: impl FnOnce(&mut Random) -> String) -> String {
    if random.percent(25) { "NULL".to_owned() } else { value(random) }
}

fn profile(random: &mut Random) -> String {
    optional(random, |random| {
        quoted(&format!("{{\"n\": {}, \"s\": \"é\"}}", random.below(1 << 40)))
    })
}

/// Another text on the same shard. Now and then only the case changes, so that the collation calls
/// it the same value while its checksum is another.
fn renamed(login: &str, shard: usize, modulus: usize, random: &mut Random) -> String {
    let recased = if login.contains(char::is_lowercase) {
        login.to_uppercase()
    } else {
        login.to_lowercase()
    };
    // Not where the other case has other letters (ÿ and ß leave latin1 or the key's identity).
    let same_length = recased.chars().count() == login.chars().count();
    if same_length && recased != *login && shard_of_text(&recased, modulus) == shard {
        return recased;
    }
    let stem = login.split('.').next().unwrap_or(login);
    loop {
        let text = text_on(shard, modulus, stem, random);
        if text != *login {
            return text;
        }
    }
}

impl Live {
    pub fn insert_sql(&self, numbers: &mut Numbers, random: &mut Random) -> String {
        let (table, ver) = (TABLES[self.row.table()], self.ver);
        let amount = random.between(-1_000_000, 1_000_000);
        match &self.row {
            Row::Order { id, account } => format!(
                "INSERT INTO {table} (id,accountNo,symbol,side,quantity,price,note,client_ref,created,\
                 ver) VALUES ({id},{account},'BMW',{},{amount}/3,NULL,{},x'{}',NOW(6),{ver})",
                1 + random.below(3),
                quoted("neu № 1"),
                hex(&random.next().to_le_bytes()),
            ),
            Row::Entry { account, line } => format!(
                "INSERT INTO {table} VALUES ({account},{line},{amount}/7,NULL,'{amount}',CURDATE(),\
                 '-12:00:00.5',{ver})"
            ),
            Row::User { id, login } => {
                let email = optional(random, |_| format!("'w{}@example.org'", numbers.take()));
                let profile = profile(random);
                format!(
                    "INSERT INTO {table} VALUES ({id},{},{email},'NA',{profile},{amount}/3,{ver})",
                    quoted(login),
                )
            }
            Row::Device { login, device } => format!(
                "INSERT INTO {table} VALUES ({},x'{}',{},'::ffff:10.0.0.{}','{}',NOW(6),{ver})",
                latin(login),
                hex(device),
                quoted("Gerät 📱"),
                random.below(256),
                uuid(random),
            ),
            Row::Wallet { id, account } => {
                let phone = optional(random, |_| format!("'+27-{}'", numbers.take()));
                let iban = optional(random, |_| format!("'NA{}'", numbers.take()));
                format!(
                    "INSERT INTO {table} VALUES ({id},{account},{phone},'BANK',{iban},{amount}/100,\
                     {ver})"
                )
            }
            Row::Types { id, account } => format!(
                "INSERT INTO {table} (id,accountNo,ver,{}) VALUES ({id},{account},{ver},{})",
                COLUMNS.join(","),
                random_row(random).join(","),
            ),
        }
    }

    /// Other values, the same keys.
    pub fn update_sql(&self, numbers: &mut Numbers, random: &mut Random) -> String {
        let sets = self.row.value_sets(numbers, random);
        self.update_with(&sets)
    }

    /// Other keys.
    pub fn rekey_sql(&self, to: &Row) -> String {
        self.update_with(&to.key_sets())
    }

    pub fn update_with(&self, sets: &str) -> String {
        let table = TABLES[self.row.table()];
        // The version in the condition: if the row is not as the writer left it, nothing matches,
        // and the writer notices.
        format!(
            "UPDATE {table} SET {sets}, ver=ver+1 WHERE {} AND ver={}",
            self.row.key_sql(),
            self.ver
        )
    }

    pub fn delete_sql(&self) -> String {
        let table = TABLES[self.row.table()];
        format!("DELETE FROM {table} WHERE {} AND ver={}", self.row.key_sql(), self.ver)
    }

    /// The version of the row with this key, if there is one; waits for whoever is changing it.
    pub fn probe_sql(&self) -> String {
        let table = TABLES[self.row.table()];
        format!("SELECT ver FROM {table} WHERE {} FOR UPDATE", self.row.key_sql())
    }

    /// The same without a lock.
    pub fn look_sql(&self) -> String {
        let table = TABLES[self.row.table()];
        format!("SELECT ver FROM {table} WHERE {}", self.row.key_sql())
    }

    pub fn next(&self) -> Self {
        Self { row: self.row.clone(), ver: self.ver + 1 }
    }
}

/// Reads some of the rows to begin with: those that fall to this one of several connections. Rows
/// that the harness's own connections inserted belong to them, and are left out: a writer and
/// moving users can run side by side, two writers can't.
pub fn load_sql(table: usize, worker: u64, workers: u64, most: u64) -> String {
    let name = TABLES[table];
    let first = Numbers::PER_WORKER;
    let (columns, number, old) = match table {
        1 => ("accountNo, line_no", "ABS(accountNo)+line_no", "line_no < 1000000".to_owned()),
        2 => ("user_id, login", "user_id", format!("user_id < {first}")),
        3 => ("login, device", "CRC32(login)", "TRUE".to_owned()),
        _ => ("id, accountNo", "ABS(id)", format!("ABS(id) < {first}")),
    };
    format!(
        "SELECT {columns}, ver FROM {name} WHERE {old} AND ({number}) MOD {workers} = {worker} \
         LIMIT {most}"
    )
}

pub fn loaded(table: usize, row: mysql_async::Row) -> Option<Live> {
    use mysql_async::from_row_opt;
    let (row, ver) = match table {
        0 | 4 => {
            let (id, account, ver) = from_row_opt(row).ok()?;
            let row =
                if table == 0 { Row::Order { id, account } } else { Row::Wallet { id, account } };
            (row, ver)
        }
        1 => {
            let (account, line, ver) = from_row_opt(row).ok()?;
            (Row::Entry { account, line }, ver)
        }
        2 => {
            let (id, login, ver) = from_row_opt(row).ok()?;
            (Row::User { id, login }, ver)
        }
        3 => {
            let (login, device, ver) = from_row_opt::<(String, Vec<u8>, u64)>(row).ok()?;
            (Row::Device { login, device: device.try_into().ok()? }, ver)
        }
        _ => {
            let (id, account, ver) = from_row_opt(row).ok()?;
            (Row::Types { id, account }, ver)
        }
    };
    Some(Live { row, ver })
}
