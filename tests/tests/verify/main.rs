//! `modshift verify` on real servers: each planted fault is found and named, and nothing else is,
//! whatever the lag and whoever writes.

mod back;
mod faults;
mod halted;
mod load;
mod proof;
mod requests;
mod resync;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::estate::Shard;
use modshift_tests::{Estate, EstateOptions, Modshift, copied, drained, wait_until};
use serde_json::Value;

pub const LIMIT: Duration = Duration::from_secs(120);

/// An estate whose rows are all copied, and the process that keeps them so.
pub async fn estate(old: usize, new: usize, options: EstateOptions) -> Result<(Estate, Modshift)> {
    let estate = Estate::start(old, new, options).await?;
    let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    copied(&estate, LIMIT).await.with_context(|| daemon.output())?;
    drained(&estate, LIMIT).await.with_context(|| daemon.output())?;
    Ok((estate, daemon))
}

/// The exit code and the report of `modshift verify --json` with these arguments.
pub async fn verify(estate: &Estate, args: &[&str]) -> Result<(i32, Value)> {
    let all = ["verify", "--json"].iter().chain(args).copied();
    let (code, output) = estate.modshift(all).finish(LIMIT).await?;
    let from = output.find("{\n").with_context(|| format!("no report:\n{output}"))?;
    let to = output.rfind("\n}").with_context(|| format!("no whole report:\n{output}"))?;
    let report = serde_json::from_str(&output[from..to + 2]).with_context(|| output.clone())?;
    Ok((code, report))
}

/// `table key kind columns` of each mismatch, sorted.
pub fn mismatches(report: &Value) -> Vec<String> {
    let of = |m: &Value| {
        let text = |key: &str| m[key].as_str().unwrap_or_default().to_owned();
        let columns = m["columns"].as_array().into_iter().flatten();
        let columns: Vec<&str> = columns.filter_map(Value::as_str).collect();
        let (table, key, kind) = (text("table"), text("key"), text("kind"));
        format!("{table} {key} {kind} {}", columns.join(",")).trim_end().to_owned()
    };
    let mut all: Vec<String> =
        report["mismatches"].as_array().into_iter().flatten().map(of).collect();
    all.sort();
    all
}

/// `modshift verify` with these arguments, killed once it has a part of a table on each shard.
pub async fn killed_midway(estate: &Estate, shards: &[Shard], args: &[&str]) -> Result<()> {
    let all = ["verify"].iter().chain(args).copied();
    let process = estate.modshift(all).start()?;
    let sql = "SELECT COUNT(*) FROM modshift_verify \
               WHERE started IS NOT NULL AND verified_to IS NOT NULL";
    wait_until("progress on every shard", LIMIT, || async {
        for shard in shards {
            if shard.value::<u64>(sql).await.unwrap_or(0) == 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
    .with_context(|| process.output())?;
    process.kill_9().map(drop)
}

pub async fn stop(daemon: &Modshift) -> Result<()> {
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "the daemon ended with {code}:\n{}", daemon.output());
    Ok(())
}
