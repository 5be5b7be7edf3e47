//! The daemon's side: three things that it may be asked to do.
//!
//! | POST | body | does |
//! |---|---|---|
//! | `/control/pause` | | no further piece of copying or verifying starts |
//! | `/control/resume` | | ends that |
//! | `/control/throttle` | `{"ratio": 0.5}`, `{"rows_per_second": 1000}` or both | bounds the share of the time, or the rows; 1 and null lift them |
//!
//! Every request carries `Authorization: Bearer <token>`. The answer is JSON: what was done, what
//! the throttle does now, and whether it stands in the audit table already.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use modshift_mariadb::pace::{RATIO_MIN, Throttle};
use modshift_proto::plan::Secret;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use subtle::ConstantTimeEq;

use super::clerk::{Clerk, Deed};
use super::listener::Peer;

/// The largest request there is has some forty.
const BODY_BYTES_MAX: usize = 4096;
/// How long an answer waits for the audit table.
const AUDIT_WAIT: Duration = Duration::from_secs(2);

pub struct Api {
    pub token: Option<Secret>,
    pub throttle: Throttle,
    pub clerk: Clerk,
}

pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/control/pause", post(pause))
        .route("/control/resume", post(resume))
        .route("/control/throttle", post(throttle))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        // Outermost: who may not ask learns nothing of what could be asked.
        .layer(from_fn_with_state(api.clone(), admit))
        .with_state(api)
}

fn refused(code: StatusCode, why: impl Into<String>) -> Response {
    (code, Json(json!({ "error": why.into() }))).into_response()
}

async fn admit(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Some(token) = &api.token else {
        let why = "the control API is off: the plan that this daemon was started with has no \
                   control.token";
        return refused(StatusCode::FORBIDDEN, why);
    };
    if !has_token(request.headers(), token) {
        let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.0);
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(peer, "a control request without the right token");
        let why = "expected Authorization: Bearer with the token of the plan (control.token)";
        let mut response = refused(StatusCode::UNAUTHORIZED, why);
        let bearer = header::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        return response;
    }
    next.run(request).await
}

