//! `[old.peers]` and `[new.peers]`: a shard that is a pair of masters, each of which replicates from
//! the other, and of which one takes the application's writes at a time.
//!
//! Where the virtual address is the shard's `host`, nobody can tell from the plan which of the two
//! answers there; so both are the shard's further servers then, and a fence closes both.

use std::net::IpAddr;

use super::endpoint::{HOST_PORT, host_port};
use super::render::Rendered;
use super::section::{Item, Section};
use super::{HostPort, Plan};
use crate::shard::Modulus;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// In the order of the plan: the first has the lower keys and the higher priority.
    pub servers: [Peer; 2],
    /// `None`: something else leads the application to the one that serves.
    pub vip: Option<Vip>,
}

/// One server of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub at: HostPort,
    pub server_id: u32,
    /// The GTID domain of what it writes.
    pub domain: u32,
}

/// The address that the application uses, and how VRRP takes it from one server to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    pub address: IpAddr,
    /// Bits of the network, as in `10.0.0.100/24`.
    pub prefix: u8,
    /// The network interface of either server.
    pub interface: String,
    /// VRRP's virtual router: no other in this network has it.
    pub router_id: u8,
}

impl Vip {
    /// As `ip address` and keepalived write it.
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }

    fn network(&self) -> (IpAddr, u8) {
        let cut = |bits: u128, width: u32| match u32::from(self.prefix) {
            0 => 0,
            prefix => bits >> (width - prefix),
        };
        let address = match self.address {
            IpAddr::V4(address) => {
                let bits = cut(u128::from(u32::from(address)), 32);
                IpAddr::V4(u32::try_from(bits).unwrap_or_default().into())
            }
            IpAddr::V6(address) => IpAddr::V6(cut(address.into(), 128).into()),
        };
        (address, self.prefix)
    }
}

impl Peers {
    /// The other of the two.
    pub fn other(&self, index: usize) -> &Peer {
        &self.servers[1 - index.min(1)]
    }

    /// Which of the two has this server id.
    pub fn position(&self, server_id: u32) -> Option<usize> {
        self.servers.iter().position(|peer| peer.server_id == server_id)
    }

    /// Do both write under the same GTID domain?
    pub fn share_a_domain(&self) -> bool {
        self.servers[0].domain == self.servers[1].domain
    }
}

/// `auto_increment_increment` and `auto_increment_offset` of a shard's server: its keys leave the
/// remainder of the shard. `peer`: which of a pair, whose two masters share the shard's keys out, so that
/// no key is given out twice even by a master that died before the other had all that it wrote.
///
/// MariaDB knows no offset of 0; the modulus itself leaves the same remainder.
pub fn key_step(modulus: Modulus, number: u16, peer: Option<usize>) -> (u64, u64) {
    let (shards, number) = (u64::from(modulus.get()), u64::from(number));
    let first = if number == 0 { shards } else { number };
    match peer {
        None => (shards, first),
        Some(index) => (2 * shards, first + index as u64 * shards),
    }
}

const VIP: &str = "an address with its prefix, such as \"10.0.0.100/24\"";
const IDS: &str = "two different server ids, one of each server";
const DOMAINS: &str = "two GTID domains, one of each server";

pub(super) fn read(shard: &Section<'_>) -> Option<Peers> {
    if !shard.has("peers") {
        return None;
    }
    let section = shard.section("peers");
    let servers = section.required("servers", "the two servers of the pair").and_then(|item| {
        let servers: Vec<HostPort> = item.elements().iter().filter_map(read_server).collect();
        match <[HostPort; 2]>::try_from(servers) {
            Ok(servers) if servers[0] != servers[1] => Some(servers),
            _ => {
                item.fault("expected two different servers, each as host:port");
                None
            }
        }
    });
    let ids = section.required("server_ids", IDS).and_then(|item| {
        let ids = two_numbers(&item, 1..=u64::from(u32::MAX), IDS)?;
        if ids[0] == ids[1] {
            item.fault(format!("expected {IDS}: a master takes nothing from one with its own id"));
        }
        Some(ids)
    });
    let domains = section
        .get("domains")
        .and_then(|item| two_numbers(&item, 0..=u64::from(u32::MAX), DOMAINS))
        .or(ids);
    let vip = read_vip(&section);
    section.finish();
    let (servers, ids, domains) = (servers?, ids?, domains?);
    let [first, second] = servers;
    let peer = |at, index: usize| Peer { at, server_id: ids[index], domain: domains[index] };
    Some(Peers { servers: [peer(first, 0), peer(second, 1)], vip })
}

fn read_server(item: &Item<'_>) -> Option<HostPort> {
    // It stands in scripts, and in names of files.
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let text =
        item.text_that(HOST_PORT, |text| host_port(text).is_some() && text.chars().all(plain))?;
    host_port(&text)
}

fn two_numbers(
    item: &Item<'_>,
    range: std::ops::RangeInclusive<u64>,
    expected: &str,
) -> Option<[u32; 2]> {
    let numbers: Vec<u32> = item
        .elements()
        .iter()
        .filter_map(|item| item.number(range.clone()))
        .filter_map(|number| u32::try_from(number).ok())
        .collect();
    let two = <[u32; 2]>::try_from(numbers).ok();
    if two.is_none() {
        item.fault(format!("expected {expected}"));
    }
    two
}

