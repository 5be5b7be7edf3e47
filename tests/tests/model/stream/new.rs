//! A new shard: rows, parked rows and watermarks, and the appliers that believe they own it.
//!
//! What a message means is decided by the shipped `Stream`, whose the shard is by the shipped
//! `Versions`, and how a batch is merged by the shipped roads over the maps of the consumer's
//! own model.

use std::collections::BTreeMap;

use modshift_consumer::sequence::{Dropped, Stream, Verdict, Watermark};
use modshift_consumer::watermark::{Kept, Move, Outcome, Versions};
use modshift_proto::message::{Body, Envelope, Start, decode};
use modshift_proto::{OldShard, Position};

use super::case::{Case, Without};
use super::log::Message;
use super::reader::act_of;
use crate::places::{self, Act, Model, Row, Rows};
use crate::shared::Shared;

/// A batch on its way into the database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    pub moves: Vec<Move>,
    acts: Vec<(u16, Act)>,
    offset: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Applier {
    versions: Versions,
    streams: Vec<Stream>,
    /// Messages of the partition read so far.
    pub read: usize,
    pub cut: Option<Cut>,
    /// COMMIT was sent and not answered.
    pub unknown: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct New {
    pub rows: Rows,
    pub parked: BTreeMap<(u16, u8), Row>,
    /// By old shard: version and watermark.
    pub kept: Vec<Option<(u64, Watermark)>>,
    /// Where to resume the partition, stored with the watermarks.
    pub offset: usize,
    pub appliers: Vec<Shared<Applier>>,
    owners: u16,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Commit {
    Answered,
    /// It was done, or not, and nobody said which.
    Unanswered {
        done: bool,
    },
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Committed,
    /// Not done, or nobody knows.
    Open,
    /// Another applier owns the shard.
    TakenOver,
    Halted(&'static str),
}

impl New {
    pub fn empty(old: u16) -> New {
        let mut new = New {
            rows: Rows::new(),
            parked: BTreeMap::new(),
            kept: vec![None; old.into()],
            offset: 0,
            appliers: Vec::new(),
            owners: 0,
        };
        new.take_over();
        new
    }

    /// A further applier begins: `watermark::take_over`.
    pub fn take_over(&mut self) {
        let kept: Vec<Kept> = self.kept.iter().enumerate().filter_map(kept).collect();
        let sources = self.kept.len() as u16;
        self.owners += 1;
        let versions = Versions::take_over(&kept, sources, self.owners);
        for (version, _) in self.kept.iter_mut().flatten() {
            *version = versions.base();
        }
        let mark = |source: u16| self.kept[usize::from(source)].as_ref().map(|(_, m)| m.clone());
        self.appliers.push(Shared::new(Applier {
            versions,
            streams: (0..sources).map(|i| Stream::new(OldShard(i), mark(i))).collect(),
            read: self.offset,
            cut: None,
            unknown: false,
        }));
    }

    /// One transaction: compare and set, merge, commit. Moves that go back are a fault.
    pub fn commit(&mut self, applier: usize, commit: Commit, case: &Case) -> Attempt {
        let Some(cut) = self.appliers[applier].cut.clone() else { return Attempt::Open };
        let versions = self.appliers[applier].versions.clone();
        let touched = versions.touched(&cut.moves);
        let ours = touched.iter().all(|&source| {
            let found = &self.kept[usize::from(source.0)];
            found.as_ref().map(|(version, _)| *version) == versions.of(source)
        });
        if !ours && case.without != Without::CompareAndSet {
            return Attempt::TakenOver;
        }
        let done = commit != Commit::Unanswered { done: false };
        if done {
            if !cut.acts.is_empty() {
                let without = match case.without {
                    Without::Merging(rule) => rule,
                    _ => places::Without::Nothing,
                };
                let mut model = Model::new(std::mem::take(&mut self.rows), without);
                model.parked = std::mem::take(&mut self.parked);
                if model.apply(&cut.acts).is_err() {
                    return Attempt::Halted("own_row");
                }
                (self.rows, self.parked) = (model.rows, model.parked);
            }
            for source in touched {
                let row = &mut self.kept[usize::from(source.0)];
                let moved = cut.moves.iter().find(|moved| moved.source == source);
                let mark = moved.map(|moved| &moved.mark);
                let mark =
                    mark.or(row.as_ref().map(|(_, mark)| mark)).expect("a row that is there");
                if row.as_ref().is_some_and(|(_, had)| !mark.follows(had)) {
                    return Attempt::Halted("watermark_back");
                }
                *row = Some((versions.after(source), mark.clone()));
            }
            self.offset = cut.offset;
        }
        let applier = &mut self.appliers[applier];
        if commit != Commit::Answered {
            applier.unknown = true;
            return Attempt::Open;
        }
        applier.versions.committed(&cut.moves);
        applier.cut = None;
        Attempt::Committed
    }

    /// After a COMMIT that nobody answered: `Versions::resolve`.
    pub fn resolve(&mut self, applier: usize, case: &Case) -> Attempt {
        let found: Vec<(u16, u64)> = self
            .kept
            .iter()
            .enumerate()
            .filter_map(|(source, row)| row.as_ref().map(|(version, _)| (source as u16, *version)))
            .collect();
        let applier = &mut self.appliers[applier];
        let Some(cut) = applier.cut.clone() else { return Attempt::Open };
        let outcome = match case.without {
            Without::CommitOutcome => Outcome::NotCommitted,
            _ => applier.versions.outcome(&cut.moves, &found),
        };
        match outcome {
            Outcome::Committed => {
                applier.versions.committed(&cut.moves);
                (applier.cut, applier.unknown) = (None, false);
                Attempt::Committed
            }
            Outcome::NotCommitted => {
                applier.unknown = false;
                Attempt::Open
            }
            Outcome::TakenOver => Attempt::TakenOver,
        }
    }

    /// Rows of an old shard here, in their place or parked.
    pub fn of(&self, shard: u16) -> Option<Rows> {
        let mut rows: Rows = self
            .rows
            .iter()
            .filter(|(_, row)| row.owner == shard)
            .map(|(&id, &row)| (id, row))
            .collect();
        for (&(owner, id), &row) in &self.parked {
            if owner == shard && rows.insert(id, row).is_some() {
                return None; // both
            }
        }
        Some(rows)
    }
}

fn kept((source, row): (usize, &Option<(u64, Watermark)>)) -> Option<Kept> {
    let (version, mark) = row.clone()?;
    let source = OldShard(source as u16);
    Some(Kept { source, version, mark, offset: None, halted: None })
}

/// Groups and changes of the next one that a watermark covers.
pub fn covered(mark: &Watermark) -> (usize, Option<Position>) {
    let groups = super::old::place_of(&mark.gtids);
    match mark.partial {
        // A group in progress begins where the watermark ends, or later: nothing lies between.
        Some(partial) if !mark.gtids.covers(partial.position.gtid) => {
            (partial.position.gtid.seq as usize - 1, Some(partial.position))
        }
        _ => (groups, None),
    }
}

impl Applier {
    /// Takes in the next messages of the partition.
    pub fn gather(
        &mut self,
        partition: &[Message],
        count: usize,
        case: &Case,
    ) -> Result<(), &'static str> {
        if self.read > partition.len() {
            return Err("offset_gone");
        }
        let mut moved = vec![false; self.streams.len()];
        let mut acts = Vec::new();
        for message in &partition[self.read..self.read + count] {
            let (envelope, body) = decode(&message.0).expect("what was encoded decodes");
            let source = envelope.source.0;
            let stream = &mut self.streams[usize::from(source)];
            let (envelope, forged) = forge(stream, envelope, &body, case.without);
            let verdict = stream
                .accept(&envelope, forged.as_ref().unwrap_or(&body))
                .map_err(|error| error.reason())?;
            if let (Verdict::Apply, Body::Change(change)) = (verdict, &body) {
                acts.push((source, act_of(change)));
            }
            let nothing = matches!(verdict, Verdict::Drop(Dropped::Number | Dropped::Epoch));
            moved[usize::from(source)] |= !nothing;
            self.read += 1;
        }
        let moves: Vec<Move> = self
            .streams
            .iter()
            .zip(moved)
            .filter(|(_, moved)| *moved)
            .filter_map(|(stream, _)| {
                Some(Move { source: stream.source(), mark: stream.mark()?.clone() })
            })
            .collect();
        // What moves nothing is only read over.
        self.cut = (!moves.is_empty()).then_some(Cut { moves, acts, offset: self.read });
        Ok(())
    }
}

/// Makes a message look as if a check had let it pass: how a rule is left out of shipped code.
fn forge<'a>(
    stream: &Stream,
    mut envelope: Envelope,
    body: &Body<'a>,
    without: Without,
) -> (Envelope, Option<Body<'a>>) {
    let mut forged = None;
    match (without, stream.mark(), body) {
        (Without::EpochDrop, Some(mark), _) if envelope.epoch < mark.epoch => {
            (envelope.epoch, envelope.number) = (mark.epoch, mark.number + 1);
            if let Body::Start(_) = body {
                // Let it pass once more: a marker inside an epoch is another matter.
                envelope.number = mark.number;
            }
        }
        (Without::NumberDrop, Some(mark), Body::Change(_) | Body::Token(_))
            if envelope.epoch == mark.epoch && envelope.number <= mark.number =>
        {
            envelope.number = mark.number + 1;
            if let Body::Change(change) = body {
                let change = modshift_proto::message::Change { position: None, ..*change };
                forged = Some(Body::Change(change));
            }
        }
        (Without::NumberGap, Some(mark), Body::Change(_) | Body::Token(_))
            if envelope.epoch == mark.epoch && envelope.number > mark.number =>
        {
            envelope.number = mark.number + 1;
        }
        (Without::PositionDrop, Some(mark), Body::Change(change))
            if envelope.epoch == mark.epoch
                && change.position.is_some_and(|at| mark.gtids.covers(at.gtid)) =>
        {
            let change = modshift_proto::message::Change { position: None, ..*change };
            forged = Some(Body::Change(change));
        }
        (Without::StartMarker, Some(mark), Body::Start(_)) if envelope.epoch > mark.epoch => {
            let gtids = mark.gtids.clone();
            let digest = mark.token.map(|token| token.digest);
            // As if the reader had resumed right where this shard is.
            forged = Some(Body::Start(Start {
                gtids,
                digest,
                initial: digest.is_none(),
                anew: vec![],
                tables: 0,
                skipped: vec![],
            }));
        }
        (Without::InitialMarker, None, Body::Start(start)) => {
            forged = Some(Body::Start(Start { initial: true, ..start.clone() }));
        }
        _ => {}
    }
    (envelope, forged)
}
