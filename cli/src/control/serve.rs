//! Serves the pages over connections that are held to limits: so many at once, a head within so long,
//! an answer within so long, and no connection for ever. Whoever sends or reads slowly holds up
//! nobody else, and nothing grows.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::listener::Peer;

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections: usize,
    /// The head of a request, and the wait for a further one on a connection that is kept.
    head: Duration,
    /// The body of a request, and what is done for it.
    request: Duration,
    /// Then a connection takes no further request; the client opens another.
    life: Duration,
    /// What an answer that is on its way gets to arrive, after that and when the daemon ends.
    grace: Duration,
}

/// Scrapers and operators, with room to spare; further connections wait until one ends. A scraper
/// that asks once a minute keeps its connection.
const LIMITS: Limits = Limits {
    connections: 128,
    head: Duration::from_secs(90),
    request: Duration::from_secs(30),
    life: Duration::from_secs(300),
    grace: Duration::from_secs(10),
};

pub async fn serve<L>(listener: L, router: Router, cancel: CancellationToken)
where
    L: Listener<Addr = SocketAddr>,
{
    serve_within(LIMITS, listener, router, cancel).await;
}

async fn serve_within<L>(limits: Limits, mut listener: L, router: Router, cancel: CancellationToken)
where
    L: Listener<Addr = SocketAddr>,
{
    let router = router.layer(middleware::from_fn_with_state(limits, in_time));
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < limits.connections;
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (io, peer) = listener.accept(), if room => {
                connections.spawn(connection(limits, io, peer, router.clone(), cancel.clone()));
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection<I>(
    limits: Limits,
    io: I,
    peer: SocketAddr,
    router: Router,
    cancel: CancellationToken,
) where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(Peer(peer)));
        router.clone().call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        _ = tokio::time::timeout(limits.life, cancel.cancelled()) => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.grace, serving).await {
                Ok(served) => served,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection to the pages ended early");
    }
}

async fn in_time(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limits.request, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const LIMIT: Duration = Duration::from_secs(30);

    async fn talk(at: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Everything until the other side hangs up.
    async fn heard(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        // However it hangs up.
        let _ = read.expect("it hangs up");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn slow_clients_are_cut_off_and_others_have_their_turn() {
        let limits =
            Limits { connections: 3, head: SHORT, request: SHORT, life: LIMIT, grace: SHORT };
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/large", get(async || vec![b'x'; 64 << 20]))
            .route("/body", post(async |body: Bytes| body.len().to_string()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(serve_within(
            Limits { life: SHORT * 4, ..limits },
            listener,
            router,
            cancel.clone(),
        ));
        // As many as there may be: half a head, half a body, and one who does not read.
        let head = talk(at, "GET / HTTP/1.1\r\nHost: h\r\n").await;
        let body =
            talk(at, "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf").await;
        let deaf = talk(at, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let next = talk(at, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        assert!(heard(next).await.ends_with("here"), "the next is not served");
        assert!(!heard(head).await.contains("here"));
        assert!(heard(body).await.starts_with("HTTP/1.1 408"));
        // Its time is over before it begins to read.
        tokio::time::sleep(SHORT * 8).await;
        assert!(heard(deaf).await.len() < 64 << 20, "an answer of any slowness arrives");
        cancel.cancel();
        tokio::time::timeout(LIMIT, serving).await.unwrap().unwrap();
    }
}
