//! ZooKeeper's encoding, Jute: values to bytes and back. Big-endian numbers, texts and buffers behind
//! their length, -1 for none. `zookeeper.jute` of ZooKeeper's source names each record.

/// An answer that is not what the protocol says.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Default)]
pub struct Out(pub Vec<u8>);

impl Out {
    pub fn int(&mut self, value: i32) -> &mut Out {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn long(&mut self, value: i64) -> &mut Out {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn flag(&mut self, value: bool) -> &mut Out {
        self.0.push(u8::from(value));
        self
    }

    pub fn buffer(&mut self, bytes: &[u8]) -> &mut Out {
        // A frame, and so what is in it, is far below 2 GiB: `client` looks at its length.
        self.int(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Out {
        self.buffer(text.as_bytes())
    }
}

pub struct In<'a>(pub &'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn int(&mut self) -> Result<i32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(i32::from_be_bytes(bytes))
    }

    pub fn long(&mut self) -> Result<i64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(i64::from_be_bytes(bytes))
    }

    pub fn flag(&mut self) -> Result<bool, Malformed> {
        Ok(self.take(1)? != [0])
    }

    /// None is an empty one: nobody here tells them apart.
    pub fn buffer(&mut self) -> Result<&'a [u8], Malformed> {
        match self.int()? {
            -1 => Ok(&[]),
            length => self.take(usize::try_from(length).map_err(|_| Malformed)?),
        }
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.buffer()?.to_vec()).map_err(|_| Malformed)
    }

    pub fn texts(&mut self) -> Result<Vec<String>, Malformed> {
        let count = self.int()?.max(0);
        // Not reserved: the count is the sender's, and each text takes bytes that must be there.
        (0..count).map(|_| self.text()).collect()
    }

    /// Of a node's `Stat` its version: how often its data was set.
    pub fn version_of_stat(&mut self) -> Result<i32, Malformed> {
        // czxid, mzxid, ctime, mtime
        self.take(32)?;
        let version = self.int()?;
        // cversion, aversion, ephemeralOwner, dataLength, numChildren, pzxid
        self.take(4 + 4 + 8 + 4 + 4 + 8)?;
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back_and_what_is_cut_off_is_refused() {
        let mut out = Out::default();
        out.int(-5).long(1 << 40).flag(true).text("é").buffer(&[1, 2]).int(2).text("a").text("");
        let whole = out.0;
        let read = |bytes: &[u8]| -> Result<Vec<String>, Malformed> {
            let mut input = In(bytes);
            assert_eq!((input.int()?, input.long()?, input.flag()?), (-5, 1 << 40, true));
            assert_eq!((input.text()?.as_str(), input.buffer()?), ("é", &[1, 2][..]));
            input.texts()
        };
        assert_eq!(read(&whole).unwrap(), ["a", ""]);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), Err(Malformed), "{length} of {}", whole.len());
        }
        assert_eq!(In(&(-1_i32).to_be_bytes()).buffer(), Ok(&[][..]));
        assert_eq!(In(&(-2_i32).to_be_bytes()).buffer(), Err(Malformed));
        // As many texts as nobody has room for.
        assert_eq!(In(&i32::MAX.to_be_bytes()).texts(), Err(Malformed));
        assert_eq!(In(&[0xff; 67]).version_of_stat(), Err(Malformed));
    }
}
