//! Whose a message is that cannot be read: one of a stream of this plan, by another version of modshift
//! or damaged, or the record of somebody else.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{take_array, take_delimited};
use crate::shard::OldShard;

/// Versions are counted up by one. What has another number in their place is no version.
const VERSIONS_MAX: u64 = 1000;

/// The old shard whose stream it is of, told by its envelope, which every version has: the whole of it
/// in the form of a message, with a version, a shard that is one of `shards`, an epoch and a body.
pub fn of_stream(bytes: &[u8], shards: u16) -> Option<OldShard> {
    let mut rest = bytes;
    let (mut version, mut source, mut epoch, mut bodies) = (0, 0, 0, 0);
    while !rest.is_empty() {
        match decode_key(&mut rest).ok()? {
            (1, WireType::Varint) => version = decode_varint(&mut rest).ok()?,
            (2, WireType::Varint) => source = decode_varint(&mut rest).ok()?,
            (3, WireType::SixtyFourBit) => {
                epoch = u64::from_le_bytes(take_array(&mut rest).ok()?);
            }
            (4, WireType::Varint) => drop(decode_varint(&mut rest).ok()?),
            (1..=4, _) => return None,
            (_, WireType::LengthDelimited) => {
                take_delimited(&mut rest).ok()?;
                bodies += 1;
            }
            (field, kind) => skip_field(kind, field, &mut rest, DecodeContext::default()).ok()?,
        }
    }
    let source = u16::try_from(source).ok().filter(|source| *source < shards)?;
    let is_message = (1..=VERSIONS_MAX).contains(&version) && epoch > 0 && bodies > 0;
    is_message.then_some(OldShard(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Body, Envelope, Start, decode, encode_start};

    fn start(source: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let envelope = Envelope { source: OldShard(source), epoch: 7, number: 0 };
        let start = Start {
            gtids: "0-1-4".parse().expect("a set"),
            digest: None,
            initial: true,
            anew: Vec::new(),
            tables: 3,
            skipped: Vec::new(),
        };
        encode_start(&envelope, &start, &mut bytes);
        bytes
    }

    #[test]
    fn what_another_version_wrote_to_a_stream_of_the_plan_is_told_by_its_envelope() {
        let ours = start(2);
        assert!(matches!(decode(&ours), Ok((_, Body::Start(_)))));
        let with = |at: usize, byte: u8| {
            let mut bytes = ours.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(ours[..3], [8, 1, 16], "version, and the tag of the source");
        // The start's own field, as one that this version does not know.
        let unknown =
            with(ours.iter().rposition(|byte| *byte == 7 << 3 | 2).expect("a body"), 0x4A);
        for other in [with(1, 2), with(1, 127), unknown] {
            assert!(decode(&other).is_err());
            assert_eq!(of_stream(&other, 3), Some(OldShard(2)), "{other:?}");
            assert_eq!(of_stream(&other, 2), None, "of a shard that the plan does not have");
        }
    }

    #[test]
    fn what_is_in_no_form_of_a_message_is_of_no_stream() {
        let ours = start(0);
        let cut = &ours[..ours.len() - 1];
        // Another application's protobuf: an id, a name.
        let foreign = [8, 42, 18, 2, b'h', b'i'];
        let texts = [&b""[..], b"{\"id\": 7}", b"hello", b"\0\0\0\0\x05", cut, &foreign];
        for text in texts {
            assert_eq!(of_stream(text, u16::MAX), None, "{text:?}");
        }
        let epochless = [8, 2, 16, 1, 42, 0];
        assert_eq!(of_stream(&epochless, 9), None);
    }
}
