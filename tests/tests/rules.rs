//! The two forms of every shard rule against each other on a real server, over whole columns.
//!
//! Three answers must agree for each value and modulus: the Rust form, over the cell that the
//! copying reader makes of the stored value; the SQL form, as the server computes it; and a model
//! of a few lines that shares no code with either.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use modshift_cutover::guard::{Guarded, Shown, triggers};
use modshift_mariadb::{Session, catalog, connect, value};
use modshift_proto::{
    Modulus,
    plan::{Endpoint, Secret, TlsMode},
    row::{RowView, RowWriter},
    rule::{BoundRule, Charset, Home, ShardRule},
    schema::Column,
};
use modshift_tests::{MariaDbOptions, MariaDbServer, random::Random};
use mysql_async::{Conn, Row, Value, prelude::Queryable};

const SCHEMA: &str = "s";
/// Values of each column, and moduli that each is placed under.
const VALUES: usize = 150;
const MODULI: usize = 40;
/// Of each function, at least.
const CASES_MIN: u64 = 10_000;

/// `MODSHIFT_SEED`, or another at each run; printed either way, so that any run can be repeated.
#[expect(clippy::print_stdout, reason = "a failed run must be repeatable")]
fn random(of: &str) -> Random {
    let given = std::env::var("MODSHIFT_SEED").ok().and_then(|text| text.parse().ok());
    let now =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |age| age.as_nanos() as u64);
    let seed = given.unwrap_or_else(now);
    println!("{of}: repeat with MODSHIFT_SEED={seed}");
    Random::new(seed)
}

#[expect(clippy::print_stdout, reason = "how much was tried is part of the result")]
fn report(counts: &BTreeMap<String, u64>) {
    for (function, cases) in counts {
        println!("{function}: {cases} cases");
    }
}

/// One and the largest always, then small ones as people use them, then any.
fn moduli(random: &mut Random) -> Vec<Modulus> {
    let fixed = [1, 2, 3, 4, u16::MAX, 32_768, 32_767];
    let mut all: Vec<u16> = fixed.to_vec();
    while all.len() < MODULI {
        let most = if random.percent(50) { 64 } else { i64::from(u16::MAX) };
        all.push(random.between(1, most) as u16);
    }
    all.into_iter().filter_map(Modulus::new).collect()
}

/// A server with one table for each type of key.
struct Keys {
    endpoint: Endpoint,
    _server: MariaDbServer,
}

impl Keys {
    async fn start() -> Result<Keys> {
        let options = MariaDbOptions { log_bin: false, ..MariaDbOptions::default() };
        let server = MariaDbServer::start(options).await?;
        server.run(format!("CREATE DATABASE {SCHEMA}")).await?;
        let address = server.address();
        let endpoint = Endpoint {
            host: address.host,
            port: address.port,
            schema: SCHEMA.to_owned(),
            user: address.user,
            password: Secret::new(address.password),
            tls: TlsMode::Off,
            tls_ca: None,
            replica_server_id: 1000,
            replicas: Vec::new(),
            read_from: None,
            application: None,
            peers: None,
        };
        Ok(Keys { endpoint, _server: server })
    }

    /// A table of one key column with these values, given as SQL literals.
    async fn table(&self, name: &str, type_text: &str, literals: &[String]) -> Result<Column> {
        let mut conn = connect(&self.endpoint, Session::Exact).await?;
        conn.query_drop(format!(
            "CREATE TABLE {name} (n INT PRIMARY KEY AUTO_INCREMENT, `the key` {type_text} NOT NULL)"
        ))
        .await?;
        let rows: Vec<String> = literals.iter().map(|literal| format!("({literal})")).collect();
        let insert = format!("INSERT INTO {name} (`the key`) VALUES {}", rows.join(","));
        conn.query_drop(insert).await.with_context(|| format!("filling {type_text}"))?;
        let schema = catalog::table(&mut conn, SCHEMA, name).await?;
        let index = schema.column("the key").context("no key column")?;
        Ok(schema.columns[index].clone())
    }

