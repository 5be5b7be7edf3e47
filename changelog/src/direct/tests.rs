//! The direct log: order, bounds, acknowledgements, replacement.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use modshift_proto::{NewShard, OldShard};

use super::*;
use crate::{Backlog, Class, LogReader, LogWriter};

const OLD: OldShard = OldShard(0);
const NEW: NewShard = NewShard(0);
const OTHER: NewShard = NewShard(1);

/// What should come comes soon; a test that hangs says where.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

async fn send(writer: &mut DirectWriter, to: NewShard, message: &[u8]) {
    soon("room", writer.send(to, b"key", message)).await.unwrap();
}

async fn next(reader: &mut DirectReader) -> Vec<u8> {
    soon("a message", reader.next()).await.unwrap().message.to_vec()
}

fn numbered(number: u32) -> Vec<u8> {
    // Lengths vary, so that segments end anywhere.
    let mut message = number.to_le_bytes().to_vec();
    message.resize(4 + number as usize % 700, 7);
    message
}

#[tokio::test]
async fn messages_arrive_in_order_and_whole() {
    let log = DirectLog::new(1, 2, 256 * 1024);
    let mut reader = log.reader(NEW).unwrap();
    let mut writer = log.writer(OLD, 1);
    let sender = tokio::spawn(async move {
        for number in 0..20_000 {
            send(&mut writer, NEW, &numbered(number)).await;
        }
        writer.flush().await.unwrap();
        writer
    });
    for number in 0..20_000 {
        assert_eq!(next(&mut reader).await, numbered(number));
    }
    assert!(reader.try_next().unwrap().is_none());
    assert_eq!(reader.backlog(), Backlog::Bytes(0));
    drop(soon("the sender", sender).await);
}

#[tokio::test]
async fn empty_messages_are_messages() {
    let log = DirectLog::new(1, 1, 1024);
    let mut reader = log.reader(NEW).unwrap();
    let mut writer = log.writer(OLD, 1);
    send(&mut writer, NEW, b"").await;
    send(&mut writer, NEW, b"x").await;
    writer.flush().await.unwrap();
    assert_eq!(next(&mut reader).await, b"");
    assert_eq!(reader.try_next().unwrap().unwrap().message, "x");
}

#[tokio::test]
async fn what_is_queued_never_exceeds_the_budget() {
    const BUDGET: usize = 64 * 1024;
    let log = DirectLog::new(1, 1, BUDGET);
    let mut reader = log.reader(NEW).unwrap();
    let mut writer = log.writer(OLD, 1);
    let mut taken = 0;
    while writer.send(NEW, b"", &[1; 1000]).now_or_never().is_some() {
        taken += 1;
    }
    let Backlog::Bytes(queued) = reader.backlog() else { panic!("bytes expected") };
    assert!(queued <= BUDGET as u64, "{queued} bytes queued");
    // And beside the queue no more than one segment.
    assert!(taken * 1004 <= BUDGET + BUDGET / 4, "{taken} messages taken");
    assert!(taken * 1004 > BUDGET / 2, "{taken} messages taken");
    // The message that found no room was not taken: everything read is accounted for.
    for _ in 0..taken {
        next(&mut reader).await;
        let _ = writer.flush().now_or_never();
    }
    assert!(reader.try_next().unwrap().is_none());
    send(&mut writer, NEW, b"again").await;
    writer.flush().await.unwrap();
    assert_eq!(next(&mut reader).await, b"again");
}

#[tokio::test]
async fn a_message_larger_than_the_budget_passes_alone() {
    let log = DirectLog::new(1, 1, 10_000);
    let mut reader = log.reader(NEW).unwrap();
    let mut writer = log.writer(OLD, 1);
    let huge = vec![9; 5_000_000];
    send(&mut writer, NEW, b"before").await;
    writer.flush().await.unwrap();
    assert!(writer.send(NEW, b"", &huge).now_or_never().is_none(), "it must wait for the queue");
    assert_eq!(next(&mut reader).await, b"before");
    send(&mut writer, NEW, &huge).await;
    send(&mut writer, NEW, b"after").await;
    assert!(writer.flush().now_or_never().is_none(), "nothing goes beside it");
    assert_eq!(next(&mut reader).await, huge);
    writer.flush().await.unwrap();
    assert_eq!(next(&mut reader).await, b"after");
}

