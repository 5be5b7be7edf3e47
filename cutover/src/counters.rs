//! AUTO_INCREMENT counters and sequences: rows do not carry them.
//!
//! Whatever any from-shard would give out next, every to-shard gives out that or more. New shards
//! give out keys in steps of their number, each from a residue of its own, so that what they
//! generate does not meet on the way back. The residue of shard `j` of `M` is `j`: where the key
//! that is given out is the shard key, too, it is at home where it is given out.

pub mod sequences;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use modshift_mariadb::value::quote as identifier;
use modshift_proto::plan::{AutoIncrement, Plan, key_step};

use crate::error::CutoverError;
use crate::holders::{self, Reach};
use crate::register::quote;
use crate::server::Server;
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
    let (modulus, number) = (plan.new_modulus, shard.number);
    let Some(peers) = &plan.new[usize::from(number)].peers else {
        return set_step(&mut shard.primary, |_| key_step(modulus, number, None)).await;
    };
    // Whichever of a pair is to serve one day; its further servers never do.
    for server in shard.servers() {
        set_step(server, |id| key_step(modulus, number, peers.position(id))).await?;
    }
    Ok(())
}

/// `of`: step and offset of the server with this id.
async fn set_step(server: &mut Server, of: impl Fn(u32) -> (u64, u64)) -> Result<(), CutoverError> {
    let doing = "setting the step of generated keys";
    let sql = "SELECT @@GLOBAL.server_id, @@GLOBAL.auto_increment_increment, \
               @@GLOBAL.auto_increment_offset";
    let is: Vec<(u32, u64, u64)> = server.ask(doing, sql).await?;
    let (id, step, offset) = is.first().copied().unwrap_or_default();
    let wanted = of(id);
    if (step, offset) != wanted {
        let sql = format!(
            "SET GLOBAL auto_increment_increment = {}, GLOBAL auto_increment_offset = {}",
            wanted.0, wanted.1
        );
        server.run(doing, &sql).await?;
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

/// What is given out next, by table.
type Next = BTreeMap<String, u64>;

pub async fn carry(
    plan: &Plan,
    from: &mut [Shard],
    to: &mut [Shard],
) -> Result<Vec<String>, CutoverError> {
    let mut notes = Vec::new();
    let tables: Vec<String> = plan.tables.iter().map(|table| quote(&table.name)).collect();
    let read = join_all(from.iter_mut().map(async |shard| {
        Ok::<_, CutoverError>((next(shard, &tables).await?, sequences::read(shard).await?))
    }))
    .await;
    let (mut counters, mut furthest) = (Next::new(), sequences::Sequences::new());
    for read in read {
        let (of_tables, of_sequences) = read?;
        for (name, next) in of_tables {
            let most = counters.entry(name).or_default();
            *most = next.max(*most);
        }
        for (name, sequence) in of_sequences {
            let most = furthest.entry(name).or_insert(sequence);
            *most = most.furthest(sequence);
        }
    }
    let raised = join_all(to.iter_mut().map(async |shard| {
        let has = next(shard, &tables).await?;
        for (table, &most) in &counters {
            if has.get(table).is_some_and(|&has| has < most) {
                let sql = format!("ALTER TABLE {} AUTO_INCREMENT = {most}", identifier(table));
                let doing = "carrying over counters";
                holders::past(
                    &mut shard.primary,
                    table,
                    Reach::Likely,
                    async |server: &mut Server| server.run(doing, &sql).await,
                )
                .await?;
            }
        }
        sequences::carry(shard, &furthest).await
    }))
    .await;
    for missing in raised {
        notes.extend(missing?);
    }
    Ok(notes)
}

async fn next(shard: &mut Shard, tables: &[String]) -> Result<Next, CutoverError> {
    let schema = quote(&shard.primary.endpoint.schema);
    let sql = format!(
        "SELECT TABLE_NAME, AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = \
         {schema} AND AUTO_INCREMENT IS NOT NULL AND TABLE_NAME IN ({})",
        tables.join(", ")
    );
    let counters: Vec<(String, u64)> = shard.primary.ask("reading counters", &sql).await?;
    Ok(counters.into_iter().collect())
}
