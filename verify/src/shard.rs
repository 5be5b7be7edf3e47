//! One shard as the verifier asks it: reads only, each with a deadline, and again where the world
//! outside was in the way.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::desk::server_of;
use modshift_mariadb::value::{self, quote};
use modshift_mariadb::{Class, Conn, Seats, ServerError, error};
use modshift_proto::GtidSet;
use modshift_proto::plan::Endpoint;
use mysql_async::Row;
use mysql_async::prelude::{FromRow, Queryable};

use crate::checksum;
use crate::error::VerifyError;
use crate::key;
use crate::table::{CheckedTable, Placing};

/// Of one statement. A range takes a fraction of a second; only one whose rows are spread very
/// unevenly takes longer, see [`SCAN_MAX`].
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Of one that reads a whole table. A host that is gone without a word is noticed all the same.
const WHOLE_TABLE_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// A range that takes longer on some shard holds far more rows there: it is cut again, by that
/// shard's own keys.
const SCAN_MAX: Duration = Duration::from_secs(3);
/// How long a server that is away is asked again. Verifying is never urgent enough to fail for a
/// restart of a server.
const AWAY_MAX: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);
/// `max_statement_time` ran out.
const STATEMENT_TIMEOUT: u16 = 1969;
/// Rows among which the end of a range is looked for: not every key can be one.
const BOUNDS: usize = 64;
/// Keys in one condition: the server plans a range for each.
const KEYS_PER_QUERY: usize = 200;

/// After `after`, up to and including `until`; either may be open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub after: Option<Vec<Vec<u8>>>,
    pub until: Option<Vec<Vec<u8>>>,
    pub within: Bounds,
}

/// From the first primary key to the last one, both included; either may be open, or name the first
/// columns of the key alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub from: Option<Vec<Vec<u8>>>,
    pub to: Option<Vec<Vec<u8>>>,
}

impl Bounds {
    pub fn is_open(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }
}

/// Rows counted and their checksums joined, by place: (old shard, new shard) of their keys. Rows of
/// a broadcast table are all at (0, 0).
pub type Sums = HashMap<(u16, u16), (u64, u64)>;

/// All rows of a range on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    pub rows: u64,
    pub sum: u64,
    /// Every row lies where its shard key places it.
    pub at_home: bool,
}

/// A row that was found: its checksum, and where its shard key places it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub checksum: u64,
    pub place: (u16, u16),
}

/// Stands for the shard's schema before a table of ours: no connection is in that schema, so that one
/// shard's is good for the next. A character that no name and no literal of a statement holds.
pub const HERE: &str = "\0";

/// A statement that creates one of our tables, on the shard that it is sent to.
pub fn here(create: &str) -> String {
    create.replacen("IF NOT EXISTS ", &format!("IF NOT EXISTS {HERE}"), 1)
}

pub struct Shard {
    endpoint: Endpoint,
    /// The shard's server, in no shard's schema.
    server: Endpoint,
    seats: Seats,
}

impl Shard {
    /// Each statement has a connection of `seats` for as long as it takes.
    pub fn new(endpoint: Endpoint, seats: Seats) -> Shard {
        Shard { server: server_of(&endpoint), endpoint, seats }
    }

    /// A table of the shard, as a statement names it.
    pub fn table(&self, name: &str) -> String {
        format!("{HERE}{}", quote(name))
    }

