//! Where the writer takes its routes from: told by the test, or read from a routing document by the
//! product's own client, as an application would.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use modshift_routing::{Document, Router, Source};
use tokio::{sync::watch, time::timeout};

use super::{Routes, Row, TABLES};
use crate::server::{ADMIN, Address, PASSWORD};

/// A writer that follows a routing document makes a refused transaction again on the newest routing
/// until it takes place: to its user nothing ever fails.
#[derive(Clone, Debug)]
pub struct Follow {
    pub source: Source,
    /// The application's account on every shard.
    pub user: String,
    pub password: String,
    /// The other modulus of the reshard, where the test knows it: three transactions of four then
    /// touch only rows that lie together under both, so that they can be made again as they are.
    /// Those that cannot are undone and planned anew under the new routing.
    pub other_modulus: Option<usize>,
    /// A transaction that has not taken place for so long has failed.
    pub give_up: Duration,
}

impl Follow {
    pub fn new(source: Source) -> Self {
        Self {
            source,
            user: ADMIN.to_owned(),
            password: PASSWORD.to_owned(),
            other_modulus: None,
            give_up: Duration::from_secs(60),
        }
    }
}

/// For a first document, on a machine that is busy.
const FIRST: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(super) enum Guide {
    Fixed(watch::Receiver<Routes>),
    Followed(Arc<Followed>),
}

pub(super) struct Followed {
    router: Router,
    pub follow: Follow,
    /// Of this version.
    known: Mutex<(u64, Routes)>,
}

impl Guide {
    pub async fn follow(follow: Follow) -> Result<Self> {
        let router = Router::follow(follow.source.clone())?;
        let first = timeout(FIRST, router.newer(0)).await;
        first.with_context(|| format!("no routing document: {:?}", router.health()))?;
        let known = Mutex::new((0, Routes { modulus: 0, servers: Vec::new() }));
        Ok(Self::Followed(Arc::new(Followed { router, follow, known })))
    }

    pub fn routes(&self) -> Routes {
        match self {
            Self::Fixed(routes) => routes.borrow().clone(),
            Self::Followed(followed) => followed.routes(),
        }
    }

    /// How refusals are dealt with, where the writer follows.
    pub fn followed(&self) -> Option<Arc<Followed>> {
        match self {
            Self::Fixed(_) => None,
            Self::Followed(followed) => Some(Arc::clone(followed)),
        }
    }
}

impl Followed {
    fn routes(&self) -> Routes {
        let version = self.router.version();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != version
            && let Some(document) = self.router.document()
        {
            *known = (document.version, self.routes_of(&document));
        }
        known.1.clone()
    }

    fn routes_of(&self, document: &Document) -> Routes {
        let server = |shard: &modshift_routing::Shard| Address {
            host: shard.host.clone(),
            port: shard.port,
            user: self.follow.user.clone(),
            password: self.follow.password.clone(),
            schema: shard.schema.clone(),
        };
        Routes {
            modulus: document.modulus.into(),
            servers: document.shards.iter().map(server).collect(),
        }
    }

    /// Waits a little for a newer routing, or for a fence that is lifted again.
    pub async fn breathe(&self) {
        const BREATH: Duration = Duration::from_millis(20);
        let version = self.router.version();
        timeout(BREATH, self.router.newer(version)).await.ok();
    }

    /// What is wrong if the client places a row elsewhere than the harness does.
    pub fn misplaced(&self, row: &Row) -> Option<String> {
        let document = self.router.document()?;
        let expected = row.shard(document.modulus.into());
        let table = TABLES[row.table()];
        let found = match row {
            Row::Order { account, .. }
            | Row::Entry { account, .. }
            | Row::Wallet { account, .. }
            | Row::Types { account, .. } => document.route(table, *account),
            Row::User { login, .. } | Row::Device { login, .. } => document.route(table, login),
        };
        match found {
            Ok(shard) if usize::from(shard.index) == expected => None,
            Ok(shard) => Some(format!("{table}: on {} instead of {expected}", shard.index)),
            Err(error) => Some(error.to_string()),
        }
    }
}
