//! Asks one server for all of its shards at once: each question is one statement over one connection,
//! so that forty shards of one server cost it little more than one.
//!
//! Every name is qualified, and the connection is in no shard's schema.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::desk::server_of;
use modshift_mariadb::value::quote;
use modshift_mariadb::{Conn, ServerError, Session, connect, error};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::Row;
use mysql_async::prelude::{FromRow, Queryable};
use tokio::time::timeout;

use crate::error::ApplyError;

/// A server that takes longer to answer is as good as silent, and must not hide the others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How soon a table of ours that was not there is looked for again. One that is gone shows at once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const NO_SUCH_TABLE: u16 = 1146;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Old,
    New,
}

/// A shard on the server.
#[derive(Clone, Debug)]
pub struct Place {
    pub side: Side,
    pub number: u16,
    pub schema: String,
}

pub struct Server {
    endpoint: Endpoint,
    places: Vec<Place>,
    line: Option<Line>,
}

/// A connection, and which of our tables it has found.
pub struct Line {
    conn: Conn,
    at: String,
    schemas: Vec<String>,
    there: HashSet<(String, String)>,
    looked_at: Option<Instant>,
}

/// The shards of a plan by the server and the login that they are asked over.
pub fn servers(plan: &Plan) -> Vec<Server> {
    let old = plan.old.iter().zip(0..).map(|(endpoint, number)| (Side::Old, number, endpoint));
    let new = plan.new.iter().zip(0..).map(|(endpoint, number)| (Side::New, number, endpoint));
    let mut servers: Vec<Server> = Vec::new();
    for (side, number, shard) in old.chain(new) {
        let (endpoint, schema) = (server_of(shard), shard.schema.clone());
        let place = Place { side, number, schema };
        let login = endpoint.login();
        match servers.iter_mut().find(|server| server.endpoint.login() == login) {
            Some(server) => server.places.push(place),
            None => servers.push(Server { endpoint, places: vec![place], line: None }),
        }
    }
    servers
}

/// What one question brought: of each shard, or why there is no answer.
pub type Answers<T> = Vec<(u16, Result<T, String>)>;

impl Server {
    /// Asks for the shards of one side; `question` gives one answer for each, in this order.
    pub async fn ask<T>(
        &mut self,
        side: Side,
        question: impl AsyncFnOnce(&mut Line, &[&Place]) -> Result<Vec<Result<T, String>>, ApplyError>,
    ) -> Answers<T> {
        let places: Vec<&Place> = self.places.iter().filter(|place| place.side == side).collect();
        if places.is_empty() {
            return Vec::new();
        }
        // Taken out: a connection whose answer did not come in time is not used again.
        let line = self.line.take();
        let asking = async {
            let mut line = match line {
                Some(line) => line,
                None => Line::open(&self.endpoint, &self.places).await?,
            };
            let answers = question(&mut line, &places).await?;
            Ok::<_, ApplyError>((line, answers))
        };
        let numbers = places.iter().map(|place| place.number);
        match timeout(ANSWER_TIMEOUT, asking).await {
            Ok(Ok((line, answers))) => {
                self.line = Some(line);
                numbers.zip(answers).collect()
            }
            Ok(Err(error)) => numbers.map(|number| (number, Err(error.to_string()))).collect(),
            Err(_) => {
                let late = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                numbers.map(|number| (number, Err(late.clone()))).collect()
            }
        }
    }
}

impl Line {
    async fn open(endpoint: &Endpoint, places: &[Place]) -> Result<Line, ServerError> {
        let conn = connect(endpoint, Session::Plain).await?;
        let schemas = places.iter().map(|place| place.schema.clone()).collect();
        let at = label(endpoint);
        Ok(Line { conn, at, schemas, there: HashSet::new(), looked_at: None })
    }

