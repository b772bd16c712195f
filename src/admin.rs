//! Admin HTTP: metrics, health and a status page, for operators and their tools. Unauthenticated and read-only, hence
//! on loopback unless told otherwise.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | every metric, as OpenMetrics for clients that accept it, else as Prometheus text |
//! | `/live` | 200 as long as the daemon's runtime turns: its [`Heartbeat`] beats |
//! | `/ready` | 200 `ready`, or 503 `starting` / `draining`; an outage of the object store changes neither |
//! | `/` | a page for people: backends, checkpoints, recovery times, the store and the last errors |
//! | `/status` | the figures of that page, as one JSON object |
//!
//! The server has a thread of its own ([`AdminServer::spawn`]), so that it answers even while the rest of the daemon is
//! held up. A [`Watch`] takes the figures of the status page once a second, so that the page waits for no
//! backend and no store.

pub mod errors;
mod heartbeat;
mod page;
pub mod prices;
mod readiness;
pub mod snapshot;
mod watch;
pub mod words;

use std::{
    fmt,
    future::Future,
    io,
    net::{self, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    middleware::{self, Next},
    response::IntoResponse,
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{oneshot, watch as latch},
    task::{self, JoinSet},
    time::Instant,
};

pub use self::heartbeat::Heartbeat;
pub use self::readiness::{Readiness, ReadinessState};
use self::snapshot::Snapshot;
pub use self::watch::Watch;
use crate::{
    limits::Slots,
    metrics::Metrics,
    setting::{Kind, options},
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Browsers must not load resources or run scripts for the status page, even if a job's name contains markup.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// Longest life of a connection, and the longest time that it may take for its last answer.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Pause after an error of `accept` that would come again at once, for example too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long open connections may delay the end of the server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// If the heart has not beaten for so long, `/live` fails, and Kubernetes may kill the daemon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Status pages that are rendered at the same time; further requests wait.
const STATUS_THREADS: usize = 4;

options! {
    /// Where the admin server listens, and for how many.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct AdminOptions {
        /// Address of metrics, health and status page, by HTTP.
        pub address: Option<SocketAddr> = option("admin.address", Operation 2, Kind::Address, "127.0.0.1:9321");
        /// Most connections to it, and an eighth of the open files that this process may have; beyond it the one that
        /// has been idle for longest is closed.
        pub max_connections: usize =
            option("admin.max-connections", Operation 3, Kind::Integer { min: 1, max: 4096 }, "64");
        /// A connection to it on which no request is whole for so long is closed.
        pub header_timeout: Duration = option("admin.header-timeout", Operation 4, Kind::AT_LEAST_1_MS, "5 s");
    }
}

/// The admin server cannot listen on its address.
#[derive(Debug, thiserror::Error)]
#[error("listen on admin address `{address}`: {source}")]
pub struct AdminError {
    /// The configured address.
    pub address: SocketAddr,
    /// The error of binding it.
    pub source: io::Error,
}

/// Returns the figures of the status page. Called once per request, and never blocks.
pub type StatusSource = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// The sources of the pages. Cheap to clone.
#[derive(Clone)]
pub struct AdminSources {
    /// The metrics that `/metrics` shows.
    pub metrics: Metrics,
    /// The heartbeat that `/live` checks.
    pub heartbeat: Heartbeat,
    /// The readiness that `/ready` shows.
    pub readiness: Readiness,
    /// The figures of the status page.
    pub status: StatusSource,
}

/// The admin server, listening or off.
#[derive(Debug)]
pub struct AdminServer {
    listener: Option<net::TcpListener>,
    slots: Slots,
    header_timeout: Duration,
}

impl AdminServer {
    /// Binds the address, so that a wrong or taken one is known when the daemon starts.
    ///
    /// # Errors
    /// [`AdminError`], for example if the port is taken.
    ///
    /// Cancel safe.
    pub async fn bind(options: &AdminOptions, metrics: &Metrics) -> Result<Self, AdminError> {
        let listener = match options.address {
            None => None,
            Some(address) => {
                // It is not yet known which runtime serves it.
                let bound = TcpListener::bind(address).await.and_then(TcpListener::into_std);
                Some(bound.map_err(|source| AdminError { address, source })?)
            }
        };
        let slots = Slots::new(options.max_connections, options.max_connections);
        metrics.register(
            "admin_connections_evicted",
            "Idle connections to the admin address closed because their places were needed",
            slots.evictions(),
        );
        Ok(Self { listener, slots, header_timeout: options.header_timeout })
    }

    /// The address that it listens on, with the real port; `None` if it is off.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves as [`serve`](Self::serve) does, on a thread and a runtime of its own that end with the server. The
    /// returned future waits for that end.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be made.
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
            // A page that is being made does not hold up the end. The sender is dropped last, so whoever waits for it
            // knows that the server has let go of its port.
            runtime.shutdown_background();
            drop(ending);
        })?;
        Ok(async move {
            let _ = ended.await;
        })
    }

    /// Serves until `shutdown`, then gives open requests a second to end. If the server is off, it only waits for
    /// `shutdown`.
    ///
    /// Cancel safe: dropped, it closes everything at once.
    pub async fn serve(self, sources: AdminSources, shutdown: impl Future<Output = ()> + Send + 'static) {
        let Some(listener) = &self.listener else {
            return shutdown.await;
        };
        let listener = match listener.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "serving admin http");
                return shutdown.await;
            }
        };
        let (router, mut connections) = (router(sources), JoinSet::new());
        let mut shutdown = std::pin::pin!(shutdown);
        let (closing, closed) = latch::channel(());
        loop {
            tokio::select! {
                biased;
                // Ordering: the end comes first, or a flood of connections could put it off.
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.on_stream(stream, &router, &closed, &mut connections),
                    Err(error) => {
                        tracing::debug!(%error, "accepting a connection to the admin address");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Removes ended connections, so that the set does not grow.
                _ = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        // Connections hear of the end by this drop. An idle one closes at once, another one after its answer.
        drop(closing);
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
    }

    /// Serves one connection on a task of its own, if there is a place for it.
    fn on_stream(
        &self,
        stream: TcpStream,
        router: &Router,
        closed: &latch::Receiver<()>,
        connections: &mut JoinSet<()>,
    ) {
        // Without a place the stream is dropped. Then every connection has a request that is being answered, and none
        // is idle enough to make room.
        let Some(slot) = self.slots.take(None).map(Arc::new) else { return };
        let (busy, mut closed) = (slot.clone(), closed.clone());
        // A connection is idle between its requests.
        let router = router.clone().layer(middleware::from_fn(move |request: Request, next: Next| {
            let busy = busy.clone();
            async move {
                busy.settle();
                let answered = next.run(request).await;
                busy.unsettle();
                answered
            }
        }));
        let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http1_only();
        server.http1().timer(TokioTimer::new()).header_read_timeout(self.header_timeout);
        connections.spawn(async move {
            let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            let mut age = std::pin::pin!(tokio::time::sleep(MAX_AGE));
            let mut is_closing = false;
            loop {
                tokio::select! {
                    biased;
                    // An error of one connection concerns only its peer.
                    _ = &mut connection => return,
                    () = slot.evicted() => return,
                    () = &mut age => if is_closing { return },
                    _ = closed.changed(), if !is_closing => {}
                }
                // The age counts twice: until the connection is asked to end, and then for its last answer.
                is_closing = true;
                connection.as_mut().graceful_shutdown();
                age.as_mut().reset(Instant::now() + MAX_AGE);
            }
        });
    }
}

impl fmt::Debug for AdminSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminSources").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

fn router(sources: AdminSources) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status", get(status))
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

async fn page(State(sources): State<AdminSources>) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (CACHE_CONTROL, "no-store"),
    ];
    // The page of many backends takes a while.
    match task::spawn_blocking(move || page::render(&(sources.status)())).await {
        Ok(page) => (StatusCode::OK, headers, page),
        Err(failed) => (StatusCode::INTERNAL_SERVER_ERROR, headers, format!("making this page: {failed}\n")),
    }
}

async fn status(State(sources): State<AdminSources>) -> impl IntoResponse {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    let made = task::spawn_blocking(move || serde_json::to_string(&(sources.status)())).await;
    match made.map_err(|failed| failed.to_string()).and_then(|made| made.map_err(|error| error.to_string())) {
        Ok(figures) => (StatusCode::OK, headers, figures),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, headers, why),
    }
}

#[cfg(test)]
mod tests;
