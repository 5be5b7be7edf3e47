//! The operator's side: `modshift pause`, `resume`, `throttle`.
//!
//! Each daemon is asked in turn, and each answer is a line; one that cannot be reached does not keep
//! the others from being asked.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use modshift_mariadb::audit;
use modshift_proto::plan::{Log, Plan};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::answer;
use crate::args;
use crate::daemon::Role;
use crate::exit::{BadPlan, Exit};

/// The daemon itself waits two seconds for the audit table.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

pub enum Action {
    Pause,
    Resume,
    /// The body of the request.
    Throttle(Value),
}

impl Action {
    pub fn throttle(args: &args::Throttle) -> Action {
        let mut body = serde_json::Map::new();
        if args.off {
            body.insert("ratio".to_owned(), json!(1.0));
            body.insert("rows_per_second".to_owned(), Value::Null);
        }
        if let Some(ratio) = args.ratio {
            body.insert("ratio".to_owned(), json!(ratio));
        }
        if let Some(rows) = args.rows_per_second {
            body.insert("rows_per_second".to_owned(), json!(rows));
        }
        Action::Throttle(Value::Object(body))
    }

    fn path(&self) -> &'static str {
        match self {
            Action::Pause => "/control/pause",
            Action::Resume => "/control/resume",
            Action::Throttle(_) => "/control/throttle",
        }
    }

    fn body(&self) -> String {
        match self {
            Action::Pause | Action::Resume => String::new(),
            Action::Throttle(body) => body.to_string(),
        }
    }
}

pub async fn run(plan: Arc<Plan>, daemons: &args::Daemons, action: Action) -> anyhow::Result<Exit> {
    let Some(token) = plan.control.token.clone() else {
        let message = "the plan has no control.token: the daemons' control API is off; give it one \
                       and restart the daemons";
        return Err(BadPlan(message.to_owned()).into());
    };
    let urls = urls(&plan, daemons)?;
    let agent = agent(plan.control.tls_ca.as_deref(), ANSWER_WITHIN)?;
    let asking = tokio::task::spawn_blocking(move || {
        let mut exit = Exit::Done;
        for (role, url) in urls {
            let outcome = ask(&agent, &url, token.expose(), &action);
            let (line, worse) = match outcome {
                Ok(line) => (line, Exit::Done),
                Err(Trouble { line, exit }) => (line, exit),
            };
            answer::line(format_args!("{} {url}: {line}", role.name()));
            // Somebody who did not answer may have done it or not: that outweighs a refusal.
            if worse as u8 > exit as u8 {
                exit = worse;
            }
        }
        exit
    });
    asking.await.context("asking the daemons")
}

struct Trouble {
    line: String,
    exit: Exit,
}

fn ask(agent: &Agent, url: &str, token: &str, action: &Action) -> Result<String, Trouble> {
    let refused = |line: String| Trouble { line, exit: Exit::No };
    let silent = |line: String| Trouble { line, exit: Exit::CannotTell };
    let response = agent
        .post(format!("{url}{}", action.path()))
        .header("authorization", format!("Bearer {token}"))
        .header(super::OPERATOR, header(&audit::operator()))
        .header(super::COMMAND, header(&audit::command_line(std::env::args())))
        .header("content-type", "application/json")
        .send(action.body());
    let mut response = response.map_err(|error| silent(explained(&error)))?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
    let body: Value =
        body.ok().and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default();
    let why = body["error"].as_str().unwrap_or("it does not say why").to_owned();
    match status {
        200 => Ok(done(&body)),
        401 => Err(refused(format!(
            "refused: the token is not that of the plan with which this daemon was started ({why})"
        ))),
        404 | 405 => {
            Err(refused("refused: no modshift daemon of this version is there".to_owned()))
        }
        _ => Err(refused(format!("refused ({status}): {why}"))),
    }
}

fn done(body: &Value) -> String {
    let mut line = body["done"].as_str().unwrap_or("done").to_owned();
    if let Some(why) = body["throttle"]["why"].as_str() {
        line += &format!("; now {why}");
    }
    if body["audited"] != Value::Bool(true) {
        line += "; not in the audit table yet: the daemon goes on trying, see its log";
    }
    line
}

fn explained(error: &ureq::Error) -> String {
    let hint = match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "no daemon listens there: is it running? --replicator, --consumer or --run say where"
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => {
            "the daemon's certificate must be of control.tls_ca and carry the host of the URL"
        }
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            "the daemon's certificate must be of control.tls_ca and carry the host of the URL"
        }
        ureq::Error::Timeout(_) => "it may have done it all the same: see its /status",
        _ => "is it a modshift daemon of this plan, with TLS if the plan has control.tls_cert?",
    };
    format!("no answer: {error}; {hint}")
}

