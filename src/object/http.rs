//! The HTTP client of the cloud stores: object_store's own, whose answers are looked at.
//!
//! * A refusal may have a wish that nobody ask for a while: then nobody does.
//! * A web page is no answer of a store, whatever its status says. It comes from something in between, which wants a
//!   login, say; taken for an object, it would be a damaged one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use object_store::{
    ClientOptions, Result,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
    },
};

use super::pace::{Pace, retry_after};
use crate::clock::Clock;

/// Statuses with which a store refuses for now: too many requests, and service unavailable.
const FOR_NOW: [u16; 2] = [429, 503];

/// An answer of what is no store.
#[derive(Debug, thiserror::Error)]
#[error("a web page in place of an answer")]
struct Page;

/// Makes such clients.
#[derive(Debug)]
pub(super) struct Connector {
    /// Of whoever asks through them.
    pub(super) pace: Arc<Pace>,
}

/// The time by the clock of this host.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(Clock::system().now_ms())
}

#[derive(Debug)]
struct Attentive {
    client: HttpClient,
    pace: Arc<Pace>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Attentive { client, pace: Arc::clone(&self.pace) }))
    }
}

#[async_trait]
impl HttpService for Attentive {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let answer = self.client.execute(request).await?;
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        // What is refused is told with its text.
        if answer.status().is_success() && header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            return Err(HttpError::new(HttpErrorKind::Decode, Page));
        }
        if FOR_NOW.contains(&answer.status().as_u16()) {
            let asked = header("retry-after");
            if let Some(pause) = asked.and_then(|value| retry_after(value, now())) {
                tracing::warn!(?pause, status = %answer.status(), "the object store asks for a pause");
                self.pace.pause(pause);
            }
        }
        Ok(answer)
    }
}
