//! `make demo`: see `modshift_tests::demo`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use modshift_tests::demo::{self, DemoOptions};

const USAGE: &str = "usage: demo [--kafka] [--rows N] [--rate TPS] [--old N] [--new M] [--seed N]";

fn options() -> Result<DemoOptions> {
    let mut options = DemoOptions::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--kafka" => options.kafka = true,
            "--rows" => options.rows = value()?.parse()?,
            "--rate" => options.rate = value()?.parse()?,
            "--old" => options.old = value()?.parse()?,
            "--new" => options.new = value()?.parse()?,
            "--seed" => options.seed = value()?.parse()?,
            _ => bail!("unknown argument {arg}\n{USAGE}"),
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match options() {
        Ok(options) => demo::run(options).await,
        Err(error) => {
            eprintln!("demo: {error:#}");
            return ExitCode::from(3);
        }
    };
    match outcome {
        Ok(summary) => {
            println!("\n{summary}");
            if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
