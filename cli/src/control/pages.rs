//! What a daemon says of itself on its `/status` page and nobody else can know: which logins servers
//! refuse to it. A daemon that cannot be reached says nothing, which is no trouble of its own: the
//! databases show whether its streams go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::refused;
use modshift_proto::plan::Plan;
use serde_json::Value;
use ureq::Agent;

use super::command::{agent, urls};
use crate::args;
use crate::daemon::Role;

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

/// The daemons of a plan, where it says that they listen, or where they do by default.
pub struct Daemons {
    plan: Arc<Plan>,
    at: Vec<(Role, String)>,
    agent: Option<Agent>,
    asked: Option<(Instant, Vec<String>)>,
}

impl Daemons {
    pub fn of(plan: &Arc<Plan>) -> Daemons {
        // A plan whose addresses are no use here is for the commands that need them to refuse.
        let at = urls(plan, &args::Daemons::default()).unwrap_or_default();
        let agent = agent(plan.control.tls_ca.as_deref(), ANSWER_WITHIN).ok();
        Daemons { plan: plan.clone(), at, agent, asked: None }
    }

    /// Logins that are refused to them, each with the daemon that says so.
    pub async fn refused(&mut self) -> Vec<String> {
        if let Some((at, said)) = &self.asked
            && at.elapsed() < ASK_EVERY
        {
            return said.clone();
        }
        let Some(agent) = self.agent.clone() else { return Vec::new() };
        let (plan, at) = (self.plan.clone(), self.at.clone());
        let asking = tokio::task::spawn_blocking(move || {
            let of = |(role, url): &(Role, String)| -> Vec<String> {
                let page = page(&agent, url).unwrap_or_default();
                of_page(&page, plan.forward_name(), role.name())
            };
            at.iter().flat_map(of).collect::<Vec<String>>()
        });
        let said = asking.await.unwrap_or_default();
        self.asked = Some((Instant::now(), said.clone()));
        said
    }
}

fn page(agent: &Agent, url: &str) -> Option<Value> {
    let mut response = agent.get(format!("{url}/status")).call().ok()?;
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().ok()?;
    serde_json::from_str(&body).ok()
}

/// Another plan's daemon may listen there.
fn of_page(page: &Value, plan: &str, role: &str) -> Vec<String> {
    if page["plan"] != plan {
        return Vec::new();
    }
    let refused = page["refused_logins"].as_array().into_iter().flatten();
    refused.filter_map(Value::as_str).map(|line| format!("modshift {role}: {line}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_daemon_of_this_plan_is_believed() {
        let page = json!({ "plan": "shop", "refused_logins": ["db:3306 refuses the login"] });
        assert_eq!(of_page(&page, "shop", "run"), ["modshift run: db:3306 refuses the login"]);
        assert!(of_page(&page, "other", "run").is_empty());
        assert!(of_page(&Value::Null, "shop", "run").is_empty());
    }
}
