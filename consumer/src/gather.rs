//! Messages -> the next batch and where the watermarks stand after it.

use std::time::{Duration, Instant};

use modshift_changelog::{Delivery, Offset};
use modshift_proto::message::{Body, decode, of_stream};
use modshift_proto::{NewShard, OldShard};

use crate::apply::{Cut, numbers};
use crate::batch::{Batch, Limits, RowChange};
use crate::error::ApplyError;
use crate::metrics;
use crate::record::Passing;
use crate::sequence::{Dropped, Stream, Verdict, Watermark};
use crate::target::{Key, Target};
use crate::watermark::{Kept, Move};

/// Heartbeats alone are no hurry: old shards send theirs at the same time, nearly, and a transaction
/// for each would cost more than the rows. Well below the lag that a gate asks for.
const TOKENS_AGE_MAX: Duration = Duration::from_millis(50);

/// Takes messages in, in the order of the partition. Ahead of what has been applied by the batch
/// that is being applied and the one that is being gathered; it never has to go back, because a
/// batch is retried until it is in, or the applier ends.
pub struct Gather {
    shard: NewShard,
    streams: Vec<Stream>,
    limits: Limits,
    age: Duration,
    batch: Batch,
    /// Index = old shard: something of it was taken in since the last cut.
    moved: Vec<bool>,
    /// Index = old shard: a token was among it.
    tokens: Vec<bool>,
    anew: Vec<(OldShard, u32)>,
    dropped: Vec<[u64; 3]>,
    next_offset: Option<Offset>,
    /// Index = old shard: where its watermark stood at the last cut, or in the beginning.
    cut_at: Vec<Option<Watermark>>,
    /// When the first change, and the first message of all, came.
    first_change: Option<Instant>,
    first_message: Option<Instant>,
    /// A marker is among it, or another token that is no mere heartbeat: somebody waits for it.
    urgent: bool,
    key: Key,
    passing: Passing,
}

impl Gather {
    pub fn new(
        shard: NewShard,
        sources: u16,
        kept: &[Kept],
        offset: Option<Offset>,
        limits: Limits,
        age: Duration,
        passing: Passing,
    ) -> Gather {
        let mark = |source| kept.iter().find(|row| row.source == source).map(|r| r.mark.clone());
        let count = usize::from(sources);
        Gather {
            shard,
            streams: (0..sources).map(OldShard).map(|i| Stream::new(i, mark(i))).collect(),
            limits,
            age,
            passing,
            batch: Batch::default(),
            moved: vec![false; count],
            tokens: vec![false; count],
            anew: Vec::new(),
            dropped: vec![[0; 3]; count],
            next_offset: offset,
            cut_at: (0..sources).map(OldShard).map(mark).collect(),
            first_change: None,
            first_message: None,
            urgent: false,
            key: Key::default(),
        }
    }

    /// Where to read on from.
    pub fn next_offset(&self) -> Option<Offset> {
        self.next_offset
    }

    pub fn is_full(&self) -> bool {
        self.batch.is_full(&self.limits)
    }

    /// Something is here, and nobody waits for any of it.
    pub fn only_beats(&self) -> bool {
        self.first_message.is_some() && self.first_change.is_none() && !self.urgent
    }

    /// When what is here should be applied, full or not. `None`: there is nothing.
    pub fn due(&self) -> Option<Instant> {
        match (self.first_change, self.first_message) {
            (_, Some(first)) if self.urgent => Some(first),
            (Some(first), _) => Some(first + self.age),
            (None, Some(first)) => Some(first + self.age.max(TOKENS_AGE_MAX)),
            (None, None) => None,
        }
    }