fn read_vip(section: &Section<'_>) -> Option<Vip> {
    let given = section.get("vip");
    let interface = section.get("interface");
    let router_id = section.get("router_id");
    let Some(item) = given else {
        for item in [interface, router_id].into_iter().flatten() {
            item.fault("is of no use without vip");
        }
        return None;
    };
    let text = item.text_that(VIP, |text| cidr(text).is_some());
    if interface.is_none() {
        section.missing("interface", "the network interface that carries the vip");
    }
    if router_id.is_none() {
        section.missing("router_id", "1 to 255, of no other virtual router in this network");
    }
    // The kernel's own limit, and nothing that ends a word in keepalived's file.
    let named = |text: &str| {
        (1..=15).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c))
    };
    let interface = interface?.text_that("the name of a network interface", named);
    let router_id = router_id?.number(1..=255).and_then(|id| u8::try_from(id).ok());
    let (address, prefix) = cidr(&text?)?;
    Some(Vip { address, prefix, interface: interface?, router_id: router_id? })
}

fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| (1..=most).contains(prefix))?;
    Some((address, prefix))
}

/// Further servers of a shard whose own is `primary`: those of its pair that are not listed.
pub(super) fn unlisted(
    listed: &[HostPort],
    primary: &HostPort,
    peers: Option<&Peers>,
) -> Vec<HostPort> {
    let servers = peers.into_iter().flat_map(|peers| &peers.servers).map(|peer| &peer.at);
    servers.filter(|&at| at != primary && !listed.contains(at)).cloned().collect()
}

/// What one pair says against those before it: a server is the same in all of them, a server id is one
/// server's, and a virtual router leads to one address.
pub(super) fn clashes(peers: &Peers, earlier: &[(String, Peers)]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, others) in earlier {
        let both = peers.servers.iter().flat_map(|a| others.servers.iter().map(move |b| (a, b)));
        for (a, b) in both {
            if a.at == b.at && (a.server_id, a.domain) != (b.server_id, b.domain) {
                found.push(format!("{} has another server id or domain in {path}", a.at));
            }
            if a.at != b.at && a.server_id == b.server_id {
                found.push(format!("server id {} is that of {} in {path} too", a.server_id, b.at));
            }
        }
        if let (Some(a), Some(b)) = (&peers.vip, &others.vip)
            && a.network() == b.network()
            && (a.router_id == b.router_id) != (a.address == b.address)
        {
            found.push(format!(
                "vip {} with router_id {} meets vip {} with router_id {} of {path}: one router_id stands \
                 for one address",
                a.address, a.router_id, b.address, b.router_id
            ));
        }
    }
    found
}

pub(super) fn render(key: &str, peers: Option<&Peers>, out: &mut Rendered) {
    let Some(peers) = peers else { return };
    out.head(&format!("[{key}.peers]"));
    let [a, b] = &peers.servers;
    out.texts("servers", &[a.at.to_string(), b.at.to_string()]);
    out.line("server_ids", format_args!("[{}, {}]", a.server_id, b.server_id));
    out.line("domains", format_args!("[{}, {}]", a.domain, b.domain));
    if let Some(vip) = &peers.vip {
        out.text("vip", &vip.cidr());
        out.text("interface", &vip.interface);
        out.line("router_id", vip.router_id);
    }
}

impl Plan {
    /// Is any shard a pair of masters?
    pub fn has_peers(&self) -> bool {
        self.old.iter().chain(&self.new).any(|shard| shard.peers.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_masters_of_a_shard_share_its_keys_out() {
        for shards in 1..=9u16 {
            let modulus = Modulus::new(shards).unwrap();
            let mut given = Vec::new();
            for number in 0..shards {
                let (step, offset) = key_step(modulus, number, None);
                assert_eq!((step, offset % step), (u64::from(shards), u64::from(number)));
                for peer in 0..2 {
                    let (step, offset) = key_step(modulus, number, Some(peer));
                    // As the server counts: an offset above the step would not count.
                    assert!((1..=step).contains(&offset));
                    assert_eq!(offset % u64::from(shards), u64::from(number), "at home there");
                    given.push(offset % step);
                }
            }
            given.sort_unstable();
            assert!(given.iter().copied().eq(0..2 * u64::from(shards)), "{shards}: {given:?}");
        }
    }

    #[test]
    fn networks_are_told_by_their_prefix() {
        let vip = |text: &str| {
            let (address, prefix) = cidr(text).unwrap();
            Vip { address, prefix, interface: "eth0".to_owned(), router_id: 1 }
        };
        assert_eq!(vip("10.0.0.1/24").network(), vip("10.0.0.200/24").network());
        assert_ne!(vip("10.0.0.1/24").network(), vip("10.0.1.1/24").network());
        assert_eq!(vip("fd00::1/64").network(), vip("fd00::2:2/64").network());
        for text in ["10.0.0.1", "10.0.0.1/0", "10.0.0.1/33", "db/24", "::1/129"] {
            assert!(cidr(text).is_none(), "{text}");
        }
    }
}
