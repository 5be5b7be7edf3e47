//! What a daemon answers over HTTP: four pages that anyone may read, and what only the bearer of the
//! plan's token may ask (`control`). On loopback unless told otherwise; HTTPS where the plan has a
//! certificate.
//!
//! | page | answers |
//! |---|---|
//! | `/metrics` | Prometheus text |
//! | `/healthz` | 200 while every stream of this process runs; 503 with the halts otherwise |
//! | `/ready` | the gate: 200 open, 503 closed or unknown, with the reasons as JSON |
//! | `/status` | streams, positions, the throttle and the gate as JSON |
//! | `/control/…` | POST: see `control::api` |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use modshift_mariadb::pace::Throttle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::control;
use crate::control::api::Api;
use crate::control::listener::TlsListener;
use crate::daemon::newborn::Exported;
use crate::daemon::streams::Board;
use crate::gate::Answer;

/// What the pages are made of.
pub struct Pages {
    pub role: &'static str,
    pub plan: String,
    pub started: Instant,
    pub metrics: Exported,
    pub board: Board,
    pub gate: watch::Receiver<Answer>,
    pub throttle: Throttle,
}

/// Binds first, so that a taken port is a fault at the start and not a silent daemon.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    use anyhow::Context;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another with --listen"))?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "status pages are reachable from other hosts, without a password");
    }
    Ok(listener)
}

pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    pages: Arc<Pages>,
    api: Arc<Api>,
    cancel: CancellationToken,
) {
    let router = router(pages).merge(control::api::router(api));
    match tls {
        None => control::serve::serve(listener, router, cancel).await,
        Some(acceptor) => {
            control::serve::serve(TlsListener::new(listener, acceptor), router, cancel).await;
        }
    }
}

fn router(pages: Arc<Pages>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .with_state(pages)
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, pages.metrics.render()).into_response()
}

async fn healthz(State(pages): State<Arc<Pages>>) -> Response {
    let halts = pages.board.halts();
    if halts.is_empty() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    let halts: Vec<_> = halts
        .into_iter()
        .map(|(stream, halt)| json!({ "stream": stream, "reason": halt.reason, "message": halt.message }))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "halted": halts }))).into_response()
}

async fn ready(State(pages): State<Arc<Pages>>) -> Response {
    let answer = pages.gate.borrow().clone().by(Instant::now());
    let code = if answer.is_open() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(answer)).into_response()
}

async fn status(State(pages): State<Arc<Pages>>) -> Response {
    let page = json!({
        "role": pages.role,
        "plan": pages.plan,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": pages.started.elapsed().as_secs(),
        "streams": pages.board.status(),
        "refused_logins": control::pages::refused_here(),
        "waits": control::pages::waits_here(&pages.board),
        "throttle": pages.throttle.view(),
        "gate": pages.gate.borrow().clone().by(Instant::now()),
    });
    Json(page).into_response()
}
