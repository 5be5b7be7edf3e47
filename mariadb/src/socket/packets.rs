//! Bytes of a connection -> packets, in place.
//!
//! A packet is three bytes of length, one of sequence, and a payload; a payload of 2^24 - 1 bytes
//! goes on in the next packet (<https://mariadb.com/kb/en/0-packet/>). What fits the buffer is handed out
//! where it lies; what does not is put together apart. Pure: someone else fills [`Packets::space`].

/// Many events, or one record of TLS many times over: large enough that the system call and the
/// rest of an event at the buffer's end cost nothing beside the bytes.
const CAPACITY: usize = 256 * 1024;
/// Less room than this at the end, and what has not been handed out moves to the front.
const ROOM_MIN: usize = 64 * 1024;
const HEADER: usize = 4;
/// A payload of this length goes on in the next packet.
const CONTINUED: usize = 0xff_ffff;
/// The protocol's bound, and that of an event.
const PAYLOAD_MAX: usize = 1 << 30;
/// One giant event must not hold its memory for ever.
const KEPT_MAX: usize = 1 << 20;

/// The bytes are not packets of this conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    OutOfOrder,
    TooLarge,
}

/// Where the newest payload is.
#[derive(Clone, Copy, Debug)]
enum Current {
    None,
    /// In the buffer, from and to.
    Here(usize, usize),
    /// In `apart`.
    Apart,
}

pub(super) struct Packets {
    buffer: Vec<u8>,
    /// Received and not read yet: from here …
    start: usize,
    /// … to here.
    end: usize,
    current: Current,
    /// A payload that is put together, and what its present packet still owes.
    apart: Vec<u8>,
    owed: usize,
    /// Another packet of the same payload follows.
    continued: bool,
    assembling: bool,
    sequence: u8,
}

impl Packets {
    pub fn new() -> Packets {
        Packets {
            buffer: vec![0; CAPACITY],
            start: 0,
            end: 0,
            current: Current::None,
            apart: Vec::new(),
            owed: 0,
            continued: false,
            assembling: false,
            sequence: 0,
        }
    }

    /// The number of the next packet, in either direction.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    pub fn set_sequence(&mut self, sequence: u8) {
        self.sequence = sequence;
    }

    /// Where received bytes go; never empty. What `current` gave is gone.
    pub fn space(&mut self) -> &mut [u8] {
        self.current = Current::None;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < ROOM_MIN {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes have been put there.
    pub fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Steps to the next payload, if all of it is here.
    pub fn advance(&mut self) -> Result<bool, Broken> {
        loop {
            if self.owed > 0 {
                let taken = self.owed.min(self.end - self.start);
                self.apart.extend_from_slice(&self.buffer[self.start..self.start + taken]);
                self.start += taken;
                self.owed -= taken;
                if self.owed > 0 {
                    return Ok(false);
                }
            }
            if self.assembling && !self.continued {
                self.assembling = false;
                self.current = Current::Apart;
                return Ok(true);
            }
            let waiting = &self.buffer[self.start..self.end];
            let [a, b, c, sequence, rest @ ..] = waiting else { return Ok(false) };
            let len = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
            let fits = len <= ROOM_MIN - HEADER && !self.assembling;
            if fits && rest.len() < len {
                return Ok(false);
            }
            if *sequence != self.sequence {
                return Err(Broken::OutOfOrder);
            }
            self.sequence = self.sequence.wrapping_add(1);
            let from = self.start + HEADER;
            if fits {
                self.current = Current::Here(from, from + len);
                self.start = from + len;
                return Ok(true);
            }
            if !self.assembling {
                self.open_apart();
            }
            if self.apart.len() + len > PAYLOAD_MAX {
                return Err(Broken::TooLarge);
            }
            self.start = from;
            self.owed = len;
            self.continued = len == CONTINUED;
        }
    }

    fn open_apart(&mut self) {
        self.assembling = true;
        self.apart.clear();
        if self.apart.capacity() > KEPT_MAX {
            self.apart.shrink_to(KEPT_MAX);
        }
    }

    /// The payload that `advance` stepped to.
    pub fn current(&self) -> &[u8] {
        match self.current {
            Current::None => &[],
            Current::Here(from, to) => &self.buffer[from..to],
            Current::Apart => &self.apart,
        }
    }
}

/// Appends a payload as packets; the sequence number that follows is returned.
pub(super) fn write(payload: &[u8], mut sequence: u8, out: &mut Vec<u8>) -> u8 {
    let mut rest = payload;
    loop {
        let (part, after) = rest.split_at(rest.len().min(CONTINUED));
        out.extend_from_slice(&(part.len() as u32).to_le_bytes()[..3]);
        out.push(sequence);
        out.extend_from_slice(part);
        sequence = sequence.wrapping_add(1);
        rest = after;
        // A payload of exactly that length is ended by an empty packet.
        if part.len() < CONTINUED {
            return sequence;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds bytes in pieces of `step`; the payloads that come out.
    fn read(bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, Broken> {
        let mut packets = Packets::new();
        let mut payloads = Vec::new();
        let mut rest = bytes;
        loop {
            while packets.advance()? {
                payloads.push(packets.current().to_vec());
            }
            if rest.is_empty() {
                return Ok(payloads);
            }
            let space = packets.space();
            let count = step.min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            packets.filled(count);
            rest = &rest[count..];
        }
    }

    fn check(lengths: &[usize], steps: &[usize]) {
        let mut bytes = Vec::new();
        let mut sequence = 0;
        let mut expected = Vec::new();
        for (index, &len) in lengths.iter().enumerate() {
            let payload: Vec<u8> = (0..len).map(|at| (at * 7 + index) as u8).collect();
            sequence = write(&payload, sequence, &mut bytes);
            expected.push(payload);
        }
        for &step in steps {
            assert!(read(&bytes, step).unwrap() == expected, "{lengths:?} by {step}");
        }
    }

    #[test]
    fn payloads_come_out_as_they_went_in_however_the_bytes_arrive() {
        check(&[0, 1, 5, 300, 0, 70_000, 3], &[1, 2, 3, 7, 1000, usize::MAX]);
        let edges = [ROOM_MIN - HEADER - 1, ROOM_MIN - HEADER, ROOM_MIN, CAPACITY, CAPACITY + 1];
        check(&edges, &[999, 65_536, usize::MAX]);
        let many: Vec<usize> = (0..2000).map(|n| n * 37 % 9000).collect();
        check(&many, &[4096, 100_000, usize::MAX]);
        for len in [CONTINUED - 1, CONTINUED, CONTINUED + 1, 2 * CONTINUED, 2 * CONTINUED + 9] {
            check(&[4, len, 4], &[1_000_003, usize::MAX]);
        }
    }

    #[test]
    fn a_packet_of_another_conversation_is_an_error() {
        let mut bytes = Vec::new();
        write(b"first", 0, &mut bytes);
        write(b"again", 0, &mut bytes);
        assert_eq!(read(&bytes, 3), Err(Broken::OutOfOrder));
        let mut long = Vec::new();
        let part = vec![0; CONTINUED];
        for sequence in 0..65 {
            long.extend_from_slice(&[0xff, 0xff, 0xff, sequence]);
            long.extend_from_slice(&part);
        }
        assert_eq!(read(&long, usize::MAX), Err(Broken::TooLarge));
    }
}
