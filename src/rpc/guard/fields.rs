//! Estimates the memory of a decoded request from its bytes: an empty field of two bytes becomes a struct of hundreds.
//!
//! Only repeated fields are counted, where they are allowed: operations of a batch, elements of an operation, states,
//! changes, handles, tasks. A malformed field ends the count, since prost stops there, too.

use std::mem::size_of;

use bytes::Bytes;
use prost::encoding::decode_varint;

use crate::{
    error::{Error, Reason},
    proto::v1,
    types::Limits,
};

const BATCH: u64 = 2;
const OPERATIONS: u64 = 2;
const VALUES: u64 = 7;
const STATES: u64 = 2;
const CHANGES: u64 = 3;
const RESTORE: u64 = 9;
const HANDLES: u64 = 3;
const HANDLE: u64 = 1;
const TASKS: u64 = 3;

/// Most elements in all lists of one batch, per operation that the batch may have.
const ELEMENTS_PER_OPERATION: usize = 10;

/// Highest number of key groups, and so of subtasks whose handles can be useful.
const MOST_HANDLES: usize = 32_768;

/// Most operators of one declared job.
const MOST_TASKS: usize = 10_000;

/// Requests by the repeated fields that they may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// `ApplyBatchRequest`, `SessionRequest` and `QueryRequest`: a batch in field 2.
    Batch,
    RegisterStates,
    Open,
    DeclareJob,
    /// Requests without repeated fields.
    Flat,
}

/// The counts so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counted {
    operations: usize,
    elements: usize,
    states: usize,
    handles: usize,
    tasks: usize,
}

/// Bytes of memory that the parts of `message` take besides its `bytes`.
///
/// # Errors
/// If it has more parts than `limits` allow, or uses a feature that proto3 does not have.
pub(crate) fn cost(message: Message, bytes: &[u8], limits: &Limits) -> Result<u64, Error> {
    let mut counted = Counted::default();
    match message {
        Message::Flat => {}
        Message::Batch => each(bytes, &mut |tag, batch| match tag {
            BATCH => count_batch(batch, limits, &mut counted),
            _ => Ok(()),
        })?,
        Message::RegisterStates => each(bytes, &mut |tag, _| {
            counted.states += usize::from(tag == STATES || tag == CHANGES);
            // Each state may have a change.
            within(counted.states, 2 * limits.max_states, "states and changes")
        })?,
        Message::Open => each(bytes, &mut |tag, restore| {
            if tag != RESTORE {
                return Ok(());
            }
            each(restore, &mut |tag, handles| {
                if tag != HANDLES {
                    return Ok(());
                }
                each(handles, &mut |tag, _| {
                    counted.handles += usize::from(tag == HANDLE);
                    within(counted.handles, MOST_HANDLES, "handles")
                })
            })
        })?,
        Message::DeclareJob => each(bytes, &mut |tag, _| {
            counted.tasks += usize::from(tag == TASKS);
            within(counted.tasks, MOST_TASKS, "operators")
        })?,
    }
    Ok(counted.bytes())
}

/// Checks a `SessionRequest`.
///
/// # Errors
/// As [`cost`].
pub(crate) fn check_request(request: &[u8], limits: &Limits) -> Result<(), Error> {
    cost(Message::Batch, request, limits).map(|_| ())
}

/// Checks a `Batch` of a session.
pub(crate) fn check_batch(batch: &[u8], limits: &Limits) -> Result<(), Error> {
    count_batch(batch, limits, &mut Counted::default())
}

fn count_batch(batch: &[u8], limits: &Limits, counted: &mut Counted) -> Result<(), Error> {
    each(batch, &mut |tag, operation| {
        if tag != OPERATIONS {
            return Ok(());
        }
        counted.operations += 1;
        within(counted.operations, limits.max_batch_operations, "operations in a batch")?;
        each(operation, &mut |tag, _| {
            counted.elements += usize::from(tag == VALUES);
            within(counted.elements, ELEMENTS_PER_OPERATION * limits.max_batch_operations, "elements in a batch")
        })
    })
}

impl Counted {
    fn bytes(self) -> u64 {
        let all = self.operations * size_of::<v1::Operation>()
            + (self.elements + self.handles) * size_of::<Bytes>()
            + self.states * size_of::<v1::StateDescriptor>()
            + self.tasks * size_of::<v1::JobTasks>();
        // Vectors grow by doubling.
        2 * all as u64
    }
}

fn within(counted: usize, most: usize, what: &str) -> Result<(), Error> {
    if counted <= most {
        return Ok(());
    }
    Err(Error::new(Reason::LimitExceeded, format!("more than {most} {what}: split the request")))
}

/// Called with the number and the contents of a length-delimited field.
type Visit<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), Error>;

