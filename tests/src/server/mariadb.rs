//! A MariaDB server of our own.
//!
//! The system tables are made once for each server version and copied from then on: a copy takes
//! tens of milliseconds where `mariadb-install-db` takes seconds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use mysql_async::{Conn, Row, prelude::FromValue};
use tokio::sync::OnceCell;

use super::{ADMIN, Address, MariaDbOptions, PASSWORD, hostile, program};
use crate::{
    child::{Child, Signal},
    place::{RunDir, copy_dir, free_port, servers_dir, tail},
    wait::wait_until,
};

/// Recovery after a kill under load on a busy machine takes the longest.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// A lost race for a port is no reason to fail a test.
const START_ATTEMPTS: usize = 5;

#[derive(Debug)]
pub struct MariaDbServer {
    options: MariaDbOptions,
    port: AtomicU16,
    child: Mutex<Option<Arc<Child>>>,
    // Last, so that it goes after the process.
    dir: RunDir,
}

impl MariaDbServer {
    pub async fn start(options: MariaDbOptions) -> Result<Self> {
        let template = template().await?.to_path_buf();
        let dir = RunDir::create(&format!("mariadb-{}", options.server_id))?;
        let data = dir.join("data");
        fs::create_dir(dir.join("tmp")).context("creating the server's tmpdir")?;
        fs::write(dir.join("init.sql"), hostile::init_file()).context("writing init.sql")?;
        match &options.data {
            Some(made) => fs::rename(made, &data).context("putting the data in place")?,
            None => tokio::task::spawn_blocking(move || copy_dir(&template, &data)).await??,
        }
        let port = match &options.place {
            Some(place) => place.port,
            None => free_port()?,
        };
        let server = Self { options, port: AtomicU16::new(port), child: Mutex::new(None), dir };
        for attempt in 1.. {
            match server.restart().await {
                Ok(()) => break,
                Err(error) if attempt < START_ATTEMPTS && server.lost_its_port() => {
                    drop(error);
                    fs::remove_file(server.log_path()).ok();
                    server.port.store(free_port()?, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(server)
    }

    /// Several at once: a start waits for the disk more than for the processor.
    pub async fn start_all(
        options: impl IntoIterator<Item = MariaDbOptions>,
    ) -> Result<Vec<Arc<Self>>> {
        let starts = options.into_iter().map(|o| async { Ok(Arc::new(Self::start(o).await?)) });
        futures_util::future::try_join_all(starts).await
    }

    fn lost_its_port(&self) -> bool {
        tail(&self.log_path(), 50).contains("Address already in use")
    }

    pub fn host(&self) -> &str {
        self.options.place.as_ref().map_or("127.0.0.1", |place| &place.host)
    }

    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    pub fn server_id(&self) -> u32 {
        self.options.server_id
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("error.log")
    }

    /// The harness's own account, without a default schema.
    pub fn address(&self) -> Address {
        Address { host: self.host().to_owned(), ..Address::admin(self.port(), "") }
    }

    pub fn url(&self) -> String {
        format!("mysql://{ADMIN}:{PASSWORD}@{}:{}", self.host(), self.port())
    }

    pub async fn connect(&self) -> Result<Conn> {
        self.address().connect().await
    }

    pub async fn query(&self, sql: impl AsRef<str>) -> Result<Vec<Row>> {
        self.address().query(sql).await
    }

    pub async fn run(&self, sql: impl AsRef<str>) -> Result<()> {
        self.address().run(sql).await
    }

    pub async fn value<T: FromValue>(&self, sql: impl AsRef<str>) -> Result<T> {
        self.address().value(sql).await
    }

    fn child(&self) -> Result<Arc<Child>> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).clone();
        child.with_context(|| format!("MariaDB on port {} is not running", self.port()))
    }

    pub fn pid(&self) -> Result<u32> {
        Ok(self.child()?.pid())
    }

    pub fn cpu_time(&self) -> Result<Duration> {
        self.child()?.cpu_time()
    }

    /// Replicates from another server, from its first event on. Its own binlog has it all only with
    /// `--log-slave-updates`.
    pub async fn follow(&self, primary: &MariaDbServer) -> Result<()> {
        for server in [self, primary] {
            server.allow_replication().await?;
        }
        self.run(format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='{ADMIN}', \
             MASTER_PASSWORD='{PASSWORD}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1",
            primary.port()
        ))
        .await?;
        self.run("START SLAVE").await
    }

    /// The threads of a replica are sessions, too, here and on the primary, and fix nothing: with
    /// these settings MariaDB's own replication would not run.
    pub async fn allow_replication(&self) -> Result<()> {
        self.run(
            "SET GLOBAL tx_read_only = 0, GLOBAL max_join_size = 18446744073709551615, \
             GLOBAL sql_big_selects = 1, GLOBAL sql_select_limit = 18446744073709551615",
        )
        .await
    }

    /// Until it has applied what the primary has written by now.
    pub async fn catch_up(&self, primary: &MariaDbServer) -> Result<()> {
        let written: String = primary.value("SELECT @@gtid_binlog_pos").await?;
        let wait = format!("SELECT MASTER_GTID_WAIT('{written}', 60)");
        match self.value::<i64>(wait).await? {
            0 => Ok(()),
            _ => {
                let rows = self.query("SHOW SLAVE STATUS").await?;
                let of = |column: &str| rows.first()?.get_opt::<String, _>(column)?.ok();
                bail!(
                    "the replica on port {} is not at {written} after 60 s: {:?} {:?}",
                    self.port(),
                    of("Last_IO_Error"),
                    of("Last_SQL_Error")
                )
            }
        }
    }

    /// SIGTERM, and waits: everything is flushed, the binlog is closed.
    pub async fn stop(&self) -> Result<()> {
        let child = self.child()?;
        child.signal(Signal::Term)?;
        let status = child.wait_exit(STOP_LIMIT).await?;
        if !status.success() {
            bail!("MariaDB ended with {status}\n{}", tail(&self.log_path(), 30));
        }
        Ok(())
    }

    /// SIGKILL: a crash of the process. What the kernel has been handed stays.
    pub fn kill(&self) -> Result<()> {
        self.child()?.kill().map(drop)
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.child()?.signal(Signal::Stop)
    }

    pub fn cont(&self) -> Result<()> {
        self.child()?.signal(Signal::Cont)
    }

    /// Starts again after `stop` or `kill`, on the same port and data.
    pub async fn restart(&self) -> Result<()> {
        self.restart_with(&[]).await
    }

    /// The same with further options, for this start only.
    pub async fn restart_with(&self, extra: &[&str]) -> Result<()> {
        let mut line = self.options.command_line(
            &self.data_dir(),
            &self.dir.join("tmp"),
            &self.log_path(),
            self.port(),
        );
        line.extend(extra.iter().map(|&option| option.to_owned()));
        let namespace = self.options.place.as_ref().and_then(|place| place.namespace.as_deref());
        let mut command = program::server_in(namespace, &line);
        command
            .envs(self.options.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = Arc::new(Child::spawn("mariadbd", command)?);
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&child));
        self.until_ready(&child).await.map_err(|error| {
            child.kill().ok();
            anyhow!("{error:#}\nits error log:\n{}", tail(&self.log_path(), 30))
        })
    }

