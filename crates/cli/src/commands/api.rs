//! `dormouse api`, and the API within `dormouse serve`.

use std::{net::SocketAddr, sync::Arc};

use dormouse_api::{
    Api,
    gateway::Gateway,
    secret::InstanceSecret,
    server::{self, ServerLimits},
};
use dormouse_core::{Error, Result, ports::UrlSigner};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::{
    args::{ApiArgs, DEFAULT_LISTEN},
    instance::Place,
    printer, signals,
};

/// `dormouse api`.
pub(super) async fn run(context: &Context, args: &ApiArgs) -> Result<()> {
    let listener = bind(args.listen).await?;
    let stop = CancellationToken::new();
    let serve = serve(context, listener, stop.clone()).await?;
    tokio::pin!(serve);
    tokio::select! {
        ended = &mut serve => return ended,
        stopped = signals::stop_signal() => stopped?,
    }
    stop.cancel();
    serve.await
}

/// Listens where `serve` was told to; where nobody told it, it goes on without the API when the usual port is taken.
pub(super) async fn listen(named: Option<SocketAddr>) -> Result<Option<TcpListener>> {
    if let Some(address) = named {
        return bind(address).await.map(Some);
    }
    match TcpListener::bind(DEFAULT_LISTEN).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            printer::note(&format!(
                "running without the API: cannot listen on {DEFAULT_LISTEN} ({error}); --listen names another address"
            ));
            Ok(None)
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::unavailable(format!("cannot listen on {address}")).with_source(error))
}

/// Serves the API until `stop`, and says where.
pub(super) async fn serve(
    context: &Context,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<()>> + Send + 'static> {
    let services = context.instance.services.clone();
    let address = listener
        .local_addr()
        .map_err(|error| Error::internal("the listener has no address").with_source(error))?;
    let url = match services.settings.api_url() {
        "" => format!("http://{}", reachable(address)),
        url => url.trim_end_matches('/').to_owned(),
    };
    let ports = &services.ports;
    let secret = InstanceSecret::open(&*ports.items, &*ports.ids).await?;
    let (signer, gateway): (Arc<dyn UrlSigner>, _) = match &context.instance.place {
        Place::Directory(_) => {
            let gateway = Arc::new(Gateway::new(
                secret.clone(),
                ports.items.clone(),
                ports.buckets.clone(),
                ports.clock.clone(),
                ports.ids.clone(),
                &url,
            ));
            (gateway.clone(), Some(gateway))
        }
        Place::Aws(place) => (place.signer.clone(), None),
    };
    let is_open = !services.tenants.is_closed().await?;
    let app = Api::new(services, secret, signer, gateway).router();
    tracing::info!(%url, "the API listens; it tells of itself at /docs");
    if is_open {
        printer::note(&format!(
            "no tenants: whoever reaches {url} may query every table. Try\n  \
             curl -s {url}/v1/queries -H 'Content-Type: application/json' -d '{{\"sql\":\"SELECT 1 AS one\"}}'\n\
             `dormouse tenant create` makes a tenant, and the API asks for keys from then on"
        ));
        if !address.ip().is_loopback() {
            printer::note("this machine's network reaches it: make a tenant, or listen on 127.0.0.1");
        }
    }
    Ok(server::serve(listener, app, ServerLimits::default(), stop))
}

/// An address that reaches a listener from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut reached = address;
    if address.ip().is_unspecified() {
        reached.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    reached
}
