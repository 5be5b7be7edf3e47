//! Two servers, each with what stands in its folder: by VRRP in two network namespaces, or, where this
//! host allows none, with the test in the place of keepalived.

use std::{
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::Plan;
use modshift_routing::{Document, Side, Source};
use modshift_tests::{
    Address, MariaDbOptions, MariaDbServer, Proxy,
    child::{Child, Signal, mortal},
    network::{INTERFACE, Network, within},
    place::{RunDir, free_port, tail},
    process::Launch,
    server::{ADMIN, PASSWORD, Place},
    wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);
pub const SCHEMA: &str = "trade";
pub const APP: &str = "app";
const PORT: u16 = 3306;
/// What is installed there belongs to root, as keepalived wants it, on the way to it too.
const INSTALLED: &str = "/mnt";

pub struct Pair {
    network: Option<Network>,
    proxy: Option<Arc<Proxy>>,
    places: [(String, u16); 2],
    servers: [Mutex<Option<Arc<MariaDbServer>>>; 2],
    keepers: [Mutex<Option<Child>>; 2],
    /// Without VRRP: whom the address leads to.
    master: AtomicUsize,
    vip: (String, u16),
    dir: RunDir,
}

pub fn with_passwords(launch: Launch) -> Launch {
    launch
        .env("MODSHIFT_PASSWORD", PASSWORD)
        .env("REPLICATION_PASSWORD", "it's # a \\ secret")
        .env("WATCH_PASSWORD", "w \"a\" tch")
}

impl Pair {
    /// The plan, and what `modshift topology` makes of it.
    #[expect(clippy::print_stdout, reason = "a test that leaves something out should say so")]
    pub async fn plan() -> Result<Self> {
        let network = match std::env::var_os("MODSHIFT_TEST_NO_NETNS") {
            Some(_) => Err(anyhow::anyhow!("MODSHIFT_TEST_NO_NETNS is set")),
            None => Network::create(),
        };
        let network = match network {
            Ok(network) => Some(network),
            Err(error) => {
                println!("WITHOUT VRRP: this host allows no network namespaces ({error:#})");
                println!("WITHOUT VRRP: the test runs keepalived's scripts itself");
                None
            }
        };
        Self::plan_in(network).await
    }

    pub async fn plan_in(network: Option<Network>) -> Result<Self> {
        let dir = RunDir::create("pair")?;
        let (places, vip) = match &network {
            Some(network) => {
                let place = |index| (network.host(index), PORT);
                ([place(0), place(1)], (network.virtual_address(), PORT))
            }
            None => {
                let place = || Ok::<_, anyhow::Error>(("127.0.0.1".to_owned(), free_port()?));
                ([place()?, place()?], ("127.0.0.1".to_owned(), 0))
            }
        };
        let proxy = match &network {
            Some(_) => None,
            None => Some(Proxy::start("127.0.0.1", places[0].1).await?),
        };
        let vip = (vip.0, proxy.as_ref().map_or(vip.1, |proxy| proxy.port()));
        let pair = Self {
            network,
            proxy,
            places,
            servers: [Mutex::new(None), Mutex::new(None)],
            keepers: [Mutex::new(None), Mutex::new(None)],
            master: AtomicUsize::new(0),
            vip,
            dir,
        };
        std::fs::create_dir_all(pair.dir.join("run"))?;
        std::fs::write(pair.dir.join("plan.toml"), pair.text())?;
        let args = ["topology", "--out", &pair.out(), "--plan", &pair.plan_path()];
        let (code, said) = with_passwords(Launch::new(args)).finish(LIMIT).await?;
        ensure!(code == 0, "modshift topology ended with {code}: {said}");
        Ok(pair)
    }

    fn text(&self) -> String {
        let [(a, a_port), (b, b_port)] = &self.places;
        let (vip, vip_port) = &self.vip;
        let installed = match &self.network {
            Some(_) => INSTALLED.to_owned(),
            // Several servers of one host: below it each has its own.
            None => self.dir.join("out/before").display().to_string(),
        };
        let pair = |b: &str, b_port: u16, b_id: u32| {
            format!(
                "servers = [\"{a}:{a_port}\", \"{b}:{b_port}\"]\nserver_ids = [11, {b_id}]\n\
                 vip = \"{vip}/24\"\ninterface = \"{INTERFACE}\"\nrouter_id = 51\n"
            )
        };
        format!(
            "name = \"pairs\"\nmodulus = {{ old = 1, new = 2 }}\n\
             [log]\nkind = \"direct\"\n\
             [defaults]\nuser = \"{ADMIN}\"\npassword = \"${{MODSHIFT_PASSWORD}}\"\ntls = \"off\"\n\
             [topology]\nreplication_password = \"${{REPLICATION_PASSWORD}}\"\n\
             watch_password = \"${{WATCH_PASSWORD}}\"\ndir = \"{installed}\"\nadvert = \"200ms\"\n\
             [[old]]\nhost = \"{vip}\"\nport = {vip_port}\nschema = \"{SCHEMA}\"\n\
             [old.peers]\n{old}\
             [[new]]\nhost = \"192.0.2.1\"\nschema = \"{SCHEMA}\"\n\
             [[new]]\nhost = \"192.0.2.2\"\nschema = \"{SCHEMA}\"\n{rules}",
            old = pair(b, *b_port, 12),
            rules = modshift_tests::case::rules()
                .iter()
                .map(|rule| rule.rule.plan_toml(&rule.table))
                .collect::<String>(),
        )
    }

    pub fn plan_path(&self) -> String {
        self.dir.join("plan.toml").display().to_string()
    }

    pub fn out(&self) -> String {
        self.dir.join("out").display().to_string()
    }

    pub fn by_vrrp(&self) -> bool {
        self.network.is_some()
    }

    pub fn folder(&self, stage: &str, index: usize) -> PathBuf {
        let (host, port) = &self.places[index];
        self.dir.join("out").join(stage).join(format!("{host}-{port}"))
    }

    /// The document by which the application finds the shard: at the virtual address.
    pub fn routing(&self) -> Result<Source> {
        let env = |_: &str| Some(PASSWORD.to_owned());
        let plan = Plan::parse(&self.text(), &env).map_err(|e| anyhow::anyhow!("{e}"))?;
        let path = self.dir.join("routing.json");
        std::fs::write(&path, Document::of_plan(&plan, Side::Old, 1).to_json())?;
        Ok(Source::File(path))
    }

    /// `data`: what it begins with, in place of a server's first tables.
    pub async fn start(&self, index: usize, data: Option<PathBuf>) -> Result<()> {
        let (host, port) = self.places[index].clone();
        let namespace = self.network.as_ref().map(|network| network.space(index).to_owned());
        let options = MariaDbOptions {
            place: Some(Place { namespace, host, port }),
            data,
            ..MariaDbOptions::with_config(self.folder("before", index).join("my.cnf"))
        };
        let server = Arc::new(MariaDbServer::start(options).await?);
        *self.slot(index) = Some(server);
        Ok(())
    }

    fn slot(&self, index: usize) -> std::sync::MutexGuard<'_, Option<Arc<MariaDbServer>>> {
        self.servers[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn server(&self, index: usize) -> Arc<MariaDbServer> {
        self.slot(index).clone().expect("a server that was started")
    }

    /// For good: its place is free for another.
    pub async fn remove(&self, index: usize) -> Result<()> {
        let server = self.slot(index).take().context("no server there")?;
        server.stop().await
    }

    pub fn address(&self, index: usize) -> Address {
        self.server(index).address().with_schema(SCHEMA)
    }

    /// On the first server: the second gets it with all else.
    pub async fn create_application(&self) -> Result<()> {
        let server = self.server(0);
        server.run(format!("CREATE USER {APP}@'%' IDENTIFIED BY '{APP}'")).await?;
        let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.* TO {APP}@'%'");
        server.run(grant).await
    }

    fn login(&self, index: usize) -> String {
        let (host, port) = &self.places[index];
        format!(
            "--no-defaults --protocol=tcp --host={host} --port={port} --user={ADMIN} \
                 --password={PASSWORD}"
        )
    }

    /// `mariadb < file`, as the operator does.
    pub async fn client(&self, stage: &str, index: usize, file: &str) -> Result<()> {
        let path = self.folder(stage, index).join(file);
        let mut command = Command::new("mariadb");
        command.args(self.login(index).split_whitespace());
        command.stdin(std::fs::File::open(&path)?);
        passes(command).await.with_context(|| path.display().to_string())
    }

    pub async fn seed_from_dump(&self, stage: &str, index: usize, source: usize) -> Result<()> {
        let mut command = Command::new("bash");
        command
            .arg(self.folder(stage, index).join("seed-from-dump.sh"))
            .env("SOURCE", "env")
            .env("SOURCE_OPTIONS", self.login(source))
            .env("OWN_OPTIONS", self.login(index));
        command.stdin(Stdio::null());
        passes(command).await
    }

    /// What the new server is to begin with.
    pub async fn seed_from_backup(
        &self,
        stage: &str,
        index: usize,
        source: usize,
    ) -> Result<PathBuf> {
        let data = self.dir.join(&format!("seed-{stage}-{index}"));
        std::fs::create_dir(&data)?;
        let (uid, gid) = (std::fs::metadata(&data)?.uid(), std::fs::metadata(&data)?.gid());
        let mut command = Command::new("bash");
        command
            .arg(self.folder(stage, index).join("seed-from-backup.sh"))
            .env("SOURCE", "env")
            // The defaults of this host are not the source's.
            .env("SOURCE_OPTIONS", self.login(source))
            .env("DATADIR", &data)
            .env("OWNER", format!("{uid}:{gid}"));
        command.stdin(Stdio::null());
        passes(command).await?;
        Ok(data)
    }

    /// `keepalived --config-test` finds nothing to say, whether VRRP runs here or not.
    pub async fn config_is_taken(&self) -> Result<()> {
        for index in 0..2 {
            let mut command = self.keepalived(index, "--config-test");
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let output = tokio::task::spawn_blocking(move || command.output()).await??;
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            ensure!(output.status.success(), "{}: {said}", output.status);
        }
        Ok(())
    }

    fn keepalived(&self, index: usize, more: &str) -> Command {
        let folder = self.folder("before", index).display().to_string();
        let run = self.dir.join("run").display().to_string();
        let (mut command, file) = match &self.network {
            Some(network) => (within(network.space(index)), format!("{INSTALLED}/keepalived.conf")),
            None => (mortal("env"), format!("{folder}/keepalived.conf")),
        };
        let mounted = format!("mount --bind {folder} {INSTALLED} && mount --bind {run} /run && ");
        let script = format!(
            "PATH=$PATH:/usr/sbin:/sbin; {}exec keepalived --use-file={file} --pid={run}/{index}.pid \
             --vrrp_pid={run}/{index}-vrrp.pid {more}",
            if self.network.is_some() { &mounted } else { "" },
        );
        command.args(["sh", "-c", &script]);
        command
    }

    fn keeper(&self, index: usize) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.keepers[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts keepalived on a server, or does what it would do there.
    pub async fn keep(&self, index: usize) -> Result<()> {
        if self.network.is_none() {
            let other_serves =
                self.slot(1 - index).is_some() && self.master.load(Ordering::Relaxed) != index;
            return self.notify(index, if other_serves { "BACKUP" } else { "MASTER" });
        }
        let mut command = self.keepalived(index, "--dont-fork --log-console --log-detail --vrrp");
        // Nobody may have reaped one that was killed, and its number would be taken for a daemon's.
        for file in [format!("{index}.pid"), format!("{index}-vrrp.pid")] {
            std::fs::remove_file(self.dir.join("run").join(file)).ok();
        }
        let log = std::fs::File::create(self.log(index))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *self.keeper(index) = Some(Child::spawn("keepalived", command)?);
        wait_until("keepalived to know its state", LIMIT, || async {
            let text = std::fs::read_to_string(self.log(index)).unwrap_or_default();
            Ok(text.contains("Entering BACKUP STATE").then_some(()))
        })
        .await
        .with_context(|| self.says())
    }

    fn log(&self, index: usize) -> PathBuf {
        self.dir.join(&format!("keepalived-{index}.log"))
    }

    /// As keepalived does, whose place the test takes.
    fn notify(&self, index: usize, state: &str) -> Result<()> {
        let mut command = mortal("sh");
        command
            .arg(self.folder("before", index).join("notify.sh"))
            .arg(state)
            .env("MODSHIFT_RUN_DIR", self.dir.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // One that is under way ends by itself once it sees the newer one.
        let child = Child::spawn("notify.sh", command)?;
        if let Some(former) = self.keeper(index).replace(child) {
            self.dir_of_former(former);
        }
        if state == "MASTER" {
            self.master.store(index, Ordering::Relaxed);
            if let Some(proxy) = &self.proxy {
                proxy.lead_to(self.places[index].1);
            }
        }
        Ok(())
    }

    fn dir_of_former(&self, former: Child) {
        // Let it end as it would: a newer call has been written down.
        std::thread::spawn(move || {
            let deadline = std::time::Instant::now() + LIMIT;
            while matches!(former.exited(), Ok(None)) && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
        });
    }

    /// SIGKILL for all of keepalived: it takes nothing back that it has done.
    pub fn kill_keeper(&self, index: usize) -> Result<()> {
        let Some(keeper) = self.keeper(index).take() else { return Ok(()) };
        if self.network.is_none() {
            keeper.kill()?;
            return self.notify(1 - index, "MASTER");
        }
        // Neither may learn of the other's end: one would start the other again, the other end in peace.
        // Scripts of theirs live on, and have to find out.
        let mut pids = keepalived_below(keeper.pid());
        ensure!(!pids.is_empty(), "keepalived has no process for VRRP");
        pids.push(keeper.pid());
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let script = format!("kill -KILL {}", pids.join(" "));
        // A script of its own may have ended meanwhile.
        let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status()?;
        keeper.kill().map(drop)
    }

    /// As `systemctl stop keepalived` does.
    pub async fn stop_keeper(&self, index: usize) -> Result<()> {
        if self.network.is_none() {
            self.notify(index, "STOP")?;
            return self.notify(1 - index, "MASTER");
        }
        let keeper = self.keeper(index).take().context("no keepalived there")?;
        keeper.signal(Signal::Term)?;
        keeper.wait_exit(LIMIT).await.map(drop)
    }

    /// keepalived finds out by itself; without it the same check is made here.
    pub async fn server_died(&self, index: usize) -> Result<()> {
        if self.network.is_some() {
            return Ok(());
        }
        let check = self.folder("before", index).join("check.sh");
        let status = Command::new("sh").arg(&check).stdin(Stdio::null()).status()?;
        ensure!(!status.success(), "check.sh finds nothing wrong with a dead server");
        self.notify(index, "FAULT")?;
        self.notify(1 - index, "MASTER")
    }

    /// Waits until a server takes the application's writes.
    pub async fn serves(&self, index: usize) -> Result<()> {
        let server = self.server(index);
        wait_until("a server to take writes", LIMIT, || async {
            Ok((!server.value::<bool>("SELECT @@read_only").await?).then_some(()))
        })
        .await
        .with_context(|| self.says())
    }

    /// Until a server has all that its peer has written by now. Its sessions may be ended meanwhile.
    pub async fn catches_up(&self, index: usize) -> Result<()> {
        let (server, peer) = (self.server(index), self.server(1 - index));
        let written: String = wait_until("a peer's position", LIMIT, || async {
            Ok(peer.value("SELECT @@gtid_binlog_pos").await.ok())
        })
        .await?;
        let domain: u32 = peer.value("SELECT @@gtid_domain_id").await?;
        let own = format!("{domain}-");
        let Some(last) = written.split(',').find(|gtid| gtid.starts_with(&own)) else {
            return Ok(());
        };
        let sql = format!("SELECT MASTER_GTID_WAIT('{last}', 1)");
        wait_until(&format!("{index} to apply {last}"), LIMIT, || async {
            Ok(server.value::<i64>(&sql).await.ok().filter(|&answer| answer == 0).map(drop))
        })
        .await
    }

    /// The two cannot reach each other, and both take writes; then they can again. Whatever was written
    /// on either must be on both, one of them must take writes, and it alone. `false`: without VRRP.
    pub async fn cut_and_heal(&self, round: u32) -> Result<bool> {
        let Some(network) = &self.network else { return Ok(false) };
        network.cut()?;
        for (index, id) in (0..2).zip(2 * round..) {
            self.serves(index).await?;
            let sql = format!("INSERT INTO cuts.t VALUES ({id}, {index})");
            self.server(index).run(sql).await?;
        }
        network.heal()?;
        let wanted = 2 * (u64::from(round) + 1);
        wait_until("a pair to be one again", LIMIT, || async {
            let mut open = 0;
            for index in 0..2 {
                let server = self.server(index);
                let rows: u64 = server.value("SELECT COUNT(*) FROM cuts.t").await?;
                if rows != wanted {
                    return Ok(None);
                }
                open += u32::from(!server.value::<bool>("SELECT @@read_only").await?);
            }
            Ok((open == 1).then_some(()))
        })
        .await
        .with_context(|| self.says())?;
        Ok(true)
    }

    /// Both servers have the address.
    pub fn is_split(&self) -> Result<()> {
        let Some(network) = &self.network else { return Ok(()) };
        for index in 0..2 {
            ensure!(network.holds(index, &self.vip.0)?, "no split: {index} lacks the address");
        }
        Ok(())
    }

    pub fn says(&self) -> String {
        let mut text = String::new();
        for index in 0..2 {
            text += &format!("keepalived {index}:\n{}\n", tail(&self.log(index), 25));
            text += &format!("notify.sh {index}: {}\n", self.last_words(index));
        }
        text
    }

    /// Of `notify.sh` on a server.
    pub fn last_words(&self, index: usize) -> String {
        let (host, port) = &self.places[index];
        tail(&self.dir.join("run").join(format!("modshift-vip-{host}-{port}.last")), 3)
    }
}

fn keepalived_below(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let children = text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim().starts_with("keepalived")
    };
    children
        .filter(is_one)
        .flat_map(|pid| std::iter::once(pid).chain(keepalived_below(pid)))
        .collect()
}

async fn passes(mut command: Command) -> Result<()> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&said));
    Ok(())
}
