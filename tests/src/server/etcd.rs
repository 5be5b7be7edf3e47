//! A real etcd server, alone in its cluster.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    child::{Child, Signal, mortal},
    place::{RunDir, free_port, tail},
    process::http_get,
    wait::wait_until,
};

const START_LIMIT: Duration = Duration::from_secs(60);

pub struct EtcdServer {
    port: u16,
    peer_port: u16,
    dir: RunDir,
    /// Certificate and key, and the port where it serves them.
    tls: Option<(PathBuf, PathBuf, u16)>,
    child: Mutex<Option<Arc<Child>>>,
}

impl EtcdServer {
    pub async fn start() -> Result<Self> {
        Self::start_with(None).await
    }

    /// With an address for TLS beside the plain one.
    pub async fn start_tls(certificate: PathBuf, key: PathBuf) -> Result<Self> {
        Self::start_with(Some((certificate, key, free_port()?))).await
    }

    async fn start_with(tls: Option<(PathBuf, PathBuf, u16)>) -> Result<Self> {
        let server = Self {
            port: free_port()?,
            peer_port: free_port()?,
            dir: RunDir::create("etcd")?,
            tls,
            child: Mutex::default(),
        };
        server.restart().await?;
        Ok(server)
    }

    /// Its address, `http://host:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same with TLS, if it has that: `https://host:port`.
    pub fn tls_endpoint(&self) -> Option<String> {
        self.tls.as_ref().map(|(_, _, port)| format!("https://127.0.0.1:{port}"))
    }

    /// Starts it on its data, after a stop or a kill.
    pub async fn restart(&self) -> Result<()> {
        let peers = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::create(self.dir.join("etcd.log")).context("etcd.log")?;
        let clients = [Some(self.endpoint()), self.tls_endpoint()];
        let clients = clients.into_iter().flatten().collect::<Vec<_>>().join(",");
        let mut command = mortal("etcd");
        if let Some((certificate, key, _)) = &self.tls {
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        command
            .args(["--name", "one", "--initial-cluster", &format!("one={peers}")])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .stdin(Stdio::null())
            .stderr(log.try_clone().context("etcd.log")?)
            .stdout(log);
        let child = Arc::new(
            Child::spawn("etcd", command)
                .context("starting etcd (deploy/local/install.sh --test installs it)")?,
        );
        *self.lock() = Some(Arc::clone(&child));
        let healthy = format!("{}/health", self.endpoint());
        let ready = wait_until("etcd", START_LIMIT, || async {
            if let Some(status) = child.exited()? {
                bail!("etcd ended at its start: {status}");
            }
            let answer = http_get(&healthy).await.ok();
            Ok(answer.filter(|(status, text)| *status == 200 && text.contains("true")))
        });
        ready.await.map(drop).with_context(|| tail(&self.dir.join("etcd.log"), 20))
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
        self.lock().as_ref().context("etcd does not run")?.signal(signal)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Child>>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
