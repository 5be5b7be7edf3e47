//! One connection of an operator's command: what its errors are called, and where. And what it asks the
//! operator himself.

use std::io::{BufRead, IsTerminal};

use anyhow::Context;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::plan::Endpoint;
use mysql_async::Params;
use mysql_async::prelude::{FromRow, Queryable};
use serde_json::Value;

use crate::answer;
use crate::exit::{BadPlan, Exit};
use crate::tell::Form;

pub struct Server {
    conn: Conn,
    at: String,
    /// What the command does, for errors.
    doing: &'static str,
}

impl Server {
    pub async fn open(endpoint: &Endpoint, doing: &'static str) -> Result<Server, ServerError> {
        Ok(Server { conn: connect(endpoint, Session::Plain).await?, at: label(endpoint), doing })
    }

    fn failed(&self, error: mysql_async::Error) -> ServerError {
        error::of(&self.at, self.doing, error)
    }

    pub async fn run(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
    ) -> Result<(), ServerError> {
        let outcome = self.conn.exec_drop(sql, params).await;
        outcome.map_err(|error| self.failed(error))
    }

    /// What is not to be prepared. Rows that it changed.
    pub async fn query(&mut self, sql: &str) -> Result<u64, ServerError> {
        let outcome = self.conn.query_drop(sql).await;
        outcome.map_err(|error| self.failed(error))?;
        Ok(self.conn.affected_rows())
    }

    pub async fn first<T: FromRow + Send + 'static>(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
    ) -> Result<Option<T>, ServerError> {
        let outcome = self.conn.exec_first(sql, params).await;
        outcome.map_err(|error| self.failed(error))
    }

    pub async fn all<T: FromRow + Send + 'static>(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
    ) -> Result<Vec<T>, ServerError> {
        let outcome = self.conn.exec(sql, params).await;
        outcome.map_err(|error| self.failed(error))
    }
}

/// Whoever types the name has read which plan it is. `meaning`: what it comes to, where that has not been
/// said. `json`: what is asked is for a person, and not for the program.
pub async fn agreed(
    command: &str,
    plan: &str,
    meaning: &[String],
    json: bool,
) -> anyhow::Result<bool> {
    let say = |text: &str| match json {
        true => eprintln!("{text}"),
        false => answer::line(text),
    };
    meaning.iter().for_each(|text| say(text));
    if !std::io::stdin().is_terminal() {
        let message =
            format!("{command} asks before it acts, and nobody can answer here: give --yes");
        return Err(BadPlan(message).into());
    }
    say("this cannot be undone. Type the name of the plan to go on:");
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = line.await?.context("reading the answer")?;
    Ok(line.trim() == plan)
}

/// Nothing was done, and why: one line for each reason, the last one as the end.
pub fn refused(form: Form, command: &str, objections: &[String]) -> Exit {
    let lines: Vec<String> = objections
        .iter()
        .map(|objection| format!("{command}: nothing was done: {objection}"))
        .collect();
    if let Some((last, others)) = lines.split_last() {
        others.iter().for_each(|line| form.said("line", line, Value::Null));
        form.end(last, None, Exit::No);
    }
    Exit::No
}
