//! `[defaults]`, `[[old]]` and `[[new]]`: servers, schemas and how to log in.

use std::collections::HashMap;
use std::path::PathBuf;

use super::section::{Item, Section};
use super::{Endpoint, HostPort, Peers, Scheme, Secret, TlsMode, default, peers, promoted};
use crate::shard::Modulus;

pub(super) const TLS_WORDS: [(&str, TlsMode); 4] = [
    ("off", TlsMode::Off),
    ("required", TlsMode::Required),
    ("verify-ca", TlsMode::VerifyCa),
    ("verify-identity", TlsMode::VerifyIdentity),
];

/// What a shard may say, and `[defaults]` for all of them.
#[derive(Clone)]
pub(super) struct Login {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub schema: Option<String>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub tls: Option<TlsMode>,
    pub tls_ca: Option<PathBuf>,
    pub application_host: Option<String>,
    pub application_port: Option<u16>,
}

/// Every shard that the plan names.
pub(super) struct Shards {
    pub old: Vec<Endpoint>,
    pub new: Vec<Endpoint>,
    /// Those of the rehearsal; empty without one.
    pub rehearsed_old: Vec<Endpoint>,
    pub rehearsed_new: Vec<Endpoint>,
}

/// `rehearse`: the section of that name, if there is one. `times`: as [`super::scheme::times`] says.
pub(super) fn read(
    root: &Section<'_>,
    rehearse: Option<&Section<'_>>,
    plan: &str,
    (old_modulus, new_modulus): (Option<Modulus>, Option<Modulus>),
    (scheme, times): (Scheme, usize),
) -> Shards {
    let defaults = root.section("defaults");
    let login = read_login(&defaults);
    let without_applications =
        Login { application_host: None, application_port: None, ..login.clone() };
    let base = defaults.get("server_id_base").and_then(|item| {
        // Room for every shard of either side above it.
        item.number(1..=u64::from(u32::MAX - 2 * SIDE)).and_then(|base| u32::try_from(base).ok())
    });
    let base = base.unwrap_or_else(|| default_server_ids(plan));

    let mut places = Places::default();
    let side =
        |places: &mut Places, above: &Section<'_>, key: &'static str, first: u32, modulus| {
            // No routing names the shards of a rehearsal: what leads applications to the others, which
            // may be one address for all, is not for them.
            let login = if above.path.is_empty() { &login } else { &without_applications };
            let sections = above.sections(key);
            let found = sections.len();
            if let Some(expected) =
                Option::map(modulus, |modulus: Modulus| usize::from(modulus.get()))
                && found != expected
                && !root.context.broken
            {
                let name = above.path_of(key);
                let message = format!("modulus.{key} is {expected}, found {found} [[{name}]]");
                above.fault_at(key, message);
            }
            let ids = first..=u32::MAX;
            // The sides may have the same: a virtual address stays where its shard stays.
            let mut applications = HashMap::new();
            let read = |(section, id): (Section<'_>, u32)| {
                let times = (key == "old" && scheme.is_promotion()).then_some(times);
                read_shard(section, (&defaults, login), (id, times), places, &mut applications)
            };
            sections.into_iter().zip(ids).map(read).collect::<Vec<_>>()
        };
    let old = side(&mut places, root, "old", base, old_modulus);
    let new = match scheme {
        Scheme::Copy => side(&mut places, root, "new", base + SIDE, new_modulus),
        Scheme::Promote { .. } => {
            let named = (&login, base + SIDE);
            promoted::read(root, &old, (times, new_modulus), named, &mut places)
        }
    };
    let (rehearsed_old, rehearsed_new) = match rehearse {
        None => (Vec::new(), Vec::new()),
        Some(section) => {
            let base = rehearsal_server_ids(plan, base);
            let old = side(&mut places, section, "old", base, old_modulus);
            (old, side(&mut places, section, "new", base + SIDE, new_modulus))
        }
    };
    defaults.finish();
    Shards { old, new, rehearsed_old, rehearsed_new }
}

/// How far the server ids of new shards lie above those of old ones.
const SIDE: u32 = 2048;

fn default_server_ids(plan: &str) -> u32 {
    default::SERVER_ID_RANGE + (crc32fast::hash(plan.as_bytes()) & 0xfff) * 2 * SIDE
}

/// A range of its own, off that of the reshard.
fn rehearsal_server_ids(plan: &str, taken: u32) -> u32 {
    let base = default_server_ids(&format!("{plan}{}", super::rehearse::SUFFIX));
    // Two plans' names may have the same hash, and server_id_base may lie anywhere.
    match base.abs_diff(taken) < 2 * SIDE {
        true => {
            default::SERVER_ID_RANGE + (base - default::SERVER_ID_RANGE + 4 * SIDE) % (8192 * SIDE)
        }
        false => base,
    }
}

