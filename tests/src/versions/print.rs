//! What `mariadb-binlog --verbose` prints -> row changes, group by group.

use std::io::BufRead;

use anyhow::{Context, Result, bail};

use super::ledger::{Image, Ledger};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// One row change as far as it has been printed.
struct Change {
    kind: Kind,
    table: String,
    before: Image,
    after: Image,
    /// The values that follow are those of the row before.
    in_before: bool,
}

/// Hands every row change of the schema's tables to the ledger, and says where groups begin.
pub fn read(mut lines: impl BufRead, schema: &str, ledger: &mut Ledger) -> Result<()> {
    let mut line = Vec::new();
    let mut change: Option<Change> = None;
    loop {
        line.clear();
        let more = lines.read_until(b'\n', &mut line).context("reading the printed binlog")? > 0;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if let Some(value) = line.strip_prefix(b"###   @") {
            if let Some(change) = &mut change {
                take_value(change, value, ledger)?;
            }
            continue;
        }
        match line.strip_prefix(b"### ") {
            Some(b"WHERE") => set_side(&mut change, true),
            Some(b"SET") => set_side(&mut change, false),
            Some(head) => {
                give(change.take(), ledger);
                change = begin(head, schema)?.filter(|change| ledger.knows(&change.table));
            }
            None => {
                give(change.take(), ledger);
                if let Some(gtid) = group(&line) {
                    ledger.group(gtid);
                }
            }
        }
        if !more {
            return Ok(());
        }
    }
}

fn set_side(change: &mut Option<Change>, before: bool) {
    if let Some(change) = change {
        change.in_before = before;
    }
}

fn give(change: Option<Change>, ledger: &mut Ledger) {
    let Some(change) = change else { return };
    let (table, before, after) = (&change.table, &change.before, &change.after);
    match change.kind {
        Kind::Insert => ledger.change(table, None, Some(after)),
        Kind::Update => ledger.change(table, Some(before), Some(after)),
        Kind::Delete => ledger.change(table, Some(before), None),
    }
}

/// "INSERT INTO `schema`.`table`"; `None` for another schema.
fn begin(head: &[u8], schema: &str) -> Result<Option<Change>> {
    let text = String::from_utf8_lossy(head);
    let kinds =
        [("INSERT INTO ", Kind::Insert), ("UPDATE ", Kind::Update), ("DELETE FROM ", Kind::Delete)];
    for (words, kind) in kinds {
        let Some(name) = text.strip_prefix(words) else { continue };
        let quoted = name.trim().split_once('.').context("a table without a schema")?;
        let (found, table) = (quoted.0.trim_matches('`'), quoted.1.trim_matches('`'));
        let change = Change {
            kind,
            table: table.to_owned(),
            before: Image::default(),
            after: Image::default(),
            in_before: kind != Kind::Insert,
        };
        return Ok((found == schema).then_some(change));
    }
    bail!("mariadb-binlog printed something unknown: {text}")
}

/// "7=value" of "###   @7=value".
fn take_value(change: &mut Change, text: &[u8], ledger: &Ledger) -> Result<()> {
    let equals = text.iter().position(|&byte| byte == b'=').context("a value without a number")?;
    let number: usize = std::str::from_utf8(&text[..equals])?.parse()?;
    if ledger.wants(&change.table, number) {
        let image = if change.in_before { &mut change.before } else { &mut change.after };
        image.insert(number, text[equals + 1..].to_vec());
    }
    Ok(())
}

/// "#… server id 201  end_log_pos 4711 CRC32 0x… <tab>GTID 201-201-5 trans".
fn group(line: &[u8]) -> Option<String> {
    if !line.starts_with(b"#") {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    let gtid = text.split("\tGTID ").nth(1)?;
    Some(gtid.split_whitespace().next().unwrap_or_default().to_owned())
}
