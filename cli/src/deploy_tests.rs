//! What `deploy/` says holds: the example plan is a plan, with every key and its default; the
//! dashboard and the alert rules name metrics that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use modshift_proto::plan::{Http, Plan};

use crate::daemon::Role;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn read(file: &str) -> String {
    let path = deploy(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Plan {
    let known = ["MODSHIFT_PASSWORD", "ROUTING_TOKEN", "REPLICATION_PASSWORD", "WATCH_PASSWORD"];
    let env = |name: &str| known.contains(&name).then(|| "secret".to_owned());
    Plan::parse(text, &env).unwrap_or_else(|errors| panic!("{errors}"))
}

/// With the target that is left out because of the table that is on every shard, and without that table.
fn with_centre(text: &str) -> String {
    const TABLE: &str = "[[table]]\nname = \"currency\"\nbroadcast = 0\n";
    const TARGET: &str = "#   [[routing]]\n";
    assert!(text.contains(TABLE) && text.matches(TARGET).count() == 1);
    let text = text.replace(TABLE, "");
    let (before, target) = text.split_at(text.find(TARGET).unwrap_or_default());
    before.to_owned() + &target.replace("#   ", "")
}

/// `# key = value` becomes `key = value`, unless the key is one of those that show no default.
fn with_defaults(text: &str) -> String {
    const NO_DEFAULT: [&str; 15] = [
        "guard",
        "application_host",
        "application_port",
        "user",
        "password",
        "password_file",
        "tls_ca",
        "rows_per_s_max",
        "spill_dir",
        "token",
        "token_file",
        "tls_cert",
        "tls_key",
        "replication_password_file",
        "watch_password_file",
    ];
    let uncomment = |line: &str| {
        let Some(rest) = line.strip_prefix("# ") else { return line.to_owned() };
        let Some((key, value)) = rest.split_once(" = ") else { return line.to_owned() };
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let is_value = value.starts_with('"')
            || value.chars().all(|c| c.is_ascii_digit())
            || ["true", "false"].contains(&value);
        match is_key && is_value && !NO_DEFAULT.contains(&key) {
            true => rest.to_owned(),
            false => line.to_owned(),
        }
    };
    text.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_plan_shows_the_true_defaults() {
    let text = read("plan.example.toml");
    let explicit = with_defaults(&text);
    assert_ne!(text.trim_end(), explicit.trim_end());
    let (silent, explicit) = (parse(&text), parse(&explicit));
    // Without an address each daemon has its own port.
    assert_eq!(silent.http, Http::default());
    for (address, role) in [
        (&explicit.http.replicator, Role::Replicator),
        (&explicit.http.consumer, Role::Consumer),
        (&explicit.http.run, Role::Run),
    ] {
        let default = format!("127.0.0.1:{}", role.port());
        assert_eq!(address.as_ref(), Some(&default));
    }
    assert_eq!(silent, Plan { http: Http::default(), ..explicit });
}

#[test]
fn the_example_plan_explains_every_key() {
    let text = read("plan.example.toml");
    // What a plan says in full, plus what it leaves out where it has no value.
    let centred = parse(&with_centre(&text));
    assert_eq!(centred.centres().count(), 1);
    let rendered = [parse(&text), centred].map(|plan| plan.render_redacted()).join("\n");
    let keys =
        rendered.lines().filter_map(|line| Some(line.split_once(" = ")?.0.trim_matches('"')));
    let silent = ["password_file", "tls_ca", "rows_per_s_max", "server_id_base"];
    let control = ["charset", "token", "token_file", "tls_cert", "tls_key"];
    for key in keys.chain(silent).chain(control) {
        let explained = text.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ']);
            line.starts_with(&format!("{key} =")) || line.contains(&format!(", {key},"))
        });
        assert!(explained, "{key} is not in the example plan");
    }
}

/// Names of our metrics in a text, without what a histogram adds to its own.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !word(c)).filter(|name| name.starts_with("modshift_"));
    let bare = |name: &str| {
        let suffix = ["_bucket", "_count", "_sum"].into_iter().find(|end| name.ends_with(end));
        name.strip_suffix(suffix.unwrap_or_default()).unwrap_or(name).to_owned()
    };
    words.map(bare).collect()
}

#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let mut known = BTreeSet::new();
    for source in [
        "../cli/src/metrics.rs",
        "../replicator/src/metrics.rs",
        "../consumer/src/metrics.rs",
        "../verify/src/metrics.rs",
        "../changelog/src/metrics.rs",
        "../cutover/src/metrics.rs",
    ] {
        let quoted = read(source);
        let names = quoted.split('"').filter(|text| text.starts_with("modshift_"));
        known.extend(names.map(str::to_owned));
    }
    assert!(known.len() > 20, "{known:?}");
    for file in ["grafana/modshift.json", "prometheus/modshift.rules.yml"] {
        let unknown: Vec<_> = metrics_in(&read(file)).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let unshown: Vec<_> =
        known.difference(&metrics_in(&read("grafana/modshift.json"))).cloned().collect();
    const NOT_SHOWN: [&str; 7] = [
        "modshift_build_info",
        "modshift_reader_epoch",
        "modshift_snapshot_done",
        "modshift_applied_changes_total",
        "modshift_kafka_queue_full_total",
        // Of a watch that no daemon runs yet.
        "modshift_misroute_gaps_total",
        "modshift_misrouted_rows_total",
    ];
    let unshown: Vec<_> =
        unshown.iter().filter(|name| !NOT_SHOWN.contains(&name.as_str())).collect();
    assert!(unshown.is_empty(), "on no panel: {unshown:?}");
}

#[test]
fn the_dashboard_is_json() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("grafana/modshift.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 20);
}