/// In a time that depends on the lengths alone.
fn has_token(headers: &HeaderMap, token: &Secret) -> bool {
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(|value| {
        let (scheme, token) = value.split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    given.is_some_and(|given| given.ct_eq(token.expose().as_bytes()).into())
}

/// On whose behalf, and by which words.
struct Asked {
    who: String,
    what: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Asked, Response> {
        let text = |name: &str| {
            let value = parts.headers.get(name)?.as_bytes();
            Some(String::from_utf8_lossy(value).into_owned()).filter(|text| !text.is_empty())
        };
        let peer: Option<SocketAddr> =
            parts.extensions.get::<ConnectInfo<Peer>>().map(|info| info.0.0);
        let from = peer.map(|peer| format!(" from {}", peer.ip())).unwrap_or_default();
        let who = text(super::OPERATOR).unwrap_or_else(|| "somebody".to_owned());
        let call = format!("{} {}", parts.method, parts.uri.path());
        Ok(Asked { who: format!("{who}{from}"), what: text(super::COMMAND).unwrap_or(call) })
    }
}

impl Api {
    /// Does it, has it written down, and answers.
    async fn act(
        &self,
        asked: Asked,
        detail: String,
        act: impl FnOnce(&str) -> String,
    ) -> Response {
        let Some(page) = self.clerk.page() else {
            let why = "too many actions wait to be written to modshift_audit on new shard 0: see \
                       this daemon's log for what is in the way";
            return refused(StatusCode::SERVICE_UNAVAILABLE, why);
        };
        let Asked { who, what } = asked;
        let done = act(&who);
        let deed = Deed { who, what, detail, outcome: done.clone() };
        let written = page.write(deed);
        let audited = matches!(tokio::time::timeout(AUDIT_WAIT, written).await, Ok(Ok(())));
        let view = self.throttle.view();
        Json(json!({ "done": done, "audited": audited, "throttle": view })).into_response()
    }
}

async fn pause(State(api): State<Arc<Api>>, asked: Asked) -> Response {
    let throttle = api.throttle.clone();
    let pause = |who: &str| match throttle.pause(who) {
        true => "paused".to_owned(),
        false => "was paused already".to_owned(),
    };
    api.act(asked, String::new(), pause).await
}

async fn resume(State(api): State<Arc<Api>>, asked: Asked) -> Response {
    let throttle = api.throttle.clone();
    let resume = |_: &str| match throttle.resume() {
        true => "resumed".to_owned(),
        false => "was not paused".to_owned(),
    };
    api.act(asked, String::new(), resume).await
}

/// What is not named stays as it is.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Bounds {
    ratio: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    rows_per_second: Option<Option<u32>>,
}

/// Null is a value here, not the lack of one.
fn given<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Option<u32>>, D::Error> {
    Option::deserialize(input).map(Some)
}

impl Bounds {
    fn parse(body: &[u8]) -> Result<Bounds, String> {
        let expected = format!(
            "expected {{\"ratio\": {RATIO_MIN} to 1}}, {{\"rows_per_second\": 1 or more, or null}}, \
             or both"
        );
        let bounds: Bounds =
            serde_json::from_slice(body).map_err(|error| format!("{expected}: {error}"))?;
        let ratio = bounds.ratio.is_none_or(|ratio| (RATIO_MIN..=1.0).contains(&ratio));
        let rows = bounds.rows_per_second != Some(Some(0));
        let any = bounds.ratio.is_some() || bounds.rows_per_second.is_some();
        if ratio && rows && any { Ok(bounds) } else { Err(expected) }
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        match self.ratio {
            Some(ratio) if ratio < 1.0 => {
                parts.push(format!("at most {} % of the time", ratio * 100.0))
            }
            Some(_) => parts.push("all of the time".to_owned()),
            None => {}
        }
        match self.rows_per_second {
            Some(Some(rows)) => parts.push(format!("at most {rows} rows a second")),
            Some(None) => parts.push("any number of rows a second".to_owned()),
            None => {}
        }
        f.write_str(&parts.join(", "))
    }
}

async fn throttle(State(api): State<Arc<Api>>, asked: Asked, body: axum::body::Bytes) -> Response {
    let bounds = match Bounds::parse(&body) {
        Ok(bounds) => bounds,
        Err(why) => return refused(StatusCode::BAD_REQUEST, why),
    };
    let (throttle, detail) = (api.throttle.clone(), bounds.to_string());
    let set = |_: &str| {
        if let Some(ratio) = bounds.ratio {
            throttle.set_ratio(ratio);
        }
        if let Some(rows) = bounds.rows_per_second {
            throttle.set_rows_per_second(rows);
        }
        format!("set: {bounds}")
    };
    api.act(asked, detail, set).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_or_refused() {
        let check = |body: &str, expected: Option<&str>| {
            let found = Bounds::parse(body.as_bytes()).ok().map(|bounds| bounds.to_string());
            assert_eq!(found.as_deref(), expected, "{body}");
        };
        check(r#"{"ratio": 0.5}"#, Some("at most 50 % of the time"));
        check(
            r#"{"ratio": 1, "rows_per_second": null}"#,
            Some("all of the time, any number of rows a second"),
        );
        check(r#"{"rows_per_second": 9}"#, Some("at most 9 rows a second"));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"ratio": null}"#,
            r#"{"ratio": 0}"#,
            r#"{"ratio": 1.1}"#,
            r#"{"ratio": -1}"#,
            r#"{"rows_per_second": 0}"#,
            r#"{"rows_per_second": -1}"#,
            r#"{"rows_per_second": 99999999999}"#,
            r#"{"ratio": 0.5, "rows": 1}"#,
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn only_the_very_token_is_let_in() {
        let token = Secret::new("0123456789abcdef".to_owned());
        let check = |value: Option<&str>, expected: bool| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(has_token(&headers, &token), expected, "{value:?}");
        };
        check(Some("Bearer 0123456789abcdef"), true);
        check(Some("bearer 0123456789abcdef"), true);
        for bad in [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer ",
            "Bearer",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            check(Some(bad), false);
        }
        check(None, false);
    }
}
