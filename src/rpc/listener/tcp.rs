//! Listening on TCP, with handshakes on tasks of their own.

use std::{
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Backoff, Connection, Counters, ListenError, Occasionally, TcpOptions, Transport};
use crate::rpc::tls::Acceptor;

/// Handshakes under way at once; further clients wait in the system's backlog.
const MAX_HANDSHAKES: usize = 128;

/// Connections over TCP.
pub(super) struct TcpIncoming {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Acceptor>,
    /// Each ends with a connection, or with none for a client that was refused.
    handshakes: JoinSet<Result<Connection, (SocketAddr, std::io::Error)>>,
    backoff: Backoff,
    refusals: Occasionally,
    counters: Counters,
}

impl TcpIncoming {
    /// Listens. The options have no faults.
    pub(super) async fn bind(options: &TcpOptions, counters: Counters) -> Result<Self, ListenError> {
        let tls = options.tls.as_ref().map(Acceptor::new).transpose()?;
        assert!(tls.is_some() || options.address.ip().is_loopback(), "tcp without tls beyond loopback");
        let tcp_error = |source| ListenError::Tcp { address: options.address, source };
        let listener = TcpListener::bind(options.address).await.map_err(tcp_error)?;
        let address = listener.local_addr().map_err(tcp_error)?;
        Ok(Self {
            listener,
            address,
            tls,
            handshakes: JoinSet::new(),
            backoff: Backoff::new(),
            refusals: Occasionally::default(),
            counters,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection whose peer has permission.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        loop {
            if let Poll::Ready(connection) = self.poll_handshakes(cx) {
                return Poll::Ready(connection);
            }
            if self.handshakes.len() >= MAX_HANDSHAKES {
                return Poll::Pending;
            }
            ready!(self.backoff.poll_ready(cx));
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, address)) => {
                    self.backoff.on_accepted();
                    if let Some(connection) = self.on_stream(stream, address) {
                        return Poll::Ready(connection);
                    }
                }
                Err(error) => self.backoff.on_error(&error, &self.counters),
            }
        }
    }

    /// Lets the client in, or starts its handshake.
    fn on_stream(&mut self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %address, "setting nodelay");
        }
        let Some(tls) = self.tls.clone() else {
            self.counters.on_accepted(Transport::Tcp);
            return Some(Connection::tcp(stream, address));
        };
        self.handshakes.spawn(async move {
            let shaken = tls.accept(stream).await.map_err(|error| (address, error))?;
            Ok(Connection::tls(shaken, address))
        });
        None
    }

    /// The next finished handshake; pending also if there is none under way.
    fn poll_handshakes(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        while let Some(joined) = ready!(self.handshakes.poll_join_next(cx)) {
            match joined {
                Ok(Ok(connection)) => {
                    self.counters.on_accepted(Transport::Tls);
                    return Poll::Ready(connection);
                }
                Ok(Err((address, error))) => {
                    self.counters.on_refused(Transport::Tls);
                    if let Some(silenced) = self.refusals.due() {
                        tracing::warn!(%address, %error, silenced, "refused a client: tls handshake");
                    }
                }
                Err(error) => tracing::error!(%error, "tls handshake task"),
            }
        }
        Poll::Pending
    }
}

impl std::fmt::Debug for TcpIncoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpIncoming").field("address", &self.address).finish_non_exhaustive()
    }
}
