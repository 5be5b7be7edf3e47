//! `[[routing]]`: where the routing document is published, in this order.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::render::{REDACTED, Rendered};
use super::section::{Item, Section};
use super::sphere::{self, ShardingSphereTarget, ZooKeeperTarget};
use super::{Cutover, Endpoint, Plan, Scheme, Secret, Table, default};

/// One target. The cutover publishes to all of them, in the plan's order, and goes on only when
/// each has acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingTarget {
    /// What errors and the journal call it; `<kind>-<n>` unless the plan names it, n from 0.
    pub name: String,
    /// How long it may take to acknowledge.
    pub timeout: Duration,
    /// Of a target that is a file: a symbolic link is followed, and the file behind it replaced.
    /// Else one is refused.
    pub follow_symlinks: bool,
    pub kind: RoutingKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RoutingKind {
    /// The document as a file, replaced in one step.
    File {
        path: PathBuf,
    },
    /// The document as the body of a request; any 2xx acknowledges.
    Http {
        url: String,
        method: HttpMethod,
        token: Option<Secret>,
        tls_ca: Option<PathBuf>,
    },
    /// A program with the document on its standard input; exit code 0 acknowledges.
    Command {
        argv: Vec<String>,
        /// Variables of modshift's environment that it gets beside a few common ones.
        env: Vec<String>,
    },
    /// The document as the value of a key.
    Etcd(EtcdTarget),
    ProxySql(ProxySqlTarget),
    ShardingSphere(ShardingSphereTarget),
    ZooKeeper(ZooKeeperTarget),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    Put,
    Post,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EtcdTarget {
    /// Base addresses of the cluster's members, `http://host:2379`; tried in order.
    pub endpoints: Vec<String>,
    pub key: String,
    /// User and password, where etcd wants a login.
    pub login: Option<(String, Secret)>,
    pub tls_ca: Option<PathBuf>,
}

/// Statements for ProxySQL's admin interface. At least one of `file` and `admin`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxySqlTarget {
    /// Written here.
    pub file: Option<PathBuf>,
    /// And sent there.
    pub admin: Option<ProxySqlAdmin>,
    /// Old shard *i* is hostgroup `hostgroup_base + i`, new shard *j* 1024 above. Modshift owns the
    /// 2048 from the base on.
    pub hostgroup_base: u32,
    /// Modshift owns the 1025 query rules from this id on.
    pub rule_base: u32,
    pub matching: ProxySqlMatch,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ProxySqlAdmin {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Secret,
}

/// How ProxySQL knows the shard of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxySqlMatch {
    /// By a comment that the application puts into it: `/* shard=3/4 */`, shard 3 of 4.
    Hint,
    /// By the schema of the connection.
    Schema,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    File,
    Http,
    Command,
    Etcd,
    ProxySql,
    ShardingSphere,
    ZooKeeper,
}

const KINDS: [(&str, Kind); 7] = [
    ("file", Kind::File),
    ("http", Kind::Http),
    ("command", Kind::Command),
    ("etcd", Kind::Etcd),
    ("proxysql", Kind::ProxySql),
    ("shardingsphere", Kind::ShardingSphere),
    ("zookeeper", Kind::ZooKeeper),
];
const METHODS: [(&str, HttpMethod); 2] = [("PUT", HttpMethod::Put), ("POST", HttpMethod::Post)];
const MATCHES: [(&str, ProxySqlMatch); 2] =
    [("hint", ProxySqlMatch::Hint), ("schema", ProxySqlMatch::Schema)];

/// What a target may have to know of the plan beside it.
pub(super) struct Beside<'a> {
    pub old: &'a [Endpoint],
    pub new: &'a [Endpoint],
    pub tables: &'a [Table],
    pub scheme: Scheme,
    pub cutover: &'a Cutover,
}

impl Plan {
    /// The centres of ShardingSphere's that applications follow, each with the name of its target.
    pub fn centres(&self) -> impl Iterator<Item = (&str, &ZooKeeperTarget)> {
        self.routing.iter().filter_map(|target| match &target.kind {
            RoutingKind::ZooKeeper(centre) => Some((target.name.as_str(), centre)),
            _ => None,
        })
    }
}

