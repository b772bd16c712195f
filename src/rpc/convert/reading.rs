//! The messages of savepoints by barrier and of the reading of checkpoints.

use bytes::Bytes;

use super::{invalid, name, to_completed, to_range, to_registered};
use crate::{
    backend::{RegisteredState, SavepointMade},
    checkpoint::handle::CheckpointHandle,
    error::Error,
    export::pages::{Message, Page, Stored, Wanted},
    proto::v1::{self, read_checkpoint_response::Response},
    savepoint::Place,
    types::{KeyGroupRange, Name},
};

/// The name of the savepoint that a barrier makes, if it makes one.
pub(in crate::rpc) fn savepoint(barrier: &v1::Barrier) -> Result<Option<Name>, Error> {
    match barrier.savepoint.as_str() {
        "" => Ok(None),
        _ if barrier.readable => Err(invalid("a barrier has `savepoint` or `readable`, not both")),
        savepoint => name("savepoint", savepoint).map(Some),
    }
}

pub(in crate::rpc) fn to_savepoint_made(made: &SavepointMade) -> v1::CheckpointCompleted {
    let savepoint =
        v1::SavepointMade { path: made.id.folder().to_string(), files: made.files, rows: made.rows, bytes: made.bytes };
    v1::CheckpointCompleted { savepoint: Some(savepoint), ..to_completed(&made.checkpoint) }
}

/// The checkpoint to read, and what is wanted of it, in pages of so many bytes.
pub(in crate::rpc) fn reading(
    request: v1::ReadCheckpointRequest,
    page_bytes: usize,
) -> Result<(CheckpointHandle, Wanted), Error> {
    let handle = CheckpointHandle::decode(&request.handle)
        .map_err(|error| invalid(format!("`handle` is no checkpoint handle: {error}")))?;
    let key_groups = request.key_groups.map(|range| {
        KeyGroupRange::new(range.first, range.last)
            .map_err(|_| invalid(format!("`key_groups` {}..={} is no range of key groups", range.first, range.last)))
    });
    let states = request.states.into_iter().collect();
    Ok((handle, Wanted { key_groups: key_groups.transpose()?, states, page_bytes }))
}

pub(in crate::rpc) fn to_read(message: Message) -> v1::ReadCheckpointResponse {
    let response = match message {
        Message::Header(header) => {
            let states = header
                .states
                .into_iter()
                .map(|(id, descriptor)| to_registered(&RegisteredState { id, descriptor, migrating_from: None }));
            Response::Header(v1::CheckpointHeader {
                states: states.collect(),
                key_groups: Some(to_range(header.key_groups)),
                attachment: header.attachment,
                max_parallelism: header.max_parallelism,
            })
        }
        Message::Page(page) => Response::Page(to_page(page)),
    };
    v1::ReadCheckpointResponse { response: Some(response) }
}

fn to_page(page: Page) -> v1::CheckpointPage {
    v1::CheckpointPage {
        key_group: match page.place {
            Place::KeyGroup(key_group) => Some(key_group.0.into()),
            Place::Subtask(_) => None,
        },
        state: page.state.0,
        entries: page.entries.into_iter().map(to_stored).collect(),
        continued: page.continued,
    }
}

fn to_stored(stored: Stored) -> v1::StoredEntry {
    let entry = |(key, value): (Bytes, Bytes)| v1::StoredMapEntry { key, value };
    v1::StoredEntry {
        key: stored.key,
        namespace: stored.namespace,
        value: stored.value,
        entries: stored.entries.into_iter().map(entry).collect(),
        elements: stored.elements,
        times: stored.times,
        touched_ms: stored.touched,
    }
}
