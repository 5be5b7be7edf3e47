//! Alerts, on the series that daemons really show: each fires when what it is about goes bad, and none
//! behind a cutover.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use modshift_tests::{Estate, EstateOptions, Modshift, case::Size, process::http_get, wait_until};

use crate::{LIMIT, address, deploy, named, passes, read};

/// What one daemon shows: each series as it stands, with its value, and Prometheus' own labels.
fn series(job: &str, text: &str) -> Vec<(String, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let of = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let own = format!("job=\"modshift-{job}\", instance=\"{job}:1\"");
        let name = match name.split_once('{') {
            Some((name, labels)) => format!("{name}{{{own}, {labels}"),
            None => format!("{name}{{{own}}}"),
        };
        Some((name, value.parse().ok()?))
    };
    lines.filter_map(of).collect()
}

/// What grows with the shards, the streams or the tables must not grow with their product: a gauge
/// for each stream, or each table of a shard, is the most.
fn affordable(text: &str) -> Result<()> {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let has = |label: &&&str| line.contains(&format!("{label}=\""));
        let by = ["source", "target", "table"].iter().filter(has).count();
        let several = ["{le=\"", ",le=\"", "_total{"].iter().any(|part| line.contains(part));
        ensure!(by <= if several { 1 } else { 2 }, "a product of labels: {line}");
    }
    Ok(())
}

pub async fn all_series(daemons: &[(&str, &Modshift)]) -> Result<Vec<(String, f64)>> {
    let mut found = Vec::new();
    for (job, daemon) in daemons {
        let (status, text) = http_get(&format!("{}/metrics", address(daemon).await?)).await?;
        ensure!(status == 200, "/metrics answered {status}");
        affordable(&text)?;
        found.extend(series(job, &text));
    }
    // What no rule asks for only makes the test slow.
    let rules = named(&read("prometheus/modshift.rules.yml")?);
    found.retain(|(name, _)| name.split('{').next().is_some_and(|name| rules.contains(name)));
    Ok(found)
}

/// What each alert is about: a metric that goes bad, and how, after five quiet minutes in steps of 15 s.
const GOES_BAD: [(&str, &str, &str); 26] = [
    ("ModshiftDown", "up", "1x20 0x100"),
    ("ModshiftStreamHalted", "modshift_streams", "0x20 1x100"),
    ("ModshiftStreamTaken", "modshift_streams", "0x20 1x100"),
    ("ModshiftLoginRefused", "modshift_logins_refused", "0x20 1x100"),
    ("ModshiftRowsDiffer", "modshift_verify_mismatches_total", "0x20 1x100"),
    ("ModshiftRowsDiffer", "modshift_gate_closed_by", "0x20 1x100"),
    ("ModshiftRepairRefused", "modshift_gate_closed_by", "0x20 1x100"),
    ("ModshiftPaused", "modshift_throttle_paused", "0x20 1x600"),
    ("ModshiftNeitherSideServes", "modshift_serving", "1x20 0x100"),
    ("ModshiftRunLeft", "modshift_run_left", "0x20 1x100"),
    ("ModshiftShardUnreachable", "modshift_shard_reachable", "1x20 0x100"),
    ("ModshiftVerifierStopped", "modshift_verifier_stopped", "0x20 1x100"),
    ("ModshiftGroupSkipped", "modshift_groups_skipped_total", "0x20 1x100"),
    ("ModshiftFenceOpen", "modshift_fence_open", "0x20 1x100"),
    ("ModshiftFenceRestored", "modshift_fence_restored_total", "0x20 1x100"),
    ("ModshiftLagHigh", "modshift_lag_seconds", "0x20 60x100"),
    ("ModshiftReadLagHigh", "modshift_read_lag_seconds", "0x20 60x100"),
    ("ModshiftLagCritical", "modshift_lag_seconds", "0x20 7200x100"),
    ("ModshiftLagCritical", "modshift_read_lag_seconds", "0x20 7200x100"),
    ("ModshiftRowsParked", "modshift_parked_rows", "0x20 3x100"),
    ("ModshiftRetrying", "modshift_retries_total", "0x20 0+10x100"),
    ("ModshiftRetrying", "modshift_apply_retries_total", "0x20 0+10x100"),
    ("ModshiftSnapshotStalled", "modshift_snapshot_done", "1x20 0x100"),
    ("ModshiftWatchdogActed", "modshift_watchdog_ended_total", "0x20 1x100"),
    ("ModshiftWatchdogUnready", "modshift_watchdog_ready", "1x20 0x100"),
    ("ModshiftGateClosedAgain", "modshift_gate_open", "1x20 0x100"),
];

