//! Undoes the two zlib framings of MariaDB: compressed events and compressed columns.
//!
//! Both begin with a byte that says how many bytes of length follow, big-endian. Neither length
//! is trusted: what comes out must have exactly that size, which is bounded beforehand.

use flate2::{Decompress, FlushDecompress, Status};

use super::input::{Fault, Input, be};

/// No event and no value is larger: the server's highest `max_allowed_packet`.
pub const UNCOMPRESSED_MAX: usize = 1 << 30;

/// What `binlog_buf_compress` wrote (`log_event.cc`): `0x80 | algorithm << 4 | length bytes`.
pub(super) fn event(packed: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut input = Input::new(packed);
    let head = input.byte()?;
    if head & 0xf0 != 0x80 {
        return Err(Fault("unknown compression algorithm"));
    }
    let len = length(&mut input, head & 0x07)?;
    inflate(input.rest(), len, true, out)
}

/// A value of a COMPRESSED column (`field.cc`): nothing for the empty value, 0 and the bytes as
/// they are, or `0x80 | raw deflate << 3 | length bytes`.
pub(super) fn value(packed: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    out.clear();
    let mut input = Input::new(packed);
    if input.is_empty() {
        return Ok(());
    }
    match input.byte()? {
        0 => {
            out.extend_from_slice(input.rest());
            Ok(())
        }
        head if head & 0xf0 == 0x80 => {
            let len = length(&mut input, head & 0x07)?;
            inflate(input.rest(), len, head & 0x08 == 0, out)
        }
        _ => Err(Fault("unknown column compression method")),
    }
}

fn length(input: &mut Input<'_>, bytes: u8) -> Result<usize, Fault> {
    if !(1..=4).contains(&bytes) {
        return Err(Fault("bad width of an uncompressed length"));
    }
    let len = be(input.take(usize::from(bytes))?) as usize;
    if len > UNCOMPRESSED_MAX {
        return Err(Fault("uncompressed data above 1 GiB"));
    }
    Ok(len)
}

fn inflate(packed: &[u8], len: usize, zlib: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
    // Deflate packs at most about 1032 to 1: a small event cannot make us reserve much.
    if len / 1040 > packed.len() {
        return Err(Fault("uncompressed length out of proportion"));
    }
    out.clear();
    // A byte more than it should need: data that goes on too long shows.
    out.reserve(len + 1);
    let mut inflater = Decompress::new(zlib);
    while out.capacity() > out.len() && out.len() <= len {
        let before = (inflater.total_in(), out.len());
        let rest = packed.get(before.0 as usize..).unwrap_or_default();
        let status = inflater.decompress_vec(rest, out, FlushDecompress::Finish);
        match status.map_err(|_| Fault("damaged compressed data"))? {
            Status::StreamEnd if out.len() == len => return Ok(()),
            Status::StreamEnd => break,
            _ if before == (inflater.total_in(), out.len()) => break,
            _ => {}
        }
    }
    Err(Fault("uncompressed data of another length than announced"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, ZlibEncoder};

    use super::*;

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn events_and_values_come_out_as_they_went_in() {
        let data = b"modulo ".repeat(500);
        let mut out = Vec::new();
        let framed = [&[0x82, 0x0d, 0xac][..], &zlib(&data)].concat();
        event(&framed, &mut out).unwrap();
        assert_eq!(out, data);
        value(&framed, &mut out).unwrap();
        assert_eq!(out, data);
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(&data).unwrap();
        value(&[&[0x8a, 0x0d, 0xac][..], &raw.finish().unwrap()].concat(), &mut out).unwrap();
        assert_eq!(out, data);
        value(b"\0plain", &mut out).unwrap();
        assert_eq!(out, b"plain");
        value(b"", &mut out).unwrap();
        assert_eq!(out, b"");
    }

    #[test]
    fn a_false_length_or_damaged_data_is_refused() {
        let mut out = Vec::new();
        let packed = zlib(&b"modulo ".repeat(500));
        for head in [&[0x82, 0x0d, 0xab][..], &[0x82, 0x0d, 0xad], &[0x84, 0x7f, 0, 0, 0], &[0x85]]
        {
            assert!(event(&[head, &packed].concat(), &mut out).is_err());
        }
        let cut = &packed[..packed.len() / 2];
        assert!(event(&[&[0x82, 0x0d, 0xac][..], cut].concat(), &mut out).is_err());
        assert!(value(b"\x10?", &mut out).is_err());
        assert!(event(b"", &mut out).is_err());
    }
}
