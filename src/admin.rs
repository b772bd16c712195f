//! Admin HTTP: metrics, health and a status page, for operators and their tools. Unauthenticated and read-only, hence on
//! loopback unless told otherwise.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | every metric, as OpenMetrics for whoever accepts that, else as Prometheus text |
//! | `/live` | 200 as long as the process serves |
//! | `/ready` | 200 `ready`, or 503 `starting` / `draining`; an outage of the object store changes neither |
//! | `/` | what is open, for people |

mod page;
mod readiness;

use std::{
    fmt,
    future::{Future, IntoFuture as _},
    io,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::IntoResponse,
    routing::get,
};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot};

pub use self::readiness::{Readiness, ReadinessState};
use crate::metrics::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// No resource is loaded and no script run, whatever a job calls itself.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// How long open connections may hold up the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the admin server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AdminOptions {
    /// An address and port, or `off`. Default `127.0.0.1:9321`.
    pub address: AdminAddress,
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAddress {
    /// No admin server.
    Off,
    /// Address and port; port 0 takes a free one.
    Listen(SocketAddr),
}

/// The admin server's address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("listen on admin address `{address}`: {source}")]
pub struct AdminError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// Tells the status page what to show: an object of facts, of which an array of objects becomes a table. Called once per
/// request; must be quick and must not block.
pub type StatusSource = Arc<dyn Fn() -> Value + Send + Sync>;

/// What the admin server tells. Cheap to clone.
#[derive(Clone)]
pub struct AdminSources {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/ready`.
    pub readiness: Readiness,
    /// For `/`.
    pub status: StatusSource,
}

/// The admin server, listening or off.
#[derive(Debug)]
pub struct AdminServer {
    listener: Option<TcpListener>,
}

impl AdminServer {
    /// Takes the address, so that a fault of it is known at start.
    ///
    /// # Errors
    /// [`AdminError`], for example if the port is taken.
    ///
    /// Cancel safe.
    pub async fn bind(options: &AdminOptions) -> Result<Self, AdminError> {
        let listener = match options.address {
            AdminAddress::Off => None,
            AdminAddress::Listen(address) => {
                Some(TcpListener::bind(address).await.map_err(|source| AdminError { address, source })?)
            }
        };
        Ok(Self { listener })
    }

    /// Where it listens, with the real port; `None` if it is off.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `shutdown`, then lets open requests end within a second. Off, it only waits for `shutdown`.
    ///
    /// Cancel safe: dropped, it closes everything at once.
    pub async fn serve(self, sources: AdminSources, shutdown: impl Future<Output = ()> + Send + 'static) {
        let Some(listener) = self.listener else {
            return shutdown.await;
        };
        let (closing, closed) = oneshot::channel();
        let graceful = async move {
            shutdown.await;
            let _ = closing.send(());
        };
        let deadline = async move {
            let _ = closed.await;
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        let serving = axum::serve(listener, router(sources)).with_graceful_shutdown(graceful);
        tokio::select! {
            biased;
            ended = serving.into_future() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "serving admin http");
                }
            }
            () = deadline => {}
        }
    }
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self { address: AdminAddress::Listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 9321))) }
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::Listen)
            .map_err(|_| format!("`{text}` is no admin address; give `off` or one like `127.0.0.1:9321`"))
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Listen(address) => address.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for AdminAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Debug for AdminSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminSources").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

fn router(sources: AdminSources) -> Router {
    Router::new()
        .route("/", get(status))
        .route("/metrics", get(metrics))
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .with_state(sources)
}

async fn metrics(State(sources): State<AdminSources>, headers: HeaderMap) -> impl IntoResponse {
    let accepts = |header: &HeaderValue| header.to_str().is_ok_and(|it| it.contains("application/openmetrics-text"));
    if headers.get_all(ACCEPT).iter().any(accepts) {
        ([(CONTENT_TYPE, OPENMETRICS)], sources.metrics.encode())
    } else {
        ([(CONTENT_TYPE, PLAIN)], sources.metrics.encode_plain())
    }
}

async fn ready(State(sources): State<AdminSources>) -> impl IntoResponse {
    let state = sources.readiness.get();
    let code = if state == ReadinessState::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [(CACHE_CONTROL, "no-store")], format!("{state}\n"))
}

async fn status(State(sources): State<AdminSources>) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, page::render(sources.readiness.get(), &(sources.status)()))
}

#[cfg(test)]
mod tests;
