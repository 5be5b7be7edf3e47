//! Events of a group that may not count, until its end tells: in memory while they are few, then in
//! a file of their own.
//!
//! The file has no name from its creation on, so nothing of it outlives the process, and only this
//! account could ever read it. Its reads and writes block: they go to the page cache, and a disk so
//! slow that it holds them up holds up this reader alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// An ordinary transaction is far smaller; and every reader may hold one.
const MEMORY_MAX: usize = 1 << 20;
/// Length of an event, and the number of its first change.
const HEAD: usize = 8;
const NAME_ATTEMPTS: u32 = 100;

/// Where events go that are too many for memory.
#[derive(Clone, Debug)]
pub struct Spill {
    pub dir: PathBuf,
    pub max: u64,
}

#[derive(Debug)]
pub(super) enum HoldError {
    /// The group is larger than all that may be held.
    TooLarge,
    Io(io::Error),
}

impl From<io::Error> for HoldError {
    fn from(error: io::Error) -> HoldError {
        HoldError::Io(error)
    }
}

pub(super) struct Held {
    spill: Spill,
    file: Option<File>,
    in_file: u64,
    /// What follows on that in the file.
    memory: Vec<u8>,
    /// Read since it was rewound.
    taken: u64,
}

impl Held {
    pub(super) fn new(spill: &Spill) -> Held {
        Held { spill: spill.clone(), file: None, in_file: 0, memory: Vec::new(), taken: 0 }
    }

    /// No more room than it needs: for what is kept beside many others.
    pub(super) fn shrink(&mut self) {
        self.memory.shrink_to_fit();
    }

    /// Bytes held: a place to come back to.
    pub(super) fn mark(&self) -> u64 {
        self.in_file + self.memory.len() as u64
    }

    /// `change`: number of the first logged change in the event.
    pub(super) fn push(&mut self, change: u32, event: &[u8]) -> Result<(), HoldError> {
        let len = u32::try_from(event.len()).map_err(|_| HoldError::TooLarge)?;
        // Before anything of it is written: what is held stays whole.
        if self.mark() + (HEAD + event.len()) as u64 > self.spill.max.max(MEMORY_MAX as u64) {
            return Err(HoldError::TooLarge);
        }
        if self.memory.len() + HEAD + event.len() > MEMORY_MAX && !self.memory.is_empty() {
            let memory = std::mem::take(&mut self.memory);
            self.write(&memory)?;
            self.memory = memory;
            self.memory.clear();
        }
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[4..].copy_from_slice(&change.to_le_bytes());
        if HEAD + event.len() > MEMORY_MAX {
            self.write(&head)?;
            return Ok(self.write(event)?);
        }
        self.memory.extend_from_slice(&head);
        self.memory.extend_from_slice(event);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(nameless(&self.spill.dir)?),
        };
        file.write_all(bytes)?;
        self.in_file += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what came after the mark.
    pub(super) fn truncate(&mut self, mark: u64) -> io::Result<()> {
        if let Some(kept) = mark.checked_sub(self.in_file) {
            self.memory.truncate(kept as usize);
            return Ok(());
        }
        self.memory.clear();
        if let Some(file) = &mut self.file {
            file.set_len(mark)?;
            file.seek(SeekFrom::Start(mark))?;
        }
        self.in_file = mark;
        Ok(())
    }

    /// To be read from its beginning: nothing more is pushed.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.taken = 0;
        if let Some(file) = &mut self.file {
            file.rewind()?;
        }
        Ok(())
    }

    /// The number of its first change, and the event in `into`. `None` after the last.
    pub(super) fn next(&mut self, into: &mut Vec<u8>) -> io::Result<Option<u32>> {
        if self.taken == self.mark() {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.exact(&mut head)?;
        let [a, b, c, d, change @ ..] = head;
        into.resize(u32::from_le_bytes([a, b, c, d]) as usize, 0);
        self.exact(into)?;
        Ok(Some(u32::from_le_bytes(change)))
    }

    /// What was pushed lies in one of both as a whole.
    fn exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let end = self.taken + into.len() as u64;
        match (&mut self.file, self.taken.checked_sub(self.in_file)) {
            (Some(file), None) => file.read_exact(into)?,
            (_, from) => {
                let from = from.unwrap_or_default() as usize;
                let bytes = self.memory.get(from..from + into.len());
                into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
        }
        self.taken = end;
        Ok(())
    }

    /// Empty, for the next group.
    pub(super) fn clear(&mut self) {
        self.file = None;
        self.in_file = 0;
        self.taken = 0;
        self.memory.clear();
    }
}

/// A new file that has lost its name.
fn nameless(dir: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..NAME_ATTEMPTS {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".modshift-group-{}-{next}", std::process::id()));
        let mut options = OpenOptions::new();
        match options.read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spill(max: u64) -> Spill {
        Spill { dir: std::env::temp_dir(), max }
    }

    fn event(change: u32, len: usize) -> Vec<u8> {
        (0..len).map(|at| (at as u32 * 31 + change) as u8).collect()
    }

    fn read(mut held: Held) -> Vec<u32> {
        held.rewind().unwrap();
        let (mut into, mut changes) = (Vec::new(), Vec::new());
        while let Some(change) = held.next(&mut into).unwrap() {
            assert!(into == event(change, into.len()), "the bytes of {change}");
            changes.push(change);
        }
        changes
    }

    #[test]
    fn events_come_back_in_order_from_memory_and_file() {
        for (count, len) in [(0, 0), (3, 0), (5, 100), (40, 100_000), (3, MEMORY_MAX + 5)] {
            let mut held = Held::new(&spill(u64::MAX));
            for change in 0..count {
                held.push(change, &event(change, len)).unwrap();
            }
            let spilled = held.file.is_some();
            assert_eq!(spilled, count as usize * len > MEMORY_MAX, "{count} of {len}");
            assert_eq!(read(held), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_came_after_a_mark_is_forgotten_wherever_it_lies() {
        for kept in 0..30 {
            let mut held = Held::new(&spill(u64::MAX));
            let mut mark = 0;
            for change in 0..30 {
                if change == kept {
                    mark = held.mark();
                }
                held.push(change, &event(change, 90_000)).unwrap();
            }
            held.truncate(mark).unwrap();
            assert_eq!(held.mark(), mark);
            for change in 100..120 {
                held.push(change, &event(change, 70_000)).unwrap();
            }
            assert_eq!(read(held), (0..kept).chain(100..120).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_more_than_the_bound_is_held_and_a_disk_that_refuses_is_told() {
        let mut held = Held::new(&spill(3 << 20));
        let pushed = (0..100).map(|n| held.push(n, &event(n, 100_000))).find(Result::is_err);
        assert!(matches!(pushed, Some(Err(HoldError::TooLarge))));
        assert_eq!(read(held), (0..31).collect::<Vec<_>>(), "the rest is whole");
        let nowhere = Spill { dir: "/nonexistent".into(), max: u64::MAX };
        let mut held = Held::new(&nowhere);
        assert!(matches!(held.push(0, &event(0, MEMORY_MAX + 1)), Err(HoldError::Io(_))));
    }
}
