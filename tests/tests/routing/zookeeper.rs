//! ShardingSphere's centre as a target: what is written where, and what two publishers, a crash of one,
//! or somebody else's hand make of it. What an application makes of it: `products` of the cutovers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::{
    HostPort, Jdbc, Place, RoutingKind, Secret, StorageUnits, ZooKeeperTarget,
};
use modshift_routing::{
    Document, Side, Target,
    document::TableRule,
    publish::{Ack, Failure},
    zookeeper::{Change, Session},
};
use modshift_tests::server::ZooKeeperServer;

use super::{LIMIT, publish};

const TABLE: &str = "rules/sharding/tables/t_order";

fn document(version: u64, side: Side) -> Document {
    let rule = TableRule::FloorMod { key: "accountNo".to_owned() };
    let tables = [("t_order".to_owned(), rule)].into();
    Document { tables, default: None, ..super::document(version, side) }
}

fn target(server: &ZooKeeperServer, namespace: &str, digest: Option<&str>) -> Target {
    let places = |side: Side| -> Vec<Place> {
        let shards = document(1, side).shards.into_iter();
        let place = |shard: modshift_routing::Shard| Place {
            server: HostPort { host: shard.host, port: shard.port },
            schema: shard.schema,
        };
        shards.map(place).collect()
    };
    let units = StorageUnits {
        user: "shop".to_owned(),
        password: Secret::new("it's: #1 \"secret\"".to_owned()),
        jdbc: Jdbc::MySql,
        url_parameters: None,
        crc32_class: None,
    };
    let kind = RoutingKind::ZooKeeper(ZooKeeperTarget {
        servers: vec![server.address()],
        namespace: namespace.to_owned(),
        database: "shop".to_owned(),
        digest: digest.map(|text| Secret::new(text.to_owned())),
        units,
        old: places(Side::Old),
        new: places(Side::New),
    });
    Target { name: "zookeeper-0".to_owned(), timeout: LIMIT, follow_symlinks: false, kind }
}

/// Somebody else's hand.
struct Hand {
    server: HostPort,
    namespace: &'static str,
}

impl Hand {
    fn session(&self) -> Result<Session> {
        let opened =
            Session::open(std::slice::from_ref(&self.server), None, Instant::now() + LIMIT);
        opened.map_err(|error| anyhow::anyhow!("{error:?}"))
    }

    fn path(&self, below: &str) -> String {
        format!("/{}/metadata/shop/{below}", self.namespace)
    }

    fn get(&self, path: &str) -> Result<Option<String>> {
        let node = self.session()?.get(path).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(node.map(|node| String::from_utf8_lossy(&node.data).into_owned()))
    }

    /// The active version of a node.
    fn active(&self, below: &str) -> Result<String> {
        let path = self.path(below);
        let number = self.get(&format!("{path}/active_version"))?.context(path.clone())?;
        self.get(&format!("{path}/versions/{number}"))?.with_context(|| format!("{path} {number}"))
    }

    /// Sets a node that is there, or makes it with all above it.
    fn put(&self, path: &str, data: &str) -> Result<()> {
        let mut session = self.session()?;
        let mut writes = Vec::new();
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for path in ends.map(|end| path[..end].to_owned()) {
            let found = session.get(&path).map_err(|error| anyhow::anyhow!("{error:?}"))?;
            match found {
                None => writes.push(Change::Create { path, data: data.into() }),
                Some(node) => {
                    let version = node.version;
                    writes.push(Change::Set { path, data: data.into(), version });
                }
            }
        }
        // Of what is there the last alone.
        let count = writes.len();
        let mut at = 0;
        writes.retain(|write| {
            at += 1;
            at == count || matches!(write, Change::Create { .. })
        });
        session.write(&writes).map_err(|error| anyhow::anyhow!("{error:?}"))
    }

    /// As ShardingSphere changes what is there.
    fn change(&self, below: &str, text: &str) -> Result<()> {
        let path = self.path(below);
        self.put(&format!("{path}/versions/77"), text)?;
        self.put(&format!("{path}/active_version"), "77")
    }