    /// The stored values as cells on the wire, read as the copying reader reads them.
    async fn cells(&self, table: &str, column: &Column) -> Result<Vec<Vec<u8>>> {
        let mut conn = connect(&self.endpoint, Session::Exact).await?;
        let select = format!("SELECT {} FROM {table} ORDER BY n", value::select_expr(column));
        let rows: Vec<Row> = conn.exec(select, ()).await?;
        rows.into_iter()
            .map(|row| {
                let stored: Value = row.unwrap().pop().context("no column")?;
                let mut wire = Vec::new();
                let mut writer = RowWriter::new(&mut wire, 1);
                value::value_to_cell(column.data, &stored, &mut writer)?;
                writer.finish();
                let cell = RowView::parse(&wire)?.cells().next().context("no cell")??;
                Ok(cell.context("NULL")?.to_vec())
            })
            .collect()
    }

    /// Does every key of the table lie where `sql_away` finds it at home, and nowhere else?
    async fn away_agrees(
        &self,
        table: &str,
        rule: &BoundRule,
        modulus: Modulus,
        places: &[u16],
    ) -> Result<()> {
        let last = modulus.get() - 1;
        let homes = [0, last / 2, last];
        let away: Vec<String> = homes.iter().map(|&home| rule.sql_away(modulus, home)).collect();
        let mut conn = connect(&self.endpoint, Session::Exact).await?;
        let sql = format!("SELECT {} FROM {table} GROUP BY n ORDER BY n", away.join(", "));
        let rows: Vec<[u64; 3]> =
            conn.query_map(&sql, |(a, b, c)| [a, b, c]).await.with_context(|| sql.clone())?;
        ensure!(rows.len() == places.len(), "rows are missing");
        for (row, place) in rows.iter().zip(places) {
            for (away, home) in row.iter().zip(homes) {
                ensure!(
                    (*away == 0) == (*place == home),
                    "a key of shard {place} of {modulus} is {away} away from {home}: {sql}"
                );
            }
        }
        Ok(())
    }

    /// For each value the shard under each modulus, as the server says in this session.
    async fn sql_places(
        &self,
        table: &str,
        rule: &BoundRule,
        moduli: &[Modulus],
        session: &str,
    ) -> Result<Vec<Vec<Option<i128>>>> {
        let mut conn = connect(&self.endpoint, Session::Plain).await?;
        conn.query_drop(session).await?;
        let places: Vec<String> = moduli.iter().map(|&modulus| rule.sql(modulus)).collect();
        let select = format!("SELECT {} FROM {table} ORDER BY n", places.join(", "));
        let rows: Vec<Row> = conn.query(&select).await.with_context(|| select.clone())?;
        rows.into_iter().map(|row| row.unwrap().into_iter().map(integer).collect()).collect()
    }

    /// Whether each row may be inserted, given another key and deleted where a guard lets in `home`: the
    /// numbers of those of whom the server says so.
    async fn guarded(
        &self,
        table: &str,
        column: &Column,
        rule: &BoundRule,
        home: &Home,
        mode: &str,
    ) -> Result<[Vec<u64>; 3]> {
        let mut conn = connect(&self.endpoint, Session::Plain).await?;
        let shown = match column.charset {
            None => Shown::Hex,
            Some(_) => Shown::Text,
        };
        conn.query_drop("SET sql_mode = ''").await?;
        for (kind, what) in [("i", "LIMIT 0"), ("u", ""), ("d", "")] {
            let guarded = Guarded {
                table: format!("{table}_{kind}"),
                key: column.name.clone(),
                rule: rule.clone(),
                shown,
                given_out: false,
            };
            conn.query_drop(format!(
                "CREATE OR REPLACE TABLE {table}_{kind} AS SELECT *, 0 AS done FROM {table} {what}"
            ))
            .await?;
            for trigger in triggers(home, &guarded, &[]) {
                conn.query_drop(trigger.create(None)).await?;
            }
        }
        // As an application's session would be; each row by itself, and refused by this error alone.
        conn.query_drop(format!("SET sql_mode = '{mode}'")).await?;
        conn.query_drop(format!(
            "CREATE OR REPLACE PROCEDURE play() BEGIN DECLARE i INT DEFAULT 1; \
             DECLARE last INT DEFAULT (SELECT MAX(n) FROM {table}); \
             DECLARE CONTINUE HANDLER FOR 1290 BEGIN END; START TRANSACTION; WHILE i <= last DO \
             INSERT INTO {table}_i SELECT *, 1 FROM {table} WHERE n = i; \
             UPDATE {table}_u u JOIN {table} o ON o.n = i MOD last + 1 \
             SET u.`the key` = o.`the key`, u.done = 1 WHERE u.n = i; \
             DELETE FROM {table}_d WHERE n = i; \
             SET i = i + 1; END WHILE; COMMIT; END"
        ))
        .await?;
        conn.query_drop("CALL play()").await.with_context(|| format!("{table}: {home:?}"))?;
        let done = |kind: &str| format!("SELECT n FROM {table}_{kind} WHERE done = 1 ORDER BY n");
        let inserted = conn.query(done("i")).await?;
        let updated = conn.query(done("u")).await?;
        let gone =
            format!("SELECT n FROM {table} WHERE n NOT IN (SELECT n FROM {table}_d) ORDER BY n");
        Ok([inserted, updated, conn.query(gone).await?])
    }

