//! The effective plan as TOML: defaults filled in, secrets redacted.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use toml::Value;

use super::cutover::{AUTO_INCREMENT_WORDS, FENCE_WORDS};
use super::endpoint::TLS_WORDS;
use super::log::COMPRESSION_WORDS;
use super::quantity::{format_duration, format_size};
use super::{Endpoint, Log, Placement, Plan, control, peers, rehearse, scheme, throttle, topology};
use crate::rule::ShardRule;

/// Stands for every secret, and reads as a password that no one has.
pub(super) const REDACTED: &str = "<redacted>";

impl Plan {
    /// The plan as it is understood. Reads back as the same plan, secrets aside.
    pub fn render_redacted(&self) -> String {
        let mut out = Rendered(String::new());
        out.text("name", &self.name);
        let (old, new) = (self.old_modulus, self.new_modulus);
        out.line("modulus", format_args!("{{ old = {old}, new = {new} }}"));
        scheme::render(self.scheme, &mut out);
        self.render_log(&mut out);
        for (key, shards) in [("old", &self.old), ("new", &self.new)] {
            shards.iter().for_each(|shard| render_endpoint(key, shard, &mut out));
        }
        for table in &self.tables {
            out.head("[[table]]");
            out.text("name", &table.name);
            match &table.placement {
                Placement::Broadcast { source } => out.line("broadcast", source.0),
                Placement::Sharded { key, rule } => {
                    out.text("key", key);
                    out.text("rule", rule.name());
                    if let ShardRule::Crc32 { charset } = rule {
                        out.text("charset", charset.name());
                    }
                }
            }
        }
        self.render_policies(&mut out);
        super::routing::render(&self.routing, &mut out);
        out.0
    }

    fn render_log(&self, out: &mut Rendered) {
        out.head("[log]");
        match &self.log {
            Log::Direct { buffer_bytes } => {
                out.text("kind", "direct");
                out.size("buffer_bytes", *buffer_bytes);
            }
            Log::Kafka(kafka) => {
                out.text("kind", "kafka");
                out.text("brokers", &kafka.brokers);
                out.text("topic", &kafka.topic);
                out.line("replication", kafka.replication);
                out.line("min_insync", kafka.min_insync);
                out.text("retention", &format_duration(kafka.retention));
                out.size("message_bytes_max", kafka.message_bytes_max);
                out.text("compression", word(&COMPRESSION_WORDS, kafka.compression));
                out.size("buffer_bytes", kafka.buffer_bytes);
                if !kafka.properties.is_empty() {
                    out.head("[log.properties]");
                }
                for (name, _) in &kafka.properties {
                    // Unquoted, the dots would make tables of it.
                    out.text(&format!("\"{name}\""), REDACTED);
                }
            }
        }
    }

    fn render_policies(&self, out: &mut Rendered) {
        if !self.scheme.is_promotion() {
            self.render_snapshot(out);
        }
        out.head("[limits]");
        out.line("connections_per_server", self.limits.connections_per_server);
        out.head("[reader]");
        out.text("heartbeat", &format_duration(self.reader.heartbeat));
        out.text("heartbeat_copying", &format_duration(self.reader.heartbeat_copying));
        out.text("progress_interval", &format_duration(self.reader.progress_interval));
        if let Some(dir) = &self.reader.spill_dir {
            out.text("spill_dir", &dir.display().to_string());
        }
        out.size("spill_max", self.reader.spill_max);
        out.head("[apply]");
        out.line("batch_rows", self.apply.batch_rows);
        out.size("batch_bytes", self.apply.batch_bytes);
        out.text("batch_age", &format_duration(self.apply.batch_age));
        out.text("parked_age_max", &format_duration(self.apply.parked_age_max));
        out.line("parked_rows_max", self.apply.parked_rows_max);
        out.head("[gate]");
        out.text("max_lag", &format_duration(self.gate.max_lag));
        out.line("max_lag_groups", self.gate.max_lag_groups);
        out.text("hold", &format_duration(self.gate.hold));
        match self.gate.verify_age {
            Some(age) => out.text("verify_age", &format_duration(age)),
            None => out.text("verify_age", "none"),
        }
        self.render_cutover(out);
        out.head("[verify]");
        out.line("continuous", self.verify.continuous);
        match self.verify.rows_per_s_max {
            Some(rows) => out.line("rows_per_s_max", rows),
            None => out.0.push_str("# rows_per_s_max is not configured\n"),
        }
        out.text("chunk_time", &format_duration(self.verify.chunk_time));
        out.line("chunk_rows_max", self.verify.chunk_rows_max);
        out.text("settle_max", &format_duration(self.verify.settle_max));
        out.line("changed_keys_max", self.verify.changed_keys_max);
        out.head("[check]");
        let ignore: Vec<String> = self.check.ignore.iter().map(|text| quote(text)).collect();
        out.line("ignore", format_args!("[{}]", ignore.join(", ")));
        out.line("accept_unsafe_durability", self.check.accept_unsafe_durability);
        out.line("accept_session_binlog_control", self.check.accept_session_binlog_control);
        let meeting: Vec<String> =
            self.check.accept_meeting.iter().map(|text| quote(text)).collect();
        out.line("accept_meeting", format_args!("[{}]", meeting.join(", ")));
        out.head("[back]");
        out.line("enabled", self.back.enabled);
        match self.back.verify_age {
            Some(age) => out.text("verify_age", &format_duration(age)),
            None => out.text("verify_age", "none"),
        }
        out.head("[http]");
        let http = &self.http;
        for (key, address) in
            [("replicator", &http.replicator), ("consumer", &http.consumer), ("run", &http.run)]
        {
            if let Some(address) = address {
                out.text(key, address);
            }
        }
        throttle::render(&self.throttle, out);
        control::render(&self.control, out);
        rehearse::render(self.rehearse.as_ref(), out);
        topology::render(self.topology.as_ref(), out);
    }
}