pub(super) fn read_login(section: &Section<'_>) -> Login {
    let name = |item: Item<'_>| item.text_that("1 to 64 characters", is_identifier);
    let password = section.get("password");
    let password_file = section.get("password_file");
    if let (Some(_), Some(file)) = (&password, &password_file) {
        file.fault("password is given too, expected one of the two");
    }
    let password_file = password_file.map(|item| read_secret_file(&item).unwrap_or_default());
    let host = |key| section.get(key).and_then(|item| item.text_that("a host name", is_host));
    let port = |key| {
        let number = section.get(key).and_then(|item| item.number(1..=u64::from(u16::MAX)));
        number.and_then(|port| u16::try_from(port).ok())
    };
    Login {
        host: host("host"),
        port: port("port"),
        application_host: host("application_host"),
        application_port: port("application_port"),
        schema: section.get("schema").and_then(name),
        user: section.get("user").and_then(|item| {
            item.text_that("1 to 128 characters", |user| (1..=128).contains(&user.chars().count()))
        }),
        // A faulty password stands as an empty one: it is not missing.
        password: password
            .map(|item| Secret::new(item.secret().unwrap_or_default()))
            .or(password_file),
        tls: section.get("tls").and_then(|item| item.word(&TLS_WORDS)),
        tls_ca: section.get("tls_ca").and_then(|item| item.file()),
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '/' || c == '@')
}

pub(super) fn is_identifier(text: &str) -> bool {
    // MariaDB's limit for the names of schemas, tables and columns.
    (1..=64).contains(&text.chars().count()) && !text.contains('\0')
}

pub(super) fn read_secret_file(item: &Item<'_>) -> Option<Secret> {
    let path = item.file()?;
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(Secret::of_file(path, &text)),
        Err(error) => {
            item.fault(format!("{} cannot be read: {error}", path.display()));
            None
        }
    }
}

/// What no two shards of a plan may share. `at`: the shard's section, or the whole plan where it has
/// none; `path`: what the shard is called in faults.
#[derive(Default)]
pub(super) struct Places {
    schemas: HashMap<(String, u16, String), String>,
    server_ids: HashMap<u32, String>,
    /// Pairs may share servers: a master of one before is one of another after.
    pairs: Vec<(String, Peers)>,
}

impl Places {
    /// The pair that a shard is, if it is one.
    pub fn pair(&mut self, section: &Section<'_>) -> Option<Peers> {
        let peers = peers::read(section)?;
        for clash in peers::clashes(&peers, &self.pairs) {
            section.fault_at("peers", clash);
        }
        self.pairs.push((section.path_of("peers"), peers.clone()));
        Some(peers)
    }

    /// False, and a fault: another shard has that schema.
    pub fn take(&mut self, at: &Section<'_>, path: &str, shard: &Endpoint) -> bool {
        let Endpoint { host, port, schema, .. } = shard;
        let place = (host.to_ascii_lowercase(), *port, schema.clone());
        let Some(first) = self.schemas.insert(place, path.to_owned()) else { return true };
        at.fault_as(path, format!("schema {schema} on {host}:{port} is that of {first} too"));
        false
    }

    pub fn number(&mut self, at: &Section<'_>, path: &str, id: u32) {
        if let Some(first) = self.server_ids.insert(id, path.to_owned()) {
            let path = format!("{path}.replica_server_id");
            at.fault_as(&path, format!("{id} is that of {first} too"));
        }
    }
}

/// Where applications reach the shards of one side, which they tell apart by it.
pub(super) type Applications = HashMap<(String, u16, String), String>;

pub(super) fn reach(
    applications: &mut Applications,
    at: &Section<'_>,
    path: &str,
    (application, schema): (&HostPort, &str),
) {
    // A host that is missing is a fault already.
    if application.host.is_empty() {
        return;
    }
    let key = (application.host.to_ascii_lowercase(), application.port, schema.to_owned());
    if let Some(first) = applications.insert(key, path.to_owned()) {
        let message = format!("applications reach schema {schema} of {first} at {application} too");
        at.fault_as(path, message);
    }
}

