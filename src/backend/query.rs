//! Queries read a backend while it is written: its applied state, or its newest completed checkpoint.
//!
//! A batch is executed a few operations at a time. Between these steps the core's lock is free and other tasks run. So
//! the writer never waits longer than one small step, however large the batch, and a slow reader holds no lock. A batch
//! of up to 64 reads (8 if state is on disk) sees one moment; so does a longer batch that reads a completed checkpoint.

use std::collections::BTreeMap;

use super::{
    apply::{Operation, address, read_key_groups, scope},
    core::{Condition, Core},
    directory::Directory,
    error,
    handle::Backend,
    slices::Counted,
};
use crate::{
    claim::states::RegisteredState,
    error::{Error, Reason, Scope},
    state::{
        StateBackend, StateError,
        op::{self, Answer, OpContext, count, scan::Reach},
        undo::Mark,
    },
    tasks,
    types::{BackendId, CheckpointIdentity, Epoch, KeyGroupAssignment, KeyGroupRange, StateId},
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

/// Bytes of a reply that stay free for its framing.
const REPLY_OVERHEAD_BYTES: usize = 64 << 10;

/// The state that a query reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The state after all applied batches.
    Applied,
    /// The state at the newest completed checkpoint.
    Completed,
}

/// The facts about its backend that a query needs.
#[derive(Debug, Clone)]
pub struct QueryStarted {
    /// The states in force.
    pub states: Vec<RegisteredState>,
    /// The key groups of the subtask.
    pub key_groups: KeyGroupRange,
    /// The number of key groups of the operator.
    pub max_parallelism: u32,
    /// Whether the daemon or the client computes key groups.
    pub assignment: KeyGroupAssignment,
}

/// The answers to a batch of reads.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryAnswers {
    /// One answer per operation; `None` if the operation was not carried out because earlier answers fill the reply.
    pub answers: Vec<Option<Answer>>,
    /// With [`View::Applied`]: batches below this number were visible to the first step.
    pub applied_to: u64,
    /// With [`View::Completed`]: the checkpoint that was read.
    pub checkpoint: Option<CheckpointIdentity>,
}

/// A reader of one backend, under any owner. It holds no lock or memory of the backend between its batches.
#[derive(Debug)]
pub struct Query {
    directory: Directory,
    id: BackendId,
    view: View,
    /// States by the ids that the reader knows.
    states: Vec<RegisteredState>,
    /// The epoch of the present owner, and its ids for these states; `None` while the owner is the first one.
    owner: Epoch,
    names: Option<BTreeMap<StateId, StateId>>,
}

impl Query {
    /// Begins to read.
    ///
    /// # Errors
    /// If queries are off, the daemon is draining, or the backend is not open here.
    pub fn start(directory: Directory, id: BackendId, view: View) -> Result<(Self, QueryStarted), Error> {
        if !directory.environment().options.queries {
            let text = "this daemon allows no queries: set `queryable-state.enabled`";
            return Err(Error::new(Reason::Unsupported, text));
        }
        let backend = directory.running(&id)?;
        let core = backend.shared.core();
        let shape = core.owner.manifest().shape;
        let states: Vec<_> = core.states.in_force().collect();
        drop(core);
        let started = QueryStarted {
            states: states.clone(),
            key_groups: shape.key_groups,
            max_parallelism: shape.max_parallelism,
            assignment: shape.assignment,
        };
        directory.environment().metrics.queries.started();
        let query = Self { directory, id, view, states, owner: backend.epoch(), names: None };
        Ok((query, started))
    }

    /// Answers a batch of reads. Cancel-safe.
    ///
    /// # Errors
    /// The error of this batch; the query goes on.
    pub async fn read(&mut self, operations: &[Operation<'_>]) -> Result<QueryAnswers, Error> {
        let read = self.try_read(operations).await;
        self.directory.environment().metrics.queries.answered(operations.len(), read.is_ok());
        read.map_err(|error| error.in_scope(Scope::Batch))
    }

    async fn try_read(&mut self, operations: &[Operation<'_>]) -> Result<QueryAnswers, Error> {
        let limits = self.directory.environment().options.limits;
        if operations.len() > limits.max_batch_operations {
            let text = format!("{} operations: a batch has at most {}", operations.len(), limits.max_batch_operations);
            return Err(Error::new(Reason::LimitExceeded, text));
        }
        let backend = self.directory.running(&self.id)?;
        let named = self.named(&backend, operations)?;
        let operations = named.as_deref().unwrap_or(operations);
        let mut reading = Reading::begin(&backend, self.view, operations)?;
        loop {
            if tasks::blocking_if(reading.on_disk, || reading.step())? {
                return Ok(reading.finish());
            }
            tokio::task::yield_now().await;
        }
    }

    /// The operations with the present owner's state ids; `None` if they are the same ids.
    fn named<'a>(
        &mut self,
        backend: &Backend,
        operations: &[Operation<'a>],
    ) -> Result<Option<Vec<Operation<'a>>>, Error> {
        if backend.epoch() != self.owner {
            (self.names, self.owner) = (Some(BTreeMap::new()), backend.epoch());
        }
        let Some(names) = &mut self.names else { return Ok(None) };
        if operations.iter().any(|operation| !names.contains_key(&operation.state)) {
            // The owner may have registered the state since the last look.
            let core = backend.shared.core();
            let own: BTreeMap<_, _> = core.states.in_force().map(|own| (own.descriptor.name.clone(), own)).collect();
            let same = |known: &RegisteredState| {
                let own = own.get(&known.descriptor.name)?;
                (own.descriptor.kind == known.descriptor.kind).then_some((known.id, own.id))
            };
            names.extend(self.states.iter().filter_map(same));
        }
        let name = |(index, operation): (usize, &Operation<'a>)| match names.get(&operation.state) {
            Some(state) => Ok(Operation { state: *state, ..*operation }),
            None => {
                let id = operation.state.0;
                let text = format!("operation {index}: the backend has a new owner, and no state that was {id} before");
                Err(Error::new(Reason::UnknownState, text))
            }
        };
        operations.iter().enumerate().map(name).collect::<Result<_, _>>().map(Some)
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        self.directory.environment().metrics.queries.ended();
    }
}

/// A batch of reads that is under way.
struct Reading<'a> {
    backend: &'a Backend,
    operations: &'a [Operation<'a>],
    on_disk: bool,
    mark: Option<(CheckpointIdentity, Mark)>,
    applied_to: u64,
    /// Bytes of answers that still fit into the reply.
    room: usize,
    answers: Vec<Option<Answer>>,
    counted: Counted,
}

