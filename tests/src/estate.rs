//! A whole set-up: old shards with the case on them, new shards, a plan, and perhaps a broker.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    application::{APP, create_account},
    case::{self, Size},
    neighbour::Neighbour,
    oracle::Oracle,
    place::RunDir,
    process::Launch,
    rule::TableRule,
    server::{
        ADMIN, Address, KafkaBroker, KafkaOptions, MariaDbOptions, MariaDbServer, PASSWORD, Proxy,
    },
    writer::Routes,
};

#[derive(Clone, Debug)]
pub enum Log {
    Direct,
    Kafka(KafkaOptions),
}

impl Log {
    pub fn kafka() -> Self {
        Self::Kafka(KafkaOptions::default())
    }
}

type Adjust = Arc<dyn Fn(usize, MariaDbOptions) -> MariaDbOptions + Send + Sync>;

#[derive(Clone)]
pub struct EstateOptions {
    pub name: String,
    pub log: Log,
    pub size: Size,
    pub seed: u64,
    /// The plan reaches the servers through proxies; the writer and the oracle never do.
    pub proxies: bool,
    /// Creates the tables on the new shards, where the test does not let the product do it.
    pub create_new_tables: bool,
    /// All shards of a side are schemas of one server.
    pub one_server_a_side: bool,
    /// Turns the usual options of an old server into others.
    pub old_options: Adjust,
    pub new_options: Adjust,
    /// `[gate]` of the plan: `max_lag` and `hold`.
    pub gate: (String, String),
    /// `gate.verify_age`: most tests are not about proofs, and give them up as a plan has to.
    pub verify_age: String,
    /// Further TOML at the end of the plan.
    pub plan_tail: String,
    /// Others write on the same servers, in a schema of their own.
    pub neighbours: bool,
}

impl Default for EstateOptions {
    fn default() -> Self {
        Self {
            name: "orders".to_owned(),
            log: Log::Direct,
            size: Size::rows(10_000),
            seed: 1,
            proxies: false,
            create_new_tables: true,
            one_server_a_side: false,
            old_options: Arc::new(|_, options| options),
            new_options: Arc::new(|_, options| options),
            gate: ("1s".to_owned(), "2s".to_owned()),
            verify_age: "none".to_owned(),
            plan_tail: String::new(),
            neighbours: true,
        }
    }
}

/// A server with its shard, and the proxy that the product reaches it by.
#[derive(Clone, Debug)]
pub struct Shard {
    pub server: Arc<MariaDbServer>,
    pub proxy: Option<Arc<Proxy>>,
    pub schema: String,
}

impl Shard {
    /// Straight to the server.
    pub fn address(&self) -> Address {
        self.server.address().with_schema(&self.schema)
    }

    /// The way the plan names.
    pub fn planned(&self) -> Address {
        match &self.proxy {
            Some(proxy) => self.address().through(proxy.port()),
            None => self.address(),
        }
    }

    pub async fn value<T: mysql_async::prelude::FromValue>(&self, sql: &str) -> Result<T> {
        self.address().value(sql).await
    }

    pub async fn run(&self, sql: &str) -> Result<()> {
        self.address().run(sql).await
    }
}

pub struct Estate {
    pub old: Vec<Shard>,
    pub new: Vec<Shard>,
    pub broker: Option<Arc<KafkaBroker>>,
    pub rules: Vec<TableRule>,
    options: EstateOptions,
    neighbours: Vec<Neighbour>,
    dir: RunDir,
}

/// Server ids: old shard *i* is 101 + i, new shard *j* is 201 + j; each is its GTID domain too.
const OLD_ID: usize = 101;
const NEW_ID: usize = 201;

impl Estate {
    /// `old` shards, filled, and `new` ones, empty.
    pub async fn start(old: usize, new: usize, options: EstateOptions) -> Result<Self> {
        let broker = async {
            match &options.log {
                Log::Direct => Ok(None),
                Log::Kafka(kafka) => KafkaBroker::start_with(kafka.clone()).await.map(Some),
            }
        };
        let (old, new, broker) = tokio::try_join!(
            start_shards(old, OLD_ID, "old", &options.old_options, &options),
            start_shards(new, NEW_ID, "new", &options.new_options, &options),
            broker,
        )?;
        let rules = case::rules();
        let dir = RunDir::create("estate")?;
        let neighbours = Vec::new();
        let mut estate = Self { old, new, broker, rules, options, neighbours, dir };
        estate.fill().await?;
        estate.settle_others().await?;
        estate.write_plan()?;
        Ok(estate)
    }

    async fn fill(&self) -> Result<()> {
        let modulus = self.old.len();
        let (size, seed) = (self.options.size, self.options.seed);
        let old = self.old.iter().enumerate().map(|(index, shard)| async move {
            case::create_schema(&shard.server.address(), &shard.schema).await?;
            case::seed_rows(&shard.address(), index, modulus, size, seed).await
        });
        let new = self.new.iter().map(|shard| async move {
            if self.options.create_new_tables {
                return case::create_schema(&shard.server.address(), &shard.schema).await;
            }
            let sql = format!("CREATE DATABASE `{}` CHARACTER SET utf8mb4", shard.schema);
            shard.server.run(sql).await
        });
        tokio::try_join!(
            futures_util::future::try_join_all(old),
            futures_util::future::try_join_all(new)
        )?;
        Ok(())
    }

