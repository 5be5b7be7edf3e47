//! One reader epoch of an old shard: tail, copying, acknowledgements, progress.
//!
//! What is decided here is decided by the shipped code: routing and strays (`route`), the history
//! and its proof (`History`), touched keys (`Touched`), what to copy next (`Schedule`), when a
//! chunk enters (`admit`), what is durable (`SentTokens`). Their order of calls is that of `tail`,
//! `copy`, `publish` and `reader`, and the statements of `epoch` and `token` are the model's own.

mod copying;

use std::collections::VecDeque;
use std::time::Duration;

use modshift_proto::message::{Change, Op, Start, Token, TokenPhase};
use modshift_proto::plan::Snapshot;
use modshift_proto::row::RowWriter;
use modshift_proto::{GtidSet, NewShard, Position};
use modshift_replicator::ReadError;
use modshift_replicator::pure::{
    ChunkRequest, History, Opening, Partial, ResumePoint, SavedTable, Schedule, SentTokens,
    TableProgress, Touched,
};
use modshift_replicator::route::{self, Image, Place};

use super::case::{Case, Without};
use super::log::{Log, Message, Sender};
use super::old::{Kind, Old, Progress, place_of};
use super::table::{Cells, Table};
use crate::places::{Act, Row, Rows, perform};

