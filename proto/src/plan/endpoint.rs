//! `[defaults]`, `[[old]]` and `[[new]]`: servers, schemas and how to log in.

use std::collections::HashMap;
use std::path::PathBuf;

use super::section::{Item, Section};
use super::{Endpoint, HostPort, Secret, TlsMode, default};
use crate::shard::Modulus;

pub(super) const TLS_WORDS: [(&str, TlsMode); 4] = [
    ("off", TlsMode::Off),
    ("required", TlsMode::Required),
    ("verify-ca", TlsMode::VerifyCa),
    ("verify-identity", TlsMode::VerifyIdentity),
];

/// What a shard may say, and `[defaults]` for all of them.
struct Login {
    host: Option<String>,
    port: Option<u16>,
    schema: Option<String>,
    user: Option<String>,
    password: Option<Secret>,
    tls: Option<TlsMode>,
    tls_ca: Option<PathBuf>,
    application_host: Option<String>,
    application_port: Option<u16>,
}

/// Every shard that the plan names.
pub(super) struct Shards {
    pub old: Vec<Endpoint>,
    pub new: Vec<Endpoint>,
    /// Those of the rehearsal; empty without one.
    pub rehearsed_old: Vec<Endpoint>,
    pub rehearsed_new: Vec<Endpoint>,
}

/// `rehearse`: the section of that name, if there is one.
pub(super) fn read(
    root: &Section<'_>,
    rehearse: Option<&Section<'_>>,
    plan: &str,
    old_modulus: Option<Modulus>,
    new_modulus: Option<Modulus>,
) -> Shards {
    let defaults = root.section("defaults");
    let login = read_login(&defaults);
    let base = defaults.get("server_id_base").and_then(|item| {
        // Room for every shard of either side above it.
        item.number(1..=u64::from(u32::MAX - 2 * SIDE)).and_then(|base| u32::try_from(base).ok())
    });
    let base = base.unwrap_or_else(|| default_server_ids(plan));

    let mut places = Places::default();
    let mut side = |above: &Section<'_>, key: &'static str, first: u32, modulus| {
        let sections = above.sections(key);
        let found = sections.len();
        if let Some(expected) = Option::map(modulus, |modulus: Modulus| usize::from(modulus.get()))
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
        let read = |(section, id)| {
            read_shard(section, (&defaults, &login), id, &mut places, &mut applications)
        };
        sections.into_iter().zip(ids).map(read).collect::<Vec<_>>()
    };
    let old = side(root, "old", base, old_modulus);
    let new = side(root, "new", base + SIDE, new_modulus);
    let (rehearsed_old, rehearsed_new) = match rehearse {
        None => (Vec::new(), Vec::new()),
        Some(section) => {
            let base = rehearsal_server_ids(plan, base);
            let old = side(section, "old", base, old_modulus);
            (old, side(section, "new", base + SIDE, new_modulus))
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

fn read_login(section: &Section<'_>) -> Login {
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

/// What no two shards of a plan may share.
#[derive(Default)]
struct Places {
    schemas: HashMap<(String, u16, String), String>,
    server_ids: HashMap<u32, String>,
}

fn read_shard(
    section: Section<'_>,
    (defaults, login): (&Section<'_>, &Login),
    id: u32,
    places: &mut Places,
    applications: &mut HashMap<(String, u16, String), String>,
) -> Endpoint {
    let own = read_login(&section);
    let id = section.number("replica_server_id", id, 1..=u64::from(u32::MAX));
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
    let mut is_taken = false;
    if let (Some(host), Some(schema)) = (&host, &schema) {
        let place = (host.to_ascii_lowercase(), port, schema.clone());
        if let Some(first) = places.schemas.insert(place, section.path.clone()) {
            is_taken = true;
            section.fault(format!("schema {schema} on {host}:{port} is that of {first} too"));
        }
    }
    if let Some(first) = places.server_ids.insert(id, section.path.clone()) {
        section.fault_at("replica_server_id", format!("{id} is that of {first} too"));
    }
    let primary = HostPort { host: host.clone().unwrap_or_default(), port };
    let application = HostPort {
        host: own
            .application_host
            .or_else(|| login.application_host.clone())
            .unwrap_or_else(|| primary.host.clone()),
        port: own.application_port.or(login.application_port).unwrap_or(port),
    };
    if let Some(schema) = &schema {
        // Applications tell the shards of a side apart by it.
        let at = (application.host.to_ascii_lowercase(), application.port, schema.clone());
        let first = applications.insert(at, section.path.clone());
        if let Some(first) = first.filter(|_| !is_taken) {
            section.fault(format!(
                "applications reach schema {schema} of {first} at {application} too"
            ));
        }
    }
    let (replicas, read_from) = read_replicas(&section, &primary);
    section.finish();
    Endpoint {
        host: host.unwrap_or_default(),
        port,
        schema: schema.unwrap_or_default(),
        user: user.unwrap_or_default(),
        password: password.unwrap_or_default(),
        tls: own.tls.or(login.tls).unwrap_or(default::TLS),
        tls_ca: own.tls_ca.or_else(|| login.tls_ca.clone()),
        replica_server_id: id,
        replicas,
        read_from,
        application: (application != primary).then_some(application),
    }
}

const HOST_PORT: &str = "host:port";

fn read_replicas(section: &Section<'_>, primary: &HostPort) -> (Vec<HostPort>, Option<HostPort>) {
    let server = |item: &Item<'_>| {
        let text = item.text_that(HOST_PORT, |text| host_port(text).is_some())?;
        host_port(&text)
    };
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
    let read_from = section.get("read_from").and_then(|item| {
        let from = server(&item)?;
        if !replicas.contains(&from) {
            // A server that is read but not known to the fence could let a write through it.
            item.fault("expected one of the shard's replicas");
        }
        Some(from)
    });
    (replicas, read_from)
}

fn host_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|&port| port != 0)?;
    is_host(host).then(|| HostPort { host: host.to_owned(), port })
}
