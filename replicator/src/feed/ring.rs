//! The newest events of a binlog, in memory, for several readers at places of their own. Pure.
//!
//! Events come in chunks, so that neither they nor their readers pay for a lock each. What is older
//! than the bound on bytes is let go, whoever has not read it yet: a reader that is behind goes on
//! over a connection of its own, and none waits for another.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use modshift_proto::{GroupDigest, Gtid, GtidSet};

use super::judge::{Holds, Judged};

/// A few thousand transactions of an ordinary application; a reader that is further behind has
/// stood still for a moment.
pub const BYTES_MAX: usize = 16 << 20;

/// Where a group begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupStart {
    /// Its first event's place in the chunk.
    event: usize,
    gtid: Gtid,
    /// What its domain ended with before it.
    before: Option<Gtid>,
    /// Known where all of it is in the chunk.
    whole: Option<Whole>,
}

/// A complete group of nothing but rows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whole {
    judged: Judged,
    /// Its first event's place, and that of the event behind its last.
    events: Range<usize>,
}

/// A group in which a reader has no rows but its token's: all that it must know of it.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'a> {
    pub digest: GroupDigest,
    pub events: u64,
    pub bytes: u64,
    pub token: Token<'a>,
}

/// The events that hold a reader's token, what names its table with them; or none.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    chunk: &'a Chunk,
    from: usize,
    end: usize,
}

impl<'a> Iterator for Token<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let event = (self.from < self.end).then(|| self.chunk.event(self.from))??;
        self.from += 1;
        Some(event)
    }
}

/// Whom what has come concerns.
#[derive(Debug, PartialEq, Eq)]
pub enum Concerned<'a> {
    Everyone,
    /// Readers of these schemas, perhaps named again and again.
    Schemas(Vec<&'a [u8]>),
}

/// Events that arrived together.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    /// Where each event ends in `bytes`.
    ends: Vec<usize>,
    groups: Vec<GroupStart>,
}

impl Chunk {
    pub fn event(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        Some(&self.bytes[self.start(index)..end])
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |previous| self.ends[previous])
    }

    /// The group that begins with this event, if a reader of the schema may pass it by, and the
    /// event behind it.
    pub fn passed(&self, index: usize, schema: &[u8]) -> Option<(Passed<'_>, usize)> {
        let group = self.groups.binary_search_by_key(&index, |group| group.event).ok()?;
        let Whole { judged, events } = self.groups[group].whole.as_ref()?;
        let token = match judged.parts.iter().find(|part| part.schema == schema) {
            None => 0..0,
            Some(part) => match &part.holds {
                Holds::Token(token) => events.start + token.start..events.start + token.end,
                Holds::Rows => return None,
            },
        };
        let token = Token { chunk: self, from: token.start, end: token.end };
        let bytes = self.ends[events.end - 1] - self.start(events.start);
        let (count, bytes) = (events.len() as u64, bytes as u64);
        Some((Passed { digest: judged.digest, events: count, bytes, token }, events.end))
    }

    pub fn concerned(&self) -> Concerned<'_> {
        let wholes = || self.groups.iter().filter_map(|group| group.whole.as_ref());
        if wholes().map(|whole| whole.events.len()).sum::<usize>() < self.ends.len() {
            return Concerned::Everyone;
        }
        let parts = wholes().flat_map(|whole| &whole.judged.parts);
        Concerned::Schemas(parts.map(|part| part.schema.as_slice()).collect())
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// A place in the ring: the chunk, and the event in it, that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub chunk: u64,
    pub event: usize,
}

/// What the ring has at a place.
#[derive(Debug)]
pub enum Held {
    Chunk(Arc<Chunk>),
    /// Not there yet.
    Coming,
    /// Not there any more.
    Gone,
}

/// Fills the next chunk, and knows which groups came before.
#[derive(Debug)]
pub struct Filling {
    chunk: Chunk,
    /// Groups that have begun, since the log was asked for.
    begun: GtidSet,
}

impl Filling {
    /// The log is asked for everything after `start`.
    pub fn new(start: GtidSet) -> Filling {
        Filling { chunk: Chunk::default(), begun: start }
    }

    /// `gtid`: the event begins this group. `ended`: it ended this one.
    pub fn push(&mut self, event: &[u8], gtid: Option<Gtid>, ended: Option<Judged>) {
        let chunk = &mut self.chunk;
        if let Some(gtid) = gtid {
            let (event, before) = (chunk.ends.len(), self.begun.get(gtid.domain));
            chunk.groups.push(GroupStart { event, gtid, before, whole: None });
            self.begun.set(gtid);
        }
        chunk.bytes.extend_from_slice(event);
        chunk.ends.push(chunk.bytes.len());
        // The first part of a group may be in an earlier chunk.
        if let (Some(judged), Some(group)) = (ended, chunk.groups.last_mut())
            && judged.digest.gtid == group.gtid
        {
            let events = group.event..chunk.ends.len();
            group.whole = Some(Whole { judged, events });
        }
    }

