//! One reader epoch of an old shard: tail, copying, acknowledgements, progress.
//!
//! What is decided here is decided by the shipped code: routing and strays (`route`), the history
//! and its proof (`History`), touched keys (`Touched`), what to copy next (`Schedule`), when a
//! chunk enters (`admit`), what is durable (`SentTokens`). Their order of calls is that of `tail`,
//! `copy`, `publish` and `reader`, and the statements of `epoch` and `token` are the model's own.

use std::collections::VecDeque;
use std::time::Duration;

use modshift_proto::message::{Change, Op, Start, Token};
use modshift_proto::plan::Snapshot;
use modshift_proto::row::RowWriter;
use modshift_proto::{GtidSet, NewShard, Position};
use modshift_replicator::ReadError;
use modshift_replicator::pure::admit::{Passed, Shown, admit};
use modshift_replicator::pure::{
    Admission, ChunkRequest, History, Opening, Partial, ResumePoint, SavedTable, Schedule,
    SentTokens, TableProgress, Touched,
};
use modshift_replicator::route::{self, Image, Place};

use super::case::{Case, Without};
use super::log::{Log, Message, Sender};
use super::old::{Kind, Old, Progress, gtid, place_of, set};
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
    /// The newest token says all that there is to say.
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
                resume: ResumePoint { before: set(old.binlog.len()), last: None },
                table: TableProgress::default(),
            },
            None => return Err(Stop::Halted("progress_lost")),
        };
        let later = first && case.without == Without::PositionWithFirstEpoch;
        let progress = (!later).then(|| recorded.clone());
        old.log(Kind::Token { epoch, writes: writes + 1, progress }, case.replica);
        let Progress { resume, table: progress } = recorded;
        let todo = (case.copy[usize::from(old.shard)] && !progress.done).then(|| (0, progress.copied_to.clone()));
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
            self.history = History::new(shard, ResumePoint { before, last: None });
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
            self.guard = Some(match case.without {
                Without::Guard => GtidSet::new(),
                Without::GuardOfPrimary => set(old.shown),
                _ => set(old.binlog.len()),
            });
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
    pub fn token(&mut self, old: &mut Old, save: bool, case: &Case) -> Result<(), Stop> {
        let (epoch, writes) = old.token();
        if epoch != self.epoch && !(save && case.without == Without::EpochOfProgress) {
            return Err(Stop::Superseded);
        }
        let progress = self.unsaved.take_if(|_| save).map(|(resume, tables)| {
            let kept = || old.progress().map(|had| had.table.clone()).unwrap_or_default();
            let table = tables.last().map_or_else(kept, |saved| saved.progress.clone());
            Progress { resume, table }
        });
        old.log(Kind::Token { epoch, writes: writes + 1, progress }, case.replica);
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
        let opening = self.history.open(gtid(seq))?;
        if let Kind::Rows(write) = &group.kind {
            let mut rows = old.rows_at(self.at, 0);
            for (index, &act) in write.iter().enumerate() {
                if cut == Some(index) {
                    let partial = match opening {
                        Opening::Proof => None,
                        Opening::New { from_change } => Some(Partial {
                            gtid: gtid(seq),
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
                    let position = Position { gtid: gtid(seq), ordinal: index as u32 * 2 };
                    self.change(act.id(), before, after, position, log, table, case);
                }
                let checksum = old.part_checksum(seq, index + 1);
                self.history.progress(gtid(seq), index as u64 + 1, checksum)?;
            }
        }
        let digest = old.digest(seq);
        self.history.close(digest)?;
        self.at = seq;
        match group.kind {
            Kind::Token { epoch, writes, .. } if opening != Opening::Proof => {
                if epoch > self.epoch {
                    return Err(Stop::Superseded);
                }
                if epoch == self.epoch {
                    self.seen = Some(writes);
                }
                let early = case.without == Without::CopiedAfterEntry && self.requests.is_empty();
                let copied = self.copied || (early && !self.waiting.is_empty());
                let token = Token {
                    gtids: self.history.done().clone(),
                    digest,
                    writes,
                    clock_us: seq as i64,
                    copied,
                };
                self.sender.send_all(log, |envelope| Message::token(envelope, &token));
                let sent = self.sender.sent.clone();
                self.tokens.sent(self.history.resume_point(), sent, vec![0; log.len()]);
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

    /// May a chunk be opened?
    pub fn can_open_chunk(&self) -> bool {
        self.seen.is_some() && self.guard.is_some() && self.schedule.clone().next().is_some()
    }

    pub fn open_chunk(&mut self, case: &Case) {
        let Some(seen) = self.seen else { return };
        let early = case.without != Without::RecordingBeforeChunk;
        if early {
            self.touched.get_or_insert_with(|| Touched::new(seen, case.touched_keys_max));
        }
        if let Some(request) = self.schedule.next() {
            self.opened_at.push(seen);
            self.requests.push(request);
        }
    }

    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// May a chunk that shows the first `visible` groups be read? Once a table has been begun
    /// again, only with a token that will do: the model need not try for ever.
    pub fn can_read_chunk(&self, index: usize, visible: usize, old: &Old, case: &Case) -> bool {
        let (epoch, token) = old.token_at(visible);
        let will_do = case.without == Without::RecordingBeforeChunk
            || (epoch == self.epoch && self.touched.as_ref().is_some_and(|t| enters(t, token)));
        self.requests[index].generation == 0 || will_do
    }

    /// Reads a chunk in a snapshot that shows the first `visible` groups.
    pub fn read_chunk(&mut self, index: usize, visible: usize, old: &Old, case: &Case) {
        let request = self.requests.remove(index);
        if case.without == Without::RecordingBeforeChunk {
            self.touched.get_or_insert_with(|| Touched::new(0, case.touched_keys_max));
        }
        let (epoch, token) = old.token_at(visible);
        let after = request.after.as_ref().map(|key| key[0][0]);
        let mut left: Vec<(u8, Row)> = old
            .rows_at(visible, 0)
            .into_iter()
            .filter(|(id, _)| after.is_none_or(|after| *id > after))
            .collect();
        let more = case.small_chunks && !left.is_empty();
        if more {
            left.truncate(1);
        }
        let next_after = more.then(|| vec![vec![left[0].0]]);
        let goal = Duration::from_millis(1);
        self.schedule.was_read(0, left.len(), left.len(), goal, next_after.clone());
        let high = set(old.shown);
        self.waiting.push_back(Chunk { request, epoch, token, high, rows: left, next_after });
    }

    /// What becomes of the chunk that is next to enter; `None` while there is nothing to decide.
    pub fn admission(&self, case: &Case) -> Option<Admission> {
        let chunk = self.waiting.front()?;
        let own = case.without == Without::OwnToken;
        let nothing = GtidSet::new();
        let shown = Shown {
            epoch: if own { self.epoch } else { chunk.epoch },
            token: chunk.token,
            high: if case.without == Without::High { &self.resume.before } else { &chunk.high },
        };
        let passed = Passed {
            epoch: self.epoch,
            done: self.history.done(),
            token_seen: if own { Some(u64::MAX) } else { self.seen },
            guard: if case.without == Without::Guard {
                Some(&nothing)
            } else {
                self.guard.as_ref()
            },
        };
        match admit(shown, passed, self.touched.as_ref()) {
            Admission::Wait => None,
            decided => Some(decided),
        }
    }

    /// The chunk that is next enters the log, or is read again.
    pub fn enter(&mut self, admission: Admission, log: &mut Log, table: &Table, case: &Case) {
        let Some(chunk) = self.waiting.pop_front() else { return };
        if admission == Admission::ReadAgain {
            self.waiting.clear();
            self.requests.clear();
            self.opened_at.clear();
            self.schedule.rewind(0, chunk.request.after, chunk.request.rows / 2);
            return;
        }
        for (id, row) in &chunk.rows {
            let touched =
                self.touched.as_ref().is_some_and(|t| t.since(&table.key(*id), chunk.token));
            if touched && case.without != Without::TouchedKeys {
                continue;
            }
            let to = table.place(self.shard, &Cells::new(*id, row));
            self.send(*id, row, Op::Upsert, to, None, log, table);
        }
        let finished = self.schedule.entered(0);
        self.opened_at.remove(0);
        self.progress.rows_copied += chunk.rows.len() as u64;
        self.progress.done = finished;
        if let Some(key) = chunk.next_after {
            self.progress.copied_to = Some(key);
        }
        let saved =
            SavedTable { name: "t".to_owned(), progress: self.progress.clone(), rows_estimated: 0 };
        if case.without == Without::TokenAfterChunk {
            let resume = self.resume.clone();
            self.unsaved.get_or_insert_with(|| (resume, Vec::new())).1.push(saved);
        } else {
            self.tokens.entered(saved);
        }
        self.entered = true;
        if finished {
            self.touched = None;
        } else if let (Some(touched), Some(seen)) = (&mut self.touched, self.seen) {
            touched.forget_before(self.opened_at.iter().copied().min().unwrap_or(seen));
        }
        self.copied = self.schedule.finished();
    }

    /// Has the tail read all that there is, and said so?
    pub fn idle(&self, old: &Old) -> bool {
        self.history.done().contains(&set(old.binlog.len()))
    }
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
