//! The generated service, except for the streams of sessions and queries. Those have messages of [their
//! own](super::messages), and sessions have a codec.

use std::{
    convert::Infallible,
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tonic::{Request, Streaming, body::Body, codegen::http, server::NamedService};
use tower::Service as TowerService;

use super::{Service, access::Access, codec::SessionCodec, messages, query, session, status};
use crate::{
    backend::Directory,
    proto::v1::state_backend_service_server::StateBackendServiceServer,
    tasks::Tasks,
    types::{AllowedJobs, Limits},
};

const SESSION_PATH: &str = "/dstl.v1.StateBackendService/Session";
const QUERY_PATH: &str = "/dstl.v1.StateBackendService/Query";

/// The header that names the compression of messages.
const ENCODING_HEADER: &str = "grpc-encoding";

/// The service that a gRPC server runs for the backends of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Routed {
    others: StateBackendServiceServer<Service>,
    directory: Directory,
    jobs: Arc<AllowedJobs>,
    limits: Limits,
    tasks: Tasks,
}

impl Routed {
    /// Serves the backends of `directory`; its limits bound the length of requests.
    #[must_use]
    pub fn new(directory: &Directory) -> Self {
        Self::allowing(directory, AllowedJobs::default())
    }

    /// As [`new`](Self::new), but only for callers that `jobs` allow.
    #[must_use]
    pub fn allowing(directory: &Directory, jobs: AllowedJobs) -> Self {
        let (limits, jobs) = (directory.environment().options.limits, Arc::new(jobs));
        // Answers are bounded where they are made: by the room in a reply, or by pages.
        let others = StateBackendServiceServer::new(Service::new(directory.clone(), jobs.clone()))
            .max_decoding_message_size(limits.max_message_bytes)
            .max_encoding_message_size(usize::MAX);
        let tasks = directory.environment().tasks.clone();
        Self { others, directory: directory.clone(), jobs, limits, tasks }
    }

    fn session(&self, request: http::Request<Body>) -> http::Response<Body> {
        let most = self.limits.max_message_bytes;
        let (access, body) = Access::enter(&self.jobs, Request::from_http(request));
        let requests = Streaming::new_request(SessionCodec { limits: self.limits }, body, None, Some(most));
        messages::respond(session::serve(self.directory.clone(), access, requests))
    }

    fn query(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (access, body) = Access::enter(&self.jobs, Request::from_http(request));
        let requests = messages::requests(body, self.limits.max_message_bytes);
        messages::respond(query::serve(self.directory.clone(), access, requests))
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
        // The generated service refuses compressed messages.
        let is_plain = request.headers().get(ENCODING_HEADER).is_none_or(|encoding| encoding == "identity");
        let streamed = match request.uri().path() {
            SESSION_PATH if is_plain => self.session(request),
            QUERY_PATH if is_plain => self.query(request),
            _ => {
                let (tasks, call) = (self.tasks.clone(), self.others.call(request));
                return Box::pin(async move {
                    let called = tasks.catch("a call", call).await;
                    called.unwrap_or_else(|panicked| Ok(status::panicked(&panicked).into_http()))
                });
            }
        };
        // The streams begin with their first poll, so nothing is waited for here.
        Box::pin(ready(Ok(streamed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_streams_are_those_of_the_protocol() {
        assert_eq!(SESSION_PATH, format!("/{}/Session", Routed::NAME));
        assert_eq!(QUERY_PATH, format!("/{}/Query", Routed::NAME));
    }
}
