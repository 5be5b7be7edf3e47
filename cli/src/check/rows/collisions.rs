//! Keys present on several old shards that would meet on one new shard.
//!
//! Each old shard gives the table's unique keys in order, and a merge looks at equal neighbours:
//! one row of each old shard in memory, whatever the size of the table. Equality is the new
//! shard's: by collation for text, which is why text is compared by its weights. All of them are
//! listed in a file as they are found. Keys on their way from one old shard to another at that
//! moment are found too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use futures_util::future::try_join_all;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error::{self, ServerError};
use modshift_mariadb::value::quote;
use modshift_mariadb::{Conn, Value};
use modshift_proto::plan::Plan;
use modshift_proto::schema::DataType;
use modshift_proto::{OldShard, TableSchema};
use mysql_async::prelude::Queryable;
use mysql_async::{BinaryProtocol, QueryResult};

use super::matrix::{Sharded, gcd, shown};
use crate::check::fault::{Fault, Severity};

pub const RULE: &str = "meeting";
const DOING: &str = "reading keys in order";
/// Named in the report; the rest is in the file.
const NAMED_MAX: usize = 5;

/// A part of a key whose order is the order of the merge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Int(i64),
    UInt(u64),
    Bytes(Vec<u8>),
}

/// Rows of different old shards meet only where one new shard is fed by several: by those that are
/// congruent to it modulo gcd(N, M).
pub fn can_meet(old: u16, new: u16) -> bool {
    u64::from(old) / gcd(old.into(), new.into()) > 1
}

/// Where every collision is listed: tab-separated, a line each.
pub struct Listing {
    path: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Listing {
    pub fn new(path: PathBuf) -> Listing {
        Listing { path, file: None }
    }

    /// The file is there only if there is something in it. It holds keys of rows: for its owner.
    fn add(&mut self, line: &[&dyn std::fmt::Display]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut options = File::options();
                options.write(true).create(true).truncate(true).mode(0o600);
                let mut file = BufWriter::new(options.open(&self.path)?);
                writeln!(file, "table\tkey\tvalue\tnew shard\tfirst\tsecond")?;
                self.file.insert(file)
            }
        };
        let cells: Vec<String> = line.iter().map(|cell| escape(&cell.to_string())).collect();
        writeln!(file, "{}", cells.join("\t"))
    }

    pub fn finish(&mut self) -> std::io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.flush())
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n")
}

/// What was found: faults, and for each table how many values would meet.
pub struct Found {
    pub faults: Vec<Fault>,
    pub tables: BTreeMap<String, u64>,
    /// Every key of every table was compared.
    pub complete: bool,
}