    /// Takes one message in. After an error everything before it can still be cut and applied.
    pub fn take(&mut self, delivery: Delivery, target: &Target) -> Result<(), ApplyError> {
        let new = self.shard;
        let Delivery { message, offset } = delivery;
        let (envelope, mut body) = match decode(&message) {
            Ok(read) => read,
            Err(error) => {
                let record = self.passing.record(offset);
                if let Some(old) = of_stream(&message, self.streams.len() as u16) {
                    return Err(ApplyError::OtherVersion { new, record, old, error });
                }
                if self.passing.passes(offset) {
                    self.pass(offset);
                    return Ok(());
                }
                return Err(ApplyError::Message { new, record, error });
            }
        };
        let old = envelope.source;
        let index = usize::from(old.0);
        let Some(stream) = self.streams.get_mut(index) else {
            if self.passing.passes(offset) {
                self.pass(offset);
                return Ok(());
            }
            let (record, shards) = (self.passing.record(offset), self.streams.len() as u16);
            return Err(ApplyError::UnknownSource { new, record, old, shards });
        };
        if let Body::Change(change) = &mut body {
            change.table = target.numbered(change);
        }
        if let Body::Change(change) = &body
            && !stream.has(&envelope, change.position)
        {
            // Before the stream moves over it, so that an error leaves the message in place. A
            // change that will be dropped may well be of another definition or plan.
            target
                .check(old, change, &mut self.key)
                .map_err(|error| ApplyError::Change { new, error })?;
        }
        // Found before the stream moves, for the same reason; empty for everything but a marker.
        let anew = match &body {
            Body::Start(start) => numbers(target, old, &start.anew)
                .map_err(|error| ApplyError::Change { new, error })?,
            Body::Change(_) | Body::Token(_) => Vec::new(),
        };
        let verdict =
            stream.accept(&envelope, &body).map_err(|error| ApplyError::Sequence { new, error })?;
        match (verdict, &body) {
            (Verdict::Apply, Body::Change(change)) => {
                let row = place_in(&message, change.row);
                let change = RowChange {
                    source: old,
                    table: change.table,
                    key: self.key.bytes(),
                    op: change.op,
                    row: &[],
                };
                let bytes = message.clone();
                self.batch.push(bytes, row, change);
                if self.first_change.is_none() {
                    self.first_change = Some(Instant::now());
                }
            }
            (Verdict::Progress, Body::Token(token)) => {
                self.tokens[index] = true;
                self.urgent |= !token.beat;
            }
            (Verdict::Progress, Body::Start(_)) => {
                anew.iter().for_each(|&(source, table)| self.batch.forget(source, table));
                self.anew.extend(anew);
            }
            (Verdict::Drop(why), _) => self.dropped[index][why as usize] += 1,
            (Verdict::Apply | Verdict::Progress, _) => {}
        }
        // A message that had been taken before moves nothing.
        if !matches!(verdict, Verdict::Drop(Dropped::Number | Dropped::Epoch)) {
            self.moved[index] = true;
            if self.first_message.is_none() {
                self.first_message = Some(Instant::now());
            }
        }
        if let Some(offset) = offset {
            self.next_offset = self.next_offset.max(Some(offset + 1));
        }
        Ok(())
    }

    /// A record that is none of ours, as an operator has asked for. The watermark keeps where to read on
    /// from once the next message comes.
    fn pass(&mut self, offset: Option<Offset>) {
        tracing::warn!(target = self.shard.0, offset, "a record of somebody else is passed over");
        self.next_offset = self.next_offset.max(offset.map(|offset| offset + 1));
    }

    /// What has been gathered, if anything.
    pub fn cut(&mut self) -> Option<Cut> {
        self.report_dropped();
        let mut tokens = Vec::new();
        for (source, token) in self.tokens.iter_mut().enumerate() {
            if std::mem::take(token) {
                tokens.push(OldShard(source as u16));
            }
        }
        let mut moves = Vec::new();
        for (stream, moved) in self.streams.iter().zip(&mut self.moved) {
            if let Some(mark) = stream.mark().filter(|_| std::mem::take(moved)) {
                let had = self.cut_at[usize::from(stream.source().0)].replace(mark.clone());
                // Whatever a message says: the watermark of what has been applied is never set back.
                let follows = had.as_ref().is_none_or(|had| mark.follows(had));
                assert!(follows, "the watermark moves back: {mark:?} after {had:?}");
                moves.push(Move { source: stream.source(), mark: mark.clone() });
            }
        }
        (self.first_change, self.first_message, self.urgent) = (None, None, false);
        if moves.is_empty() {
            return None;
        }
        let batch = std::mem::take(&mut self.batch);
        let anew = std::mem::take(&mut self.anew);
        Some(Cut { batch, moves, anew, tokens, offset: self.next_offset })
    }

    fn report_dropped(&mut self) {
        for counts in &mut self.dropped {
            for why in [Dropped::Position, Dropped::Number, Dropped::Epoch] {
                let count = std::mem::take(&mut counts[why as usize]);
                if count > 0 {
                    metrics::dropped(self.shard, why, count);
                }
            }
        }
    }
}

