//! What a daemon says of itself over HTTP while it lives.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::process::{Modshift, http_get};

const LIMIT: Duration = Duration::from_secs(60);

/// Messages that the appliers dropped, by reason: `position` (replayed), `number` (repeated) or
/// `epoch` (of a reader that was replaced).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped(pub BTreeMap<String, u64>);

impl Dropped {
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn of(&self, reason: &str) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    /// Of the way from old to new. Counters of one process begin at zero: what several had counted adds up.
    pub fn add(&mut self, other: &Self) {
        for (reason, count) in &other.0 {
            *self.0.entry(reason.clone()).or_default() += count;
        }
    }

    fn parse(page: &str) -> Self {
        let mut dropped = Self::default();
        for line in page.lines() {
            let Some(rest) = line.strip_prefix("modshift_apply_dropped_total{") else { continue };
            let Some((labels, value)) = rest.rsplit_once('}') else { continue };
            if labels.contains("direction=\"back\"") {
                continue;
            }
            let reason = labels.split("reason=\"").nth(1).and_then(|text| text.split('"').next());
            let (Some(reason), Ok(count)) = (reason, value.trim().parse::<f64>()) else { continue };
            *dropped.0.entry(reason.to_owned()).or_default() += count as u64;
        }
        dropped
    }
}

/// The address on which a daemon started with `--listen 127.0.0.1:0` answers.
pub async fn address(daemon: &Modshift) -> Result<String> {
    let line = daemon.wait_line(" address=", LIMIT).await?;
    let address = line.split(" address=").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(address.context("no address in the line")?.to_owned())
}

/// `/metrics` of a daemon. A counter that is new shows 0 at its first scrape, so that its first event
/// counts as an increase: what it counts is on the second page.
pub async fn metrics(daemon: &Modshift) -> Result<String> {
    let url = format!("http://{}/metrics", address(daemon).await?);
    http_get(&url).await?;
    let (code, page) = http_get(&url).await?;
    ensure!(code == 200, "{url} answered {code}:\n{page}");
    Ok(page)
}

/// What its appliers have dropped so far.
pub async fn dropped(daemon: &Modshift) -> Result<Dropped> {
    Ok(Dropped::parse(&metrics(daemon).await?))
}

/// `/status` of a daemon.
pub async fn status(daemon: &Modshift) -> Result<serde_json::Value> {
    let url = format!("http://{}/status", address(daemon).await?);
    let (code, page) = http_get(&url).await?;
    ensure!(code == 200, "{url} answered {code}:\n{page}");
    serde_json::from_str(&page).with_context(|| format!("{url}: {page}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_added_up_by_reason() {
        let page = "# TYPE modshift_apply_dropped_total counter\n\
            modshift_apply_dropped_total{target=\"0\",reason=\"position\"} 12\n\
            modshift_apply_dropped_total{target=\"1\",reason=\"position\"} 3\n\
            modshift_apply_dropped_total{target=\"1\",reason=\"epoch\"} 1\n\
            modshift_applied_changes_total{target=\"0\"} 99\n";
        let dropped = Dropped::parse(page);
        assert_eq!((dropped.of("position"), dropped.of("epoch"), dropped.total()), (15, 1, 16));
    }
}