/// Why a reader stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A later epoch has taken over.
    Superseded,
    Halted(&'static str),
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Stop {
        Stop::Halted(error.reason())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Chunk {
    request: ChunkRequest,
    epoch: u64,
    token: u64,
    high: GtidSet,
    rows: Vec<(u8, Row)>,
    next_after: Option<Vec<Vec<u8>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reader {
    pub shard: u16,
    pub epoch: u64,
    pub sender: Sender,
    resume: ResumePoint,
    history: History,
    /// Groups that the connection has delivered.
    at: usize,
    /// The newest token of this epoch that the tail has seen.
    seen: Option<u64>,
    touched: Option<Touched>,
    schedule: Schedule,
    requests: Vec<ChunkRequest>,
    waiting: VecDeque<Chunk>,
    opened_at: Vec<u64>,
    progress: TableProgress,
    guard: Option<GtidSet>,
    tokens: SentTokens,
    unsaved: Option<(ResumePoint, Vec<SavedTable>)>,
    copied: bool,
    /// The newest token that the tail has seen was a quiet one.
    withheld: bool,
    /// The newest token that was sent says all that there is to say.
    copied_said: bool,
    /// A chunk has entered since the last token was sent.
    entered: bool,
}

fn settings(case: &Case) -> Snapshot {
    Snapshot {
        chunk_time: Duration::from_millis(1),
        // The smallest there is, so that no chunk's time changes the size of the next one.
        chunk_rows_max: 8,
        chunk_bytes_max: if case.small_chunks { 1 } else { 1 << 20 },
        parallel: case.parallel,
        touched_keys_max: case.touched_keys_max,
        xa_grace: Duration::ZERO,
    }
}

impl Reader {
    /// `epoch::open`: one transaction on the primary.
    pub fn open(old: &mut Old, case: &Case) -> Result<Reader, Stop> {
        let (last, writes) = old.token();
        old.clock += 1;
        let next = last + 1;
        let epoch = if case.without == Without::EpochClock { next } else { next.max(old.clock) };
        let first = writes == 0;
        let recorded = match old.progress() {
            Some(progress) => progress.clone(),
            None if first => Progress {
                resume: resume_at(old.set(old.binlog.len())),
                table: TableProgress::default(),
            },
            None => return Err(Stop::Halted("progress_lost")),
        };
        let later = first && case.without == Without::PositionWithFirstEpoch;
        let progress = (!later).then(|| recorded.clone());
        old.log(Kind::Token { epoch, writes: writes + 1, quiet: false, progress }, case.replica);
        let Progress { resume, table: progress } = recorded;
        let todo = (case.copy[usize::from(old.shard)] && !progress.done)
            .then(|| (0, progress.copied_to.clone()));
        let schedule = Schedule::new(todo, &settings(case));
        let mut reader = Reader {
            shard: old.shard,
            epoch,
            sender: Sender::new(old.shard, epoch, case.new.into()),
            history: History::new(modshift_proto::OldShard(old.shard), resume.clone()),
            resume,
            at: 0,
            seen: None,
            touched: None,
            requests: Vec::new(),
            waiting: VecDeque::new(),
            opened_at: Vec::new(),
            progress,
            guard: None,
            tokens: SentTokens::default(),
            unsaved: None,
            copied: schedule.finished(),
            withheld: false,
            copied_said: false,
            entered: false,
            schedule,
        };
        if later {
            reader.unsaved = Some((reader.resume.clone(), Vec::new()));
        }
        reader.connect(None, case);
        Ok(reader)
    }

    /// Where the next connection begins.
    fn connect(&mut self, partial: Option<Partial>, case: &Case) {
        if case.without == Without::HistoryProof {
            let before = self.history.done().clone();
            let shard = modshift_proto::OldShard(self.shard);
            self.history = History::new(shard, resume_at(before));
        }
        self.at = place_of(self.history.reconnect(partial));
    }

    /// The connection is gone, in the middle of `partial` or between two groups.
    pub fn reconnect(&mut self, partial: Option<Partial>, case: &Case) {
        if case.without != Without::ChunksOfConnection {
            self.requests.clear();
            self.waiting.clear();
            self.opened_at.clear();
            if !self.schedule.finished() {
                self.schedule.rewind(0, self.progress.copied_to.clone(), u32::MAX);
            }
        }
        self.connect(partial, case);
    }

    pub fn started(&self) -> bool {
        self.sender.sent.iter().all(|&sent| sent > 0)
    }

    pub fn start(&mut self, log: &mut Log) {
        let start = Start {
            gtids: self.resume.gtids(),
            digest: self.resume.last,
            initial: self.resume.last.is_none(),
            anew: Vec::new(),
            tables: 0,
            skipped: Vec::new(),
        };
        self.sender.send_all(log, |envelope| Message::start(envelope, &start));
    }

    /// Would the reader do anything with an acknowledgement?
    pub fn can_ack(&self, partition: usize, saves: bool, successors: bool) -> bool {
        let durable = || self.tokens.clone().durable(&vec![u64::MAX; self.sender.sent.len()]);
        let news = || durable().is_some_and(|d| saves || successors && !d.tables.is_empty());
        self.sender.acked[partition] < self.sender.sent[partition]
            && (self.guard.is_none() || news())
    }

    /// A partition has everything that was sent to it, and the reader hears of it.
    pub fn ack(&mut self, partition: usize, old: &Old, case: &Case) {
        self.sender.acked[partition] = self.sender.sent[partition];
        if self.guard.is_none() && self.sender.acked.iter().all(|&acked| acked > 0) {
            self.guard = Some(old.set(old.binlog.len()));
        }
        let mut acked = self.sender.acked.clone();
        if case.without == Without::AckOfEveryPartition {
            let most = acked.iter().copied().max().unwrap_or(0);
            acked.fill(most);
        }
        if let Some(durable) = self.tokens.durable(&acked) {
            let unsaved = self.unsaved.get_or_insert_with(|| (ResumePoint::default(), Vec::new()));
            unsaved.0 = durable.resume;
            unsaved.1.extend(durable.tables);
        }
    }

    /// Is there anything that only a further token brings on?
    pub fn wants_token(&self, old: &Old, successors: bool) -> bool {
        let (epoch, writes) = old.token();
        if epoch != self.epoch {
            return true; // to find out
        }
        let recording = self.touched.as_ref();
        let unseen = self.seen != Some(writes);
        !unseen
            && (old.rows_since_token()
                || self.withheld
                || (successors && self.entered)
                || self.copied != self.copied_said
                || (!self.schedule.finished() && recording.is_some_and(|t| !enters(t, writes))))
    }

    pub fn wants_save(&self) -> bool {
        self.unsaved.as_ref().is_some_and(|(_, tables)| !tables.is_empty())
    }

    pub fn can_save(&self) -> bool {
        self.unsaved.is_some()
    }

    /// One write to the token, with the progress or without.
    pub fn token(
        &mut self,
        old: &mut Old,
        save: bool,
        quiet: bool,
        case: &Case,
    ) -> Result<(), Stop> {
        let (epoch, writes) = old.token();
        if epoch != self.epoch && !(save && case.without == Without::EpochOfProgress) {
            return Err(Stop::Superseded);
        }
        let progress = self.unsaved.take_if(|_| save).map(|(resume, tables)| {
            let kept = || old.progress().map(|had| had.table.clone()).unwrap_or_default();
            let table = tables.last().map_or_else(kept, |saved| saved.progress.clone());
            Progress { resume, table }
        });
        old.log(Kind::Token { epoch, writes: writes + 1, quiet, progress }, case.replica);
        Ok(())
    }

    /// Is there a group that the tail has not read?
    pub fn can_read(&self, old: &Old) -> bool {
        self.started() && self.at < old.shown
    }

    /// Changes of the next group, if that may be cut off between them.
    pub fn next_changes(&self, old: &Old) -> usize {
        match old.binlog.get(self.at).map(|group| &group.kind) {
            Some(Kind::Rows(write)) => write.len(),
            _ => 0,
        }
    }

    /// The next group of the log; with `cut`, only so many changes of it, and then the connection
    /// breaks.
    pub fn read(
        &mut self,
        old: &Old,
        log: &mut Log,
        table: &Table,
        case: &Case,
        cut: Option<usize>,
    ) -> Result<(), Stop> {
        let seq = self.at + 1;
        let group = old.binlog[self.at].clone();
        if cut == Some(0) {
            self.reconnect(None, case);
            return Ok(());
        }
        let opening = self.history.open(old.gtid(seq))?;
        if let Kind::Rows(write) = &group.kind {
            let mut rows = old.rows_at(self.at, 0);
            for (index, &act) in write.iter().enumerate() {
                if cut == Some(index) {
                    let partial = match opening {
                        Opening::Proof => None,
                        Opening::New { from_change } => Some(Partial {
                            gtid: old.gtid(seq),
                            events: index as u64,
                            checksum: old.part_checksum(seq, index),
                            changes: (index as u32).max(from_change),
                        }),
                    };
                    self.reconnect(partial, case);
                    return Ok(());
                }
                let from = match opening {
                    Opening::Proof => usize::MAX,
                    Opening::New { .. } if case.without == Without::PositionWithinGroup => 0,
                    Opening::New { from_change } => from_change as usize,
                };
                let before = rows.get(&act.id()).copied();
                let after_all = perform(&rows, self.shard, act).expect("what was logged is legal");
                let after = after_all.get(&act.id()).copied();
                rows = after_all;
                if index >= from {
                    let position = Position { gtid: old.gtid(seq), ordinal: index as u32 * 2 };
                    self.change(act.id(), before, after, position, log, table, case);
                }
                let checksum = old.part_checksum(seq, index + 1);
                self.history.progress(old.gtid(seq), index as u64 + 1, checksum)?;
            }
        }
        let digest = old.digest(seq);
        self.history.close(digest)?;
        self.at = seq;
        match group.kind {
            Kind::Token { epoch, writes, quiet, .. } if opening != Opening::Proof => {
                if epoch > self.epoch {
                    return Err(Stop::Superseded);
                }
                if epoch == self.epoch {
                    self.seen = Some(writes);
                }
                self.withheld = quiet;
                if quiet && case.without == Without::ResumeAtSentToken {
                    let resume = self.history.resume_point(TokenPhase::Serving);
                    self.tokens.sent(resume, self.sender.sent.clone(), vec![0; log.len()]);
                }
                let anyway = case.without == Without::QuietByTheLog && epoch == self.epoch;
                if quiet && !anyway {
                    return Ok(());
                }
                let early = case.without == Without::CopiedAfterEntry && self.requests.is_empty();
                let copied = self.copied || (early && !self.waiting.is_empty());
                let token = Token {
                    gtids: self.history.done().clone(),
                    digest,
                    writes,
                    clock_us: seq as i64,
                    copied,
                    phase: TokenPhase::Serving,
                    fence: None,
                    beat: false,
                };
                self.sender.send_all(log, |envelope| Message::token(envelope, &token));
                let sent = self.sender.sent.clone();
                self.tokens.sent(
                    self.history.resume_point(TokenPhase::Serving),
                    sent,
                    vec![0; log.len()],
                );
                self.copied_said = copied;
                self.entered = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the images and the ways out")]
    fn change(
        &mut self,
        id: u8,
        before: Option<Row>,
        after: Option<Row>,
        position: Position,
        log: &mut Log,
        table: &Table,
        case: &Case,
    ) {
        let place = |row: &Row| table.place(self.shard, &Cells::new(id, row));
        let (from, to) = (before.as_ref().map(place), after.as_ref().map(place));
        let late = case.without == Without::TouchedUntilEntry
            && self.waiting.front().is_some_and(|chunk| self.history.done().contains(&chunk.high));
        if let (Some(touched), Some(seen), false) = (&mut self.touched, self.seen, late) {
            touched.touch(&table.key(id), seen);
        }
        let (first, second) = route::route(from, to, true);
        for routed in [first, second].into_iter().flatten() {
            let row = match routed.image {
                Image::Before => before,
                Image::After => after,
            };
            let row = row.expect("an image that was routed");
            let ordinal = position.ordinal + routed.half;
            let position = Position { ordinal, ..position };
            self.send(id, &row, routed.op, routed.to, Some(position), log, table);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "all that a message says")]
    fn send(
        &mut self,
        id: u8,
        row: &Row,
        op: Op,
        to: Place,
        position: Option<Position>,
        log: &mut Log,
        table: &Table,
    ) {
        let Place::One(NewShard(to)) = to else { unreachable!("a sharded table") };
        let wire = match op {
            Op::Upsert => wire(id, row),
            Op::Delete => table.key(id),
        };
        let change = Change { table: 0, fingerprint: 0, position, op, row: &wire };
        self.sender.send(log, NewShard(to), |envelope| Message::change(envelope, &change));
    }

    /// Does the next connection ask for what the server does not have?
    pub fn beyond(&self, old: &Old) -> bool {
        self.at > old.binlog.len()
    }

    /// Has the tail read all that there is, and said so?
    pub fn idle(&self, old: &Old) -> bool {
        self.history.done().contains(&old.set(old.binlog.len()))
    }
}

/// Nothing is known of the group before.
fn resume_at(before: GtidSet) -> ResumePoint {
    ResumePoint { before, last: None, phase: TokenPhase::Serving }
}

fn enters(touched: &Touched, token: u64) -> bool {
    touched.verdict(token) == modshift_replicator::pure::Verdict::Enter
}

/// A row of the model's table on the wire: what its new shard reads is what was written here.
fn wire(id: u8, row: &Row) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = RowWriter::new(&mut out, 3);
    for value in [id, row.unique, row.version] {
        writer.uint(value.into());
    }
    writer.finish();
    out
}

/// What a position covers of an old shard's rows, as they are on one new shard.
pub fn routed_to(rows: &Rows, shard: u16, to: usize, table: &Table) -> Rows {
    let here =
        |id, row: &Row| table.place(shard, &Cells::new(id, row)) == Place::One(NewShard(to as u16));
    rows.iter().filter(|&(&id, row)| here(id, row)).map(|(&id, &row)| (id, row)).collect()
}

/// What a change on the wire does to a row.
pub fn act_of(change: &Change<'_>) -> Act {
    let cell = |cells: &[Option<&[u8]>], index: usize| {
        modshift_proto::row::cell_uint(cells[index].expect("no NULLs")).expect("an integer") as u8
    };
    let view = change.row().expect("a row");
    let mut cells = Vec::new();
    match change.op {
        Op::Delete => {
            view.collect(1, &mut cells).expect("a key");
            Act::Delete { id: cell(&cells, 0) }
        }
        Op::Upsert => {
            view.collect(3, &mut cells).expect("a row of three");
            let [id, unique, version] = [0, 1, 2].map(|index| cell(&cells, index));
            Act::Put { id, unique, version }
        }
    }
}
