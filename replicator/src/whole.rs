//! Asks what keeps changes out of the binlogs that everything comes through: once for all readers of a
//! process on one server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use modshift_mariadb::Desk;
use modshift_mariadb::connect::label;
use modshift_mariadb::whole_log::{self, Gap, Part};
use modshift_proto::plan::{Endpoint, Login};

use crate::binlog::BinlogError;
use crate::error::ReadError;
use crate::token::within;

/// A handle that every reader has a clone of.
#[derive(Clone, Default)]
pub struct WholeLogs(Arc<Mutex<Vec<Asked>>>);

struct Asked {
    login: Login,
    part: Part,
    slot: Slot,
}

type Slot = Arc<tokio::sync::Mutex<Option<Answer>>>;

struct Answer {
    /// When the question was put.
    at: Instant,
    gap: Option<Gap>,
}

impl WholeLogs {
    /// The primary's binlog leaves nothing out, nor does that of the replica that is read. `since`: an
    /// answer to a question that was put then, or later, will do.
    pub async fn ask(
        &self,
        primary: &Endpoint,
        desk: &Desk,
        since: Instant,
    ) -> Result<(), ReadError> {
        let replica = primary.read_from.as_ref().map(|_| (primary.tailed(), Part::Replica));
        for (endpoint, part) in [(primary.clone(), Part::Primary)].into_iter().chain(replica) {
            let asking = Box::pin(self.ask_one(&endpoint, part, desk, since));
            if let Some(gap) =
                within(&endpoint, "asking what its binlog leaves out", asking).await?
            {
                let (at, gap) = (label(&endpoint), Box::new(gap));
                return Err(BinlogError::NotWhole { at, gap }.into());
            }
        }
        Ok(())
    }

    async fn ask_one(
        &self,
        endpoint: &Endpoint,
        part: Part,
        desk: &Desk,
        since: Instant,
    ) -> Result<Option<Gap>, ReadError> {
        // Whoever comes while another one asks waits for that answer.
        let slot = self.slot(endpoint.login(), part);
        let mut kept = slot.lock().await;
        if let Some(answer) = kept.as_ref().filter(|answer| answer.at >= since) {
            return Ok(answer.gap.clone());
        }
        let at = Instant::now();
        let mut conn = desk.turn(endpoint).await?;
        let facts = whole_log::read(&mut conn, &label(endpoint)).await?;
        conn.done();
        let gap = whole_log::gaps(&facts, part).into_iter().next();
        *kept = Some(Answer { at, gap: gap.clone() });
        Ok(gap)
    }

    fn slot(&self, login: Login, part: Part) -> Slot {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = asked.iter().find(|a| a.login == login && a.part == part) {
            return known.slot.clone();
        }
        let slot = Slot::default();
        asked.push(Asked { login, part, slot: slot.clone() });
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn endpoint(host: &str, schema: &str) -> Endpoint {
        // Nothing listens there.
        Endpoint { host: host.to_owned(), port: 1, schema: schema.to_owned(), ..Endpoint::sample() }
    }

    #[tokio::test]
    async fn an_answer_is_for_all_readers_of_the_server_who_asked_before_it_was_sought() {
        let (logs, desk) = (WholeLogs::default(), Desk::default());
        let gap = Gap {
            setting: "binlog_do_db".to_owned(),
            value: "a".to_owned(),
            lost: "",
            wanted: "",
            statements: Vec::new(),
            advice: String::new(),
        };
        let at = Instant::now();
        let slot = logs.slot(endpoint("127.0.0.1", "a").login(), Part::Primary);
        *slot.lock().await = Some(Answer { at, gap: Some(gap) });
        let asked = async |schema: &str, since| {
            let asked = logs.ask(&endpoint("127.0.0.1", schema), &desk, since).await;
            asked.expect_err("it has a gap, or does not answer")
        };
        for schema in ["a", "b"] {
            let found = asked(schema, at).await;
            assert!(matches!(found, ReadError::Binlog(BinlogError::NotWhole { .. })), "{found}");
        }
        // Who wants to know how it is now has to ask, and so has who asks of another server.
        let found = asked("b", at + Duration::from_nanos(1)).await;
        assert!(matches!(found, ReadError::Server(_)), "{found}");
        let other = Endpoint { read_from: None, ..endpoint("127.0.0.2", "a") };
        let found = logs.ask(&other, &desk, at).await.expect_err("nothing listens there");
        assert!(matches!(found, ReadError::Server(_)), "{found}");
    }
}
