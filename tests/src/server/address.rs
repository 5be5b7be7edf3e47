//! Where a client connects to: a server, an account, perhaps a schema.

use anyhow::{Context, Result};
use mysql_async::{Conn, Opts, OptsBuilder, Row, prelude::Queryable};

use super::hostile;

/// The account that every server of the harness has, with all privileges.
pub const ADMIN: &str = "modshift";
pub const PASSWORD: &str = "modshift";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    /// The default schema; empty for none.
    pub schema: String,
}

impl Address {
    pub fn admin(port: u16, schema: &str) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
            user: ADMIN.to_owned(),
            password: PASSWORD.to_owned(),
            schema: schema.to_owned(),
        }
    }

    pub fn with_schema(&self, schema: &str) -> Self {
        Self { schema: schema.to_owned(), ..self.clone() }
    }

    /// The same schema by way of another port (a proxy).
    pub fn through(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    pub fn opts(&self) -> Opts {
        OptsBuilder::default()
            .ip_or_hostname(self.host.clone())
            .tcp_port(self.port)
            .user(Some(self.user.clone()))
            .pass(Some(self.password.clone()))
            .db_name((!self.schema.is_empty()).then(|| self.schema.clone()))
            // Else the driver switches to the server's socket, past any proxy.
            .prefer_socket(false)
            .tcp_nodelay(true)
            .max_allowed_packet(Some(1 << 30))
            .setup(vec![hostile::calm()])
            .into()
    }

    pub async fn connect(&self) -> Result<Conn> {
        Conn::new(self.opts()).await.with_context(|| format!("connecting to {self}"))
    }

    /// All rows of one query, on a connection of its own.
    pub async fn query(&self, sql: impl AsRef<str>) -> Result<Vec<Row>> {
        let sql = sql.as_ref();
        let mut conn = self.connect().await?;
        let rows = conn.query(sql).await.with_context(|| format!("{self}: {}", shorten(sql)))?;
        conn.disconnect().await.ok();
        Ok(rows)
    }

    /// One or more statements, results thrown away.
    pub async fn run(&self, sql: impl AsRef<str>) -> Result<()> {
        self.query(sql).await.map(drop)
    }

    /// The first column of the first row.
    pub async fn value<T>(&self, sql: impl AsRef<str>) -> Result<T>
    where
        T: mysql_async::prelude::FromValue,
    {
        let sql = sql.as_ref();
        let row = self.query(sql).await?.into_iter().next();
        let mut row = row.with_context(|| format!("{self}: no row from {}", shorten(sql)))?;
        let value = row.take_opt::<T, _>(0).context("no column")?;
        value.ok().with_context(|| format!("{self}: unexpected value from {}", shorten(sql)))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.schema)
    }
}

fn shorten(sql: &str) -> String {
    if sql.chars().count() <= 200 {
        return sql.to_owned();
    }
    sql.chars().take(200).chain("…".chars()).collect()
}