    /// The application's account on every server, with the few rights that it has anywhere, and the
    /// neighbours.
    async fn settle_others(&mut self) -> Result<()> {
        let shards: Vec<_> = self.old.iter().chain(&self.new).collect();
        for (index, shard) in shards.iter().enumerate() {
            create_account(&shard.server, &shard.schema).await?;
            let met = shards[..index].iter().any(|met| Arc::ptr_eq(&met.server, &shard.server));
            if self.options.neighbours && !met {
                self.neighbours.push(Neighbour::start(&shard.server).await?);
            }
        }
        Ok(())
    }

    /// Of each server, the old ones first.
    pub fn neighbours(&self) -> &[Neighbour] {
        &self.neighbours
    }

    pub fn plan_path(&self) -> PathBuf {
        self.dir.join("plan.toml")
    }

    /// A directory of this estate's own, for whatever a test wants to write.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    fn write_plan(&self) -> Result<()> {
        std::fs::write(self.plan_path(), self.plan()).context("writing the plan")
    }

    /// The plan as TOML; a test that wants another one edits this text.
    pub fn plan(&self) -> String {
        let log = match &self.broker {
            Some(broker) => {
                format!("kind = \"kafka\"\nbrokers = \"{}\"\nreplication = 1", broker.bootstrap())
            }
            None => "kind = \"direct\"".to_owned(),
        };
        let (max_lag, hold) = &self.options.gate;
        let verify_age = &self.options.verify_age;
        let mut text = format!(
            "name = \"{}\"\nmodulus = {{ old = {}, new = {} }}\n\n[log]\n{log}\n\n\
             [defaults]\nuser = \"{ADMIN}\"\npassword = \"${{MODSHIFT_PASSWORD}}\"\ntls = \"off\"\n\n",
            self.options.name,
            self.old.len(),
            self.new.len(),
        );
        for (kind, shards) in [("old", &self.old), ("new", &self.new)] {
            for shard in shards {
                let Address { host, port, schema, .. } = shard.planned();
                text.push_str(&format!(
                    "[[{kind}]]\nhost = \"{host}\"\nport = {port}\nschema = \"{schema}\"\n\n"
                ));
            }
        }
        for rule in &self.rules {
            text.push_str(&rule.rule.plan_toml(&rule.table));
        }
        text.push_str(&format!(
            "[gate]\nmax_lag = \"{max_lag}\"\nhold = \"{hold}\"\n\
             verify_age = \"{verify_age}\"\n\n\
             [check]\naccept_unsafe_durability = true\naccept_session_binlog_control = true\n\n{}",
            self.options.plan_tail
        ));
        text
    }

    /// The product with this estate's plan: `modshift ARGS… --plan PLAN`.
    pub fn modshift<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Launch {
        Launch::new(args)
            .arg("--plan")
            .arg(self.plan_path().display().to_string())
            .env("MODSHIFT_PASSWORD", PASSWORD)
    }

    pub fn old_addresses(&self) -> Vec<Address> {
        self.old.iter().map(Shard::address).collect()
    }

    pub fn new_addresses(&self) -> Vec<Address> {
        self.new.iter().map(Shard::address).collect()
    }

    /// As the application, straight to the servers.
    pub fn old_routes(&self) -> Routes {
        Routes::new(self.old.iter().map(|shard| as_application(shard.address())).collect())
    }

    pub fn new_routes(&self) -> Routes {
        Routes::new(self.new.iter().map(|shard| as_application(shard.address())).collect())
    }

    /// Old against new.
    pub fn oracle(&self) -> Oracle {
        Oracle::new(self.old_addresses(), self.new_addresses(), self.rules.clone())
    }

    /// New against old: the way back.
    pub fn oracle_back(&self) -> Oracle {
        Oracle::new(self.new_addresses(), self.old_addresses(), self.rules.clone())
    }
}

/// The same place, by the application's account.
pub fn as_application(address: Address) -> Address {
    Address { user: APP.to_owned(), password: APP.to_owned(), ..address }
}

async fn start_shards(
    count: usize,
    first_id: usize,
    kind: &str,
    adjust: &Adjust,
    options: &EstateOptions,
) -> Result<Vec<Shard>> {
    let start = |index: usize| async move {
        let usual = MariaDbOptions::with_server_id((first_id + index) as u32);
        let server = Arc::new(MariaDbServer::start(adjust(index, usual)).await?);
        let proxy = match options.proxies {
            true => Some(Proxy::start(server.host(), server.port()).await?),
            false => None,
        };
        Ok::<_, anyhow::Error>((server, proxy))
    };
    let servers = if options.one_server_a_side { 1 } else { count };
    let servers = futures_util::future::try_join_all((0..servers).map(start)).await?;
    let shard = |index: usize| {
        let (server, proxy) = servers[index % servers.len()].clone();
        Shard { server, proxy, schema: format!("shard_{kind}_{index}") }
    };
    Ok((0..count).map(shard).collect())
}
