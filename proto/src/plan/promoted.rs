//! `[[new]]` where servers are promoted: it follows from `[[old]]`, and may add what the application
//! calls a shard, which further servers go with it, and how it is logged in to.

use super::endpoint::{
    Applications, Login, Places, reach, read_login, read_read_from, read_replicas,
};
use super::section::Section;
use super::{Endpoint, HostPort};
use crate::shard::Modulus;

/// `times`: how many servers of each old shard become new ones. `defaults`: of `[defaults]`. Empty where the old shards or
/// their replicas are too few: that is a fault already.
pub(super) fn read(
    root: &Section<'_>,
    old: &[Endpoint],
    (times, new_modulus): (usize, Option<Modulus>),
    (defaults, first_id): (&Login, u32),
    places: &mut Places,
) -> Vec<Endpoint> {
    let sections = root.sections("new");
    let expected = old.len() * times;
    for (number, shard) in old.iter().enumerate() {
        own_among_peers(root, &format!("old[{number}]"), shard);
    }
    let short = old.iter().any(|shard| shard.replicas.len() + 1 < times);
    if short || new_modulus.is_none_or(|modulus| usize::from(modulus.get()) != expected) {
        return Vec::new();
    }
    let found = sections.len();
    if root.has("new") && found != expected {
        let message = format!("modulus.new is {expected}, found {found} [[new]]: all or none");
        root.fault_at("new", message);
        return Vec::new();
    }
    let mut sections = sections.into_iter();
    let mut new: Vec<Endpoint> = Vec::with_capacity(expected);
    // Servers that stay with the primary unless a promoted one says that they are its own.
    let mut rest: Vec<Vec<HostPort>> =
        old.iter().map(|shard| shard.replicas.iter().skip(times - 1).cloned().collect()).collect();
    let mut in_place = Vec::with_capacity(old.len());
    let mut applications = Applications::new();
    for (shard, id) in (0..expected).zip(first_id..=u32::MAX) {
        let section = sections.next();
        let number = shard % old.len();
        let mut endpoint = old[number].servers().swap_remove(shard / old.len());
        let path = section.as_ref().map_or_else(|| format!("new[{shard}]"), |s| s.path.clone());
        let at = section.as_ref().unwrap_or(root);
        endpoint.replica_server_id = id;
        // In place a shard is called what it was.
        let mut application = endpoint.application();
        let mut free = true;
        if shard >= old.len() {
            application.host = endpoint.host.clone();
            application.port = endpoint.port;
            called(&mut application, (&defaults.application_host, defaults.application_port));
            free = places.take(at, &path, &endpoint);
        }
        if let Some(section) = &section {
            let own = agree(section, &mut endpoint, (shard, number));
            // Its new peer is set up behind the split: before it, a server of nobody.
            endpoint.peers = places.pair(section);
            own_among_peers(section, &path, &endpoint);
            called(&mut application, (&own.application_host, own.application_port));
        }
        places.number(at, &path, endpoint.replica_server_id);
        if free {
            reach(&mut applications, at, &path, (&application, &endpoint.schema));
        }
        endpoint.application = None;
        endpoint.application = (application != endpoint.application()).then_some(application);
        match shard < old.len() {
            // What its replicas are shows when those of the others are known.
            true => in_place.push(section),
            false => {
                if let Some(section) = section {
                    endpoint.replicas = claimed(&section, &endpoint, &mut rest[number]);
                    endpoint.read_from = read_read_from(&section, &endpoint.replicas);
                    section.finish();
                }
            }
        }
        new.push(endpoint);
    }
    for ((endpoint, section), rest) in new.iter_mut().zip(in_place).zip(rest) {
        endpoint.replicas = rest;
        let Some(section) = section else { continue };
        let primary = HostPort { host: endpoint.host.clone(), port: endpoint.port };
        let given = read_replicas(&section, &primary);
        let same = given.len() == endpoint.replicas.len()
            && given.iter().all(|server| endpoint.replicas.contains(server));
        if section.has("replicas") && !same {
            section.fault_at("replicas", format!("expected {}", list(&endpoint.replicas)));
        }
        endpoint.read_from = read_read_from(&section, &endpoint.replicas);
        section.finish();
    }
    new
}

/// Each half of a pair becomes a shard: the plan has to say which, and a virtual address does not.
fn own_among_peers(at: &Section<'_>, path: &str, shard: &Endpoint) {
    let Some(peers) = &shard.peers else { return };
    let own = HostPort { host: shard.host.clone(), port: shard.port };
    if peers.servers.iter().all(|peer| peer.at != own) {
        let message = format!(
            "expected {own} as one of the two: with scheme = \"promote\" host names the server itself, \
             and application_host the virtual address"
        );
        at.fault_as(&format!("{path}.peers"), message);
    }
}

fn called(application: &mut HostPort, (host, port): (&Option<String>, Option<u16>)) {
    if let Some(host) = host {
        application.host.clone_from(host);
    }
    if let Some(port) = port {
        application.port = port;
    }
}

/// What is said again must be the same; what else is said counts.
fn agree(section: &Section<'_>, endpoint: &mut Endpoint, (shard, number): (usize, usize)) -> Login {
    let own = read_login(section);
    let differs = |key: &'static str, expected: &dyn std::fmt::Display| {
        section.fault_at(
            key,
            format!(
                "expected {expected}, or nothing: with scheme = \"promote\" new shard {shard} lives \
                 on a server of old[{number}]"
            ),
        );
    };
    if own.host.as_ref().is_some_and(|host| !host.eq_ignore_ascii_case(&endpoint.host)) {
        differs("host", &endpoint.host);
    }
    if own.port.is_some_and(|port| port != endpoint.port) {
        differs("port", &endpoint.port);
    }
    if own.schema.as_ref().is_some_and(|schema| *schema != endpoint.schema) {
        differs("schema", &endpoint.schema);
    }
    if let Some(user) = &own.user {
        endpoint.user.clone_from(user);
    }
    if let Some(password) = &own.password {
        endpoint.password = password.clone();
    }
    if let Some(tls) = own.tls {
        endpoint.tls = tls;
    }
    if own.tls_ca.is_some() {
        endpoint.tls_ca.clone_from(&own.tls_ca);
    }
    let id = endpoint.replica_server_id;
    endpoint.replica_server_id = section.number("replica_server_id", id, 1..=u64::from(u32::MAX));
    own
}

/// Servers of the old shard that go with a promoted one, because they replicate from it.
fn claimed(section: &Section<'_>, endpoint: &Endpoint, rest: &mut Vec<HostPort>) -> Vec<HostPort> {
    let primary = HostPort { host: endpoint.host.clone(), port: endpoint.port };
    let replicas = read_replicas(section, &primary);
    for replica in &replicas {
        match rest.iter().position(|server| server == replica) {
            Some(at) => drop(rest.remove(at)),
            // The fence closes what the old shard lists: a server that it does not know would take
            // writes through the pause.
            None => section.fault_at(
                "replicas",
                format!(
                    "expected servers that the old shard's replicas list too, behind those that are \
                     promoted, and of no other new shard: {replica} is none"
                ),
            ),
        }
    }
    replicas
}

fn list(servers: &[HostPort]) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    format!("[{}]", servers.join(", "))
}
