//! The messages of queries.

use crate::{
    backend::{Operation, QueryAnswers, QueryStarted, View},
    error::Error,
    proto::{
        v1::{self, query_start},
        wire::Fields,
    },
    types::BackendId,
};

use super::{backend_id, invalid, operation, to_assignment, to_identity, to_range, to_registered, to_result};

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
