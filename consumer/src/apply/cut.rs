//! What is handed to the keeper, and what it hands back.

use std::time::Duration;

use modshift_changelog::Offset;
use modshift_proto::OldShard;

use crate::batch::Batch;
use crate::record::Passing;
use crate::watermark::{Kept, Move};

/// A batch, and where the watermarks stand once it is in.
#[derive(Debug, Default)]
pub struct Cut {
    pub batch: Batch,
    pub moves: Vec<Move>,
    /// Of these tables nothing that came from that old shard stays; it goes before the batch.
    pub anew: Vec<(OldShard, u32)>,
    /// Old shards of which a token is in it.
    pub tokens: Vec<OldShard>,
    /// To resume the partition from.
    pub offset: Option<Offset>,
}

/// What a new shard held when its applier began.
#[derive(Debug)]
pub struct Begin {
    pub kept: Vec<Kept>,
    pub offset: Option<Offset>,
    pub passing: Passing,
}

/// What one transaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub road: Road,
    pub parked: u64,
    pub settled: u64,
    /// What the COMMIT took; zero where nobody knows.
    pub commit: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Road {
    /// Watermark only.
    #[default]
    Marks,
    Fast,
    Exact,
}
