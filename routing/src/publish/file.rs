//! A file, replaced in one step: a reader sees the whole of one version or the whole of another,
//! and after a crash of process or machine the same.
//!
//! The new text goes to a file of its own beside the target, is synced, takes the target's name,
//! and then the folder is synced. A crash before the renaming leaves that file behind; the next
//! publication removes it.
//!
//! Whoever could read the file before can read it after, and nobody else: the new one has owner,
//! group, mode and ACL of the one that it replaces, and has them before there is a byte in it. It is
//! created exclusively, so a file or a link that someone has put under its name is not written to. A
//! symbolic link in the target's place is refused, unless the plan says that it be followed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::OFlags;

use super::error::Failure;
use super::rights::{self, Rights};
use super::{Ack, judge};
use crate::document::Document;

/// How a file carries the document that it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// It is the document.
    Json,
    /// After this and a space on the first line, which is a comment to whoever else reads it. The
    /// rest may hold passwords: a new file is its owner's alone.
    Comment(&'static str),
}

const MARK: &str = "modshift routing";

/// Where it is, and whether a symbolic link there is followed.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub path: &'a Path,
    pub follow: bool,
}

impl Place<'_> {
    /// The file that is to be replaced.
    fn resolve(self) -> Result<PathBuf, Failure> {
        let is_link = match fs::symlink_metadata(self.path) {
            Ok(found) => found.file_type().is_symlink(),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(failed("reading", self.path, &error)),
        };
        match (is_link, self.follow) {
            (false, _) => Ok(self.path.to_owned()),
            (true, true) => {
                fs::canonicalize(self.path).map_err(|error| failed("following", self.path, &error))
            }
            (true, false) => Err(Failure::Symlink { place: self.path.display().to_string() }),
        }
    }
}

impl Form {
    /// The first line of a file of this form.
    pub fn head(self, document: &Document) -> String {
        match self {
            Form::Json => String::new(),
            Form::Comment(start) => {
                // Strings, numbers and maps with string keys always serialise.
                let json = serde_json::to_string(document).unwrap_or_default();
                format!("{start} {MARK} {json}\n")
            }
        }
    }

    fn document(self, text: &[u8]) -> Result<Document, String> {
        let json = match self {
            Form::Json => text,
            Form::Comment(start) => {
                let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
                let head = format!("{start} {MARK} ");
                line.strip_prefix(head.as_bytes())
                    .ok_or_else(|| format!("its first line does not begin with {head:?}"))?
            }
        };
        Document::from_json(json).map_err(|error| error.to_string())
    }
}

/// Puts `text` in the file's place, which says `document` in this form. Nothing takes its place
/// after the deadline.
pub async fn publish(
    place: Place<'_>,
    text: &str,
    form: Form,
    document: &Document,
    deadline: Instant,
) -> Result<Ack, Failure> {
    let (path, follow) = (place.path.to_owned(), place.follow);
    let (text, document) = (text.to_owned(), document.clone());
    let work = move || {
        let path = Place { path: &path, follow }.resolve()?;
        replace(&path, &text, form, &document, deadline)
    };
    // A file system may hang; its caller must not.
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::Unanswered { detail: error.to_string() }))
}

fn replace(
    path: &Path,
    text: &str,
    form: Form,
    document: &Document,
    deadline: Instant,
) -> Result<Ack, Failure> {
    if let Some(ack) = judge(held(path, form)?.as_ref(), document)? {
        return Ok(ack);
    }
    let ready = write_beside(path, text, form)?;
    let late = Instant::now() >= deadline;
    let outcome = match late {
        true => Err(Failure::Unreachable {
            doing: format!("writing {}", ready.display()),
            detail: "too slow, given up".to_owned(),
        }),
        false => put(&ready, path),
    };
    if outcome.is_err() {
        // The error says more than a failure to tidy up after it.
        let _ = fs::remove_file(&ready);
    }
    outcome.map(|()| Ack::Stored)
}

fn held(path: &Path, form: Form) -> Result<Option<Document>, Failure> {
    // Not through a link that has just come there.
    let flags = OFlags::NOFOLLOW.bits() as i32;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        file.read_to_end(&mut text)?;
        Ok(text)
    };
    let text = match read() {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("reading", path, &error)),
    };
    let foreign = |detail| Failure::Foreign { place: path.display().to_string(), detail };
    form.document(&text).map(Some).map_err(foreign)
}

/// Names of the files beside the target that are on their way begin so.
fn beginning(path: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".modshift-");
    name
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The text, durable, under a name beside the target's, with the target's rights.
fn write_beside(path: &Path, text: &str, form: Form) -> Result<PathBuf, Failure> {
    remove_leftovers(path)?;
    let rights = Rights::of(path)?;
    let mut name = beginning(path);
    name.push(std::process::id().to_string());
    let ready = folder(path).join(name);
    // Nobody else may open it before it has the group and the ACL that it is to have.
    let mode = match (&rights, form) {
        (Some(rights), _) => rights.of_owner(),
        (None, Form::Json) => 0o666,
        (None, Form::Comment(_)) => 0o600,
    };
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(&ready);
    let mut file = made.map_err(|error| failed("creating", &ready, &error))?;
    let write = |file: &mut File| -> Result<(), Failure> {
        if let Some(rights) = &rights {
            rights::give(file, rights, path)?;
        }
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|error| failed("writing", &ready, &error))
    };
    if let Err(failure) = write(&mut file) {
        let _ = fs::remove_file(&ready);
        return Err(failure);
    }
    Ok(ready)
}

/// Of publications that a crash cut short.
fn remove_leftovers(path: &Path) -> Result<(), Failure> {
    let (folder, beginning) = (folder(path), beginning(path));
    let entries = fs::read_dir(folder).map_err(|error| failed("reading", folder, &error))?;
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(beginning.as_encoded_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn put(ready: &Path, path: &Path) -> Result<(), Failure> {
    fs::rename(ready, path).map_err(|error| failed("replacing", path, &error))?;
    // Only now does the new name outlive the machine.
    let synced = File::open(folder(path)).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Failure::Unanswered {
        detail: format!("{} is replaced, but its folder not synced: {error}", path.display()),
    })
}

pub(super) fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Unreachable { doing: format!("{doing} {}", path.display()), detail: error.to_string() }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
