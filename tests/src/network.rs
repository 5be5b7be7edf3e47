//! Two hosts of our own in one network: namespaces behind a bridge, which this host is in, too. Takes
//! root, and a kernel that allows it; where there is none a test says so and goes on without.

use std::{
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};

use crate::child::mortal;

#[derive(Debug)]
pub struct Network {
    bridge: String,
    prefix: String,
    spaces: [String; 2],
}

/// Of a namespace: the end of the cable to the bridge.
pub const INTERFACE: &str = "eth0";

impl Network {
    /// An error where this host does not allow it.
    pub fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        sweep();
        let net = pid.wrapping_mul(7).wrapping_add(number);
        let network = Self {
            bridge: bridge(pid, number),
            // Nobody else's, as far as one can tell.
            prefix: format!("10.{}.{}", 200 + net / 256 % 50, net % 256),
            spaces: ["a", "b"].map(|name| format!("{SPACE}{pid}-{number}-{name}")),
        };
        let (bridge, prefix) = (&network.bridge, &network.prefix);
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {prefix}.1/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for (index, space) in network.spaces.iter().enumerate() {
            let cable = format!("{bridge}{index}");
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {cable} type veth peer name {INTERFACE} netns {space}"))?;
            ip(&format!("link set {cable} master {bridge} up"))?;
            ip(&format!("-n {space} addr add {}/24 dev {INTERFACE}", network.host(index)))?;
            ip(&format!("-n {space} link set {INTERFACE} up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(network)
    }

    pub fn space(&self, index: usize) -> &str {
        &self.spaces[index]
    }

    pub fn host(&self, index: usize) -> String {
        format!("{}.{}", self.prefix, 11 + index)
    }

    /// An address that neither host has by itself.
    pub fn virtual_address(&self) -> String {
        format!("{}.100", self.prefix)
    }

    /// Neither host reaches the other any more, and this one reaches both: as where a switch between two
    /// rooms fails, each of which has clients.
    pub fn cut(&self) -> Result<()> {
        self.isolate("on")
    }

    pub fn heal(&self) -> Result<()> {
        self.isolate("off")
    }

    fn isolate(&self, state: &str) -> Result<()> {
        for index in 0..self.spaces.len() {
            ip(&format!("link set dev {}{index} type bridge_slave isolated {state}", self.bridge))?;
        }
        Ok(())
    }

    pub fn holds(&self, index: usize, address: &str) -> Result<bool> {
        let output = ip(&format!("-n {} -o addr show dev {INTERFACE}", self.spaces[index]))?;
        Ok(String::from_utf8_lossy(&output.stdout).contains(&format!(" {address}/")))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.spaces, &self.bridge);
    }
}

/// A command that runs in a namespace and dies with this process.
pub fn within(namespace: &str) -> Command {
    let mut command = mortal("env");
    command.args([PATH, "ip", "netns", "exec", namespace]);
    command
}

const SPACE: &str = "modshift-";
/// Debian keeps `ip` where an ordinary account does not look.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn ip(line: &str) -> Result<Output> {
    let words = line.split(' ');
    let output =
        Command::new("env").args([PATH, "ip"]).args(words).output().context("running ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {line}: {}", said.trim());
    Ok(output)
}

/// Names of interfaces have 15 characters at most, and the ends of its cables have one more.
fn bridge(pid: u32, number: u32) -> String {
    format!("ms{pid}{}", ['a', 'b', 'c', 'd'][number as usize % 4])
}

fn remove(spaces: &[String], bridge: &str) {
    for space in spaces {
        let _ = ip(&format!("netns del {space}"));
    }
    let _ = ip(&format!("link del {bridge}"));
}

/// What tests that were killed have left.
fn sweep() {
    let Ok(listed) = ip("netns list") else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let space = line.split(' ').next().unwrap_or_default();
        let Some(rest) = space.strip_prefix(SPACE) else { continue };
        let mut numbers = rest.split('-').map_while(|part| part.parse::<u32>().ok());
        let (Some(pid), Some(number)) = (numbers.next(), numbers.next()) else { continue };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            remove(&[space.to_owned()], &bridge(pid, number));
        }
    }
}