pub(super) fn read(root: &Section<'_>, beside: &Beside<'_>) -> Vec<RoutingTarget> {
    let mut names: HashMap<String, String> = HashMap::new();
    let mut targets = Vec::new();
    // The last centre so far.
    let mut centre: Option<String> = None;
    for (index, section) in root.sections("routing").into_iter().enumerate() {
        let kind = section
            .required("kind", "file, http, command, etcd, proxysql, shardingsphere or zookeeper")
            .and_then(|item| item.word(&KINDS));
        let word = kind.map_or("routing", |kind| super::render::word(&KINDS, kind));
        match (kind, &centre) {
            (Some(Kind::ZooKeeper), _) => centre = Some(section.path.clone()),
            // The centre waits for an application that was started with this file.
            (Some(Kind::ShardingSphere), Some(centre)) if section.has("yaml") => {
                section.fault_at(
                    "kind",
                    format!(
                        "stands behind {centre}, of kind zookeeper, which takes nothing before an \
                         application has been started with the published YAML: put it before that one"
                    ),
                );
            }
            _ => {}
        }
        let name = section
            .get("name")
            .and_then(|item| item.text_that("1 to 64 characters of a-z, 0-9, _ and -", is_name))
            .unwrap_or_else(|| format!("{word}-{index}"));
        if let Some(first) = names.insert(name.clone(), section.path.clone()) {
            section.fault_at("name", format!("{name} is that of {first} too"));
        }
        let range = Duration::from_millis(1)..=Duration::from_secs(60);
        let timeout = section.duration("timeout", default::ROUTING_TIMEOUT, range);
        let is_file =
            |kind: &Kind| matches!(kind, Kind::File | Kind::ProxySql | Kind::ShardingSphere);
        let follow_symlinks = kind.as_ref().is_some_and(is_file) && section.flag("follow_symlinks");
        if let Some(kind) = kind.and_then(|kind| read_kind(&section, kind, beside)) {
            targets.push(RoutingTarget { name, timeout, follow_symlinks, kind });
        }
        // Without a kind no key can be called unknown.
        if kind.is_some() {
            section.finish();
        }
    }
    targets
}

fn read_kind(section: &Section<'_>, kind: Kind, beside: &Beside<'_>) -> Option<RoutingKind> {
    match kind {
        Kind::File => {
            let path = section.required("path", "the file that applications read")?.file()?;
            Some(RoutingKind::File { path })
        }
        Kind::Http => {
            let method = section.get("method").and_then(|item| item.word(&METHODS));
            let token = section.get("token").and_then(|item| secret(&item));
            let tls_ca = section.get("tls_ca").and_then(|item| item.file());
            let url = section.required("url", "http:// or https:// and an address")?;
            let url = read_url(&url, "http:// or https:// and an address", is_url)?;
            let method = method.unwrap_or(default::ROUTING_METHOD);
            guard(section, "token", std::slice::from_ref(&url));
            Some(RoutingKind::Http { url, method, token, tls_ca })
        }
        Kind::Command => {
            let item = section.required("argv", "a program and its arguments")?;
            let argv: Vec<_> = item.elements().iter().filter_map(Item::text).collect();
            if argv.first().is_none_or(String::is_empty) {
                item.fault("expected a program and its arguments");
            }
            let named = section.get("env");
            let names = named.as_ref().map(Item::elements).unwrap_or_default();
            let env = names.iter().filter_map(Item::text).collect();
            Some(RoutingKind::Command { argv, env })
        }
        Kind::Etcd => read_etcd(section).map(RoutingKind::Etcd),
        Kind::ProxySql => read_proxysql(section, beside).map(RoutingKind::ProxySql),
        Kind::ShardingSphere => sphere::read_files(section).map(RoutingKind::ShardingSphere),
        Kind::ZooKeeper => sphere::read_zookeeper(section, beside).map(RoutingKind::ZooKeeper),
    }
}

fn read_etcd(section: &Section<'_>) -> Option<EtcdTarget> {
    let login = read_login(section);
    let tls_ca = section.get("tls_ca").and_then(|item| item.file());
    let key = section
        .required("key", "the key that applications watch")
        .and_then(|item| item.text_that("a key", |key| !key.is_empty()));
    let item = section.required("endpoints", "[\"http://host:2379\", …]")?;
    let elements = item.elements();
    if elements.is_empty() {
        item.fault("expected at least one address");
    }
    let base = |text: &str| is_url(text) && !text.ends_with('/');
    let endpoint = |item| read_url(item, "http://host:2379 or https://host:2379", base);
    let endpoints: Vec<String> = elements.iter().filter_map(endpoint).collect();
    guard(section, "password", &endpoints);
    Some(EtcdTarget { endpoints, key: key?, login, tls_ca })
}

/// No secret travels in clear text, unless the plan says so. On loopback nobody can listen.
fn guard(section: &Section<'_>, key: &'static str, urls: &[String]) {
    let accepted = section.flag("plaintext");
    if let Some(url) = urls.iter().find(|url| is_open(url))
        && section.has(key)
        && !accepted
    {
        section.fault_at(
            key,
            format!("would go to {url} in clear text: take https://, or say plaintext = true"),
        );
    }
}

fn is_open(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    !is_here(host)
}

