//! The daemons of an estate, started and stopped together: consumer and replicator over Kafka, `run`
//! in one process otherwise.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Estate, Modshift, process::Launch};

#[derive(Debug)]
pub struct Daemons(Vec<(&'static str, Modshift)>);

impl Daemons {
    pub fn start(estate: &Estate) -> Result<Self> {
        Self::start_with(estate, |launch| launch)
    }

    /// Each with further arguments or environment.
    pub fn start_with(estate: &Estate, adjust: impl Fn(Launch) -> Launch) -> Result<Self> {
        let roles: &[&str] =
            if estate.broker.is_some() { &["consumer", "replicator"] } else { &["run"] };
        let start = |&role: &&'static str| {
            let launch = estate.modshift([role, "--listen", "127.0.0.1:0"]);
            Ok((role, adjust(launch).start()?))
        };
        Ok(Self(roles.iter().map(start).collect::<Result<_>>()?))
    }

    /// The one that reads old shards.
    pub fn reader(&self) -> Result<&Modshift> {
        self.of("replicator")
    }

    /// The one that applies to new shards.
    pub fn applier(&self) -> Result<&Modshift> {
        self.of("consumer")
    }

    fn of(&self, role: &str) -> Result<&Modshift> {
        let found = self.0.iter().find(|(name, _)| *name == role || *name == "run");
        found.map(|(_, daemon)| daemon).with_context(|| format!("no {role} was started"))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Modshift> {
        self.0.iter().map(|(_, daemon)| daemon)
    }

    pub fn output(&self) -> String {
        self.iter().map(Modshift::output).collect::<Vec<_>>().join("\n")
    }

    /// SIGTERM, one after the other: what is sent first is still applied.
    pub async fn stop(&self, limit: Duration) -> Result<()> {
        for (role, daemon) in self.0.iter().rev() {
            let code = daemon.stop(limit).await?;
            ensure!(code == 0, "modshift {role} ended with {code}:\n{}", daemon.output());
        }
        Ok(())
    }
}
