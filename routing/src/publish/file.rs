//! A file, replaced in one step: a reader sees the whole of one version or the whole of another,
//! and after a crash of process or machine the same.
//!
//! The new text goes to a file of its own beside the target, is synced, takes the target's name,
//! and then the folder is synced. A crash before the renaming leaves that file behind; the next
//! publication removes it.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::error::Failure;
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
    path: &Path,
    text: &str,
    form: Form,
    document: &Document,
    deadline: Instant,
) -> Result<Ack, Failure> {
    let (path, text, document) = (path.to_owned(), text.to_owned(), document.clone());
    let work = move || replace(&path, &text, form, &document, deadline);
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
    let text = match fs::read(path) {
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

/// The text, durable, under a name beside the target's, with the target's permissions.
fn write_beside(path: &Path, text: &str, form: Form) -> Result<PathBuf, Failure> {
    remove_leftovers(path)?;
    let mut name = beginning(path);
    name.push(std::process::id().to_string());
    let ready = folder(path).join(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&ready)?;
        match (fs::metadata(path), form) {
            (Ok(existing), _) => file.set_permissions(existing.permissions())?,
            (Err(_), Form::Json) => {}
            (Err(_), Form::Comment(_)) => file.set_permissions(Permissions::from_mode(0o600))?,
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    match write() {
        Ok(()) => Ok(ready),
        Err(error) => {
            let _ = fs::remove_file(&ready);
            Err(failed("writing", &ready, &error))
        }
    }
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

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Unreachable { doing: format!("{doing} {}", path.display()), detail: error.to_string() }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