    /// A key that is NULL has no place, in whatever session; and where one is asked for, that.
    async fn none_for_a_null(&self) -> Result<()> {
        let modulus = Modulus::new(3).context("a modulus")?;
        for (index, type_text) in ["CHAR(9)", "VARCHAR(9)", "BINARY(9)"].into_iter().enumerate() {
            let table = format!("nothing_{index}");
            let literals = ["'a'".to_owned()];
            let column = self.table(&table, type_text, &literals).await?;
            let column = Column { nullable: true, ..column };
            let rule = ShardRule::Crc32 { charset: Charset::Binary }.bind(&column)?;
            let mut conn = connect(&self.endpoint, Session::Plain).await?;
            conn.query_drop(format!(
                "CREATE TABLE {table}_null (`the key` {type_text}); INSERT INTO {table}_null VALUES (NULL)"
            ))
            .await?;
            for session in ["", "ORACLE", "PAD_CHAR_TO_FULL_LENGTH"] {
                conn.query_drop(format!("SET sql_mode = '{session}'")).await?;
                let sql = format!("SELECT {} FROM {table}_null", rule.sql(modulus));
                let place: Vec<Option<u64>> = conn.query(sql).await?;
                ensure!(place == [None], "{type_text}, {session}: {place:?}");
            }
            let sql = format!("SELECT {} FROM {table}_null", rule.sql_or(modulus, 7));
            ensure!(self.column_of::<u64>(&sql).await? == [7], "{sql}");
            let sql = format!("SELECT {} FROM {table}_null", rule.sql_away(modulus, 2));
            ensure!(self.column_of::<u64>(&sql).await? == [0], "{sql}");
        }
        Ok(())
    }

    async fn column_of<T>(&self, sql: &str) -> Result<Vec<T>>
    where
        T: mysql_async::prelude::FromRow + Send + 'static,
    {
        let mut conn: Conn = connect(&self.endpoint, Session::Plain).await?;
        Ok(conn.query(sql).await?)
    }
}

/// The text protocol shows integers as digits, and anything that is none would not parse.
fn integer(value: Value) -> Result<Option<i128>> {
    match value {
        Value::NULL => Ok(None),
        Value::Bytes(digits) => Ok(Some(std::str::from_utf8(&digits)?.parse()?)),
        other => anyhow::bail!("{other:?} from the text protocol"),
    }
}

