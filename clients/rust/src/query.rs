//! Queries read a backend while it is written.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Client, ClientError};
use dstl_proto::v1::{
    Operation, QueryBatch, QueryRequest, QueryResponse, QueryResult, QueryStart, QueryStarted, RegisteredState,
    query_request::Request, query_response::Response,
};

/// Most requests that wait to be sent.
const UNSENT_REQUESTS: usize = 4;

/// A reader of one backend, under any owner: see [`Client::query`]. The query ends when this is dropped.
#[derive(Debug)]
pub struct Query {
    requests: mpsc::Sender<QueryRequest>,
    responses: Streaming<QueryResponse>,
    started: QueryStarted,
    next: u64,
}

impl Client {
    /// Begins to read a backend of this daemon while it is written, if `queryable-state.enabled` allows it.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn query(&self, start: QueryStart) -> Result<Query, ClientError> {
        let (requests, unsent) = mpsc::channel(UNSENT_REQUESTS);
        send(&requests, Request::Start(start)).await?;
        let mut responses = self.stub().query(ReceiverStream::new(unsent)).await?.into_inner();
        let mut states = vec![];
        loop {
            match responses.message().await?.and_then(|message| message.response) {
                Some(Response::States(page)) => states.extend(page.states),
                Some(Response::Started(mut started)) => {
                    started.states.splice(..0, states);
                    return Ok(Query { requests, responses, started, next: 0 });
                }
                _ => return Err(ClientError::Incomplete("the start of a query")),
            }
        }
    }
}

impl Query {
    /// The facts that the daemon sent at the start: states and key groups.
    #[must_use]
    pub fn started(&self) -> &QueryStarted {
        &self.started
    }

    /// The state with this name, if the backend had it at the start.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<&RegisteredState> {
        let is_named = |state: &&RegisteredState| state.descriptor.as_ref().is_some_and(|d| d.name == name);
        self.started.states.iter().find(is_named)
    }

    /// Answers a batch of reads; their states are those of [`started`](Self::started). Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Daemon`] of scope batch if only this batch could not be answered; the query goes on then. Any
    /// other error ends the query.
    pub async fn read(&mut self, operations: Vec<Operation>) -> Result<QueryResult, ClientError> {
        let number = self.next;
        self.next += 1;
        let sent = send(&self.requests, Request::Batch(QueryBatch { number, operations })).await;
        loop {
            // If no request can be sent any more, the stream has the reason.
            let Some(message) = self.responses.message().await? else {
                return Err(sent.err().unwrap_or(ClientError::Closed));
            };
            match message.response {
                Some(Response::Result(result)) if result.number == number => return Ok(result),
                Some(Response::Failed(failed)) if failed.number == number => {
                    return Err(failed.error.unwrap_or_default().into());
                }
                // The answer to a call that was dropped.
                Some(Response::Result(_) | Response::Failed(_)) => {}
                Some(Response::Started(_) | Response::States(_)) | None => {
                    return Err(ClientError::Incomplete("the answer to a query"));
                }
            }
        }
    }
}

async fn send(requests: &mpsc::Sender<QueryRequest>, request: Request) -> Result<(), ClientError> {
    requests.send(QueryRequest { request: Some(request) }).await.map_err(|_| ClientError::Closed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use dstl_proto::v1::OperationKind;

    use crate::{OpenOptions, Reason, StateOptions, fake::Fake};

    #[tokio::test]
    async fn batches_are_answered_one_by_one_and_a_refused_one_does_not_end_the_query() {
        let (fake, folder) = (Fake::new(), tempfile::tempdir().unwrap());
        let client = Client::connect(fake.serve(folder.path())).await.unwrap();
        let backend = client.open(OpenOptions::new("job", "operator")).await.unwrap();
        let texts = backend.value_state::<String, String>("texts", StateOptions::new()).await.unwrap();
        let session = backend.session().await.unwrap();
        session.run(texts.put("key", "value")).await.unwrap();
        let start = QueryStart { backend: backend.reference().id.clone(), ..QueryStart::default() };
        let mut query = client.query(start).await.unwrap();
        let state = query.state("texts").unwrap().id;
        assert_eq!((query.state("other"), query.started().states.len()), (None, 1));
        let get = || Operation { kind: OperationKind::Get.into(), state, key: "key".into(), ..Operation::default() };
        let read = query.read(vec![get(), get()]).await.unwrap();
        assert_eq!(read.results.iter().map(|result| &result.value[..]).collect::<Vec<_>>(), [b"value"; 2]);
        let refused = query.read(vec![]).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::BackendNotOpen, "{refused}");
        // Its answer comes all the same, and is not taken for that of the next one.
        tokio::select! { biased;
            _ = query.read(vec![get(), get(), get()]) => panic!("nobody else has run"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(query.read(vec![get()]).await.unwrap().results.len(), 1);
    }
}
