//! Numbers, encodes and sends changes to partitions, and knows which tokens are durable in all.

use modshift_changelog::{LogError, LogWriter};
use modshift_proto::message::{self, Change, ChangeHead, Envelope, Start, Token};
use modshift_proto::{NewShard, OldShard};

use crate::durable::SentTokens;
use crate::epoch::ResumePoint;
use crate::metrics;
use crate::route::Place;
use crate::token::SavedTable;

/// Capacity of a buffer that is kept from message to message.
const KEPT_MAX: usize = 1 << 20;

pub struct Publisher<W> {
    writer: W,
    source: OldShard,
    epoch: u64,
    /// Next message number of each partition.
    numbers: Vec<u64>,
    bytes: Vec<u64>,
    message: Vec<u8>,
    tokens: SentTokens,
    /// Messages of all partitions that the metrics know of.
    counted: u64,
}

impl<W: LogWriter> Publisher<W> {
    pub fn new(writer: W, source: OldShard, epoch: u64, partitions: u16) -> Publisher<W> {
        Publisher {
            writer,
            source,
            epoch,
            numbers: vec![0; partitions.into()],
            bytes: vec![0; partitions.into()],
            message: Vec::new(),
            tokens: SentTokens::default(),
            counted: 0,
        }
    }

    fn partitions(&self) -> impl Iterator<Item = NewShard> + use<W> {
        (0..self.numbers.len() as u16).map(NewShard)
    }

    fn envelope(&self, to: NewShard) -> Envelope {
        Envelope { source: self.source, epoch: self.epoch, number: self.numbers[usize::from(to.0)] }
    }

    /// Sends what is in `self.message` as the partition's next message.
    async fn send(&mut self, to: NewShard, key: &[u8]) -> Result<(), LogError> {
        self.writer.send(to, key, &self.message).await?;
        self.sent(to, self.message.len());
        if self.message.capacity() > KEPT_MAX {
            // One giant row must not hold its memory for ever.
            self.message = Vec::new();
        }
        Ok(())
    }

    pub async fn start(&mut self, start: &Start) -> Result<(), LogError> {
        for to in self.partitions() {
            self.message.clear();
            message::encode_start(&self.envelope(to), start, &mut self.message);
            self.send(to, &[]).await?;
        }
        self.writer.flush().await
    }

    /// Every partition has acknowledged its start marker.
    pub fn started(&self) -> bool {
        self.partitions().all(|to| self.writer.acked(to) > 0)
    }

    #[inline]
    pub async fn change(
        &mut self,
        to: Place,
        key: &[u8],
        change: &Change<'_>,
    ) -> Result<(), LogError> {
        match to {
            Place::Nowhere => Ok(()),
            Place::One(to) => self.change_to(to, key, change).await,
            Place::All => {
                for to in self.partitions() {
                    self.change_to(to, key, change).await?;
                }
                Ok(())
            }
        }
    }

    #[inline]
    async fn change_to(
        &mut self,
        to: NewShard,
        key: &[u8],
        change: &Change<'_>,
    ) -> Result<(), LogError> {
        self.message.clear();
        message::encode_change(&self.envelope(to), change, &mut self.message);
        self.send(to, key).await
    }

    /// As [`Self::change`], of a row that has room for the head in front of it.
    #[inline]
    pub async fn row(
        &mut self,
        to: Place,
        key: &[u8],
        change: &ChangeHead,
        roomy: &mut [u8],
    ) -> Result<(), LogError> {
        match to {
            Place::Nowhere => Ok(()),
            Place::One(to) => self.row_to(to, key, change, roomy).await,
            Place::All => {
                for to in self.partitions() {
                    self.row_to(to, key, change, roomy).await?;
                }
                Ok(())
            }
        }
    }

    #[inline]
    async fn row_to(
        &mut self,
        to: NewShard,
        key: &[u8],
        change: &ChangeHead,
        roomy: &mut [u8],
    ) -> Result<(), LogError> {
        let message = message::encode_around(&self.envelope(to), change, roomy);
        self.writer.send(to, key, message).await?;
        self.sent(to, message.len());
        Ok(())
    }

    fn sent(&mut self, to: NewShard, bytes: usize) {
        self.numbers[usize::from(to.0)] += 1;
        self.bytes[usize::from(to.0)] += bytes as u64;
    }

    /// Sends a token to every partition; once all have it, `resume` may be recorded, and with it
    /// the chunks that entered before.
    pub async fn token(&mut self, token: &Token, resume: ResumePoint) -> Result<(), LogError> {
        for to in self.partitions() {
            self.message.clear();
            message::encode_token(&self.envelope(to), token, &mut self.message);
            if token.beat {
                self.writer.send_beat(to, &self.message).await?;
                self.sent(to, self.message.len());
            } else {
                self.send(to, &[]).await?;
            }
        }
        self.tokens.sent(resume, self.numbers.clone(), self.bytes.clone());
        Ok(())
    }

    /// A chunk has been sent in full.
    pub fn entered(&mut self, table: SavedTable) {
        self.tokens.entered(table);
    }

    pub async fn flush(&mut self) -> Result<(), LogError> {
        self.writer.flush().await
    }

    /// Resolves when more has been acknowledged. Cancel safe.
    pub async fn acknowledged(&mut self) -> Result<(), LogError> {
        self.writer.acknowledged().await
    }

    /// The newest token that every partition has acknowledged since the last call, with all
    /// chunks that entered before it.
    pub fn durable(&mut self) -> Option<(ResumePoint, Vec<SavedTable>)> {
        let acked: Vec<u64> = self.partitions().map(|to| self.writer.acked(to)).collect();
        let durable = self.tokens.durable(&acked)?;
        let waiting = self.bytes.iter().zip(&durable.bytes);
        let waiting = waiting.map(|(sent, acked)| sent.saturating_sub(*acked)).sum();
        metrics::unacknowledged(self.source, waiting);
        let sent = self.numbers.iter().sum();
        metrics::sent(self.source, sent - std::mem::replace(&mut self.counted, sent));
        Some((durable.resume, durable.tables))
    }

    /// Everything sent so far has been acknowledged by every partition.
    pub fn all_durable(&self) -> bool {
        self.has_acked(&self.numbers)
    }

    /// Messages of each partition sent so far: a place in all of them, for [`Self::has_acked`].
    pub fn place(&self) -> Vec<u64> {
        self.numbers.clone()
    }

    pub fn has_acked(&self, place: &[u64]) -> bool {
        self.partitions().all(|to| self.writer.acked(to) >= place[usize::from(to.0)])
    }
}