/// Compares the forms with each other and with `model`, which takes the index of a value. The
/// number of cases.
#[expect(clippy::too_many_arguments, reason = "what is compared, with what, and how it is called")]
async fn compare(
    keys: &Keys,
    table: &str,
    column: &Column,
    rule: &ShardRule,
    moduli: &[Modulus],
    session: &str,
    show: &[String],
    model: impl Fn(usize, u16) -> u16,
) -> Result<u64> {
    let bound = rule.bind(column)?;
    let cells = keys.cells(table, column).await?;
    let places = keys.sql_places(table, &bound, moduli, session).await?;
    ensure!(cells.len() == show.len() && places.len() == show.len(), "rows are missing");
    for &modulus in moduli {
        let placed: Result<Vec<u16>, _> =
            cells.iter().map(|cell| bound.place(cell, modulus)).collect();
        keys.away_agrees(table, &bound, modulus, &placed?).await?;
    }
    let mut cases = 0;
    for (index, (cell, places)) in cells.iter().zip(&places).enumerate() {
        for (&modulus, &sql) in moduli.iter().zip(places) {
            let rust = bound.place(cell, modulus)?;
            let expected = model(index, modulus.get());
            ensure!(
                sql == Some(i128::from(rust)) && rust == expected,
                "{} of {} {} under {modulus} with {session:?}: {rust} in Rust, {sql:?} in SQL, \
                 {expected} in the model",
                rule.name(),
                column.type_text,
                show[index],
            );
            cases += 1;
        }
    }
    Ok(cases)
}

/// A guard lets through exactly those rows that are at home by the Rust form.
async fn guard_agrees(
    keys: &Keys,
    table: &str,
    column: &Column,
    rule: &ShardRule,
    mode: &str,
    random: &mut Random,
) -> Result<u64> {
    let bound = rule.bind(column)?;
    let shards = *random.pick(&[2, 3, 4, 6, 12, 97, u16::MAX]);
    let modulus = Modulus::new(shards).context("no modulus")?;
    let share = *random.pick(&[20, 50, 90]);
    let residues: Vec<u16> = match shards {
        // Runs, as any set of so many would be too scattered.
        u16::MAX => (0..shards).filter(|residue| (residue / 4096) % 2 == 0).collect(),
        _ => (0..shards).filter(|_| random.percent(share)).collect(),
    };
    let home = Home::new(modulus, residues)?;
    let cells = keys.cells(table, column).await?;
    let held: Result<Vec<bool>, _> =
        cells.iter().map(|cell| bound.number(cell).map(|number| home.holds(number))).collect();
    let held = held?;
    let of = |is: &dyn Fn(usize) -> bool| -> Vec<u64> {
        (0..held.len()).filter(|&at| is(at)).map(|at| at as u64 + 1).collect()
    };
    let kept = of(&|at| held[at]);
    let moved = of(&|at| held[at] && held[(at + 1) % held.len()]);
    let found = keys.guarded(table, column, &bound, &home, mode).await?;
    ensure!(
        found == [kept.clone(), moved, kept],
        "{} of {} under {home:?} in {mode:?}: the guard let through {found:?}",
        rule.name(),
        column.type_text
    );
    Ok(3 * held.len() as u64)
}

fn enough(counts: &BTreeMap<String, u64>, functions: &[&str]) -> Result<()> {
    report(counts);
    for function in functions {
        let cases = counts.get(*function).copied().unwrap_or(0);
        ensure!(cases >= CASES_MIN, "{cases} cases of {function} prove little");
    }
    Ok(())
}

const INTEGERS: [(&str, i128, i128); 12] = [
    ("TINYINT", -0x80, 0x7f),
    ("TINYINT UNSIGNED", 0, 0xff),
    ("SMALLINT", -0x8000, 0x7fff),
    ("SMALLINT UNSIGNED", 0, 0xffff),
    ("MEDIUMINT", -0x80_0000, 0x7f_ffff),
    ("MEDIUMINT UNSIGNED", 0, 0xff_ffff),
    ("INT", -0x8000_0000, 0x7fff_ffff),
    ("INT UNSIGNED", 0, 0xffff_ffff),
    ("INT(12) ZEROFILL", 0, 0xffff_ffff),
    ("BIGINT", i64::MIN as i128, i64::MAX as i128),
    ("BIGINT UNSIGNED", 0, u64::MAX as i128),
    ("BIGINT(3) UNSIGNED ZEROFILL", 0, u64::MAX as i128),
];

/// The ends, what lies beside them and beside zero, then anything.
fn integers(random: &mut Random, low: i128, high: i128) -> Vec<i128> {
    let mut all = vec![low, low + 1, -1, 0, 1, high - 1, high];
    while all.len() < VALUES {
        let near = random.between(0, 70_000) as i128;
        all.push(match random.below(4) {
            0 => low + near,
            1 => high - near,
            2 => near - 35_000,
            _ => low + (random.next() as i128) % (high - low + 1),
        });
    }
    all.retain(|value| (low..=high).contains(value));
    all
}

