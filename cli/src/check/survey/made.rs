//! Surveys made up for tests of rules: two old shards and three new ones with nothing wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::Grants;
use modshift_proto::plan::{
    HostPort, Jdbc, Plan, RoutingKind, RoutingTarget, Secret, StorageUnits, ZooKeeperTarget,
};
use modshift_proto::{NewShard, OldShard};

use super::further::{self, Schema, Source};
use super::{
    Binlog, Both, End, Facts, Further, Kind, Pair, Role, RoomUnknown, Server, Standing, Survey,
    Table, Unreached, Upstream, Variables, all_sides, endpoint,
};
use crate::check::fault::{Fault, Side};

pub fn survey(change: impl Fn(usize, &mut Facts)) -> Survey {
    make("", "", change, |_, _| {})
}

/// The same; old shard 0 has two replicas, `tailed` and `spare`, and is read from the first, and
/// all is rehearsed on a server `trial`. They are asked in this order.
pub fn survey_further(
    change: impl Fn(usize, &mut Facts),
    change_further: impl Fn(usize, &mut Standing),
) -> Survey {
    let replicas = "replicas = [\"tailed:3306\", \"spare:3306\"]\nread_from = \"tailed:3306\"\n";
    let mut tail = "[rehearse]\n".to_owned();
    for which in 0..5 {
        let kind = if which < 2 { "old" } else { "new" };
        tail += &format!("[[rehearse.{kind}]]\nhost = \"trial\"\nschema = \"trial_{which}\"\n");
    }
    make(replicas, &tail, change, change_further)
}

/// The same; old shard 0 is a pair of masters, `h:3306` and `q:3306`, with nothing wrong.
pub fn survey_peers(change: impl Fn(&mut Facts, &mut Standing)) -> Survey {
    let peers = "[old.peers]\nservers = [\"h:3306\", \"q:3306\"]\nserver_ids = [1, 2]\n";
    let mut made = make(
        peers,
        "",
        |which, facts| {
            if which == 0 {
                facts.variables.set("gtid_domain_id", "1");
                facts.variables.set("log_slave_updates", "ON");
                let (at, server_id) = ("q:3306".to_owned(), 2);
                facts.beside.upstream = vec![Upstream { at, server_id, stands: None }];
            }
        },
        |_, standing| {
            standing.variables.set("gtid_domain_id", "2");
            standing.variables.set("server_id", "2");
        },
    );
    let Survey { servers, further, .. } = &mut made;
    if let (Ok(facts), Ok(standing)) = (&mut servers[0].facts, &mut further[0].facts) {
        change(facts, standing);
    }
    made
}

fn make(
    of_old_0: &str,
    tail: &str,
    change: impl Fn(usize, &mut Facts),
    change_further: impl Fn(usize, &mut Standing),
) -> Survey {
    let mut text = "name = \"made\"\nmodulus = { old = 2, new = 3 }\n[log]\nkind = \"direct\"\n\
        [defaults]\nhost = \"h\"\nuser = \"u\"\npassword = \"p\"\n[[table]]\nname = \"t\"\n\
        key = \"uid\"\nrule = \"floor_mod\"\n"
        .to_owned();
    for which in 0..5 {
        let kind = if which < 2 { "old" } else { "new" };
        let replicas = if which == 0 { of_old_0 } else { "" };
        text += &format!("[[{kind}]]\nport = {}\nschema = \"s\"\n{replicas}", 3306 + which);
    }
    let plan = Arc::new(Plan::parse(&(text + tail), &|_| None).unwrap());
    let server = |(which, side)| {
        let mut facts = facts();
        identify(&mut facts.variables, "h", 3306 + which, 1 + which);
        change(which, &mut facts);
        Server { side, endpoint: endpoint(&plan, side).clone(), facts: Ok(facts) }
    };
    let servers = all_sides(&plan).into_iter().enumerate().map(server).collect();
    let further =
        further::named(&plan).into_iter().enumerate().map(|(which, (endpoint, roles))| {
            let mut standing = standing(&roles);
            identify(&mut standing.variables, &endpoint.host, 3306, 11 + which);
            change_further(which, &mut standing);
            Further { endpoint, roles, facts: Ok(standing) }
        });
    Survey { further: further.collect(), plan, servers, pairs: Vec::new() }
}

