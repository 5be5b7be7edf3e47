//! Groups that an operator has had passed over on a shard that is read, as far as nobody has proven
//! since that the tables are equal.

use std::collections::BTreeMap;

use modshift_mariadb::ServerError;
use modshift_mariadb::control::SKIP;
use serde::Serialize;

use super::ask::{Line, Place};
use super::facts::Asked;

/// One group, with what is to be compared because of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SkipFacts {
    pub gtid: String,
    /// In the words of who has it passed over.
    pub why: String,
    /// False: it is asked for, and no reader has come by it yet.
    pub passed: bool,
    /// Not proven equal since.
    pub tables: Vec<String>,
}

/// Of the shards of one server.
pub async fn read(
    line: &mut Line,
    places: &[&Place],
    asked: &Asked<'_>,
) -> Result<Vec<Vec<SkipFacts>>, ServerError> {
    let columns = "BINARY name, BINARY table_name, BINARY COALESCE(why, '')";
    let condition =
        " WHERE what = 'group' AND state = 'asked' OR what = 'table' AND state = 'open'";
    let doing = "asking what was passed over";
    type Row = (String, String, String, usize);
    let rows: Vec<Vec<Row>> = line.rows(places, doing, (columns, SKIP, condition)).await?;
    let of = |rows: Vec<Row>| {
        joined(rows.into_iter().map(|(gtid, table, why, _)| (gtid, table, why)), asked)
    };
    Ok(rows.into_iter().map(of).collect())
}

/// Rows without a table are those of groups that no reader has come by. What is known of a table that
/// has left the plan waits until it comes back.
fn joined(
    rows: impl Iterator<Item = (String, String, String)>,
    asked: &Asked<'_>,
) -> Vec<SkipFacts> {
    let mut groups: BTreeMap<String, SkipFacts> = BTreeMap::new();
    for (gtid, table, why) in rows {
        if !table.is_empty() && !asked.planned.contains(&table.as_str()) {
            continue;
        }
        let group = groups.entry(gtid.clone()).or_insert(SkipFacts {
            gtid,
            why,
            passed: !table.is_empty(),
            tables: Vec::new(),
        });
        if !table.is_empty() {
            group.tables.push(table);
        }
    }
    let mut groups: Vec<SkipFacts> = groups.into_values().collect();
    groups.iter_mut().for_each(|group| group.tables.sort());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_joined_by_group_and_tables_outside_of_the_plan_wait() {
        let row = |gtid: &str, table: &str| (gtid.to_owned(), table.to_owned(), "why".to_owned());
        let rows = [row("0-1-7", "t"), row("0-1-9", ""), row("0-1-7", "s"), row("0-1-8", "gone")];
        let asked = Asked { copied: Vec::new(), planned: &["s", "t"] };
        let found = joined(rows.into_iter(), &asked);
        let group = |gtid: &str, tables: &[&str]| SkipFacts {
            gtid: gtid.to_owned(),
            why: "why".to_owned(),
            passed: !tables.is_empty(),
            tables: tables.iter().map(|table| (*table).to_owned()).collect(),
        };
        assert_eq!(found, [group("0-1-7", &["s", "t"]), group("0-1-9", &[])]);
    }
}