#[tokio::test]
async fn integers_have_one_place_in_rust_and_in_sql() -> Result<()> {
    let mut random = random("integers");
    let keys = Keys::start().await?;
    let mut counts = BTreeMap::new();
    for (index, (type_text, low, high)) in INTEGERS.into_iter().enumerate() {
        let table = format!("i{index}");
        let values = integers(&mut random, low, high);
        let literals: Vec<String> = values.iter().map(i128::to_string).collect();
        let column = keys.table(&table, type_text, &literals).await?;
        let floor = |index: usize, n: u16| values[index].rem_euclid(i128::from(n)) as u16;
        let abs = |index: usize, n: u16| (values[index].abs() % i128::from(n)) as u16;
        for session in ["SET sql_mode = DEFAULT", "SET sql_mode = 'ORACLE'"] {
            let moduli = moduli(&mut random);
            let rule = ShardRule::FloorMod;
            *counts.entry("floor_mod".to_owned()).or_default() +=
                compare(&keys, &table, &column, &rule, &moduli, session, &literals, floor).await?;
            let rule = ShardRule::AbsMod;
            *counts.entry("abs_mod".to_owned()).or_default() +=
                compare(&keys, &table, &column, &rule, &moduli, session, &literals, abs).await?;
        }
        for rule in [ShardRule::FloorMod, ShardRule::AbsMod] {
            *counts.entry(format!("guard by {}", rule.name())).or_default() +=
                guard_agrees(&keys, &table, &column, &rule, "", &mut random).await?;
        }
    }
    enough(&counts, &["floor_mod", "abs_mod"])
}

