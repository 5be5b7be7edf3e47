//! An estate whose application has an account of its own, and follows the routing.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::Plan;
use modshift_routing::{Document, Side, Source};
use modshift_tests::{
    Estate, EstateOptions, Log, Modshift, Writer, WriterOptions, case::Size, server::PASSWORD,
    writer::Follow,
};

pub const LIMIT: Duration = Duration::from_secs(180);
pub const APP: &str = "app";

pub struct Site {
    pub estate: Estate,
    pub routing: PathBuf,
}

impl Site {
    /// The new shards are in read_only, as they should be until they are opened.
    pub async fn start(old: usize, new: usize, log: Log, seed: u64, budget: &str) -> Result<Self> {
        Self::start_with(old, new, log, seed, budget, &format!("\"{APP}@%\"")).await
    }

    /// The same with other accounts for the fence, as in the plan.
    pub async fn start_with(
        old: usize,
        new: usize,
        log: Log,
        seed: u64,
        budget: &str,
        accounts: &str,
    ) -> Result<Self> {
        let options = EstateOptions {
            log,
            seed,
            size: Size::rows(2_000),
            gate: ("5s".to_owned(), "500ms".to_owned()),
            plan_tail: format!(
                "[reader]\nheartbeat = \"50ms\"\nprogress_interval = \"100ms\"\n\n\
                 [cutover]\naccounts = [{accounts}]\nbudget = \"{budget}\"\n\n\
                 [[routing]]\nkind = \"file\"\npath = \"routing.json\"\n"
            ),
            ..EstateOptions::default()
        };
        let estate = Estate::start(old, new, options).await?;
        for shard in estate.old.iter().chain(&estate.new) {
            let server = &shard.server;
            server.run(format!("CREATE USER {APP}@'%' IDENTIFIED BY '{APP}'")).await?;
            server
                .run(format!(
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON `{}`.* TO {APP}@'%'",
                    shard.schema.replace('_', "\\_")
                ))
                .await?;
        }
        for shard in &estate.new {
            shard.server.run("SET GLOBAL read_only = 1").await?;
        }
        let routing = estate.dir().join("routing.json");
        let site = Self { estate, routing };
        let document = Document::of_plan(&site.plan()?, Side::Old, 1);
        std::fs::write(&site.routing, document.to_json()).context("writing the routing")?;
        Ok(site)
    }

    pub fn plan(&self) -> Result<Plan> {
        let env = |name: &str| (name == "MODSHIFT_PASSWORD").then(|| PASSWORD.to_owned());
        Plan::parse(&self.estate.plan(), &env).map_err(|errors| anyhow::anyhow!("{errors}"))
    }

    /// An application that makes refused transactions again where the routing says.
    pub async fn writer(&self, seed: u64, rate: f64) -> Result<Writer> {
        let options = WriterOptions {
            seed,
            connections: 6,
            rate: Some(rate),
            giants: None,
            ..WriterOptions::default()
        };
        let source = Source::File(self.routing.clone());
        let follow = Follow {
            user: APP.to_owned(),
            password: APP.to_owned(),
            other_modulus: Some(self.estate.new.len()),
            ..Follow::new(source)
        };
        Writer::follow(options, follow).await
    }

    pub fn daemons(&self) -> Result<Vec<Modshift>> {
        let roles: &[&str] =
            if self.estate.broker.is_some() { &["consumer", "replicator"] } else { &["run"] };
        let start = |role: &&str| self.estate.modshift([*role, "--listen", "127.0.0.1:0"]).start();
        roles.iter().map(start).collect()
    }

    /// A command of the operator; fails unless it ends with one of these codes.
    pub async fn command(&self, args: &[&str], codes: &[i32]) -> Result<String> {
        let launch = self.estate.modshift(args.iter().copied());
        let (code, output) = launch.finish(LIMIT).await?;
        println!("$ modshift {}\n{output}\n=> {code}", args.join(" "));
        ensure!(codes.contains(&code), "modshift {} ended with {code}:\n{output}", args.join(" "));
        Ok(output)
    }

    /// What `status` says of who serves.
    pub async fn serves(&self) -> Result<String> {
        let launch = self.estate.modshift(["status", "--json"]);
        let (code, output) = launch.finish(LIMIT).await?;
        let line = output.lines().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("status ended with {code}:\n{output}"))?;
        let status: serde_json::Value = serde_json::from_str(line)?;
        Ok(status["serves"]["side"].as_str().unwrap_or_default().to_owned())
    }
}

pub fn says(daemons: &[Modshift]) -> String {
    daemons.iter().map(|daemon| daemon.last_words(60)).collect::<Vec<_>>().join("\n")
}