    fn sent(&self, sql: &str) -> String {
        sql.replace(HERE, &format!("{}.", quote(&self.endpoint.schema)))
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn schema(&self) -> &str {
        &self.endpoint.schema
    }

    pub fn label(&self) -> String {
        label(&self.endpoint)
    }

    /// Rows of a query, over the text protocol: for integers and text only.
    pub async fn query<T>(&mut self, doing: &'static str, sql: &str) -> Result<Vec<T>, VerifyError>
    where
        T: FromRow + Send + 'static,
    {
        let sql = self.sent(sql);
        self.retried(doing, async |conn| conn.query(sql.as_str()).await).await
    }

    /// Rows of a query, values as they are stored.
    pub async fn exact(&mut self, doing: &'static str, sql: &str) -> Result<Vec<Row>, VerifyError> {
        let sql = self.sent(sql);
        let read = async |conn: &mut Conn| {
            let statement = conn.prep(sql.as_str()).await?;
            let rows = conn.exec(&statement, ()).await?;
            conn.close(statement).await?;
            Ok(rows)
        };
        self.retried(doing, read).await
    }

    /// Does a query that reads a whole table find a row?
    pub async fn finds(&mut self, doing: &'static str, sql: &str) -> Result<bool, VerifyError> {
        let sql = self.sent(sql);
        let find = async |conn: &mut Conn| conn.query_first::<u8, _>(sql.as_str()).await;
        Ok(self.attempt(doing, WHOLE_TABLE_MAX, &find).await?.is_some())
    }

    /// One statement of ours, on a control table. Must be safe to repeat.
    pub async fn run<P>(
        &mut self,
        doing: &'static str,
        sql: &str,
        params: P,
    ) -> Result<(), VerifyError>
    where
        P: Into<mysql_async::Params> + Send + Clone,
    {
        let sql = self.sent(sql);
        self.retried(doing, async |conn| conn.exec_drop(sql.as_str(), params.clone()).await).await
    }

    async fn retried<T>(
        &mut self,
        doing: &'static str,
        attempt: impl AsyncFn(&mut Conn) -> Result<T, mysql_async::Error>,
    ) -> Result<T, VerifyError> {
        let until = Instant::now() + AWAY_MAX;
        loop {
            let error = match self.attempt(doing, ANSWER_MAX, &attempt).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // The same statement under the same limit runs into it again.
            let limited = error.code() == Some(STATEMENT_TIMEOUT);
            // A person has to mend that: who waits for an answer is told at once.
            let refused = matches!(error, ServerError::Login { .. });
            let over = limited || refused || Instant::now() >= until;
            if over || error.class() != Class::Retry {
                return Err(error.into());
            }
            tracing::debug!(error = %error, "asking again");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn attempt<T>(
        &mut self,
        doing: &'static str,
        limit: Duration,
        attempt: &impl AsyncFn(&mut Conn) -> Result<T, mysql_async::Error>,
    ) -> Result<T, ServerError> {
        let mut seat = self.seats.seat(&self.server).await;
        let mut conn = seat.conn().await?;
        let at = label(&self.endpoint);
        match tokio::time::timeout(limit, attempt(&mut conn)).await {
            Ok(Ok(answer)) => {
                seat.keep(conn);
                Ok(answer)
            }
            Ok(Err(failed)) => {
                let error = error::of(&at, doing, failed);
                // The server answered: the session is as it was.
                if error.code() == Some(STATEMENT_TIMEOUT) {
                    seat.keep(conn);
                }
                Err(error)
            }
            Err(_) => Err(ServerError::Lost {
                at,
                doing,
                detail: format!("no answer in {} s", limit.as_secs()),
            }),
        }
    }

    /// The key of the row that is `rows` rows into a range; `None`: it holds fewer.
    pub async fn boundary(
        &mut self,
        table: &CheckedTable,
        range: &Range,
        rows: u32,
    ) -> Result<Option<Vec<Vec<u8>>>, VerifyError> {
        let keys = key::columns(&table.schema);
        let sql = format!(
            "SELECT {} FROM {} FORCE INDEX (PRIMARY) WHERE {} ORDER BY {} LIMIT {}, {BOUNDS}",
            key_list(table),
            self.table(&table.schema.name),
            self.condition(table, range)?,
            value::key_order(&keys),
            rows.saturating_sub(1),
        );
        let found = self.exact("looking for the end of a range", &sql).await?;
        let mut first = None;
        for row in &found {
            let wire =
                key::of_row(&table.schema, row).map_err(|source| self.value(table, source))?;
            let cells =
                key::cells(&table.schema, &wire).map_err(|e| self.value(table, e.into()))?;
            if value::is_bound(&keys, &cells) {
                return Ok(Some(cells));
            }
            first.get_or_insert(cells);
        }
        // The table ends before there is another one. Or none of so many can be, which is said by name.
        Ok(first.filter(|_| found.len() == BOUNDS))
    }

    /// One checksum of a whole range; `away` is 0 if all its rows lie where they belong. `None`: it
    /// takes too long for one range. To group by place takes a fifth longer.
    pub async fn total(
        &mut self,
        table: &CheckedTable,
        range: &Range,
        away: &str,
    ) -> Result<Option<Total>, VerifyError> {
        let sql = format!(
            "{}SELECT COUNT(*), {}, {away} FROM {} FORCE INDEX (PRIMARY) WHERE {}",
            limit(true),
            checksum::of_rows(&table.checksum),
            self.table(&table.schema.name),
            self.condition(table, range)?,
        );
        let found: Option<Vec<(u64, u64, u64)>> =
            self.timed("comparing a range", &sql, true).await?;
        let total = |(rows, sum, away)| Total { rows, sum, at_home: away == 0 };
        Ok(found.and_then(|found| found.into_iter().next()).map(total))
    }

    /// Checksums of a range, by place; `None`: it takes too long for one range.
    pub async fn sums(
        &mut self,
        table: &CheckedTable,
        range: &Range,
        bounded: bool,
    ) -> Result<Option<Sums>, VerifyError> {
        let (old, new) = places(table);
        let group = match table.placing {
            Placing::Sharded { .. } => " GROUP BY 1, 2 ORDER BY NULL",
            Placing::Broadcast { .. } => "",
        };
        let sql = format!(
            "{}SELECT {old}, {new}, COUNT(*), {} FROM {} FORCE INDEX (PRIMARY) WHERE {}{group}",
            limit(bounded),
            checksum::of_rows(&table.checksum),
            self.table(&table.schema.name),
            self.condition(table, range)?,
        );
        let found: Option<Vec<(u16, u16, u64, u64)>> =
            self.timed("comparing a range", &sql, bounded).await?;
        let sums = |rows: Vec<(u16, u16, u64, u64)>| {
            let some = rows.into_iter().filter(|(.., count, _)| *count > 0);
            some.map(|(old, new, count, sum)| ((old, new), (count, sum))).collect()
        };
        Ok(found.map(sums))
    }

    /// `None`: the time that we gave the statement ran out. Where we gave it none, somebody else
    /// ended it, and that is no answer either: an error.
    async fn timed<T>(
        &mut self,
        doing: &'static str,
        sql: &str,
        bounded: bool,
    ) -> Result<Option<Vec<T>>, VerifyError>
    where
        T: FromRow + Send + 'static,
    {
        match self.query(doing, sql).await {
            Ok(rows) => Ok(Some(rows)),
            Err(VerifyError::Server(error))
                if bounded && error.code() == Some(STATEMENT_TIMEOUT) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Checksum and place of each row of a range, of some streams only: those whose old shard and
    /// new shard are in the lists, where there is one.
    pub async fn rows(
        &mut self,
        table: &CheckedTable,
        range: &Range,
        old_shards: Option<&[u16]>,
        new_shards: Option<&[u16]>,
    ) -> Result<HashMap<Vec<u8>, Seen>, VerifyError> {
        let mut condition = self.condition(table, range)?;
        if let Placing::Sharded { old, new, .. } = &table.placing {
            for (place, shards) in [(old, old_shards), (new, new_shards)] {
                if let Some(shards) = shards {
                    let list: Vec<String> = shards.iter().map(u16::to_string).collect();
                    let _ = write!(condition, " AND {place} IN ({})", list.join(", "));
                }
            }
        }
        let mut found = HashMap::new();
        self.seen(table, &condition, &mut found).await?;
        Ok(found)
    }

    /// The same for single keys; those that are not there are left out.
    pub async fn keys(
        &mut self,
        table: &CheckedTable,
        wanted: &[&[u8]],
    ) -> Result<HashMap<Vec<u8>, Seen>, VerifyError> {
        let mut found = HashMap::new();
        for some in wanted.chunks(KEYS_PER_QUERY) {
            let mut terms = Vec::with_capacity(some.len());
            for wire in some {
                terms.push(self.equal(table, wire)?);
            }
            self.seen(table, &terms.join(" OR "), &mut found).await?;
        }
        Ok(found)
    }

    async fn seen(
        &mut self,
        table: &CheckedTable,
        condition: &str,
        found: &mut HashMap<Vec<u8>, Seen>,
    ) -> Result<(), VerifyError> {
        let (old, new) = places(table);
        let sql = format!(
            "SELECT {}, {old}, {new}, {} FROM {} FORCE INDEX (PRIMARY) WHERE {condition}",
            key_list(table),
            table.checksum,
            self.table(&table.schema.name),
        );
        let at = table.schema.primary_key.len();
        for row in self.exact("comparing rows", &sql).await? {
            let number = |place: usize| row.get_opt::<u64, _>(at + place).and_then(Result::ok);
            let (Some(old), Some(new), Some(checksum)) = (number(0), number(1), number(2)) else {
                let text = "a checksum or place is no number".to_owned();
                return Err(VerifyError::Control { at: self.label(), what: "an answer", text });
            };
            let wire =
                key::of_row(&table.schema, &row).map_err(|source| self.value(table, source))?;
            found.insert(wire, Seen { checksum, place: (old as u16, new as u16) });
        }
        Ok(())
    }

    /// A whole row: the wire form of each column that travels, in table order.
    pub async fn row(
        &mut self,
        table: &CheckedTable,
        wire: &[u8],
    ) -> Result<Option<Vec<u8>>, VerifyError> {
        let schema = &table.schema;
        let sent: Vec<usize> = schema.sent_columns().collect();
        let columns: Vec<String> =
            sent.iter().map(|&index| value::select_expr(&schema.columns[index])).collect();
        let sql = format!(
            "SELECT {}, {} FROM {} FORCE INDEX (PRIMARY) WHERE {}",
            key_list(table),
            columns.join(", "),
            self.table(&schema.name),
            self.equal(table, wire)?,
        );
        for row in self.exact("reading a row", &sql).await? {
            let of = |source| self.value(table, source);
            // Another row, which the collation calls equal.
            if key::of_row(schema, &row).map_err(of)? != wire {
                continue;
            }
            let mut image = Vec::new();
            let mut writer = modshift_proto::row::RowWriter::new(&mut image, sent.len());
            for (place, &column) in sent.iter().enumerate() {
                let value = row.as_ref(schema.primary_key.len() + place);
                let value = value.unwrap_or(&modshift_mariadb::Value::NULL);
                value::value_to_cell(schema.columns[column].data, value, &mut writer)
                    .map_err(of)?;
            }
            writer.finish();
            return Ok(Some(image));
        }
        Ok(None)
    }

    /// What the binlog has, hence all that an earlier read here can have seen.
    pub async fn position(&mut self) -> Result<GtidSet, VerifyError> {
        let rows: Vec<String> =
            self.query("reading the position of the binlog", "SELECT @@gtid_binlog_pos").await?;
        let text = rows.into_iter().next().unwrap_or_default();
        let control =
            |text| VerifyError::Control { at: self.label(), what: "gtid_binlog_pos", text };
        text.parse().map_err(|_| control(text))
    }

    fn condition(&self, table: &CheckedTable, range: &Range) -> Result<String, VerifyError> {
        let keys = key::columns(&table.schema);
        let of = |source| self.value(table, source);
        let condition = value::key_range(&keys, range.after.as_deref(), range.until.as_deref());
        let condition = condition.map_err(of)?;
        let Bounds { from, to } = &range.within;
        if range.within.is_open() {
            return Ok(condition);
        }
        let within = value::key_within(&keys, from.as_deref(), to.as_deref()).map_err(of)?;
        Ok(format!("{condition} AND {within}"))
    }

    fn equal(&self, table: &CheckedTable, wire: &[u8]) -> Result<String, VerifyError> {
        let of = |source| self.value(table, source);
        let cells = key::cells(&table.schema, wire).map_err(|error| of(error.into()))?;
        value::key_equal(&key::columns(&table.schema), &cells).map_err(of)
    }

    fn value(&self, table: &CheckedTable, source: value::ValueError) -> VerifyError {
        VerifyError::Value { at: self.label(), table: table.schema.name.clone(), source }
    }
}

fn limit(bounded: bool) -> String {
    match bounded {
        true => format!("SET STATEMENT max_statement_time={} FOR ", SCAN_MAX.as_secs()),
        false => String::new(),
    }
}

fn key_list(table: &CheckedTable) -> String {
    let keys = key::columns(&table.schema);
    keys.into_iter().map(value::select_expr).collect::<Vec<_>>().join(", ")
}

fn places(table: &CheckedTable) -> (&str, &str) {
    match &table.placing {
        Placing::Sharded { old, new, .. } => (old, new),
        Placing::Broadcast { .. } => ("0", "0"),
    }
}