pub async fn check(
    plan: &Plan,
    tables: &[Sharded<'_>],
    listing: &mut Listing,
) -> anyhow::Result<Found> {
    let mut found = Found { faults: Vec::new(), tables: BTreeMap::new(), complete: true };
    if !can_meet(plan.old_modulus.get(), plan.new_modulus.get()) {
        return Ok(found);
    }
    for table in tables {
        let primary = ("primary key", table.schema.primary_key.as_slice());
        let others = table.schema.unique_keys.iter().map(|k| (k.name.as_str(), &k.columns[..]));
        for (name, columns) in std::iter::once(primary).chain(others) {
            // A key that holds the shard key is on one old shard only; a stray is another fault.
            if columns.iter().any(|&c| table.schema.columns[c].name.eq_ignore_ascii_case(table.key))
            {
                continue;
            }
            let subject = format!("table {}", table.name);
            match of_key(plan, table, name, columns, listing).await {
                Ok((0, _)) => {}
                Ok((meetings, named)) => {
                    *found.tables.entry(table.name.to_owned()).or_default() += meetings;
                    let accepted = plan.check.accept_meeting.iter().any(|t| t == table.name);
                    let severity = if accepted { Severity::Warning } else { Severity::Fault };
                    let actual = format!(
                        "{meetings} values of {name} would meet: {}; all of them in {}",
                        named.join(", "),
                        listing.path.display()
                    );
                    found.faults.push(
                        Fault::new(severity, RULE, subject, actual)
                            .expected("values that are unique over all old shards")
                            .mend(
                                "renumber or delete one of each, or add the shard key to the key, or \
                                 name the table in check.accept_meeting",
                            ),
                    );
                }
                Err(Failed::Server(error)) => {
                    found.complete = false;
                    let hint = error.hint();
                    found.faults.push(
                        Fault::new(Severity::Fault, RULE, subject, format!("{name}: {error}"))
                            .expected("all values of the key, in order")
                            .mend(hint.unwrap_or_else(|| "modshift check --deep again".to_owned())),
                    );
                }
                Err(Failed::Listing(error)) => {
                    let path = listing.path.display();
                    return Err(anyhow::Error::new(error).context(format!("writing {path}")));
                }
            }
        }
    }
    listing.finish()?;
    Ok(found)
}

enum Failed {
    Server(ServerError),
    Listing(std::io::Error),
}

impl From<ServerError> for Failed {
    fn from(error: ServerError) -> Failed {
        Failed::Server(error)
    }
}

/// No view that would hold up the purge of old row versions, and no end while the streams of other
/// shards are further on.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED";
const PATIENCE: &str = "SET SESSION net_write_timeout = 86400";

/// How many values meet, and the first few.
async fn of_key(
    plan: &Plan,
    table: &Sharded<'_>,
    name: &str,
    columns: &[usize],
    listing: &mut Listing,
) -> Result<(u64, Vec<String>), Failed> {
    let sql = select(table, columns, &table.rule.sql_or(plan.new_modulus, 0));
    let connecting = plan.old.iter().map(|endpoint| async move {
        let mut conn = connect(endpoint, Session::Plain).await?;
        for set in [SESSION, PATIENCE] {
            conn.query_drop(set)
                .await
                .map_err(|error| error::of(&label(endpoint), DOING, error))?;
        }
        Ok::<_, ServerError>(conn)
    });
    let mut conns = try_join_all(connecting).await?;
    let mut streams = Vec::with_capacity(conns.len());
    for (conn, endpoint) in conns.iter_mut().zip(&plan.old) {
        streams.push(Stream::open(conn, label(endpoint), &sql, columns.len()).await?);
    }
    let (mut meetings, mut named) = (0u64, Vec::new());
    while let Some(least) = streams.iter().filter_map(|s| Some(&s.head.as_ref()?.key)).min() {
        let least = least.clone();
        let mut here: Vec<(OldShard, u16, String)> = Vec::new();
        for (shard, stream) in plan.old_shards().zip(&mut streams) {
            if stream.head.as_ref().is_some_and(|head| head.key == least)
                && let Some(head) = stream.advance().await?
            {
                here.push((shard, head.to, head.shown));
            }
        }
        for (index, (shard, to, key)) in here.iter().enumerate() {
            let Some((first, _, _)) = here[..index].iter().find(|(_, other, _)| other == to) else {
                continue;
            };
            meetings += 1;
            listing
                .add(&[&table.name, &name, key, to, &first.0, &shard.0])
                .map_err(Failed::Listing)?;
            if named.len() < NAMED_MAX {
                named.push(format!("{key} of {first} and {shard} on new shard {to}"));
            }
        }
    }
    if meetings > NAMED_MAX as u64 {
        named.push(format!("and {} more", meetings - NAMED_MAX as u64));
    }
    Ok((meetings, named))
}

/// Parts of the key, the new shard, and the key for people.
fn select(table: &Sharded<'_>, columns: &[usize], to: &str) -> String {
    let (mut parts, mut order, mut not_null) = (Vec::new(), Vec::new(), Vec::new());
    for &index in columns {
        let column = quote(&table.schema.columns[index].name);
        let (expression, natural) = part(table.schema, index);
        order.push(if natural { column.clone() } else { expression.clone() });
        parts.push(expression);
        if table.schema.columns[index].nullable {
            not_null.push(format!("{column} IS NOT NULL")); // NULL equals nothing
        }
    }
    let shown: Vec<String> = columns.iter().map(|&index| shown(table.schema, index)).collect();
    let mut sql = format!(
        "SELECT {}, CAST({to} AS UNSIGNED), CAST(CONCAT_WS('/', {}) AS CHAR) FROM {}",
        parts.join(", "),
        shown.join(", "),
        quote(table.name)
    );
    if !not_null.is_empty() {
        // Writing to a String does not fail.
        let _ = write!(sql, " WHERE {}", not_null.join(" AND "));
    }
    let _ = write!(sql, " ORDER BY {}", order.join(", "));
    sql
}

/// An expression whose values compare as the column's do, and whether ordering by the column, for
/// which there is an index, is ordering by the expression.
fn part(schema: &TableSchema, index: usize) -> (String, bool) {
    let column = &schema.columns[index];
    let name = quote(&column.name);
    match column.data {
        DataType::Int { .. } => (name, true),
        DataType::Year | DataType::Enum | DataType::Set | DataType::Bit { .. } => {
            (format!("CAST({name} + 0 AS UNSIGNED)"), true)
        }
        DataType::Char | DataType::VarChar => {
            let nopad = column.collation.as_deref().is_some_and(|c| c.contains("nopad"));
            match length(&column.type_text).filter(|_| !nopad) {
                // Padded to one length: trailing spaces do not count, as in the index.
                Some(chars) => (format!("WEIGHT_STRING({name} AS CHAR({chars}))"), true),
                None => (format!("WEIGHT_STRING({name})"), true),
            }
        }
        DataType::Binary { .. } | DataType::VarBinary => (name, true),
        DataType::Date | DataType::DateTime { .. } | DataType::Timestamp { .. } => {
            (format!("CAST(CAST({name} AS CHAR) AS BINARY)"), true)
        }
        _ => (format!("CAST(CAST({name} AS CHAR) AS BINARY)"), false),
    }
}

/// `varchar(40)`
fn length(type_text: &str) -> Option<u32> {
    let (_, rest) = type_text.split_once('(')?;
    rest.split_once(')')?.0.parse().ok()
}

struct Head {
    key: Vec<Part>,
    to: u16,
    shown: String,
}

/// The rows of one old shard, the next one in hand.
struct Stream<'a> {
    rows: QueryResult<'a, 'static, BinaryProtocol>,
    at: String,
    parts: usize,
    head: Option<Head>,
}

