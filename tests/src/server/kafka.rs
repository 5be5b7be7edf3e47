//! A Kafka broker of our own: broker and controller in one process, from Maven's jars.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    Topics,
    jars::{class_path, jars},
};
use crate::{
    child::{Child, Signal, mortal},
    place::{RunDir, copy_dir, free_port, tail},
    wait::wait_until,
};

const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Any 16 bytes in Kafka's base64; one cluster never meets another.
const CLUSTER: &str = "bW9kc2hpZnQtdGVzdC0xMQ";

/// The login of a broker that wants one.
pub const SASL_USER: &str = "modshift";
pub const SASL_PASSWORD: &str = "sasl-secret";

#[derive(Clone, Debug)]
pub struct KafkaOptions {
    pub heap_mb: u32,
    /// Lets the JVM's second compiler work: slower to start, faster in the long run.
    pub tuned_for_speed: bool,
    /// A second listener, which wants the login of [`SASL_USER`] (SASL/PLAIN), or of `replicator` or
    /// `consumer` with the same password.
    pub sasl: bool,
    /// Further lines of server.properties.
    pub extra: Vec<String>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self { heap_mb: 512, tuned_for_speed: false, sasl: false, extra: Vec::new() }
    }
}

#[derive(Debug)]
pub struct KafkaBroker {
    options: KafkaOptions,
    port: u16,
    sasl_port: Option<u16>,
    child: Mutex<Option<Arc<Child>>>,
    dir: RunDir,
}

impl KafkaBroker {
    pub async fn start() -> Result<Arc<Self>> {
        Self::start_with(KafkaOptions::default()).await
    }

    pub async fn start_with(options: KafkaOptions) -> Result<Arc<Self>> {
        let dir = RunDir::create("kafka")?;
        let data = dir.join("data");
        let (port, controller) = (free_port()?, free_port()?);
        let sasl_port = options.sasl.then(free_port).transpose()?;
        let config = properties(port, sasl_port, controller, &data, &options.extra);
        fs::write(dir.join("server.properties"), config).context("writing server.properties")?;
        fs::write(dir.join("log4j2.xml"), LOG4J).context("writing log4j2.xml")?;
        tokio::task::spawn_blocking(move || -> Result<()> {
            let template = formatted()?;
            copy_dir(&template, &data)
        })
        .await??;
        let broker = Self { options, port, sasl_port, child: Mutex::new(None), dir };
        broker.restart().await?;
        Ok(Arc::new(broker))
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The listener that wants a login.
    pub fn sasl_bootstrap(&self) -> Result<String> {
        let port = self.sasl_port.context("this broker was started without SASL")?;
        Ok(format!("127.0.0.1:{port}"))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Topics and raw messages, for tests.
    pub fn topics(&self) -> Result<Topics> {
        Topics::connect(&self.bootstrap())
    }

    fn child(&self) -> Result<Arc<Child>> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).clone();
        child.context("the Kafka broker is not running")
    }

    pub fn cpu_time(&self) -> Result<Duration> {
        self.child()?.cpu_time()
    }

    /// SIGKILL: a crash of the process; what it has acknowledged is in the kernel's hands.
    pub fn kill(&self) -> Result<()> {
        self.child()?.kill().map(drop)
    }

    pub async fn stop(&self) -> Result<()> {
        let child = self.child()?;
        child.signal(Signal::Term)?;
        // A JVM ended by SIGTERM reports 143, whatever the shutdown was like.
        child.wait_exit(STOP_LIMIT).await.map(drop)
    }

    pub fn pause(&self) -> Result<()> {
        self.child()?.signal(Signal::Stop)
    }

    pub fn cont(&self) -> Result<()> {
        self.child()?.signal(Signal::Cont)
    }

