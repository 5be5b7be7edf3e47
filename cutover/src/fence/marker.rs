//! The token's row says whether applications may write: markers are UPDATEs of it, by whom and for
//! which run.

use modshift_proto::Gtid;

use super::NO_SUCH_TABLE;
use crate::error::CutoverError;
use crate::register::quote;
use crate::shard::Shard;
use crate::step::Direction;

/// Behind the name of a run in the token of a shard that it can no longer open.
pub const BARRED: &str = " barred";
/// Behind the name of a run in the token of a shard that it keeps out until it opens it. What opens it
/// is marked with the name alone: else its reader would take the opening for the undoing of a fence,
/// and carry over what was written there meanwhile.
const KEPT_OUT: &str = " kept out";

/// What the last marker on a shard says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    Fenced,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Serving => "serving",
            Phase::Fenced => "fenced",
        }
    }
}

/// Writes a marker, always: two that say the same have the log between them to themselves.
pub async fn mark(
    shard: &mut Shard,
    phase: Phase,
    run: &str,
) -> Result<Option<Gtid>, CutoverError> {
    let server = &mut shard.primary;
    let doing = "writing the marker";
    let sql = format!(
        "UPDATE modshift_token SET writes = writes + 1, clock = UTC_TIMESTAMP(6), \
         phase = '{}', fence = {} WHERE id = 1",
        phase.name(),
        quote(run)
    );
    match server.run(doing, &sql).await {
        Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_TABLE) => {
            return Err(CutoverError::NoToken { server: server.name.clone() });
        }
        Ok(0) => return Err(CutoverError::NoToken { server: server.name.clone() }),
        outcome => drop(outcome?),
    }
    let gtid: Vec<String> = server.ask(doing, "SELECT @@last_gtid").await?;
    if server.is_dry() {
        return Ok(None);
    }
    let text = gtid.into_iter().next().unwrap_or_default();
    let parsed = text.parse().map_err(|_| CutoverError::Unfit {
        server: server.name.clone(),
        what: format!("the marker's GTID is {text:?}: is log_bin on?"),
    });
    parsed.map(Some)
}

/// The serving marker of a shard that is to be opened. Never on one that is barred.
pub async fn mark_opened(
    shard: &mut Shard,
    direction: Direction,
    run: &str,
) -> Result<(), CutoverError> {
    let doing = "writing the marker";
    let sql = format!(
        "UPDATE modshift_token SET writes = writes + 1, clock = UTC_TIMESTAMP(6), \
         phase = 'serving', fence = {} WHERE id = 1 AND (fence IS NULL OR fence NOT LIKE '%{BARRED}')",
        quote(run)
    );
    let written = match shard.primary.run(doing, &sql).await {
        Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_TABLE) => 0,
        written => written?,
    };
    if written > 0 {
        return Ok(());
    }
    let server = shard.name().to_owned();
    match marked(shard).await? {
        None => Err(CutoverError::NoToken { server }),
        Some(_) => Err(CutoverError::Barred { server, direction }),
    }
}

/// The same where no reader was ever started.
pub async fn mark_first(shard: &mut Shard, run: &str) -> Result<(), CutoverError> {
    let sql = format!(
        "INSERT INTO modshift_token (id, epoch, writes, clock, phase, fence) \
         VALUES (1, 0, 1, UTC_TIMESTAMP(6), 'serving', {})",
        quote(run)
    );
    shard.primary.run("writing the marker", &sql).await.map(drop)
}

/// Bars a shard that is fenced: this run cannot open it any more. No where its token says by now that
/// it serves.
pub async fn bar(shard: &mut Shard, run: &str) -> Result<bool, CutoverError> {
    let sql = format!(
        "UPDATE modshift_token SET writes = writes + 1, clock = UTC_TIMESTAMP(6), fence = {} \
         WHERE id = 1 AND phase = 'fenced'",
        quote(&format!("{run}{BARRED}"))
    );
    Ok(shard.primary.run("barring it", &sql).await? > 0)
}

/// Of a run that fences the from-shards anew, so that nothing of before counts.
pub async fn unbar(shard: &mut Shard, run: &str) -> Result<(), CutoverError> {
    if !marked(shard).await?.is_some_and(|(_, by)| by.is_some_and(|by| by.ends_with(BARRED))) {
        return Ok(());
    }
    let sql = format!(
        "UPDATE modshift_token SET writes = writes + 1, clock = UTC_TIMESTAMP(6), fence = {} \
         WHERE id = 1 AND phase = 'fenced' AND fence LIKE '%{BARRED}'",
        quote(&format!("{run}{KEPT_OUT}"))
    );
    shard.primary.run("letting this run open it", &sql).await.map(drop)
}

/// Of a shard that an opening which came to nothing has left as one that serves.
pub async fn mark_kept_out(shard: &mut Shard, run: &str) -> Result<(), CutoverError> {
    if phase(shard).await? != Some(Phase::Serving) {
        return Ok(());
    }
    mark(shard, Phase::Fenced, &format!("{run}{KEPT_OUT}")).await.map(drop)
}

/// The phase in the shard's token; `None`: no reader was ever started.
pub async fn phase(shard: &mut Shard) -> Result<Option<Phase>, CutoverError> {
    Ok(marked(shard).await?.map(|(phase, _)| phase))
}

/// The same with what the last marker was written for: the name of a run, with [`BARRED`] behind it
/// where that run was undone without its journal; `None`: nobody has marked it.
pub async fn marked(shard: &mut Shard) -> Result<Option<(Phase, Option<String>)>, CutoverError> {
    let sql = "SELECT phase, fence FROM modshift_token WHERE id = 1";
    let rows = shard.primary.ask::<(String, Option<String>)>("reading the phase", sql).await;
    let rows = match rows {
        Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_TABLE) => Vec::new(),
        rows => rows?,
    };
    Ok(rows.into_iter().next().map(|(text, by)| (phase_of(&text), by)))
}

pub(crate) fn phase_of(text: &str) -> Phase {
    match text {
        "serving" => Phase::Serving,
        // An ENUM without its value: serving is what must not be believed.
        _ => Phase::Fenced,
    }
}