/// Calls `visit` with the number and the contents of every length-delimited field, up to the first malformed one.
fn each(mut bytes: &[u8], visit: Visit<'_>) -> Result<(), Error> {
    while !bytes.is_empty() {
        let Ok(tag) = decode_varint(&mut bytes) else { return Ok(()) };
        let skipped = match tag & 7 {
            0 => decode_varint(&mut bytes).is_ok(),
            1 => skip(&mut bytes, 8),
            2 => {
                let len = decode_varint(&mut bytes).ok().and_then(|len| usize::try_from(len).ok());
                let Some((field, rest)) = len.and_then(|len| bytes.split_at_checked(len)) else { return Ok(()) };
                bytes = rest;
                visit(tag >> 3, field)?;
                true
            }
            // A group has no length, so this count could not see the fields behind it, but prost would.
            3 | 4 => return Err(Error::new(Reason::InvalidArgument, "a request with groups, which proto3 has not")),
            5 => skip(&mut bytes, 4),
            _ => false,
        };
        if !skipped {
            return Ok(());
        }
    }
    Ok(())
}

fn skip(bytes: &mut &[u8], len: usize) -> bool {
    let rest = bytes.get(len..);
    *bytes = rest.unwrap_or_default();
    rest.is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn limits() -> Limits {
        Limits { max_batch_operations: 3, max_states: 2, ..Limits::default() }
    }

    fn batch(operations: usize, values: usize) -> v1::Batch {
        let operation = v1::Operation { values: vec![Bytes::new(); values], ..Default::default() };
        v1::Batch { number: 1 << 40, operations: vec![operation; operations] }
    }

    fn refused(message: Message, bytes: &[u8]) -> Reason {
        cost(message, bytes, &limits()).unwrap_err().reason
    }

    #[test]
    fn every_request_with_a_batch_has_its_operations_and_elements_counted() {
        let all = |batch: v1::Batch| {
            let operations = batch.operations.clone();
            [
                v1::ApplyBatchRequest { batch: Some(batch.clone()), ..Default::default() }.encode_to_vec(),
                v1::SessionRequest { request: Some(v1::session_request::Request::Batch(batch)) }.encode_to_vec(),
                v1::QueryRequest {
                    request: Some(v1::query_request::Request::Batch(v1::QueryBatch { number: 7, operations })),
                }
                .encode_to_vec(),
            ]
        };
        for bytes in all(batch(3, 10)) {
            let operations = 3 * size_of::<v1::Operation>() as u64;
            assert!((operations..10 * operations).contains(&cost(Message::Batch, &bytes, &limits()).unwrap()));
        }
        for bytes in all(batch(4, 0)).into_iter().chain(all(batch(1, 31))) {
            assert_eq!(refused(Message::Batch, &bytes), Reason::LimitExceeded);
        }
        check_batch(&batch(3, 0).encode_to_vec(), &limits()).unwrap();
        check_batch(&batch(4, 0).encode_to_vec(), &limits()).unwrap_err();
    }

    #[test]
    fn a_batch_in_several_pieces_is_counted_whole() {
        let piece = v1::ApplyBatchRequest { batch: Some(batch(2, 0)), ..Default::default() }.encode_to_vec();
        assert_eq!(refused(Message::Batch, &piece.repeat(2)), Reason::LimitExceeded);
        // A tag that takes more bytes than it must.
        let odd = [&[0x92, 0x00, 8][..], &[0x92, 0x00, 0].repeat(4)[..8]].concat();
        cost(Message::Batch, &odd, &limits()).unwrap();
        assert_eq!(
            refused(Message::Batch, &[&[0x92, 0x00, 12][..], &[0x92, 0x00, 0].repeat(4)].concat()),
            Reason::LimitExceeded
        );
    }

    #[test]
    fn whatever_else_repeats_is_counted() {
        let states = vec![v1::StateDescriptor::default(); 5];
        let register = v1::RegisterStatesRequest { states, ..Default::default() };
        assert_eq!(refused(Message::RegisterStates, &register.encode_to_vec()), Reason::LimitExceeded);
        let handles = v1::restore::Handles { handles: vec![Bytes::new(); MOST_HANDLES + 1], vouched: false };
        let restore = v1::Restore { restore: Some(v1::restore::Restore::Handles(handles)), ..Default::default() };
        let open = v1::OpenRequest { restore: Some(restore), ..Default::default() };
        assert_eq!(refused(Message::Open, &open.encode_to_vec()), Reason::LimitExceeded);
        let declare =
            v1::DeclareJobRequest { tasks: vec![v1::JobTasks::default(); MOST_TASKS + 1], ..Default::default() };
        assert_eq!(refused(Message::DeclareJob, &declare.encode_to_vec()), Reason::LimitExceeded);
    }

    #[test]
    fn what_prost_cannot_read_is_left_to_it_and_hides_nothing_before_it() {
        for bytes in [&[0x12][..], &[0x12, 0xff], &[0x80], &[0x17], &[0x11, 0]] {
            assert_eq!(cost(Message::Batch, bytes, &limits()).unwrap(), 0, "{bytes:?}");
        }
        let hidden = [&[0x12, 8][..], &[0x12, 0].repeat(4), &[0xff]].concat();
        assert_eq!(refused(Message::Batch, &hidden), Reason::LimitExceeded);
        assert_eq!(
            refused(Message::Batch, &[0x7b, 0x12, 0]),
            Reason::InvalidArgument,
            "a group would hide what follows"
        );
    }
}
