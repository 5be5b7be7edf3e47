//! ShardingSphere's nodes in its centre: what a document says of them, what is there, and what has to
//! be written for the one to become the other. Text against text, but for the reading itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use modshift_proto::plan::ZooKeeperTarget;

use super::error::Failure;
use super::shardingsphere::{
    ALGORITHM, CONNECTION_TIMEOUT_MS, POOL, Strategy, broadcasts, nodes, quoted, stem_of,
    strategies, unfit, url, urls,
};
use crate::document::{Document, Side};
use crate::zookeeper::{Change, Session, ZooKeeperError};

/// What a document says, in the order in which an application has to learn of it.
pub struct Wanted {
    /// Paths below that of the logical database, and what their active version says.
    nodes: Vec<(String, String)>,
    /// Of units that may have been given other settings of their pool: what must be the same.
    units: BTreeMap<String, [String; 3]>,
    tables: Vec<String>,
    base: String,
}

const UNITS: &str = "data_sources/units";
const ALGORITHMS: &str = "rules/sharding/algorithms";
const TABLES: &str = "rules/sharding/tables";
const AUTO_TABLES: &str = "rules/sharding/auto_tables";
const BINDINGS: &str = "rules/sharding/binding_tables";

impl Wanted {
    pub fn of(
        target: &ZooKeeperTarget,
        password: &str,
        document: &Document,
    ) -> Result<Wanted, Failure> {
        let units = &target.units;
        let strategies = strategies(units, document)?;
        if let Some(table) = broadcasts(document).next() {
            return Err(unfit(format!(
                "ShardingSphere writes table {table}, which is on every shard, to all units that it \
                 knows, those of the side that does not serve too"
            )));
        }
        let mut nodes = Vec::new();
        let mut settings = BTreeMap::new();
        for (name, url) in all_units(target, document) {
            let path = format!("{UNITS}/{name}");
            settings.insert(path.clone(), [url.clone(), units.user.clone(), password.to_owned()]);
            let (url, user, password) = (quoted(&url), quoted(&units.user), quoted(password));
            let text = format!(
                "dataSourceClassName: {POOL}\nurl: {url}\nusername: {user}\npassword: {password}\n\
                 connectionTimeoutMilliseconds: {CONNECTION_TIMEOUT_MS}\n"
            );
            nodes.push((path, text));
        }
        nodes.extend(strategies.iter().map(algorithm));
        nodes.extend(strategies.iter().map(|strategy| rule(document, strategy)));
        Ok(Wanted {
            nodes,
            units: settings,
            tables: strategies.iter().map(|strategy| strategy.table.to_owned()).collect(),
            base: format!("/{}/metadata/{}", target.namespace, target.database),
        })
    }
}

/// Those of the side that serves as the document has them; the others by the plan.
fn all_units(target: &ZooKeeperTarget, document: &Document) -> Vec<(String, String)> {
    let (side, places) = match document.side {
        Side::Old => (Side::New, &target.new),
        Side::New => (Side::Old, &target.old),
    };
    let stem = stem_of(document, side);
    let others = places.iter().enumerate().map(|(index, place)| {
        (format!("{stem}{index}"), url(&target.units, &place.server, &place.schema))
    });
    urls(&target.units, document).chain(others).collect()
}

fn algorithm(strategy: &Strategy<'_>) -> (String, String) {
    let mut text = format!("type: {}\nprops:\n", strategy.algorithm);
    for (name, value) in &strategy.properties {
        text.push_str(&format!("  {name}: {}\n", quoted(value)));
    }
    (format!("{ALGORITHMS}/{}", strategy.name), text)
}

fn rule(document: &Document, strategy: &Strategy<'_>) -> (String, String) {
    let Strategy { table, column, name, .. } = strategy;
    let text = format!(
        "logicTable: {table}\nactualDataNodes: {}\ndatabaseStrategy:\n  standard:\n    \
         shardingColumn: {column}\n    shardingAlgorithmName: {name}\n",
        quoted(&nodes(document, table))
    );
    (format!("{TABLES}/{table}"), text)
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, text) in &self.nodes {
            writeln!(f, "{}/{path}:", self.base)?;
            text.lines().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        Ok(())
    }
}

