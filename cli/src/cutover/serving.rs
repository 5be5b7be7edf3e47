//! Which side serves, for `status`: by the journal on new shard 0.

use std::time::Duration;

use modshift_cutover::{CutoverError, Left, Serving, Side, metrics, register, serving};
use modshift_mariadb::Conn;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_proto::plan::Plan;
use serde::Serialize;
use tokio::time::timeout;

pub(super) const JOURNAL_TIMEOUT: Duration = Duration::from_secs(3);

/// By the journal; the phase of each shard's token says the same of that shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Serves {
    /// `old`, `new`; `none` while fenced; `unknown` where the journal cannot be read.
    pub side: &'static str,
    pub text: String,
    /// A run was begun and is not over.
    pub unfinished: bool,
    /// `modshift finish` has been run.
    pub finished: bool,
}

impl Serves {
    pub fn by_journal(side: &'static str, text: String) -> Serves {
        Serves { side, text, unfinished: false, finished: false }
    }
}

/// `modshift finish` has been run. Where the journal cannot be read, nobody has it: the daemons need
/// new shard 0 as little as any other to start.
pub async fn is_finished(plan: &Plan) -> bool {
    let found = timeout(JOURNAL_TIMEOUT, newest(plan)).await;
    matches!(found, Ok(Ok(Some(found))) if found.run.journal.finished())
}

pub(super) async fn newest(plan: &Plan) -> Result<Option<register::Found>, CutoverError> {
    // The daemons' own login reads it as well.
    let endpoint = &plan.new[0];
    let mut conn = connect(endpoint, Session::Plain).await?;
    register::newest(&mut conn, &label(endpoint), plan.forward_name()).await
}

/// What the journal says against beginning a cutover: a run that is not over, or new shards that
/// serve already. Who is asked all the time shows it as a metric as well.
pub async fn against(
    conn: &mut Conn,
    at: &str,
    plan: &str,
) -> Result<Option<String>, CutoverError> {
    let Some(found) = register::newest(conn, at, plan).await? else {
        metrics::serving(Some(Side::Old), false);
        return Ok(None);
    };
    let serves = of_run(&found);
    let over = found.run.journal.ended().is_some();
    let left = !over && !register::is_attended(conn, at, plan).await?;
    metrics::serving(found.run.side(), left);
    Ok((!over || serves.side == "new").then_some(serves.text))
}

/// The newest run, where it is not over, with what finishes it: whoever does may still need what is there.
pub async fn under_way(plan: &Plan) -> Result<Option<String>, CutoverError> {
    let found = newest(plan.forward.as_deref().unwrap_or(plan)).await?;
    let unfinished = found.filter(|found| found.run.journal.ended().is_none());
    Ok(unfinished.map(|found| of_run(&found).text))
}

pub async fn serves(plan: &Plan) -> Serves {
    let read = async {
        let late = |_| Err("no answer in time".to_owned());
        let read = timeout(JOURNAL_TIMEOUT, newest(plan)).await;
        read.map_or_else(late, |read| read.map_err(|error| error.to_string()))
    };
    let found = match read.await {
        Err(error) => {
            let text = format!("which side serves is not known: {error}");
            return Serves::by_journal("unknown", text);
        }
        Ok(None) => {
            return Serves::by_journal("old", "the old shards serve; no cutover yet".to_owned());
        }
        Ok(Some(found)) => found,
    };
    of_run(&found)
}

/// The journal's last entry as a part of a sentence.
fn last_said(entry: &str) -> String {
    match entry.split_once(' ') {
        Some(("ended", "to")) => "was completed".to_owned(),
        Some(("ended", "from")) => "was undone".to_owned(),
        Some(("begun", step)) => format!("began its step {step}"),
        Some(("done", step)) => format!("finished its step {step}"),
        Some(("undone", step)) => format!("undid its step {step}"),
        _ if entry == "resumed" => "was taken up again".to_owned(),
        _ if entry == "finished" => "was the last one before modshift finish".to_owned(),
        _ => entry.to_owned(),
    }
}

fn of_run(found: &register::Found) -> Serves {
    let (run, direction) = (&found.name, found.run.direction);
    let at = format!("run {run} {} at {} UTC by {}", last_said(&found.last), found.at, found.who);
    let unfinished = match found.run.journal.left() {
        Left::Both => format!("modshift {direction} --resume or --abort finishes it"),
        Left::Forward => format!("modshift {direction} --resume finishes it"),
        Left::Back => format!("it has turned back: modshift {direction} --abort finishes it"),
    };
    let over = found.run.journal.ended().is_some();
    let (side, text) = match serving(&found.run.journal) {
        Serving::From | Serving::To => {
            let side = found.run.side().unwrap_or(direction.from()).name();
            let more = if over { String::new() } else { format!("; {unfinished}") };
            (side, format!("the {side} shards serve ({at}{more})"))
        }
        Serving::Neither => {
            let from = direction.from();
            let text =
                format!("neither side serves: the {from} shards are fenced ({at}; {unfinished})");
            ("none", text)
        }
        Serving::Opening => {
            let side = direction.to().name();
            let text = format!("the {side} shards are being opened ({at}; {unfinished})");
            (side, text)
        }
    };
    Serves { side, text, unfinished: !over, finished: found.run.journal.finished() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_as_parts_of_a_sentence() {
        for (entry, expected) in [
            ("ended to", "was completed"),
            ("ended from", "was undone"),
            ("begun fence", "began its step fence"),
            ("done drain", "finished its step drain"),
            ("undone publish", "undid its step publish"),
            ("resumed", "was taken up again"),
            ("turned back", "turned back"),
        ] {
            assert_eq!(last_said(entry), expected);
        }
    }
}
