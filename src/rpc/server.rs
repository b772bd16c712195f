//! The generated service, but for sessions, whose stream has a codec of its own.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::http,
    server::{Grpc, NamedService},
};
use tower::Service as TowerService;

use super::{
    Service,
    access::Access,
    codec::{Incoming, SessionCodec},
    session::{self, Responses},
    status,
};
use crate::{
    backend::Directory,
    proto::v1::state_backend_service_server::StateBackendServiceServer,
    tasks::Tasks,
    types::{AllowedJobs, Limits},
};

const SESSION_PATH: &str = "/dstl.v1.StateBackendService/Session";

/// What a gRPC server is given to serve the backends of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Routed {
    others: StateBackendServiceServer<Service>,
    sessions: Sessions,
    limits: Limits,
    tasks: Tasks,
}

/// The method `Session`.
#[derive(Debug, Clone)]
struct Sessions(Directory, Arc<AllowedJobs>);

impl Routed {
    /// Serves the backends of `directory`; requests have at most as many bytes as its limits allow.
    #[must_use]
    pub fn new(directory: &Directory) -> Self {
        Self::allowing(directory, AllowedJobs::default())
    }

    /// As [`new`](Self::new), to whom `jobs` allow.
    #[must_use]
    pub fn allowing(directory: &Directory, jobs: AllowedJobs) -> Self {
        let (limits, jobs) = (directory.environment().options.limits, Arc::new(jobs));
        let others = StateBackendServiceServer::new(Service::new(directory.clone(), jobs.clone()))
            .max_decoding_message_size(limits.max_message_bytes)
            .max_encoding_message_size(usize::MAX);
        let tasks = directory.environment().tasks.clone();
        Self { others, sessions: Sessions(directory.clone(), jobs), limits, tasks }
    }
}

impl NamedService for Routed {
    const NAME: &'static str = <StateBackendServiceServer<Service> as NamedService>::NAME;
}

impl TowerService<http::Request<Body>> for Routed {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != SESSION_PATH {
            let (tasks, call) = (self.tasks.clone(), self.others.call(request));
            return Box::pin(async move {
                let called = tasks.catch("a call", call).await;
                called.unwrap_or_else(|panicked| Ok(status::panicked(&panicked).into_http()))
            });
        }
        let (sessions, limits) = (self.sessions.clone(), self.limits);
        Box::pin(async move {
            let mut grpc = Grpc::new(SessionCodec { limits }).max_decoding_message_size(limits.max_message_bytes);
            Ok(grpc.streaming(sessions, request).await)
        })
    }
}

impl TowerService<Request<Streaming<Incoming>>> for Sessions {
    type Response = Response<Responses>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Incoming>>) -> Self::Future {
        let (access, requests) = Access::enter(&self.1, request);
        ready(Ok(Response::new(session::serve(self.0.clone(), access, requests))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_sessions_is_that_of_the_protocol() {
        assert_eq!(SESSION_PATH, format!("/{}/Session", Routed::NAME));
    }
}