#[tokio::test]
async fn a_full_partition_does_not_hold_back_what_is_flushed_to_another() {
    let log = DirectLog::new(1, 2, 4096);
    let mut other = log.reader(OTHER).unwrap();
    let mut writer = log.writer(OLD, 1);
    while writer.send(NEW, b"", &[1; 500]).now_or_never().is_some() {}
    send(&mut writer, OTHER, b"here").await;
    assert!(writer.flush().now_or_never().is_none());
    assert_eq!(next(&mut other).await, b"here");
}

#[tokio::test]
async fn a_message_is_acknowledged_once_applied() {
    let log = DirectLog::new(1, 2, 4096);
    let mut reader = log.reader(NEW).unwrap();
    let mut writer = log.writer(OLD, 7);
    assert!(writer.acknowledged().now_or_never().is_none());
    reader.applied(OLD, 7, 41);
    soon("the acknowledgement", writer.acknowledged()).await.unwrap();
    assert_eq!((writer.acked(NEW), writer.acked(OTHER)), (42, 0));
    assert!(writer.acknowledged().now_or_never().is_none(), "told already");
    reader.applied(OLD, 7, 41);
    reader.applied(OLD, 7, 3);
    reader.applied(OLD, 6, 99);
    assert!(writer.acknowledged().now_or_never().is_none(), "nothing new of this epoch");
    let waiter = tokio::spawn(async move {
        writer.acknowledged().await.unwrap();
        writer.acked(NEW)
    });
    tokio::task::yield_now().await;
    reader.applied(OLD, 7, 42);
    assert_eq!(soon("the waiter", waiter).await.unwrap(), 43);
}

#[tokio::test]
async fn a_new_writer_ends_the_one_before() {
    let log = DirectLog::new(1, 1, 4096);
    let mut reader = log.reader(NEW).unwrap();
    let mut first = log.writer(OLD, 1);
    send(&mut first, NEW, b"of epoch 1").await;
    first.flush().await.unwrap();
    send(&mut first, NEW, b"never sent").await;
    let mut second = log.writer(OLD, 2);
    for error in [
        first.send(NEW, b"", b"").await.unwrap_err(),
        first.flush().await.unwrap_err(),
        first.acknowledged().await.unwrap_err(),
    ] {
        assert!(matches!(error, LogError::Superseded { epoch: 1, .. }), "{error}");
        assert_eq!(error.class(), Class::Halt);
    }
    send(&mut second, NEW, b"of epoch 2").await;
    second.flush().await.unwrap();
    assert_eq!(next(&mut reader).await, b"of epoch 1");
    assert_eq!(next(&mut reader).await, b"of epoch 2");
    // Acknowledgements of the older epoch are not the new writer's.
    reader.applied(OLD, 1, 5);
    assert_eq!(second.acked(NEW), 0);
}

#[tokio::test]
async fn a_writer_that_waits_for_room_ends_when_replaced() {
    let log = DirectLog::new(1, 1, 2048);
    let mut first = log.writer(OLD, 1);
    while first.send(NEW, b"", &[1; 500]).now_or_never().is_some() {}
    let waiter = tokio::spawn(async move { first.send(NEW, b"", &[1; 500]).await });
    tokio::task::yield_now().await;
    let _second = log.writer(OLD, 2);
    let error = soon("the end of the wait", waiter).await.unwrap().unwrap_err();
    assert!(matches!(error, LogError::Superseded { .. }), "{error}");
}

#[tokio::test]
async fn a_writer_of_an_older_epoch_comes_too_late() {
    let log = DirectLog::new(1, 1, 2048);
    let mut current = log.writer(OLD, 5);
    let mut late = log.writer(OLD, 4);
    assert!(matches!(late.send(NEW, b"", b"").await, Err(LogError::Superseded { epoch: 4, .. })));
    send(&mut current, NEW, b"still here").await;
}

#[tokio::test]
async fn a_partition_has_one_reader_at_a_time() {
    let log = DirectLog::new(1, 1, 2048);
    let reader = log.reader(NEW).unwrap();
    assert!(matches!(log.reader(NEW), Err(LogError::Taken(NEW))));
    assert!(matches!(log.reader(OTHER), Err(LogError::NoPartition { to: OTHER, partitions: 1 })));
    drop(reader);
    log.reader(NEW).unwrap();
}