impl<'a> Reading<'a> {
    fn begin(backend: &'a Backend, view: View, operations: &'a [Operation<'a>]) -> Result<Self, Error> {
        let mut core = backend.shared.core();
        check_running(&core)?;
        let mark = match view {
            View::Applied => None,
            View::Completed => Some(core.begin_reading()?),
        };
        Ok(Self {
            backend,
            operations,
            on_disk: core.inner.may_block(),
            mark,
            applied_to: core.next_batch,
            room: core.env.options.limits.max_message_bytes.saturating_sub(REPLY_OVERHEAD_BYTES),
            answers: Vec::with_capacity(operations.len()),
            counted: Counted::default(),
        })
    }

    /// Reads a little under the core's lock. Returns whether the batch is done.
    fn step(&mut self) -> Result<bool, Error> {
        let mut core = self.backend.shared.core();
        check_running(&core)?;
        if self.answers.is_empty() && self.mark.is_none() {
            self.applied_to = core.next_batch;
        }
        let most = if self.on_disk { STEP_OPERATIONS_ON_DISK } else { STEP_OPERATIONS };
        let (end, room) = (self.answers.len() + most, self.room);
        while self.answers.len() < end.min(self.operations.len()) && room - self.room < STEP_BYTES {
            let counted_on = self.counted.is_under_way();
            self.operation(&mut core)?;
            if self.counted.is_under_way() || counted_on {
                break;
            }
        }
        // A waiting writer gets the core first, however soon the next step begins.
        core.hand_on();
        Ok(self.answers.len() == self.operations.len())
    }

    /// Carries out the next operation, or a part of it.
    fn operation(&mut self, core: &mut Core) -> Result<(), Error> {
        let (index, limits) = (self.answers.len(), core.env.options.limits);
        let Some(operation) = self.operations.get(index) else { return Ok(()) };
        let key_group = core.check_read_at(index, operation, self.mark.is_some())?;
        if operation.op.is_write() {
            let text = format!("operation {index} is a write: a query only reads");
            return Err(Error::new(Reason::InvalidArgument, text));
        }
        if index > 0 && self.room < limits.max_value_bytes {
            self.answers.push(None);
            return Ok(());
        }
        if let Some((identity, mark)) = self.mark {
            core.check_mark(identity.id, mark)?;
        }
        core.read_clock();
        let Core { inner, states, marks, owner, time, clean_ups, .. } = core;
        let descriptor = states.get(operation.state).expect("a checked operation has a state");
        let at = address(operation, key_group);
        let mut at_mark;
        let reads: &mut dyn StateBackend = match (self.mark, marks) {
            (Some((_, mark)), Some(marks)) => {
                at_mark = marks.undo.view(inner, mark).expect("a checked mark is open");
                &mut at_mark
            }
            _ => inner,
        };
        if count::is_paged(&operation.op, descriptor, self.on_disk || self.mark.is_some()) {
            let of = (&operation.op, descriptor, *time);
            let total = self.counted.next((reads, at), of, &mut { STEP_COUNT }).map_err(|fault| faulty(&fault))?;
            self.answers.extend(total.map(|total| Some(Answer::Count(total))));
            return Ok(());
        }
        let context = OpContext {
            descriptor,
            max_value_bytes: limits.max_value_bytes,
            page_bytes: self.room.min(STEP_BYTES),
            key_groups: read_key_groups(operation, key_group, owner.manifest().shape.key_groups),
            scope: scope(owner.epoch()),
            time: *time,
            upkeep: None,
            reach: if self.on_disk { REACH_ON_DISK } else { REACH },
            cursors: self.mark.is_none().then(|| &**clean_ups.lists()),
        };
        let answer = op::execute(reads, at, &operation.op, &context, &mut |_| {}).map_err(|fault| faulty(&fault))?;
        self.room = self.room.saturating_sub(answer.as_ref().map_or(0, super::apply::reply_bytes));
        self.answers.push(answer);
        Ok(())
    }

    fn finish(mut self) -> QueryAnswers {
        QueryAnswers {
            answers: std::mem::take(&mut self.answers),
            applied_to: if self.mark.is_none() { self.applied_to } else { 0 },
            checkpoint: self.mark.map(|(identity, _)| identity),
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some((_, mark)) = self.mark {
            self.backend.shared.core().end_reading(mark);
        }
    }
}

/// Fails if the backend has ended, since it no longer has an owner.
fn check_running(core: &Core) -> Result<(), Error> {
    match &core.condition {
        Condition::Ended(_) => Err(error::not_open(&core.id)),
        Condition::Serving | Condition::Failsafe(_) => Ok(()),
    }
}

/// A failed read fails only its batch. If the local store is damaged, the writer will notice.
fn faulty(fault: &StateError) -> Error {
    Error::new(error::local(fault), error::inner(fault))
}