    /// What the first application does.
    fn register(&self) -> Result<()> {
        self.put(&self.path("schemas/shop/tables"), "")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shardingspheres_centre_holds_the_rules_of_the_highest_version() -> Result<()> {
    let server = ZooKeeperServer::start().await?;
    let target = self::target(&server, "centre", None);
    let hand = Hand { server: server.address(), namespace: "centre" };
    let own = "/centre/modshift/shop";
    let (first, second) = (document(1, Side::Old), document(2, Side::New));

    // Nothing is written before an application has registered the tables: it would find none later.
    let early = publish(&target, &first).await.err().context("published to nobody")?;
    assert!(matches!(early.failure, Failure::Unready { .. }), "{early}");
    ensure!(!early.may_have_arrived() && hand.get(own)?.is_none(), "{early}");
    hand.register()?;
    assert_eq!(publish(&target, &first).await?, Ack::Stored);
    assert_eq!(publish(&target, &first).await?, Ack::Held);
    for unit in ["shop_old_0", "shop_old_1", "shop_new_0", "shop_new_1", "shop_new_2"] {
        let text = hand.active(&format!("data_sources/units/{unit}"))?;
        ensure!(text.contains("url: \"jdbc:mysql://") && text.contains("\\\"secret\\\""), "{text}");
    }
    let rule = hand.active(TABLE)?;
    ensure!(rule.contains("shop_old_$->{0..1}.t_order"), "{rule}");
    ensure!(rule.contains("shardingAlgorithmName: modshift_old_t_order"), "{rule}");

    assert_eq!(publish(&target, &second).await?, Ack::Stored);
    let rule = hand.active(TABLE)?;
    ensure!(rule.contains("modshift_new_t_order") && !rule.contains("old"), "{rule}");
    let algorithm = hand.active("rules/sharding/algorithms/modshift_new_t_order")?;
    ensure!(algorithm.contains("shop_new_$->{((accountNo % 3) + 3) % 3}"), "{algorithm}");
    let older = publish(&target, &first).await.err().context("went back")?;
    assert!(matches!(older.failure, Failure::Newer { found: 2, version: 1 }), "{older}");
    let differs = publish(&target, &document(2, Side::Old)).await.err().context("replaced")?;
    assert!(matches!(differs.failure, Failure::Differs { version: 2 }), "{differs}");
    let other = Document { plan: "other".to_owned(), ..document(9, Side::Old) };
    let other = publish(&target, &other).await.err().context("replaced")?;
    assert!(matches!(other.failure, Failure::EarlierPlan { .. }), "{other}");
    let hint = other.hint().unwrap_or_default();
    ensure!(hint.contains(&format!("delete {own}, that node alone")), "{other}: {hint}");

    // What somebody else made of a rule is written again; what he gave a pool he keeps.
    hand.change(TABLE, &rule.replace("new", "old"))?;
    assert_eq!(publish(&target, &second).await?, Ack::Stored);
    ensure!(hand.active(TABLE)? == rule);
    let unit = "data_sources/units/shop_new_1";
    let settings = hand.active(unit)?.replace("\"shop\"", "shop") + "maxPoolSize: 7\n";
    hand.change(unit, &settings)?;
    assert_eq!(publish(&target, &second).await?, Ack::Held);
    ensure!(hand.active(unit)? == settings);

    // A publisher that ended half way is gone on from, by itself and by a later one.
    let state = hand.get(own)?.context("no state")?;
    hand.put(own, &state.replace("\"written\": true", "\"written\": false"))?;
    assert_eq!(publish(&target, &second).await?, Ack::Stored);
    hand.put(own, &state.replace("\"written\": true", "\"written\": false"))?;
    assert_eq!(publish(&target, &document(3, Side::Old)).await?, Ack::Stored);
    ensure!(hand.active(TABLE)?.contains("modshift_old_t_order"));

    // Many at once: whoever is lower than the last is refused, and the highest stays, whole.
    let racing = (4..16).map(|version| {
        let target = target.clone();
        let side = if version % 2 == 0 { Side::Old } else { Side::New };
        tokio::spawn(async move { publish(&target, &document(version, side)).await })
    });
    for done in racing.collect::<Vec<_>>() {
        if let Err(error) = done.await? {
            assert!(matches!(error.failure, Failure::Newer { .. }), "{error}");
        }
    }
    assert_eq!(publish(&target, &document(15, Side::New)).await?, Ack::Held);
    ensure!(hand.active(TABLE)? == rule);

    server.pause()?;
    let silent = Target { timeout: Duration::from_millis(300), ..target.clone() };
    let began = Instant::now();
    let error = publish(&silent, &document(16, Side::Old)).await.err().context("no answer")?;
    ensure!(began.elapsed() < LIMIT, "{error} took {:?}", began.elapsed());
    server.cont()?;
    server.kill()?;
    let gone = publish(&silent, &document(16, Side::Old)).await.err().context("killed")?;
    ensure!(gone.to_string().contains(&server.address().to_string()), "{gone}");
    ensure!(!gone.to_string().contains("secret") && !gone.may_have_arrived(), "{gone}");
    // As amid an election: whoever has time left is served once there is somebody to serve.
    let sixteenth = document(16, Side::Old);
    let (published, restarted) = tokio::join!(publish(&target, &sixteenth), server.restart());
    restarted?;
    assert_eq!(published?, Ack::Stored);
    let older = publish(&target, &first).await.err().context("went back")?;
    assert!(matches!(older.failure, Failure::Newer { .. }), "{older}");

    // The next plan goes on from the rules of this one once it is told that this one is over.
    let node = Change::Delete { path: own.to_owned() };
    hand.session()?.write(&[node]).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let next = Document { plan: "other".to_owned(), ..first };
    assert_eq!(publish(&target, &next).await?, Ack::Stored);
    ensure!(hand.active(TABLE)?.contains("other_old_$->{0..1}.t_order"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_modshift_has_not_written_in_the_centre_stays() -> Result<()> {
    let server = ZooKeeperServer::start().await?;
    let hand = Hand { server: server.address(), namespace: "centre" };
    let target = self::target(&server, "centre", None);
    let first = document(1, Side::Old);
    hand.register()?;
    // As the first application wrote it, by the published YAML: it is taken over.
    let ours = "actualDataNodes: shop_old_$->{0..1}.t_order\ndatabaseStrategy:\n  standard:\n    \
                shardingAlgorithmName: modshift_old_t_order\n    shardingColumn: accountNo\n";
    hand.change(TABLE, &ours.replace("modshift_old_t_order", "by_account"))?;
    let foreign = publish(&target, &first).await.err().context("taken over")?;
    assert!(matches!(foreign.failure, Failure::Foreign { .. }), "{foreign}");
    ensure!(foreign.to_string().contains(TABLE) && !foreign.may_have_arrived(), "{foreign}");
    hand.change(TABLE, ours)?;
    let binding = "rules/sharding/binding_tables/together";
    hand.change(binding, "name: together\nreference: t_other,T_Order\n")?;
    let foreign = publish(&target, &first).await.err().context("bound tables")?;
    ensure!(foreign.to_string().contains(binding), "{foreign}");
    hand.change(binding, "name: together\nreference: t_other,t_third\n")?;
    assert_eq!(publish(&target, &first).await?, Ack::Stored);

    let mut everywhere = document(2, Side::New);
    everywhere.tables.insert("currency".to_owned(), TableRule::Broadcast);
    let unfit = publish(&target, &everywhere).await.err().context("published")?;
    assert!(matches!(unfit.failure, Failure::Unfit { .. }), "{unfit}");

    // What was made with a login is its own.
    let with = |digest| self::target(&server, "closed", digest);
    let closed = Hand { server: server.address(), namespace: "closed" };
    closed.register()?;
    assert_eq!(publish(&with(Some("shop:hunter2")), &first).await?, Ack::Stored);
    assert_eq!(publish(&with(Some("shop:hunter2")), &document(2, Side::New)).await?, Ack::Stored);
    for stranger in [None, Some("shop:hunter3")] {
        let refused = publish(&with(stranger), &document(3, Side::Old)).await;
        let refused = refused.err().context("let in")?.to_string();
        ensure!(refused.contains("not allowed") && !refused.contains("hunter"), "{refused}");
    }
    Ok(())
}
