//! `modshift skip`: sends a reader past the one group at which it has halted.
//!
//! The reader has written down where it stands (`modshift_skip` on its shard); nothing else can be asked
//! for. The command asks there, and the reader passes the group over by itself: the whole of it, with
//! the next epoch, and whenever it comes by it again. From the moment that this is asked for the gate is
//! closed, until every table that the group may have changed has been proven equal.
//!
//! An applier is sent past a record of somebody else in the same way (`record`).
//!
//! Not while a run is not over: it relies on readers to stand before what they halted on.

mod record;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use modshift_cutover::CutoverError;
use modshift_cutover::register::Hold;
use modshift_mariadb::control::skip::Place;
use modshift_mariadb::control::{SKIP, WATERMARK, skip};
use modshift_mariadb::{ServerError, audit as audited};
use modshift_proto::plan::{Direction, Endpoint, Plan};
use modshift_proto::{Gtid, GtidSet, OldShard, shell};
use serde::Serialize;

use crate::exit::{BadPlan, Exit};
use crate::session::{self, Server};
use crate::{answer, args, audit, cutover};

const DOING: &str = "having a group passed over";
const NO_SUCH_TABLE: u16 = 1146;
/// A line of the gate stays a line.
const WHY_MAX: usize = 300;
/// How long the reader is waited for: it looks each second, and then begins anew.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(250);

/// What came of it.
#[derive(Serialize)]
struct Outcome {
    /// `refused`, `would_ask`, `asked` or `passed`.
    state: &'static str,
    source: u16,
    gtid: String,
    back: bool,
    /// That may lack what the group changed, and have not been proven equal since.
    tables: Vec<String>,
    text: String,
}

pub async fn run(plan: Arc<Plan>, args: &args::Skip) -> anyhow::Result<Exit> {
    let plan = if args.back { Arc::new(plan.reversed()) } else { plan };
    let why = why(&args.why)?;
    if let (Some(partition), Some(offset)) = (args.partition, args.offset) {
        return record::run(&plan, args, (partition, offset), &why).await;
    }
    let (Some(number), Some(gtid)) = (args.source, args.gtid) else {
        return Err(BadPlan("give --source and --gtid, as the halt says them".to_owned()).into());
    };
    let shard = OldShard(number);
    let source = endpoint(&plan.old, number, "--source", !args.back)?;
    let command = Command { plan: &plan, shard, gtid, source, args, why };
    // No cutover may begin on what lacks a group, and none be under way.
    let _hold = match Hold::take(&plan).await {
        Err(error @ CutoverError::Busy { .. }) => return command.refuse(&error.to_string()),
        hold => hold?,
    };
    if source.read_from.is_some() {
        let text = format!(
            "{shard} is read from a replica (read_from), which may hold other rows than its primary after \
             such a group, and the comparison would read it there: take read_from out of the plan, start \
             the daemons with that, and give this again"
        );
        return command.refuse(&text);
    }
    if let Some(run) = cutover::under_way(&plan).await? {
        let text = format!(
            "a run is not over, and it relies on readers to stand before what they halted on: end it \
             first ({run})"
        );
        return command.refuse(&text);
    }
    match command.stand().await? {
        Stand::At => {}
        Stand::Asked => return command.follow().await,
        Stand::Elsewhere(text) => return command.refuse(&text),
    }
    if args.dry_run {
        let text = format!("{}; nothing was done, this was a dry run", command.meaning());
        return command.answer("would_ask", Vec::new(), text, Exit::Done);
    }
    if !args.yes {
        let meaning = command.plan.direction().words(&command.meaning());
        if !session::agreed("skip", plan.forward_name(), &[meaning], args.json).await? {
            return command.refuse("nobody agreed");
        }
    }
    let entry = audit::begin(&plan, &command.meaning()).await?;
    let outcome = match command.ask().await {
        Ok(true) => command.follow().await,
        Ok(false) => command.refuse("the reader does not stand there any more"),
        Err(error) => Err(error.into()),
    };
    audit::finish(entry, &outcome).await;
    outcome
}

