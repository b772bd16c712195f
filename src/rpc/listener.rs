//! Incoming connections: a Unix socket for the tasks of this host, and TCP with mutual TLS for tasks elsewhere.
//!
//! ```text
//!   Unix socket ──▶ peer credentials ──▶ authority ──┐
//!   TCP ──▶ TLS handshake (own task, time limit) ────┼──▶ Incoming ──▶ tonic
//!   TCP on loopback, marked insecure ────────────────┘
//! ```
//!
//! It owes its callers three things. Only peers with permission get a connection. A slow or hostile client does not
//! delay other clients. No error of `accept` ends the listening.
//! else's; no error of accepting ends the listening.

mod connection;
mod options;
mod tcp;
mod unix;

use std::{
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family},
};
use tokio::time::{Instant, Sleep};

pub use self::{
    connection::{Caller, Connection, Peer},
    options::{Group, ListenerOptions, OptionsFault, SocketMode, TcpOptions, TcpSettings},
};
pub use super::tls::{Acceptor, TlsError, TlsOptions};

use self::{tcp::TcpIncoming, unix::UnixIncoming};
use super::tls::TlsMetrics;
use crate::{limits::Slots, metrics::Metrics};

/// First pause after an error of `accept` that would come again at once, such as too many open files.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);

/// Longest such pause.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Shortest time between two log lines about the same kind of trouble.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The reason why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The options contradict themselves; this is the first fault.
    #[error(transparent)]
    Options(#[from] OptionsFault),
    /// Another running daemon has the socket.
    #[error("another daemon is listening on `{path}`")]
    InUse {
        /// Path of the socket.
        path: PathBuf,
    },
    /// The path exists and is not a socket. It is never deleted.
    #[error("`{path}` exists and is not a socket; remove it or choose another path")]
    NotASocket {
        /// Path of the file.
        path: PathBuf,
    },
    /// The directory for the socket does not exist.
    #[error("directory `{directory}` for the socket does not exist")]
    NoDirectory {
        /// Path of the directory.
        directory: PathBuf,
    },
    /// The directory for the socket belongs to another user.
    #[error(
        "directory `{directory}` for the socket belongs to uid {owner}, who could put another socket there; remove it, or choose another \
         path (`rpc.socket`)"
    )]
    ForeignDirectory {
        /// Path of the directory.
        directory: PathBuf,
        /// User id of its owner.
        owner: u32,
    },
    /// The directory for the socket is writable by everybody.
    #[error(
        "everybody may write directory `{directory}` for the socket, and put another socket there; chmod o-w, choose another path \
         (`rpc.socket`), or set `rpc.socket-folder-open` where only those who may be trusted reach the folder, as in a pod"
    )]
    OpenDirectory {
        /// Path of the directory.
        directory: PathBuf,
    },
    /// The group is not known on this host.
    #[error("group `{name}` is not in /etc/group; name another or give its number")]
    UnknownGroup {
        /// Name of the group, as configured.
        name: String,
    },
    /// Making the socket failed.
    #[error("{doing} `{path}`: {source}")]
    Socket {
        /// Describes the step that failed.
        doing: &'static str,
        /// Path of the socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The TCP address cannot be bound.
    #[error("listen on `{address}`: {source}")]
    Tcp {
        /// The configured address.
        address: SocketAddr,
        /// The error of binding it.
        source: io::Error,
    },
    /// The files of TLS are unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// All connections of one daemon, for tonic's `serve_with_incoming_shutdown`. Never ends and never fails.
///
/// Dropping it stops listening and removes the socket file, if that is still the one made here.
#[derive(Debug)]
pub struct Incoming {
    unix: UnixIncoming,
    tcp: Option<TcpIncoming>,
}

impl Incoming {
    /// Starts to listen. A socket file that a dead daemon left behind is replaced.
    ///
    /// # Errors
    /// [`ListenError`]; no socket file is left behind then.
    ///
    /// Cancel safe: a socket file that was made is removed.
    pub async fn bind(options: &ListenerOptions, metrics: &Metrics) -> Result<Self, ListenError> {
        if let Some(fault) = options.faults().into_iter().next() {
            return Err(fault.into());
        }
        let counters = Counters::register(metrics);
        let slots = Slots::new(options.bounds.connections, options.bounds.connections_per_uid);
        let open = slots.clone();
        metrics.read("rpc_connections_open", "Connections that are open (rpc.max-connections)", move || {
            open.held() as u64
        });
        metrics.register(
            "rpc_connections_evicted",
            "Connections closed before their first call, because their places were needed",
            slots.evictions(),
        );
        // Ordering: TCP first, the socket last. A fault of TCP then leaves no socket file behind.
        let tcp = match &options.tcp {
            Some(tcp) => Some(TcpIncoming::bind(tcp, &options.bounds, slots.clone(), counters.clone()).await?),
            None => None,
        };
        let unix = UnixIncoming::bind(options, slots, counters).await?;
        Ok(Self { unix, tcp })
    }

    /// Path of the Unix socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.unix.path()
    }

    /// The TCP address, with the real port where port 0 was asked for.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(TcpIncoming::address)
    }

    /// Reloads the files of TLS; `None` without TLS.
    #[must_use]
    pub fn tls(&self) -> Option<Acceptor> {
        self.tcp.as_ref().and_then(TcpIncoming::tls).cloned()
    }
}

