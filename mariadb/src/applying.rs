//! What a server has yet to apply of what others wrote.
//!
//! A virtual IP, or a name, may lead to a replica before that has applied its relay log: what was read
//! or committed on the former primary is not there *yet*. Then is the time to wait, and only for as
//! long as it can still come: a server that replicates from nobody has what it will ever have.

use std::fmt;
use std::time::{Duration, Instant};

use modshift_proto::GtidSet;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::error::{self, ServerError};

/// How long what is in no relay log is waited for, while a source may still send it. One that is gone
/// for good never says so.
pub const PERHAPS_MAX: Duration = Duration::from_secs(60);
const DOING: &str = "asking what it has yet to apply";

/// Can what is missing on a server still come?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coming {
    /// It has been received, from there, and is to be applied.
    Received(String),
    /// Something is still received or applied from there, and whether it is that nobody can tell.
    Perhaps(String),
    /// It replicates from nobody, or has applied all there is and is sent no more.
    No,
    /// The account may not ask (SLAVE MONITOR).
    Unknown,
}

impl fmt::Display for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Coming::Received(from) => {
                write!(f, "it is a replica of {from} and has not applied all of its relay log yet")
            }
            Coming::Perhaps(from) => {
                write!(f, "it is a replica of {from}, which may still send it")
            }
            Coming::No => write!(f, "it is no replica that could still receive it"),
            Coming::Unknown => {
                write!(f, "whether it is a replica our account may not ask (SLAVE MONITOR)")
            }
        }
    }
}

/// What a server that should have all of `wanted` says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// The end of its binlog.
    pub now: GtidSet,
    /// The same of the domains in which something is missing: there it moves if that comes. (In others
    /// a server that serves always moves.)
    pub missing: GtidSet,
    pub coming: Coming,
}

impl Stand {
    /// `None`: it has all of it.
    pub async fn of(
        conn: &mut Conn,
        at: &str,
        wanted: &GtidSet,
    ) -> Result<Option<Stand>, ServerError> {
        let failed = |error| error::of(at, DOING, error);
        let now: Option<String> =
            conn.query_first("SELECT @@global.gtid_binlog_pos").await.map_err(failed)?;
        let now: GtidSet = now.unwrap_or_default().parse().map_err(|_| ServerError::Driver {
            at: at.to_owned(),
            doing: DOING,
            detail: "its gtid_binlog_pos is not understood".to_owned(),
        })?;
        if GtidSet::contains(&now, wanted) {
            return Ok(None);
        }
        let coming = coming(conn, at, Some(wanted)).await?;
        let missing = missing(&now, wanted);
        Ok(Some(Stand { now, missing, coming }))
    }
}

fn missing(now: &GtidSet, wanted: &GtidSet) -> GtidSet {
    let lacking = wanted.iter().filter(|gtid| !now.covers(*gtid));
    lacking.filter_map(|gtid| now.get(gtid.domain)).collect()
}

/// Before the first write over a connection: modshift's login may write where `read_only` holds others
/// off, and what is written on a replica before its promotion takes GTIDs that its relay log brings, too.
/// Where the account may not ask (SLAVE MONITOR) nobody can tell. A connection of which both threads are
/// stopped brings nothing: so it is on a shard that is fenced, and such a one is written to.
pub async fn promoted(conn: &mut Conn, at: &str) -> Result<(), ServerError> {
    let failed = |error| error::of(at, DOING, error);
    let read_only: Option<bool> =
        conn.query_first("SELECT @@global.read_only").await.map_err(failed)?;
    if read_only != Some(true) {
        return Ok(());
    }
    let Some(mut sources) = sources(conn, at).await? else { return Ok(()) };
    sources.retain(Source::runs);
    match decide(&sources, None) {
        Coming::Received(from) | Coming::Perhaps(from) => {
            Err(ServerError::Unpromoted { at: at.to_owned(), from })
        }
        Coming::No | Coming::Unknown => Ok(()),
    }
}

/// For how long what is missing is waited for.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// Where the server stood when it was first waited for without knowing whether it will come, or
    /// when it last moved.
    still: Option<(String, Instant)>,
}

impl Patience {
    /// `now`: where the server stands with what is missing; another text once it has moved.
    pub fn holds(&mut self, coming: &Coming, now: &str) -> bool {
        self.holds_at(coming, now, Instant::now())
    }

    fn holds_at(&mut self, coming: &Coming, now: &str, at: Instant) -> bool {
        match coming {
            Coming::Received(_) => {
                self.still = None;
                true
            }
            Coming::Perhaps(_) | Coming::Unknown => match &self.still {
                Some((stood, since)) if stood == now => at.duration_since(*since) < PERHAPS_MAX,
                _ => {
                    self.still = Some((now.to_owned(), at));
                    true
                }
            },
            Coming::No => false,
        }
    }

    /// It has come.
    pub fn over(&mut self) {
        self.still = None;
    }
}

/// `wanted`: `None` where it is known by no GTID.
pub async fn coming(
    conn: &mut Conn,
    at: &str,
    wanted: Option<&GtidSet>,
) -> Result<Coming, ServerError> {
    let sources = sources(conn, at).await?;
    Ok(sources.map_or(Coming::Unknown, |sources| decide(&sources, wanted)))
}

