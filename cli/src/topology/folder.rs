//! The folder that the files are written to, and what was written there before: a file is replaced
//! without a word only where it is still as it was written.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::File;

/// Which files were written here, and with which checksum.
const RECORD: &str = ".modshift-topology";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    New,
    Same,
    /// As it was written, and to be written otherwise now.
    Changed,
    Edited,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::New => "new",
            State::Same => "same",
            State::Changed => "changed",
            State::Edited => "edited",
        }
    }
}

pub struct Folder {
    root: PathBuf,
    written: BTreeMap<String, u32>,
}

impl Folder {
    pub fn open(root: &Path) -> anyhow::Result<Folder> {
        let record = root.join(RECORD);
        let text = match fs::read_to_string(&record) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("reading {}", record.display()))?,
        };
        let line = |line: &str| {
            let (sum, path) = line.split_once(' ')?;
            Some((path.to_owned(), u32::from_str_radix(sum, 16).ok()?))
        };
        let written = text.lines().filter(|text| !text.starts_with('#')).filter_map(line).collect();
        Ok(Folder { root: root.to_owned(), written })
    }

    pub fn compare(&self, files: Vec<File>) -> anyhow::Result<Vec<(File, State)>> {
        let state = |file: &File| {
            let path = self.root.join(&file.path);
            let found = match fs::read(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::New),
                found => found.with_context(|| format!("reading {}", path.display()))?,
            };
            Ok(match self.written.get(&file.path) {
                _ if found == file.text.as_bytes() => State::Same,
                Some(sum) if *sum == crc32fast::hash(&found) => State::Changed,
                _ => State::Edited,
            })
        };
        files.into_iter().map(|file| state(&file).map(|state| (file, state))).collect()
    }

    /// What was written here by an earlier plan, is still there, and is no longer one of the files.
    pub fn left(&self, listed: &[(File, State)]) -> Vec<String> {
        let gone = |path: &&String| {
            listed.iter().all(|(file, _)| file.path != **path) && self.root.join(path).exists()
        };
        self.written.keys().filter(gone).cloned().collect()
    }

    pub fn write(&self, listed: &[(File, State)]) -> anyhow::Result<()> {
        // Before the first of them: a run that is killed takes none of its own for edited.
        let known = |path: &String| self.root.join(path).exists();
        let mut sums: BTreeMap<String, u32> =
            self.written.clone().into_iter().filter(|(path, _)| known(path)).collect();
        for (file, state) in listed {
            let path = self.root.join(&file.path);
            let parent = path.parent().unwrap_or(&self.root);
            fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
            if *state == State::Edited {
                let kept = path.with_file_name(edited(&path));
                fs::rename(&path, &kept)
                    .with_context(|| format!("keeping {} as {}", path.display(), kept.display()))?;
            }
            put(&path, file)?;
            sums.insert(file.path.clone(), crc32fast::hash(file.text.as_bytes()));
        }
        let mut text =
            "# What `modshift topology` wrote here: whoever edits a file keeps it.\n".to_owned();
        for (path, sum) in sums {
            text += &format!("{sum:08x} {path}\n");
        }
        put(&self.root.join(RECORD), &File { path: RECORD.to_owned(), mode: super::PUBLIC, text })
    }
}

fn edited(path: &Path) -> String {
    format!("{}.edited", path.file_name().unwrap_or_default().to_string_lossy())
}

/// In one step, and with its mode from the first byte on.
fn put(path: &Path, file: &File) -> anyhow::Result<()> {
    let Some(name) = path.file_name() else { bail!("{} names no file", path.display()) };
    let beside = path.with_file_name(format!("{}.new", name.to_string_lossy()));
    let write = || {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out =
            fs::OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&beside)?;
        out.write_all(file.text.as_bytes())?;
        // Whatever the umask took away.
        out.set_permissions(fs::Permissions::from_mode(file.mode))?;
        out.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}