/// Each alert fires on the series that daemons really show, when they go bad, and not before.
pub fn alerts_fire_on(shown: &[(String, f64)], dir: &std::path::Path) -> Result<()> {
    let rules = read("prometheus/modshift.rules.yml")?;
    for line in rules.lines() {
        let Some((_, alert)) = line.split_once("- alert: ") else { continue };
        ensure!(GOES_BAD.iter().any(|bad| bad.0 == alert), "nothing makes {alert} fire");
    }
    let mut shown = shown.to_vec();
    // Whether a plan lets the daemons end a run is its own affair, and is for `check` to say.
    let of_plan = |(name, _): &&mut (String, f64)| name.starts_with("modshift_watchdog_ready");
    shown.iter_mut().filter(of_plan).for_each(|(_, value)| *value = 1.0);
    // Of Prometheus itself.
    shown.push(("up{job=\"modshift-consumer\", instance=\"consumer:1\"}".to_owned(), 1.0));
    let mut text = format!(
        "rule_files:\n  - {}\nevaluation_interval: 15s\ntests:\n",
        deploy("prometheus/modshift.rules.yml").display()
    );
    for (alert, metric, values) in GOES_BAD {
        let of = |name: &str| name.split('{').next() == Some(metric);
        ensure!(shown.iter().any(|(name, _)| of(name)), "{alert}: no daemon shows {metric}");
        text.push_str(&format!(
            "  - name: {alert} by {metric}\n    interval: 15s\n    input_series:\n"
        ));
        for (name, value) in &shown {
            let values = match of(name) {
                true => values.to_owned(),
                false => format!("{value}x120"),
            };
            text.push_str(&format!("      - series: '{name}'\n        values: '{values}'\n"));
        }
        text.push_str("    promql_expr_test:\n");
        // Hours are what makes that one.
        let late = if alert == "ModshiftPaused" { 150 } else { 18 };
        for (minute, fires) in [(4, 0), (late, 1)] {
            let expr = format!(
                "count(count by (alertname) (ALERTS{{alertname=\"{alert}\", \
                 alertstate=\"firing\"}})) or vector(0)"
            );
            text.push_str(&format!(
                "      - expr: '{expr}'\n        eval_time: {minute}m\n        exp_samples:\n          \
                 - labels: '{{}}'\n            value: {fires}\n"
            ));
        }
    }
    // And nothing fires on an estate where all is well.
    text.push_str("  - name: quiet\n    interval: 15s\n    input_series:\n");
    for (name, value) in &shown {
        text.push_str(&format!("      - series: '{name}'\n        values: '{value}x120'\n"));
    }
    text.push_str(
        "    promql_expr_test:\n      - expr: 'count(ALERTS) or vector(0)'\n        eval_time: 29m\n\
         \x20       exp_samples:\n          - labels: '{}'\n            value: 0\n",
    );
    let file = dir.join("alerts.test.yml");
    std::fs::write(&file, text)?;
    passes("promtool", &["test", "rules", &file.display().to_string()]).map(drop)
}

/// Scrapes behind the cutover: a rule that is true there is pending at once.
const FOLLOWED: usize = 12;

/// What Prometheus would have seen of a cutover: a scrape of each moment, as if 15 s lay between them.
#[derive(Default)]
struct Scraped(BTreeMap<String, Vec<Option<f64>>>, usize);

impl Scraped {
    async fn scrape(&mut self, daemon: &Modshift) -> Result<()> {
        let found = all_series(&[("run", daemon)]).await?;
        let up = ("up{job=\"modshift-run\", instance=\"run:1\"}".to_owned(), 1.0);
        for (name, value) in found.into_iter().chain([up]) {
            let values = self.0.entry(name).or_default();
            values.resize(self.1, None);
            values.push(Some(value));
        }
        self.1 += 1;
        Ok(())
    }

    /// It is firing at the last scrape, and was not at this one.
    fn ensure_fires(&self, alert: &str, first: usize, dir: &std::path::Path) -> Result<()> {
        let mut text = self.input();
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        for (scrape, fires) in [(first, 0), (self.1 - 1, 1)] {
            text.push_str(&format!(
                "      - expr: 'count(count by (alertname) ({firing})) or vector(0)'\n        \
                 eval_time: {}s\n        exp_samples:\n          - labels: '{{}}'\n            \
                 value: {fires}\n",
                15 * scrape
            ));
        }
        let file = dir.join("fires.test.yml");
        std::fs::write(&file, text)?;
        passes("promtool", &["test", "rules", &file.display().to_string()]).map(drop)
    }

