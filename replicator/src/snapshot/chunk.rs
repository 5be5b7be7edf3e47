//! Reads one chunk: a primary-key range of a table in one consistent snapshot, with its bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use modshift_mariadb::desk::server_of;
use modshift_mariadb::{Conn, Seat, ServerError, Session, control, value};
use modshift_proto::plan::Endpoint;
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::schema::Column;
use modshift_proto::{GtidSet, OldShard};
use mysql_async::prelude::Queryable;

use crate::definitions::Definitions;
use crate::error::{ReadError, place as position_text, server_error};
use crate::route::{self, Cells, Moduli, Place, RouteError, RoutedTable};
use crate::token::within;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Of the one question that reads a whole table.
const WHOLE_TABLE_TIMEOUT: Duration = Duration::from_secs(12 * 60 * 60);

/// What to read next of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRequest {
    pub table: usize,
    /// Start after this primary key; `None`: at the beginning.
    pub after: Option<Vec<Vec<u8>>>,
    pub which: Which,
    pub rows: u32,
    /// Stop reading once the rows take this much memory; the first row always fits.
    pub bytes_max: usize,
    /// Raised when the table is rewound: a chunk of an older generation is worthless.
    pub generation: u32,
}

/// Which rows of the table there are to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Which {
    #[default]
    All,
    /// From this primary key to that one, both included; either may be its first columns alone.
    Within { from: Option<Vec<Vec<u8>>>, to: Option<Vec<Vec<u8>>> },
    /// Those with these primary keys.
    Keys(Vec<Vec<Vec<u8>>>),
}

/// One row of a chunk, as ranges of [`Chunk::bytes`].
#[derive(Clone, Copy, Debug)]
pub struct ChunkRow {
    pub to: Place,
    wire: (usize, usize),
    primary_key: (usize, usize),
    message_key: (usize, usize),
}

/// The rows of a chunk, ready to be sent, and the bounds between which they are true.
#[derive(Debug)]
pub struct Chunk {
    pub request: ChunkRequest,
    /// Epoch and number of the token that the snapshot showed.
    pub epoch: u64,
    pub token: u64,
    /// H: nothing after this set is in the chunk.
    pub high: GtidSet,
    pub rows: Vec<ChunkRow>,
    bytes: Vec<u8>,
    /// Where the next chunk starts; `None` at the end of the table.
    pub next_after: Option<Vec<Vec<u8>>>,
    pub took: Duration,
}

impl Chunk {
    pub fn wire(&self, row: &ChunkRow) -> &[u8] {
        &self.bytes[row.wire.0..row.wire.1]
    }

    /// In the form in which [`super::Touched`] remembers keys.
    pub fn primary_key(&self, row: &ChunkRow) -> &[u8] {
        &self.bytes[row.primary_key.0..row.primary_key.1]
    }

    pub fn message_key(&self, row: &ChunkRow) -> &[u8] {
        &self.bytes[row.message_key.0..row.message_key.1]
    }

    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Reads chunks of one old shard, each over a connection that is its for so long.
#[derive(Clone)]
pub struct ChunkReader {
    shard: OldShard,
    endpoint: Endpoint,
    moduli: Moduli,
    tables: Arc<Vec<RoutedTable>>,
    definitions: Arc<Definitions>,
    /// By table: its keys were asked for and can be paged by.
    pageable: Arc<[AtomicBool]>,
    /// In no shard's schema: its connections are good for any shard.
    server: Endpoint,
}

impl ChunkReader {
    pub fn new(
        endpoint: Endpoint,
        moduli: Moduli,
        tables: Arc<Vec<RoutedTable>>,
        definitions: Arc<Definitions>,
    ) -> ChunkReader {
        let (shard, server) = (moduli.source, server_of(&endpoint));
        let pageable = tables.iter().map(|_| AtomicBool::new(false)).collect();
        ChunkReader { shard, endpoint, moduli, tables, definitions, pageable, server }
    }