    pub fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// What has come together, and the groups that have begun by its end.
    pub fn take(&mut self) -> (Chunk, GtidSet) {
        (std::mem::take(&mut self.chunk), self.begun.clone())
    }
}

#[derive(Debug)]
pub struct Ring {
    chunks: VecDeque<Arc<Chunk>>,
    /// Number of the first of them.
    first: u64,
    bytes: usize,
    /// Groups that have begun by the end of the newest chunk.
    begun: GtidSet,
}

impl Ring {
    pub fn new(start: GtidSet) -> Ring {
        Ring { chunks: VecDeque::new(), first: 0, bytes: 0, begun: start }
    }

    pub fn push(&mut self, chunk: Chunk, begun: GtidSet) {
        self.bytes += chunk.bytes();
        self.chunks.push_back(Arc::new(chunk));
        self.begun = begun;
        // The newest stays, however large: an event may be.
        while self.bytes > BYTES_MAX && self.chunks.len() > 1 {
            if let Some(oldest) = self.chunks.pop_front() {
                self.bytes -= oldest.bytes();
                self.first += 1;
            }
        }
    }

    pub fn held(&self, chunk: u64) -> Held {
        match chunk.checked_sub(self.first).map(usize::try_from) {
            None => Held::Gone,
            Some(index) => match index.ok().and_then(|index| self.chunks.get(index)) {
                Some(chunk) => Held::Chunk(Arc::clone(chunk)),
                None => Held::Coming,
            },
        }
    }