    /// The beginning of a test: the series, up to what is expected of them.
    fn input(&self) -> String {
        let mut text = format!(
            "rule_files:\n  - {}\nevaluation_interval: 15s\ntests:\n  - interval: 15s\n    \
             input_series:\n",
            deploy("prometheus/modshift.rules.yml").display()
        );
        // Whether a plan lets the daemons end a run is for `check` to say.
        let series = self.0.iter().filter(|(name, _)| !name.starts_with("modshift_watchdog_ready"));
        for (name, values) in series {
            let shown =
                |value: &Option<f64>| value.map_or("_".to_owned(), |value| value.to_string());
            let values: Vec<String> = values.iter().map(shown).collect();
            let values = values.join(" ");
            text.push_str(&format!("      - series: '{name}'\n        values: '{values}'\n"));
        }
        text.push_str("    promql_expr_test:\n");
        text
    }

    /// No alert at any scrape from this one on, pending ones included.
    fn ensure_quiet_from(&self, first: usize, dir: &std::path::Path) -> Result<()> {
        let mut text = self.input();
        for scrape in first..self.1 {
            text.push_str(&format!(
                "      - expr: 'count by (alertname) (ALERTS)'\n        eval_time: {}s\n        \
                 exp_samples: []\n",
                15 * scrape
            ));
        }
        let file = dir.join("followed.test.yml");
        std::fs::write(&file, text)?;
        passes("promtool", &["test", "rules", &file.display().to_string()]).map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_alert_is_pending_behind_a_cutover() -> Result<()> {
    let options = EstateOptions {
        size: Size::rows(300),
        gate: ("5s".to_owned(), "500ms".to_owned()),
        verify_age: "1h".to_owned(),
        plan_tail: "[verify]\ncontinuous = true\n[cutover]\nbudget = \"60s\"\n".to_owned(),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 3, options).await?;
    for shard in &estate.new {
        shard.server.run("SET GLOBAL read_only = 1").await?;
    }
    let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    let (code, output) = estate.modshift(["gate", "--wait", "60s"]).finish(LIMIT * 2).await?;
    ensure!(code == 0, "{output}\n{}", daemon.output());
    let mut scraped = Scraped::default();
    let serving = |side: &str| {
        let line = format!("modshift_serving{{side=\"{side}\"}} 1");
        let page = async { http_get(&format!("{}/metrics", address(&daemon).await?)).await };
        async move { Ok(page.await?.1.contains(&line).then_some(())) }
    };
    // The gate of the daemon has been open, and closes for good.
    wait_until("the daemon's gate", LIMIT, || async {
        let page = http_get(&format!("{}/metrics", address(&daemon).await?)).await?.1;
        Ok(page.contains("modshift_gate_open 1").then_some(()))
    })
    .await?;
    wait_until("the old side to serve", LIMIT, || serving("old")).await?;
    scraped.scrape(&daemon).await?;
    let (code, output) = estate.modshift(["cutover", "--wait", "60s"]).finish(LIMIT * 2).await?;
    ensure!(code == 0, "{output}\n{}", daemon.output());
    wait_until("the new side to serve", LIMIT, || serving("new")).await?;
    let first = scraped.1;
    for _ in 0..FOLLOWED {
        scraped.scrape(&daemon).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    scraped.ensure_quiet_from(first, estate.dir())?;

    // And one that breaks is seen at once: the lag of its reader, which only tries to connect, grows.
    estate.old[1].server.kill()?;
    let seen = std::cell::RefCell::new(String::new());
    let lag = async || {
        let page = http_get(&format!("{}/metrics", address(&daemon).await?)).await?.1;
        seen.replace(page.lines().filter(|line| line.contains("read_lag")).collect());
        let of = ["modshift_read_lag_seconds{", "source=\"1\"", "direction=\"forward\""];
        let line = page.lines().find(|line| of.iter().all(|part| line.contains(part)));
        let value = line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        anyhow::Ok(value.unwrap_or_default())
    };
    wait_until("the read lag to grow", LIMIT, || async { Ok((lag().await? > 8.0).then_some(())) })
        .await
        .with_context(|| format!("{}\n{}", seen.borrow(), daemon.last_words(30)))?;
    let first = scraped.1;
    for _ in 0..6 {
        scraped.scrape(&daemon).await?;
    }
    scraped.ensure_fires("ModshiftShardUnreachable", first, estate.dir())
}
