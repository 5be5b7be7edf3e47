//! `[[routing]]` of the kinds that speak to Apache ShardingSphere: files, and its centre.

use std::path::PathBuf;

use super::render::{REDACTED, Rendered};
use super::routing::{Beside, is_here, secret};
use super::section::{Item, Section};
use super::{Endpoint, FenceScope, Guard, HostPort, Placement, Scheme, Secret, Table};

/// Apache ShardingSphere's configuration. At least one of `yaml` and `distsql`.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardingSphereTarget {
    pub yaml: Option<PathBuf>,
    pub distsql: Option<PathBuf>,
    pub units: StorageUnits,
}

/// The ZooKeeper that ShardingSphere's cluster mode follows.
#[derive(Clone, Debug, PartialEq)]
pub struct ZooKeeperTarget {
    /// In the order in which they are tried.
    pub servers: Vec<HostPort>,
    /// As in `mode.repository.props.namespace` of the application.
    pub namespace: String,
    /// The logical database of ShardingSphere: its `databaseName`.
    pub database: String,
    /// As in `mode.repository.props.digest` of the application: `user:password`.
    pub digest: Option<Secret>,
    pub units: StorageUnits,
    /// The shards of the plan: an application learns of both sides long before it needs the other.
    pub old: Vec<Place>,
    pub new: Vec<Place>,
}

/// Where applications reach a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub server: HostPort,
    pub schema: String,
}

impl Place {
    fn of(shards: &[Endpoint]) -> Vec<Place> {
        let place =
            |shard: &Endpoint| Place { server: shard.application(), schema: shard.schema.clone() };
        shards.iter().map(place).collect()
    }
}

/// How ShardingSphere reaches the shards.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageUnits {
    /// The application's account on the shards.
    pub user: String,
    pub password: Secret,
    pub jdbc: Jdbc,
    /// Behind the `?` of each address.
    pub url_parameters: Option<String>,
    /// A `StandardShardingAlgorithm` of the application's own for tables of rule crc32, which
    /// ShardingSphere has none for.
    pub crc32_class: Option<String>,
}

/// Whose driver the application has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jdbc {
    MariaDb,
    /// Connector/J, the only one that ShardingSphere knows before 5.5.
    MySql,
}

impl Jdbc {
    /// As it stands in an address.
    pub fn name(self) -> &'static str {
        super::render::word(&JDBCS, self)
    }
}

const JDBCS: [(&str, Jdbc); 2] = [("mariadb", Jdbc::MariaDb), ("mysql", Jdbc::MySql)];

pub(super) fn read_files(section: &Section<'_>) -> Option<ShardingSphereTarget> {
    let yaml = section.get("yaml").and_then(|item| item.file());
    let distsql = section.get("distsql").and_then(|item| item.file());
    if !section.has("yaml") && !section.has("distsql") {
        section.missing("yaml", "a file, here or in distsql or in both");
    }
    Some(ShardingSphereTarget { yaml, distsql, units: read_units(section)? })
}

