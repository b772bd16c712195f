//! The stream of a reader: batches of reads in, answers out, in one task; or the pages of a checkpoint out.
//!
//! A request is read when the client takes the answer before it. So a reader that is slow, or gone, has at most one
//! batch under way, and delays no other caller. The stream ends when the client half-closes, or between two batches
//! when the daemon drains.

use std::collections::VecDeque;

use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use tonic::Status;

use super::{access::Access, convert, pages, status};
use crate::{
    backend::{Directory, Query},
    error::{Error, Reason, Scope},
    proto::v1::{self, QueryRequest, QueryResponse, query_request::Request, query_response::Response},
};

/// Bytes of a page of a checkpoint, about, if messages may be as long.
const PAGE_BYTES: usize = 1 << 20;

/// The response stream of the reading of a checkpoint.
pub(super) type Pages = BoxStream<'static, Result<v1::ReadCheckpointResponse, Status>>;

/// The response stream of a query.
pub(super) type Responses = BoxStream<'static, Result<QueryResponse, Status>>;

/// A reader and its stream.
struct Wire<R> {
    directory: Directory,
    access: Access,
    /// Responses to send before the next request is read.
    ready: VecDeque<Response>,
    /// The query; `None` until QueryStart has come.
    query: Option<Query>,
    requests: R,
}

/// Serves one reader until its stream ends.
pub(super) fn serve(
    directory: Directory,
    access: Access,
    requests: impl Stream<Item = Result<QueryRequest, Status>> + Send + 'static,
) -> Responses {
    let wire = Wire { directory, access, ready: VecDeque::new(), query: None, requests: requests.boxed() };
    let responses = stream::unfold(Some(wire), |wire| async move {
        let mut wire = wire?;
        let tasks = wire.directory.environment().tasks.clone();
        let next = tasks.catch("a query", wire.next()).await;
        let next = next.unwrap_or_else(|panicked| Some(Err(Error::new(Reason::Internal, panicked.to_string()))));
        match next? {
            Ok(response) => Some((Ok(QueryResponse { response: Some(response) }), Some(wire))),
            Err(error) => {
                let error = match error.scope {
                    Scope::Unspecified | Scope::Batch => error.in_scope(Scope::Session),
                    Scope::Session | Scope::Backend | Scope::Daemon => error,
                };
                Some((Err(status::status(&error)), None))
            }
        }
    });
    responses.boxed()
}

/// Reads the part that `request` asks for until the stream ends.
pub(super) fn read(
    directory: &Directory,
    access: &Access,
    request: v1::ReadCheckpointRequest,
) -> Result<Pages, Status> {
    let page_bytes = PAGE_BYTES.min(directory.environment().options.limits.max_message_bytes / 4);
    let (handle, wanted) = convert::reading(request, page_bytes).map_err(|error| status::status(&error))?;
    access.admit(handle.backend.job.as_str())?;
    let messages = stream::unfold(directory.read_checkpoint(handle, wanted), |mut receiver| async move {
        receiver.recv().await.map(|message| (message, receiver))
    });
    let message = |message: Result<_, _>| message.map(convert::to_read).map_err(|error| status::status(&error));
    Ok(messages.map(message).boxed())
}

impl<R: Stream<Item = Result<QueryRequest, Status>> + Unpin> Wire<R> {
    /// The next response; `None` at the end.
    async fn next(&mut self) -> Option<Result<Response, Error>> {
        if let Some(response) = self.ready.pop_front() {
            return Some(Ok(response));
        }
        let request = tokio::select! {
            biased;
            // Looked at only between two batches: a batch that was read is answered.
            () = self.directory.drained() => {
                let text = "this daemon is draining and answers no more queries; use another";
                return Some(Err(Error::new(Reason::Draining, text)));
            }
            request = self.requests.next() => request?,
        };
        let request = match request {
            Ok(request) => request.request,
            Err(library_says) => {
                let limit = self.directory.environment().options.limits.max_message_bytes;
                // A connection that failed has no client to tell.
                return status::refused(&library_says, limit).map(Err);
            }
        };
        // Ordering: memory for the longest answer comes before the batch is read. The length of an answer is known only
        // when it is in memory.
        if let (Some(Request::Batch(_)), Some(_)) = (&request, &self.query) {
            let longest = self.directory.environment().options.limits.max_message_bytes;
            if let Err(error) = self.access.make_room(longest).await {
                return Some(Err(error));
            }
        }
        Some(match (request, &mut self.query) {
            (Some(Request::Start(start)), None) => self.start(&start),
            (Some(Request::Batch(batch)), Some(query)) => Ok(answer(query, &batch).await),
            (Some(Request::Start(_)), Some(_)) => Err(invalid("QueryStart may only be the first message")),
            (Some(Request::Batch(_)), None) => Err(invalid("the first message of a query must be QueryStart")),
            (None, _) => {
                Err(invalid("a query request without contents, or with contents that this daemon does not know"))
            }
        })
    }

    fn start(&mut self, start: &v1::QueryStart) -> Result<Response, Error> {
        let (id, view) = convert::query_start(start)?;
        self.access.check(id.job.as_str())?;
        let (query, started) = Query::start(self.directory.clone(), id, view)?;
        self.query = Some(query);
        let most = self.directory.environment().options.limits.max_message_bytes;
        self.ready = pages::started(convert::to_query_started(&started), most).into();
        self.ready.pop_front().ok_or_else(|| invalid("nothing is told of the start"))
    }
}

/// The response to one batch: its results, or its error.
async fn answer(query: &mut Query, batch: &v1::QueryBatch) -> Response {
    let number = batch.number;
    let read = match convert::query_operations(batch) {
        Ok(operations) => query.read(&operations).await,
        Err(error) => Err(error),
    };
    match read {
        Ok(answers) => Response::Result(convert::to_query_result(number, answers)),
        Err(error) => Response::Failed(v1::QueryFailed { number, error: Some(status::message(&error)) }),
    }
}

fn invalid(text: &str) -> Error {
    Error::new(Reason::InvalidArgument, text)
}
