//! How much a run explores, and what is left out of the rules.

use crate::places::{self, Act};

/// A rule of the design left out, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    Nothing,
    /// A resume point needs one partition that has its token, not all.
    AckOfEveryPartition,
    /// The first start stores its position in a transaction of its own.
    PositionWithFirstEpoch,
    /// Progress is written whatever the epoch.
    EpochOfProgress,
    /// A chunk is recorded as copied before a token has followed it.
    TokenAfterChunk,
    /// A new shard that knows nothing accepts any start marker.
    InitialMarker,
    /// Where a start marker begins is not compared with what has been applied.
    StartMarker,
    /// Touched keys are remembered until the tail has passed H only.
    TouchedUntilEntry,
    /// Touched keys are remembered from the reading of the chunk on.
    RecordingBeforeChunk,
    /// Rows of a chunk enter whether or not they were touched.
    TouchedKeys,
    /// A chunk enters whether or not the tail has passed H.
    High,
    /// A snapshot may show a predecessor's token.
    OwnToken,
    /// Tokens say "copied" when every chunk has been read.
    CopiedAfterEntry,
    /// A quiet token is sent by the reader that wrote it, and by no later one.
    QuietByTheLog,
    /// A quiet token is sent nowhere, and is a resume point all the same.
    ResumeAtSentToken,
    /// Chunks in flight outlive a lost binlog connection.
    ChunksOfConnection,
    /// The last group is not asked for again.
    HistoryProof,
    /// A group cut off in the middle is sent again from its beginning, as if it were new.
    PositionWithinGroup,
    /// Who goes on after an old shard has lost the end of its binlog has the same server id: as
    /// one that crashes with sync_binlog other than 1, which `check` refuses.
    OwnServer,
    /// An epoch is the last one plus one, and no clock counts.
    EpochClock,
    /// Messages of a reader that was replaced are taken.
    EpochDrop,
    /// Messages that had been taken are taken again.
    NumberDrop,
    /// A missing number is not noticed.
    NumberGap,
    /// Changes that the watermark covers are applied again.
    PositionDrop,
    /// Watermarks are set without comparing.
    CompareAndSet,
    /// A COMMIT that nobody answered is taken to have failed.
    CommitOutcome,
    /// One of the merging rules, which the merging tests of the consumer leave out one by one.
    Merging(places::Without),
}

/// How often what may go wrong may happen in one history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A reader dies, and with it what it had under way.
    pub crashes: u8,
    /// A second reader starts while the first one lives on.
    pub readers: u8,
    /// The binlog connection breaks.
    pub breaks: u8,
    /// The log gets a message twice.
    pub repeats: u8,
    /// The log loses its newest messages, acknowledged or not.
    pub losses: u8,
    /// The old shard loses the end of its binlog, and its rows with it.
    pub failovers: u8,
    /// A second applier starts while the first one lives on.
    pub appliers: u8,
    /// A COMMIT is not answered.
    pub unanswered: u8,
    /// Steps that a reader does once another has opened an epoch.
    pub late_steps: u8,
    /// Tokens beyond those that something waits for.
    pub tokens: u8,
    /// Tokens that stay with the reader.
    pub quiet: u8,
    /// Progress recorded for no need.
    pub saves: u8,
}

/// One transaction of the application.
pub type Write = Vec<Act>;

#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub old: u16,
    pub new: u16,
    /// By old shard: rows there before the first start.
    pub begin: Vec<Vec<Act>>,
    /// By old shard: histories of the application, each of which is tried with each of the others.
    pub histories: Vec<Vec<Vec<Write>>>,
    pub budget: Budget,
    /// By old shard: rows are copied. Otherwise the table was empty at the first start, and that
    /// has been found out.
    pub copy: Vec<bool>,
    /// A row a chunk; otherwise a table a chunk.
    pub small_chunks: bool,
    pub parallel: u16,
    pub touched_keys_max: usize,
    /// Groups by which a snapshot may lag behind the binlog.
    pub lag: usize,
    /// Readers tail a replica, which may be behind.
    pub replica: bool,
    /// Batches, commits and owners are tried in every way, once everything is in the log. Otherwise
    /// one applier takes one message after the other.
    pub appliers: bool,
    /// A reader that dies loses any number of its messages under way, not all of a partition or
    /// none.
    pub every_loss: bool,
    pub without: Without,
}

impl Case {
    pub fn new(name: &'static str, old: u16, new: u16) -> Case {
        Case {
            name,
            old,
            new,
            begin: vec![Vec::new(); old.into()],
            histories: vec![vec![Vec::new()]; old.into()],
            budget: Budget::default(),
            copy: vec![false; old.into()],
            small_chunks: false,
            parallel: 1,
            touched_keys_max: 100,
            lag: 0,
            replica: false,
            appliers: false,
            every_loss: false,
            without: Without::Nothing,
        }
    }

    pub fn without(&self, rule: Without) -> Case {
        Case { without: rule, ..self.clone() }
    }
}

/// The shard key of a row travels in the upper bits of its version.
const KEY_SHIFT: u32 = 5;

pub fn key_of(version: u8) -> u8 {
    version >> KEY_SHIFT
}

/// A row `id` with shard key `key`, whose unique value is its id.
pub fn put(id: u8, key: u8, version: u8) -> Act {
    put_unique(id, key, version, id)
}

pub fn put_unique(id: u8, key: u8, version: u8, unique: u8) -> Act {
    assert!(key < 8 && version < 1 << KEY_SHIFT);
    Act::Put { id, unique, version: key << KEY_SHIFT | version }
}

pub fn delete(id: u8) -> Act {
    Act::Delete { id }
}

/// Every history of `len` single-row transactions on these rows: `ids` and, for each, the shard
/// keys it may have.
pub fn histories(ids: &[u8], keys: &[u8], len: usize, versions: u8) -> Vec<Vec<Write>> {
    let mut all = vec![Vec::new()];
    for step in 0..len {
        let mut longer = Vec::new();
        for history in &all {
            for &id in ids {
                let puts = keys.iter().map(|&key| put(id, key, versions + step as u8));
                for act in puts.chain([delete(id)]) {
                    let mut history: Vec<Write> = history.clone();
                    history.push(vec![act]);
                    longer.push(history);
                }
            }
        }
        all = longer;
    }
    all
}
