//! Where the harness keeps its files, and which ports it takes.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail};

/// The checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Everything that outlives one server: templates, run directories.
pub fn servers_dir() -> PathBuf {
    match std::env::var_os("MODSHIFT_TEST_DIR") {
        Some(dir) => dir.into(),
        None => root().join("target/test-servers"),
    }
}

/// A directory of one server or process, removed with its owner. `MODSHIFT_KEEP=1` keeps it.
#[derive(Debug)]
pub struct RunDir(PathBuf);

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

impl RunDir {
    pub fn create(name: &str) -> Result<Self> {
        let parent = servers_dir();
        SWEEP.call_once(|| sweep(&parent));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("run-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if std::env::var_os("MODSHIFT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Removes what runs that were killed left behind: directories whose process is gone.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|n| n.strip_prefix("run-")).and_then(|n| n.split('-').next());
        let Some(pid) = pid.and_then(|p| p.parse::<u32>().ok()) else { continue };
        if pid != std::process::id() && !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Below the kernel's ephemeral range (32768 and up), so that no outgoing connection takes a port
/// between our look and the server's bind.
const PORT_FIRST: u32 = 18000;
const PORTS: u32 = 14000;

/// A loopback port that nobody listens on. Each process starts its search elsewhere; a server that
/// loses a race all the same fails to start and is started again on another port.
pub fn free_port() -> Result<u16> {
    static NEXT_PORT: AtomicU32 = AtomicU32::new(0);
    let offset = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = (PORT_FIRST + offset.wrapping_add(step) % PORTS) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {PORT_FIRST} and {}", PORT_FIRST + PORTS)
}

/// A number for each writing connection of this process: what it inserts must collide with no other,
/// not even of a writer that has stopped.
pub(crate) fn writer_slot() -> u64 {
    static NEXT_SLOT: AtomicU32 = AtomicU32::new(0);
    u64::from(NEXT_SLOT.fetch_add(1, Ordering::Relaxed))
}

/// The last lines of a file, for error messages.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({} cannot be read: {error})", path.display()),
    }
}

/// Copies a directory, sharing blocks where the file system can.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    let status = std::process::Command::new("cp")
        .args(["-a", "--reflink=auto", "-T"])
        .args([from, to])
        .status()
        .context("running cp")?;
    if !status.success() {
        bail!("copying {} to {} failed: {status}", from.display(), to.display());
    }
    Ok(())
}
