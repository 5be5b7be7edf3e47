//! `t_all_types`: a column of every common type, and values that lie at its edges.

use crate::random::Random;

/// What SQL literals a column takes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// low, high
    Int(i64, i64),
    /// the same up to 2^64 - 1
    Unsigned(u64),
    /// digits before and after the point
    Decimal(u32, u32),
    Float,
    Double,
    /// Text in utf8mb4 of at most so many characters.
    Text(u64),
    /// Text that latin1 can hold.
    Latin(u64),
    /// Text that GBK can hold.
    Chinese(u64),
    Bytes(u64),
    Date,
    Time,
    DateTime,
    Timestamp,
    Year,
    Enum,
    Set,
    Bit(u32),
    Json,
    Uuid,
    Inet6,
    Inet4,
}

/// Name, type, values; every column is nullable.
const SPEC: [(&str, &str, Kind); 54] = [
    ("i8", "TINYINT", Kind::Int(-128, 127)),
    ("u8", "TINYINT UNSIGNED", Kind::Unsigned(255)),
    ("i16", "SMALLINT", Kind::Int(-32768, 32767)),
    ("u16", "SMALLINT UNSIGNED", Kind::Unsigned(65535)),
    ("i24", "MEDIUMINT", Kind::Int(-8_388_608, 8_388_607)),
    ("u24", "MEDIUMINT UNSIGNED", Kind::Unsigned(16_777_215)),
    ("i32", "INT", Kind::Int(i32::MIN as i64, i32::MAX as i64)),
    ("u32", "INT UNSIGNED", Kind::Unsigned(u32::MAX as u64)),
    ("i64", "BIGINT", Kind::Int(i64::MIN, i64::MAX)),
    ("u64", "BIGINT UNSIGNED", Kind::Unsigned(u64::MAX)),
    ("flag", "BOOLEAN", Kind::Int(0, 1)),
    ("dec_small", "DECIMAL(10,2)", Kind::Decimal(8, 2)),
    ("dec_large", "DECIMAL(65,30)", Kind::Decimal(35, 30)),
    ("dec_whole", "DECIMAL(20,0)", Kind::Decimal(20, 0)),
    ("dec_fraction", "DECIMAL(9,9)", Kind::Decimal(0, 9)),
    ("f32", "FLOAT", Kind::Float),
    ("f64", "DOUBLE", Kind::Double),
    ("c_utf8", "CHAR(20)", Kind::Text(20)),
    ("c_latin", "CHAR(20) CHARACTER SET latin1", Kind::Latin(20)),
    ("vc_utf8", "VARCHAR(50)", Kind::Text(50)),
    ("vc_long", "VARCHAR(1000)", Kind::Text(1000)),
    ("vc_latin", "VARCHAR(300) CHARACTER SET latin1", Kind::Latin(300)),
    ("vc_bin", "VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", Kind::Text(40)),
    ("vc_utf16", "VARCHAR(20) CHARACTER SET utf16", Kind::Text(20)),
    ("vc_gbk", "VARCHAR(20) CHARACTER SET gbk", Kind::Chinese(20)),
    ("tinytext_utf8", "TINYTEXT", Kind::Text(60)),
    ("text_utf8", "TEXT", Kind::Text(400)),
    ("mediumtext_latin", "MEDIUMTEXT CHARACTER SET latin1", Kind::Latin(400)),
    ("longtext_utf8", "LONGTEXT", Kind::Text(400)),
    ("bin16", "BINARY(16)", Kind::Bytes(16)),
    ("varbin", "VARBINARY(64)", Kind::Bytes(64)),
    ("varbin_long", "VARBINARY(400)", Kind::Bytes(400)),
    ("tinyblob_", "TINYBLOB", Kind::Bytes(255)),
    ("blob_", "BLOB", Kind::Bytes(500)),
    ("mediumblob_", "MEDIUMBLOB", Kind::Bytes(500)),
    ("longblob_", "LONGBLOB", Kind::Bytes(500)),
    ("day", "DATE", Kind::Date),
    ("time0", "TIME", Kind::Time),
    ("time3", "TIME(3)", Kind::Time),
    ("time6", "TIME(6)", Kind::Time),
    ("datetime0", "DATETIME", Kind::DateTime),
    ("datetime3", "DATETIME(3)", Kind::DateTime),
    ("datetime6", "DATETIME(6)", Kind::DateTime),
    ("timestamp0", "TIMESTAMP", Kind::Timestamp),
    ("timestamp6", "TIMESTAMP(6)", Kind::Timestamp),
    ("year_", "YEAR", Kind::Year),
    ("enum_", "ENUM('red','grün','синий','')", Kind::Enum),
    ("set_", "SET('a','b','c','d','e','f','g','h','i','ж')", Kind::Set),
    ("bit1", "BIT(1)", Kind::Bit(1)),
    ("bit17", "BIT(17)", Kind::Bit(17)),
    ("bit64", "BIT(64)", Kind::Bit(64)),
    ("json_", "JSON", Kind::Json),
    ("uuid_", "UUID", Kind::Uuid),
    ("inet6_", "INET6", Kind::Inet6),
];

