//! One accepted connection, and the peer at its other end.
//!
//! Until its first call the connection is watched: the peer has to send the preface of HTTP/2 and make a call in time.
//! If all places are taken, such a connection gives way.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::Sleep,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::{
    limits::{Slot, Times},
    rpc::authority::AuthorityStream,
};

/// Bytes of the preface of HTTP/2.
const PREFACE_BYTES: u64 = 24;

/// The peer at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, identified by the kernel.
    Unix {
        /// Its effective user id when it connected.
        uid: u32,
        /// Its effective group id when it connected.
        gid: u32,
        /// Its process id, if the system tells it.
        pid: Option<i32>,
    },
    /// An unauthenticated client on loopback.
    Tcp {
        /// Address of the client.
        address: SocketAddr,
    },
    /// A client with a certificate that a configured authority signed.
    Tls {
        /// Address of the client.
        address: SocketAddr,
        /// Names in the certificate: alternative names and common names of its subject.
        names: Arc<[String]>,
    },
}

/// The caller, in the extensions of every request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The peer of its connection.
    pub peer: Peer,
    slot: Arc<Slot>,
}

impl Caller {
    /// Notes that the peer has made a call, so its connection stays.
    pub(in crate::rpc) fn settle(&self) {
        self.slot.settle();
    }
}

/// A connection whose peer has permission.
#[derive(Debug)]
pub struct Connection {
    caller: Caller,
    io: Io,
    /// The watch over it; `None` from the first call on.
    watch: Option<Watch>,
}

/// The deadlines of a connection without a call.
#[derive(Debug)]
struct Watch {
    deadline: Pin<Box<Sleep>>,
    /// Time for the first call, which begins when the preface has come. `None` once it has begun.
    first_call: Option<Duration>,
    received: u64,
}

#[derive(Debug)]
enum Io {
    Unix(AuthorityStream<UnixStream>),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    pub(super) fn unix(stream: UnixStream, peer: Peer, slot: Slot, times: Times) -> Self {
        Self::new(Io::Unix(AuthorityStream::new(stream)), peer, slot, times)
    }

    pub(super) fn tcp(stream: TcpStream, address: SocketAddr, slot: Slot, times: Times) -> Self {
        Self::new(Io::Tcp(stream), Peer::Tcp { address }, slot, times)
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, address: SocketAddr, slot: Slot, times: Times) -> Self {
        let names = crate::rpc::tls::peer_names(&stream).into();
        Self::new(Io::Tls(Box::new(stream)), Peer::Tls { address, names }, slot, times)
    }

    fn new(io: Io, peer: Peer, slot: Slot, times: Times) -> Self {
        let deadline = Box::pin(tokio::time::sleep(times.preface));
        let watch = Some(Watch { deadline, first_call: Some(times.first_call), received: 0 });
        Self { caller: Caller { peer, slot: Arc::new(slot) }, io, watch }
    }

    /// The peer at its other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.caller.peer
    }

    /// Fails a connection whose first call is overdue, or whose place is needed.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        if self.caller.slot.is_settled() {
            self.watch = None;
            return Ok(());
        }
        if self.caller.slot.poll_evicted(cx).is_ready() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "gave way to another connection before its first call",
            ));
        }
        // The first deadline is that of the preface. Once the preface has come, it is moved on to that of the first
        // call, and polled again, so that it wakes this task.
        while watch.deadline.as_mut().poll(cx).is_ready() {
            let more = watch.first_call.take().filter(|_| watch.received >= PREFACE_BYTES);
            let Some(more) = more else {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no call in time"));
            };
            let next = watch.deadline.deadline() + more;
            watch.deadline.as_mut().reset(next);
        }
        Ok(())
    }

    fn poll_io(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid: Some(pid), .. } => write!(f, "pid {pid} of uid {uid}"),
            Self::Unix { uid, pid: None, .. } => write!(f, "a process of uid {uid}"),
            Self::Tcp { address } => write!(f, "{address}"),
            Self::Tls { address, names } => match names.first() {
                Some(name) => write!(f, "`{name}` at {address}"),
                None => write!(f, "a certificate without a name at {address}"),
            },
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_watch(cx)?;
        let before = buf.filled().len();
        let read = self.poll_io(cx, buf);
        // Counted only until the first call, to see whether the preface has come.
        if let Some(watch) = &mut self.watch {
            watch.received += (buf.filled().len() - before) as u64;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Unix(io) => io.is_write_vectored(),
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }
}
