//! What keeps a cutover from going on.

use modshift_mariadb::ServerError;
use modshift_mariadb::error::silence_hint;

use crate::decide::Refusal;
use crate::outside::Closed;
use crate::step::{Direction, Step};
use crate::without_journal::Objection;

#[derive(Debug, thiserror::Error)]
pub enum CutoverError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{who} is at it since {since} UTC (run {run})")]
    Busy { who: String, since: String, run: String },
    #[error("{who} has taken over since: this process does nothing more")]
    Superseded { who: String },
    /// Whether the last entry was written is not known.
    #[error("the journal cannot be written: {0}")]
    JournalLost(#[source] ServerError),
    #[error("the journal of run {run} contradicts itself at entry {at}: {entry}")]
    JournalDamaged { run: String, at: u64, entry: String },
    #[error("the gate is closed: {}", .0.reasons.join("; "))]
    Gate(Closed),
    #[error("{step} was not done within what the pause budget of {limit_ms} ms leaves{waiting}")]
    Budget { step: Step, limit_ms: u64, waiting: String },
    #[error("interrupted during {step}")]
    Interrupted { step: Step },
    #[error("{server}: {count} prepared XA transactions could still be committed")]
    Prepared { server: String, count: usize },
    #[error("an operator's process is at {server}")]
    Attended { server: String },
    #[error("{server} has no row in modshift_token: its reader was never started")]
    NoToken { server: String },
    #[error("{server} has no account {account}")]
    NoAccount { server: String, account: String },
    #[error(
        "{server} has accounts that the plan does not name and that are not locked: {accounts}; a \
         client that a locked account refuses could log in by one of them"
    )]
    Door { server: String, accounts: String },
    #[error("{server} is on a server that is kept closed for {by}, too")]
    ClosedByOther { server: String, by: String, plan: String },
    #[error("{server} has not applied yet what {peer} took before it was closed: {gtid}")]
    PeerAhead { server: String, peer: String, gtid: String },
    #[error("{server}: a session of the application does not end: {session}")]
    Stays { server: String, session: String },
    #[error("{server}: an event that was running does not end; its definer is {event}")]
    EventRuns { server: String, event: String },
    #[error("{server}: table {table} is held, so it cannot be changed, perhaps by {by}")]
    Held { server: String, table: String, by: String },
    #[error("{server} is the server of {other} too, so read_only would stop both")]
    SharedServer { server: String, other: String },
    #[error(
        "{server} is the server of {other} too, so that the fence can only lock accounts, and {user}, by \
         which ShardingSphere follows routing target {target}, is none that it locks: it would write on"
    )]
    SharedUnits { server: String, other: String, user: String, target: String },
    #[error(
        "{server} is the server of {other} too: auto_increment_offset can be that of one of them"
    )]
    SharedOffset { server: String, other: String },
    /// A trigger or event.
    #[error("{server}: {what}")]
    Programs { server: String, what: String },
    /// Says itself what to do about it.
    #[error("{server}: {what}")]
    Unfit { server: String, what: String },
    #[error("applier of {server} has stopped: {why}")]
    Halted { server: String, why: String },
    #[error("reader of {server} has stopped: {why}")]
    ReaderHalted { server: String, why: String },
    #[error("the fence of {server} did not hold")]
    Leak { server: String },
    #[error("routing was not published: {0}")]
    Publish(String),
    #[error("{0}")]
    Verification(String),
    #[error("stopped before the opening was complete: {missing}")]
    Unopened { direction: Direction, missing: String },
    #[error("{objection}; nothing was done")]
    Objected { objection: Objection, direction: Direction },
    #[error("the journal answers and knows the run; nothing was done")]
    JournalThere { direction: Direction },
    #[error("{server} cannot be opened: the run was undone without its journal")]
    Barred { server: String, direction: Direction },
    #[error("both sides serve: {from} and {to}")]
    BothServe { from: String, to: String },
    #[error("whether to go on or back depends on {server}, which cannot be asked: {detail}")]
    CannotTell { server: String, detail: String },
    #[error("{}", .all.join("; "))]
    Several { all: Vec<String>, hint: Option<String> },
}