/// Not in `SPEC` only because an array's length is written by hand: INET4 and the generated columns.
const TAIL: &str = "inet4_ INET4 NULL,
     sum_virtual BIGINT GENERATED ALWAYS AS (CAST(i32 AS DECIMAL(12,0)) + u16) VIRTUAL,
     text_stored VARCHAR(60) GENERATED ALWAYS AS (CONCAT(vc_utf8, '/', i8)) STORED,
     ver BIGINT UNSIGNED NOT NULL,
     PRIMARY KEY (id),
     KEY by_account (accountNo),
     KEY by_text (vc_utf8),
     KEY by_sum (sum_virtual)";

/// The columns that a statement may write, without the keys and `ver`.
pub static COLUMNS: std::sync::LazyLock<Vec<&'static str>> =
    std::sync::LazyLock::new(|| SPEC.iter().map(|c| c.0).chain(["inet4_"]).collect());

pub(super) fn definition() -> String {
    let mut text = "id BIGINT NOT NULL, accountNo BIGINT NOT NULL,\n".to_owned();
    for (name, sql_type, _) in SPEC {
        text.push_str(&format!("{name} {sql_type} NULL,\n"));
    }
    text.push_str(TAIL);
    text
}

/// A literal for each of `COLUMNS`.
pub fn random_row(random: &mut Random) -> Vec<String> {
    let kinds = SPEC.iter().map(|c| c.2).chain([Kind::Inet4]);
    kinds.map(|kind| literal(kind, random)).collect()
}

/// A literal for one column, by its place in `COLUMNS`.
pub fn random_value(column: usize, random: &mut Random) -> String {
    literal(SPEC.get(column).map_or(Kind::Inet4, |c| c.2), random)
}

const EDGE_PERCENT: u32 = 25;

fn literal(kind: Kind, random: &mut Random) -> String {
    if random.percent(12) {
        return "NULL".to_owned();
    }
    let edge = random.percent(EDGE_PERCENT);
    match kind {
        Kind::Int(low, high) if edge => {
            random.pick(&[low, high, 0, low + 1, -1.max(low)]).to_string()
        }
        Kind::Int(low, high) => random.between(low, high).to_string(),
        Kind::Unsigned(high) if edge => {
            random.pick(&[0, 1, high, high / 2, high / 2 + 1]).to_string()
        }
        Kind::Unsigned(high) => {
            high.checked_add(1).map_or(random.next(), |n| random.below(n)).to_string()
        }
        Kind::Decimal(whole, fraction) => decimal(whole, fraction, edge, random),
        Kind::Float => {
            float(random, edge, &["0", "-0.0", "3.4028234e38", "1.17549435e-38", "1e-45", "0.1"])
        }
        Kind::Double if edge => {
            const EDGES: [&str; 6] =
                ["0e0", "-0e0", "1.7976931348623157e308", "5e-324", "0.1e0", "1e15"];
            (*random.pick(&EDGES)).to_owned()
        }
        Kind::Double => format!("{:e}", random.between(-1 << 53, 1 << 53) as f64 / 7.0),
        Kind::Text(most) => text(
            random,
            most,
            &['a', 'Z', ' ', 'ß', 'é', 'ж', '中', '🙂', '\'', '\\', '\0', '%', '\n'],
        ),
        Kind::Latin(most) => {
            text(random, most, &['a', 'Z', ' ', 'ß', 'é', 'ÿ', '€', '\'', '\\', '\0', '\t'])
        }
        Kind::Chinese(most) => text(random, most, &['a', ' ', '中', '国', '誠', '运', '\\']),
        Kind::Bytes(most) => bytes(random, most),
        Kind::Date | Kind::Time | Kind::DateTime | Kind::Timestamp => moment(kind, edge, random),
        Kind::Year => random.pick(&["0000", "1901", "1970", "2024", "2155"]).to_string(),
        Kind::Enum => random.between(1, 4).to_string(),
        Kind::Set => random.below(1 << 10).to_string(),
        Kind::Bit(width) => {
            let all = u64::MAX >> (64 - width);
            if edge { all.to_string() } else { (random.next() & all).to_string() }
        }
        Kind::Json => json(random),
        Kind::Uuid => format!("'{}'", uuid(random)),
        Kind::Inet6 if edge => {
            (*random.pick(&["'::'", "'::1'", "'::ffff:192.0.2.1'", "'ff02::fb'"])).to_owned()
        }
        Kind::Inet6 => {
            format!("'2001:db8::{:x}:{:x}'", random.below(1 << 16), random.below(1 << 16))
        }
        Kind::Inet4 if edge => (*random.pick(&["'0.0.0.0'", "'255.255.255.255'"])).to_owned(),
        Kind::Inet4 => format!("'10.{}.{}.0'", random.below(256), random.below(256)),
    }
}

