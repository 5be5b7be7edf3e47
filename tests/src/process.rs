//! The product under test, as a process: started, watched line by line, stopped at a named point.
//!
//! The stage protocol: with `MODSHIFT_STAGES=1` the binary writes `stage <name> rows=<n>` to
//! standard error each time it reaches a named point with `n` rows in flight. With
//! `MODSHIFT_STAGE_HOLD=<name>:<nth>` it writes `stage <name> rows=<n> hold` at the nth time and
//! then blocks for ever, so that a kill from outside hits exactly there.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    child::{Child, Signal, mortal},
    place::RunDir,
    wait::wait_until,
};

/// What the process has written, in the order in which it arrived, both streams.
#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A point that the process has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    pub rows: u64,
    /// It blocks there, waiting to be killed.
    pub held: bool,
}

impl Stage {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("stage ")?.split_whitespace();
        let name = words.next()?.to_owned();
        let rows = words.next()?.strip_prefix("rows=")?.parse().ok()?;
        Some(Self { name, rows, held: words.next() == Some("hold") })
    }
}

#[derive(Debug)]
pub struct Modshift {
    name: String,
    child: Child,
    output: Arc<Output>,
    readers: Mutex<Vec<std::thread::JoinHandle<()>>>,
    dir: RunDir,
}

/// Arguments and environment of a process to come.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    binary: Option<PathBuf>,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Launch {
    pub fn new<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { binary: None, args, env: Vec::new() }
    }

    /// Another binary than the one that cargo built beside the test.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Block at the nth time that this stage is reached.
    pub fn hold(self, stage: &str, nth: u32) -> Self {
        self.env("MODSHIFT_STAGE_HOLD", format!("{stage}:{nth}"))
    }

    /// The same, but only until this file is there.
    pub fn hold_until(self, stage: &str, nth: u32, file: &Path) -> Self {
        self.hold(stage, nth).env("MODSHIFT_STAGE_RELEASE", file.display().to_string())
    }

    /// Report every stage.
    pub fn stages(self) -> Self {
        self.env("MODSHIFT_STAGES", "1")
    }

    pub fn start(self) -> Result<Modshift> {
        let binary = self.binary.map_or_else(binary, Ok)?;
        let name = match self.args.first() {
            Some(command) => format!("modshift {command}"),
            None => "modshift".to_owned(),
        };
        let mut command = mortal(&binary);
        command.args(&self.args).envs(self.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let dir = RunDir::create("process")?;
        let file = File::create(dir.join("output.log")).context("creating output.log")?;
        let file = Arc::new(Mutex::new(file));
        let child = Child::spawn(&name, command)?;
        let output = Arc::new(Output::default());
        let (stdout, stderr) = child.take_output();
        let mut readers = Vec::new();
        if let Some(stdout) = stdout {
            readers.push(read_lines(stdout, &output, &file));
        }
        if let Some(stderr) = stderr {
            readers.push(read_lines(stderr, &output, &file));
        }
        Ok(Modshift { name, child, output, readers: Mutex::new(readers), dir })
    }

    /// Starts it and waits for its end: exit code and everything it wrote.
    pub async fn finish(self, limit: Duration) -> Result<(i32, String)> {
        let process = self.start()?;
        let status = process.wait_exit(limit).await?;
        let code = status.code().with_context(|| format!("{}: {status}", process.name))?;
        Ok((code, process.output()))
    }
}

fn read_lines(
    stream: impl Read + Send + 'static,
    output: &Arc<Output>,
    file: &Arc<Mutex<File>>,
) -> std::thread::JoinHandle<()> {
    let (output, file) = (Arc::clone(output), Arc::clone(file));
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut bytes = Vec::new();
        while matches!(stream.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(&bytes).ok();
            output.lock().push(line);
            bytes.clear();
        }
    })
}

/// `MODSHIFT_BIN`, or the binary that cargo built beside this test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MODSHIFT_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe().context("the path of this test")?;
    let beside = here.ancestors().skip(1).take(2).map(|dir| dir.join("modshift"));
    match beside.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => {
            bail!("no modshift binary beside {}: build it, or set MODSHIFT_BIN", here.display())
        }
    }
}

impl Modshift {
    pub fn launch<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Launch {
        Launch::new(args)
    }