impl CutoverError {
    /// What the operator does next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            CutoverError::Server(error) | CutoverError::JournalLost(error) => return error.hint(),
            CutoverError::Several { hint, .. } => return hint.clone(),
            CutoverError::Objected { objection, direction } => {
                return Some(objection.hint(*direction));
            }
            CutoverError::JournalThere { direction } => {
                return Some(format!("modshift {direction} --abort undoes it"));
            }
            CutoverError::Barred { direction, .. } => {
                return Some(format!("modshift {direction} --abort writes down that it is over"));
            }
            CutoverError::Unopened { direction, .. } => {
                return Some(format!(
                    "modshift {direction} --resume goes on; take out of the plan first what is gone \
                     for good, such as a replica"
                ));
            }
            CutoverError::Refused(refusal) => return Some(refusal.hint()),
            CutoverError::Busy { .. } => {
                "wait for it; if its process is gone, its lock goes with its connection, within \
                 5 s at the latest"
            }
            CutoverError::Superseded { .. } => "modshift status shows how far it is",
            CutoverError::JournalDamaged { .. } => {
                "do not go on by hand before you know why: modshift_journal on new shard 0"
            }
            CutoverError::Gate(closed) if closed.unproven_back => {
                "modshift verify --back makes the proof; where there is no time for one, take \
                 back.verify_age out of the plan and begin again"
            }
            CutoverError::Gate(_) => "modshift gate --wait 10m waits until it opens",
            CutoverError::Budget { step: Step::Handover, .. } => {
                "the run is undone, and what it took down is put up again; raise cutover.budget to \
                 what the line handover of a rehearsal shows, or find out who held those tables \
                 (modshift audit names whom the run has ended), then begin again"
            }
            CutoverError::Budget { .. } => {
                "raise cutover.budget, or find out what was slow: modshift status --watch"
            }
            CutoverError::Prepared { .. } => {
                "commit or roll back what XA RECOVER lists, then begin again"
            }
            CutoverError::NoToken { .. } => "start the daemons, with the way back enabled",
            CutoverError::NoAccount { .. } => {
                "correct cutover.accounts (or old_accounts, new_accounts) in the plan"
            }
            CutoverError::Door { .. } => {
                "name them in cutover.accounts (or old_accounts, new_accounts) of the plan, or lock \
                 them: ALTER USER ... ACCOUNT LOCK"
            }
            CutoverError::ClosedByOther { plan, .. } => {
                return Some(format!(
                    "let that shard go first, with plan {plan}: modshift rollback, or finish and \
                     unfence; or fence by accounts, with cutover.fence = \"accounts\" in both plans. If \
                     nothing of plan {plan} is left: DELETE FROM modshift.fences WHERE plan = \
                     '{plan}' there"
                ));
            }
            CutoverError::PeerAhead { .. } => {
                "see SHOW ALL SLAVES STATUS there: what keeps it from applying; then begin again"
            }
            CutoverError::Stays { .. } => {
                "it rolls back, or it comes again by an account that is not locked: SHOW PROCESSLIST \
                 there; then begin again"
            }
            CutoverError::EventRuns { .. } => {
                "it rolls back, or it is slow to notice: SHOW PROCESSLIST there; begin again once it \
                 is gone, at an hour when it does not run"
            }
            CutoverError::Held { .. } => {
                "a transaction that has read it is enough: have those sessions ended (KILL), or wait \
                 for them; INSTALL SONAME 'metadata_lock_info' there shows who it is"
            }
            CutoverError::SharedServer { .. } => {
                "give each side accounts of its own: cutover.old_accounts and \
                 cutover.new_accounts, no user name in both"
            }
            CutoverError::SharedUnits { .. } => {
                "give each side servers of its own, or take that target out of the plan"
            }
            CutoverError::SharedOffset { .. } => {
                "set cutover.auto_increment = \"keep\", and see to it that the application gives \
                 out keys of its own"
            }
            CutoverError::Programs { .. } => {
                "modshift check names each trigger and event that cannot be handed over, with what \
                 mends it"
            }
            CutoverError::Leak { .. } => {
                "an account with READ ONLY ADMIN or SUPER rights wrote, or read_only was reset: \
                 name it in cutover.accounts"
            }
            CutoverError::BothServe { .. } => {
                "stop the application; modshift_token of every shard says its phase"
            }
            CutoverError::CannotTell { detail, .. } if silence_hint(detail).is_some() => {
                return silence_hint(detail).map(|hint| format!("{hint}; then repeat the command"));
            }
            // Clients may be kept waiting by now.
            CutoverError::Publish(text) if silence_hint(text).is_some() => {
                let then =
                    "then modshift status says who serves, and whether --resume or --abort is due";
                return silence_hint(text).map(|hint| format!("{hint}; {then}"));
            }
            CutoverError::Publish(_) => {
                "bring it back; modshift status says who serves, and whether --resume or --abort is due"
            }
            CutoverError::CannotTell { .. } => "bring it back, then repeat the command",
            CutoverError::Interrupted { .. } => {
                "nothing is lost: modshift status says who serves, and whether a run is still to be \
                 ended"
            }
            CutoverError::Attended { .. } => "leave that server to it, or wait until it has ended",
            CutoverError::Halted { .. } | CutoverError::ReaderHalted { .. } => {
                "mend what it says, start its daemon again, and begin anew once modshift gate --wait \
                 10m says yes"
            }
            CutoverError::Verification(_) => {
                "modshift verify --repair (of a rollback: modshift verify --back) names the rows; \
                 begin anew once both sides are equal"
            }
            CutoverError::Unfit { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// The server does not answer: nothing is known of it. (That of the journal is another matter.)
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, CutoverError::Server(error)
            if error.is_connection_lost() || matches!(error, ServerError::Busy { .. }))
    }

    /// Past the point of no return: trying again cannot help.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            CutoverError::Superseded { .. }
                | CutoverError::BothServe { .. }
                | CutoverError::Barred { .. }
                | CutoverError::JournalDamaged { .. }
                | CutoverError::SharedServer { .. }
                | CutoverError::SharedUnits { .. }
                | CutoverError::SharedOffset { .. }
        )
    }

    /// Several, or the one. Whose run it is counts before anything else.
    pub(crate) fn all(mut errors: Vec<CutoverError>) -> Result<(), CutoverError> {
        if let Some(at) = errors.iter().position(|e| matches!(e, CutoverError::Superseded { .. })) {
            return Err(errors.swap_remove(at));
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(CutoverError::Several {
                all: errors.iter().map(ToString::to_string).collect(),
                hint: errors.iter().find_map(CutoverError::hint),
            }),
        }
    }
}