/// Every primary writes under a GTID domain of its own.
fn identify(variables: &mut Variables, host: &str, port: usize, id: usize) {
    variables.set("hostname", host);
    variables.set("port", &port.to_string());
    variables.set("server_id", &id.to_string());
    if host == "h" {
        variables.set("gtid_binlog_pos", &format!("{id}-{id}-100"));
        variables.set("gtid_binlog_state", &format!("{id}-{id}-100"));
    }
}

/// With what every rule wants; replicas follow old shard 0, a rehearsal's server follows nobody.
fn standing(roles: &[Role]) -> Standing {
    let rehearses = roles[0].kind == Kind::Rehearsal;
    let mut variables: Variables = [
        ("log_bin", "ON"),
        ("log_slave_updates", "ON"),
        ("binlog_format", "ROW"),
        ("binlog_row_image", "FULL"),
        ("binlog_checksum", "CRC32"),
        ("gtid_strict_mode", "ON"),
        ("sync_binlog", "1"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("binlog_expire_logs_seconds", "604800"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into_iter()
    .collect();
    let source = Source {
        host: "h".to_owned(),
        port: 3306,
        server_id: 1,
        io: "Yes".to_owned(),
        sql: "Yes".to_owned(),
        behind: Some(Duration::ZERO),
        ..Source::default()
    };
    let mut schemas = BTreeMap::new();
    if !rehearses {
        for name in ["gtid_binlog_pos", "gtid_binlog_state", "gtid_slave_pos"] {
            variables.set(name, "1-1-99");
        }
        variables.set("read_only", "ON");
        let schema = Schema {
            tables: vec!["t".to_owned()],
            events: Some(Vec::new()),
            bodies: Some(Vec::new()),
            ..Schema::default()
        };
        schemas.insert("s".to_owned(), schema);
    }
    let grants = Grants::parse(["GRANT ALL PRIVILEGES ON *.* TO `u`@`%` WITH GRANT OPTION"]);
    Standing {
        version: "10.11.6-MariaDB".to_owned(),
        variables,
        grants,
        fencing: None,
        accounts: Some(Vec::new()),
        replica_ids: Some(Vec::new()),
        log_filters: Some(Vec::new()),
        sources: Some(if rehearses { Vec::new() } else { vec![source] }),
        xa: Vec::new(),
        room: Err(RoomUnknown::NotTold),
        oldest: None,
        schemas,
    }
}

pub fn facts() -> Facts {
    let settings = [("log_bin", "ON"), ("binlog_expire_logs_seconds", "604800")];
    let schema = Err(Unreached {
        message: "not asked".into(),
        hint: None,
        passing: false,
        disturbed: false,
    });
    let table = Table {
        engine: "InnoDB".to_owned(),
        create: String::new(),
        schema,
        empty: true,
        rows: 0,
        bytes: 0,
        counter: None,
    };
    Facts {
        version: "10.11.6-MariaDB".to_owned(),
        variables: settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect(),
        grants: Grants::default(),
        fencing: None,
        lockable: None,
        accounts: None,
        writers: None,
        replica_ids: None,
        log_filters: Some(Vec::new()),
        sources: None,
        objects: Vec::new(),
        unseen: Vec::new(),
        triggers: Vec::new(),
        events: None,
        programs: Vec::new(),
        definers: None,
        proxies: Vec::new(),
        collation: String::new(),
        handed_over: false,
        bodies: None,
        sequences: BTreeMap::new(),
        unknown_sequences: BTreeMap::new(),
        tables: [("t".to_owned(), table)].into(),
        xa: Vec::new(),
        clock_ahead_us: 0,
        has_watermark: false,
        finished: false,
        owner: None,
        room: Err(RoomUnknown::NotTold),
        binlog: Binlog {
            written_bytes: 0,
            uptime: Duration::from_secs(60),
            read_at: Instant::now(),
            oldest: None,
        },
        connections: None,
        collisions: None,
        kept_tables: BTreeMap::new(),
        serves: false,
        token: None,
        beside: super::Beside::default(),
    }
}

/// Its plan publishes to a centre of ShardingSphere's, whose units have the account `shop_sphere`.
pub fn with_centre(survey: &mut Survey) {
    let units = StorageUnits {
        user: "shop_sphere".to_owned(),
        password: Secret::new("p".to_owned()),
        jdbc: Jdbc::MySql,
        url_parameters: None,
        crc32_class: None,
    };
    let kind = RoutingKind::ZooKeeper(ZooKeeperTarget {
        servers: vec![HostPort { host: "zk".to_owned(), port: 2181 }],
        namespace: "gov".to_owned(),
        database: "shop".to_owned(),
        digest: None,
        units,
        old: Vec::new(),
        new: Vec::new(),
    });
    let (name, timeout) = ("centre".to_owned(), Duration::from_secs(1));
    let target = RoutingTarget { name, timeout, follow_symlinks: false, kind };
    Arc::make_mut(&mut survey.plan).routing.push(target);
}

/// As the report has them.
pub fn lines(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(|fault| format!("{}  {fault}", fault.severity)).collect()
}

/// One old shard `a:3306` with two replicas, of which `b:3306` is promoted and follows it as it should.
pub fn pair(tail: &str, change: impl Fn(&mut Both)) -> Survey {
    let text = format!(
        "name = \"made\"\nscheme = \"promote\"\nmodulus = {{ old = 1, new = 2 }}\n[defaults]\n\
         schema = \"s\"\nuser = \"u\"\npassword = \"p\"\n[[table]]\nname = \"t\"\nkey = \"uid\"\n\
         rule = \"floor_mod\"\n[[old]]\nhost = \"a\"\nreplicas = [\"b:3306\", \"c:3306\"]\n{tail}"
    );
    let plan = Arc::new(Plan::parse(&text, &|_| None).unwrap());
    let end = |host: &str, id: usize| {
        let mut variables = standing(&[replica()]).variables;
        identify(&mut variables, host, 3306, id);
        End { variables, grants: Grants::default(), accounts: BTreeMap::new() }
    };
    let source = standing(&[replica()]).sources.unwrap_or_default().remove(0);
    let source = Source { host: "a".to_owned(), using_gtid: "Slave_Pos".to_owned(), ..source };
    let mut both = Both {
        primary: end("a", 1),
        replica: end("b", 2),
        sources: Some(vec![source]),
        followers: Some(Vec::new()),
    };
    both.primary.variables.set("gtid_binlog_state", "1-1-100");
    both.primary.variables.set("read_only", "OFF");
    change(&mut both);
    let pair = Pair {
        shard: NewShard(1),
        home: OldShard(0),
        at: HostPort { host: "b".to_owned(), port: 3306 },
        user: "u".to_owned(),
        facts: Ok(both),
    };
    let counted = || {
        let mut facts = facts();
        let table = facts.tables.get_mut("t").unwrap();
        table.counter = Some(("id".to_owned(), 7));
        facts
    };
    let server =
        |side| Server { side, endpoint: endpoint(&plan, side).clone(), facts: Ok(counted()) };
    let servers = [Side::Old(OldShard(0)), Side::New(NewShard(1))].map(server).into();
    Survey { plan: plan.clone(), servers, further: Vec::new(), pairs: vec![pair] }
}

/// The same of a pair of masters: `a:3306`, which serves, and `b:3306`, which is promoted.
pub fn pair_peers(change: impl Fn(&mut Facts, &mut Standing)) -> Survey {
    let peers = "[old.peers]\nservers = [\"a:3306\", \"b:3306\"]\nserver_ids = [1, 2]\n";
    let mut made = pair(peers, |_| {});
    let named = further::named(&made.plan).into_iter().map(|(endpoint, roles)| {
        let mut standing = standing(&roles);
        identify(&mut standing.variables, &endpoint.host, 3306, 2);
        standing.variables.set("gtid_domain_id", "2");
        Further { endpoint, roles, facts: Ok(standing) }
    });
    made.further = named.filter(|further| further.endpoint.host == "b").collect();
    let Survey { servers, further, .. } = &mut made;
    if let (Ok(facts), Ok(standing)) = (&mut servers[0].facts, &mut further[0].facts) {
        identify(&mut facts.variables, "a", 3306, 1);
        facts.variables.set("gtid_domain_id", "1");
        facts.variables.set("log_slave_updates", "ON");
        facts.tables.clear();
        let (at, server_id) = ("b:3306".to_owned(), 2);
        facts.beside.upstream = vec![Upstream { at, server_id, stands: None }];
        change(facts, standing);
    }
    made
}

fn replica() -> Role {
    let (kind, side) = (Kind::Replica, Side::Old(OldShard(0)));
    Role { kind, side, schema: "s".to_owned() }
}
