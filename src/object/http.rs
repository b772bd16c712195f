//! The HTTP client of the cloud stores: object_store's own, whose answers are looked at for a wish that nobody ask for a while.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use object_store::{
    ClientOptions, Result,
    client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector},
};

use super::pace::{Pace, retry_after};

/// Statuses with which a store refuses for now: too many requests, and service unavailable.
const FOR_NOW: [u16; 2] = [429, 503];

/// Makes such clients.
#[derive(Debug)]
pub(super) struct Connector {
    /// Of whoever asks through them.
    pub(super) pace: Arc<Pace>,
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
        if FOR_NOW.contains(&answer.status().as_u16()) {
            let asked = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
            if let Some(pause) = asked.and_then(|value| retry_after(value, SystemTime::now())) {
                tracing::warn!(?pause, status = %answer.status(), "the object store asks for a pause");
                self.pace.pause(pause);
            }
        }
        Ok(answer)
    }
}
