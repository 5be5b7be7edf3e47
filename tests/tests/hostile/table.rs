//! Tables with columns of every type and attribute, and what careless sessions write into them.

use modshift_tests::random::Random;

/// A type, and literals that a session without strict mode makes something of.
const TYPES: [(&str, &[&str]); 40] = [
    ("ENUM('a','b')", &["'bogus'", "''", "0", "'a'", "2"]),
    ("ENUM('x','') CHARACTER SET utf16", &["'bogus'", "''", "0", "'x'"]),
    ("SET('a','b','c')", &["'a,bogus'", "0", "15", "'c,a'"]),
    ("DATE", &["'2024-02-31'", "'0000-00-00'", "'2024-00-10'", "'9999-99-99'", "20240230"]),
    ("DATETIME(6)", &["'2024-02-31 10:00:00.5'", "0", "'0000-01-00 12:00:01'", "'bogus'"]),
    ("DATETIME", &["'2024-02-31 10:00:00.999999'", "0", "'2024-13-01'"]),
    ("TIMESTAMP", &["0", "'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'bogus'"]),
    ("TIMESTAMP(6)", &["0", "FROM_UNIXTIME(0.5)", "'2039-01-01'", "'2020-03-29 01:30:00.1'"]),
    ("TIME(3)", &["'-838:59:59.999'", "'900:00:00'", "'-00:00:00.001'", "'bogus'"]),
    ("YEAR", &["0", "'0000'", "1900", "3000", "99"]),
    ("TINYINT", &["300", "-300", "'abc'", "'7x'"]),
    ("SMALLINT UNSIGNED", &["-1", "70000", "65535"]),
    ("MEDIUMINT", &["1e9", "-8388608"]),
    ("BIGINT UNSIGNED", &["-1", "18446744073709551615", "1e30"]),
    ("BIGINT ZEROFILL", &["7", "'9999999999999999999999'"]),
    ("DECIMAL(5,2)", &["-0.00", "-0.001", "99999", "'1.005'"]),
    ("DECIMAL(20,10) UNSIGNED", &["-1", "1e12", "0.00000000005"]),
    ("FLOAT", &["1e39", "-0e0", "1e-46", "0.1", "'nan'"]),
    ("DOUBLE", &["'1e400'", "-0e0", "5e-324", "1/3"]),
    ("DOUBLE(7,2)", &["-0.001", "1234567", "1.005"]),
    ("FLOAT UNSIGNED", &["-1", "16777217"]),
    ("BIT(3)", &["15", "5"]),
    ("BIT(64)", &["'abcdefghij'", "18446744073709551615"]),
    ("CHAR(3)", &["'abcdef'", "'a  '", "'ß€x'"]),
    ("CHAR(3) CHARACTER SET latin1", &["'€äé'", "'abcdef'", "' a '"]),
    ("VARCHAR(4)", &["'abcdef'", "'a   '", "_latin1 x'e4'", "x'f09f9880'", "x'e4'"]),
    ("VARCHAR(300) CHARACTER SET ucs2", &["x'd83d'", "x'00'", "'é'", "REPEAT('ж', 400)"]),
    ("TEXT CHARACTER SET gbk", &["x'8180ff'", "x'81'", "'中'"]),
    ("TINYTEXT", &["REPEAT('é', 200)", "x'ff'", "''"]),
    ("LONGTEXT COMPRESSED", &["REPEAT('ab', 500)", "''", "x'c3'"]),
    ("JSON", &["'not json'", "'{}'", "''", "'[1, 2'"]),
    ("BINARY(5)", &["'abcdefgh'", "''", "x'00'", "'a  '"]),
    ("VARBINARY(5)", &["'abcdefgh'", "x'0000'", "'a '"]),
    ("BLOB", &["x'00ff'", "''"]),
    ("UUID", &["'bogus'", "UUID()", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "''"]),
    ("INET6", &["'bogus'", "'::1'", "'1.2.3.4'"]),
    ("INET4", &["'bogus'", "'1.2.3.4'"]),
    ("POINT", &["'x'", "POINT(1, -0.0)", "ST_GeomFromText('POINT(1 2)', 4326)"]),
    ("INT CHECK (VALUE_OF > 5)", &["1", "7", "'x'"]),
    ("VARCHAR(9) CHECK (CHAR_LENGTH(VALUE_OF) > 2)", &["''", "'abc'", "'a'"]),
];

/// Further key columns, with the literals that they take from a row's number.
const KEYS: [(&str, &str); 7] = [
    ("", ""),
    ("k TIMESTAMP(6) NOT NULL DEFAULT current_timestamp(6) ON UPDATE current_timestamp(6)", STAMP),
    ("k DATETIME NOT NULL DEFAULT current_timestamp ON UPDATE current_timestamp", STAMP),
    ("k ENUM('a','b') NOT NULL", "# % 3"),
    ("k DATE NOT NULL", "'2024-02-31'"),
    ("k VARCHAR(9) COLLATE utf8mb4_general_ci NOT NULL", "CONCAT('Né ', # % 5)"),
    ("k DECIMAL(6,2) NOT NULL", "# / 3"),
];
const STAMP: &str = "'2020-01-01' + INTERVAL # SECOND";