    /// Where it needs a seat.
    pub fn server(&self) -> &Endpoint {
        &self.server
    }

    /// Reads the chunk. After an error the connection is dropped, and the snapshot with it.
    pub async fn read(&self, mut seat: Seat, request: ChunkRequest) -> Result<Chunk, ReadError> {
        let mut conn = seat.conn().await?;
        let chunk = self.read_with(&mut conn, request).await?;
        seat.keep(conn);
        Ok(chunk)
    }

    async fn read_with(&self, conn: &mut Conn, request: ChunkRequest) -> Result<Chunk, ReadError> {
        let tables = Arc::clone(&self.tables);
        let table = &tables[request.table];
        let sql = self.select(table, &request)?;
        if request.after.is_none() && !matches!(request.which, Which::Keys(_)) {
            self.pageable(conn, request.table).await?;
        }
        let started = Instant::now();
        let statement = self.answer(conn.prep(sql)).await?;
        // REPEATABLE READ is what makes the snapshot one: a server default of READ COMMITTED
        // would turn it into a fresh view per statement.
        let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        self.answer(conn.query_drop(isolation)).await?;
        self.answer(conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT")).await?;
        let token_sql = format!(
            "SELECT epoch, writes FROM {}.{} WHERE id = 1",
            value::quote(&self.endpoint.schema),
            control::TOKEN
        );
        let token: Option<(u64, u64)> = self.answer(conn.query_first(token_sql)).await?;
        // No token in the snapshot: one from before any epoch, which the reader will refuse.
        let (epoch, token) = token.unwrap_or((0, 0));

        let mut rows = RowBuffer::new(table, self.moduli);
        let mut truncated = false;
        let mut seen = 0_u32;
        let mut result = self.answer(conn.exec_iter(&statement, ())).await?;
        if let Some(mut stream) = self.answer(result.stream::<mysql_async::Row>()).await? {
            while let Some(row) = self.answer(stream.next().map(Option::transpose)).await? {
                if truncated {
                    continue; // the server is already sending: read on and drop
                }
                rows.push(row).map_err(|error| self.row_error(table, error))?;
                seen += 1;
                truncated = rows.bytes.len() >= request.bytes_max;
            }
        }
        drop(result);
        // What this transaction has read nobody can alter before it ends.
        let asking = self.definitions.hold(conn, Session::Exact, &self.endpoint, request.table);
        within(&self.endpoint, "looking at the table of a chunk", asking).await?;
        let high: Option<String> =
            self.answer(conn.query_first("SELECT @@gtid_binlog_pos")).await?;
        self.answer(conn.query_drop("COMMIT")).await?;
        self.answer(conn.close(statement)).await?;
        let high = high
            .unwrap_or_default()
            .parse()
            .map_err(|source| ReadError::ProgressUnreadable { shard: self.shard, source })?;

        let more = truncated || seen >= request.rows;
        if more {
            rows.end_with_a_bound();
        }
        Ok(Chunk {
            request,
            epoch,
            token,
            high,
            next_after: if more { rows.last_key } else { None },
            rows: rows.rows,
            bytes: rows.bytes,
            took: started.elapsed(),
        })
    }

    /// Before the first chunk of a table, and beside the tail: some keys MariaDB does not find in the
    /// order of its index, and pages would leave their rows out. What comes later is in the binlog. A
    /// copy that goes on from a key has been asked, so a table is read for this once.
    async fn pageable(&self, conn: &mut Conn, table: usize) -> Result<(), ReadError> {
        let schema = &self.tables[table].schema;
        let keys: Vec<_> = schema.primary_key.iter().map(|&index| &schema.columns[index]).collect();
        let name =
            format!("{}.{}", value::quote(&self.endpoint.schema), value::quote(&schema.name));
        let Some(statement) = value::unpageable(&name, &keys) else { return Ok(()) };
        if self.pageable[table].load(Ordering::Relaxed) {
            return Ok(());
        }
        let asking = conn.query_first::<u8, _>(statement.as_str());
        if self.answer_within(WHOLE_TABLE_TIMEOUT, asking).await?.is_some() {
            let (shard, table) = (self.shard, schema.name.clone());
            return Err(ReadError::Unpageable { shard, table, statement });
        }
        self.pageable[table].store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The next answer of the server. A chunk may take long in all, one answer of it may not: the
    /// host may be gone without a word.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, mysql_async::Error>>,
    ) -> Result<T, ReadError> {
        self.answer_within(ANSWER_TIMEOUT, answer).await
    }

    async fn answer_within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, mysql_async::Error>>,
    ) -> Result<T, ReadError> {
        let doing = "copying a chunk";
        match tokio::time::timeout(limit, answer).await {
            Ok(outcome) => Ok(outcome.map_err(|e| server_error(&self.endpoint, doing, e))?),
            Err(_) => Err(ReadError::Server(ServerError::Lost {
                at: modshift_mariadb::connect::label(&self.endpoint),
                doing,
                detail: format!("no answer in {} s", limit.as_secs()),
            })),
        }
    }

