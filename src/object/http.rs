//! The HTTP client of the cloud stores: object_store's own client, with two checks of each answer.
//!
//! * A refusal may ask for a pause (`Retry-After`). All requests of the process then wait.
//! * A web page is not an answer of a store, even with status 200: it comes from a proxy or a login page in between. If
//!   it were taken for an object, the object would be called damaged.
//!
//! A connection ends with the runtime that made it, and is as fast as the threads of that runtime. So a request of
//! another runtime than the one that opened the store, such as one of work aside, is made by the latter.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use object_store::{
    ClientOptions, Result,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
        SpawnedReqwestConnector,
    },
};
use tokio::runtime::{Handle, Id};

use super::pace::{Pace, retry_after};
use crate::clock::Clock;

/// Statuses of a temporary refusal: too many requests, and service unavailable.
const FOR_NOW: [u16; 2] = [429, 503];

/// The error for an answer that did not come from a store.
#[derive(Debug, thiserror::Error)]
#[error("a web page in place of an answer")]
struct Page;

/// A factory of these clients.
#[derive(Debug)]
pub(super) struct Connector {
    /// The pace of the store's requests, which pauses where the store asks for it.
    pub(super) pace: Arc<Pace>,
    /// The clock that a time in `Retry-After` is compared with.
    pub(super) clock: Clock,
}

#[derive(Debug)]
struct Attentive {
    client: HttpClient,
    /// The runtime that opened the store, if one did, and the client for requests of others.
    home: Option<(Id, HttpClient)>,
    pace: Arc<Pace>,
    clock: Clock,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        let home = match Handle::try_current() {
            Ok(home) => Some((home.id(), SpawnedReqwestConnector::new(home).connect(options)?)),
            Err(_) => None,
        };
        Ok(HttpClient::new(Attentive { client, home, pace: Arc::clone(&self.pace), clock: self.clock.clone() }))
    }
}

impl Attentive {
    /// The client for a request of the calling task.
    fn client(&self) -> &HttpClient {
        match &self.home {
            // Outside of any runtime there is nothing to compare with.
            Some((home, elsewhere)) if Handle::try_current().is_ok_and(|runtime| runtime.id() != *home) => elsewhere,
            _ => &self.client,
        }
    }
}

#[async_trait]
impl HttpService for Attentive {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        // The client is chosen for each request, since the same store is used by several runtimes.
        let answer = self.client().execute(request).await?;
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        // The store's client reports a refusal together with its text.
        if answer.status().is_success() && header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            return Err(HttpError::new(HttpErrorKind::Decode, Page));
        }
        if FOR_NOW.contains(&answer.status().as_u16()) {
            let now = UNIX_EPOCH + Duration::from_millis(self.clock.now_ms());
            if let Some(pause) = header("retry-after").and_then(|value| retry_after(value, now)) {
                tracing::warn!(?pause, status = %answer.status(), "the object store asks for a pause");
                self.pace.pause(pause);
            }
        }
        Ok(answer)
    }
}
