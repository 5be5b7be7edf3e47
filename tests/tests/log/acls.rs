//! A broker that lets nobody do what no rule allows: the rights of `deploy/kafka-acls.sh` are enough
//! for each daemon, and no daemon gets by without its own.

use std::collections::BTreeSet;

use modshift_changelog::Class;
use modshift_proto::plan::Secret;
use modshift_tests::{
    place::root,
    server::{KafkaOptions, SASL_PASSWORD},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

const TOPIC: &str = "modshift.guarded.changes";
const GROUP: &str = "modshift.guarded";

/// Who, kind of resource, operation: out of the script that an operator runs.
fn rights() -> Result<Vec<[String; 3]>> {
    let script = std::fs::read_to_string(root().join("deploy/kafka-acls.sh"))?;
    let list = script.split("<<'END'\n").nth(1).and_then(|rest| rest.split("END\n").next());
    let words = |line: &str| -> Result<[String; 3]> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        words.try_into().ok().with_context(|| line.to_owned())
    };
    list.context("no list of rights")?.lines().map(words).collect()
}

/// Numbers of Kafka's protocol (AclOperation, ResourceType).
fn operation(name: &str) -> Result<u8> {
    Ok(match name {
        "Read" => 3,
        "Write" => 4,
        "Create" => 5,
        "Describe" => 8,
        "DescribeConfigs" => 10,
        _ => anyhow::bail!("unknown operation {name}"),
    })
}

const CREATE_ACLS: i16 = 30;
const DELETE_ACLS: i16 = 31;

/// A CreateAcls request (version 1) of the broker's superuser.
async fn allow(broker: &KafkaBroker, rights: &[[String; 3]]) -> Result<()> {
    rule(broker, CREATE_ACLS, rights).await
}

/// A CreateAcls or DeleteAcls request (version 1), which name a rule in the same way.
async fn rule(broker: &KafkaBroker, request: i16, rights: &[[String; 3]]) -> Result<()> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as i16).to_be_bytes());
        out.extend(text.as_bytes());
    };
    let mut body = Vec::new();
    body.extend(request.to_be_bytes());
    body.extend(1i16.to_be_bytes());
    body.extend(7i32.to_be_bytes());
    text(&mut body, "test");
    body.extend((rights.len() as i32).to_be_bytes());
    for [who, kind, name] in rights {
        let (kind, resource) = if kind == "topic" { (2, TOPIC) } else { (3, GROUP) };
        body.push(kind);
        text(&mut body, resource);
        // A literal name, any host; 3 allows.
        body.push(3);
        text(&mut body, &format!("User:{who}"));
        text(&mut body, "*");
        body.push(operation(name)?);
        body.push(3);
    }
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).await?;
    stream.write_all(&(body.len() as i32).to_be_bytes()).await?;
    stream.write_all(&body).await?;
    let length = stream.read_i32().await?;
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await?;
    // Correlation, throttle time, count; then a code and a message for each. (Of what was deleted
    // there is more to it: the first will do.)
    let mut results = &answer[12..];
    let told = if request == DELETE_ACLS { 1 } else { rights.len() };
    for right in &rights[..told] {
        let (code, rest) = results.split_first_chunk::<2>().context("a short answer")?;
        ensure!(i16::from_be_bytes(*code) == 0, "{right:?}: {:?}", String::from_utf8_lossy(rest));
        results = &rest[2..];
    }
    Ok(())
}

fn as_user(log: &KafkaLog, user: &str) -> KafkaLog {
    let properties = [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanisms", "PLAIN"),
        ("sasl.username", user),
        ("sasl.password", SASL_PASSWORD),
    ];
    let properties =
        properties.map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned())));
    KafkaLog { properties: properties.to_vec(), ..log.clone() }
}

