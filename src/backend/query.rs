//! Queries read a backend while it is written: its applied state, or its newest completed checkpoint.
//!
//! A batch is executed a few operations at a time. Between these steps the core's lock is free and other tasks run. So
//! the writer never waits longer than one small step, however large the batch, and a slow reader holds no lock. A batch
//! of up to 64 reads (8 if state is on disk) sees one moment; so does a longer batch that reads a completed checkpoint.

use std::collections::BTreeMap;

use super::{core::Core, directory::Directory, error, handle::Backend, table::reads::Reads, words::Operation};
use crate::{
    claim::states::RegisteredState,
    error::{Error, Reason, Scope},
    state::op::Answer,
    types::{BackendId, CheckpointIdentity, Epoch, KeyGroupAssignment, KeyGroupRange, StateId},
};

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
        let states = core.table.in_force();
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
            if reading.step()? {
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
            // Another owner may have given the ids to other states. The reader's ids are translated by name from now
            // on.
            (self.names, self.owner) = (Some(BTreeMap::new()), backend.epoch());
        }
        let Some(names) = &mut self.names else { return Ok(None) };
        if operations.iter().any(|operation| !names.contains_key(&operation.state)) {
            // The owner may have registered the state since the last look.
            let core = backend.shared.core();
            let own: BTreeMap<_, _> =
                core.table.states().in_force().map(|own| (own.descriptor.name.clone(), own)).collect();
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
    reads: Reads,
    applied_to: u64,
}

impl<'a> Reading<'a> {
    fn begin(backend: &'a Backend, view: View, operations: &'a [Operation<'a>]) -> Result<Self, Error> {
        let mut core = backend.shared.core();
        check_running(&core)?;
        let mark = match view {
            View::Applied => None,
            View::Completed => Some(core.table.begin_reading()?),
        };
        let reads = Reads::new(operations.len(), mark, &core.env.options.limits);
        Ok(Self { backend, operations, reads, applied_to: core.seat.next_batch() })
    }

    /// Reads a little under the core's lock. Returns whether the batch is done.
    fn step(&mut self) -> Result<bool, Error> {
        let mut core = self.backend.shared.core();
        check_running(&core)?;
        // Nothing was read yet, so the answers begin at this moment, and not at that of the request.
        if self.reads.is_new() {
            self.applied_to = core.seat.next_batch();
        }
        let is_done = core.table.read_on(&mut self.reads, self.operations)?;
        // A waiting writer gets the core first, however soon the next step begins.
        core.hand_on();
        Ok(is_done)
    }

    fn finish(mut self) -> QueryAnswers {
        let mark = self.reads.mark();
        QueryAnswers {
            answers: self.reads.take(),
            applied_to: if mark.is_none() { self.applied_to } else { 0 },
            checkpoint: mark.map(|(identity, _)| identity),
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some((_, mark)) = self.reads.mark() {
            let mut core = self.backend.shared.core();
            // Ordering: the reader is gone before marks are looked through, or else its own mark would stay until the
            // next change.
            core.table.end_reading(mark);
            core.retain_marks();
        }
    }
}

/// Fails if the backend has ended, since it no longer has an owner.
fn check_running(core: &Core) -> Result<(), Error> {
    if core.has_ended() { Err(error::not_open(&core.id)) } else { Ok(()) }
}