impl Plan {
    fn render_snapshot(&self, out: &mut Rendered) {
        out.head("[snapshot]");
        out.text("chunk_time", &format_duration(self.snapshot.chunk_time));
        out.line("chunk_rows_max", self.snapshot.chunk_rows_max);
        out.size("chunk_bytes_max", self.snapshot.chunk_bytes_max);
        out.line("parallel", self.snapshot.parallel);
        out.line("touched_keys_max", self.snapshot.touched_keys_max);
        out.text("xa_grace", &format_duration(self.snapshot.xa_grace));
    }

    fn render_cutover(&self, out: &mut Rendered) {
        let cutover = &self.cutover;
        out.head("[cutover]");
        for (key, accounts) in
            [("old_accounts", &cutover.old_accounts), ("new_accounts", &cutover.new_accounts)]
        {
            let accounts: Vec<_> = accounts.iter().map(|name| quote(&name.to_string())).collect();
            out.line(key, format_args!("[{}]", accounts.join(", ")));
        }
        if let Some((user, _)) = &cutover.login {
            out.text("user", user);
            out.text("password", REDACTED);
        }
        out.text("fence", word(&FENCE_WORDS, cutover.scope));
        out.text("budget", &format_duration(cutover.budget));
        out.line("watchdog", cutover.watchdog);
        out.text("auto_increment", word(&AUTO_INCREMENT_WORDS, cutover.auto_increment));
    }
}

pub(super) fn render_endpoint(key: &str, endpoint: &Endpoint, out: &mut Rendered) {
    out.head(&format!("[[{key}]]"));
    out.text("host", &endpoint.host);
    out.line("port", endpoint.port);
    out.text("schema", &endpoint.schema);
    out.text("user", &endpoint.user);
    out.text("password", REDACTED);
    out.text("tls", word(&TLS_WORDS, endpoint.tls));
    if let Some(file) = &endpoint.tls_ca {
        out.text("tls_ca", &file.to_string_lossy());
    }
    out.line("replica_server_id", endpoint.replica_server_id);
    if !endpoint.replicas.is_empty() {
        let replicas: Vec<String> =
            endpoint.replicas.iter().map(|server| quote(&server.to_string())).collect();
        out.line("replicas", format_args!("[{}]", replicas.join(", ")));
    }
    if let Some(server) = &endpoint.read_from {
        out.text("read_from", &server.to_string());
    }
    if let Some(server) = &endpoint.application {
        out.text("application_host", &server.host);
        out.line("application_port", server.port);
    }
    peers::render(key, endpoint.peers.as_ref(), out);
}

pub(super) fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|&&(_, known)| known == value).map_or("", |&(word, _)| word)
}

/// A TOML string that reads back as the text, `${` included.
fn quote(text: &str) -> String {
    Value::String(text.replace("${", "$${")).to_string()
}

/// TOML text under construction.
pub(super) struct Rendered(String);

impl Rendered {
    pub(super) fn head(&mut self, head: &str) {
        self.0.push('\n');
        self.0.push_str(head);
        self.0.push('\n');
    }

    pub(super) fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    pub(super) fn comment(&mut self, text: &str) {
        let _ = writeln!(self.0, "# {text}");
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.line(key, quote(value));
    }

    fn size(&mut self, key: &str, bytes: usize) {
        self.text(key, &format_size(bytes as u64));
    }

    pub(super) fn texts(&mut self, key: &str, values: &[String]) {
        let values: Vec<String> = values.iter().map(|text| quote(text)).collect();
        self.line(key, format_args!("[{}]", values.join(", ")));
    }

    pub(super) fn duration(&mut self, key: &str, value: Duration) {
        self.text(key, &format_duration(value));
    }

    pub(super) fn file(&mut self, key: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.text(key, &path.to_string_lossy());
        }
    }
}
