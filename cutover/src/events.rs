//! The server's events: the scheduler stopped, and those that run ended.
//!
//! Switching the scheduler off starts no more events; one that runs goes on to its end, through
//! `read_only` where its definer may, and whether or not its definer is locked. The process list shows
//! the thread of one with its definer for user and host, the event's schema, and the command
//! `Connect`: so, for a moment, is a login shown.

use std::time::{Duration, Instant};

use crate::error::CutoverError;
use crate::register::quote;
use crate::server::Server;
use crate::shard::Was;

const DOING: &str = "ending events that run";
const NO_SUCH_THREAD: u16 = 1094;
/// What is in the list for longer is no login.
const LOGIN: Duration = Duration::from_millis(20);
/// For one that was ended to be gone, where no budget sets a limit: it may roll back.
const ENDING: Duration = Duration::from_secs(10);

/// Of which schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    Everyone,
    Of(&'a str),
}

/// A condition on the process list: threads that may be those of events.
pub fn running(whose: Whose<'_>) -> String {
    let threads = "COMMAND = 'Connect' AND DB IS NOT NULL AND ID <> CONNECTION_ID() \
                   AND USER NOT IN ('system user', 'unauthenticated user', 'event_scheduler')";
    match whose {
        Whose::Everyone => format!("({threads})"),
        Whose::Of(schema) => format!("({threads} AND DB = {})", quote(schema)),
    }
}

/// No event of the server runs after it.
pub(crate) async fn stop(server: &mut Server) -> Result<(), CutoverError> {
    let doing = "stopping the event scheduler";
    let state: Vec<String> = server.ask(doing, "SELECT @@event_scheduler").await?;
    if state.first().is_some_and(|state| state == "ON") {
        server.run(doing, "SET GLOBAL event_scheduler = OFF").await?;
    }
    end(server, Whose::Everyone).await
}

/// Ends those that run, and looks until none is left.
pub(crate) async fn end(server: &mut Server, whose: Whose<'_>) -> Result<(), CutoverError> {
    let sql = format!(
        "SELECT ID, USER, HOST, DB FROM information_schema.PROCESSLIST WHERE {}",
        running(whose)
    );
    let begun = Instant::now();
    let (mut before, mut ended): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    loop {
        let found: Vec<(u64, String, String, String)> = server.ask(DOING, &sql).await?;
        let Some((id, user, host, schema)) = found.first() else { return Ok(()) };
        if server.is_dry() {
            return Ok(());
        }
        if begun.elapsed() >= ENDING {
            return Err(CutoverError::EventRuns {
                server: server.name.clone(),
                event: format!("{user}@{host} in schema {schema} (id {id})"),
            });
        }
        for (id, user, host, schema) in found.iter().filter(|(id, ..)| before.contains(id)) {
            if !ended.contains(id) {
                let event = format!("a running event of {user}@{host} in schema {schema}");
                tracing::warn!(server = server.name, connection = id, event, "ended");
                server.note(format!("{}: ended {event} (connection {id})", server.name));
                ended.push(*id);
            }
            match server.run(DOING, &format!("KILL HARD CONNECTION {id}")).await {
                Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_THREAD) => {}
                outcome => drop(outcome?),
            }
        }
        before = found.into_iter().map(|(id, ..)| id).collect();
        tokio::time::sleep(LOGIN).await;
    }
}

pub(crate) async fn start(server: &mut Server, was: &Was) -> Result<(), CutoverError> {
    if was.event_scheduler == "ON" {
        server.run("starting events again", "SET GLOBAL event_scheduler = ON").await?;
    }
    Ok(())
}
