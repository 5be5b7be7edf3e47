//! Broadcast tables are taken from one old shard; what the others hold is only compared.

use futures_util::future::try_join_all;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error::{self, ServerError};
use modshift_mariadb::value::quote;
use modshift_proto::OldShard;
use modshift_proto::plan::{Placement, Plan};
use mysql_async::prelude::Queryable;

use super::matrix::on_every_old_shard;
use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

pub async fn compare(plan: &Plan, survey: &Survey) -> Result<Vec<Fault>, ServerError> {
    let mut faults = Vec::new();
    for table in &plan.tables {
        let Placement::Broadcast { source } = table.placement else { continue };
        if on_every_old_shard(survey, &table.name).is_none() {
            continue;
        }
        let sums = plan.old_shards().map(|shard| checksum(plan, shard, &table.name));
        let sums = try_join_all(sums).await?;
        let expected = &sums[usize::from(source.0)];
        for (shard, sum) in plan.old_shards().zip(&sums) {
            if sum != expected {
                let subject = format!("{shard}: table {}", table.name);
                let actual = format!("holds other rows than {source}, which feeds the new shards");
                faults.push(
                    Fault::new(Severity::Warning, "broadcast", subject, actual)
                        .expected("the same rows everywhere")
                        .mend("make it equal, or name another source in the plan"),
                );
            }
        }
    }
    Ok(faults)
}

async fn checksum(plan: &Plan, shard: OldShard, table: &str) -> Result<Option<u64>, ServerError> {
    let endpoint = &plan.old[usize::from(shard.0)];
    let mut conn = connect(endpoint, Session::Plain).await?;
    let sql = format!("CHECKSUM TABLE {}", quote(table));
    let row: Option<(String, Option<u64>)> = conn
        .query_first(sql)
        .await
        .map_err(|error| error::of(&label(endpoint), "comparing a broadcast table", error))?;
    Ok(row.and_then(|(_, sum)| sum))
}
