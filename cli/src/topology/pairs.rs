//! Which pairs of masters there are before a change of modulus and after it.

use std::path::PathBuf;

use modshift_proto::plan::{Endpoint, HostPort, Peer, Peers, Plan, TlsMode, Topology, key_step};

/// When files are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// While the old shards serve.
    Before,
    /// Once the new shards serve.
    After,
}

impl Stage {
    /// As the folder is called.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Before => "before",
            Stage::After => "after",
        }
    }

    pub fn side(self) -> &'static str {
        match self {
            Stage::Before => "old",
            Stage::After => "new",
        }
    }
}

/// Two servers, and the shards that they hold.
#[derive(Clone, Debug)]
pub struct Pair {
    pub plan: String,
    pub stage: Stage,
    pub shards: Vec<u16>,
    pub peers: Peers,
    /// Step and offset of generated keys for each; `None` where several shards share the servers.
    pub steps: Option<[(u64, u64); 2]>,
    pub tls: TlsMode,
    pub tls_ca: Option<String>,
}

impl Pair {
    pub fn server(&self, index: usize) -> &Peer {
        &self.peers.servers[index]
    }

    /// As messages and comments call the pair's shards.
    pub fn shard(&self) -> String {
        let numbers: Vec<String> = self.shards.iter().map(u16::to_string).collect();
        let word = if numbers.len() == 1 { "shard" } else { "shards" };
        format!("{} {word} {}", self.stage.side(), numbers.join(", "))
    }

    /// In which the files of one of its servers lie.
    pub fn folder(&self, index: usize) -> String {
        format!("{}/{}", self.stage.name(), name(self.server(index)))
    }
}

/// A server's name for folders and files: no path leads out of it.
pub fn name(server: &Peer) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let host: String = server.at.host.chars().map(plain).collect();
    format!("{}-{}", host.trim_start_matches('.'), server.at.port)
}

pub fn of(plan: &Plan, stage: Stage) -> Result<Vec<Pair>, String> {
    let (shards, modulus) = match stage {
        Stage::Before => (&plan.old, plan.old_modulus),
        Stage::After => (&plan.new, plan.new_modulus),
    };
    let mut pairs: Vec<Pair> = Vec::new();
    for (shard, number) in shards.iter().zip(0u16..) {
        let Some(peers) = &shard.peers else { continue };
        let [first, second] = &peers.servers;
        if let Some(same) = pairs.iter_mut().find(|pair| pair.peers == *peers) {
            same.shards.push(number);
            // One server has one setting, and each of the shards would need its own.
            same.steps = None;
            continue;
        }
        let shared = |pair: &&Pair| {
            pair.peers.servers.iter().any(|server| server.at == first.at || server.at == second.at)
        };
        if let Some(other) = pairs.iter().find(shared) {
            return Err(format!(
                "{side} shard {number} shares a server with {} but is another pair: a server has one \
                 peer",
                other.shard(),
                side = stage.side(),
            ));
        }
        pairs.push(Pair {
            plan: plan.name.clone(),
            stage,
            shards: vec![number],
            peers: peers.clone(),
            steps: Some([0, 1].map(|index| key_step(modulus, number, Some(index)))),
            tls: shard.tls,
            tls_ca: tls_ca(shard),
        });
    }
    let mut names: Vec<String> =
        pairs.iter().flat_map(|pair| pair.peers.servers.iter().map(name)).collect();
    names.sort_unstable();
    match names.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(format!("two servers would have the folder {}: rename one", two[0])),
        None => Ok(pairs),
    }
}

fn tls_ca(shard: &Endpoint) -> Option<String> {
    let named = shard.tls_ca.as_ref()?.file_name()?;
    Some(named.to_string_lossy().into_owned())
}

/// A server that is a master of one pair before and of another after.
#[derive(Clone, Debug)]
pub struct Mover {
    pub before: Pair,
    pub after: Pair,
    /// Which of the pair it is after.
    pub index: usize,
}

impl Mover {
    pub fn server(&self) -> &Peer {
        self.after.server(self.index)
    }

    /// It keeps the virtual address that it may have now.
    pub fn keeps_vip(&self) -> bool {
        self.before.peers.vip == self.after.peers.vip
    }
}

pub fn movers(plan: &Plan) -> Result<Vec<Mover>, String> {
    let (before, after) = (of(plan, Stage::Before)?, of(plan, Stage::After)?);
    let mut movers = Vec::new();
    for pair in &after {
        for index in 0..2 {
            let at = &pair.server(index).at;
            let had = |pair: &&Pair| pair.peers.servers.iter().any(|server| server.at == *at);
            if let Some(before) = before.iter().find(had) {
                movers.push(Mover { before: before.clone(), after: pair.clone(), index });
            }
        }
    }
    Ok(movers)
}

/// Hosts with several servers of pairs, before or after: what lies on one is told apart by its name.
pub fn crowded(plan: &Plan) -> Result<Vec<String>, String> {
    let (before, after) = (of(plan, Stage::Before)?, of(plan, Stage::After)?);
    let mut servers: Vec<HostPort> = before
        .iter()
        .chain(&after)
        .flat_map(|pair| pair.peers.servers.iter().map(|server| server.at.clone()))
        .collect();
    servers.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    servers.dedup();
    let mut hosts: Vec<String> = servers
        .windows(2)
        .filter(|two| two[0].host == two[1].host)
        .map(|two| two[0].host.clone())
        .collect();
    hosts.dedup();
    Ok(hosts)
}

/// Where the files of a server lie on its host.
pub fn dir(topology: &Topology, server: &Peer, crowded: &[String]) -> PathBuf {
    match crowded.contains(&server.at.host) {
        true => topology.dir.join(name(server)),
        false => topology.dir.clone(),
    }
}