    async fn until_ready(&self, child: &Child) -> Result<()> {
        let address = self.address();
        let what = format!("MariaDB on port {}", self.port());
        wait_until(&what, START_LIMIT, || async {
            if let Some(status) = child.exited()? {
                bail!("mariadbd ended at its start: {status}");
            }
            // Another server could be answering on this port: ours says its process id. The file
            // is written before the server accepts connections.
            let pid = fs::read_to_string(self.data_dir().join("server.pid")).unwrap_or_default();
            if pid.trim() != child.pid().to_string() {
                return Ok(None);
            }
            Ok(address.run("SELECT 1").await.ok())
        })
        .await
    }
}

/// A data directory with the system tables and the harness's account, for this server version.
async fn template() -> Result<&'static Path> {
    static TEMPLATE: OnceCell<PathBuf> = OnceCell::const_new();
    let path =
        TEMPLATE.get_or_try_init(|| async { tokio::task::spawn_blocking(make_template).await? });
    Ok(path.await?)
}

fn make_template() -> Result<PathBuf> {
    let version = program::version()?;
    let account = format!(
        "FLUSH PRIVILEGES;\n\
         CREATE USER '{ADMIN}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
         GRANT ALL ON *.* TO '{ADMIN}'@'%' WITH GRANT OPTION;\n"
    );
    let key = crc32fast::hash(&[version.as_slice(), account.as_bytes()].concat());
    let ready = servers_dir().join(format!("template-{key:08x}"));
    if ready.exists() {
        return Ok(ready);
    }
    let scratch = RunDir::create("template")?;
    let accounts = scratch.join("accounts.sql");
    fs::write(&accounts, account).context("writing the accounts")?;
    let made = scratch.join("data");
    program::install(&made, &accounts)?;
    // Another test process may have been faster; its template is as good.
    match fs::rename(&made, &ready) {
        Err(_) if ready.exists() => Ok(ready),
        Err(error) => Err(error).context("putting the template in place"),
        Ok(()) => Ok(ready),
    }
}
