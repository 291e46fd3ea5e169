//! One client: its requests, one after the other.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    ServerLimits,
    bodies::{Incoming, Outgoing},
    phase::Phases,
    socket::Socket,
};

/// Serves a client until it goes or is cut; after `stop`, until its request is answered.
pub(super) async fn run(
    stream: TcpStream,
    address: SocketAddr,
    app: Router,
    limits: Arc<ServerLimits>,
    stop: CancellationToken,
) {
    // Answers are written whole: waiting for more to send would only delay their end.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "socket option not set");
    }
    let phases = Phases::new(limits.header_timeout, limits.idle_timeout);
    let socket = Socket::new(stream, phases.clone(), limits.write_timeout);
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let busy = phases.busy();
        let mut request = request.map(|body| Body::new(Incoming::new(body, limits.read_timeout)));
        request.extensions_mut().insert(ConnectInfo(address));
        let answer = app.clone().call(request);
        async move {
            answer
                .await
                .map(|answer| answer.map(|body| Outgoing::new(body, busy)))
        }
    });
    // The socket cuts those that are slow. This is for what hyper has read already, such as half of a request that
    // came along with another one.
    let backstop = limits.header_timeout + limits.idle_timeout + limits.write_timeout;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(backstop)
        .max_header_size(limits.header_bytes)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            if phases.is_fresh() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