/// `None`: the account may not ask.
async fn sources(conn: &mut Conn, at: &str) -> Result<Option<Vec<Source>>, ServerError> {
    let rows: Result<Vec<Row>, _> = conn.query("SHOW ALL SLAVES STATUS").await;
    match rows.map_err(|error| error::of(at, DOING, error)) {
        Ok(rows) => Ok(Some(rows.iter().map(Source::of).collect())),
        Err(ServerError::Privilege { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A connection from which the server replicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Source {
    at: String,
    /// `Yes`, `No`, `Connecting`, `Preparing`.
    io: String,
    /// What it has received is being applied.
    sql: bool,
    /// Received, whether it has been applied or not; empty where it replicates without GTIDs.
    received: GtidSet,
    /// The relay log is applied to its end.
    applied: bool,
}

impl Source {
    fn of(row: &Row) -> Source {
        let text = |column: &str| -> String {
            row.get_opt::<String, _>(column).and_then(Result::ok).unwrap_or_default()
        };
        let same = |a: &str, b: &str| text(a) == text(b);
        Source {
            at: format!("{}:{}", text("Master_Host"), text("Master_Port")),
            io: text("Slave_IO_Running"),
            sql: text("Slave_SQL_Running") == "Yes",
            received: text("Gtid_IO_Pos").parse().unwrap_or_default(),
            applied: same("Master_Log_File", "Relay_Master_Log_File")
                && same("Read_Master_Log_Pos", "Exec_Master_Log_Pos"),
        }
    }

    fn runs(&self) -> bool {
        self.sql || self.io != "No"
    }
}

fn decide(sources: &[Source], wanted: Option<&GtidSet>) -> Coming {
    // Of any domain that the connection has at all: another may bring another.
    let has = |source: &Source| {
        wanted.is_some_and(|wanted| {
            wanted.iter().any(|gtid| source.received.get(gtid.domain).is_some())
                && wanted.iter().all(|gtid| {
                    source.received.get(gtid.domain).is_none() || source.received.covers(gtid)
                })
        })
    };
    if let Some(source) = sources.iter().find(|source| !source.applied && has(source)) {
        return Coming::Received(source.at.clone());
    }
    match sources.iter().find(|source| !source.applied || source.io != "No") {
        Some(source) => Coming::Perhaps(source.at.clone()),
        None => Coming::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sources: &[(&str, &str, bool)], wanted: Option<&str>, expected: &str) {
        let of = |&(io, received, applied): &(&str, &str, bool)| Source {
            at: "db1:3306".to_owned(),
            io: io.to_owned(),
            sql: false,
            received: received.parse().unwrap(),
            applied,
        };
        let sources: Vec<Source> = sources.iter().map(of).collect();
        let wanted: Option<GtidSet> = wanted.map(|wanted| wanted.parse().unwrap());
        assert_eq!(decide(&sources, wanted.as_ref()).to_string(), expected);
    }

    #[test]
    fn what_may_come_is_waited_for_while_anything_comes_and_a_minute_more() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let (perhaps, mut patience) = (Coming::Perhaps("db1:3306".to_owned()), Patience::default());
        assert!(patience.holds_at(&perhaps, "0-1-5", at(0)));
        assert!(patience.holds_at(&perhaps, "0-1-5", at(59)));
        assert!(patience.holds_at(&perhaps, "0-1-6", at(61)), "it moved");
        assert!(patience.holds_at(&perhaps, "0-1-6", at(120)));
        assert!(!patience.holds_at(&Coming::Unknown, "0-1-6", at(121)));
        let received = Coming::Received("db1:3306".to_owned());
        assert!(patience.holds_at(&received, "0-1-6", at(9999)));
        assert!(!patience.holds_at(&Coming::No, "0-1-6", at(9999)));
    }

    #[test]
    fn it_moves_where_something_is_missing_and_nowhere_else() {
        let set = |text: &str| text.parse::<GtidSet>().unwrap();
        let wanted = set("1-1-1000,2-2-50,7-1-3");
        // It serves in domain 2, and nobody brings the end of domain 1.
        for now in ["1-1-990,2-2-60", "1-1-990,2-2-61"] {
            assert_eq!(missing(&set(now), &wanted), set("1-1-990"));
        }
        assert_eq!(missing(&set("1-1-991,2-2-61"), &wanted), set("1-1-991"));
    }

    #[test]
    fn a_connection_that_is_stopped_brings_nothing() {
        let source = |io: &str, sql| Source { io: io.to_owned(), sql, ..Source::default() };
        let runs = [("No", true), ("Connecting", false), ("Yes", true), ("No", false)];
        assert_eq!(runs.map(|(io, sql)| source(io, sql).runs()), [true, true, true, false]);
    }

    #[test]
    fn what_is_in_the_relay_log_comes_and_what_nobody_sends_does_not() {
        const RECEIVED: &str =
            "it is a replica of db1:3306 and has not applied all of its relay log yet";
        const PERHAPS: &str = "it is a replica of db1:3306, which may still send it";
        const NO: &str = "it is no replica that could still receive it";
        check(&[], Some("0-1-100"), NO);
        // Its primary is dead, and the last group is in the relay log.
        check(&[("Connecting", "0-1-100", false)], Some("0-1-100"), RECEIVED);
        // Its applier was stopped: START SLAVE brings it.
        check(&[("No", "0-1-120", false)], Some("0-1-100"), RECEIVED);
        check(&[("Yes", "0-1-90", true)], Some("0-1-100"), PERHAPS);
        check(&[("Connecting", "0-1-90", true)], Some("0-1-100"), PERHAPS);
        check(&[("No", "0-1-90", true)], Some("0-1-100"), NO);
        // Without GTIDs nobody can tell what is in the relay log.
        check(&[("No", "", false)], Some("0-1-100"), PERHAPS);
        check(&[("No", "0-1-90", false)], None, PERHAPS);
        check(&[("No", "0-1-90", true)], None, NO);
        // Each connection brings its own domains.
        check(&[("No", "7-1-5", true), ("No", "0-1-100", false)], Some("0-1-100,7-1-5"), RECEIVED);
    }
}
