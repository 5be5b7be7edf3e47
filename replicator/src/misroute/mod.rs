//! The misroute watch: which rows that are not at home on a server were written there, and since when
//! that is known.
//!
//! Where a shard was split in place, a client with the old routing can write a row to the server that
//! held it before. The home guard refuses that; the watch reads the server's binlog and shows what came
//! past it, or that nothing did. It is what proves that a row which another shard owns by now has not
//! been written here since the split, so that it may be deleted.
//!
//! | part | is |
//! |---|---|
//! | `sift` | events of the binlog to writes of rows that are not at home; pure |
//! | `known` | what was seen, since when, up to where; answers questions; pure |
//! | `store` | the same in `modshift_misroute` and `modshift_misrouted`, on the server itself |
//! | `follow` | the connection: takes up where the last one stopped, and says so where it cannot |
//!
//! **What counts.** Every row change whose key before or after is not at home. Not those of groups whose
//! first row is in a table of modshift's own: so it marks its transactions. What the log does not show row
//! by row (a statement in statement format, TRUNCATE and other definitions of a planned table, a statement
//! that is not understood) may have written any row: the table is *clouded* from there on. So is one of
//! which more rows were written than are kept. Rows prepared by XA count from there on, whether they are
//! committed or not, and so do rows that a savepoint took back: the answer errs towards "written".
//!
//! **A gap is never nothing.** What is known is known since a position. Where the log behind the last
//! group cannot be had any more (purged, another server, a log that lost its end, rows that cannot be
//! read), the watch begins anew at the present position, and answers for what lies before: not known.
//!
//! **How it is used.** A daemon runs [`watch`] with [`Keeping::Stored`] for each new shard, from the position
//! that the split has journaled; its tables go to the server's replicas, so after a failover it goes on
//! there. Whoever deletes rows runs another one beside it, with [`Keeping::Memory`], which begins from what
//! is stored. In the transaction that deletes, with the row locked, it reads `@@gtid_binlog_pos` and asks
//! [`Misroutes::written_since`] as of there. Everything that was written to that row is in the log by then.

mod follow;
mod known;
mod sift;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use modshift_proto::rule::Home;
use modshift_proto::{GtidSet, Modulus};
use tokio::sync::watch as signal;

pub use self::follow::watch;
pub use self::known::{Answer, Known, Last, Op};
pub use self::sift::{Closed, Found, Sift, Watched};
pub use self::store::CREATE;

/// Which rows are looked for, and where the log is read from where nothing is stored yet.
#[derive(Clone, Debug)]
pub struct Watching {
    pub home: Home,
    /// Under which it is said where a row belongs.
    pub modulus: Modulus,
    pub begin: GtidSet,
    pub keeping: Keeping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// On the server, where one watch does so.
    Stored,
    Memory,
}

/// What a watch has seen, for whoever asks.
#[derive(Clone)]
pub struct Misroutes {
    known: Arc<Mutex<Known>>,
    moved: Arc<signal::Sender<()>>,
}

impl Default for Misroutes {
    fn default() -> Misroutes {
        Misroutes { known: Arc::default(), moved: Arc::new(signal::Sender::new(())) }
    }
}

impl Misroutes {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known());
        self.moved.send_replace(());
    }

    /// As it is now.
    pub fn view(&self) -> Known {
        self.known().clone()
    }

    /// Has anybody but modshift written this row of that table behind `position`, up to `as_of`? The row
    /// by its primary key, as [`crate::route::write_key_row`] writes it. Waits until the watch has read
    /// so far, with a bound.
    pub async fn written_since(
        &self,
        table: &str,
        key_row: &[u8],
        position: &GtidSet,
        as_of: &GtidSet,
        patience: Duration,
    ) -> Answer {
        let mut moved = self.moved.subscribe();
        let arrived = async {
            while !self.known().done.contains(as_of) {
                // Its sender is ours.
                if moved.changed().await.is_err() {
                    return;
                }
            }
        };
        let waited = tokio::time::timeout(patience, arrived).await;
        let known = self.known();
        match waited {
            Ok(()) => known.answer(table, key_row, position),
            Err(_) => Answer::Unknown {
                why: format!("the watch has read the log up to {}, not to {as_of} yet", known.done),
            },
        }
    }
}
