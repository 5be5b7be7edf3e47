//! What arrives, in which order, and what becomes of it.

use anyhow::{Context, Result};
use modshift_changelog::LogWriter;
use modshift_consumer::ApplyError;
use modshift_mariadb::control;
use modshift_proto::OldShard;
use modshift_proto::message::Op;

use crate::feed::Shard;

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_written_changed_and_deleted_with_the_watermark() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 1).await?, shard.source(1, 1).await?);
    even.upsert((1, 2, "a")).await?;
    even.upsert((2, 4, "b")).await?;
    even.upsert((1, 6, "A longer")).await?;
    odd.upsert((3, 1, "c")).await?;
    odd.country(Op::Upsert, "de").await?;
    even.applied().await?;
    odd.applied().await?;
    assert_eq!(shard.users().await?, ["1 6 A longer", "2 4 b", "3 1 c"]);
    even.delete(2).await?;
    odd.upsert((3, 5, "c2")).await?;
    odd.country(Op::Delete, "de").await?;
    odd.token().await?;
    even.applied().await?;
    odd.applied().await?;
    assert_eq!(shard.users().await?, ["1 6 A longer", "3 5 c2"]);
    let countries: u64 = shard.address().value("SELECT COUNT(*) FROM t_country").await?;
    assert_eq!(countries, 0);
    let mark: String = shard
        .address()
        .value(
            "SELECT CONCAT_WS(' ', epoch, number, gtids, token_digest, copied) \
             FROM modshift_watermark WHERE source = 1",
        )
        .await?;
    assert_eq!(mark, "1 5 0-1-15 0-1-15#0000000f 1");
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_up_where_the_watermark_stands_and_drops_replays() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert((1, 2, "a")).await?;
    even.upsert((2, 4, "b")).await?;
    even.applied().await?;
    applier.stop().await?;
    let applier = shard.applier();
    // The next reader resumes before all of it; the row has moved on since.
    let mut even = shard.source(0, 2).await?;
    even.upsert((1, 2, "a")).await?;
    even.upsert((2, 4, "b")).await?;
    even.upsert((1, 2, "a2")).await?;
    even.applied().await?;
    assert_eq!(shard.users().await?, ["1 2 a2", "2 4 b"]);
    let updates: u64 = shard
        .address()
        .value("SELECT number FROM modshift_watermark WHERE source = 0 AND epoch = 2")
        .await?;
    assert_eq!(updates, 3);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_values_swap_within_one_old_shard() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert((1, 2, "a")).await?;
    even.upsert((2, 2, "b")).await?;
    even.applied().await?;
    // Through a third value on the old shard; in one batch only the outcome is seen.
    even.upsert((1, 2, "tmp")).await?;
    even.upsert((2, 2, "a")).await?;
    even.upsert((1, 2, "b")).await?;
    even.applied().await?;
    assert_eq!(shard.users().await?, ["1 2 b", "2 2 a"]);
    assert_eq!(shard.parked().await?, 0);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_waits_where_one_of_its_own_shard_is_too_many() -> Result<()> {
    let shard = Shard::start("parked_age_max = \"10s\"").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    let mut odd = shard.source(1, 1).await?;
    for source in [&mut even, &mut odd] {
        source.token().await?;
        source.applied().await?;
    }
    // The second is gone on its old shard, whose binlog did not say so, and its name another's.
    even.upsert((10, 2, "a")).await?;
    even.upsert((90, 2, "b")).await?;
    even.applied().await?;
    even.upsert((10, 2, "b")).await?;
    even.applied().await?;
    assert_eq!(shard.users().await?, ["90 2 b"]);
    let blocked: String = shard.address().value("SELECT blocked_by FROM modshift_parked").await?;
    assert_eq!(blocked, "by_name of another row of old shard 0");
    // However long: what mends it comes by this very stream.
    for _ in 0..2 {
        for source in [&mut even, &mut odd] {
            source.clock_us += 11_000_000;
            source.token().await?;
            source.applied().await?;
        }
    }
    assert_eq!(shard.parked().await?, 1);
    // As a repair does it.
    even.delete(90).await?;
    even.applied().await?;
    assert_eq!(shard.users().await?, ["10 2 b"]);
    assert_eq!(shard.parked().await?, 0);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_behind_what_a_skipped_group_left_is_no_duplicate_until_that_is_proven() -> Result<()>
{
    let shard = Shard::start("parked_age_max = \"10s\"").await?;
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 1).await?, shard.source(1, 1).await?);
    for source in [&mut even, &mut odd] {
        source.token().await?;
        source.applied().await?;
    }
    even.upsert((7, 2, "a")).await?;
    even.applied().await?;
    // The row had moved; what took it off its first shard is passed over only later.
    odd.upsert((7, 1, "a")).await?;
    odd.applied().await?;
    shard.address().run(control::skip::TABLE).await?;
    let gtid = "0-1-7".parse().context("a GTID")?;
    let ask = control::skip::ask_of_target(OldShard(0), gtid).replace('?', "'test'");
    shard.address().run(&ask).await?;
    for _ in 0..2 {
        for source in [&mut even, &mut odd] {
            source.clock_us += 11_000_000;
            source.token().await?;
            source.applied().await?;
        }
    }
    assert_eq!(shard.parked().await?, 1);
    // Proven since, and both are there: a true duplicate.
    shard.address().run(&control::skip::forget_of_target(OldShard(0), gtid)).await?;
    for source in [&mut even, &mut odd] {
        source.clock_us += 11_000_000;
        source.token().await?;
        source.writer.flush().await?;
    }
    let error = applier.halted().await?.to_string();
    assert!(error.contains("has the same PRIMARY on old shard 1 and old shard 0"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_moves_between_old_shards_is_parked_until_its_old_half_is_gone() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 1).await?, shard.source(1, 1).await?);
    for id in 1..=40 {
        even.upsert((id, 2 * id, &format!("n{id}"))).await?;
    }
    even.applied().await?;
    // They have arrived on the other old shard before they left the first, and one has changed
    // there already; others take the key or the name alone.
    for id in 1..=20 {
        odd.upsert((id, 2 * id + 1, &format!("n{id}"))).await?;
    }
    odd.upsert((101, 1, "n21")).await?;
    odd.upsert((22, 1, "new name")).await?;
    odd.upsert((102, 1, "free")).await?;
    odd.upsert((1, 3, "again")).await?;
    odd.applied().await?;
    assert_eq!(shard.parked().await?, 22);
    assert_eq!(shard.users().await?.len(), 41);
    // One parked row goes away while it waits.
    odd.delete(2).await?;
    odd.applied().await?;
    assert_eq!(shard.parked().await?, 21);
    for id in 1..=20 {
        even.delete(id).await?;
    }
    even.upsert((21, 42, "gave it up")).await?;
    even.delete(22).await?;
    even.applied().await?;
    assert_eq!(shard.parked().await?, 0);
    let users = shard.users().await?;
    assert_eq!(users[0], "1 3 again");
    assert!(!users.iter().any(|user| user.starts_with("2 ")), "deleted while parked");
    assert!(users.contains(&"3 7 n3".to_owned()));
    assert!(users.contains(&"22 1 new name".to_owned()));
    assert!(users.contains(&"101 1 n21".to_owned()));
    assert_eq!(users.len(), 41);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_parked_rows_a_restart_applies_what_makes_room() -> Result<()> {
    let shard = Shard::start("parked_rows_max = 2").await?;
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 1).await?, shard.source(1, 1).await?);
    for id in 1..=4 {
        even.upsert((id, 2 * id, &format!("n{id}"))).await?;
    }
    even.applied().await?;
    for id in 1..=4 {
        odd.upsert((id, 2 * id + 1, &format!("n{id}"))).await?;
    }
    odd.writer.flush().await?;
    let error = applier.halted().await?;
    assert!(matches!(error, ApplyError::TooManyParked { parked: 3.., limit: 2, .. }), "{error}");
    assert!(shard.parked().await? > 2);

    // What mends it comes by no other way than the log. Both readers resume before all of it.
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 2).await?, shard.source(1, 2).await?);
    for id in 1..=4 {
        even.upsert((id, 2 * id, &format!("n{id}"))).await?;
    }
    for id in 1..=4 {
        even.delete(id).await?;
    }
    even.applied().await?;
    for id in 1..=4 {
        odd.upsert((id, 2 * id + 1, &format!("n{id}"))).await?;
    }
    odd.applied().await?;
    assert_eq!(shard.parked().await?, 0);
    assert_eq!(shard.users().await?, ["1 3 n1", "2 5 n2", "3 7 n3", "4 9 n4"]);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_from_one_old_shard_leaves_the_row_of_another_alone() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 1).await?, shard.source(1, 1).await?);
    odd.upsert((1, 1, "odd")).await?;
    odd.applied().await?;
    even.upsert((1, 2, "even")).await?;
    even.delete(1).await?;
    even.applied().await?;
    assert_eq!(shard.users().await?, ["1 1 odd"]);
    assert_eq!(shard.parked().await?, 0);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_equal_only_under_their_collation_are_told_apart() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut odd = shard.source(1, 1).await?;
    odd.country(Op::Upsert, "de").await?;
    odd.applied().await?;
    // The key changes its case: delete of the old bytes, insert of the new ones.
    odd.country(Op::Delete, "de").await?;
    odd.country(Op::Upsert, "DE").await?;
    odd.applied().await?;
    odd.country(Op::Delete, "de").await?;
    odd.applied().await?;
    let code: String = shard.address().value("SELECT code FROM t_country").await?;
    assert_eq!(code, "DE");
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_true_duplicate_halts_and_names_both_places() -> Result<()> {
    let shard = Shard::start("parked_age_max = \"10s\"").await?;
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 1).await?, shard.source(1, 1).await?);
    even.token().await?;
    odd.token().await?;
    even.applied().await?;
    odd.applied().await?;
    even.upsert((7, 2, "secret")).await?;
    even.applied().await?;
    odd.upsert((8, 1, "SECRET")).await?;
    odd.applied().await?;
    for source in [&mut even, &mut odd] {
        source.clock_us += 9_000_000;
        source.token().await?;
        source.applied().await?;
    }
    assert_eq!(shard.parked().await?, 1);
    for source in [&mut even, &mut odd] {
        source.clock_us += 2_000_000;
        source.token().await?;
        source.writer.flush().await?;
    }
    let error = applier.halted().await?;
    assert_eq!(
        error.to_string(),
        "new shard 0: table t_user has the same by_name on old shard 1 and old shard 0: the row \
         from old shard 1 has waited 11 s for its place, and every old shard has been read far \
         beyond that"
    );
    let halted: String =
        shard.address().value("SELECT halted FROM modshift_watermark WHERE source = 0").await?;
    assert!(halted.contains("primary key (id) = (8)"), "{halted}");
    // The operator deletes one of them on its old shard; the next start finds that and carries on.
    let applier = shard.applier();
    let mut even = shard.source(0, 2).await?;
    even.clock_us = 12_000_000;
    even.token().await?;
    even.upsert((7, 2, "secret")).await?;
    even.token().await?;
    even.token().await?;
    even.delete(7).await?;
    even.token().await?;
    even.applied().await?;
    assert_eq!(shard.users().await?, ["8 1 SECRET"]);
    assert_eq!(shard.parked().await?, 0);
    let halted: Option<String> =
        shard.address().value("SELECT halted FROM modshift_watermark WHERE source = 0").await?;
    assert_eq!(halted, None);
    applier.stop().await
}
