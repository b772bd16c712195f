//! The stream of a checkpoint that is read.

use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::Status;

use super::{access::Access, convert, status};
use crate::{backend::Directory, proto::v1};

/// Bytes of a page, about, if messages may be as long.
const PAGE_BYTES: usize = 1 << 20;

/// The response stream of a reading.
pub(super) type Responses = BoxStream<'static, Result<v1::ReadCheckpointResponse, Status>>;

/// Reads what `request` asks for until the stream ends.
pub(super) fn serve(
    directory: &Directory,
    access: &Access,
    request: v1::ReadCheckpointRequest,
) -> Result<Responses, Status> {
    let page_bytes = PAGE_BYTES.min(directory.environment().options.limits.max_message_bytes / 4);
    let (handle, wanted) = convert::reading(request, page_bytes).map_err(|error| status::status(&error))?;
    access.admit(handle.backend.job.as_str())?;
    let messages = stream::unfold(directory.read_checkpoint(handle, wanted), |mut receiver| async move {
        receiver.recv().await.map(|message| (message, receiver))
    });
    let message = |message: Result<_, _>| message.map(convert::to_read).map_err(|error| status::status(&error));
    Ok(messages.map(message).boxed())
}
