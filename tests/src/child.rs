//! Child processes that never outlive their test.
//!
//! Two nets: [`Child`] kills and reaps when dropped (a panic included), and the kernel kills it
//! should the whole test process vanish (`setpriv --pdeathsig KILL`). The second fires when the
//! *thread* that spawned it ends, so all spawning is done by one thread that never does.

use std::{
    process::{Command, ExitStatus},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait::wait_until;

type Spawned = std::io::Result<std::process::Child>;
type Job = (Command, mpsc::Sender<Spawned>);

fn spawner() -> &'static mpsc::Sender<Job> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    })
}

/// A command that dies with this process. Add arguments and streams, then [`Child::spawn`] it.
pub fn mortal(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

#[derive(Clone, Copy, Debug)]
pub enum Signal {
    Term,
    Int,
    Stop,
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// A process of ours. The process id stays ours until it is reaped here, so no signal can hit a
/// stranger.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: u32,
    inner: Mutex<std::process::Child>,
}

impl Child {
    pub fn spawn(name: &str, command: Command) -> Result<Self> {
        let (sender, answer) = mpsc::channel();
        spawner().send((command, sender)).ok().context("the spawning thread is gone")?;
        let inner = answer
            .recv()
            .context("the spawning thread is gone")?
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), pid: inner.id(), inner: Mutex::new(inner) })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn lock(&self) -> MutexGuard<'_, std::process::Child> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its standard streams, where they are piped; each can be taken once.
    pub fn take_output(
        &self,
    ) -> (Option<std::process::ChildStdout>, Option<std::process::ChildStderr>) {
        let mut inner = self.lock();
        (inner.stdout.take(), inner.stderr.take())
    }

    /// Its standard input, where it is piped; once.
    pub fn take_input(&self) -> Option<std::process::ChildStdin> {
        self.lock().stdin.take()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut inner = self.lock();
        if let Some(status) = inner.try_wait()? {
            bail!("{} has already ended: {status}", self.name);
        }
        // The shell's own `kill`: no unsafe code here, and no package is needed for it.
        let script = format!("kill -{} {}", signal.name(), self.pid);
        let status = Command::new("sh").args(["-c", &script]).status().context("running sh")?;
        if !status.success() {
            bail!("{script} ({}) failed: {status}", self.name);
        }
        Ok(())
    }

    /// Its exit status, once it has ended.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        Ok(self.lock().try_wait()?)
    }

    pub async fn wait_exit(&self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {} (process {})", self.name, self.pid);
        wait_until(&what, limit, || async { self.exited() }).await
    }

    /// SIGKILL, and reaps. Fine if it has ended already.
    pub fn kill(&self) -> Result<ExitStatus> {
        let mut inner = self.lock();
        if let Some(status) = inner.try_wait()? {
            return Ok(status);
        }
        inner.kill().with_context(|| format!("killing {}", self.name))?;
        Ok(inner.wait()?)
    }

    /// The most memory it ever had resident (VmHWM), in bytes, while it lives.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().strip_suffix("kB")).context("no VmHWM line")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// User and system time used so far, in clock ticks of 10 ms, while it lives.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let rest = text.rsplit_once(')').context("no name in /proc/PID/stat")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| -> Result<u64> {
            Ok(fields.get(index).context("short /proc/PID/stat")?.parse()?)
        };
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
