//! DECIMAL: the server's packed digits to the text that it prints.
//!
//! Nine digits make four bytes, big-endian; the digits left over at either end make 1 to 4 bytes.
//! The first bit is flipped, and for a negative number so are all others (`strings/decimal.c`).

use super::input::{Fault, TRUNCATED, be};

/// Bytes that so many leftover digits take.
const LEFTOVER: [u8; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DecimalShape {
    int_digits: u8,
    scale: u8,
    size: u8,
}

/// As many digits as the largest DECIMAL(65) has, its sign, its point and a zero before it.
pub(super) const TEXT_MAX: usize = 68;

impl DecimalShape {
    pub fn new(precision: u8, scale: u8) -> Option<DecimalShape> {
        if precision == 0 || precision > 65 || scale > 38 || scale > precision {
            return None;
        }
        let bytes = |digits: u8| digits / 9 * 4 + LEFTOVER[usize::from(digits % 9)];
        let int_digits = precision - scale;
        Some(DecimalShape { int_digits, scale, size: bytes(int_digits) + bytes(scale) })
    }

    pub fn size(self) -> u8 {
        self.size
    }

    /// The text, at the beginning of `text`; its length is returned.
    pub fn print(self, packed: &[u8], text: &mut [u8; TEXT_MAX]) -> Result<usize, Fault> {
        let mut bytes = [0u8; 32];
        let size = usize::from(self.size);
        let bytes = bytes.get_mut(..size).ok_or(TRUNCATED)?;
        bytes.copy_from_slice(packed.get(..size).ok_or(TRUNCATED)?);
        let negative = bytes.first().is_some_and(|first| first & 0x80 == 0);
        if let Some(first) = bytes.first_mut() {
            *first ^= 0x80;
        }
        if negative {
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
        }
        let mut digits = Digits { bytes, text, len: 0 };
        if negative {
            digits.push(b'-')?;
        }
        digits.int_part(self.int_digits)?;
        if self.scale > 0 {
            digits.push(b'.')?;
            digits.fraction(self.scale)?;
        }
        Ok(digits.len)
    }
}

struct Digits<'a> {
    bytes: &'a [u8],
    text: &'a mut [u8; TEXT_MAX],
    len: usize,
}

/// Powers of ten up to the largest group's.
const LIMITS: [u32; 10] =
    [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

impl Digits<'_> {
    /// Leading zeros go, but one digit stays.
    fn int_part(&mut self, digits: u8) -> Result<(), Fault> {
        let start = self.len;
        let groups =
            std::iter::once(digits % 9).chain(std::iter::repeat_n(9, usize::from(digits / 9)));
        for digits in groups {
            let value = self.group(digits)?;
            if self.len > start {
                self.padded(value, digits)?;
            } else if value > 0 {
                self.append(itoa::Buffer::new().format(value).as_bytes())?;
            }
        }
        if self.len == start { self.push(b'0') } else { Ok(()) }
    }

    fn fraction(&mut self, digits: u8) -> Result<(), Fault> {
        for _ in 0..digits / 9 {
            let value = self.group(9)?;
            self.padded(value, 9)?;
        }
        let value = self.group(digits % 9)?;
        self.padded(value, digits % 9)
    }

    /// The number in the next group, which has so many digits.
    #[inline]
    fn group(&mut self, digits: u8) -> Result<u32, Fault> {
        let size = usize::from(LEFTOVER[usize::from(digits)]);
        let (group, rest) = self.bytes.split_at_checked(size).ok_or(TRUNCATED)?;
        self.bytes = rest;
        let value = be(group) as u32;
        if value >= LIMITS[usize::from(digits)] {
            return Err(Fault("decimal group out of range"));
        }
        Ok(value)
    }

    /// With leading zeros, as exactly so many digits.
    #[inline]
    fn padded(&mut self, mut value: u32, digits: u8) -> Result<(), Fault> {
        let end = self.len + usize::from(digits);
        let place = self.text.get_mut(self.len..end).ok_or(Fault("decimal too long"))?;
        for digit in place.iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
        self.len = end;
        Ok(())
    }

    fn append(&mut self, digits: &[u8]) -> Result<(), Fault> {
        let end = self.len + digits.len();
        let place = self.text.get_mut(self.len..end).ok_or(Fault("decimal too long"))?;
        place.copy_from_slice(digits);
        self.len = end;
        Ok(())
    }

    fn push(&mut self, byte: u8) -> Result<(), Fault> {
        *self.text.get_mut(self.len).ok_or(Fault("decimal too long"))? = byte;
        self.len += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(precision: u8, scale: u8, packed: &[u8], expected: &str) {
        let shape = DecimalShape::new(precision, scale).unwrap();
        assert_eq!(usize::from(shape.size()), packed.len());
        let mut text = [0; TEXT_MAX];
        let len = shape.print(packed, &mut text).unwrap();
        assert_eq!(std::str::from_utf8(&text[..len]).unwrap(), expected);
    }

    #[test]
    fn digits_print_as_the_server_prints_them() {
        // The example of decimal.c: 1234567890.1234 in DECIMAL(14,4), and its negative.
        check(14, 4, &[0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2], "1234567890.1234");
        check(14, 4, &[0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d], "-1234567890.1234");
        check(4, 2, &[0x80, 0x32], "0.50");
        check(4, 2, &[0x7f, 0xcd], "-0.50");
        check(2, 2, &[0x80], "0.00");
        check(1, 0, &[0x80], "0");
        check(9, 0, &[0xbb, 0x9a, 0xc9, 0xff], "999999999");
    }

    #[test]
    fn shapes_and_digits_that_cannot_be_are_refused() {
        assert_eq!(DecimalShape::new(0, 0), None);
        assert_eq!(DecimalShape::new(66, 0), None);
        assert_eq!(DecimalShape::new(5, 6), None);
        let shape = DecimalShape::new(1, 0).unwrap();
        assert!(shape.print(&[0x80 | 10], &mut [0; TEXT_MAX]).is_err());
        assert!(shape.print(&[], &mut [0; TEXT_MAX]).is_err());
    }
}
