//! Certificates for servers and daemons of a test, made with openssl.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

fn openssl(dir: &Path, line: &str) -> Result<()> {
    let run = Command::new("openssl").args(line.split_whitespace()).current_dir(dir).output();
    let run = run.context("running openssl")?;
    ensure!(run.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&run.stderr));
    Ok(())
}

/// An authority: `NAME.pem` and `NAME.key` in a directory.
pub fn authority(dir: &Path, name: &str) -> Result<()> {
    let key = "-newkey rsa:2048 -nodes -days 30";
    openssl(dir, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name}"))
}

/// A certificate `NAME.pem`, `NAME.key` of an authority, for these names alone: `DNS:db.test`,
/// `IP:127.0.0.1`.
pub fn certificate(dir: &Path, authority: &str, name: &str, names: &str) -> Result<()> {
    openssl(
        dir,
        &format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"),
    )?;
    std::fs::write(dir.join("names"), format!("subjectAltName={names}\n"))?;
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial \
             -days 30 -extfile names -out {name}.pem"
        ),
    )
}
