//! Character sets of keys, and the one conversion that changes bytes.

use std::borrow::Cow;

/// A character set whose bytes a key can be hashed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// The bytes as stored, whatever they mean.
    Binary,
    Ascii,
    Latin1,
    Utf8mb3,
    Utf8mb4,
}

impl Charset {
    pub const ALL: [Charset; 5] =
        [Charset::Binary, Charset::Ascii, Charset::Latin1, Charset::Utf8mb3, Charset::Utf8mb4];

    /// As in the plan and in MariaDB.
    pub fn name(self) -> &'static str {
        match self {
            Charset::Binary => "binary",
            Charset::Ascii => "ascii",
            Charset::Latin1 => "latin1",
            Charset::Utf8mb3 => "utf8mb3",
            Charset::Utf8mb4 => "utf8mb4",
        }
    }

    /// `None` for a character set that no key may have. Servers before 10.6 call utf8mb3 utf8.
    pub fn from_name(name: &str) -> Option<Charset> {
        if name.eq_ignore_ascii_case("utf8") {
            return Some(Charset::Utf8mb3);
        }
        Charset::ALL.into_iter().find(|charset| charset.name().eq_ignore_ascii_case(name))
    }

    /// A text's bytes in this character set; `None` if it has no such text, and for binary, whose
    /// bytes no text stands for.
    pub fn encode(self, text: &str) -> Option<Cow<'_, [u8]>> {
        match self {
            Charset::Binary => None,
            Charset::Ascii => text.is_ascii().then_some(Cow::Borrowed(text.as_bytes())),
            Charset::Latin1 => text.chars().map(latin1).collect::<Option<_>>().map(Cow::Owned),
            Charset::Utf8mb3 => {
                text.chars().all(|c| c.len_utf8() < 4).then_some(Cow::Borrowed(text.as_bytes()))
            }
            Charset::Utf8mb4 => Some(Cow::Borrowed(text.as_bytes())),
        }
    }
}

/// How a stored key becomes the bytes that are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    /// Not at all. That includes ascii to anything and utf8mb3 to utf8mb4: converting would
    /// change no byte of a well-formed value, and not converting leaves nothing to differ on for
    /// a malformed one.
    Identity,
    Latin1ToUtf8,
}

impl Conversion {
    /// `None` where some value of `from` has no equal in `to`.
    pub(super) fn between(from: Charset, to: Charset) -> Option<Conversion> {
        use Charset::{Ascii, Binary, Latin1, Utf8mb3, Utf8mb4};
        match (from, to) {
            (_, Binary) => Some(Conversion::Identity),
            (Binary, _) => None,
            (Ascii, _) => Some(Conversion::Identity),
            (Latin1, Latin1) | (Utf8mb3, Utf8mb3 | Utf8mb4) | (Utf8mb4, Utf8mb4) => {
                Some(Conversion::Identity)
            }
            (Latin1, Utf8mb3 | Utf8mb4) => Some(Conversion::Latin1ToUtf8),
            (Latin1 | Utf8mb3 | Utf8mb4, Ascii)
            | (Utf8mb3 | Utf8mb4, Latin1)
            | (Utf8mb4, Utf8mb3) => None,
        }
    }
}

/// MariaDB's latin1 is cp1252 with its five holes (81, 8d, 8f, 90, 9d) mapped to the C1 controls
/// of the same number, so every byte has a character (`cs_to_uni` in strings/ctype-latin1.c).
/// These are 80 to 9f; all others are the code point of the same number.
const LATIN1_80_TO_9F: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}',
    '\u{2c6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}',
    '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}',
    '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
];

fn latin1(character: char) -> Option<u8> {
    match u8::try_from(u32::from(character)) {
        Ok(byte) if !(0x80..=0x9f).contains(&byte) => Some(byte),
        // Of the C1 controls, those that fill the holes are among the 32.
        _ => {
            let at = LATIN1_80_TO_9F.iter().position(|&known| known == character)?;
            u8::try_from(0x80 + at).ok()
        }
    }
}

/// CRC-32 (IEEE, as zlib's and MariaDB's `CRC32()`) over the converted bytes, without a copy.
pub(super) fn crc32(key: &[u8], conversion: Conversion) -> u32 {
    if conversion == Conversion::Identity || key.is_ascii() {
        return crc32fast::hash(key);
    }
    let mut hash = crc32fast::Hasher::new();
    let mut utf8 = [0; 4];
    for &byte in key {
        let character = match byte {
            0x80..=0x9f => LATIN1_80_TO_9F[usize::from(byte - 0x80)],
            _ => char::from(byte),
        };
        hash.update(character.encode_utf8(&mut utf8).as_bytes());
    }
    hash.finalize()
}
