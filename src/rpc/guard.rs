//! The guard in front of every call. It limits the number of calls, the size of a request, and how long an answer may
//! wait.
//!
//! ```text
//!   h2 ─▶ Guard ─▶ count of calls ─▶ Inbound (whole, small enough, in time, paid for) ─▶ tonic ─▶ service
//!   h2 ◀─ Outbound (in pieces, as the peer takes them; waiting bytes are paid for) ◀────────────────┘
//! ```
//!
//! A handler that will read much state first acquires memory for its answer, from the [`Answers`] in the extensions of
//! its request. Sessions do not wait for memory: there are as many as open backends, and each has a longest message
//! reserved for its requests (`backend::CreditPool`), and one answer of its own.

mod fields;
mod inbound;
mod outbound;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tonic::{body::Body, codegen::http};
use tower::{Layer, Service};

pub(super) use self::fields::{check_batch, check_request};
use self::{fields::Message, inbound::Inbound, outbound::Outbound};
use super::{listener::Caller, status};
use crate::{
    error::{Error, Reason},
    limits::{Bounds, Pool, QUERY_PERCENT, Share},
    metrics::Metrics,
    types::Limits,
};

/// Longest request of a call without state, and longest first message of a stream.
const SMALL_REQUEST_BYTES: usize = 64 << 10;

/// Longest declaration of a job.
const DECLARATION_BYTES: usize = 1 << 20;

const SERVICE: &str = "/dstl.v1.StateBackendService/";

/// Bounds for all calls of one server, as a layer of tower. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GuardLayer(Arc<Shared>);

/// A service whose calls are bounded.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bounds: Bounds,
    limits: Limits,
    requests: Pool,
    answers: Pool,
    /// Number of calls under way, and of queries among them.
    calls: AtomicUsize,
    queries: AtomicUsize,
    open: Gauge,
    refused: Counter,
}

/// Memory for the answers of one call, in the extensions of its request.
#[derive(Debug, Clone)]
pub(super) struct Answers(pub(super) Share);

/// One call that is counted until this is dropped.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    is_query: bool,
}

/// The rules for the requests of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rules {
    message: Message,
    /// Longest first message, and longest later message, in bytes.
    first_bytes: usize,
    later_bytes: usize,
    /// Whether its handler reads one message after the other.
    streams: bool,
    /// Whether the backend that it writes to pays for its later messages.
    is_session: bool,
}

impl GuardLayer {
    /// Counts and bounds the calls of one server; `limits` are those that clients are told.
    #[must_use]
    pub fn new(bounds: Bounds, limits: Limits, metrics: &Metrics) -> Self {
        let pool = |bytes| Pool::new(bytes, bounds.times.stuck);
        let (requests, answers) = (pool(bounds.request_bytes), pool(bounds.answer_bytes));
        let (held, waiting) = (requests.clone(), answers.clone());
        metrics.read(
            "rpc_request_memory_bytes",
            "Bytes of requests that are not whole, or being worked on (rpc.request-memory)",
            move || held.used(),
        );
        metrics.read(
            "rpc_answer_memory_bytes",
            "Bytes of answers that are being read, or wait for their clients (rpc.answer-memory)",
            move || waiting.used(),
        );
        metrics.register(
            "rpc_requests_given_up",
            "Calls ended because their clients sent nothing while others needed the memory",
            requests.taken_back(),
        );
        metrics.register(
            "rpc_answers_given_up",
            "Calls ended because their clients took nothing while others needed the memory",
            answers.taken_back(),
        );
        Self(Arc::new(Shared {
            bounds,
            limits,
            requests,
            answers,
            calls: AtomicUsize::new(0),
            queries: AtomicUsize::new(0),
            open: metrics.register("rpc_calls_open", "Calls under way (rpc.max-calls)", Gauge::default()),
            refused: metrics.register(
                "rpc_calls_refused",
                "Calls refused because there were too many at once",
                Counter::default(),
            ),
        }))
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, shared: self.0.clone() }
    }
}

impl Shared {
    /// A place for one more call.
    fn enter(self: &Arc<Self>, is_query: bool) -> Result<Place, Error> {
        // Relaxed, since the counts guard no other memory.
        let most = self.bounds.calls;
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let queries = self.queries.fetch_add(usize::from(is_query), Ordering::Relaxed) + usize::from(is_query);
        // Ordering: the call is counted before it is compared with the limit. If two calls compared first, both could
        // take the last place. A refused call is uncounted when `place` is dropped.
        let place = Place { shared: self.clone(), is_query };
        self.open.inc();
        let most_queries = most * QUERY_PERCENT / 100;
        let text = if calls > most {
            format!("{most} calls are under way, as many as `rpc.max-calls` allows; leave fewer open, and try again")
        } else if is_query && queries > most_queries {
            format!("{most_queries} queries are under way, as many as there may be; leave fewer open, and try again")
        } else {
            return Ok(place);
        };
        self.refused.inc();
        Err(Error::new(Reason::TooManyCalls, text))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.calls.fetch_sub(1, Ordering::Relaxed);
        self.shared.queries.fetch_sub(usize::from(self.is_query), Ordering::Relaxed);
        self.shared.open.dec();
    }
}

impl Rules {
    fn of(path: &str, limits: &Limits) -> Self {
        let most = limits.max_message_bytes;
        let small = SMALL_REQUEST_BYTES.min(most);
        let unary = |message, bytes: usize| Self {
            message,
            first_bytes: bytes.min(most),
            later_bytes: bytes.min(most),
            streams: false,
            is_session: false,
        };
        match path.strip_prefix(SERVICE) {
            Some("ApplyBatch") => unary(Message::Batch, most),
            Some("RegisterStates") => unary(Message::RegisterStates, most),
            Some("Open") => unary(Message::Open, most),
            Some("DeclareJob") => unary(Message::DeclareJob, DECLARATION_BYTES),
            Some("Checkpoint") => unary(Message::Flat, SMALL_REQUEST_BYTES + limits.max_attachment_bytes),
            Some("Query") => Self { later_bytes: most, streams: true, ..unary(Message::Batch, small) },
            Some("Session") => {
                Self { later_bytes: most, streams: true, is_session: true, ..unary(Message::Batch, small) }
            }
            Some(_) => unary(Message::Flat, small),
            // Health and reflection.
            None => Self { streams: true, ..unary(Message::Flat, small) },
        }
    }
}

impl<S, R> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
    R: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(caller) = request.extensions().get::<Caller>() {
            caller.settle();
        }
        let rules = Rules::of(request.uri().path(), &self.shared.limits);
        let is_query = rules.streams && !rules.is_session && rules.message == Message::Batch;
        // Queries alone may not take all places, so that writers always find one. A session is no query.
        let place = match self.shared.enter(is_query) {
            Ok(place) => place,
            Err(error) => return Box::pin(async move { Ok(status::status(&error).into_http()) }),
        };
        let (paid, answers) = (self.shared.requests.share(), self.shared.answers.share());
        request.extensions_mut().insert(Answers(answers.clone()));
        let times = self.shared.bounds.times;
        let limits = self.shared.limits;
        let request = {
            let paid = paid.clone();
            request.map(|body| Body::new(Inbound::new(body, rules, limits, times, paid)))
        };
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            // The message of a unary call has been decoded and dropped by now.
            drop(paid);
            Ok(response.map(|body| Body::new(Outbound::new(Body::new(body), answers, place))))
        })
    }
}

#[cfg(test)]
mod tests;
