//! `make bench`: see `modshift_tests::bench`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use modshift_tests::bench::{self, BenchOptions};

const USAGE: &str =
    "usage: bench [--scale 0.1] [--only reader,drain,latency,cutover,verify] [--json FILE]";

struct Arguments {
    options: BenchOptions,
    json: String,
}

fn arguments() -> Result<Arguments> {
    let mut options = BenchOptions { scale: 1.0, only: Vec::new() };
    let mut json = "target/bench.json".to_owned();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--scale" => options.scale = value()?.parse()?,
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--json" => json = value()?,
            _ => bail!("unknown argument {arg}\n{USAGE}"),
        }
    }
    Ok(Arguments { options, json })
}

async fn measure(arguments: Arguments) -> Result<()> {
    if cfg!(debug_assertions) {
        bail!("this is a debug build: `make bench` builds what is to be measured");
    }
    let results = bench::run(&arguments.options).await?;
    println!("\n{results}");
    let json = serde_json::to_string_pretty(&results)?;
    std::fs::write(&arguments.json, json).with_context(|| format!("writing {}", arguments.json))?;
    println!("{}", arguments.json);
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match arguments() {
        Ok(arguments) => measure(arguments).await,
        Err(error) => {
            eprintln!("bench: {error:#}");
            return ExitCode::from(3);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