/// Where a row that was decoded in place lies in its message.
fn place_in(message: &[u8], row: &[u8]) -> std::ops::Range<usize> {
    let start = row.as_ptr() as usize - message.as_ptr() as usize;
    debug_assert!(start + row.len() <= message.len());
    start..start + row.len()
}

#[cfg(test)]
mod tests {
    use modshift_proto::message::{
        Change, Envelope, Op, Start, Token, TokenPhase, encode_change, encode_start, encode_token,
    };
    use modshift_proto::plan::Plan;
    use modshift_proto::row::RowWriter;
    use modshift_proto::{Column, DataType, GroupDigest, Gtid, Position, TableSchema};

    use super::*;

    fn target() -> Target {
        let plan = "name = \"t\"\nmodulus = { old = 2, new = 3 }\n[log]\nkind = \"direct\"\n\
             [defaults]\nuser = \"u\"\npassword = \"p\"\ntls = \"off\"\n\
             [[old]]\nhost = \"h\"\nport = 1\nschema = \"a\"\n\
             [[old]]\nhost = \"h\"\nport = 1\nschema = \"b\"\n\
             [[new]]\nhost = \"h\"\nport = 2\nschema = \"a\"\n\
             [[new]]\nhost = \"h\"\nport = 2\nschema = \"b\"\n\
             [[new]]\nhost = \"h\"\nport = 2\nschema = \"c\"\n\
             [[table]]\nname = \"t\"\nkey = \"uid\"\nrule = \"floor_mod\"\n";
        let plan = Plan::parse(plan, &|_| None).unwrap();
        let column = |name: &str| Column {
            name: name.to_owned(),
            data: DataType::Int { bytes: 8, unsigned: false },
            type_text: "bigint(20)".to_owned(),
            charset: None,
            collation: None,
            nullable: false,
            generated: false,
        };
        let schema = TableSchema {
            name: "t".to_owned(),
            columns: vec![column("id"), column("uid")],
            primary_key: vec![0],
            unique_keys: Vec::new(),
        };
        Target::new(&plan, NewShard(1), vec![schema]).unwrap()
    }

    fn gather() -> Gather {
        let limits = Limits { rows: 10, bytes: 1 << 20 };
        let (age, passing) = (Duration::from_millis(20), Passing::default());
        Gather::new(NewShard(1), 2, &[], Some(70), limits, age, passing)
    }

    fn gtid(seq: u64) -> Gtid {
        Gtid { domain: 0, server: 1, seq }
    }

    /// Message `number` of old shard 0, at offset 100 + number; its group has number 10 + number.
    fn delivery(number: u64, what: &str) -> Delivery {
        let envelope = Envelope { source: OldShard(0), epoch: 1, number };
        let mut message = Vec::new();
        let gtids = [gtid(10 + number)].into_iter().collect();
        let digest = GroupDigest { gtid: gtid(10 + number), checksum: 0 };
        match what.split_once(' ') {
            None if what == "start" => {
                let (digest, anew, skipped) = (None, vec![], vec![]);
                let start = Start { gtids, digest, initial: true, anew, tables: 0, skipped };
                encode_start(&envelope, &start, &mut message);
            }
            None => {
                let token = Token {
                    gtids,
                    digest,
                    writes: 0,
                    clock_us: 5,
                    copied: false,
                    phase: TokenPhase::Serving,
                    fence: None,
                    beat: what == "beat",
                };
                encode_token(&envelope, &token, &mut message);
            }
            Some((id, uid)) => {
                let mut row = Vec::new();
                let mut writer = RowWriter::new(&mut row, 2);
                writer.int(id.parse().unwrap());
                writer.int(uid.parse().unwrap());
                writer.finish();
                let change = Change {
                    table: 0,
                    fingerprint: target().table(0).fingerprint,
                    position: Some(Position { gtid: gtid(10 + number), ordinal: 0 }),
                    op: Op::Upsert,
                    row: &row,
                };
                encode_change(&envelope, &change, &mut message);
            }
        }
        Delivery { message: message.into(), offset: Some(100 + number as i64) }
    }

