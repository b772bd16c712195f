//! The yardstick of `latency`: tonic alone, which echoes requests, by unary calls and on a stream.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, stream};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::http::{self, uri::PathAndQuery},
    server::NamedService,
    transport::{Channel, Endpoint, Server, Uri},
};
use tonic_prost::ProstCodec;
use tower::Service;

use super::Fault;

const UNARY: PathAndQuery = PathAndQuery::from_static("/echo.Echo/Unary");
const STREAM: PathAndQuery = PathAndQuery::from_static("/echo.Echo/Stream");

/// Serves until the process is killed.
pub(crate) async fn serve(socket: &Path) -> Result<(), Fault> {
    Server::builder().add_service(Echo).serve_with_incoming(incoming(socket)?).await?;
    Ok(())
}

/// The connections to `socket`.
pub(crate) fn incoming(socket: &Path) -> Result<impl Stream<Item = io::Result<UnixStream>>, Fault> {
    let listener = UnixListener::bind(socket)?;
    Ok(stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    }))
}

/// A client of the echo.
pub(crate) struct EchoClient {
    unary: tonic::client::Grpc<Channel>,
    outbound: mpsc::Sender<Bytes>,
    inbound: Streaming<Bytes>,
}

impl EchoClient {
    pub(crate) async fn connect(socket: &Path) -> Result<Self, Fault> {
        while !socket.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let mut unary = tonic::client::Grpc::new(channel(socket).await?);
        unary.ready().await?;
        let (outbound, messages) = mpsc::channel(1);
        let request = Request::new(ReceiverStream::new(messages));
        let codec = ProstCodec::<Bytes, Bytes>::default();
        let inbound = unary.streaming(request, STREAM, codec).await?.into_inner();
        Ok(Self { unary, outbound, inbound })
    }

    pub(crate) async fn unary(&mut self, message: Bytes) -> Result<Bytes, Fault> {
        self.unary.ready().await?;
        let codec = ProstCodec::<Bytes, Bytes>::default();
        Ok(self.unary.unary(Request::new(message), UNARY, codec).await?.into_inner())
    }

    pub(crate) async fn stream(&mut self, message: Bytes) -> Result<Bytes, Fault> {
        self.outbound.send(message).await?;
        Ok(self.inbound.message().await?.ok_or("the echo ended")?)
    }
}

/// A connection with tonic's defaults.
pub(crate) async fn channel(socket: &Path) -> Result<Channel, Fault> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}

/// The service, and both of its methods.
#[derive(Clone, Copy)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "echo.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Bytes, Bytes>::default());
            Ok(if request.uri().path() == UNARY.path() {
                grpc.unary(Echo, request).await
            } else {
                grpc.streaming(Echo, request).await
            })
        })
    }
}

impl Service<Request<Bytes>> for Echo {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<Request<Streaming<Bytes>>> for Echo {
    type Response = Response<Streaming<Bytes>>;
    type Error = Status;
    type Future = Ready<Result<Response<Streaming<Bytes>>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}