    /// Starts again after `stop` or `kill`, on the same port and data.
    pub async fn restart(&self) -> Result<()> {
        let mut command = mortal("java");
        command.arg(format!("-Xmx{}m", self.options.heap_mb));
        if !self.options.tuned_for_speed {
            command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        }
        let console = fs::File::create(self.dir.join("console.log")).context("console.log")?;
        command
            .arg(format!("-Dlog4j2.configurationFile={}", self.dir.join("log4j2.xml").display()))
            .arg(format!("-Dkafka.log.file={}", self.log_path().display()))
            // Libraries unpack themselves there, and stay behind when the broker is killed.
            .arg(format!("-Djava.io.tmpdir={}", self.dir.path().display()))
            .args(["-cp", &class_path("kafka")?, "kafka.Kafka"])
            .arg(self.dir.join("server.properties"))
            .stdin(Stdio::null())
            .stderr(console.try_clone().context("console.log")?)
            .stdout(console);
        let child = Arc::new(Child::spawn("kafka", command)?);
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&child));
        self.until_ready(&child).await.map_err(|error| {
            child.kill().ok();
            let console = tail(&self.dir.join("console.log"), 20);
            anyhow!("{error:#}\n{console}\nits log:\n{}", tail(&self.log_path(), 30))
        })
    }

    /// Ready when it answers a metadata request with itself in it.
    async fn until_ready(&self, child: &Child) -> Result<()> {
        let topics = Arc::new(self.topics()?);
        wait_until("the Kafka broker", START_LIMIT, || async {
            if let Some(status) = child.exited()? {
                bail!("the broker ended at its start: {status}");
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                return Ok(None);
            }
            Ok(topics.brokers().await.ok().filter(|&known| known > 0))
        })
        .await
        .map(drop)
    }
}

/// A formatted, empty log directory, made once for each set of jars (formatting takes a JVM).
fn formatted() -> Result<PathBuf> {
    let home = jars("kafka")?;
    let stamp = fs::read(home.join("fetched")).context("reading the stamp of the jars")?;
    let ready = home.join(format!("formatted-{:08x}", crc32fast::hash(&stamp)));
    if ready.exists() {
        return Ok(ready);
    }
    let scratch = RunDir::create("kafka-format")?;
    let data = scratch.join("data");
    let config = scratch.join("server.properties");
    // The ports play no part in formatting.
    fs::write(&config, properties(1, None, 2, &data, &[])).context("writing server.properties")?;
    fs::write(scratch.join("log4j2.xml"), LOG4J).context("writing log4j2.xml")?;
    let output = Command::new("java")
        .arg(format!("-Dlog4j2.configurationFile={}", scratch.join("log4j2.xml").display()))
        .arg(format!("-Dkafka.log.file={}", scratch.join("format.log").display()))
        .args([
            "-Xmx128m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-cp",
            &class_path("kafka")?,
        ])
        .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"])
        .arg(&config)
        .output()
        .context("running java")?;
    if !output.status.success() {
        bail!("formatting failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    match fs::rename(&data, &ready) {
        Err(_) if ready.exists() => Ok(ready),
        Err(error) => Err(error).context("putting the formatted directory in place"),
        Ok(()) => Ok(ready),
    }
}

fn properties(
    port: u16,
    sasl_port: Option<u16>,
    controller: u16,
    data: &Path,
    extra: &[String],
) -> String {
    let mut open = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut login = String::new();
    if let Some(port) = sasl_port {
        open += &format!(",SASL_PLAINTEXT://127.0.0.1:{port}");
        login = format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,\
             SASL_PLAINTEXT:SASL_PLAINTEXT\n\
             sasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl_plaintext.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required \
             user_{SASL_USER}=\"{SASL_PASSWORD}\" user_replicator=\"{SASL_PASSWORD}\" \
             user_consumer=\"{SASL_PASSWORD}\";\n"
        );
    }
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners={open},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners={open}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         {login}\
         log.dirs={}\n",
        data.display()
    );
    text.push_str(PROPERTIES);
    for line in extra {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// One broker, so one replica of everything; topics only on purpose; and short sessions, else a
/// killed broker waits nine seconds for its former self to expire.
const PROPERTIES: &str = "\
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
log.cleaner.dedupe.buffer.size=16777216
";

const LOG4J: &str = r#"<Configuration status="ERROR">
  <Appenders>
    <File name="file" fileName="${sys:kafka.log.file}">
      <PatternLayout pattern="%d %p %c{1} %m%n"/>
    </File>
  </Appenders>
  <Loggers><Root level="INFO"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
"#;
