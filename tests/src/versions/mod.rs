//! Says whether any change was applied twice, from the *new shard's own binlog*.
//!
//! The comparison of rows at the end cannot see a change that was applied, undone by an older one
//! and applied again. The binlog of the new shard can: every row carries `ver`, which the
//! application raises with each change, so there it may only rise. The server's own client prints
//! the binlog; nothing of the product reads it.
//!
//! | seen in one transaction | means |
//! |---|---|
//! | an update | `ver` must be above the one before |
//! | a deletion and an insertion of the same row | the row was replaced: `ver` must not be below; the same again is how a row that the copy reads twice may be written |
//! | a deletion | the row is gone; should it come back (inserted again, moved here again), then with a `ver` above any that it ever had |

mod ledger;
mod print;

use std::{collections::HashMap, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    Estate,
    estate::Shard,
    server::{ADMIN, PASSWORD},
};

pub use ledger::Versions;
use ledger::{Layout, Ledger};

/// Reads the whole binlog of every new shard. An error if a `ver` repeats or goes back anywhere, or
/// if there was nothing to see.
pub async fn ensure_rising(estate: &Estate) -> Result<Versions> {
    let mut total = Versions::default();
    for (index, shard) in estate.new.iter().enumerate() {
        let layouts = layouts(estate, shard).await?;
        // New sessions have a second, and what is printed may be read more slowly than it is sent.
        shard.run("SET GLOBAL net_write_timeout = 600").await?;
        let first: String = shard.value("SHOW BINARY LOGS").await?;
        let (schema, port) = (shard.schema.clone(), shard.server.port());
        let seen = tokio::task::spawn_blocking(move || read(port, &first, &schema, layouts));
        let seen = seen.await?.with_context(|| format!("the binlog of new shard {index}"))?;
        ensure!(
            seen.faults.is_empty(),
            "new shard {index} applied changes twice or out of order, {} times:\n  {}",
            seen.fault_count,
            seen.faults.join("\n  ")
        );
        total.add(&seen);
    }
    ensure!(total.updates > 0 && total.deletes > 0, "the binlogs show nothing: {total:?}");
    Ok(total)
}

/// Where each table has its primary key and its `ver`, counted from 1 as the client prints them.
async fn layouts(estate: &Estate, shard: &Shard) -> Result<HashMap<String, Layout>> {
    let mut layouts = HashMap::new();
    for rule in &estate.rules {
        let sql = format!(
            "SELECT ORDINAL_POSITION, COLUMN_KEY = 'PRI', COLUMN_NAME = 'ver' \
             FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = '{}' AND TABLE_NAME = '{}' ORDER BY ORDINAL_POSITION",
            shard.schema, rule.table
        );
        let mut layout = Layout::default();
        for row in shard.address().query(sql).await? {
            let (position, key, ver): (usize, bool, bool) = mysql_async::from_row(row);
            if key {
                layout.key.push(position);
            }
            if ver {
                layout.ver = position;
            }
        }
        ensure!(layout.ver > 0 && !layout.key.is_empty(), "{} has no ver or key", rule.table);
        layouts.insert(rule.table.clone(), layout);
    }
    Ok(layouts)
}

fn read(
    port: u16,
    first: &str,
    schema: &str,
    layouts: HashMap<String, Layout>,
) -> Result<Versions> {
    let mut command = Command::new("mariadb-binlog");
    command
        .args(["--no-defaults", "--read-from-remote-server", "--host=127.0.0.1"])
        .args([format!("--port={port}"), format!("--user={ADMIN}")])
        .args([format!("--password={PASSWORD}")])
        .args(["--base64-output=DECODE-ROWS", "--verbose", "--to-last-log", first])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().context("running mariadb-binlog")?;
    let stdout = child.stdout.take().context("its output")?;
    let mut ledger = Ledger::new(layouts);
    let printed = print::read(std::io::BufReader::new(stdout), schema, &mut ledger);
    // Its end, whatever came of what it printed: a pipe that nobody reads would hold it up.
    if printed.is_err() {
        child.kill().ok();
    }
    let output = child.wait_with_output().context("waiting for mariadb-binlog")?;
    printed?;
    ensure!(
        output.status.success(),
        "mariadb-binlog: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(ledger.finish())
}
