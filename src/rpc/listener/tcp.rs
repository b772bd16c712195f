//! Listening on TCP, with handshakes on tasks of their own.
//!
//! ```text
//!   accepted ─▶ a place of its own ─▶ has it sent anything? ─▶ handshake (so many, the oldest gives way) ─▶ connection
//! ```
//!
//! A client that sends nothing occupies a place but no handshake, so silent clients cannot prevent others from shaking
//! hands.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Backoff, Connection, Counters, ListenError, Occasionally, Peer, TcpOptions, Transport};
use crate::{
    limits::{Bounds, Slot, Slots, Times},
    rpc::tls::Acceptor,
};

/// Connections over TCP.
pub(super) struct TcpIncoming {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Acceptor>,
    slots: Slots,
    shaking: Slots,
    times: Times,
    /// Handshakes under way. Each ends with a connection, or with an error for a client that was refused.
    handshakes: JoinSet<Result<Connection, (SocketAddr, io::Error)>>,
    backoff: Backoff,
    refusals: Occasionally,
    counters: Counters,
}

impl TcpIncoming {
    /// Begins to listen. The options must have no faults.
    pub(super) async fn bind(
        options: &TcpOptions,
        bounds: &Bounds,
        slots: Slots,
        counters: Counters,
    ) -> Result<Self, ListenError> {
        let tls = options.tls.as_ref().map(|tls| Acceptor::new(tls, counters.tls.clone())).transpose()?;
        assert!(tls.is_some() || options.address.ip().is_loopback(), "tcp without tls beyond loopback");
        let tcp_error = |source| ListenError::Tcp { address: options.address, source };
        let listener = TcpListener::bind(options.address).await.map_err(tcp_error)?;
        let address = listener.local_addr().map_err(tcp_error)?;
        Ok(Self {
            listener,
            address,
            tls,
            slots,
            shaking: Slots::new(bounds.handshakes, bounds.handshakes),
            times: bounds.times,
            handshakes: JoinSet::new(),
            backoff: Backoff::new(),
            refusals: Occasionally::default(),
            counters,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reloads the files of TLS; `None` without TLS.
    pub(super) fn tls(&self) -> Option<&Acceptor> {
        self.tls.as_ref()
    }

    /// The next connection whose peer has permission.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        loop {
            // Ordering: finished handshakes come before new clients, so that a flood of clients does not keep those out
            // that are through.
            if let Poll::Ready(connection) = self.poll_handshakes(cx) {
                return Poll::Ready(connection);
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

    /// Accepts the client, or starts its handshake.
    fn on_stream(&mut self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        // Without it answers are only slower.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %address, "setting nodelay");
        }
        // Ordering: a place is taken before the handshake begins, so the number of handshakes that wait is bounded by
        // it.
        let Some(slot) = self.slots.take(None) else {
            self.counters.on_full(&Peer::Tcp { address }, &mut self.refusals);
            return None;
        };
        let Some(tls) = self.tls.clone() else {
            self.counters.on_accepted(Transport::Tcp);
            return Some(Connection::tcp(stream, address, slot, self.times));
        };
        let (shaking, times) = (self.shaking.clone(), self.times);
        self.handshakes.spawn(async move {
            let within = tokio::time::timeout(times.handshake, shake_hands(stream, &tls, &slot, &shaking));
            let shaken = within.await.unwrap_or_else(|_| Err(given_up("tls handshake took too long")));
            match shaken {
                Ok(stream) => Ok(Connection::tls(stream, address, slot, times)),
                Err(error) => Err((address, error)),
            }
        });
        None
    }

    /// The next finished handshake; pending if none is under way.
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

/// Waits for the client's first bytes, then shakes hands. Fails if the connection, or the handshake, has to give way.
async fn shake_hands(
    stream: TcpStream,
    tls: &Acceptor,
    place: &Slot,
    shaking: &Slots,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    tokio::select! {
        biased;
        () = place.evicted() => return Err(given_up("its place was needed before it sent anything")),
        readable = stream.readable() => readable?,
    }
    // Ordering: only a client that has sent something takes a place among the handshakes.
    let turn = shaking.take(None).ok_or_else(|| given_up("too many handshakes"))?;
    tokio::select! {
        biased;
        () = place.evicted() => Err(given_up("its place was needed before its handshake was over")),
        () = turn.evicted() => Err(given_up("too many handshakes, and this was the oldest")),
        shaken = tls.accept(stream) => shaken,
    }
}

fn given_up(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl std::fmt::Debug for TcpIncoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpIncoming").field("address", &self.address).finish_non_exhaustive()
    }
}
