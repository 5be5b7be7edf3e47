//! Reads little by little from bytes whose lengths nobody vouches for.

/// What is wrong with the bytes of an event. The decoder adds which event it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault(pub &'static str);

pub(super) const TRUNCATED: Fault = Fault("truncated");

/// The part of an event that has not been read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, Fault> {
        let (&byte, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(byte)
    }

    /// A little-endian number of `len` bytes, at most 8.
    #[inline]
    pub fn le(&mut self, len: usize) -> Result<u64, Fault> {
        self.take(len).map(le)
    }

    /// A length-encoded integer of the client protocol: one byte up to 250, else a marker and 2, 3
    /// or 8 bytes.
    pub fn lenenc(&mut self) -> Result<usize, Fault> {
        let value = match self.byte()? {
            small @ 0..=250 => u64::from(small),
            252 => self.le(2)?,
            253 => self.le(3)?,
            254 => self.le(8)?,
            _ => return Err(Fault("bad length-encoded integer")),
        };
        usize::try_from(value).map_err(|_| Fault("length beyond memory"))
    }

    /// Bytes preceded by their length in `prefix` bytes.
    #[inline]
    pub fn prefixed(&mut self, prefix: u8) -> Result<&'a [u8], Fault> {
        let len = if prefix == 1 { u64::from(self.byte()?) } else { self.le(usize::from(prefix))? };
        // At most 2^32 - 1 by the width of the prefix; `take` refuses what is not there.
        self.take(len as usize)
    }
}

/// Little-endian; bytes after the eighth do not count.
#[inline]
pub(super) fn le(bytes: &[u8]) -> u64 {
    match *bytes {
        [] => 0,
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c] => u64::from(u32::from_le_bytes([a, b, c, 0])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h, ..] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)),
    }
}

/// Big-endian; at most 8 bytes count.
#[inline]
pub(super) fn be(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_be_bytes([a, b])),
        [a, b, c] => u64::from(u32::from_be_bytes([0, a, b, c])),
        [a, b, c, d] => u64::from(u32::from_be_bytes([a, b, c, d])),
        _ => bytes.iter().take(8).fold(0, |value, &byte| value << 8 | u64::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_read_from_either_end() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        for len in 0..=8 {
            let slow_le = bytes[..len].iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
            let slow_be = bytes[..len].iter().fold(0u64, |v, &b| v << 8 | u64::from(b));
            assert_eq!((le(&bytes[..len]), be(&bytes[..len])), (slow_le, slow_be));
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut input = Input::new(&[200, 1, 2]);
        assert_eq!(input.take(4), Err(TRUNCATED));
        assert_eq!(input.prefixed(1), Err(TRUNCATED));
        assert_eq!(Input::new(&[253, 0]).lenenc(), Err(TRUNCATED));
        assert_eq!(Input::new(&[252, 0, 1]).lenenc(), Ok(256));
        assert!(Input::new(&[251]).lenenc().is_err());
    }
}
