//! An HTTP hook: the document as the body of a request, its version in a header. Any 2xx is the
//! acknowledgement; 409 and 412 say that the hook holds a newer version.

use std::path::Path;
use std::time::Duration;

use modshift_proto::plan::{HttpMethod, Secret};

use super::Ack;
use super::error::Failure;
use crate::document::Document;
use crate::http::{self, Call};

/// The version is in the body too; a hook may compare it before it reads that.
pub const VERSION_HEADER: &str = "Modshift-Routing-Version";

pub struct Hook<'a> {
    pub url: &'a str,
    pub method: HttpMethod,
    pub token: Option<&'a Secret>,
}

pub fn method_name(method: HttpMethod) -> &'static str {
    match method {
        HttpMethod::Put => "PUT",
        HttpMethod::Post => "POST",
    }
}

pub async fn publish(
    hook: &Hook<'_>,
    tls_ca: Option<&Path>,
    timeout: Duration,
    document: &Document,
) -> Result<Ack, Failure> {
    let method = method_name(hook.method);
    let doing = format!("{method} {}", hook.url);
    let agent = http::agent(tls_ca, timeout)
        .map_err(|detail| Failure::Unreachable { doing: doing.clone(), detail })?;
    let mut headers = vec![
        ("Content-Type", "application/json".to_owned()),
        (VERSION_HEADER, document.version.to_string()),
    ];
    if let Some(token) = hook.token {
        headers.push(("Authorization", format!("Bearer {}", token.expose())));
    }
    let call = Call {
        method,
        url: hook.url.to_owned(),
        headers,
        body: Some(document.to_json().into_bytes()),
    };
    let answer = tokio::task::spawn_blocking(move || http::call(&agent, &call))
        .await
        .map_err(|error| Failure::Unanswered { detail: error.to_string() })?;
    match answer {
        Ok(answer) if (200..300).contains(&answer.status) => Ok(Ack::Stored),
        Ok(answer) => {
            let newer = match answer.status {
                409 | 412 => ": it holds a newer version",
                _ => "",
            };
            let said = http::excerpt(&answer.body);
            let detail = format!("{doing} answered {}{newer}{said}", answer.status);
            Err(Failure::Refused { detail })
        }
        Err(error) if error.sent => {
            Err(Failure::Unanswered { detail: format!("{doing}: {}", error.detail) })
        }
        Err(error) => Err(Failure::Unreachable { doing, detail: error.detail }),
    }
}