pub(super) fn read_zookeeper(
    section: &Section<'_>,
    beside: &Beside<'_>,
) -> Option<ZooKeeperTarget> {
    let units = read_units(section);
    let cutover = beside.cutover;
    let mut accounts = cutover.old_accounts.iter().chain(&cutover.new_accounts);
    // Each time that its rules change it opens a connection to every unit, those of the side that was
    // left too; where it cannot, it goes on by its former rules until it is started again.
    if let Some(units) = &units
        && accounts.any(|account| account.user == units.user)
    {
        section.fault_at(
            "user",
            format!(
                "{} is one of the accounts in [cutover], which the fence locks, and ShardingSphere \
                 follows its centre only while it can log in to every shard: give it an account that \
                 read_only stops, and name it in [cutover] no more",
                units.user
            ),
        );
    }
    if cutover.scope == FenceScope::Accounts {
        section.fault_at(
            "kind",
            "zookeeper needs cutover.fence = \"server\": it cannot follow where accounts are locked",
        );
    }
    if beside.scheme == (Scheme::Promote { guard: Guard::Accounts }) {
        section.fault_at(
            "kind",
            "zookeeper needs guard = \"triggers\": the account of its units is none that is locked, so \
             nothing else refuses it a row that is another shard's",
        );
    }
    let everywhere = |table: &&Table| matches!(table.placement, Placement::Broadcast { .. });
    if let Some(table) = beside.tables.iter().find(everywhere) {
        section.fault_at(
            "kind",
            format!(
                "zookeeper cannot be told of table {}, which is on every shard: ShardingSphere would \
                 write it to all units that it knows, those of the side that does not serve too",
                table.name
            ),
        );
    }
    let servers = section.required("servers", "[\"host:2181\", …]").map(|item| {
        let elements = item.elements();
        if elements.is_empty() {
            item.fault("expected at least one address");
        }
        let server = |item: &Item<'_>| {
            let is_server = |text: &str| super::endpoint::host_port(text).is_some();
            super::endpoint::host_port(&item.text_that("host:port", is_server)?)
        };
        elements.iter().filter_map(server).collect::<Vec<_>>()
    });
    let node = |key, what| {
        section
            .required(key, what)
            .and_then(|item| item.text_that("letters, digits, _ and -", is_node))
    };
    let namespace = node("namespace", "that of the application's mode.repository.props");
    let database = node("database", "the databaseName of the application");
    let digest = section.get("digest").and_then(|item| {
        let digest = item.secret()?;
        let is_login = digest.split_once(':').is_some_and(|(user, _)| !user.is_empty());
        if !is_login {
            item.fault("expected user:password");
        }
        Some(Secret::new(digest))
    });
    let accepted = section.flag("plaintext");
    if let Some(server) = servers.iter().flatten().find(|server| !is_here(&server.host))
        && !accepted
    {
        // Of the application's account; ShardingSphere reads it from there in the same way.
        section.fault_at(
            "password",
            format!(
                "would go to {server} in clear text, and be kept there so: say plaintext = true if the \
                 network and ZooKeeper's ACLs keep it from others"
            ),
        );
    }
    Some(ZooKeeperTarget {
        servers: servers?,
        namespace: namespace?,
        database: database?,
        digest,
        units: units?,
        old: Place::of(beside.old),
        new: Place::of(beside.new),
    })
}

fn read_units(section: &Section<'_>) -> Option<StorageUnits> {
    let crc32_class = section
        .get("crc32_class")
        .and_then(|item| item.text_that("the name of a Java class", is_class));
    let jdbc = section.get("jdbc").and_then(|item| item.word(&JDBCS)).unwrap_or(Jdbc::MariaDb);
    // Not shown when they are refused: it may be for the password in them.
    let url_parameters = section.get("url_parameters").and_then(|item| {
        let text = item.secret()?;
        if !is_parameters(&text) {
            item.fault("expected name=value&name=value, and no password in it");
            return None;
        }
        Some(text)
    });
    let user = section.required("user", "the application's account on the shards");
    let password = section.required("password", "the password of that account");
    Some(StorageUnits {
        user: user?.text_that("a name", |user| !user.is_empty())?,
        password: secret(&password?)?,
        jdbc,
        url_parameters,
        crc32_class,
    })
}

/// What every store of ShardingSphere takes as the name of a node.
fn is_node(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(allowed)
}

/// They are shown with the plan.
fn is_parameters(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '?' | '#');
    !text.is_empty()
        && text.chars().all(is_plain)
        && text
            .split('&')
            .all(|pair| pair.split_once('=').is_some_and(|(name, _)| !name.is_empty()))
        && !text.to_ascii_lowercase().contains("password")
}

fn is_class(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    text.split('.').all(part)
}

pub(super) fn render_files(sphere: &ShardingSphereTarget, out: &mut Rendered) {
    out.text("kind", "shardingsphere");
    out.file("yaml", sphere.yaml.as_deref());
    out.file("distsql", sphere.distsql.as_deref());
    render_units(&sphere.units, out);
}

pub(super) fn render_zookeeper(target: &ZooKeeperTarget, out: &mut Rendered) {
    out.text("kind", "zookeeper");
    let servers: Vec<String> = target.servers.iter().map(HostPort::to_string).collect();
    out.texts("servers", &servers);
    out.text("namespace", &target.namespace);
    out.text("database", &target.database);
    if target.digest.is_some() {
        out.text("digest", REDACTED_DIGEST);
    }
    if target.servers.iter().any(|server| !is_here(&server.host)) {
        out.line("plaintext", true);
    }
    render_units(&target.units, out);
}

/// Reads back as what it stands for.
const REDACTED_DIGEST: &str = "<redacted>:<redacted>";

fn render_units(units: &StorageUnits, out: &mut Rendered) {
    out.text("user", &units.user);
    out.text("password", REDACTED);
    out.text("jdbc", units.jdbc.name());
    if let Some(parameters) = &units.url_parameters {
        out.text("url_parameters", parameters);
    }
    if let Some(class) = &units.crc32_class {
        out.text("crc32_class", class);
    }
}