    fn select(&self, table: &RoutedTable, request: &ChunkRequest) -> Result<String, ReadError> {
        let schema = &table.schema;
        let columns: Vec<String> =
            schema.sent_columns().map(|index| value::select_expr(&schema.columns[index])).collect();
        let keys: Vec<&Column> =
            schema.primary_key.iter().map(|&index| &schema.columns[index]).collect();
        let page = || value::key_page(&keys, request.after.as_deref());
        let page = match &request.which {
            Which::All => page(),
            Which::Within { from, to } => page().and_then(|page| {
                let within = value::key_within(&keys, from.as_deref(), to.as_deref())?;
                Ok(format!("{page} AND {within}"))
            }),
            Which::Keys(some) => {
                let terms: Result<Vec<_>, _> =
                    some.iter().map(|key| value::key_equal(&keys, key)).collect();
                terms.map(|terms| terms.join(" OR "))
            }
        };
        let page = page.map_err(|source| ReadError::Value {
            shard: self.shard,
            table: schema.name.clone(),
            source,
        })?;
        let order: Vec<String> = keys.iter().map(|column| value::quote(&column.name)).collect();
        let filter = if page.is_empty() { String::new() } else { format!(" WHERE {page}") };
        Ok(format!(
            "SELECT {} FROM {}.{} FORCE INDEX (PRIMARY){filter} ORDER BY {} LIMIT {}",
            columns.join(", "),
            value::quote(&self.endpoint.schema),
            value::quote(&schema.name),
            order.join(", "),
            request.rows
        ))
    }

    fn row_error(&self, table: &RoutedTable, error: PushError) -> ReadError {
        let shard = self.shard;
        let name = table.schema.name.clone();
        match error {
            PushError::Value(source) => ReadError::Value { shard, table: name, source },
            PushError::Route(RouteError::Stray(stray)) => ReadError::Stray {
                shard,
                table: name,
                position: position_text(None),
                group: None,
                placed: stray.placed,
            },
            PushError::Route(RouteError::Null) => {
                let (position, source) = (position_text(None), route::NULL_KEY);
                ReadError::Row { shard, table: name, position, group: None, source }
            }
            PushError::Route(RouteError::Row(source)) => ReadError::Row {
                shard,
                table: name,
                position: position_text(None),
                group: None,
                source,
            },
        }
    }
}

enum PushError {
    Value(value::ValueError),
    Route(RouteError),
}

/// Rows of a chunk as they come in.
struct RowBuffer<'t> {
    table: &'t RoutedTable,
    keys: Vec<&'t Column>,
    moduli: Moduli,
    sent: Vec<usize>,
    /// Place among the sent columns, by column index.
    index_of: Vec<Option<usize>>,
    bytes: Vec<u8>,
    rows: Vec<ChunkRow>,
    last_key: Option<Vec<Vec<u8>>>,
    /// Rows up to the last key after which the next chunk can begin.
    bound: usize,
    scratch: Vec<u8>,
}

