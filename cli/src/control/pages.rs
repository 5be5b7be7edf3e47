//! What a daemon says of itself on its `/status` page and nobody else can know: which logins servers
//! refuse to it, which streams have halted in it (also before they had begun), what streams wait for
//! that passes by itself, and who holds it back. A daemon that cannot be reached says nothing, which is
//! no trouble of its own: the databases show whether its streams go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::troubles;
use modshift_mariadb::refused;
use modshift_proto::plan::Plan;
use serde::Serialize;
use serde_json::Value;
use ureq::Agent;

use super::command::{agent, planned_urls};
use crate::daemon::Role;
use crate::daemon::streams::Board;

/// A daemon answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// A gate samples several times a second.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Of this process.
pub fn refused_here() -> Vec<String> {
    let line = |refusal: refused::Refusal| {
        format!(
            "{refusal}; modshift tries again every few seconds, with what a password_file says by \
             then. A password of the plan itself or of the environment is read at the start only: \
             restart the daemon once that is changed"
        )
    };
    refused::refused().into_iter().map(line).collect()
}

/// What the streams of this process wait for, and passes by itself.
pub fn waits_here(board: &Board) -> Vec<String> {
    let kafka = troubles().into_iter().map(|trouble| trouble.to_string());
    board.waits().into_iter().chain(kafka).collect()
}

/// What the daemons that answered say of themselves.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Logins that are refused to them, each with the daemon that says so.
    pub refused: Vec<String>,
    /// What they wait for that passes by itself, likewise.
    pub waits: Vec<String>,
    pub halts: Vec<Halted>,
    pub daemons: Vec<Daemon>,
}

/// A stream that has halted in a daemon that is there. One that halts before it has begun is recorded
/// nowhere else: the shard may be another reader's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    pub daemon: String,
    /// The shard at its end in that daemon: `old shard 0`, `way back: new shard 1`.
    pub stream: String,
    pub message: String,
    pub hint: Option<String>,
}

/// One that may be there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Daemon {
    pub role: &'static str,
    pub url: String,
    pub answers: bool,
    /// Why it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Share of the time that copying and verifying may take, 0 while paused; `None`: it does not say.
    pub pace: Option<f64>,
    /// Why that is less than all of it.
    pub held: Option<String>,
    /// Its gate, which asks all that the gate asks; `None`: it does not say.
    pub gate_open: Option<bool>,
    /// What keeps its gate closed, beside the streams.
    #[serde(skip)]
    pub objections: Vec<String>,
    /// Shards that do not answer it.
    #[serde(skip)]
    pub away: Vec<String>,
    /// Nothing does, but all has not been well for long enough.
    #[serde(skip)]
    pub holds: bool,
}

impl Said {
    /// For the gate: what no database says.
    pub fn lines(&self) -> Vec<String> {
        self.refused.iter().cloned().chain(self.halts.iter().map(Halted::line)).collect()
    }
}

impl Halted {
    pub fn line(&self) -> String {
        format!("{}: {} has halted: {}", self.daemon, self.stream, self.message)
    }
}

/// The daemons of a plan, where it says that they listen, or where they do by default.
pub struct Daemons {
    plan: Arc<Plan>,
    at: Vec<(Role, String)>,
    agent: Result<Agent, String>,
    asked: Option<(Instant, Said)>,
}

impl Daemons {
    pub fn of(plan: &Arc<Plan>) -> Daemons {
        let agent = agent(plan.control.tls_ca.as_deref(), ANSWER_WITHIN);
        let agent = agent.map_err(|error| format!("not asked: {error:#}"));
        Daemons { plan: plan.clone(), at: planned_urls(plan), agent, asked: None }
    }

    pub async fn said(&mut self) -> Said {
        if let Some((at, said)) = &self.asked
            && at.elapsed() < ASK_EVERY
        {
            return said.clone();
        }
        let agent = self.agent.clone();
        let (plan, at) = (self.plan.clone(), self.at.clone());
        let asking = tokio::task::spawn_blocking(move || {
            let mut said = Said::default();
            for (role, url) in &at {
                let page = agent.as_ref().map_err(Clone::clone).and_then(|agent| page(agent, url));
                of_page(
                    &mut said,
                    page.as_ref().map_err(String::as_str),
                    plan.forward_name(),
                    role.name(),
                    url,
                );
            }
            said
        });
        let said = asking.await.unwrap_or_default();
        self.asked = Some((Instant::now(), said.clone()));
        said
    }
}

fn page(agent: &Agent, url: &str) -> Result<Value, String> {
    let get = || {
        let mut response = agent.get(format!("{url}/status")).call()?;
        response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()
    };
    let body = get().map_err(|error| error.to_string())?;
    serde_json::from_str(&body).map_err(|_| "what listens there is no modshift daemon".to_owned())
}

/// Reasons that only the whole gate finds, not who looks at the streams alone; those of the daemon itself
/// among them.
const BESIDE_STREAMS: [&str; 6] =
    ["check", "obstacle", "schema_difference", "schema_unknown", "journal", "daemon"];