/// What goes into a header: printable ASCII.
fn header(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Straight to the daemon: no proxy sees the token, and no redirect takes it elsewhere.
pub(super) fn agent(ca: Option<&Path>, within: Duration) -> anyhow::Result<Agent> {
    let roots = match ca {
        None => RootCerts::WebPki,
        Some(path) => RootCerts::new_with_certs(&authorities(path)?),
    };
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(within))
        .max_redirects(0)
        .proxy(None)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build();
    Ok(Agent::new_with_config(config))
}

fn authorities(path: &Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let bad = |what: &str| BadPlan(format!("control.tls_ca: {}: {what}", path.display()));
    let pem = std::fs::read(path).map_err(|error| bad(&format!("cannot be read: {error}")))?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    if found.is_empty() { Err(bad("no certificate in it").into()) } else { Ok(found) }
}

/// Those of the command line; without any, where the plan has them.
pub(super) fn urls(plan: &Plan, daemons: &args::Daemons) -> anyhow::Result<Vec<(Role, String)>> {
    let named = [
        (Role::Replicator, &daemons.replicator),
        (Role::Consumer, &daemons.consumer),
        (Role::Run, &daemons.run),
    ];
    let named: Vec<(Role, String)> = named
        .into_iter()
        .flat_map(|(role, urls)| urls.iter().map(move |url| (role, url.clone())))
        .collect();
    let urls = if named.is_empty() { planned_urls(plan) } else { named };
    urls.into_iter().map(|(role, url)| Ok((role, checked(&url).map_err(BadPlan)?))).collect()
}

/// Where the plan has the daemons listen. Each of them, whether a token may be sent there or not: who only
/// looks sends none.
pub(super) fn planned_urls(plan: &Plan) -> Vec<(Role, String)> {
    let roles: &[Role] = match &plan.log {
        Log::Direct { .. } => &[Role::Run],
        Log::Kafka(_) => &[Role::Replicator, Role::Consumer],
    };
    roles.iter().map(|role| (*role, planned(plan, *role))).collect()
}

fn planned(plan: &Plan, role: Role) -> String {
    let scheme = if plan.control.tls.is_some() { "https" } else { "http" };
    let address = match role.planned_address(plan) {
        // Where it listens on every address, it does so here.
        Some(text) => text.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:"),
        None => format!("127.0.0.1:{}", role.port()),
    };
    format!("{scheme}://{address}")
}

/// A daemon's address, to which the token may be sent.
fn checked(url: &str) -> Result<String, String> {
    let bad = |why: &str| format!("{url}: {why}");
    let base = url.trim_end_matches('/');
    let (scheme, authority) =
        base.split_once("://").ok_or_else(|| bad("expected a URL, https://host:port"))?;
    if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
        return Err(bad("expected nothing but scheme, host and port, https://host:port"));
    }
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => return Err(bad("expected a port, https://host:port")),
    };
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    match scheme {
        "https" => Ok(base.to_owned()),
        "http" if loopback => Ok(base.to_owned()),
        "http" => Err(bad("the token does not cross a network in the clear, expected https")),
        _ => Err(bad("expected http or https")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_the_host_through_tls_alone() {
        let check = |url: &str, expected: Result<&str, &str>| {
            let found = checked(url);
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                _ => panic!("{url}: {found:?}"),
            }
        };
        check("https://db-1:9477", Ok("https://db-1:9477"));
        check("https://db-1:9477/", Ok("https://db-1:9477"));
        check("http://127.0.0.1:9477", Ok("http://127.0.0.1:9477"));
        check("http://[::1]:9477", Ok("http://[::1]:9477"));
        check("http://localhost:9477", Ok("http://localhost:9477"));
        check("http://db-1:9477", Err("in the clear"));
        check("http://127.0.0.1.evil:9477", Err("in the clear"));
        check("http://localhost:1@evil:9477", Err("nothing but"));
        check("https://db-1", Err("a port"));
        check("db-1:9477", Err("a URL"));
        check("ftp://db-1:9477", Err("http or https"));
        check("https://db-1:9477/control", Err("nothing but"));
    }

    #[test]
    fn headers_hold_nothing_that_ends_a_line() {
        assert_eq!(header("a b\r\nX: ö"), "a b??X: ?");
    }
}
