//! A reader's place in a feed, and where a reader's events come from.

use std::sync::Arc;

use super::feeding::{Bell, Feed};
use super::ring::{Chunk, Held, Passed, Place};
use crate::binlog::{BinlogError, EventStream};

/// What comes next in the log.
#[derive(Debug)]
pub enum Item<'a> {
    Event(&'a [u8]),
    /// A whole group in which the reader has no table but its token's.
    Passed(Passed<'a>),
}

/// A reader's place in a feed.
pub struct Joined {
    feed: Arc<Feed>,
    bell: Arc<Bell>,
    schema: Vec<u8>,
    /// Of the event that comes next.
    place: Place,
    chunk: Option<Arc<Chunk>>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.feed.leave(&self.bell);
    }
}

impl Joined {
    pub(super) fn new(feed: Arc<Feed>, place: Place, schema: Vec<u8>) -> Joined {
        let bell = feed.bell(schema.clone());
        Joined { feed, bell, schema, place, chunk: None }
    }

    /// Is the next event here?
    fn ready(&mut self) -> Result<bool, BinlogError> {
        loop {
            if let Some(chunk) = &self.chunk {
                if chunk.event(self.place.event).is_some() {
                    return Ok(true);
                }
                self.chunk = None;
                self.place = Place { chunk: self.place.chunk + 1, event: 0 };
            }
            match self.feed.held(self.place.chunk)? {
                Held::Chunk(chunk) => self.chunk = Some(chunk),
                Held::Coming | Held::Gone => return Ok(false),
            }
        }
    }

    /// What is [ready](Self::ready).
    fn take(&mut self) -> Option<Item<'_>> {
        let (chunk, event) = (self.chunk.as_ref()?, self.place.event);
        if let Some((passed, next)) = chunk.passed(event, &self.schema) {
            self.place.event = next;
            return Some(Item::Passed(passed));
        }
        self.place.event += 1;
        chunk.event(event).map(Item::Event)
    }

    fn here(&mut self) -> Result<Option<Item<'_>>, BinlogError> {
        Ok(if self.ready()? { self.take() } else { None })
    }

    /// Wakes only for what concerns this reader, and before the rest is let go. Cancel safe.
    async fn next(&mut self) -> Result<Item<'_>, BinlogError> {
        while !self.ready()? {
            // A ring that comes before this is kept.
            self.bell.rung.notified().await;
        }
        let at = self.feed.at.clone();
        self.take().ok_or(BinlogError::NotAnEvent { at })
    }
}

/// Where a reader's events come from.
pub enum Source {
    Own(Box<EventStream>),
    Joined(Joined),
}

impl Source {
    /// The server at the other end of the reader's own connection.
    pub fn own(&self) -> Option<u32> {
        match self {
            Source::Own(stream) => Some(stream.server_id()),
            Source::Joined(_) => None,
        }
    }

    /// What comes next if it is here already.
    #[inline]
    pub fn here(&mut self) -> Result<Option<Item<'_>>, BinlogError> {
        match self {
            Source::Own(stream) => Ok(stream.here()?.map(Item::Event)),
            Source::Joined(joined) => joined.here(),
        }
    }

    /// What comes next. Cancel safe.
    #[inline]
    pub async fn next(&mut self) -> Result<Item<'_>, BinlogError> {
        match self {
            Source::Own(stream) => Ok(Item::Event(stream.next().await?)),
            Source::Joined(joined) => joined.next().await,
        }
    }
}