/// Another plan's daemon may listen there.
fn of_page(said: &mut Said, page: Result<&Value, &str>, plan: &str, role: &'static str, url: &str) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let nothing = Value::Null;
    let (page, why) = match page {
        Ok(page) if page["plan"] == plan => (page, None),
        Ok(_) => (&nothing, Some("a daemon of another plan listens there")),
        Err(why) => (&nothing, Some(why)),
    };
    let answers = why.is_none();
    let daemon = format!("modshift {role}");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let refused = list(&page["refused_logins"]);
    let refused = refused.iter().filter_map(Value::as_str);
    said.refused.extend(refused.map(|line| format!("{daemon}: {line}")));
    let waits = list(&page["waits"]);
    let waits = waits.iter().filter_map(Value::as_str);
    said.waits.extend(waits.map(|line| format!("{daemon}: {line}")));
    let streams = list(&page["streams"]);
    let are = |state: &'static str| streams.iter().filter(move |one| one["state"] == state);
    let taken: Vec<&str> = are("taken").filter_map(|one| one["stream"].as_str()).collect();
    if !taken.is_empty() {
        said.waits.push(format!(
            "{daemon} at {url} waits: another daemon has taken its streams ({}), where they go on: stop \
             one of the two for good",
            taken.join(", ")
        ));
    }
    for stream in are("halted") {
        said.halts.push(Halted {
            daemon: daemon.clone(),
            stream: text(&stream["stream"]).unwrap_or_default(),
            message: text(&stream["message"]).unwrap_or_default(),
            hint: text(&stream["hint"]),
        });
    }
    let reasons = list(&page["gate"]["reasons"]);
    let of = |is: &dyn Fn(Option<&str>) -> bool| {
        let reasons = reasons.iter().filter(|reason| is(reason["kind"].as_str()));
        reasons.filter_map(|reason| text(&reason["message"])).collect::<Vec<_>>()
    };
    let holds = |reason: &Value| reason["kind"] == "hold";
    said.daemons.push(Daemon {
        role,
        url: url.to_owned(),
        answers,
        why: why.map(str::to_owned),
        pace: page["throttle"]["pace"].as_f64(),
        held: text(&page["throttle"]["why"]),
        gate_open: page["gate"]["open"].as_bool(),
        // Without a kind: its gate could not tell.
        objections: of(&|kind| kind.is_none_or(|kind| BESIDE_STREAMS.contains(&kind))),
        away: of(&|kind| kind == Some("unreachable")),
        holds: !reasons.is_empty() && reasons.iter().all(holds),
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_daemon_of_this_plan_is_believed() {
        let page = json!({
            "plan": "shop",
            "refused_logins": ["db:3306 refuses the login"],
            "waits": ["old shard 1 waits since 3 s: db:3306 is full"],
            "streams": [
                { "stream": "old shard 0", "state": "halted", "reason": "definition",
                  "message": "column a of t is another", "hint": "undo it" },
                { "stream": "new shard 0", "state": "running" },
                { "stream": "new shard 1", "state": "taken", "reason": "taken_over", "message": "" },
            ],
            "throttle": { "pace": 0.0, "why": "paused by anna" },
            "gate": { "open": false, "reasons": [
                { "kind": "check", "message": "modshift check: sync_binlog is 0" },
                { "kind": "time_lag", "message": "behind" },
                { "kind": "unreachable", "message": "new shard 1 is away" },
                { "message": "the shards last answered 2.5 s ago" },
            ] },
        });
        let of = |page: &Value, plan| {
            let mut said = Said::default();
            of_page(&mut said, Ok(page), plan, "run", "http://h:1");
            said
        };
        let said = of(&page, "shop");
        assert_eq!(said.refused, ["modshift run: db:3306 refuses the login"]);
        assert_eq!(said.waits[0], "modshift run: old shard 1 waits since 3 s: db:3306 is full");
        let taken =
            "modshift run at http://h:1 waits: another daemon has taken its streams (new shard 1)";
        assert!(said.waits[1].starts_with(taken), "{:?}", said.waits);
        let halted = "modshift run: old shard 0 has halted: column a of t is another";
        assert_eq!(said.lines(), [said.refused[0].as_str(), halted]);
        assert_eq!(said.halts[0].hint.as_deref(), Some("undo it"));
        let daemon = &said.daemons[0];
        assert_eq!(daemon.held.as_deref(), Some("paused by anna"));
        assert_eq!((daemon.answers, daemon.pace, daemon.gate_open), (true, Some(0.0), Some(false)));
        let objections = ["modshift check: sync_binlog is 0", "the shards last answered 2.5 s ago"];
        assert_eq!(daemon.objections, objections);
        assert_eq!(
            (daemon.away.as_slice(), daemon.holds),
            (&["new shard 1 is away".to_owned()][..], false)
        );
        let holding = json!({ "plan": "shop", "gate": { "open": false, "reasons": [
            { "kind": "hold", "message": "held for 2 of 10 s" },
        ] } });
        assert!(of(&holding, "shop").daemons[0].holds);
        let mut silent = Said::default();
        of_page(&mut silent, Err("connection refused"), "shop", "run", "http://h:1");
        assert_eq!(silent.daemons[0].why.as_deref(), Some("connection refused"));
        for said in [of(&page, "other"), of(&Value::Null, "shop")] {
            assert!(said.lines().is_empty());
            assert!(!said.daemons[0].answers && said.daemons[0].pace.is_none());
        }
    }
}