/// On loopback nobody can listen.
pub(super) fn is_here(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Both of user and password, or neither.
fn read_login(section: &Section<'_>) -> Option<(String, Secret)> {
    let user = section.get("user").and_then(|item| item.text_that("a name", |u| !u.is_empty()));
    let password = section.get("password").and_then(|item| secret(&item));
    match (section.has("user"), section.has("password")) {
        (true, false) => section.missing("password", "one, as there is a user"),
        (false, true) => section.missing("user", "one, as there is a password"),
        _ => {}
    }
    Some((user?, password?))
}

fn read_proxysql(section: &Section<'_>, beside: &Beside<'_>) -> Option<ProxySqlTarget> {
    let file = section.get("file").and_then(|item| item.file());
    let login = read_login(section);
    let address = section
        .get("admin")
        .and_then(|item| item.text_that("host:port", |text| split_address(text).is_some()));
    let admin = match (address.as_deref().and_then(split_address), login) {
        (Some((host, port)), Some((user, password))) => {
            Some(ProxySqlAdmin { host: host.to_owned(), port, user, password })
        }
        (Some(_), None) if !section.has("user") && !section.has("password") => {
            section.missing("user", "that of the admin interface, and its password");
            None
        }
        _ => None,
    };
    let own = |admin: &ProxySqlAdmin| {
        let all = beside.old.iter().chain(beside.new);
        let mut named = all.filter_map(|shard| shard.application.clone());
        named.find(|application| application.host.eq_ignore_ascii_case(&admin.host))
    };
    if let Some(application) = admin.as_ref().and_then(own) {
        section.fault_at(
            "admin",
            format!(
                "is on the host of {application}, where the plan says that applications reach a shard: \
                 ProxySQL would be told to connect to itself; name what is behind it in application_host, \
                 or leave that out"
            ),
        );
    }
    if !section.has("file") && !section.has("admin") {
        section.missing("file", "file, admin (host:port) or both");
    }
    // Room for the largest plan above either.
    let base = 0..=i32::MAX as u64 - 2048;
    let hostgroup = section.required("hostgroup_base", "the hostgroup of shard 0");
    let rule = section.required("rule_base", "the id of modshift's first query rule");
    let matching = section
        .required("match", "hint or schema: how ProxySQL knows the shard")
        .and_then(|item| item.word(&MATCHES));
    let number = |item: Item<'_>| item.number(base.clone()).and_then(|n| u32::try_from(n).ok());
    Some(ProxySqlTarget {
        file,
        admin,
        hostgroup_base: hostgroup.and_then(number)?,
        rule_base: rule.and_then(number)?,
        matching: matching?,
    })
}

pub(super) fn secret(item: &Item<'_>) -> Option<Secret> {
    item.secret().map(Secret::new)
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(allowed)
}

/// Not shown when it is refused: it may be refused for the password in it.
fn read_url(item: &Item<'_>, what: &str, test: impl Fn(&str) -> bool) -> Option<String> {
    let text = item.secret()?;
    if test(&text) {
        return Some(text);
    }
    item.fault(format!("expected {what}, and no login in it"));
    None
}

/// Without a login in it, which would be shown.
fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        !host.is_empty() && !host.contains('@') && !rest.contains(char::is_whitespace)
    })
}

fn split_address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    port.parse().ok().filter(|&port| plain && port != 0).map(|port| (host, port))
}

pub(super) fn render(targets: &[RoutingTarget], out: &mut Rendered) {
    for target in targets {
        out.head("[[routing]]");
        out.text("name", &target.name);
        out.duration("timeout", target.timeout);
        if target.follow_symlinks {
            out.line("follow_symlinks", true);
        }
        match &target.kind {
            RoutingKind::File { path } => {
                out.text("kind", "file");
                out.file("path", Some(path));
            }
            RoutingKind::Http { url, method, token, tls_ca } => {
                out.text("kind", "http");
                out.text("url", url);
                out.text("method", super::render::word(&METHODS, *method));
                if token.is_some() {
                    out.text("token", REDACTED);
                    if is_open(url) {
                        out.line("plaintext", true);
                    }
                }
                out.file("tls_ca", tls_ca.as_deref());
            }
            RoutingKind::Command { argv, env } => {
                out.text("kind", "command");
                out.texts("argv", argv);
                if !env.is_empty() {
                    out.texts("env", env);
                }
            }
            RoutingKind::Etcd(etcd) => {
                out.text("kind", "etcd");
                out.texts("endpoints", &etcd.endpoints);
                out.text("key", &etcd.key);
                if let Some((user, _)) = &etcd.login {
                    out.text("user", user);
                    out.text("password", REDACTED);
                    if etcd.endpoints.iter().any(|url| is_open(url)) {
                        out.line("plaintext", true);
                    }
                }
                out.file("tls_ca", etcd.tls_ca.as_deref());
            }
            RoutingKind::ProxySql(proxysql) => {
                out.text("kind", "proxysql");
                out.file("file", proxysql.file.as_deref());
                if let Some(admin) = &proxysql.admin {
                    out.text("admin", &format!("{}:{}", admin.host, admin.port));
                    out.text("user", &admin.user);
                    out.text("password", REDACTED);
                }
                out.line("hostgroup_base", proxysql.hostgroup_base);
                out.line("rule_base", proxysql.rule_base);
                out.text("match", super::render::word(&MATCHES, proxysql.matching));
            }
            RoutingKind::ShardingSphere(sphere) => sphere::render_files(sphere, out),
            RoutingKind::ZooKeeper(target) => sphere::render_zookeeper(target, out),
        }
    }
}