fn digits(count: u32, random: &mut Random, nines: bool) -> String {
    (0..count)
        .map(|_| if nines { '9' } else { char::from(b'0' + random.below(10) as u8) })
        .collect()
}

fn decimal(whole: u32, fraction: u32, edge: bool, random: &mut Random) -> String {
    let sign = if random.percent(50) { "-" } else { "" };
    let before = if whole == 0 { "0".to_owned() } else { digits(whole, random, edge) };
    match fraction {
        0 => format!("{sign}{before}"),
        _ => format!("{sign}{before}.{}", digits(fraction, random, edge)),
    }
}

fn float(random: &mut Random, edge: bool, edges: &[&str]) -> String {
    if edge {
        return (*random.pick(edges)).to_owned();
    }
    format!("{:e}", random.between(-(1 << 40), 1 << 40) as f32 / 7.0)
}

/// A string as a hexadecimal literal with its character set: nothing to escape, every byte possible.
pub fn quoted(text: &str) -> String {
    if text.is_empty() {
        return "''".to_owned();
    }
    format!("_utf8mb4 x'{}'", hex(text.as_bytes()))
}

pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

/// Ends in spaces now and then: the server keeps them in VARCHAR and TEXT, and drops them in CHAR.
fn text(random: &mut Random, most: u64, alphabet: &[char]) -> String {
    let short = if random.percent(5) { most } else { most.min(24) };
    let len = random.below(short + 1);
    let mut text: String = (0..len).map(|_| *random.pick(alphabet)).collect();
    if len > 0 && random.percent(15) {
        text.pop();
        text.push(' ');
    }
    quoted(&text)
}

/// Ends in zero bytes now and then: row events strip them from BINARY.
fn bytes(random: &mut Random, most: u64) -> String {
    let short = if random.percent(5) { most } else { most.min(32) };
    let len = random.below(short + 1) as usize;
    let mut bytes = random.bytes(len);
    if len > 0 && random.percent(20) {
        bytes[len - 1] = 0;
    }
    format!("x'{}'", hex(&bytes))
}

fn moment(kind: Kind, edge: bool, random: &mut Random) -> String {
    let edges: &[&str] = match kind {
        Kind::Date => {
            &["0000-00-00", "1000-01-01", "9999-12-31", "2020-02-31", "2024-00-00", "2024-02-29"]
        }
        Kind::Time => &[
            "-838:59:59.999999",
            "838:59:59.999999",
            "00:00:00",
            "-00:00:00.000001",
            "-00:00:01",
            "23:59:59.5",
        ],
        Kind::DateTime => &[
            "0000-00-00 00:00:00",
            "9999-12-31 23:59:59.999999",
            "1000-01-01 00:00:00",
            "2020-02-31 10:00:00.000001",
        ],
        _ => &[
            "0000-00-00 00:00:00",
            "1970-01-01 00:00:01",
            "2038-01-19 03:14:07.999999",
            "2024-03-31 01:30:00.5",
        ],
    };
    if edge {
        return format!("'{}'", random.pick(edges));
    }
    let day = format!(
        "{:04}-{:02}-{:02}",
        random.between(1971, 2037),
        random.between(1, 12),
        random.between(1, 28)
    );
    let time = format!(
        "{:02}:{:02}:{:02}.{:06}",
        random.below(24),
        random.below(60),
        random.below(60),
        random.below(1_000_000)
    );
    match kind {
        Kind::Date => format!("'{day}'"),
        Kind::Time => format!("'{}{time}'", if random.percent(30) { "-" } else { "" }),
        _ => format!("'{day} {time}'"),
    }
}

fn json(random: &mut Random) -> String {
    let value = serde_json::json!({
        "n": random.between(-1_000_000, 1_000_000),
        "text": random.pick(&["plain", "ünï", "\"quoted\"", "back\\slash", ""]),
        "list": [random.below(10), null_or(random), random.percent(50)],
    });
    quoted(&value.to_string())
}

fn null_or(random: &mut Random) -> Option<u64> {
    random.percent(50).then(|| random.below(1000))
}

/// Version 4, variant 1: the server refuses what no RFC describes.
pub fn uuid(random: &mut Random) -> String {
    let h = hex(&random.bytes(16));
    format!("{}-{}-4{}-8{}-{}", &h[..8], &h[8..12], &h[13..16], &h[17..20], &h[20..])
}
