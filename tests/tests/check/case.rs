//! A plan over servers of a test's own or the shared one, to be checked.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use modshift_tests::place::RunDir;
use modshift_tests::process::Launch;
use modshift_tests::server::{ADMIN, PASSWORD};
use modshift_tests::{MariaDbOptions, MariaDbServer};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::report::Report;

pub const LIMIT: Duration = Duration::from_secs(60);
pub const TABLE: &str = "id BIGINT NOT NULL, uid BIGINT NOT NULL, \
                         v VARCHAR(20) NOT NULL DEFAULT '', PRIMARY KEY (id)";
pub const OLD: usize = 2;
pub const NEW: usize = 3;

pub fn options(server_id: u32) -> MariaDbOptions {
    MariaDbOptions {
        sync_binlog: 1,
        innodb_flush_log_at_trx_commit: 1,
        ..MariaDbOptions::with_server_id(server_id)
    }
    .arg("--gtid-strict-mode=ON")
    .arg("--binlog-checksum=CRC32")
}

/// One server for all that does not depend on its settings; each test has schemas of its own.
pub async fn shared() -> Result<&'static MariaDbServer> {
    static SHARED: OnceCell<MariaDbServer> = OnceCell::const_new();
    SHARED.get_or_try_init(|| MariaDbServer::start(options(1))).await
}

/// Two old shards become three: every new one has two sources, every old one three on the way
/// back.
pub struct Case<'a> {
    pub name: String,
    /// Of old shard 0, old shard 1 and the new shards.
    pub servers: [&'a MariaDbServer; OLD + NEW],
    pub dir: RunDir,
    /// Further keys of old shard 0.
    pub of_old_0: String,
    pub tail: String,
}

/// Can the plugin `disks` tell? It reads a file that minimal containers do not have.
pub fn disks_are_told() -> bool {
    Path::new("/etc/mtab").exists()
}

impl<'a> Case<'a> {
    pub async fn new(server: &'a MariaDbServer, table: &str) -> Result<Case<'a>> {
        Self::on([server; OLD + NEW], table).await
    }

    pub async fn on(servers: [&'a MariaDbServer; OLD + NEW], table: &str) -> Result<Case<'a>> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("check_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = RunDir::create("check")?;
        let case = Case { name, servers, dir, of_old_0: String::new(), tail: String::new() };
        for (which, server) in servers.into_iter().enumerate() {
            let schema = case.schema(which);
            server.run(format!("CREATE DATABASE {schema}")).await?;
            case.run(which, &format!("CREATE TABLE t ({table})")).await?;
        }
        Ok(case)
    }

    pub fn schema(&self, which: usize) -> String {
        format!("{}_{which}", self.name)
    }

    pub async fn run(&self, which: usize, sql: &str) -> Result<()> {
        let address = self.servers[which].address().with_schema(&self.schema(which));
        for statement in sql.split("; ") {
            address.run(statement).await.with_context(|| statement.to_owned())?;
        }
        Ok(())
    }

    pub fn plan(&self) -> Result<PathBuf> {
        let mut text = format!(
            "name = \"{}\"\nmodulus = {{ old = {OLD}, new = {NEW} }}\n[log]\nkind = \"direct\"\n\
             [defaults]\nhost = \"127.0.0.1\"\nuser = \"{ADMIN}\"\n\
             password = \"${{MODSHIFT_PASSWORD}}\"\ntls = \"off\"\n",
            self.name.replace('_', "-"),
        );
        for (which, server) in self.servers.iter().enumerate() {
            let kind = if which < OLD { "old" } else { "new" };
            let (port, schema) = (server.port(), self.schema(which));
            text += &format!("[[{kind}]]\nport = {port}\nschema = \"{schema}\"\n");
            text += if which == 0 { &self.of_old_0 } else { "" };
        }
        text += "[[table]]\nname = \"t\"\nkey = \"uid\"\nrule = \"floor_mod\"\n";
        text += &self.tail;
        let path = self.dir.join("plan.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    pub fn launch(&self, args: &[&str]) -> Result<Launch> {
        self.launch_as(ADMIN, args)
    }

    /// The same by another login, of the same password.
    pub fn launch_as(&self, user: &str, args: &[&str]) -> Result<Launch> {
        let plan = self.plan()?;
        let text = std::fs::read_to_string(&plan)?;
        std::fs::write(&plan, text.replace(&format!("\"{ADMIN}\""), &format!("\"{user}\"")))?;
        let plan = plan.display().to_string();
        Ok(Launch::new(args.iter().copied())
            .arg("--plan")
            .arg(plan)
            .env("MODSHIFT_PASSWORD", PASSWORD))
    }

    pub async fn check(&self, args: &[&str]) -> Result<Report> {
        self.check_as(ADMIN, args).await
    }

    pub async fn check_as(&self, user: &str, args: &[&str]) -> Result<Report> {
        let args = [&["check", "--json"], args].concat();
        let (code, output) = self.launch_as(user, &args)?.finish(LIMIT).await?;
        let json: Value = serde_json::from_str(&output).with_context(|| output.clone())?;
        let report = Report { code, json };
        report.is_whole()?;
        Ok(report)
    }

    pub async fn quick(&self) -> Result<Report> {
        self.check(&["--quick"]).await
    }
}