    /// Where the group `gtid` begins, provided that exactly the groups of `before` came before it:
    /// who has read those elsewhere goes on from here without a gap.
    pub fn find(&self, gtid: Gtid, before: &GtidSet) -> Option<Place> {
        let mut begun = self.begun.clone();
        for (index, chunk) in self.chunks.iter().enumerate().rev() {
            for group in chunk.groups.iter().rev() {
                match group.before {
                    Some(before) => begun.set(before),
                    None => begun.remove(group.gtid.domain),
                }
                if group.gtid == gtid {
                    let place = Place { chunk: self.first + index as u64, event: group.event };
                    return (begun == *before).then_some(place);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::Part;
    use super::*;

    fn gtid(domain: u32, seq: u64) -> Gtid {
        Gtid { domain, server: 1, seq }
    }

    fn set(text: &str) -> GtidSet {
        text.parse().expect("a set")
    }

    /// A ring from 0-1-4 on, with these groups of two events in a chunk each.
    fn ring(groups: &[Gtid]) -> Ring {
        let mut filling = Filling::new(set("0-1-4"));
        let mut ring = Ring::new(set("0-1-4"));
        for gtid in groups {
            filling.push(b"begins", Some(*gtid), None);
            filling.push(b"ends", None, None);
            let (chunk, begun) = filling.take();
            ring.push(chunk, begun);
        }
        ring
    }

    #[test]
    fn events_come_out_as_they_went_in() {
        let ring = ring(&[gtid(0, 5), gtid(0, 6)]);
        let Held::Chunk(chunk) = ring.held(1) else { panic!("not held") };
        assert_eq!(chunk.event(0), Some(b"begins".as_slice()));
        assert_eq!(chunk.event(1), Some(b"ends".as_slice()));
        assert_eq!(chunk.event(2), None);
        assert!(matches!(ring.held(2), Held::Coming));
    }

    #[test]
    fn a_place_is_found_only_behind_the_very_same_groups() {
        let ring = ring(&[gtid(0, 5), gtid(7, 1), gtid(0, 6), gtid(7, 2)]);
        let place = |chunk| Some(Place { chunk, event: 0 });
        assert_eq!(ring.find(gtid(0, 5), &set("0-1-4")), place(0));
        assert_eq!(ring.find(gtid(7, 1), &set("0-1-5")), place(1));
        assert_eq!(ring.find(gtid(0, 6), &set("0-1-5,7-1-1")), place(2));
        assert_eq!(ring.find(gtid(7, 2), &set("0-1-6,7-1-1")), place(3));
        // Another history: a domain not read, one more read, another server's group.
        assert_eq!(ring.find(gtid(0, 6), &set("0-1-5")), None);
        assert_eq!(ring.find(gtid(7, 1), &set("0-1-5,9-1-1")), None);
        assert_eq!(ring.find(Gtid { server: 2, ..gtid(0, 5) }, &set("0-1-4")), None);
        assert_eq!(ring.find(gtid(0, 9), &set("0-1-8")), None, "not there yet");
    }

    #[test]
    fn groups_of_one_chunk_have_places_of_their_own() {
        let mut filling = Filling::new(set(""));
        filling.push(b"format", None, None);
        filling.push(b"a", Some(gtid(0, 1)), None);
        filling.push(b"b", Some(gtid(0, 2)), None);
        let mut ring = Ring::new(set(""));
        let (chunk, begun) = filling.take();
        ring.push(chunk, begun);
        assert_eq!(ring.find(gtid(0, 1), &set("")), Some(Place { chunk: 0, event: 1 }));
        assert_eq!(ring.find(gtid(0, 2), &set("0-1-1")), Some(Place { chunk: 0, event: 2 }));
    }

    fn judged(seq: u64, schemas: &[&str]) -> Judged {
        let digest = GroupDigest { gtid: gtid(0, seq), checksum: seq as u32 };
        let rows = |name: &&str| Part { schema: name.as_bytes().to_vec(), holds: Holds::Rows };
        Judged { digest, parts: schemas.iter().map(rows).collect() }
    }

    #[test]
    fn a_group_is_passed_by_only_where_it_is_whole_and_of_other_schemas() {
        let mut filling = Filling::new(set(""));
        filling.push(b"gtid", Some(gtid(0, 1)), None);
        filling.push(b"rows", None, None);
        filling.push(b"commit", None, Some(judged(1, &["a", "b"])));
        filling.push(b"gtid", Some(gtid(0, 2)), None);
        let (chunk, _) = filling.take();
        let digest = judged(1, &[]).digest;
        let passed = |chunk: &Chunk, at, schema: &str| {
            let (passed, next) = chunk.passed(at, schema.as_bytes())?;
            let token: Vec<Vec<u8>> = passed.token.map(<[u8]>::to_vec).collect();
            Some((passed.digest, passed.events, passed.bytes, token, next))
        };
        let whole = Some((digest, 3, 14, Vec::new(), 3));
        assert_eq!(passed(&chunk, 0, "c"), whole);
        assert_eq!(passed(&chunk, 0, "A"), whole, "names are what the binlog says");
        assert_eq!((passed(&chunk, 0, "a"), passed(&chunk, 0, "b")), (None, None));
        assert_eq!((passed(&chunk, 1, "c"), passed(&chunk, 3, "c")), (None, None));
        assert_eq!(chunk.concerned(), Concerned::Everyone, "one of the groups goes on");
        // What ends here began in the chunk before: nobody has passed its beginning by.
        filling.push(b"commit", None, Some(judged(2, &["a"])));
        filling.push(b"gtid", Some(gtid(0, 3)), None);
        filling.push(b"commit", None, Some(judged(3, &["a"])));
        let (chunk, _) = filling.take();
        assert_eq!((passed(&chunk, 0, "c"), passed(&chunk, 1, "c").is_some()), (None, true));
        assert_eq!(chunk.concerned(), Concerned::Everyone);
        filling.push(b"gtid", Some(gtid(0, 4)), None);
        filling.push(b"commit", None, Some(judged(4, &["a"])));
        let (chunk, _) = filling.take();
        assert_eq!(chunk.concerned(), Concerned::Schemas(vec![b"a"]));
        // Who has no more than a token in it is shown that, and is woken for it.
        filling.push(b"gtid", Some(gtid(0, 5)), None);
        filling.push(b"commit", None, Some(judged(5, &["a"])));
        filling.push(b"gtid", Some(gtid(0, 6)), None);
        for event in ["map a", "rows a", "map b", "rows b"] {
            filling.push(event.as_bytes(), None, None);
        }
        let holds = [("a", Holds::Token(1..3)), ("b", Holds::Rows)];
        let part = |(name, holds): (&str, Holds)| Part { schema: name.as_bytes().to_vec(), holds };
        let judged = Judged { parts: holds.map(part).into(), ..judged(6, &[]) };
        filling.push(b"commit", None, Some(judged));
        let (chunk, _) = filling.take();
        let token = vec![b"map a".to_vec(), b"rows a".to_vec()];
        let of_a = passed(&chunk, 2, "a").map(|(_, events, _, token, next)| (events, token, next));
        assert_eq!(of_a, Some((6, token, 8)));
        assert_eq!((passed(&chunk, 2, "b"), passed(&chunk, 2, "c").is_some()), (None, true));
        assert_eq!(chunk.concerned(), Concerned::Schemas(vec![b"a", b"a", b"b"]));
    }

    #[test]
    fn what_is_beyond_the_bound_is_gone_but_never_the_newest() {
        let mut filling = Filling::new(set(""));
        let mut ring = Ring::new(set(""));
        for seq in 1..=3 {
            filling.push(&vec![0; BYTES_MAX / 2 + 1], Some(gtid(0, seq)), None);
            let (chunk, begun) = filling.take();
            ring.push(chunk, begun);
        }
        assert!(matches!(ring.held(1), Held::Gone));
        assert!(matches!(ring.held(2), Held::Chunk(_)));
        assert_eq!(ring.find(gtid(0, 2), &set("0-1-1")), None);
        filling.push(&vec![0; BYTES_MAX * 2], None, None);
        let (chunk, begun) = filling.take();
        ring.push(chunk, begun);
        assert!(matches!(ring.held(3), Held::Chunk(_)));
        assert_eq!(ring.bytes, BYTES_MAX * 2);
    }
}