/// What an old shard must be of which servers are promoted. `unlisted`: further servers that are no
/// replicas by the plan, such as the other master of a pair.
fn check_promoted(section: &Section<'_>, times: usize, unlisted: usize) {
    let found = section.get("replicas").map_or(0, |item| item.count()) + unlisted;
    if found + 1 < times {
        section.fault_at(
            "replicas",
            format!(
                "expected at least {}, found {found}: with scheme = \"promote\" and this modulus the \
                 primary and as many replicas become a new shard each",
                times - 1
            ),
        );
    }
    if section.has("read_from") {
        section.fault_at("read_from", "only scheme = \"copy\" reads an old shard's binlog");
    }
}

/// `times`: of an old shard of which servers are promoted.
fn read_shard(
    section: Section<'_>,
    (defaults, login): (&Section<'_>, &Login),
    (id, times): (u32, Option<usize>),
    places: &mut Places,
    applications: &mut Applications,
) -> Endpoint {
    let own = read_login(&section);
    let host = own.host.or_else(|| login.host.clone());
    let schema = own.schema.or_else(|| login.schema.clone());
    let user = own.user.or_else(|| login.user.clone());
    let password = own.password.or_else(|| login.password.clone());
    let port = own.port.or(login.port).unwrap_or(default::PORT);
    let in_either = |expected: &str| format!("{expected}, here or in [defaults]");
    let missing = |absent: bool, key: &'static str, expected: &str| {
        // A faulty one is a fault already.
        if absent && !section.has(key) && !defaults.has(key) {
            section.missing(key, &in_either(expected));
        }
    };
    missing(host.is_none(), "host", "a host name");
    missing(schema.is_none(), "schema", "a schema");
    missing(user.is_none(), "user", "an account");
    missing(password.is_none(), "password", "password or password_file");
    let named = host.is_some() && schema.is_some();
    let has_schema = schema.is_some();
    let primary = HostPort { host: host.unwrap_or_default(), port };
    let application = HostPort {
        host: own
            .application_host
            .or_else(|| login.application_host.clone())
            .unwrap_or_else(|| primary.host.clone()),
        port: own.application_port.or(login.application_port).unwrap_or(port),
    };
    let peers = places.pair(&section);
    let listed = read_replicas(&section, &primary);
    let unlisted = peers::unlisted(&listed, &primary, peers.as_ref());
    let replicas = match times {
        None => [listed, unlisted].concat(),
        Some(times) => {
            // A pair that is faulty is one all the same.
            let broken = usize::from(section.has("peers") && peers.is_none());
            check_promoted(&section, times, unlisted.len() + broken);
            // The other master first: each half of a pair becomes a shard.
            [unlisted, listed].concat()
        }
    };
    let shard = Endpoint {
        schema: schema.unwrap_or_default(),
        user: user.unwrap_or_default(),
        password: password.unwrap_or_default(),
        tls: own.tls.or(login.tls).unwrap_or(default::TLS),
        tls_ca: own.tls_ca.or_else(|| login.tls_ca.clone()),
        replica_server_id: section.number("replica_server_id", id, 1..=u64::from(u32::MAX)),
        read_from: read_read_from(&section, &replicas),
        replicas,
        peers,
        application: (application != primary).then_some(application),
        host: primary.host,
        port,
    };
    let free = !named || places.take(&section, &section.path, &shard);
    if has_schema && free {
        reach(applications, &section, &section.path, (&shard.application(), &shard.schema));
    }
    places.number(&section, &section.path, shard.replica_server_id);
    section.finish();
    shard
}

pub(super) const HOST_PORT: &str = "host:port";

fn server(item: &Item<'_>) -> Option<HostPort> {
    host_port(&item.text_that(HOST_PORT, |text| host_port(text).is_some())?)
}

pub(super) fn read_replicas(section: &Section<'_>, primary: &HostPort) -> Vec<HostPort> {
    let mut replicas: Vec<HostPort> = Vec::new();
    for item in section.get("replicas").map(|item| item.elements()).unwrap_or_default() {
        let Some(replica) = server(&item) else { continue };
        if replica == *primary {
            item.fault("expected another server than the shard's own host and port");
        }
        if replicas.contains(&replica) {
            item.fault(format!("{replica} is listed twice"));
        }
        replicas.push(replica);
    }
    replicas
}

pub(super) fn read_read_from(section: &Section<'_>, replicas: &[HostPort]) -> Option<HostPort> {
    section.get("read_from").and_then(|item| {
        let from = server(&item)?;
        if !replicas.contains(&from) {
            // A server that is read but not known to the fence could let a write through it.
            item.fault("expected one of the shard's replicas");
        }
        Some(from)
    })
}

pub(super) fn host_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|&port| port != 0)?;
    is_host(host).then(|| HostPort { host: host.to_owned(), port })
}