    /// The first row of a question to the server itself.
    pub async fn server<T>(&mut self, doing: &'static str, sql: &str) -> Result<T, ServerError>
    where
        T: FromRow + Default + Send + 'static,
    {
        let row: Option<T> =
            self.conn.query_first(sql).await.map_err(|error| error::of(&self.at, doing, error))?;
        Ok(row.unwrap_or_default())
    }

    /// Rows of one of our tables, by the place of the shard that they are from: nothing from a shard
    /// that does not have the table.
    pub async fn rows<T: FromRow>(
        &mut self,
        places: &[&Place],
        doing: &'static str,
        (columns, table, condition): (&str, &str, &str),
    ) -> Result<Vec<Vec<T>>, ServerError> {
        let rows = self.raw(places, doing, (columns, table, condition)).await?;
        let read = |row| {
            let failed = |error: mysql_async::FromRowError| ServerError::Driver {
                at: self.at.clone(),
                doing,
                detail: error.to_string(),
            };
            T::from_row_opt(row).map_err(failed)
        };
        rows.into_iter().map(|rows| rows.into_iter().map(read).collect()).collect()
    }

    pub async fn raw(
        &mut self,
        places: &[&Place],
        doing: &'static str,
        (columns, table, condition): (&str, &str, &str),
    ) -> Result<Vec<Vec<Row>>, ServerError> {
        let select = |index: usize| {
            let schema = quote(&places[index].schema);
            format!("SELECT {columns}, {index} FROM {schema}.{table}{condition}")
        };
        let mut looked_anew = false;
        loop {
            self.look(places, table).await?;
            let there = |&index: &usize| self.has(places[index], table);
            let selects: Vec<String> = (0..places.len()).filter(there).map(select).collect();
            if selects.is_empty() {
                return Ok(places.iter().map(|_| Vec::new()).collect());
            }
            let rows: Result<Vec<Row>, _> = self.conn.query(selects.join(" UNION ALL ")).await;
            match rows.map_err(|error| error::of(&self.at, doing, error)) {
                // It has just been dropped.
                Err(error) if error.code() == Some(NO_SUCH_TABLE) && !looked_anew => {
                    (looked_anew, self.looked_at) = (true, None);
                }
                rows => return Ok(by_place(rows?, places.len())),
            }
        }
    }

    pub fn at(&self) -> &str {
        &self.at
    }

    pub fn has(&self, place: &Place, table: &str) -> bool {
        self.there.contains(&(place.schema.clone(), table.to_owned()))
    }

    /// Finds our tables, where one was not there when they were last looked for.
    async fn look(&mut self, places: &[&Place], table: &str) -> Result<(), ServerError> {
        let all = places.iter().all(|place| self.has(place, table));
        let fresh = self.looked_at.is_some_and(|at| all || at.elapsed() < LOOK_AGAIN);
        if fresh {
            return Ok(());
        }
        // One schema each, so that the server reads no others.
        let of = |(index, schema): (usize, &String)| {
            let name = schema.replace('\\', "\\\\").replace('\'', "''");
            format!(
                "SELECT {index}, TABLE_NAME FROM information_schema.TABLES \
                 WHERE TABLE_SCHEMA = '{name}' AND LEFT(TABLE_NAME, 9) = 'modshift_'"
            )
        };
        let selects: Vec<String> = self.schemas.iter().enumerate().map(of).collect();
        let found: Vec<(usize, String)> = self
            .conn
            .query(selects.join(" UNION ALL "))
            .await
            .map_err(|error| error::of(&self.at, "looking for modshift's tables", error))?;
        let of = |(index, table): (usize, String)| Some((self.schemas.get(index)?.clone(), table));
        self.there = found.into_iter().filter_map(of).collect();
        self.looked_at = Some(Instant::now());
        Ok(())
    }
}

/// The last column of each row is the place.
fn by_place(rows: Vec<Row>, count: usize) -> Vec<Vec<Row>> {
    let mut found: Vec<Vec<Row>> = (0..count).map(|_| Vec::new()).collect();
    for row in rows {
        let place: Option<usize> = row.get(row.len().saturating_sub(1));
        if let Some(of) = place.and_then(|place| found.get_mut(place)) {
            of.push(row);
        }
    }
    found
}
