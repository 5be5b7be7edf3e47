//! Statement texts for one table, made once.
//!
//! All of them are guarded: a change from old shard *i* touches only rows that *i* owns, and hits
//! a row by the bytes of its primary key, not by what its collation calls equal. Parameters are
//! the values of [`modshift_mariadb::value::cell_to_value`], whose type is fixed for each column;
//! the session is `Session::Exact`. A key parameter takes the column's own type, character set and
//! collation, or else the server would convert the column and read the whole table.

use std::fmt::Write as _;

use modshift_mariadb::value::{quote, select_expr};
use modshift_proto::{Column, DataType, TableSchema};

#[derive(Debug)]
pub struct Statements {
    /// One row of `INSERT … ON DUPLICATE KEY UPDATE` that fails with 1242 rather than change a row
    /// with another primary key or another owner. Parameters: all sent columns, then the source
    /// (sharded tables).
    pub upsert: String,
    /// Plain INSERT; all sent columns.
    pub insert: String,
    /// Deletes a row that the source owns. Parameters: see `key_params`, then the
    /// source (sharded tables).
    pub delete: String,
    /// Deletes every row that a source owns. Parameter: the source (sharded tables).
    pub clear: String,
    /// For each parameter of the key condition, the primary key column (by place in the key) that
    /// it takes.
    pub key_params: Vec<usize>,
    /// Who holds a place: for the primary key and each unique key, by name.
    pub holders: Vec<Holder>,
}

/// A query for the row that holds a value of a unique key.
#[derive(Debug)]
pub struct Holder {
    pub key: String,
    /// Gives the owner (an old shard's number; NULL for broadcast tables) of at most one row, and its
    /// primary key.
    pub select: String,
    /// For each parameter, the column of the schema.
    pub params: Vec<usize>,
}

impl Statements {
    /// `owner`: the SQL form of the shard rule under the old modulus, for sharded tables.
    pub fn new(schema: &TableSchema, sent: &[usize], owner: Option<&str>) -> Statements {
        let table = quote(&schema.name);
        let columns: Vec<String> =
            sent.iter().map(|&index| quote(&schema.columns[index].name)).collect();
        let values = vec!["?"; sent.len()].join(", ");
        let insert = format!("INSERT INTO {table} ({}) VALUES ({values})", columns.join(", "));
        let (condition, key_params) = key_condition(schema);
        let mut delete = format!("DELETE FROM {table} WHERE {condition}");
        let mut clear = format!("DELETE FROM {table}");
        if let Some(owner) = owner {
            let _ = write!(delete, " AND {owner} = ?");
            let _ = write!(clear, " WHERE {owner} = ?");
        }
        Statements {
            clear,
            upsert: upsert(schema, sent, owner, &insert),
            insert,
            delete,
            key_params,
            holders: holders(schema, sent, owner.unwrap_or("NULL"), &table),
        }
    }
}

fn upsert(schema: &TableSchema, sent: &[usize], owner: Option<&str>, insert: &str) -> String {
    let same_key: Vec<String> =
        schema.primary_key.iter().map(|&index| same_bytes(&schema.columns[index])).collect();
    let key = &schema.columns[schema.primary_key[0]];
    let first = quote(&key.name);
    let mut guard = same_key.join(" AND ");
    if let Some(owner) = owner {
        let _ = write!(guard, " AND {owner} = ?");
    }
    // The guard comes first: assignments run from left to right, and it must see the row as it is.
    let mut text = format!(
        "{insert} ON DUPLICATE KEY UPDATE {first} = IF({guard}, {}, {})",
        itself(key),
        fail(key.data)
    );
    // Every column, those of the key too, though the guard has seen that they are the same: to a
    // column that is not named the server assigns what its ON UPDATE says.
    for &index in sent {
        let column = quote(&schema.columns[index].name);
        if !schema.primary_key.contains(&index) {
            let _ = write!(text, ", {column} = VALUES({column})");
        } else if index != schema.primary_key[0] {
            let _ = write!(text, ", {column} = {column}");
        }
    }
    text
}

/// The column's own value, such that storing it again changes nothing. By number: a label need not
/// name one member only.
fn itself(column: &Column) -> String {
    let name = quote(&column.name);
    match column.data {
        DataType::Enum | DataType::Set => format!("{name} + 0"),
        _ => name,
    }
}

/// Raises error 1242 under every `sql_mode`, where a plain NULL for a key column would be stored
/// as 0 without strict mode. Its type decides that of the `IF` around it: beside a string a FLOAT
/// would go through its six digits, and a UUID or INET6 goes with nothing but NULL.
fn fail(data: DataType) -> &'static str {
    match data {
        DataType::Float | DataType::Double => "(SELECT 1e0 UNION SELECT 2e0)",
        DataType::Int { .. }
        | DataType::Year
        | DataType::Bit { .. }
        | DataType::Enum
        | DataType::Set
        | DataType::Decimal { .. } => "(SELECT 1 UNION SELECT 2)",
        _ => "(SELECT NULL UNION ALL SELECT NULL)",
    }
}

/// Is the existing row's column byte for byte the one to be inserted?
fn same_bytes(column: &Column) -> String {
    let name = quote(&column.name);
    match column.data {
        DataType::Enum | DataType::Set => format!("{name} + 0 = VALUES({name}) + 0"),
        data if data.is_text() => format!("BINARY {name} = BINARY VALUES({name})"),
        _ => format!("{name} = VALUES({name})"),
    }
}

