//! The way to the broker: nobody there, or somebody who wants a password.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use modshift_changelog::{Class, KafkaReader, KafkaWriter, LogWriter, ensure_topic};
use modshift_proto::plan::{KafkaLog, Secret};
use modshift_tests::{
    place::free_port,
    server::{KafkaBroker, KafkaOptions, SASL_PASSWORD, SASL_USER},
};

use crate::{NEW, OLD, next, number, numbered, plan, read, until_acked};

#[tokio::test]
async fn an_unreachable_broker_is_told_within_seconds() -> Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let log = plan(&address, "any");
    let began = Instant::now();
    let writer = KafkaWriter::open(&log, OLD, 2);
    let reader = KafkaReader::open(&log, NEW, None, "g");
    let (writer, reader, topic) = tokio::join!(writer, reader, ensure_topic(&log, 2));
    assert!(began.elapsed() < Duration::from_secs(15), "took {:?}", began.elapsed());
    for result in [writer.map(drop), reader.map(drop), topic] {
        let Err(error) = result else { bail!("nobody is there, and it was opened") };
        let text = error.to_string();
        assert!(text.starts_with(&format!("kafka at {address} cannot be reached: ")), "{text}");
        assert!(text.contains("refused"), "{text}");
        assert_eq!(error.class(), Class::Retry);
    }
    Ok(())
}

/// The settings by which a plan logs in to a broker.
fn login(log: KafkaLog, password: &str) -> KafkaLog {
    let properties = [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanisms", "PLAIN"),
        ("sasl.username", SASL_USER),
        ("sasl.password", password),
    ];
    let properties =
        properties.map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned())));
    KafkaLog { properties: properties.to_vec(), ..log }
}

#[tokio::test]
async fn a_broker_that_wants_a_password_gets_it_and_a_wrong_one_is_told() -> Result<()> {
    let broker =
        KafkaBroker::start_with(KafkaOptions { sasl: true, ..KafkaOptions::default() }).await?;
    let address = broker.sasl_bootstrap()?;
    let log = login(plan(&address, "guarded"), SASL_PASSWORD);
    ensure_topic(&log, 2).await?;
    let mut writer = KafkaWriter::open(&log, OLD, 2).await?;
    let mut reader = read(&log, NEW).await?;
    for n in 0..100 {
        writer.send(NEW, b"key", &numbered(n, 100)).await?;
    }
    until_acked(&mut writer, NEW, 100).await?;
    for n in 0..100 {
        ensure!(number(&next(&mut reader).await?)? == n, "message {n} is another");
    }
    let wrong = login(plan(&address, "guarded"), "not-the-password");
    let topic = ensure_topic(&wrong, 2).await;
    let writer = KafkaWriter::open(&wrong, OLD, 2).await.map(drop);
    let reader = KafkaReader::open(&wrong, NEW, None, "g").await.map(drop);
    for result in [topic, writer, reader] {
        let Err(error) = result else { bail!("a wrong password, and it was opened") };
        let text = error.to_string();
        ensure!(text.contains(&address) && text.contains("Authentication failed"), "{text}");
        ensure!(!text.contains("not-the-password"), "{text}");
        // The login may be changed on the broker: it is tried again, and said.
        ensure!(text.starts_with("login refused by kafka at "), "{text}");
        ensure!(error.class() == Class::Retry, "{text}");
        ensure!(error.hint().is_some_and(|hint| hint.contains("log.properties")), "{text}");
    }
    // Such a broker just hangs up on who speaks without a login: what could be wrong is named.
    let Err(error) = ensure_topic(&plan(&address, "guarded"), 2).await else {
        bail!("no login, and it was opened")
    };
    ensure!(error.to_string().contains(&address), "{error}");
    ensure!(error.hint().is_some_and(|hint| hint.contains("log.properties")), "{error}");
    Ok(())
}