    #[test]
    fn a_cut_has_the_last_images_and_where_the_watermark_stands_after_them() {
        let (target, mut gather) = (target(), gather());
        assert!(gather.cut().is_none() && gather.due().is_none());
        for (number, what) in ["start", "1 4", "2 4", "1 10", "token"].into_iter().enumerate() {
            gather.take(delivery(number as u64, what), &target).unwrap();
        }
        gather.take(delivery(2, "2 4"), &target).unwrap();
        assert!(gather.due().is_some());
        let cut = gather.cut().unwrap();
        assert_eq!((cut.batch.len(), cut.batch.changes()), (2, 3));
        assert_eq!((cut.offset, cut.tokens.as_slice()), (Some(105), [OldShard(0)].as_slice()));
        assert_eq!((cut.moves.len(), cut.moves[0].mark.number), (1, 4));
        assert_eq!(cut.moves[0].mark.gtids.to_string(), "0-1-14");
        assert!(gather.cut().is_none() && gather.due().is_none());
    }

    #[test]
    fn heartbeats_wait_for_each_other_and_a_marker_for_nobody() {
        let (target, mut gather) = (target(), gather());
        gather.take(delivery(0, "start"), &target).unwrap();
        gather.take(delivery(1, "beat"), &target).unwrap();
        let began = gather.first_message.unwrap();
        assert_eq!((gather.due(), gather.only_beats()), (Some(began + TOKENS_AGE_MAX), true));
        gather.take(delivery(2, "1 4"), &target).unwrap();
        assert!(!gather.only_beats());
        assert_eq!(gather.due(), gather.first_change.map(|first| first + gather.age));
        gather.take(delivery(3, "token"), &target).unwrap();
        assert_eq!(gather.due(), Some(began));
        gather.cut().unwrap();
        assert!(!gather.only_beats(), "nothing is here");
        gather.take(delivery(4, "beat"), &target).unwrap();
        assert_eq!(gather.due(), gather.first_message.map(|first| first + TOKENS_AGE_MAX));
    }

    #[test]
    fn a_record_is_passed_over_only_where_it_is_of_no_stream_of_the_plan() {
        let target = target();
        let asked = |message: &[u8], asked: &[Offset]| {
            let limits = Limits { rows: 10, bytes: 1 << 20 };
            let (age, passing) = (Duration::from_millis(20), Passing::of("changes", asked));
            let mut gather = Gather::new(NewShard(1), 2, &[], Some(70), limits, age, passing);
            let delivery = Delivery { message: message.to_vec().into(), offset: Some(70) };
            gather.take(delivery, &target).map(|()| gather.next_offset())
        };
        let foreign = b"{\"id\": 7}";
        let error = asked(foreign, &[69]).unwrap_err();
        let lies = error.skips().map(ToString::to_string);
        assert_eq!(lies.as_deref(), Some("topic changes, partition 1, offset 70"), "{error}");
        assert_eq!(asked(foreign, &[70]).unwrap(), Some(71));

        // Ours, in a wire version that is still to come.
        let mut ours = delivery(0, "start").message.to_vec();
        assert_eq!(ours[0], 8, "the tag of the version, and the version");
        ours[1] = 2;
        for passes in [&[][..], &[70]] {
            let error = asked(&ours, passes).unwrap_err();
            assert_eq!((error.class(), error.skips()), (crate::Class::Halt, None), "{error}");
            let text = error.halted_text(modshift_proto::plan::Direction::Forward);
            for word in ["of old shard 0", "offset 70", "wire version 2", "upgrade: "] {
                assert!(text.contains(word), "{word} is not in: {text}");
            }
            assert!(!text.contains("modshift skip"), "{text}");
        }
    }

    #[test]
    fn an_error_leaves_everything_before_it_to_be_applied() {
        let (target, mut gather) = (target(), gather());
        for (number, what) in ["start", "1 4"].into_iter().enumerate() {
            gather.take(delivery(number as u64, what), &target).unwrap();
        }
        let stray = gather.take(delivery(2, "1 7"), &target).unwrap_err();
        assert_eq!(stray.reason(), "stray");
        let misrouted = gather.take(delivery(2, "1 6"), &target).unwrap_err();
        assert_eq!((misrouted.reason(), misrouted.class()), ("misrouted", crate::Class::Fatal));
        let cut = gather.cut().unwrap();
        assert_eq!((cut.batch.len(), cut.moves[0].mark.number, cut.offset), (1, 1, Some(102)));
    }
}
