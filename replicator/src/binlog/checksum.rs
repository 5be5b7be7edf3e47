//! The CRC-32 at the end of every event: verified here, and cut off.
//!
//! A server's format description says whether events have one, in a byte before the place of its
//! own, which is there in any case (`Format_description_log_event` in log_event.cc).

use super::code;
use super::error::BinlogError;
use super::event::{FLAGS_AT, HEADER_LEN};

/// Flag of a format description whose file is still written.
const BINLOG_IN_USE_F: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
const ALGORITHM_OFF: u8 = 0;
const ALGORITHM_CRC32: u8 = 1;
/// Offset of the type code within the header.
const CODE_AT: usize = 4;

/// What the last format description said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Checksums {
    /// None came yet.
    #[default]
    Unknown,
    Off,
    Crc32,
}

impl Checksums {
    /// The event without its checksum; of a format description, without its algorithm too.
    #[inline]
    pub fn verify<'a>(&mut self, event: &'a [u8], at: &str) -> Result<&'a [u8], BinlogError> {
        let Some(&code) = event.get(CODE_AT).filter(|_| event.len() >= HEADER_LEN) else {
            return Err(BinlogError::Malformed {
                event: "binlog",
                what: "shorter than its header",
            });
        };
        if code == code::FORMAT_DESCRIPTION {
            return self.description(event, at);
        }
        match self {
            Checksums::Off => Ok(event),
            Checksums::Crc32 => {
                let (body, sum) = split(event, code)?;
                if crc32fast::hash(body).to_le_bytes() == *sum {
                    Ok(body)
                } else {
                    Err(wrong(at, code))
                }
            }
            // The first event, an artificial ROTATE, comes with the checksum of the file that it
            // announces, or without.
            Checksums::Unknown => match split(event, code) {
                Ok((body, sum)) if crc32fast::hash(body).to_le_bytes() == *sum => Ok(body),
                _ => Ok(event),
            },
        }
    }

    fn description<'a>(&mut self, event: &'a [u8], at: &str) -> Result<&'a [u8], BinlogError> {
        let code = code::FORMAT_DESCRIPTION;
        let (summed, sum) = split(event, code)?;
        let Some((&algorithm, body)) = summed.split_last().filter(|(_, b)| b.len() >= HEADER_LEN)
        else {
            return Err(short(code));
        };
        *self = match algorithm {
            // What the server changes in it when it sends it is then not summed anew
            // (`send_format_descriptor_event` in sql_repl.cc).
            ALGORITHM_OFF => Checksums::Off,
            ALGORITHM_CRC32 => {
                // A file in use is marked so, but not in its checksum.
                let mut crc = crc32fast::Hasher::new();
                crc.update(&summed[..FLAGS_AT]);
                crc.update(&[summed[FLAGS_AT] & !BINLOG_IN_USE_F]);
                crc.update(&summed[FLAGS_AT + 1..]);
                if crc.finalize().to_le_bytes() != *sum {
                    return Err(wrong(at, code));
                }
                Checksums::Crc32
            }
            _ => {
                let what = "checksums of an unknown algorithm";
                return Err(BinlogError::Malformed { event: code::name(code), what });
            }
        };
        Ok(body)
    }
}

fn split(event: &[u8], code: u8) -> Result<(&[u8], &[u8]), BinlogError> {
    let body_end = event.len().checked_sub(CHECKSUM_BYTES).filter(|&end| end >= HEADER_LEN);
    Ok(event.split_at(body_end.ok_or_else(|| short(code))?))
}

fn short(code: u8) -> BinlogError {
    BinlogError::Malformed { event: code::name(code), what: "too short for its checksum" }
}

fn wrong(at: &str, code: u8) -> BinlogError {
    BinlogError::Checksum { at: at.to_owned(), event: code::name(code) }
}

#[cfg(test)]
mod tests {
    use super::super::fuzz::events;
    use super::*;

    const GROUP: &[u8] = include_bytes!("../../testdata/miscellany.group");

    /// As the server sent it.
    fn sent(event: &[u8], tail: &[u8]) -> Vec<u8> {
        let mut bytes = [event, tail].concat();
        let mut summed = bytes.clone();
        summed[FLAGS_AT] &= !BINLOG_IN_USE_F;
        bytes.extend_from_slice(&crc32fast::hash(&summed).to_le_bytes());
        bytes
    }

    fn description(algorithm: u8) -> Vec<u8> {
        let captured = events(GROUP);
        let event = captured.iter().find(|event| event[CODE_AT] == code::FORMAT_DESCRIPTION);
        sent(event.unwrap(), &[algorithm])
    }

    #[test]
    fn a_flipped_bit_anywhere_is_a_wrong_checksum() {
        let mut checksums = Checksums::default();
        let whole = description(ALGORITHM_CRC32);
        let algorithm_at = whole.len() - 5;
        let told_otherwise = [CODE_AT, FLAGS_AT, algorithm_at];
        for at in (0..whole.len()).filter(|at| !told_otherwise.contains(at)) {
            let mut bad = whole.clone();
            bad[at] ^= 2;
            let error = Checksums::default().verify(&bad, "s").unwrap_err();
            assert!(matches!(error, BinlogError::Checksum { .. }), "{error}");
        }
        let body = checksums.verify(&whole, "s").unwrap();
        assert_eq!((body, checksums), (&whole[..whole.len() - 5], Checksums::Crc32));
        for event in events(GROUP).iter().filter(|event| event[CODE_AT] == code::GTID) {
            let bytes = sent(event, &[]);
            assert_eq!(checksums.verify(&bytes, "s").unwrap(), *event);
            for at in (0..bytes.len()).filter(|&at| at != CODE_AT) {
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                let error = checksums.verify(&bad, "s").unwrap_err();
                assert!(matches!(error, BinlogError::Checksum { .. }), "{error}");
            }
        }
    }

    #[test]
    fn a_file_without_checksums_says_so_in_a_description_whose_own_does_not_count() {
        let mut checksums = Checksums::Crc32;
        let mut off = description(ALGORITHM_OFF);
        *off.last_mut().unwrap() ^= 1;
        checksums.verify(&off, "s").unwrap();
        assert_eq!(checksums, Checksums::Off);
        let plain = [7; 30];
        assert_eq!(checksums.verify(&plain, "s").unwrap(), plain);
        assert!(checksums.verify(&description(9), "s").is_err());
    }

    #[test]
    fn the_first_event_may_have_one_or_not() {
        let mut plain = vec![0; 30];
        plain[CODE_AT] = code::ROTATE;
        let with = sent(&plain, &[]);
        assert_eq!(Checksums::default().verify(&plain, "s").unwrap(), plain);
        assert_eq!(Checksums::default().verify(&with, "s").unwrap(), plain);
    }

    #[test]
    fn no_length_is_too_short_to_be_told() {
        for len in 0..HEADER_LEN + CHECKSUM_BYTES {
            for code in [code::FORMAT_DESCRIPTION, code::XID] {
                let mut event = vec![0; len];
                if let Some(at) = event.get_mut(CODE_AT) {
                    *at = code;
                }
                assert!(Checksums::Crc32.verify(&event, "s").is_err(), "{len}");
            }
        }
    }
}
