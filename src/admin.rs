//! Admin HTTP: metrics, health and a status page, for operators and their tools. Unauthenticated and read-only, hence on
//! loopback unless told otherwise.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | every metric, as OpenMetrics for whoever accepts that, else as Prometheus text |
//! | `/live` | 200 as long as the daemon's runtime turns: its [`Heartbeat`] beats |
//! | `/ready` | 200 `ready`, or 503 `starting` / `draining`; an outage of the object store changes neither |
//! | `/` | what is open, for people |
//!
//! It runs on a thread of its own ([`AdminServer::spawn`]), so that it answers whatever holds up the rest of the daemon. What may
//! wait for a backend, the status page, is made on yet another one.

mod heartbeat;
mod page;
mod readiness;

use std::{
    fmt,
    future::{Future, IntoFuture as _},
    io,
    net::{self, Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    thread,
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
use tokio::{net::TcpListener, runtime, sync::oneshot, task};

pub use self::heartbeat::Heartbeat;
pub use self::readiness::{Readiness, ReadinessState};
use crate::metrics::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// No resource is loaded and no script run, whatever a job calls itself.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// How long open connections may hold up the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The runtime has stopped if its heart has not beaten for so long: Kubernetes may kill the daemon then.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Status pages that are made at once; others wait.
const STATUS_THREADS: usize = 4;

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
/// request, on a thread where it may wait.
pub type StatusSource = Arc<dyn Fn() -> Value + Send + Sync>;

/// What the admin server tells. Cheap to clone.
#[derive(Clone)]
pub struct AdminSources {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/live`.
    pub heartbeat: Heartbeat,
    /// For `/ready`.
    pub readiness: Readiness,
    /// For `/`.
    pub status: StatusSource,
}

/// The admin server, listening or off.
#[derive(Debug)]
pub struct AdminServer {
    listener: Option<net::TcpListener>,
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
                // It is not yet known which runtime serves it.
                let bound = TcpListener::bind(address).await.and_then(TcpListener::into_std);
                Some(bound.map_err(|source| AdminError { address, source })?)
            }
        };
        Ok(Self { listener })
    }

    /// Where it listens, with the real port; `None` if it is off.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves as [`serve`](Self::serve) does, on a thread and a runtime of its own, which end with it; the result waits for that.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn spawn(
        self,
        sources: AdminSources,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<impl Future<Output = ()>> {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().max_blocking_threads(STATUS_THREADS).build()?;
        let (ending, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("dstl-admin".to_owned()).spawn(move || {
            runtime.block_on(self.serve(sources, shutdown));
            runtime.shutdown_background();
            drop(ending);
        })?;
        Ok(async move {
            let _ = ended.await;
        })
    }

    /// Serves until `shutdown`, then lets open requests end within a second. Off, it only waits for `shutdown`.
    ///
    /// Cancel safe: dropped, it closes everything at once.
    pub async fn serve(self, sources: AdminSources, shutdown: impl Future<Output = ()> + Send + 'static) {
        let Some(listener) = self.listener else {
            return shutdown.await;
        };
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "serving admin http");
                return shutdown.await;
            }
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
        .route("/live", get(live))
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

async fn live(State(sources): State<AdminSources>) -> impl IntoResponse {
    let pause = sources.heartbeat.pause();
    let (code, text) = if pause < LONGEST_PAUSE {
        (StatusCode::OK, "live\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("the daemon's runtime has not turned for {} s\n", pause.as_secs()))
    };
    (code, [(CACHE_CONTROL, "no-store")], text)
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
    let readiness = sources.readiness.get();
    match task::spawn_blocking(move || page::render(readiness, &(sources.status)())).await {
        Ok(page) => (StatusCode::OK, headers, page),
        Err(failed) => (StatusCode::INTERNAL_SERVER_ERROR, headers, format!("making this page: {failed}\n")),
    }
}

#[cfg(test)]
mod tests;