    /// Where a daemon's pages are, `http://127.0.0.1:1234`, once it says so.
    pub async fn pages(&self, limit: Duration) -> Result<String> {
        let line = self.wait_line("address=", limit).await?;
        let (_, address) = line.rsplit_once("address=").context("no address")?;
        Ok(format!("http://{}", address.trim()))
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn lines(&self) -> Vec<String> {
        self.output.lock().clone()
    }

    pub fn output(&self) -> String {
        self.output.lock().join("\n")
    }

    pub fn output_path(&self) -> PathBuf {
        self.dir.join("output.log")
    }

    /// The first line that holds `text`, once there is one. Fails at once when the process ends
    /// without it.
    pub async fn wait_line(&self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for(&format!("a line with {text:?}"), limit, |line| {
            line.contains(text).then(|| line.to_owned())
        })
        .await
    }

    /// The stage, held if the process was started to hold there. "Reached with nothing in flight"
    /// is not reached: a kill there proves nothing.
    pub async fn wait_stage(&self, name: &str, limit: Duration) -> Result<Stage> {
        self.wait_for(&format!("stage {name}"), limit, |line| {
            Stage::parse(line).filter(|stage| stage.name == name && stage.rows > 0)
        })
        .await
    }

    pub async fn wait_hold(&self, name: &str, limit: Duration) -> Result<Stage> {
        self.wait_for(&format!("stage {name} held"), limit, |line| {
            Stage::parse(line).filter(|stage| stage.name == name && stage.held && stage.rows > 0)
        })
        .await
    }

    /// The same, once more than so far.
    pub async fn next_stage(&self, name: &str, limit: Duration) -> Result<()> {
        let times = || self.stages().iter().filter(|stage| stage.name == name).count();
        let so_far = times();
        let what = format!("stage {name} of {} once more", self.name);
        wait_until(&what, limit, || async {
            if let Some(status) = self.child.exited()? {
                bail!("{} ended: {status}\n{}", self.name, self.last_lines(40));
            }
            Ok((times() > so_far).then_some(()))
        })
        .await
    }

    /// The last lines that are not stages.
    pub fn last_words(&self, count: usize) -> String {
        let lines = self.output.lock();
        let words = lines.iter().filter(|line| Stage::parse(line).is_none());
        let words: Vec<&str> = words.map(String::as_str).collect();
        words[words.len().saturating_sub(count)..].join("\n")
    }

    /// Every stage reported so far.
    pub fn stages(&self) -> Vec<Stage> {
        self.output.lock().iter().filter_map(|line| Stage::parse(line)).collect()
    }

    async fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let what = format!("{what} from {}", self.name);
        let mut seen = 0;
        let found = wait_until(&what, limit, || {
            let ended = self.child.exited();
            if matches!(ended, Ok(Some(_))) {
                // Its last words may still be on their way through the pipes.
                self.join_readers();
            }
            let answer = {
                let lines = self.output.lock();
                let found = lines[seen..].iter().find_map(|line| find(line));
                seen = lines.len();
                found
            };
            async move {
                match (answer, ended?) {
                    (Some(answer), _) => Ok(Some(answer)),
                    (None, None) => Ok(None),
                    (None, Some(status)) => bail!("it ended: {status}"),
                }
            }
        });
        found.await.with_context(|| format!("waiting for {what}\n{}", self.last_lines(40)))
    }

    fn last_lines(&self, count: usize) -> String {
        let lines = self.output.lock();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    fn join_readers(&self) {
        let readers =
            std::mem::take(&mut *self.readers.lock().unwrap_or_else(PoisonError::into_inner));
        for reader in readers {
            reader.join().ok();
        }
    }

    pub fn running(&self) -> Result<bool> {
        Ok(self.child.exited()?.is_none())
    }

    pub fn kill_9(&self) -> Result<ExitStatus> {
        let status = self.child.kill()?;
        self.join_readers();
        Ok(status)
    }

    pub fn sigstop(&self) -> Result<()> {
        self.child.signal(Signal::Stop)
    }

    pub fn sigcont(&self) -> Result<()> {
        self.child.signal(Signal::Cont)
    }

    pub fn sigterm(&self) -> Result<()> {
        self.child.signal(Signal::Term)
    }

    /// As Ctrl-C does, once it listens for it: before that the signal ends any process.
    pub async fn interrupt(&self, limit: Duration) -> Result<()> {
        const SIGINT: u32 = 2;
        let path = format!("/proc/{}/status", self.child.pid());
        wait_until(&format!("{} to listen for signals", self.name), limit, || async {
            if let Some(status) = self.child.exited()? {
                bail!("{} ended: {status}\n{}", self.name, self.last_lines(40));
            }
            let status = std::fs::read_to_string(&path).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            Ok(caught.is_some_and(|mask| mask & (1 << (SIGINT - 1)) != 0).then_some(()))
        })
        .await?;
        self.child.signal(Signal::Int)
    }

    pub async fn wait_exit(&self, limit: Duration) -> Result<ExitStatus> {
        let status = self.child.wait_exit(limit).await;
        let status = status.with_context(|| self.last_lines(40))?;
        self.join_readers();
        Ok(status)
    }

    /// SIGTERM, and the exit code.
    pub async fn stop(&self, limit: Duration) -> Result<i32> {
        self.sigterm()?;
        let status = self.wait_exit(limit).await?;
        status.code().with_context(|| format!("{}: {status}\n{}", self.name, self.last_lines(20)))
    }

    /// VmHWM: the most memory it ever had resident.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        self.child.peak_rss_bytes()
    }

    pub fn cpu_time(&self) -> Result<Duration> {
        self.child.cpu_time()
    }
}

impl Drop for Modshift {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.join_readers();
        if std::thread::panicking() {
            report(&self.name, &self.last_lines(60), &self.output_path());
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failed test has nowhere else to say this")]
fn report(name: &str, last_lines: &str, path: &Path) {
    eprintln!(
        "--- last output of {name} (MODSHIFT_KEEP=1 keeps {}):\n{last_lines}\n---",
        path.display()
    );
}

/// GET over HTTP: status and body, whatever the status.
pub async fn http_get(url: &str) -> Result<(u16, String)> {
    let url = url.to_owned();
    tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(10)))
                .build(),
        );
        let mut response = agent.get(&url).call().with_context(|| format!("GET {url}"))?;
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().with_context(|| format!("GET {url}"))?;
        Ok((status, body))
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_line_is_understood_and_nothing_else_is() {
        let stage = |name: &str, rows, held| Some(Stage { name: name.to_owned(), rows, held });
        assert_eq!(Stage::parse("stage applied rows=12"), stage("applied", 12, false));
        assert_eq!(Stage::parse("stage sent rows=1 hold"), stage("sent", 1, true));
        assert_eq!(Stage::parse("stage"), None);
        assert_eq!(Stage::parse("on stage applied rows=12"), None);
    }
}