fn endpoint<'p>(
    shards: &'p [Endpoint],
    number: u16,
    option: &str,
    old: bool,
) -> anyhow::Result<&'p Endpoint> {
    let wrong = || {
        let (side, last) = (if old { "old" } else { "new" }, shards.len() - 1);
        BadPlan(format!("{option} {number}: the plan has {side} shards 0 to {last}")).into()
    };
    shards.get(usize::from(number)).ok_or_else(wrong)
}

/// One line for people.
fn why(text: &str) -> anyhow::Result<String> {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = match line.chars().count() {
        0 => "--why: say in a few words why the group is passed over".to_owned(),
        count if count > WHY_MAX => format!("--why: {count} characters, {WHY_MAX} are the most"),
        _ => return Ok(line),
    };
    Err(BadPlan(message).into())
}

struct Command<'a> {
    plan: &'a Plan,
    shard: OldShard,
    gtid: Gtid,
    source: &'a Endpoint,
    args: &'a args::Skip,
    why: String,
}

/// Where the reader stands.
enum Stand {
    /// At the group.
    At,
    /// It was asked for before.
    Asked,
    Elsewhere(String),
}

impl Command<'_> {
    async fn stand(&self) -> anyhow::Result<Stand> {
        let mut server = Server::open(self.source, DOING).await?;
        let sql = "SELECT halted FROM modshift_token WHERE id = 1";
        let halted: Option<Option<String>> = there(server.first(sql, ()).await)?;
        let sql =
            format!("SELECT name, BINARY state FROM {SKIP} WHERE what = 'group' AND source = ?");
        let groups = there(server.all::<(String, String)>(&sql, (self.shard.0,)).await.map(Some))?;
        let groups = groups.unwrap_or_default();
        let (gtid, shard) = (self.gtid, self.shard);
        let state = groups.iter().find(|(name, _)| *name == gtid.to_string());
        match state.map(|(_, state)| state.as_str()) {
            Some("halted") => return Ok(Stand::At),
            Some(skip::GONE) => return Ok(Stand::Elsewhere(self.gone())),
            Some(_) => return Ok(Stand::Asked),
            None => {}
        }
        let at = groups.iter().find(|(_, state)| state == "halted");
        Ok(Stand::Elsewhere(match (halted.flatten(), at) {
            (_, Some((at, _))) => {
                format!("the reader of {shard} has halted at group {at}, and not at {gtid}")
            }
            (Some(halted), None) => format!(
                "the reader of {shard} has halted, but not for a reason that lies in one group, so that \
                 no group can be passed over: {}",
                // In the operator's words already.
                self.plan.direction().words(&halted)
            ),
            (None, None) => format!(
                "the reader of {shard} has not halted at {gtid}: only a group at which it stands can be \
                 passed over; modshift status names it"
            ),
        }))
    }

    fn gone(&self) -> String {
        format!(
            "group {} is not there any more: the server of {} was killed while it wrote that group, has \
             rolled it back and given its GTID to another one, which is read as any other is",
            self.gtid, self.shard
        )
    }

    /// What it comes to.
    fn meaning(&self) -> String {
        format!(
            "none of what group {} of {} changed reaches the other side; the gate stays closed until \
             modshift verify{} --repair has made that up and proven it",
            self.gtid,
            self.shard,
            self.back()
        )
    }

    fn back(&self) -> &'static str {
        match self.plan.direction() {
            Direction::Forward => "",
            Direction::Back => " --back",
        }
    }

    /// The shards that are applied to first: whoever passes it over may rely on what is said there.
    /// False: the reader has gone on meanwhile.
    async fn ask(&self) -> Result<bool, ServerError> {
        let who = audited::operator();
        for endpoint in &self.plan.new {
            let mut server = Server::open(endpoint, DOING).await?;
            let sql = skip::ask_of_target(self.shard, self.gtid);
            let asked = server.run(&sql, (&self.why, &who)).await;
            match asked {
                Err(error) if error.code() == Some(NO_SUCH_TABLE) => {
                    server.query(skip::TABLE).await?;
                    server.run(&sql, (&self.why, &who)).await?;
                }
                asked => asked?,
            }
        }
        let mut server = Server::open(self.source, DOING).await?;
        server.run(&self.place().ask(), (&self.why, &who)).await?;
        let asked = self.state(&mut server).await?.is_some_and(|state| state != "halted");
        if !asked {
            self.forget_targets().await?;
        }
        Ok(asked)
    }

    /// Nothing of the group is missing there.
    async fn forget_targets(&self) -> Result<(), ServerError> {
        for endpoint in &self.plan.new {
            let mut server = Server::open(endpoint, DOING).await?;
            server.query(&skip::forget_of_target(self.shard, self.gtid)).await?;
        }
        Ok(())
    }

    fn place(&self) -> Place {
        Place::group(self.shard, self.gtid)
    }

    async fn state(&self, server: &mut Server) -> Result<Option<String>, ServerError> {
        let sql = format!("SELECT BINARY state FROM {SKIP} WHERE {}", self.place().row());
        server.first(&sql, ()).await
    }

    /// Waits until the reader has passed it over, and says what is next.
    async fn follow(&self) -> anyhow::Result<Exit> {
        let deadline = Instant::now() + TAKEN_WITHIN;
        let mut server = Server::open(self.source, DOING).await?;
        loop {
            match self.state(&mut server).await?.as_deref() {
                Some("passed") => break,
                Some(skip::GONE) => {
                    self.forget_targets().await?;
                    return self.refuse(&self.gone());
                }
                _ => {}
            }
            if Instant::now() >= deadline {
                let text = format!(
                    "group {} of {} is to be passed over, and its reader has not come by it within {} s: \
                     is its daemon running? It does so whenever it is started",
                    self.gtid,
                    self.shard,
                    TAKEN_WITHIN.as_secs()
                );
                return self.answer("asked", Vec::new(), text, Exit::CannotTell);
            }
            tokio::time::sleep(POLL).await;
        }
        // What is to be given next is of use only from then on.
        while !self.applied().await? && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        let sql = format!(
            "SELECT table_name FROM {SKIP} WHERE what = 'table' AND state = 'open' AND source = ? \
             AND name = ? ORDER BY table_name"
        );
        let tables: Vec<String> = server.all(&sql, (self.shard.0, self.gtid.to_string())).await?;
        if tables.is_empty() {
            self.forget_targets().await?;
        }
        let text = match tables.as_slice() {
            [] => format!(
                "group {} of {} was passed over, and no planned table has to be compared for it",
                self.gtid, self.shard
            ),
            tables => format!(
                "group {} of {} was passed over; the gate is closed until this is proven equal: modshift \
                 verify{back} --repair{} (where many rows may differ, modshift resync{back} --table of \
                 each first)",
                self.gtid,
                self.shard,
                shell::options("--table", tables),
                back = self.back()
            ),
        };
        self.answer("passed", tables, text, Exit::Done)
    }

    /// Is every shard that it is applied to past the group?
    async fn applied(&self) -> anyhow::Result<bool> {
        let sql = format!("SELECT gtids FROM {WATERMARK} WHERE source = ? AND copied");
        for endpoint in &self.plan.new {
            let mut server = Server::open(endpoint, DOING).await?;
            let gtids: Option<String> = there(server.first(&sql, (self.shard.0,)).await)?;
            let gtids: GtidSet =
                gtids.unwrap_or_default().parse().context("reading a watermark")?;
            if !gtids.covers(self.gtid) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn refuse(&self, why: &str) -> anyhow::Result<Exit> {
        self.answer("refused", Vec::new(), format!("nothing was passed over: {why}"), Exit::No)
    }

    fn answer(
        &self,
        state: &'static str,
        tables: Vec<String>,
        text: String,
        exit: Exit,
    ) -> anyhow::Result<Exit> {
        let text = self.plan.direction().words(&text);
        if !self.args.json {
            answer::line(text);
            return Ok(exit);
        }
        let (source, gtid, back) = (self.shard.0, self.gtid.to_string(), self.args.back);
        let outcome = Outcome { state, source, gtid, back, tables, text };
        answer::last(serde_json::to_string_pretty(&outcome)?);
        Ok(exit)
    }
}

/// Nothing where a reader was never started.
fn there<T>(found: Result<Option<T>, ServerError>) -> Result<Option<T>, ServerError> {
    match found {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(None),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_some_length() {
        assert_eq!(why(" a CALL\n of  ours ").expect("good"), "a CALL of ours");
        for bad in [" \n", &"x".repeat(WHY_MAX + 1)] {
            assert!(why(bad).is_err());
        }
    }
}
