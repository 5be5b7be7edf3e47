//! AUTO_INCREMENT counters and sequences: rows do not carry them.
//!
//! Whatever any from-shard would give out next, every to-shard gives out that or more. New shards
//! give out keys in steps of their number, each from a residue of its own, so that what they
//! generate does not meet on the way back.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use modshift_proto::plan::{AutoIncrement, Plan};

use crate::error::CutoverError;
use crate::register::quote;
use crate::shard::Shard;
use crate::step::Side;

/// `auto_increment_increment` and `auto_increment_offset` of new shards. Connections take them over
/// when they are made, so before the application is let in.
pub async fn interleave(plan: &Plan, shard: &mut Shard) -> Result<(), CutoverError> {
    if plan.cutover.auto_increment == AutoIncrement::Keep || shard.side == Side::Old {
        return Ok(());
    }
    if !gives_out(plan, shard).await? {
        return Ok(());
    }
    let doing = "setting the step of generated keys";
    let (step, offset) = (u64::from(plan.new_modulus.get()), u64::from(shard.number) + 1);
    let sql = "SELECT @@GLOBAL.auto_increment_increment, @@GLOBAL.auto_increment_offset";
    let is: Vec<(u64, u64)> = shard.primary.ask(doing, sql).await?;
    if is.first() != Some(&(step, offset)) {
        let sql = format!(
            "SET GLOBAL auto_increment_increment = {step}, GLOBAL auto_increment_offset = {offset}"
        );
        shard.primary.run(doing, &sql).await?;
    }
    Ok(())
}

/// Does any planned table there give out keys, so that the server's step and offset matter?
pub async fn gives_out(plan: &Plan, shard: &mut Shard) -> Result<bool, CutoverError> {
    let tables: Vec<String> = plan.tables.iter().map(|table| quote(&table.name)).collect();
    let sql = format!(
        "SELECT 1 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME IN ({}) \
         AND EXTRA LIKE '%auto_increment%' LIMIT 1",
        quote(&shard.primary.endpoint.schema),
        tables.join(", ")
    );
    let found: Vec<u8> = shard.primary.ask("looking for generated keys", &sql).await?;
    Ok(!found.is_empty())
}

/// What is given out next, by table or sequence.
type Next = BTreeMap<String, u64>;

pub async fn carry(
    plan: &Plan,
    from: &mut [Shard],
    to: &mut [Shard],
) -> Result<Vec<String>, CutoverError> {
    let mut notes = Vec::new();
    let tables: Vec<String> = plan.tables.iter().map(|table| quote(&table.name)).collect();
    let read = join_all(from.iter_mut().map(|shard| next(shard, &tables))).await;
    let (mut counters, mut sequences) = (Next::new(), Sequences::new());
    for read in read {
        let (of_tables, of_sequences) = read?;
        for (name, next) in of_tables {
            let most = counters.entry(name).or_default();
            *most = next.max(*most);
        }
        for (name, next) in of_sequences {
            let most = sequences.entry(name).or_insert(next);
            *most = if next.1 > 0 { next.max(*most) } else { next.min(*most) };
        }
    }
    let raised = join_all(to.iter_mut().map(async |shard| {
        let (has, has_sequences) = next(shard, &tables).await?;
        for (table, &most) in &counters {
            if has.get(table).is_some_and(|&has| has < most) {
                let sql = format!("ALTER TABLE {} AUTO_INCREMENT = {most}", name(table));
                shard.primary.run("carrying over counters", &sql).await?;
            }
        }
        let mut missing = Vec::new();
        for (sequence, &(most, _)) in &sequences {
            if has_sequences.contains_key(sequence) {
                // Never goes back: then it answers NULL.
                let sql = format!("DO SETVAL({}, {most}, 0)", name(sequence));
                shard.primary.run("carrying over sequences", &sql).await?;
            } else {
                missing.push(format!("{} has no sequence {sequence}", shard.name()));
            }
        }
        Ok::<_, CutoverError>(missing)
    }))
    .await;
    for missing in raised {
        notes.extend(missing?);
    }
    Ok(notes)
}

/// Next value, and by how much it grows.
type Sequences = BTreeMap<String, (i64, i64)>;

async fn next(shard: &mut Shard, tables: &[String]) -> Result<(Next, Sequences), CutoverError> {
    let doing = "reading counters";
    let schema = quote(&shard.primary.endpoint.schema);
    let sql = format!(
        "SELECT TABLE_NAME, AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = \
         {schema} AND AUTO_INCREMENT IS NOT NULL AND TABLE_NAME IN ({})",
        tables.join(", ")
    );
    let counters: Vec<(String, u64)> = shard.primary.ask(doing, &sql).await?;
    let sql = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = {schema} \
         AND TABLE_TYPE = 'SEQUENCE'"
    );
    let names: Vec<String> = shard.primary.ask(doing, &sql).await?;
    let mut sequences = Sequences::new();
    for sequence in names {
        let sql = format!("SELECT next_not_cached_value, increment FROM {}", name(&sequence));
        let row: Vec<(i64, i64)> = shard.primary.ask(doing, &sql).await?;
        sequences.extend(row.into_iter().map(|row| (sequence.clone(), row)));
    }
    Ok((counters.into_iter().collect(), sequences))
}

fn name(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}