/// One node with versions.
#[derive(Clone, Debug, Default)]
struct Versions {
    /// The active one's number, the version of the node that says so, and its text.
    active: Option<(u64, i32, String)>,
    /// Numbers of all that are there.
    all: Vec<u64>,
    /// Whether the folder of the versions is there.
    has_folder: bool,
    is_there: bool,
}

/// What is there of it.
pub struct Found {
    /// Of every wanted path.
    versions: BTreeMap<String, Versions>,
    /// Rules that name a table of the plan beside its own rule.
    others: Vec<String>,
    /// Folders of the wanted nodes that are not there.
    folders: Vec<String>,
    has_schemas: bool,
}

impl Found {
    pub fn look(session: &mut Session, wanted: &Wanted) -> Result<Found, ZooKeeperError> {
        let base = &wanted.base;
        let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for folder in [UNITS, ALGORITHMS, TABLES, AUTO_TABLES, BINDINGS] {
            names.insert(folder, session.children(&format!("{base}/{folder}"))?);
        }
        let of = |folder: &str| names.get(folder).map(Vec::as_slice).unwrap_or_default();
        let path_of = |folder: &str, name: &str| format!("{folder}/{name}");
        let is_there = |path: &str| match path.rsplit_once('/') {
            Some((folder, name)) => of(folder).iter().any(|found| found == name),
            None => false,
        };
        let mut versions = BTreeMap::new();
        for (path, _) in &wanted.nodes {
            let found = match is_there(path) {
                true => Versions::look(session, &format!("{base}/{path}"))?,
                false => Versions::default(),
            };
            versions.insert(path.clone(), found);
        }
        let mut others: Vec<String> = of(AUTO_TABLES)
            .iter()
            .filter(|name| wanted.tables.contains(name))
            .map(|name| path_of(AUTO_TABLES, name))
            .collect();
        for name in of(BINDINGS) {
            let path = path_of(BINDINGS, name);
            let found = Versions::look(session, &format!("{base}/{path}"))?;
            let text = found.active.map(|(_, _, text)| text).unwrap_or_default();
            let mut words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
            if words.any(|word| wanted.tables.iter().any(|table| table.eq_ignore_ascii_case(word)))
            {
                others.push(path);
            }
        }
        let mut folders = BTreeSet::new();
        for path in versions.keys().filter(|path| !versions[*path].is_there) {
            let mut end = 0;
            // From the database on down to the node's own folder.
            while let Some(next) = path[end..].find('/') {
                folders.insert(path[..end + next].to_owned());
                end += next + 1;
            }
        }
        let mut missing = Vec::new();
        for folder in folders {
            if session.get(&format!("{base}/{folder}"))?.is_none() {
                missing.push(folder);
            }
        }
        let has_schemas = !session.children(&format!("{base}/schemas"))?.is_empty();
        Ok(Found { versions, others, folders: missing, has_schemas })
    }

    /// What modshift must not write to. `first`: nothing here is known to be ours.
    pub fn refuse(
        &self,
        target: &ZooKeeperTarget,
        wanted: &Wanted,
        first: bool,
    ) -> Result<(), Failure> {
        if !self.has_schemas {
            // An application that is started later would find rules and no tables, and know none.
            return Err(Failure::Unready {
                place: wanted.base.clone(),
                detail: format!(
                    "no application of namespace {} has registered the tables of database {} yet",
                    target.namespace, target.database
                ),
            });
        }
        let foreign = |path: &str, detail: &str| {
            let place = format!("{}/{path}", wanted.base);
            Err(Failure::Foreign { place, detail: detail.to_owned() })
        };
        if let Some(path) = self.others.first() {
            return foreign(path, "a second rule for a table of the plan, which cannot follow it");
        }
        for table in wanted.tables.iter().filter(|_| first) {
            let path = format!("{TABLES}/{table}");
            let text = self.versions.get(&path).and_then(|found| found.active.as_ref());
            let is_ours = |(_, _, text): &(u64, i32, String)| {
                scalar(text, "shardingAlgorithmName")
                    .is_some_and(|name| name.starts_with(ALGORITHM))
            };
            if text.is_some_and(|active| !is_ours(active)) {
                return foreign(&path, "a rule with an algorithm that modshift has not made");
            }
        }
        Ok(())
    }

