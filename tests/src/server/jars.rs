//! Jars of Maven Central, fetched once for each pom under deploy/local.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::place::root;

/// The folder of these jars: `lib`, and the stamp of their pom, `fetched`.
pub fn jars(name: &str) -> Result<PathBuf> {
    let fetch = root().join("deploy/local/fetch.sh");
    let fetched = Command::new(&fetch).arg(name).output();
    let fetched = fetched.context("running deploy/local/fetch.sh")?;
    if !fetched.status.success() {
        bail!("{}", String::from_utf8_lossy(&fetched.stderr));
    }
    Ok(root().join("target").join(name))
}

/// A class path of all of them.
pub fn class_path(name: &str) -> Result<String> {
    Ok(format!("{}/lib/*", jars(name)?.display()))
}
