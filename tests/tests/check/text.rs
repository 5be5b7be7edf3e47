//! What a person reads: the worst first, once for all shards that it holds of, and how to mend it.

use anyhow::{Context, Result, ensure};

use crate::case::{Case, LIMIT, NEW, TABLE, shared};

#[tokio::test]
async fn the_same_of_all_shards_is_said_once_with_its_mend_beneath() -> Result<()> {
    let case = Case::new(shared().await?, TABLE).await?;
    for new in 0..NEW {
        case.run(2 + new, "DROP TABLE t").await?;
    }
    // Every old shard has its own, of the same kind.
    case.run(0, "CREATE TABLE spare_a (id INT PRIMARY KEY)").await?;
    case.run(1, "CREATE TABLE spare_a (id INT PRIMARY KEY)").await?;
    case.run(0, "CREATE TABLE spare_b (id INT PRIMARY KEY)").await?;
    case.run(1, "CREATE TABLE spare_b (id INT PRIMARY KEY)").await?;

    let (code, text) = case.launch(&["check", "--quick"])?.finish(LIMIT).await?;
    ensure!(code == 1, "{code}: {text}");
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.contains("new shards 0-2: table t: is missing"));
    let at = at.with_context(|| text.clone())?;
    ensure!(lines[at].starts_with("fault "), "{text}");
    ensure!(lines[at + 1].trim_start().starts_with("mend: modshift schema"), "{text}");
    ensure!(!text.contains("new shard 1: table t: is missing"), "{text}");
    ensure!(text.contains("tables spare_a, spare_b: "), "{text}");

    let rank = |line: &&str| match line.split_whitespace().next() {
        Some("fault") => Some(0),
        Some("warning") => Some(1),
        Some("note") => Some(2),
        _ => None,
    };
    let ranks: Vec<i32> = lines.iter().filter_map(rank).collect();
    ensure!(ranks.is_sorted() && ranks.len() > 2, "{text}");
    // Of each severity, how many there were, and in how many lines they stand.
    let report = case.quick().await?;
    for (severity, rank) in [("fault", 0), ("warning", 1), ("note", 2)] {
        let found = report.findings()?.iter().filter(|f| f.severity == severity).count();
        let shown = ranks.iter().filter(|&&shown| shown == rank).count();
        let counted = match shown < found {
            true => format!("{found} {severity}s in {shown}"),
            false => format!("{found} {severity}s"),
        };
        ensure!(lines.last().is_some_and(|line| line.contains(&counted)), "{counted}: {text}");
    }
    Ok(())
}
