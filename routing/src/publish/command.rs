//! A program: the document on its standard input, the version in its environment, exit code 0 as
//! acknowledgement.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, Command};

use super::Ack;
use super::error::Failure;
use crate::document::Document;

pub const VERSION_VARIABLE: &str = "MODSHIFT_ROUTING_VERSION";
/// What a program gets of our environment: where it finds others, and how it speaks. The plan
/// names what it needs beside these.
pub const PASSED: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// Of its standard error, how much is remembered: the end of it says why it failed.
const SAID_BYTES: usize = 4 << 10;
/// What it has written is in the pipe when it ends.
const LAST_WORDS: Duration = Duration::from_millis(100);

fn passed(named: &[String]) -> impl Iterator<Item = (&str, std::ffi::OsString)> {
    let names = PASSED.into_iter().chain(named.iter().map(String::as_str));
    names.filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Killed, by its process id, when the caller stops waiting.
pub async fn publish(argv: &[String], env: &[String], document: &Document) -> Result<Ack, Failure> {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    let unreachable = |error: std::io::Error| Failure::Unreachable {
        doing: format!("running {program}"),
        detail: error.to_string(),
    };
    let mut child = Command::new(program)
        .args(argv.iter().skip(1))
        // The daemon's own environment holds the passwords of the plan.
        .env_clear()
        .envs(passed(env))
        .env(VERSION_VARIABLE, document.version.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(unreachable)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input has its reasons; its exit code counts.
            let _ = stdin.write_all(document.to_json().as_bytes()).await;
            let _ = stdin.shutdown().await;
        }
    };
    let mut said = Vec::new();
    let status = {
        let talk = async { tokio::join!(write, listen(stderr, &mut said)) };
        tokio::pin!(talk);
        // What it leaves running may keep its standard error open: its own end is what counts.
        let ended = tokio::select! {
            _ = &mut talk => None,
            status = child.wait() => Some(status),
        };
        match ended {
            Some(status) => {
                let _ = tokio::time::timeout(LAST_WORDS, talk).await;
                status
            }
            None => child.wait().await,
        }
    };
    let status =
        status.map_err(|error| Failure::Unanswered { detail: format!("{program}: {error}") })?;
    if status.success() {
        return Ok(Ack::Stored);
    }
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.map(|line| format!(": {}", line.trim())).unwrap_or_default();
    Err(Failure::Refused { detail: format!("{program} ended with {status}{last}") })
}

/// Reads all of it, so that it can go on writing.
async fn listen(stderr: Option<ChildStderr>, said: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut buffer = [0; SAID_BYTES];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..read]);
        said.drain(..said.len().saturating_sub(SAID_BYTES));
    }
}
