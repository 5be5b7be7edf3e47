//! The settings of a MariaDB server that tests vary, and the command line they become.

use std::path::{Path, PathBuf};

/// Defaults are for tests: fast, and safe against the death of the process (not of the machine).
#[derive(Clone, Debug)]
pub struct MariaDbOptions {
    pub server_id: u32,
    /// The GTID domain of what this server writes; the server id unless told otherwise.
    pub gtid_domain_id: Option<u32>,
    pub log_bin: bool,
    /// ROW, MIXED or STATEMENT.
    pub binlog_format: String,
    /// FULL, NOBLOB or MINIMAL.
    pub binlog_row_image: String,
    /// NO_LOG, MINIMAL or FULL.
    pub binlog_row_metadata: String,
    pub sync_binlog: u32,
    pub innodb_flush_log_at_trx_commit: u8,
    pub buffer_pool_mb: u32,
    /// Of the redo log; small, so that a start does not spend its time on writing zeros.
    pub redo_mb: u32,
    pub max_allowed_packet: u64,
    /// The global session variables are what nobody expects them to be.
    pub hostile: bool,
    /// A file of settings in place of those above, as far as it says them: what an operator installs.
    pub config: Option<PathBuf>,
    /// Data to begin with, which becomes the server's own; only the system tables without it.
    pub data: Option<PathBuf>,
    /// Where it runs, if not on this host's own loopback.
    pub place: Option<Place>,
    /// Further options as they would stand on the command line; they win over those above.
    pub extra: Vec<String>,
    /// Of its environment.
    pub env: Vec<(String, String)>,
}

impl Default for MariaDbOptions {
    fn default() -> Self {
        Self {
            server_id: 1,
            gtid_domain_id: None,
            log_bin: true,
            binlog_format: "ROW".to_owned(),
            binlog_row_image: "FULL".to_owned(),
            binlog_row_metadata: "NO_LOG".to_owned(),
            sync_binlog: 0,
            innodb_flush_log_at_trx_commit: 2,
            buffer_pool_mb: 64,
            redo_mb: 64,
            max_allowed_packet: 64 << 20,
            hostile: true,
            config: None,
            data: None,
            place: None,
            extra: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// Where a server runs: in a network namespace perhaps, and at an address and a port that are given.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: Option<String>,
    pub host: String,
    pub port: u16,
}

impl MariaDbOptions {
    /// As the file of settings says, and nothing of it otherwise.
    pub fn with_config(config: PathBuf) -> Self {
        Self { config: Some(config), ..Self::default() }.calm()
    }

    pub fn with_server_id(server_id: u32) -> Self {
        Self { server_id, ..Self::default() }
    }

    /// Global session variables as a server has them by itself.
    pub fn calm(self) -> Self {
        Self { hostile: false, ..self }
    }

    /// Adds an option, such as `--binlog-checksum=NONE`.
    pub fn arg(mut self, option: &str) -> Self {
        self.extra.push(option.to_owned());
        self
    }

    /// Adds a variable of its environment, such as a library to load first.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn command_line(
        &self,
        data: &Path,
        tmp: &Path,
        log: &Path,
        port: u16,
    ) -> Vec<String> {
        let mut line = vec![
            match &self.config {
                Some(file) => format!("--defaults-file={}", file.display()),
                None => "--no-defaults".to_owned(),
            },
            // As root in a container or a chroot; elsewhere as whoever runs the test.
            "--user=root".to_owned(),
            format!("--datadir={}", data.display()),
            format!("--log-error={}", log.display()),
            // Relative to the data directory: an absolute path may exceed the 107 bytes of a socket.
            "--socket=server.sock".to_owned(),
            "--pid-file=server.pid".to_owned(),
            // Its own: a server that starts deletes every temporary table that lies in it.
            format!("--tmpdir={}", tmp.display()),
            format!("--port={port}"),
            format!(
                "--bind-address={}",
                if self.place.is_some() { "0.0.0.0" } else { "127.0.0.1" }
            ),
            format!("--innodb-buffer-pool-size={}M", self.buffer_pool_mb),
            format!("--innodb-log-file-size={}M", self.redo_mb),
            format!("--max-allowed-packet={}", self.max_allowed_packet),
            "--character-set-server=utf8mb4".to_owned(),
            "--max-connections=300".to_owned(),
            "--performance-schema=OFF".to_owned(),
            "--innodb-buffer-pool-dump-at-shutdown=OFF".to_owned(),
            "--innodb-buffer-pool-load-at-startup=OFF".to_owned(),
            "--loose-innodb-fast-shutdown=1".to_owned(),
        ];
        if self.config.is_none() {
            line.extend(self.own_settings());
        }
        if self.hostile {
            line.push("--init-file=../init.sql".to_owned());
            line.push("--query-cache-type=1".to_owned());
        }
        line.extend(self.extra.iter().cloned());
        line
    }

    /// What a file of settings says in their place, where there is one.
    fn own_settings(&self) -> Vec<String> {
        let mut line = vec![
            format!("--server-id={}", self.server_id),
            format!("--gtid-domain-id={}", self.gtid_domain_id.unwrap_or(self.server_id)),
            format!("--binlog-format={}", self.binlog_format),
            format!("--binlog-row-image={}", self.binlog_row_image),
            format!("--binlog-row-metadata={}", self.binlog_row_metadata),
            format!("--sync-binlog={}", self.sync_binlog),
            format!("--innodb-flush-log-at-trx-commit={}", self.innodb_flush_log_at_trx_commit),
        ];
        if self.log_bin {
            line.push("--log-bin=binlog".to_owned());
        }
        line
    }
}