pub struct Table {
    pub name: String,
    key: (&'static str, &'static str),
    /// With `AUTO_INCREMENT`, for which 0 is a value like any other.
    counts: bool,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    definition: String,
    values: &'static [&'static str],
    nullable: bool,
}

impl Table {
    pub fn generate(number: usize, random: &mut Random) -> Table {
        // Every kind of key, and every type, within a few seeds.
        let key = KEYS[(number + random.index(KEYS.len())) % KEYS.len()];
        let count = 5 + random.index(6);
        let columns = (0..count).map(|place| Column::generate(place, random)).collect();
        Table { name: format!("t_{number}"), key, counts: random.percent(30), columns }
    }

    /// Rows of one number have one key, whatever the session that wrote them.
    pub fn key_is_number(&self) -> bool {
        self.key.0.is_empty()
    }

    /// What stands between the parentheses of CREATE TABLE.
    pub fn definition(&self) -> String {
        let counter = if self.counts { " AUTO_INCREMENT" } else { "" };
        let mut lines =
            vec![format!("id BIGINT NOT NULL{counter}"), "uid BIGINT NOT NULL".to_owned()];
        let mut key = "id";
        if !self.key.0.is_empty() {
            lines.push(self.key.0.to_owned());
            key = "id, k";
        }
        lines.extend(self.columns.iter().map(|column| column.definition.clone()));
        // Out of range, no label of their own, too long: the server makes them fit if it is not
        // strict.
        lines.push("i INT".to_owned());
        lines.push("g_stored TINYINT AS (i * 100) STORED".to_owned());
        lines.push("g_label ENUM('x','y') AS (IF(i = 3, 'z', 'x')) STORED".to_owned());
        lines.push("g_virtual VARCHAR(2) AS (CONCAT('v', i)) VIRTUAL".to_owned());
        lines.push(format!("PRIMARY KEY ({key}), KEY (g_virtual), KEY (g_label)"));
        lines.join(", ")
    }

    /// Writes a row with this number on its shard, over whatever is there.
    pub fn write(&self, id: i64, home: usize, modulus: usize, random: &mut Random) -> String {
        let uid = random.between(-50, 50) * modulus as i64 + home as i64;
        let mut names = vec!["id", "uid", "i"];
        let mut values = vec![id.to_string(), uid.to_string(), random.between(-2, 4).to_string()];
        if !self.key.0.is_empty() {
            names.push("k");
            values.push(self.key.1.replace('#', &id.to_string()));
        }
        for column in &self.columns {
            // Left out: the default, or what the server takes for one.
            if random.percent(80) {
                names.push(&column.name);
                values.push(column.value(random));
            }
        }
        let how = random.pick(&["REPLACE", "INSERT IGNORE", "REPLACE", "INSERT"]);
        format!("{how} INTO {} ({}) VALUES ({})", self.name, names.join(", "), values.join(", "))
    }

    /// Changes some columns; the server adds what ON UPDATE says.
    pub fn update(&self, id: i64, random: &mut Random) -> String {
        let mut changes = vec![format!("i = {}", random.between(-2, 4))];
        for column in &self.columns {
            if random.percent(40) {
                changes.push(format!("{} = {}", column.name, column.value(random)));
            }
        }
        let ignore = if random.percent(50) { " IGNORE" } else { "" };
        format!("UPDATE{ignore} {} SET {} WHERE id = {id}", self.name, changes.join(", "))
    }
}

impl Column {
    fn generate(place: usize, random: &mut Random) -> Column {
        let (kind, values) = *random.pick(&TYPES);
        let name = format!("c{place}");
        let (kind, check) = match kind.split_once(" CHECK ") {
            Some((kind, check)) => (kind, format!(" CHECK {}", check.replace("VALUE_OF", &name))),
            None => (kind, String::new()),
        };
        // The implicit default of a geometry is none, and cannot be inserted: see `refused`.
        let nullable = random.percent(50) || kind == "POINT";
        let mut definition =
            format!("{name} {kind} {}", if nullable { "NULL" } else { "NOT NULL" });
        let mut has_default = nullable;
        let digits = if kind.ends_with("(6)") { "(6)" } else { "" };
        if (kind.starts_with("TIMESTAMP") || kind.starts_with("DATETIME")) && random.percent(70) {
            let now = format!("current_timestamp{digits}");
            definition += &format!(" DEFAULT {now} ON UPDATE {now}");
            has_default = true;
        } else if kind.contains("INT") && !kind.contains("POINT") && random.percent(40) {
            definition += " DEFAULT (1 + 2)";
            has_default = true;
        }
        // The server wants a default of a column that nobody sees.
        if has_default && random.percent(30) {
            definition += " INVISIBLE";
        }
        Column { name, definition: definition + &check, values, nullable }
    }

    fn value(&self, random: &mut Random) -> String {
        if random.percent(if self.nullable { 15 } else { 5 }) {
            return "NULL".to_owned();
        }
        (*random.pick(self.values)).to_owned()
    }
}
