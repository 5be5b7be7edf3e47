//! Why a target did not acknowledge.

use std::time::Duration;

use modshift_mariadb::{Class, ServerError};

#[derive(Debug, thiserror::Error)]
#[error("routing target {target}: {failure}")]
pub struct PublishError {
    /// Its name in the plan; `modshift_routing of <server>` for the table.
    pub target: String,
    #[source]
    pub failure: Failure,
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("holds version {found}, newer than {version}")]
    Newer { found: u64, version: u64 },
    #[error("holds another document of version {version}")]
    Differs { version: u64 },
    #[error("holds the routing of plan {found}")]
    OtherPlan { found: String },
    /// What follows it there cannot be given another place.
    #[error("node {place} holds the routing of plan {found}")]
    EarlierPlan { place: String, found: String },
    #[error("{place} holds something else than a routing document: {detail}")]
    Foreign { place: String, detail: String },
    /// What it needs first is somebody else's to do.
    #[error("{place} is not ready: {detail}")]
    Unready { place: String, detail: String },
    #[error("{place} is a symbolic link")]
    Symlink { place: String },
    /// The file in its place would be another's, or readable by others.
    #[error("{place} cannot be replaced with the {what} that it has: {detail}")]
    Kept { place: String, what: &'static str, detail: String },
    /// The target itself said no.
    #[error("refused: {detail}")]
    Refused { detail: String },
    #[error("{doing}: {detail}")]
    Unreachable { doing: String, detail: String },
    /// There was no answer, or not a whole one: the target may hold the document.
    #[error("no acknowledgement: {detail}")]
    Unanswered { detail: String },
    #[error("no acknowledgement within {after:?}")]
    Timeout { after: Duration },
    /// Never sent: the document cannot be said in the target's terms.
    #[error("cannot express the routing: {detail}")]
    Unfit { detail: String },
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl PublishError {
    /// Whether the target may hold the document although it did not acknowledge.
    pub fn may_have_arrived(&self) -> bool {
        match &self.failure {
            Failure::Newer { .. }
            | Failure::Differs { .. }
            | Failure::OtherPlan { .. }
            | Failure::EarlierPlan { .. }
            | Failure::Foreign { .. }
            | Failure::Unready { .. }
            | Failure::Symlink { .. }
            | Failure::Kept { .. }
            | Failure::Unfit { .. }
            | Failure::Unreachable { .. } => false,
            // A hook that failed half way has perhaps told some of those behind it.
            Failure::Refused { .. } | Failure::Unanswered { .. } | Failure::Timeout { .. } => true,
            Failure::Server(error) => matches!(error, ServerError::Lost { .. }),
        }
    }

    /// Retry: the world outside. Halt: trying again cannot change it.
    pub fn class(&self) -> Class {
        match &self.failure {
            Failure::Newer { .. }
            | Failure::Differs { .. }
            | Failure::OtherPlan { .. }
            | Failure::EarlierPlan { .. }
            | Failure::Foreign { .. }
            | Failure::Symlink { .. }
            | Failure::Kept { .. }
            | Failure::Unfit { .. } => Class::Halt,
            Failure::Refused { .. }
            | Failure::Unready { .. }
            | Failure::Unreachable { .. }
            | Failure::Unanswered { .. }
            | Failure::Timeout { .. } => Class::Retry,
            Failure::Server(error) => error.class(),
        }
    }

    /// What the operator does next.
    pub fn hint(&self) -> Option<String> {
        let hint = match &self.failure {
            Failure::Newer { .. } => {
                "someone else publishes there, or this journal is older than the target: look at \
                 what it holds before publishing a higher version"
            }
            Failure::Differs { .. } => {
                "two publishers used the same version: see which one serves, then publish a higher \
                 version"
            }
            Failure::OtherPlan { .. } => "give each plan a target of its own",
            Failure::EarlierPlan { place, found } => {
                return Some(format!(
                    "once plan {found} is finished and its new shards are the old ones of this plan: in \
                     zkCli.sh (after addauth, where [[routing]] has a digest) delete {place}, that node \
                     alone; modshift then takes the rules beside it over. Until then leave it: \
                     ShardingSphere follows {found}"
                ));
            }
            Failure::Foreign { .. } => {
                "modshift replaces nothing that it has not written: move it away, or name another \
                 place in the plan"
            }
            Failure::Unready { .. } => {
                "start one application in cluster mode with the published YAML, of a routing target of \
                 kind shardingsphere: ShardingSphere then registers its tables there"
            }
            Failure::Symlink { .. } => {
                "name the file itself in [[routing]], or set follow_symlinks = true there: the file \
                 behind the link is then replaced"
            }
            Failure::Kept { .. } => {
                "run modshift as the file's owner and with its group, or give the file to modshift's \
                 account"
            }
            Failure::Refused { .. } => "see the target's own log; any version it took stays valid",
            Failure::Unreachable { .. } | Failure::Unanswered { .. } => {
                "check the address in [[routing]], the target and the network"
            }
            Failure::Timeout { .. } => "raise timeout in [[routing]], or see what holds it up",
            Failure::Unfit { .. } => "see [[routing]] in deploy/plan.example.toml",
            Failure::Server(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}