/// `WHERE` for one row by primary key, by index and by bytes; which key column each parameter is.
fn key_condition(schema: &TableSchema) -> (String, Vec<usize>) {
    let mut terms = Vec::new();
    let mut params = Vec::new();
    for (part, &index) in schema.primary_key.iter().enumerate() {
        let column = &schema.columns[index];
        let name = quote(&column.name);
        terms.push(format!("{name} = {}", operand(column)));
        params.push(part);
        if is_string(column.data) {
            terms.push(format!("BINARY {name} = ?"));
            params.push(part);
        }
    }
    (terms.join(" AND "), params)
}

fn holders(schema: &TableSchema, sent: &[usize], owner: &str, table: &str) -> Vec<Holder> {
    let primary = ("PRIMARY", &schema.primary_key);
    let found: Vec<String> =
        schema.primary_key.iter().map(|&index| select_expr(&schema.columns[index])).collect();
    let found = found.join(", ");
    let unique = schema.unique_keys.iter().map(|key| (key.name.as_str(), &key.columns));
    std::iter::once(primary)
        .chain(unique)
        // A key over a generated column has no values here to look for.
        .filter(|(_, columns)| columns.iter().all(|index| sent.contains(index)))
        .map(|(key, columns)| {
            let terms: Vec<String> = columns
                .iter()
                .map(|&index| {
                    let column = &schema.columns[index];
                    format!("{} = {}", quote(&column.name), operand(column))
                })
                .collect();
            Holder {
                key: key.to_owned(),
                select: format!(
                    "SELECT {owner}, {found} FROM {table} WHERE {} LIMIT 1 LOCK IN SHARE MODE",
                    terms.join(" AND ")
                ),
                params: columns.clone(),
            }
        })
        .collect()
}

fn is_string(data: DataType) -> bool {
    matches!(data, DataType::Char | DataType::VarChar | DataType::Text | DataType::Json)
}

/// A parameter as a value of the column's own type, so that the column's index is used.
fn operand(column: &Column) -> String {
    match column.data {
        DataType::Decimal { precision, scale } => {
            format!("CAST(? AS DECIMAL({precision},{scale}))")
        }
        DataType::Uuid => "CAST(? AS UUID)".to_owned(),
        DataType::Inet4 => "CAST(? AS INET4)".to_owned(),
        DataType::Inet6 => "CAST(? AS INET6)".to_owned(),
        data if is_string(data) => match (&column.charset, &column.collation) {
            (Some(charset), Some(collation)) => {
                format!("CONVERT(? USING {charset}) COLLATE {collation}")
            }
            _ => "?".to_owned(),
        },
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_proto::UniqueKey;

    fn column(name: &str, data: DataType, collation: Option<&str>) -> Column {
        Column {
            name: name.to_owned(),
            data,
            type_text: String::new(),
            charset: collation.map(|text| text.split('_').next().unwrap_or_default().to_owned()),
            collation: collation.map(str::to_owned),
            nullable: false,
            generated: false,
        }
    }

    fn account() -> TableSchema {
        TableSchema {
            name: "acc`t".to_owned(),
            columns: vec![
                column("name", DataType::VarChar, Some("utf8mb4_general_ci")),
                column("no", DataType::Int { bytes: 8, unsigned: false }, None),
                column("uid", DataType::Int { bytes: 8, unsigned: false }, None),
                column("mail", DataType::VarChar, Some("latin1_swedish_ci")),
            ],
            primary_key: vec![1, 0],
            unique_keys: vec![UniqueKey {
                name: "by_mail".to_owned(),
                columns: vec![3],
                hashed: false,
            }],
        }
    }

    #[test]
    fn every_statement_is_guarded_by_owner_and_bytes() {
        let sql = Statements::new(&account(), &[0, 1, 2, 3], Some("(`uid` MOD 3)"));
        assert_eq!(
            sql.upsert,
            "INSERT INTO `acc``t` (`name`, `no`, `uid`, `mail`) VALUES (?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE `no` = IF(`no` = VALUES(`no`) \
             AND BINARY `name` = BINARY VALUES(`name`) AND (`uid` MOD 3) = ?, `no`, \
             (SELECT 1 UNION SELECT 2)), `name` = `name`, `uid` = VALUES(`uid`), \
             `mail` = VALUES(`mail`)"
        );
        assert_eq!(
            sql.delete,
            "DELETE FROM `acc``t` WHERE `no` = ? \
             AND `name` = CONVERT(? USING utf8mb4) COLLATE utf8mb4_general_ci \
             AND BINARY `name` = ? AND (`uid` MOD 3) = ?"
        );
        assert_eq!(sql.key_params, [0, 1, 1]);
        assert_eq!(sql.holders.len(), 2);
        assert_eq!(
            sql.holders[1].select,
            "SELECT (`uid` MOD 3), `no`, `name` FROM `acc``t` WHERE \
             `mail` = CONVERT(? USING latin1) COLLATE latin1_swedish_ci LIMIT 1 LOCK IN SHARE MODE"
        );
        assert_eq!(sql.holders[1].params, [3]);
    }

    #[test]
    fn a_broadcast_table_has_no_owner() {
        let sql = Statements::new(&account(), &[0, 1, 2, 3], None);
        assert!(!sql.upsert.contains("MOD") && !sql.delete.contains("MOD"));
        assert!(sql.upsert.contains("IF(`no` = VALUES(`no`)"));
    }
}