#[tokio::test]
async fn a_reader_that_leaves_ends_the_writers_and_a_new_epoch_goes_on() {
    let log = DirectLog::new(1, 1, 2048);
    let reader = log.reader(NEW).unwrap();
    let mut writer = log.writer(OLD, 1);
    while writer.send(NEW, b"", &[1; 500]).now_or_never().is_some() {}
    let waiter = tokio::spawn(async move {
        let sent = writer.send(NEW, b"", &[1; 500]).await;
        (sent, writer.acknowledged().await)
    });
    tokio::task::yield_now().await;
    drop(reader);
    let (sent, acknowledged) = soon("the end of the wait", waiter).await.unwrap();
    assert!(matches!(sent, Err(LogError::Closed(NEW))));
    assert!(matches!(acknowledged, Err(LogError::Closed(NEW))));
    assert_eq!(LogError::Closed(NEW).class(), Class::Retry);

    let mut reader = log.reader(NEW).unwrap();
    let mut writer = log.writer(OLD, 2);
    send(&mut writer, NEW, b"again").await;
    writer.flush().await.unwrap();
    assert_eq!(next(&mut reader).await, b"again", "nothing of the old queue is left");
}

#[tokio::test]
async fn a_writer_that_waits_for_acknowledgements_hears_of_a_reader_that_leaves() {
    let log = DirectLog::new(1, 1, 2048);
    let reader = log.reader(NEW).unwrap();
    let mut writer = log.writer(OLD, 1);
    let waiter = tokio::spawn(async move { writer.acknowledged().await });
    tokio::task::yield_now().await;
    drop(reader);
    let acknowledged = soon("the end of the wait", waiter).await.unwrap();
    assert!(matches!(acknowledged, Err(LogError::Closed(NEW))));
}

#[tokio::test]
async fn old_shards_share_a_partition() {
    let log = DirectLog::new(3, 1, 8192);
    let mut reader = log.reader(NEW).unwrap();
    let mut senders = tokio::task::JoinSet::new();
    for source in 0..3u8 {
        let mut writer = log.writer(OldShard(source.into()), 1);
        senders.spawn(async move {
            for number in 0..2000u32 {
                let mut message = vec![source];
                message.extend(number.to_le_bytes());
                send(&mut writer, NEW, &message).await;
            }
            writer.flush().await.unwrap();
        });
    }
    let mut expected = [0u32; 3];
    for _ in 0..6000 {
        let message = next(&mut reader).await;
        let source = usize::from(message[0]);
        let number = u32::from_le_bytes(message[1..5].try_into().unwrap());
        assert_eq!(number, expected[source]);
        expected[source] += 1;
    }
}

#[tokio::test]
async fn heartbeats_press_nobody_and_whatever_else_comes_does_in_its_order() {
    let log = DirectLog::new(2, 2, 64 * 1024);
    let mut reader = log.reader(NEW).unwrap();
    let (mut one, mut other) = (log.writer(OLD, 1), log.writer(OldShard(1), 1));
    let beat = async |writer: &mut DirectWriter, message: &[u8]| {
        soon("room", writer.send_beat(NEW, message)).await.unwrap();
        writer.flush().await.unwrap();
    };
    beat(&mut one, b"first").await;
    beat(&mut other, b"second").await;
    assert!(reader.next_pressing().now_or_never().is_none(), "nothing presses");
    // Who has nothing yet hears of the first one, and takes what has come with it.
    assert_eq!(next(&mut reader).await, b"first");
    assert_eq!(reader.try_next().unwrap().unwrap().message, b"second"[..]);
    assert!(reader.try_next().unwrap().is_none());

    beat(&mut one, b"third").await;
    {
        let mut pressing = std::pin::pin!(reader.next_pressing());
        assert!(pressing.as_mut().now_or_never().is_none());
        // A heartbeat and a change in one segment press.
        soon("room", other.send_beat(NEW, b"fourth")).await.unwrap();
        send(&mut other, NEW, b"change").await;
        other.flush().await.unwrap();
        assert_eq!(soon("what presses", pressing).await.unwrap().message, b"third"[..]);
    }
    assert_eq!(soon("the next", reader.next_pressing()).await.unwrap().message, b"fourth"[..]);
    assert_eq!(soon("the change", reader.next_pressing()).await.unwrap().message, b"change"[..]);
    assert!(reader.next_pressing().now_or_never().is_none(), "all of it was taken");
    // One that is too large for company presses like any other.
    send(&mut one, NEW, &[7; 20 * 1024]).await;
    one.flush().await.unwrap();
    assert_eq!(soon("large", reader.next_pressing()).await.unwrap().message.len(), 20 * 1024);
}
