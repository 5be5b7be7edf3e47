//! A ZooKeeper of our own, from Maven's jars: the centre that ShardingSphere's cluster mode follows.

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use modshift_proto::plan::HostPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::class_path;
use crate::{
    child::{Child, Signal, mortal},
    place::{RunDir, free_port, tail},
    wait::wait_until,
};

const START_LIMIT: Duration = Duration::from_secs(90);
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// The jars with it, which are ShardingSphere's too.
pub const JARS: &str = "shardingsphere-cluster";

pub struct ZooKeeperServer {
    port: u16,
    dir: RunDir,
    child: Mutex<Option<Arc<Child>>>,
}

impl ZooKeeperServer {
    pub async fn start() -> Result<Self> {
        let dir = RunDir::create("zookeeper")?;
        let server = Self { port: free_port()?, dir, child: Mutex::default() };
        let data = server.dir.join("data");
        std::fs::create_dir_all(&data)?;
        let config = format!(
            "clientPort={}\nclientPortAddress=127.0.0.1\ndataDir={}\nadmin.enableServer=false\n\
             4lw.commands.whitelist=srvr\n",
            server.port,
            data.display()
        );
        std::fs::write(server.dir.join("zoo.cfg"), config)?;
        quiet(server.dir.path())?;
        server.restart().await?;
        Ok(server)
    }

    pub fn address(&self) -> HostPort {
        HostPort { host: "127.0.0.1".to_owned(), port: self.port }
    }

    /// Starts it on its data, after a kill.
    pub async fn restart(&self) -> Result<()> {
        let class_path = format!("{}:{}", self.dir.path().display(), class_path(JARS)?);
        let log = std::fs::File::create(self.dir.join("zookeeper.log")).context("zookeeper.log")?;
        let mut command = mortal("java");
        command
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &class_path])
            .arg(format!("-Djava.io.tmpdir={}", self.dir.path().display()))
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(self.dir.join("zoo.cfg"))
            .stdin(Stdio::null())
            .stderr(log.try_clone().context("zookeeper.log")?)
            .stdout(log);
        let child = Arc::new(
            Child::spawn("ZooKeeper", command)
                .context("starting java (deploy/local/install.sh installs it)")?,
        );
        *self.lock() = Some(Arc::clone(&child));
        let ready = wait_until("ZooKeeper", START_LIMIT, || async {
            if let Some(status) = child.exited()? {
                bail!("ZooKeeper ended at its start: {status}");
            }
            // Amid its start it takes a connection and says nothing to it.
            let serves = tokio::time::timeout(ANSWER_LIMIT, self.serves()).await;
            Ok(serves.ok().and_then(Result::ok).filter(|&serves| serves))
        });
        ready.await.map(drop).with_context(|| tail(&self.dir.join("zookeeper.log"), 20))
    }

    /// It answers its word for what it is once it takes sessions.
    async fn serves(&self) -> Result<bool> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(b"srvr").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.contains("Mode: standalone"))
    }

    pub fn kill(&self) -> Result<()> {
        match self.lock().take() {
            Some(child) => child.kill().map(drop),
            None => Ok(()),
        }
    }

    /// Alive, and silent.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::Stop)
    }

    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::Cont)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.lock().as_ref().context("ZooKeeper does not run")?.signal(signal)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Child>>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Warnings alone: the loggers of these jars write down every packet otherwise. For a class path on
/// which this folder is the first.
pub fn quiet(folder: &Path) -> Result<()> {
    let config = "<configuration><appender name=\"out\" class=\"ch.qos.logback.core.ConsoleAppender\">\
                  <encoder><pattern>%d %level %logger{0} %msg%n</pattern></encoder></appender>\
                  <root level=\"WARN\"><appender-ref ref=\"out\"/></root></configuration>\n";
    std::fs::write(folder.join("logback.xml"), config).context("logback.xml")
}
