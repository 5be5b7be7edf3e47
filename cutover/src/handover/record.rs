//! What a shard remembers of its triggers and events: `modshift_handover`, on the shard itself.

use modshift_mariadb::Value;
use modshift_mariadb::control::{HANDOVER, SHARD_TABLES};
use modshift_mariadb::program::Program;

use crate::error::CutoverError;
use crate::register::quote;
use crate::server::Server;
use crate::shard::Shard;

const NO_SUCH_TABLE: u16 = 1146;
const WRITING: &str = "writing down triggers and events";
const READING: &str = "reading which triggers and events it had";

/// Where rows of a kind begin: far more than a schema has.
pub const HAD: u32 = 1;
pub const WANTED: u32 = 1_000_001;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    None,
    Down,
    Raising,
    Up,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            State::None => "none",
            State::Down => "down",
            State::Raising => "raising",
            State::Up => "up",
        }
    }
}

/// The table, where a daemon of an earlier version did not make it.
pub async fn create(shard: &mut Shard) -> Result<(), CutoverError> {
    let sql = format!(
        "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
         AND TABLE_NAME = '{HANDOVER}'"
    );
    let there: Vec<u8> = shard.primary.ask(READING, &sql).await?;
    if there.is_empty() {
        let sql = SHARD_TABLES.iter().find(|sql| sql.contains(HANDOVER)).unwrap_or(&"DO 0");
        shard.primary.run(WRITING, sql).await?;
    }
    Ok(())
}

pub async fn state(shard: &mut Shard) -> Result<State, CutoverError> {
    let sql = format!("SELECT what FROM {HANDOVER} WHERE id = 0");
    let rows = match shard.primary.ask::<String>(READING, &sql).await {
        Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_TABLE) => Vec::new(),
        rows => rows?,
    };
    let states = [State::Down, State::Raising, State::Up];
    let found = states.into_iter().find(|state| rows.iter().any(|what| what == state.name()));
    Ok(found.unwrap_or(State::None))
}

/// Programs of one kind of row.
pub async fn kept(shard: &mut Shard, first: u32) -> Result<Vec<Program>, CutoverError> {
    read(shard, &format!("what = '{}'", what(first))).await
}

async fn read(shard: &mut Shard, which: &str) -> Result<Vec<Program>, CutoverError> {
    let sql = format!("SELECT about, HEX(body) FROM {HANDOVER} WHERE {which} ORDER BY id");
    let rows: Vec<(String, String)> = shard.primary.ask(READING, &sql).await?;
    let server = shard.name().to_owned();
    let of = |(about, body): (String, String)| {
        let program: Option<Program> = serde_json::from_str(&about).ok();
        let program = program.zip(bytes(&body)).map(|(program, body)| Program { body, ..program });
        program.ok_or_else(|| CutoverError::Unfit {
            server: server.clone(),
            what: format!("{HANDOVER} is damaged: {about}"),
        })
    };
    rows.into_iter().map(of).collect()
}

/// One transaction, of which nothing stays open. The rows of that kind are these from now on; once a shard is up nothing needs to
/// be remembered.
pub async fn write(
    shard: &mut Shard,
    run: &str,
    state: State,
    first: u32,
    programs: &[Program],
) -> Result<(), CutoverError> {
    let outcome = transaction(&mut shard.primary, run, state, first, programs).await;
    if outcome.is_err() && shard.primary.is_live() {
        // What comes next on this connection must not be part of it.
        drop(shard.primary.run(WRITING, "ROLLBACK").await);
    }
    outcome
}

async fn transaction(
    server: &mut Server,
    run: &str,
    state: State,
    first: u32,
    programs: &[Program],
) -> Result<(), CutoverError> {
    server.run(WRITING, "START TRANSACTION").await?;
    if state == State::Raising {
        // After whatever the applier has under way: see the module.
        let sql = "SELECT source FROM modshift_watermark FOR UPDATE";
        match server.ask::<Value>(WRITING, sql).await {
            Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_TABLE) => {}
            rows => drop(rows?),
        }
    }
    let kind = what(first);
    let gone = match state {
        State::Up => "TRUE".to_owned(),
        _ => format!("what = '{kind}'"),
    };
    server.run(WRITING, &format!("DELETE FROM {HANDOVER} WHERE {gone}")).await?;
    for (program, id) in programs.iter().zip(first..) {
        let about = serde_json::to_string(program).unwrap_or_default();
        let sql = format!(
            "INSERT INTO {HANDOVER} SET id = {id}, what = '{kind}', name = {}, about = {}, \
             body = x'{}', run = {}, at = UTC_TIMESTAMP(6)",
            quote(&program.name),
            quote(&about),
            hex(&program.body),
            quote(run),
        );
        server.run(WRITING, &sql).await?;
    }
    server.run(WRITING, &state_sql(state, run)).await?;
    server.run(WRITING, "COMMIT").await.map(drop)
}

/// Of one that was about to serve and is not to. Everything stays written down: what it had, for the
/// next run; what was wanted, for whoever opens it in this run all the same.
pub async fn lower(shard: &mut Shard, run: &str) -> Result<(), CutoverError> {
    shard.primary.run(WRITING, &state_sql(State::Down, run)).await.map(drop)
}

/// What a shard was to have in this run.
pub async fn wanted_in(shard: &mut Shard, run: &str) -> Result<Vec<Program>, CutoverError> {
    read(shard, &format!("what = 'wanted' AND run = {}", quote(run))).await
}

fn state_sql(state: State, run: &str) -> String {
    format!(
        "REPLACE INTO {HANDOVER} SET id = 0, what = '{}', run = {}, at = UTC_TIMESTAMP(6)",
        state.name(),
        quote(run)
    )
}

const fn what(first: u32) -> &'static str {
    match first {
        HAD => "had",
        _ => "wanted",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_kept_byte_by_byte() {
        let body: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&hex(&body)), Some(body));
        assert_eq!(bytes("0g"), None);
        assert_eq!(bytes("0"), None);
    }
}
