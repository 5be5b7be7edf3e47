//! `modshift audit`: who did what to this reshard, newest first; and the entry that a command makes
//! before it acts.

use std::sync::Arc;

use anyhow::Context;
use modshift_mariadb::audit::{self, Audited, Entry};
use modshift_proto::plan::Plan;

use crate::exit::Exit;
use crate::{answer, args};

pub async fn run(plan: Arc<Plan>, args: &args::Audit) -> anyhow::Result<Exit> {
    let rows = audit::list(&plan, args.limit).await?;
    if args.json {
        answer::last(serde_json::to_string(&rows)?);
    } else if rows.is_empty() {
        answer::line("nothing has been done yet");
    }
    for row in rows.iter().filter(|_| !args.json) {
        answer::line(text(row));
    }
    Ok(Exit::Done)
}

fn text(row: &Audited) -> String {
    let mut text = format!(
        "{:>5}  {} UTC  {} ({})\n       {}",
        row.id, row.began, row.who, row.account, row.what
    );
    if row.shard != 0 {
        text +=
            &format!("\n       written down on new shard {}, new shard 0 being away", row.shard);
    }
    if !row.detail.is_empty() {
        text += &format!("\n       {}", row.detail);
    }
    text += &match (&row.outcome, &row.finished) {
        (Some(outcome), Some(finished)) => format!("\n       {finished}: {outcome}"),
        _ => "\n       no outcome: under way, or its process was killed".to_owned(),
    };
    text
}

/// Writes this process's own command down before it acts: where that fails, it must not.
pub async fn begin(plan: &Plan, detail: &str) -> anyhow::Result<Entry> {
    let what = audit::command_line(std::env::args());
    audit::begin(plan, &what, detail)
        .await
        .context("nothing has been done: the action could not be written to modshift_audit first")
}

/// Writes down what came of it. Where that fails the row looks as if the process had been killed,
/// which is no reason to call a success a failure.
pub async fn finish(entry: Entry, outcome: &anyhow::Result<Exit>) {
    let text = match outcome {
        Ok(Exit::Done) => "done".to_owned(),
        Ok(exit) => format!("ended with exit code {}", *exit as u8),
        Err(error) => format!("failed: {error:#}"),
    };
    if let Err(error) = entry.finish(&text).await {
        tracing::warn!(%error, "the outcome is not in the audit table");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_shown_with_its_outcome_or_the_lack_of_one() {
        let mut row = Audited {
            shard: 0,
            id: 7,
            began: "2026-01-02 03:04:05.000006".into(),
            who: "alice@db-1".into(),
            account: "modshift@%".into(),
            what: "modshift pause".into(),
            detail: String::new(),
            outcome: Some("paused".into()),
            finished: Some("2026-01-02 03:04:06.000000".into()),
        };
        let expected = "    7  2026-01-02 03:04:05.000006 UTC  alice@db-1 (modshift@%)\n       \
                        modshift pause\n       2026-01-02 03:04:06.000000: paused";
        assert_eq!(text(&row), expected);
        row.shard = 2;
        let elsewhere =
            "modshift pause\n       written down on new shard 2, new shard 0 being away\n";
        assert!(text(&row).contains(elsewhere));
        row.outcome = None;
        assert!(text(&row).ends_with("no outcome: under way, or its process was killed"));
    }
}
