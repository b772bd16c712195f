//! Reads of a query: a few operations at a time, of the present state or at the mark of a checkpoint.

use super::{
    Table,
    check::{address, read_key_groups},
    slices::Counted,
    view::{REPLY_OVERHEAD_BYTES, reply_bytes},
};
use crate::{
    backend::{error, words::Operation},
    error::{Error, Reason},
    state::{
        StateBackend, StateError,
        op::{self, Answer, OpContext, count, scan::Reach},
        undo::Mark,
    },
    tasks,
    types::{CheckpointIdentity, Limits},
};

/// Most operations of one step if state is in memory.
const STEP_OPERATIONS: usize = 64;

/// Most operations of one step if each may have to wait for the disk.
const STEP_OPERATIONS_ON_DISK: usize = 8;

/// A step ends once its answers have this many bytes; also the size of a page.
const STEP_BYTES: usize = 256 << 10;

/// Most map entries that one step counts.
const STEP_COUNT: usize = 1_000;

/// How many names and key groups one page of keys looks at.
const REACH: Reach = Reach { names: 1_000, key_groups: 256 };
const REACH_ON_DISK: Reach = Reach { names: 200, key_groups: 16 };

/// A batch of reads that is under way.
#[derive(Debug)]
pub(crate) struct Reads {
    /// The checkpoint that is read, and its mark; `None` for the present state.
    mark: Option<(CheckpointIdentity, Mark)>,
    /// Bytes of answers that still fit into the reply.
    room: usize,
    answers: Vec<Option<Answer>>,
    counted: Counted,
}

impl Reads {
    /// A batch of `operations` reads, none of which is carried out yet.
    pub(crate) fn new(operations: usize, mark: Option<(CheckpointIdentity, Mark)>, limits: &Limits) -> Self {
        let room = limits.max_message_bytes.saturating_sub(REPLY_OVERHEAD_BYTES);
        Self { mark, room, answers: Vec::with_capacity(operations), counted: Counted::default() }
    }

    /// The checkpoint that is read, and its mark.
    pub(crate) fn mark(&self) -> Option<(CheckpointIdentity, Mark)> {
        self.mark
    }

    /// Whether nothing was answered yet.
    pub(crate) fn is_new(&self) -> bool {
        self.answers.is_empty()
    }

    /// Takes the answers.
    pub(crate) fn take(&mut self) -> Vec<Option<Answer>> {
        std::mem::take(&mut self.answers)
    }
}

impl Table {
    /// Carries out a few more of `operations`. Returns whether all are done.
    ///
    /// # Errors
    /// If an operation is malformed or no read, or the inner backend failed: the batch then has no answer.
    pub(crate) fn read_on(&mut self, reads: &mut Reads, operations: &[Operation<'_>]) -> Result<bool, Error> {
        tasks::blocking_if(self.may_block(), || {
            let most = if self.may_block() { STEP_OPERATIONS_ON_DISK } else { STEP_OPERATIONS };
            let (end, room) = (reads.answers.len() + most, reads.room);
            while reads.answers.len() < end.min(operations.len()) && room - reads.room < STEP_BYTES {
                let counted_on = reads.counted.is_under_way();
                self.read_next(reads, operations)?;
                // A count has used up the entries of this step, whether or not it has come to its end.
                if reads.counted.is_under_way() || counted_on {
                    break;
                }
            }
            Ok(reads.answers.len() == operations.len())
        })
    }

    /// Carries out the next operation, or a part of it.
    fn read_next(&mut self, reads: &mut Reads, operations: &[Operation<'_>]) -> Result<(), Error> {
        let (index, limits) = (reads.answers.len(), self.env.options.limits);
        let Some(operation) = operations.get(index) else { return Ok(()) };
        // Checked in each step: the core was free since the one before, and states may have been registered anew.
        let key_group = self.check_read_at(index, operation, reads.mark.is_some())?;
        if operation.op.is_write() {
            let text = format!("operation {index} is a write: a query only reads");
            return Err(Error::new(Reason::InvalidArgument, text));
        }
        // The first operation is always carried out, so a client that is asked to ask again gets on.
        if index > 0 && reads.room < limits.max_value_bytes {
            reads.answers.push(None);
            return Ok(());
        }
        // Batches since the last step may have pushed the mark out of `memory.undo`.
        if let Some((identity, mark)) = reads.mark {
            self.check_mark(identity.id, mark)?;
        }
        self.read_clock();
        let on_disk = self.may_block();
        let Self { inner, states, marks, time, clean_ups, .. } = self;
        let descriptor = states.get(operation.state).expect("a checked operation has a state");
        let at = address(operation, key_group);
        let mut at_mark;
        let contents: &mut dyn StateBackend = match (reads.mark, marks) {
            (Some((_, mark)), Some(marks)) => {
                at_mark = marks.undo.view(inner, mark).expect("a checked mark is open");
                &mut at_mark
            }
            _ => inner,
        };
        if count::is_paged(&operation.op, descriptor, on_disk || reads.mark.is_some()) {
            let of = (&operation.op, descriptor, *time);
            let total = reads.counted.next(contents, at, of, &mut { STEP_COUNT }).map_err(|fault| faulty(&fault))?;
            reads.answers.extend(total.map(|total| Some(Answer::Count(total))));
            return Ok(());
        }
        let context = OpContext {
            descriptor,
            max_value_bytes: limits.max_value_bytes,
            page_bytes: reads.room.min(STEP_BYTES),
            key_groups: read_key_groups(operation, key_group, self.shape.key_groups),
            scope: self.scope,
            time: *time,
            upkeep: None,
            reach: if on_disk { REACH_ON_DISK } else { REACH },
            cursors: reads.mark.is_none().then(|| &**clean_ups.lists()),
        };
        let answer = op::execute(contents, at, &operation.op, &context, &mut |_| {}).map_err(|fault| faulty(&fault))?;
        reads.room = reads.room.saturating_sub(answer.as_ref().map_or(0, reply_bytes));
        reads.answers.push(answer);
        Ok(())
    }
}

/// A failed read fails only its batch. If the local store is damaged, the writer will notice.
fn faulty(fault: &StateError) -> Error {
    Error::new(error::local(fault), error::inner(fault))
}
