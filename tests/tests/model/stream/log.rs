//! The change log: partitions of encoded messages.

use std::fmt;
use std::sync::Arc;

use modshift_proto::message::{
    Change, Envelope, Start, Token, decode, encode_change, encode_start, encode_token,
};
use modshift_proto::{NewShard, OldShard};

use crate::shared::Shared;

/// One message in its wire form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Message(pub Arc<[u8]>);

impl Message {
    pub fn envelope(&self) -> Envelope {
        decode(&self.0).expect("what was encoded decodes").0
    }

    pub fn change(envelope: &Envelope, change: &Change<'_>) -> Message {
        let mut out = Vec::new();
        encode_change(envelope, change, &mut out);
        Message(out.into())
    }

    pub fn token(envelope: &Envelope, token: &Token) -> Message {
        let mut out = Vec::new();
        encode_token(envelope, token, &mut out);
        Message(out.into())
    }

    pub fn start(envelope: &Envelope, start: &Start) -> Message {
        let mut out = Vec::new();
        encode_start(envelope, start, &mut out);
        Message(out.into())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match decode(&self.0) {
            Ok((envelope, body)) => {
                write!(f, "{}/{}#{} {body:?}", envelope.source.0, envelope.epoch, envelope.number)
            }
            Err(error) => write!(f, "{error}"),
        }
    }
}

pub type Log = Vec<Shared<Vec<Message>>>;

/// What one reader sends, numbered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    pub source: u16,
    pub epoch: u64,
    /// Messages sent to each partition.
    pub sent: Vec<u64>,
    /// Of which the reader knows that they are in.
    pub acked: Vec<u64>,
}

impl Sender {
    pub fn new(source: u16, epoch: u64, partitions: usize) -> Sender {
        Sender { source, epoch, sent: vec![0; partitions], acked: vec![0; partitions] }
    }

    pub fn send(&mut self, log: &mut Log, to: NewShard, encode: impl Fn(&Envelope) -> Message) {
        let to = usize::from(to.0);
        let source = OldShard(self.source);
        let envelope = Envelope { source, epoch: self.epoch, number: self.sent[to] };
        log[to].push(encode(&envelope));
        self.sent[to] += 1;
    }

    pub fn send_all(&mut self, log: &mut Log, encode: impl Fn(&Envelope) -> Message) {
        for to in 0..log.len() {
            self.send(log, NewShard(to as u16), &encode);
        }
    }

    /// Messages at the end of a partition, from `taken` on, that are this sender's and not
    /// acknowledged: they may just as well not have arrived yet.
    pub fn under_way(&self, log: &Log, to: usize, taken: usize) -> usize {
        let ours = |message: &&Message| {
            let envelope = message.envelope();
            (envelope.source.0, envelope.epoch) == (self.source, self.epoch)
                && envelope.number >= self.acked[to]
        };
        let rest = log[to].get(taken..).unwrap_or_default();
        rest.iter().rev().take_while(ours).count()
    }
}
