//! A plan is read whole or refused with every fault at once.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod fault;
mod peers;
mod promote;
mod read;
mod render;
mod section;
mod shard;

use std::fmt::Write as _;

use modshift_proto::Modulus;
use modshift_proto::plan::{Plan, PlanErrors};

/// Three old shards, four new ones, and a table of each kind.
fn orders() -> String {
    let mut text = r#"
name = "orders"
modulus = { old = 3, new = 4 }

[log]
kind = "kafka"
brokers = "127.0.0.1:9092"

[defaults]
user = "modshift"
password = "${MODSHIFT_PASSWORD}"
tls = "off"

[[table]]
name = "t_trade_order"
key = "accountNo"
rule = "floor_mod"

[[table]]
name = "t_user"
key = "login"
rule = "crc32"
charset = "utf8mb4"

[[table]]
name = "t_currency"
broadcast = 0

[gate]
max_lag = "1s"
hold = "10s"

[check]
ignore = ["tmp_*"]
"#
    .to_owned();
    for (side, shards, port) in [("old", 3, 3311), ("new", 4, 3321)] {
        for shard in 0..shards {
            let port = port + shard;
            write!(
                text,
                "\n[[{side}]]\nhost = \"127.0.0.1\"\nport = {port}\nschema = \"trade_{shard}\"\n"
            )
            .unwrap();
        }
    }
    text
}

fn env(name: &str) -> Option<String> {
    (name == "MODSHIFT_PASSWORD").then(|| "s3cret \"quoted\"".to_owned())
}

fn parse(text: &str) -> Result<Plan, PlanErrors> {
    Plan::parse(text, &env)
}

/// The plan of `orders` with one text in place of another.
fn changed(from: &str, to: &str) -> String {
    let text = orders();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

/// Every fault of a plan, a line each, `line:column: path: message`.
fn check(text: &str, expected: &[&str]) {
    let found = match parse(text) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    };
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found, expected, "of\n{text}");
}

/// One fault, whatever its place.
fn check_change(from: &str, to: &str, expected: &str) {
    let errors = parse(&changed(from, to)).expect_err(to);
    let found: Vec<String> =
        errors.faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    assert_eq!(found, [expected], "of {to}");
}

fn modulus(shards: u16) -> Modulus {
    Modulus::new(shards).unwrap()
}
