//! `[[routing]]` of a plan: every kind of target, and what is wrong with one.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::PathBuf;
use std::time::Duration;

use modshift_proto::plan::{
    EtcdTarget, HttpMethod, Jdbc, Plan, PlanErrors, ProxySqlMatch, RoutingKind, RoutingTarget,
    Secret, default,
};

fn parse(routing: &str) -> Result<Plan, PlanErrors> {
    read(&text(routing))
}

fn read(text: &str) -> Result<Plan, PlanErrors> {
    Plan::parse(text, &|name| (name == "TOKEN").then(|| "s3cret".to_owned()))
}

fn text(routing: &str) -> String {
    format!(
        "name = \"shop\"\nmodulus = {{ old = 1, new = 2 }}\nlog = {{ kind = \"direct\" }}\n\
         [defaults]\nuser = \"u\"\npassword = \"p\"\nhost = \"h\"\n\
         [[old]]\nschema = \"o\"\n[[new]]\nschema = \"n0\"\n[[new]]\nschema = \"n1\"\n\
         [[table]]\nname = \"t\"\nkey = \"k\"\nrule = \"abs_mod\"\n{routing}"
    )
}

fn one(routing: &str) -> RoutingTarget {
    let mut plan = parse(&format!("[[routing]]\n{routing}")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(plan.routing.len(), 1);
    plan.routing.remove(0)
}

/// Every fault, its path and message.
fn check(routing: &str, expected: &[&str]) {
    check_plan(&text(&format!("[[routing]]\n{routing}")), expected);
}

fn check_plan(text: &str, expected: &[&str]) {
    let errors = read(text).expect_err(text);
    let found: Vec<String> =
        errors.faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    assert_eq!(found, expected, "of {text}");
    assert!(!errors.to_string().contains("s3cret"), "{errors}");
}

#[test]
fn a_plan_may_publish_nowhere_else_than_on_its_shards() {
    assert_eq!(parse("").unwrap().routing, []);
}

#[test]
fn each_kind_is_read_with_its_defaults() {
    let file = one("kind = \"file\"\npath = \"routing.json\"");
    assert_eq!((file.name.as_str(), file.timeout), ("file-0", default::ROUTING_TIMEOUT));
    assert_eq!(file.kind, RoutingKind::File { path: PathBuf::from("routing.json") });
    assert!(!file.follow_symlinks);
    assert!(one("kind = \"file\"\npath = \"r\"\nfollow_symlinks = true").follow_symlinks);

    let http = one("kind = \"http\"\nurl = \"https://h/x\"\ntoken = \"${TOKEN}\"\nname = \"cfg\"");
    assert_eq!(http.name, "cfg");
    let token = Some(Secret::new("s3cret".to_owned()));
    let (url, method) = ("https://h/x".to_owned(), HttpMethod::Put);
    assert_eq!(http.kind, RoutingKind::Http { url, method, token, tls_ca: None });

    let command = one("kind = \"command\"\nargv = [\"push\", \"${TOKEN}\"]\ntimeout = \"5s\"");
    assert_eq!(command.timeout, Duration::from_secs(5));
    let argv = vec!["push".to_owned(), "s3cret".to_owned()];
    assert_eq!(command.kind, RoutingKind::Command { argv, env: vec![] });

    let etcd = one("kind = \"etcd\"\nendpoints = [\"http://e:2379\"]\nkey = \"/k\"");
    let (endpoints, key) = (vec!["http://e:2379".to_owned()], "/k".to_owned());
    let expected = EtcdTarget { endpoints, key, login: None, tls_ca: None };
    assert_eq!(etcd.kind, RoutingKind::Etcd(expected));

    let proxysql = "kind = \"proxysql\"\nfile = \"p.sql\"\nhostgroup_base = 10\nrule_base = 20\n\
                    match = \"schema\"";
    let RoutingKind::ProxySql(proxysql) = one(proxysql).kind else { panic!("another kind") };
    assert_eq!((proxysql.admin, proxysql.matching), (None, ProxySqlMatch::Schema));

    let sphere = "kind = \"shardingsphere\"\ndistsql = \"d\"\nuser = \"a\"\npassword = \"b\"";
    let RoutingKind::ShardingSphere(sphere) = one(sphere).kind else { panic!("another kind") };
    assert_eq!((sphere.yaml, sphere.units.crc32_class), (None, None));
}

#[test]
fn every_fault_of_a_target_is_named() {
    let kinds =
        "missing, expected file, http, command, etcd, proxysql, shardingsphere or zookeeper";
    check("path = \"x\"", &[&format!("routing[0].kind: {kinds}")]);
    check(
        "kind = \"consul\"",
        &["routing[0].kind: expected one of file, http, command, etcd, proxysql, shardingsphere, \
           zookeeper, found \"consul\""],
    );
    check(
        "kind = \"file\"\nname = \"A\"\ntimeout = \"0s\"\nurl = \"x\"",
        &[
            "routing[0].path: missing, expected the file that applications read",
            "routing[0].name: expected 1 to 64 characters of a-z, 0-9, _ and -, found \"A\"",
            "routing[0].timeout: expected a duration such as \"200ms\" or \"1h\", 1ms to 1m, \
             found \"0s\"",
            "routing[0].url: unknown key, expected one of kind, name, timeout, follow_symlinks, path",
        ],
    );
    check(
        "kind = \"http\"\nurl = \"https://u:s3cret@h/\"\nmethod = \"GET\"\ntoken = 5",
        &[
            "routing[0].url: expected http:// or https:// and an address, and no login in it",
            "routing[0].method: expected one of PUT, POST, found \"GET\"",
            "routing[0].token: expected a string",
        ],
    );
    check(
        "kind = \"http\"\nurl = \"http://h/\"\ntoken = \"${TOKEN}\"",
        &["routing[0].token: would go to http://h/ in clear text: take https://, or say \
           plaintext = true"],
    );
    check(
        "kind = \"etcd\"\nendpoints = [\"https://e:1\", \"http://10.0.0.1:2\"]\nkey = \"k\"\n\
         user = \"u\"\npassword = \"${TOKEN}\"",
        &[
            "routing[0].password: would go to http://10.0.0.1:2 in clear text: take https://, or say \
           plaintext = true",
        ],
    );
    for near in ["http://127.0.0.1:80/", "http://localhost/", "http://[::1]:8080/"] {
        one(&format!("kind = \"http\"\nurl = \"{near}\"\ntoken = \"${{TOKEN}}\""));
    }
    check(
        "kind = \"command\"\nargv = []",
        &["routing[0].argv: expected a program and its arguments"],
    );
    check(
        "kind = \"etcd\"\nendpoints = [\"e:2379\"]\nuser = \"u\"",
        &[
            "routing[0].password: missing, expected one, as there is a user",
            "routing[0].key: missing, expected the key that applications watch",
            "routing[0].endpoints[0]: expected http://host:2379 or https://host:2379, and no login \
             in it",
        ],
    );
    check(
        "kind = \"proxysql\"\nhostgroup_base = 1\nmatch = \"port\"",
        &[
            "routing[0].file: missing, expected file, admin (host:port) or both",
            "routing[0].rule_base: missing, expected the id of modshift's first query rule",
            "routing[0].match: expected one of hint, schema, found \"port\"",
        ],
    );
    check(
        "kind = \"proxysql\"\nhostgroup_base = 1\nrule_base = 1\nmatch = \"hint\"\nadmin = \"h:1\"",
        &["routing[0].user: missing, expected that of the admin interface, and its password"],
    );
    check(
        "kind = \"shardingsphere\"\nuser = \"a\"\ncrc32_class = \"a b\"",
        &[
            "routing[0].yaml: missing, expected a file, here or in distsql or in both",
            "routing[0].password: missing, expected the password of that account",
            "routing[0].crc32_class: expected the name of a Java class, found \"a b\"",
        ],
    );
    let here = "kind = \"zookeeper\"\nservers = [\"127.0.0.1:2181\"]\nnamespace = \"gov\"\n\
                database = \"shop\"\nuser = \"a\"\npassword = \"b\"\n";
    let RoutingKind::ZooKeeper(keeper) = one(here).kind else { panic!("another kind") };
    assert_eq!((keeper.digest, keeper.units.jdbc), (None, Jdbc::MariaDb));
    check(
        &here.replace("127.0.0.1", "zk-1"),
        &["routing[0].password: would go to zk-1:2181 in clear text, and be kept there so: say \
           plaintext = true if the network and ZooKeeper's ACLs keep it from others"],
    );
    check(
        &(here.replace("gov", "a/b").replace("[\"127.0.0.1:2181\"]", "[\"zk\"]")
            + "digest = \"s3cret\"\njdbc = \"oracle\"\nurl_parameters = \"password=s3cret\""),
        &[
            "routing[0].servers[0]: expected host:port, found \"zk\"",
            "routing[0].namespace: expected letters, digits, _ and -, found \"a/b\"",
            "routing[0].digest: expected user:password",
            "routing[0].jdbc: expected one of mariadb, mysql, found \"oracle\"",
            "routing[0].url_parameters: expected name=value&name=value, and no password in it",
        ],
    );
    check(
        "kind = \"file\"\npath = \"a\"\nname = \"x\"\n[[routing]]\nkind = \"file\"\npath = \"b\"\n\
         name = \"x\"",
        &["routing[1].name: x is that of routing[0] too"],
    );
}

#[test]
fn the_rendered_targets_read_back_without_their_secrets() {
    let text = "[[routing]]\nkind = \"file\"\npath = \"/r.json\"\n\
         [[routing]]\nkind = \"http\"\nurl = \"http://h/\"\nmethod = \"POST\"\ntoken = \"${TOKEN}\"\n\
         plaintext = true\ntls_ca = \"/ca\"\n[[routing]]\nkind = \"command\"\nargv = [\"a\", \"$${b\"]\n\
         env = [\"A_TOKEN\"]\n\
         [[routing]]\nkind = \"etcd\"\nendpoints = [\"http://e:1\", \"http://f:1\"]\nkey = \"k\"\n\
         plaintext = true\nuser = \"u\"\npassword = \"${TOKEN}\"\n\
         [[routing]]\nkind = \"proxysql\"\nadmin = \"p:6032\"\nuser = \"u\"\n\
         password = \"${TOKEN}\"\nhostgroup_base = 1\nrule_base = 2\nmatch = \"hint\"\n\
         [[routing]]\nkind = \"shardingsphere\"\nyaml = \"/y\"\nuser = \"u\"\n\
         password = \"${TOKEN}\"\ncrc32_class = \"a.B\"\njdbc = \"mysql\"\n\
         url_parameters = \"connectTimeout=2000&tcpKeepAlive=true\"\n\
         [[routing]]\nkind = \"zookeeper\"\nservers = [\"zk:2181\", \"[fd00::1]:2181\"]\n\
         namespace = \"gov\"\ndatabase = \"shop\"\ndigest = \"zk:${TOKEN}\"\nplaintext = true\n\
         user = \"u\"\npassword = \"${TOKEN}\"\n";
    let plan = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    let shown = plan.render_redacted();
    assert!(!shown.contains("s3cret") && !format!("{plan:?}").contains("s3cret"), "{shown}");
    let mut expected = plan.routing;
    let hidden = || Secret::new("<redacted>".to_owned());
    for target in &mut expected {
        match &mut target.kind {
            RoutingKind::Http { token, .. } => *token = Some(hidden()),
            RoutingKind::Etcd(etcd) => etcd.login = Some(("u".to_owned(), hidden())),
            RoutingKind::ProxySql(proxysql) => {
                proxysql.admin.as_mut().unwrap().password = hidden();
            }
            RoutingKind::ShardingSphere(sphere) => sphere.units.password = hidden(),
            RoutingKind::ZooKeeper(keeper) => {
                keeper.units.password = hidden();
                keeper.digest = Some(Secret::new("<redacted>:<redacted>".to_owned()));
            }
            _ => {}
        }
    }
    assert_eq!(Plan::parse(&shown, &|_| None).unwrap().routing, expected);
}

const CENTRE: &str = "[[routing]]\nkind = \"zookeeper\"\nservers = [\"127.0.0.1:2181\"]\n\
                      namespace = \"gov\"\ndatabase = \"shop\"\nuser = \"a\"\npassword = \"b\"\n";

#[test]
fn a_centre_stands_behind_the_file_that_its_first_application_is_started_with() {
    let yaml =
        "[[routing]]\nkind = \"shardingsphere\"\nyaml = \"y\"\nuser = \"a\"\npassword = \"b\"\n";
    assert_eq!(parse(&format!("{yaml}{yaml}{CENTRE}")).unwrap().centres().count(), 1);
    // DistSQL is nothing that an application starts with; and what is there already needs no file.
    parse(&format!("{CENTRE}{}", yaml.replace("yaml", "distsql"))).unwrap();
    parse(CENTRE).unwrap();
    let behind = "stands behind routing[1], of kind zookeeper, which takes nothing before an application \
                  has been started with the published YAML: put it before that one";
    check_plan(&text(&format!("{yaml}{CENTRE}{yaml}")), &[&format!("routing[2].kind: {behind}")]);
}

#[test]
fn a_centre_is_told_of_no_table_that_is_on_every_shard() {
    let table = "[[table]]\nname = \"currency\"\nbroadcast = 0\n";
    check_plan(
        &text(&format!("{table}{CENTRE}")),
        &["routing[0].kind: zookeeper cannot be told of table currency, which is on every shard: \
           ShardingSphere would write it to all units that it knows, those of the side that does not \
           serve too"],
    );
}

#[test]
fn where_a_centre_is_followed_no_guard_is_of_accounts() {
    let promoted = |guard: &str| {
        format!(
            "name = \"shop\"\nscheme = \"promote\"\nguard = \"{guard}\"\nmodulus = {{ old = 1, new = 2 }}\n\
             [defaults]\nuser = \"u\"\npassword = \"p\"\n[[old]]\nhost = \"h\"\nschema = \"s\"\n\
             replicas = [\"r:3306\"]\n[[table]]\nname = \"t\"\nkey = \"k\"\nrule = \"floor_mod\"\n\
             [cutover]\nold_accounts = [\"x@%\"]\nnew_accounts = [\"y@%\"]\n{CENTRE}"
        )
    };
    read(&promoted("triggers")).unwrap_or_else(|errors| panic!("{errors}"));
    check_plan(
        &promoted("accounts"),
        &[
            "routing[0].kind: zookeeper needs guard = \"triggers\": the account of its units is none that \
           is locked, so nothing else refuses it a row that is another shard's",
        ],
    );
}

#[test]
fn proxysql_is_not_told_to_connect_to_itself() {
    let proxysql = "[[routing]]\nkind = \"proxysql\"\nadmin = \"Proxy-1:6032\"\nuser = \"u\"\n\
                    password = \"p\"\nhostgroup_base = 1\nrule_base = 1\nmatch = \"hint\"\n";
    let behind = |application: &str| {
        let shard = format!("schema = \"n1\"\napplication_host = \"{application}\"");
        text(proxysql).replace("schema = \"n1\"", &shard)
    };
    read(&behind("vip-1")).unwrap_or_else(|errors| panic!("{errors}"));
    check_plan(
        &behind("proxy-1"),
        &[
            "routing[0].admin: is on the host of proxy-1:3306, where the plan says that applications reach \
           a shard: ProxySQL would be told to connect to itself; name what is behind it in \
           application_host, or leave that out",
        ],
    );
}
