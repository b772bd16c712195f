//! The messages of queries, of the reading of checkpoints, and of savepoints by barrier.

use bytes::Bytes;

use super::{
    backend_id, invalid, name, operation, to_assignment, to_completed, to_identity, to_range, to_registered, to_result,
};
use crate::{
    backend::{Operation, QueryAnswers, QueryStarted, RegisteredState, SavepointMade, View},
    checkpoint::handle::CheckpointHandle,
    error::Error,
    export::pages::{Message, Page, Stored, Wanted},
    proto::{
        v1::{self, query_start, read_checkpoint_response::Response},
        wire::Fields,
    },
    savepoint::Place,
    types::{BackendId, KeyGroupRange, Name},
};

/// The backend to read, and the view of it.
pub(in crate::rpc) fn query_start(start: &v1::QueryStart) -> Result<(BackendId, View), Error> {
    let view = match query_start::View::try_from(start.view) {
        Ok(query_start::View::Unspecified | query_start::View::Applied) => View::Applied,
        Ok(query_start::View::Completed) => View::Completed,
        Err(_) => return Err(super::unknown_value("view", start.view)),
    };
    Ok((backend_id(start.backend.as_ref())?, view))
}

/// The operations of a batch, borrowed from it.
pub(in crate::rpc) fn query_operations(batch: &v1::QueryBatch) -> Result<Vec<Operation<'_>>, Error> {
    let one = |(index, wire): (usize, _)| {
        operation(&Fields::from(wire)).map_err(|what| invalid(format!("operation {index}: {what}")))
    };
    batch.operations.iter().enumerate().map(one).collect()
}

pub(in crate::rpc) fn to_query_started(started: &QueryStarted) -> v1::QueryStarted {
    v1::QueryStarted {
        states: started.states.iter().map(to_registered).collect(),
        key_groups: Some(to_range(started.key_groups)),
        max_parallelism: started.max_parallelism,
        key_group_assignment: to_assignment(started.assignment),
    }
}

pub(in crate::rpc) fn to_query_result(number: u64, answers: QueryAnswers) -> v1::QueryResult {
    v1::QueryResult {
        number,
        results: (0..).zip(answers.answers).map(|(index, answer)| to_result(index, answer)).collect(),
        checkpoint: answers.checkpoint.as_ref().map(to_identity),
        applied_to: answers.applied_to,
    }
}

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

/// The checkpoint to read, the wanted part of it, and the number of bytes of a page.
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