/// Types of keys, and the character set of each; bytes for those that have none.
const STRINGS: [(&str, &str); 16] = [
    ("VARCHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", "utf8mb4"),
    ("VARCHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "utf8mb4"),
    ("CHAR(60) CHARACTER SET utf8mb4", "utf8mb4"),
    ("TEXT CHARACTER SET utf8mb4", "utf8mb4"),
    ("VARCHAR(60) CHARACTER SET utf8mb3", "utf8mb3"),
    ("CHAR(60) CHARACTER SET utf8mb3", "utf8mb3"),
    ("VARCHAR(60) CHARACTER SET latin1 COLLATE latin1_swedish_ci", "latin1"),
    ("VARCHAR(60) CHARACTER SET latin1 COLLATE latin1_bin", "latin1"),
    ("CHAR(60) CHARACTER SET latin1", "latin1"),
    ("TEXT CHARACTER SET latin1", "latin1"),
    ("VARCHAR(60) CHARACTER SET ascii", "ascii"),
    ("CHAR(60) CHARACTER SET ascii", "ascii"),
    ("VARCHAR(60) CHARACTER SET gbk", "gbk"),
    ("BINARY(20)", "binary"),
    ("VARBINARY(60)", "binary"),
    ("BLOB", "binary"),
];

/// Well-formed bytes in the character set, some with spaces and zeros at the end.
fn bytes(random: &mut Random, charset: &str, type_text: &str) -> Vec<u8> {
    let most = if type_text.starts_with("BINARY") { 20 } else { 40 };
    let len = random.index(most + 1);
    let mut bytes = Vec::new();
    let character = |random: &mut Random, ranges: &[(u32, u32)]| loop {
        let (low, high) = *random.pick(ranges);
        let code = random.between(i64::from(low), i64::from(high)) as u32;
        if let Some(found) = char::from_u32(code) {
            return found;
        }
    };
    const BMP: [(u32, u32); 4] = [(0x20, 0x7e), (0, 0x7ff), (0x4e00, 0x9fff), (0, 0xffff)];
    const ALL: [(u32, u32); 4] = [(0x20, 0x7e), (0, 0x7ff), (0x1f300, 0x1f6ff), (0, 0x10_ffff)];
    for _ in 0..len {
        match charset {
            "ascii" => bytes.push(random.below(128) as u8),
            "latin1" | "binary" => bytes.push(random.next() as u8),
            "gbk" if random.percent(50) => {
                bytes.extend([random.between(0xb0, 0xf7) as u8, random.between(0xa1, 0xf9) as u8])
            }
            "gbk" => bytes.push(random.between(0x20, 0x7e) as u8),
            "utf8mb3" => {
                bytes.extend(character(random, &BMP).encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => bytes.extend(character(random, &ALL).encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    for _ in 0..random.below(4) {
        if bytes.len() < most && random.percent(40) {
            bytes.push(*random.pick(b"  \t\0"));
        }
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CRC-32 by the polynomial's definition, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |hash, &byte| {
        (0..8).fold(hash ^ u32::from(byte), |hash, _| {
            (hash >> 1) ^ if hash & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

/// The bytes that the application hashes, as the server converts them: a CHAR without its padding.
async fn hashed(keys: &Keys, table: &str, type_text: &str, charset: Charset) -> Result<Vec<u32>> {
    let key = match type_text.starts_with("CHAR") {
        true => "TRIM(TRAILING ' ' FROM `the key`)",
        false => "`the key`",
    };
    let key = match charset {
        Charset::Binary => format!("HEX({key})"),
        other => format!("HEX(CONVERT({key} USING {}))", other.name()),
    };
    let rows: Vec<String> =
        keys.column_of(&format!("SELECT {key} FROM {table} ORDER BY n")).await?;
    rows.iter()
        .map(|hex| {
            let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16);
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect::<Result<_, _>>()?;
            Ok(crc32(&bytes))
        })
        .collect()
}

#[tokio::test]
async fn strings_have_one_place_in_rust_and_in_sql() -> Result<()> {
    ensure!(crc32(b"123456789") == 0xcbf4_3926);
    // Whatever character set and mode a session has, the place is the same.
    const SESSIONS: [&str; 4] = [
        "SET NAMES utf8mb4, sql_mode = DEFAULT",
        "SET NAMES latin1, sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'",
        "SET NAMES binary, sql_mode = ''",
        "SET NAMES utf8mb4, sql_mode = 'ORACLE,PAD_CHAR_TO_FULL_LENGTH'",
    ];
    let mut random = random("strings");
    let keys = Keys::start().await?;
    keys.none_for_a_null().await?;
    let mut counts = BTreeMap::new();
    let mut refused = 0;
    for (index, (type_text, charset)) in STRINGS.into_iter().enumerate() {
        let table = format!("t{index}");
        let mut values = vec![Vec::new(), b" ".to_vec(), b"a ".to_vec(), b"A".to_vec()];
        while values.len() < VALUES {
            values.push(bytes(&mut random, charset, type_text));
        }
        let introducer = if charset == "binary" { "_binary" } else { &format!("_{charset}") };
        let literals: Vec<String> =
            values.iter().map(|value| format!("{introducer} x'{}'", hex(value))).collect();
        let column = keys.table(&table, type_text, &literals).await?;
        for charset in Charset::ALL {
            let rule = ShardRule::Crc32 { charset };
            if rule.bind(&column).is_err() {
                refused += 1;
                continue;
            }
            let hashes = hashed(&keys, &table, type_text, charset).await?;
            let model = |index: usize, n: u16| (hashes[index] % u32::from(n)) as u16;
            for session in SESSIONS {
                let moduli = moduli(&mut random);
                let cases =
                    compare(&keys, &table, &column, &rule, &moduli, session, &literals, model)
                        .await?;
                *counts.entry("crc32".to_owned()).or_default() += cases;
                *counts.entry(format!("crc32 over {}", charset.name())).or_default() += cases;
            }
            let mode = "PAD_CHAR_TO_FULL_LENGTH,NO_ZERO_DATE";
            *counts.entry("guard by crc32".to_owned()).or_default() +=
                guard_agrees(&keys, &table, &column, &rule, mode, &mut random).await?;
        }
    }
    // Of 16 columns and 5 character sets: only conversions that lose nothing are accepted.
    ensure!(refused == 16 * 5 - 44, "{refused} pairs were refused");
    enough(&counts, &["crc32", "crc32 over binary", "crc32 over latin1", "crc32 over utf8mb4"])
}
