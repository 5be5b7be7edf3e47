//! Which MariaDB the harness starts: the installed one, or that of another release.
//!
//! `MODSHIFT_TEST_MARIADB=/path/to/root` names a folder into which the packages of another Debian were
//! unpacked. Its programs run with its own C library, without a chroot.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::child::mortal;

/// Debian has it in /usr/sbin, which an ordinary account's PATH may lack.
const INSTALLED: &str = "/usr/sbin/mariadbd";
/// In the order in which a server wants them.
const SYSTEM: [&str; 6] = [
    "mariadb_system_tables.sql",
    "mariadb_performance_tables.sql",
    "mariadb_system_tables_data.sql",
    "fill_help_tables.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "mariadb_sys_schema.sql",
];

/// The folder of another release, if one is named.
fn other_root() -> Option<PathBuf> {
    std::env::var_os("MODSHIFT_TEST_MARIADB").map(PathBuf::from)
}

/// The server: a command line that goes on with its options.
fn line() -> (OsString, Vec<String>) {
    let Some(root) = other_root() else {
        let program = if Path::new(INSTALLED).exists() { INSTALLED } else { "mariadbd" };
        return (program.into(), Vec::new());
    };
    let within = |path: &str| root.join(path).display().to_string();
    let options = vec![
        "--library-path".to_owned(),
        within("usr/lib/x86_64-linux-gnu"),
        within("usr/sbin/mariadbd"),
        format!("--lc-messages-dir={}", within("usr/share/mariadb")),
        format!("--character-sets-dir={}", within("usr/share/mariadb/charsets")),
        format!("--plugin-dir={}", within("usr/lib/mysql/plugin")),
        // A release that makes keys at its start takes a minute for them on a busy machine.
        "--skip-ssl".to_owned(),
    ];
    (root.join("usr/lib64/ld-linux-x86-64.so.2").into(), options)
}

/// `options` as the installed server takes them, with `--no-defaults` or the like in front.
pub(super) fn server(options: &[String]) -> Command {
    server_in(None, options)
}

/// The same in a network namespace.
pub(super) fn server_in(namespace: Option<&str>, options: &[String]) -> Command {
    let (program, mut first) = line();
    // The very first option of the server says whether it reads files.
    let (defaults, rest) = options.split_at(options.len().min(1));
    let at = first.iter().position(|option| option.starts_with("--lc-")).unwrap_or(first.len());
    first.splice(at..at, defaults.iter().cloned());
    let mut command = match namespace {
        None => mortal(program),
        Some(namespace) => {
            let mut command = crate::network::within(namespace);
            command.arg(program);
            command
        }
    };
    command.args(&first).args(rest);
    command
}

pub(super) fn version() -> Result<Vec<u8>> {
    let output = server(&["--no-defaults".to_owned(), "--version".to_owned()]).output();
    Ok(output.context("running mariadbd (deploy/local/install.sh installs it)")?.stdout)
}

/// A data directory with the system tables, and what `accounts` adds to them.
pub(super) fn install(made: &Path, accounts: &Path) -> Result<()> {
    let Some(root) = other_root() else {
        let output = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal"])
            .args(["--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=16M"])
            .arg(format!("--datadir={}", made.display()))
            .arg(format!("--extra-file={}", accounts.display()))
            .output()
            .context("running mariadb-install-db")?;
        if !output.status.success() {
            // It says what is missing on the one, and that something is on the other.
            let said = [output.stdout, output.stderr].concat();
            bail!("mariadb-install-db failed: {}", String::from_utf8_lossy(&said).trim());
        }
        return Ok(());
    };
    fs::create_dir_all(made)?;
    // What mariadb-install-db would send: a bootstrap takes one statement from each line.
    let mut sql =
        "CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n\
                   SET @skip_auth_anonymous = 1;\n"
            .to_owned();
    let share = root.join("usr/share/mariadb");
    for file in SYSTEM.map(|name| share.join(name)).iter().map(PathBuf::as_path).chain([accounts]) {
        sql += &fs::read_to_string(file).with_context(|| file.display().to_string())?;
        sql.push('\n');
    }
    let input = made.with_extension("sql");
    fs::write(&input, sql)?;
    let options = [
        "--no-defaults".to_owned(),
        "--bootstrap".to_owned(),
        "--user=root".to_owned(),
        "--innodb-log-file-size=16M".to_owned(),
        format!("--datadir={}", made.display()),
    ];
    let output = server(&options).stdin(Stdio::from(fs::File::open(&input)?)).output()?;
    if !output.status.success() {
        bail!("the bootstrap failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
