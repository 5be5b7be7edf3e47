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
    let of =
        |shard: &Shard, account, file| grant(&shard.server.address(), &shard.schema, account, file);
    for shard in &estate.old {
        of(shard, daemons, "grants-old.sql")?;
    }
    for shard in &estate.new {
        of(shard, daemons, "grants-new.sql")?;
    }
    for shard in estate.old.iter().chain(&estate.new) {
        of(shard, cutover, "grants-cutover.sql")?;
    }
    Ok(())
}

/// Creates the account with the file and the command in its first lines.
pub fn grant(server: &Address, schema: &str, account: &str, file: &str) -> Result<()> {
    grant_with(server, schema, account, file, "@said = 1")
}

/// The same with further variables of the file: `@super = 0`.
pub fn grant_with(
    server: &Address,
    schema: &str,
    account: &str,
    file: &str,
    variables: &str,
) -> Result<()> {
    let Address { host, port, user, password, .. } = server;
    // The rest of what makes the server's sessions hostile is left: the files must bear it.
    let set = format!(
        "SET tx_read_only = 0, max_statement_time = 0, @schema = '{schema}', \
         @user = '{account}', @host = '127.0.0.%', @password = '{PASSWORD}', {variables}"
    );
    let path = root().join("deploy/mariadb").join(file);
    let sql = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let output = Command::new("mariadb")
        .args(["--no-defaults", "--protocol=tcp", "--host", host])
        .args(["--port", &port.to_string(), "--user", user])
        .arg(format!("--password={password}"))
        .arg(format!("--init-command={set}"))
        .stdin(Stdio::from(sql))
        .output()
        .context("running mariadb")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.is_empty(), "{file}: {}: {said}", output.status);
    Ok(())
}