#[tokio::test]
async fn each_daemon_does_its_work_with_the_rights_that_the_script_gives_it() -> Result<()> {
    let extra = [
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:ANONYMOUS",
        "allow.everyone.if.no.acl.found=false",
    ];
    let options = KafkaOptions {
        sasl: true,
        extra: extra.map(str::to_owned).to_vec(),
        ..KafkaOptions::default()
    };
    let broker = KafkaBroker::start_with(options).await?;
    let rights = rights()?;
    let roles: BTreeSet<&str> = rights.iter().map(|right| right[0].as_str()).collect();
    ensure!(roles == BTreeSet::from(["consumer", "replicator"]), "{roles:?}");
    let log = plan(&broker.sasl_bootstrap()?, TOPIC);
    let (replicator, consumer) = (as_user(&log, "replicator"), as_user(&log, "consumer"));
    for log in [&replicator, &consumer] {
        let Err(error) = ensure_topic(log, 2).await else { anyhow::bail!("nothing is guarded") };
        // The rule may come: it is tried again, and said.
        ensure!(error.class() == Class::Retry, "{error}");
        ensure!(error.to_string().to_lowercase().contains("authoriz"), "{error}");
    }
    allow(&broker, &rights).await?;
    // The rules reach the broker's own threads a moment later.
    modshift_tests::wait_until("the rights", SOON, || async {
        Ok(ensure_topic(&replicator, 2).await.ok())
    })
    .await?;
    ensure_topic(&consumer, 2).await?;
    let mut writer = KafkaWriter::open(&replicator, OLD, 2).await?;
    let mut reader = KafkaReader::open(&consumer, NEW, None, GROUP).await?;
    for n in 0..10 {
        writer.send(NEW, b"key", &numbered(n, 100)).await?;
    }
    until_acked(&mut writer, NEW, 10).await?;
    for n in 0..10 {
        ensure!(number(&next(&mut reader).await?)? == n, "message {n} is another");
    }
    // And no more: each lacks what is the other's.
    let mut wrong = KafkaWriter::open(&consumer, OLD, 2).await?;
    let sent = async {
        wrong.send(NEW, b"key", &numbered(10, 100)).await?;
        until_acked(&mut wrong, NEW, 1).await
    };
    let sent = timeout(Duration::from_secs(10), sent).await;
    ensure!(!matches!(sent, Ok(Ok(()))), "the consumer may write");
    let mut wrong = KafkaReader::open(&replicator, NEW, None, GROUP).await;
    let read = async {
        match &mut wrong {
            Ok(reader) => next(reader).await.map(drop),
            Err(error) => anyhow::bail!("{error}"),
        }
    };
    ensure!(timeout(Duration::from_secs(10), read).await.is_ok_and(|read| read.is_err()));
    rotated(&broker, &rights, writer, &replicator).await
}

/// A rule is taken away under a writer and given back: its epoch ends with words that say what is
/// missing, and the next one goes on.
async fn rotated(
    broker: &KafkaBroker,
    rights: &[[String; 3]],
    mut writer: KafkaWriter,
    log: &KafkaLog,
) -> Result<()> {
    let write: Vec<[String; 3]> =
        rights.iter().filter(|right| right[2] == "Write").cloned().collect();
    ensure!(!write.is_empty(), "nobody may write");
    rule(broker, DELETE_ACLS, &write).await?;
    let refused = async {
        for n in 10.. {
            let sent = writer.send(NEW, b"key", &numbered(n, 100)).await;
            let sent = match sent {
                Ok(()) => writer.acknowledged().await,
                refused => refused,
            };
            if let Err(error) = sent {
                return Ok(error);
            }
        }
        anyhow::bail!("never refused")
    };
    let error = timeout(SOON, refused).await.context("nothing was refused")??;
    ensure!(error.class() == Class::Retry, "{error}");
    let text = error.to_string();
    ensure!(text.contains(&format!("does not let this login write to topic {TOPIC}")), "{text}");
    ensure!(error.hint().is_some_and(|hint| hint.contains("deploy/kafka-acls.sh")), "{text}");
    allow(broker, &write).await?;
    modshift_tests::wait_until("the right to write", SOON, || async {
        let mut writer = KafkaWriter::open(log, OLD, 2).await?;
        let sent = async {
            writer.send(NEW, b"key", &numbered(0, 100)).await?;
            until_acked(&mut writer, NEW, 1).await
        };
        Ok(sent.await.ok())
    })
    .await
}
