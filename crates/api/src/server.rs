//! Serving a router to clients, each within limits of time and size.
//!
//! A client gets a task of its own that holds the connection, and with it the handler of its request: a client that
//! goes away takes both with it. What is slow is cut: a head that takes too long, a body that stops to come, and an
//! answer that is not taken.
//!
//! | Module | What lives there |
//! |---|---|
//! | `connection` | one client: its requests, one after the other |
//! | `phase` | what a connection waits for, and until when |
//! | `socket` | the socket that is cut when that takes too long |
//! | `bodies` | bodies of requests that are cut, and of answers whose end is seen |

mod bodies;
mod connection;
mod phase;
mod socket;

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use dormouse_core::Result;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How many clients may be connected.
const MAX_CONNECTIONS: usize = 1024;

/// How long nobody is accepted after the machine had no means to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// How large and how slow requests and answers may be.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// The most bytes of a request line and its headers.
    pub header_bytes: usize,
    /// How long they may take to come.
    pub header_timeout: Duration,
    /// How long a connection may be without a request after its first.
    pub idle_timeout: Duration,
    /// How long the body of a request may be without another byte.
    pub read_timeout: Duration,
    /// How long a client may take no byte of an answer.
    pub write_timeout: Duration,
    /// How long requests may take yet when the server stops.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(25),
        }
    }
}

/// Serves the router until `stop`, and then until the requests that are under way are answered, at most
/// [`ServerLimits::drain`]. Handlers find the client's address as `ConnectInfo<SocketAddr>`.
///
/// Dropping the future cuts every connection.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ServerLimits,
    stop: CancellationToken,
) -> Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let limits = Arc::new(limits);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = clients.join_next() => see_end(ended),
            (slot, accepted) = accept(&listener, &slots) => match accepted {
                Ok((stream, address)) => {
                    let client = connection::run(stream, address, app.clone(), limits.clone(), stop.clone());
                    clients.spawn(async move {
                        client.await;
                        drop(slot);
                    });
                }
                Err(error) if concerns_one_client(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    pause(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = async {
        while let Some(ended) = clients.join_next().await {
            see_end(ended);
        }
    };
    let in_time = tokio::select! {
        () = drained => true,
        () = pause(limits.drain) => false,
    };
    if !in_time {
        tracing::warn!(connections = clients.len(), "requests cut as the server stops");
        clients.shutdown().await;
    }
    Ok(())
}

/// The next client, once there may be one more. Nothing is lost when this is dropped.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (
    Option<tokio::sync::OwnedSemaphorePermit>,
    io::Result<(tokio::net::TcpStream, std::net::SocketAddr)>,
) {
    // The semaphore is never closed.
    let slot = slots.clone().acquire_owned().await.ok();
    (slot, listener.accept().await)
}

fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn see_end(ended: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("connection ended by a panic");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "sockets follow the machine's time, not the instance's clock"
)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
