//! The application's side of a cutover: an account of its own on every shard, and a routing
//! document that it follows.

use std::path::PathBuf;

use anyhow::{Context, Result};
use modshift_proto::plan::Plan;
use modshift_routing::{Document, Side, Source};
use mysql_async::prelude::Queryable;

use crate::{Estate, MariaDbServer, Writer, WriterOptions, server::PASSWORD, writer::Follow};

/// User and password of the application.
pub const APP: &str = "app";
/// Its account, as in the plan. What a server shows of a session's host (`localhost:1234`, where names
/// are resolved) does not match it.
pub const APP_ACCOUNT: &str = "app@127.0.0.%";
const APP_HOST: &str = "127.0.0.%";

/// What the plan says of it: whom the fence keeps out, and where the routing is published. `more`
/// are further lines of `[cutover]`.
pub fn plan_tail(more: &str) -> String {
    format!(
        "[cutover]\naccounts = [\"{APP_ACCOUNT}\"]\n{more}\n\
         [[routing]]\nkind = \"file\"\npath = \"routing.json\"\n"
    )
}

/// With the rights that an application has: on the rows of its schema, and no others.
pub async fn create_account(server: &MariaDbServer, schema: &str) -> Result<()> {
    let mut conn = server.connect().await?;
    conn.query_drop(format!("CREATE USER IF NOT EXISTS {APP}@'{APP_HOST}' IDENTIFIED BY '{APP}'"))
        .await?;
    let schema = schema.replace('_', "\\_");
    let grant =
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON `{schema}`.* TO {APP}@'{APP_HOST}'");
    conn.query_drop(grant).await?;
    conn.disconnect().await.map_err(Into::into)
}

#[derive(Debug)]
pub struct Application {
    routing: PathBuf,
    new_modulus: usize,
}

impl Application {
    /// Creates the first document. The new shards are in read_only, as they should be until they are
    /// opened.
    pub async fn enter(estate: &Estate) -> Result<Self> {
        for shard in &estate.new {
            shard.server.run("SET GLOBAL read_only = 1").await?;
        }
        let env = |name: &str| (name == "MODSHIFT_PASSWORD").then(|| PASSWORD.to_owned());
        let plan = Plan::parse(&estate.plan(), &env);
        let plan = plan.map_err(|errors| anyhow::anyhow!("{errors}"))?;
        let routing = estate.dir().join("routing.json");
        std::fs::write(&routing, Document::of_plan(&plan, Side::Old, 1).to_json())
            .context("writing the routing")?;
        Ok(Self { routing, new_modulus: estate.new.len() })
    }

    /// One that makes refused transactions again where the routing says.
    pub async fn writer(&self, options: WriterOptions) -> Result<Writer> {
        let follow = Follow {
            user: APP.to_owned(),
            password: APP.to_owned(),
            other_modulus: Some(self.new_modulus),
            ..Follow::new(Source::File(self.routing.clone()))
        };
        Writer::follow(options, follow).await
    }
}

/// What a cutover or a rollback says of itself: `…; the pause was 123.4 ms`.
pub fn pause_ms(output: &str) -> Result<f64> {
    let ms = output.split("the pause was ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(ms.context("the cutover names no pause")?.parse()?)
}