/// One row in wire form, its cells found by column index.
struct WireCells<'a> {
    cells: &'a [Option<&'a [u8]>],
    index_of: &'a [Option<usize>],
}

impl Cells for WireCells<'_> {
    fn cell(&self, column: usize) -> Option<&[u8]> {
        self.index_of[column].and_then(|index| self.cells[index])
    }
}

impl<'t> RowBuffer<'t> {
    fn new(table: &'t RoutedTable, moduli: Moduli) -> RowBuffer<'t> {
        let sent: Vec<usize> = table.schema.sent_columns().collect();
        let mut index_of = vec![None; table.schema.columns.len()];
        for (index, &column) in sent.iter().enumerate() {
            index_of[column] = Some(index);
        }
        RowBuffer {
            keys: table.schema.primary_key.iter().map(|&i| &table.schema.columns[i]).collect(),
            table,
            moduli,
            sent,
            index_of,
            bytes: Vec::new(),
            rows: Vec::new(),
            last_key: None,
            bound: 0,
            scratch: Vec::new(),
        }
    }

    fn push(&mut self, row: mysql_async::Row) -> Result<(), PushError> {
        self.scratch.clear();
        let mut writer = RowWriter::new(&mut self.scratch, self.sent.len());
        for (index, &column) in self.sent.iter().enumerate() {
            let data = self.table.schema.columns[column].data;
            let cell = row.as_ref(index).unwrap_or(&mysql_async::Value::NULL);
            value::value_to_cell(data, cell, &mut writer).map_err(PushError::Value)?;
        }
        writer.finish();

        let mut cells = Vec::with_capacity(self.sent.len());
        RowView::parse(&self.scratch)
            .and_then(|view| view.collect(self.sent.len(), &mut cells))
            .map_err(|error| PushError::Route(RouteError::Row(error)))?;
        let cells = WireCells { cells: &cells, index_of: &self.index_of };
        let to = route::place(self.table, self.moduli, &cells).map_err(PushError::Route)?;

        let wire_at = self.bytes.len();
        self.bytes.extend_from_slice(&self.scratch);
        let key_at = self.bytes.len();
        route::write_key_row(&self.table.schema, &cells, &mut self.bytes);
        let message_key_at = self.bytes.len();
        route::write_message_key(self.table, &cells, &mut self.bytes);
        self.rows.push(ChunkRow {
            to,
            wire: (wire_at, key_at),
            primary_key: (key_at, message_key_at),
            message_key: (message_key_at, self.bytes.len()),
        });
        let key_cells = self.table.schema.primary_key.iter();
        let key: Vec<Vec<u8>> =
            key_cells.map(|&c| cells.cell(c).unwrap_or_default().to_vec()).collect();
        if value::is_bound(&self.keys, &key) {
            self.bound = self.rows.len();
        }
        self.last_key = Some(key);
        Ok(())
    }

    /// Not every key can end a chunk that others follow: what is behind the last one that can comes with
    /// the next chunk. If none can, the next one says so.
    fn end_with_a_bound(&mut self) {
        if !(1..self.rows.len()).contains(&self.bound) {
            return;
        }
        self.rows.truncate(self.bound);
        let (from, to) = self.rows[self.bound - 1].primary_key;
        let key = RowView::parse(&self.bytes[from..to]).map(|view| {
            view.cells().map(|cell| Some(cell.ok()??.to_vec())).collect::<Option<Vec<_>>>()
        });
        // Of our own making a moment ago.
        self.last_key = key.ok().flatten().or(self.last_key.take());
    }
}
