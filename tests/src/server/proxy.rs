//! A TCP proxy before a server: the network between two hosts, to be cut, closed, stalled, slowed.
//!
//! It runs on a thread and a runtime of its own, so that a test which blocks does not stall it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use crate::{place::free_port, random::Random};

/// How long each piece of data waits on its way from the server to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delay {
    #[default]
    None,
    Fixed(Duration),
    /// Anything up to this, anew for each piece.
    UpTo(Duration),
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Port of the server.
    target: u16,
    open: bool,
    /// Raised by each cut: connections of an older generation end.
    generation: u64,
    stalled: bool,
    delay: Delay,
    ended: bool,
}

#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
}

impl Proxy {
    pub async fn start(host: &str, target_port: u16) -> Result<Arc<Self>> {
        let port = free_port()?;
        let host = host.to_owned();
        let first = State {
            target: target_port,
            open: true,
            generation: 0,
            stalled: false,
            delay: Delay::None,
            ended: false,
        };
        let (state, watched) = watch::channel(first);
        let (ready, started) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name(format!("proxy-{port}"))
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => runtime.block_on(serve(port, host, watched, ready)),
                    Err(error) => drop(ready.send(Err(error))),
                }
            })
            .context("starting the proxy's thread")?;
        started.await.context("the proxy's thread ended")?.context("opening the proxy's port")?;
        Ok(Arc::new(Self { port, state }))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection there is; new ones are taken.
    pub fn cut(&self) {
        self.state.send_modify(|s| s.generation += 1);
    }

    /// A virtual IP that moves: every connection ends, and new ones come out at the other server.
    pub fn lead_to(&self, port: u16) {
        self.state.send_modify(|s| {
            s.target = port;
            s.generation += 1;
        });
    }

    /// Ends every connection and refuses new ones until `reopen`.
    pub fn refuse(&self) {
        self.state.send_modify(|s| {
            s.open = false;
            s.generation += 1;
        });
    }

    pub fn reopen(&self) {
        self.state.send_modify(|s| {
            s.open = true;
            s.stalled = false;
        });
    }

    /// Connections stay open and nothing moves (a black hole) until `reopen`.
    pub fn stall(&self) {
        self.state.send_modify(|s| s.stalled = true);
    }

    pub fn delay(&self, delay: Delay) {
        self.state.send_modify(|s| s.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.send_modify(|s| s.ended = true);
    }
}

type Ready = tokio::sync::oneshot::Sender<std::io::Result<()>>;

async fn serve(port: u16, host: String, mut state: watch::Receiver<State>, ready: Ready) {
    let here = SocketAddr::from(([127, 0, 0, 1], port));
    let mut listener = match TcpListener::bind(here).await {
        Ok(listener) => {
            ready.send(Ok(())).ok();
            Some(listener)
        }
        Err(error) => {
            ready.send(Err(error)).ok();
            return;
        }
    };
    let mut serial = 0;
    loop {
        let now = *state.borrow_and_update();
        if now.ended {
            return;
        }
        if !now.open {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(here).await.ok();
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            Ok((client, _)) = accepted => {
                serial += 1;
                let seed = u64::from(port) << 32 | serial;
                tokio::spawn(carry(client, host.clone(), state.clone(), seed));
            }
        }
    }
}

async fn carry(client: TcpStream, host: String, mut state: watch::Receiver<State>, seed: u64) {
    let State { generation, target, .. } = *state.borrow();
    let Ok(server) = TcpStream::connect((host.as_str(), target)).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, state.clone(), None);
    let down = pump(from_server, to_client, state.clone(), Some(Random::new(seed)));
    let cut = state.wait_for(|s| s.ended || s.generation != generation);
    // Whichever ends first drops both sockets, and with them the connection.
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = cut => {}
    }
}

/// `random` is given for the direction that delays.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    mut random: Option<Random>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(len @ 1..) = from.read(&mut buffer).await else { return };
        if let Some(random) = &mut random {
            let wait = match state.borrow().delay {
                Delay::None => Duration::ZERO,
                Delay::Fixed(wait) => wait,
                Delay::UpTo(most) => Duration::from_micros(random.below(most.as_micros() as u64)),
            };
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        if state.wait_for(|s| !s.stalled).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
