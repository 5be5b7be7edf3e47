//! `[topology]`: what the files of `modshift topology` need beyond the pairs themselves.

use std::path::PathBuf;
use std::time::Duration;

use super::endpoint::read_secret_file;
use super::quantity::format_duration;
use super::render::{REDACTED, Rendered};
use super::section::{Item, Section};
use super::{Secret, default};

#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// By which the masters of a pair replicate from each other.
    pub replication: Account,
    /// By which keepalived's scripts look at both servers and close one.
    pub watch: Account,
    /// Where the files lie on each server.
    pub dir: PathBuf,
    /// How often the holder of a virtual address says so. Whoever hears nothing for three times as
    /// long takes it over.
    pub advert: Duration,
}

/// Named on every server of every pair, for any host.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    pub user: String,
    pub password: Secret,
}

pub(super) fn read(root: &Section<'_>) -> Option<Topology> {
    if !root.has("topology") {
        return None;
    }
    let section = root.section("topology");
    let account = |user: &'static str, password, file, usual: &str| Account {
        user: section
            .get(user)
            .and_then(|item| item.text_that("1 to 80 characters", is_user))
            .unwrap_or_else(|| usual.to_owned()),
        password: read_password(&section, password, file),
    };
    let topology = Topology {
        replication: account(
            "replication_user",
            "replication_password",
            "replication_password_file",
            default::REPLICATION_USER,
        ),
        watch: account("watch_user", "watch_password", "watch_password_file", default::WATCH_USER),
        dir: section
            .get("dir")
            .and_then(|item| item.text_that("an absolute path without blanks", is_dir))
            .map_or_else(|| PathBuf::from(default::TOPOLOGY_DIR), PathBuf::from),
        // VRRP counts hundredths of a second, in twelve bits.
        advert: section.duration(
            "advert",
            default::ADVERT,
            Duration::from_millis(10)..=Duration::from_secs(40),
        ),
    };
    section.finish();
    Some(topology)
}

fn is_user(text: &str) -> bool {
    (1..=80).contains(&text.chars().count()) && !text.contains(char::is_control)
}

/// It stands in shell scripts and in keepalived's file.
fn is_dir(text: &str) -> bool {
    text.starts_with('/') && text.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.".contains(c))
}

fn read_password(section: &Section<'_>, key: &'static str, file: &'static str) -> Secret {
    let (given, in_file) = (section.get(key), section.get(file));
    if let (Some(_), Some(item)) = (&given, &in_file) {
        item.fault(format!("{key} is given too, expected one of the two"));
    }
    let of = |item: &Item<'_>| Secret::new(item.secret().unwrap_or_default());
    let secret = given
        .as_ref()
        .map(of)
        .or_else(|| in_file.as_ref().map(|item| read_secret_file(item).unwrap_or_default()));
    let Some(secret) = secret else {
        section.missing(key, &format!("a password, or {file}"));
        return Secret::default();
    };
    if secret.expose().contains(char::is_control) {
        let key = if given.is_some() { key } else { file };
        section.fault_at(key, "expected a password without control characters");
    }
    secret
}

pub(super) fn render(topology: Option<&Topology>, out: &mut Rendered) {
    let Some(topology) = topology else { return };
    out.head("[topology]");
    out.text("replication_user", &topology.replication.user);
    out.text("replication_password", REDACTED);
    out.text("watch_user", &topology.watch.user);
    out.text("watch_password", REDACTED);
    out.text("dir", &topology.dir.to_string_lossy());
    out.text("advert", &format_duration(topology.advert));
}