impl Stream for Incoming {
    type Item = Result<Connection, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The socket comes first, so that tasks of this host do not wait for clients elsewhere. If it has nobody, both
        // listeners wake this task.
        if let Poll::Ready(connection) = self.unix.poll_accept(cx) {
            return Poll::Ready(Some(Ok(connection)));
        }
        match &mut self.tcp {
            Some(tcp) => tcp.poll_accept(cx).map(|connection| Some(Ok(connection))),
            None => Poll::Pending,
        }
    }
}

/// The transport of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Transport {
    Unix,
    Tcp,
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    transport: Transport,
}

/// Metrics of listening. Cheap to clone.
#[derive(Clone, Default)]
struct Counters {
    accepted: Family<TransportLabels, Counter>,
    refused: Family<TransportLabels, Counter>,
    errors: Counter,
    full: Counter,
    tls: TlsMetrics,
}

impl EncodeLabelValue for Transport {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let label = match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        };
        label.encode(encoder)
    }
}

impl Counters {
    fn register(metrics: &Metrics) -> Self {
        Self {
            accepted: metrics.register(
                "rpc_connections_accepted",
                "Connections handed to the service",
                Family::default(),
            ),
            refused: metrics.register(
                "rpc_connections_refused",
                "Connections closed for want of permission: a peer's uid, or a tls handshake",
                Family::default(),
            ),
            errors: metrics.register(
                "rpc_accept_errors",
                "Errors of accepting, such as too many open files",
                Counter::default(),
            ),
            full: metrics.register(
                "rpc_connections_over_limit",
                "Connections closed because there were as many as rpc.max-connections allows",
                Counter::default(),
            ),
            tls: TlsMetrics::register(metrics),
        }
    }

    fn on_accepted(&self, transport: Transport) {
        self.accepted.get_or_create(&TransportLabels { transport }).inc();
    }

    /// Notes that all places are taken by peers that have made a call.
    fn on_full(&self, peer: &Peer, log: &mut Occasionally) {
        self.full.inc();
        if let Some(silenced) = log.due() {
            tracing::warn!(%peer, silenced, "closed a connection: there are as many as `rpc.max-connections` allows");
        }
    }

    fn on_refused(&self, transport: Transport) {
        self.refused.get_or_create(&TransportLabels { transport }).inc();
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

/// Pauses between attempts to accept while they fail.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    pause: Option<Pin<Box<Sleep>>>,
    log: Occasionally,
}

impl Backoff {
    fn new() -> Self {
        Self { next: BACKOFF_FIRST, pause: None, log: Occasionally::default() }
    }

    /// Ready when the next `accept` may be tried.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn on_accepted(&mut self) {
        self.next = BACKOFF_FIRST;
    }

    /// Pauses, unless the error concerned a single connection.
    fn on_error(&mut self, error: &io::Error, counters: &Counters) {
        counters.errors.inc();
        let of_one_connection = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
        );
        // Such an error ends with its connection. Any other one, such as too many open files, would come again at once.
        if of_one_connection {
            return;
        }
        if let Some(silenced) = self.log.due() {
            tracing::warn!(%error, silenced, "accepting a connection");
        }
        self.pause = Some(Box::pin(tokio::time::sleep(self.next)));
        self.next = (self.next * 2).min(BACKOFF_MAX);
    }
}

/// Lets one log line through per interval.
#[derive(Debug, Default)]
struct Occasionally {
    last: Option<Instant>,
    silenced: u64,
}

impl Occasionally {
    /// If a line is due now: the number of lines that were left out since the last one.
    fn due(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < LOG_EVERY) {
            self.silenced += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.silenced))
    }
}

#[cfg(test)]
mod tests;
