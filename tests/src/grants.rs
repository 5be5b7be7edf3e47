//! Accounts with the least privileges, by the files that an operator runs.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{
    Estate,
    estate::Shard,
    place::root,
    server::{Address, PASSWORD},
};

/// One account for the daemons, one for the login of `[cutover]`.
pub fn grant_all(estate: &Estate, daemons: &str, cutover: &str) -> Result<()> {
    for shard in &estate.old {
        grant(shard, daemons, "grants-old.sql")?;
    }
    for shard in &estate.new {
        grant(shard, daemons, "grants-new.sql")?;
    }
    for shard in estate.old.iter().chain(&estate.new) {
        grant(shard, cutover, "grants-cutover.sql")?;
    }
    Ok(())
}

/// Creates the account with the file and the command in its first lines.
fn grant(shard: &Shard, account: &str, file: &str) -> Result<()> {
    let Address { host, port, user, password, .. } = shard.server.address();
    let set = format!(
        "SET @schema = '{}', @user = '{account}', @host = '127.0.0.%', @password = '{PASSWORD}'",
        shard.schema
    );
    let path = root().join("deploy/mariadb").join(file);
    let sql = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let output = Command::new("mariadb")
        .args(["--no-defaults", "--protocol=tcp", "--host", &host])
        .args(["--port", &port.to_string(), "--user", &user])
        .arg(format!("--password={password}"))
        .arg(format!("--init-command={set}"))
        .stdin(Stdio::from(sql))
        .output()
        .context("running mariadb")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.is_empty(), "{file}: {}: {said}", output.status);
    Ok(())
}