impl<'a> Stream<'a> {
    async fn open(
        conn: &'a mut Conn,
        at: String,
        sql: &str,
        parts: usize,
    ) -> Result<Stream<'a>, ServerError> {
        let opened = conn.exec_iter(sql, ()).await;
        let rows = opened.map_err(|error| error::of(&at, DOING, error))?;
        let mut stream = Stream { rows, at, parts, head: None };
        stream.advance().await?;
        Ok(stream)
    }

    /// Takes the row in hand and fetches the next.
    async fn advance(&mut self) -> Result<Option<Head>, ServerError> {
        let next = self.rows.next().await.map_err(|e| error::of(&self.at, DOING, e))?;
        let broken = |detail: &str| ServerError::Driver {
            at: self.at.clone(),
            doing: DOING,
            detail: detail.to_owned(),
        };
        let next = match next {
            None => None,
            Some(row) => {
                let head = read(row.unwrap(), self.parts);
                Some(head.ok_or_else(|| broken("a row of another form than expected"))?)
            }
        };
        // Without order the merge would miss meetings: better no answer than a wrong one.
        if let (Some(before), Some(after)) = (&self.head, &next)
            && before.key >= after.key
        {
            return Err(broken("keys came in an order that modshift does not know"));
        }
        Ok(std::mem::replace(&mut self.head, next))
    }
}

fn read(mut values: Vec<Value>, parts: usize) -> Option<Head> {
    let shown = match values.pop()? {
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        _ => return None,
    };
    let to = match values.pop()? {
        Value::Int(to) => u16::try_from(to).ok()?,
        Value::UInt(to) => u16::try_from(to).ok()?,
        _ => return None,
    };
    let key = values.into_iter().map(|value| match value {
        Value::Int(value) => Some(Part::Int(value)),
        Value::UInt(value) => Some(Part::UInt(value)),
        Value::Bytes(bytes) => Some(Part::Bytes(bytes)),
        _ => None,
    });
    let key: Vec<Part> = key.collect::<Option<_>>()?;
    (key.len() == parts).then_some(Head { key, to, shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_meet_only_where_a_new_shard_has_several_sources() {
        assert!(can_meet(3, 4));
        assert!(can_meet(8, 12));
        assert!(can_meet(4, 2));
        assert!(!can_meet(2, 4));
        assert!(!can_meet(1, 5));
        assert!(can_meet(5, 1));
    }

    #[test]
    fn a_listed_value_stays_on_its_line() {
        assert_eq!(escape("a\tb\\\n"), "a\\tb\\\\\\n");
    }

    #[test]
    fn lengths_are_read_from_types() {
        assert_eq!(length("varchar(40)"), Some(40));
        assert_eq!(length("text"), None);
    }
}