    /// In their order; what is within one must be done at once.
    pub fn changes(&self, wanted: &Wanted) -> Vec<Vec<Change>> {
        let base = &wanted.base;
        let mut changes = Vec::new();
        let mut write = |path: &str, text: &str| {
            let found = self.versions.get(path).cloned().unwrap_or_default();
            changes.push(found.next(&format!("{base}/{path}"), text));
        };
        for (path, text) in &wanted.nodes {
            let held = self.versions.get(path).and_then(|found| found.active.as_ref());
            let is_same = held.is_some_and(|(_, _, held)| match wanted.units.get(path) {
                // Its pool may have settings that somebody gave it.
                Some(settings) => {
                    let held = ["url", "username", "password"].map(|key| scalar(held, key));
                    held.iter().zip(settings).all(|(held, wanted)| held.as_ref() == Some(wanted))
                }
                None => held == text,
            });
            if !is_same {
                write(path, text);
            }
        }
        if !changes.is_empty() && !self.folders.is_empty() {
            let folder = |folder: &String| Change::Create {
                path: format!("{base}/{folder}"),
                data: Vec::new(),
            };
            changes.insert(0, self.folders.iter().map(folder).collect());
        }
        changes
    }
}

impl Versions {
    fn look(session: &mut Session, path: &str) -> Result<Versions, ZooKeeperError> {
        let Some(node) = session.get(&format!("{path}/active_version"))? else {
            // A folder may be there all the same: an application was killed while it wrote.
            let is_there = session.get(path)?.is_some();
            let all = session.children(&format!("{path}/versions"))?;
            let has_folder = !all.is_empty() || session.get(&format!("{path}/versions"))?.is_some();
            return Ok(Versions { active: None, all: numbers(&all), has_folder, is_there });
        };
        let all = numbers(&session.children(&format!("{path}/versions"))?);
        let number = String::from_utf8_lossy(&node.data).trim().parse().unwrap_or_default();
        let text = session.get(&format!("{path}/versions/{number}"))?;
        let text = text.map(|text| String::from_utf8_lossy(&text.data).into_owned());
        let active = Some((number, node.version, text.unwrap_or_default()));
        Ok(Versions { active, all, has_folder: true, is_there: true })
    }

    /// The next version, and that it is the active one. Of the former ones the last stays, for
    /// applications that are just about to read it.
    fn next(&self, path: &str, text: &str) -> Vec<Change> {
        let create = |path: String, data: &str| Change::Create { path, data: data.into() };
        let mut changes = Vec::new();
        if !self.is_there {
            changes.push(create(path.to_owned(), ""));
        }
        if !self.has_folder {
            changes.push(create(format!("{path}/versions"), ""));
        }
        let number = self.all.iter().max().map_or(0, |last| last + 1);
        changes.push(create(format!("{path}/versions/{number}"), text));
        let active = format!("{path}/active_version");
        match &self.active {
            None => changes.push(create(active, &number.to_string())),
            Some((last, version, _)) => {
                let data = number.to_string().into_bytes();
                changes.push(Change::Set { path: active, data, version: *version });
                let former = self.all.iter().filter(|former| *former != last);
                let delete = |number| Change::Delete { path: format!("{path}/versions/{number}") };
                changes.extend(former.map(delete));
            }
        }
        changes
    }
}

/// What tells an application of a storage unit.
pub fn is_of_unit(changes: &[Change]) -> bool {
    let below = format!("/{UNITS}/");
    changes.iter().any(|change| change.path().contains(&below))
}

fn numbers(names: &[String]) -> Vec<u64> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// The first value of this key in YAML as ShardingSphere and modshift write it: one on a line.
fn scalar(text: &str, key: &str) -> Option<String> {
    let value =
        text.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(':'));
    let value = value?.trim();
    if let Some(inner) = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return Some(inner.replace("''", "'"));
    }
    match value.starts_with('"') {
        true => serde_json::from_str(value).ok(),
        false => Some(value.to_owned()),
    }
}
