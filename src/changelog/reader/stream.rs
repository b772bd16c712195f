//! Reads ahead for a replay: in order, in parallel, within a bound of memory.

use std::collections::VecDeque;

use tokio::{sync::oneshot, task::AbortHandle};

use super::{ChangeBlock, ReadError, plan, plan::Read};
use crate::{
    changelog::segment::SegmentHandle,
    object::{Retry, Store},
    tasks::Tasks,
    types::KeyGroupRange,
};

/// Which blocks to read, and how far ahead.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Only blocks that share a key group with one of these are read.
    pub key_groups: Vec<KeyGroupRange>,
    /// Most reads at the same time; at least 1.
    pub parallel_reads: usize,
    /// Most bytes that are read and not yet returned; a single read that is larger goes alone.
    pub max_bytes: u64,
    /// How each read is retried.
    pub retry: Retry,
}

/// The verified blocks of many change sets, in the order of their handles. Reads go on in the background while the
/// caller replays. Dropping the stream ends its reads.
#[derive(Debug)]
pub struct ReplayStream {
    store: Store,
    tasks: Tasks,
    options: ReplayOptions,
    planned: VecDeque<Read>,
    reading: VecDeque<Reading>,
    /// The blocks of the read that was at the front of `reading`.
    ready: VecDeque<ChangeBlock>,
    ready_memory: u64,
    /// Bytes of memory of `reading` and `ready` together.
    memory: u64,
}

/// A read in the background; it ends when this is dropped.
#[derive(Debug)]
struct Reading {
    /// The name of its object in errors.
    object: String,
    memory: u64,
    outcome: oneshot::Receiver<Result<Vec<ChangeBlock>, ReadError>>,
    task: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ReplayStream {
    /// Plans the reads; they begin with the first call of [`next`](Self::next).
    ///
    /// # Panics
    /// If `options.parallel_reads` is 0.
    #[must_use]
    pub fn new(store: Store, tasks: Tasks, handles: &[SegmentHandle], options: ReplayOptions) -> Self {
        assert!(options.parallel_reads > 0, "a replay needs at least one read at a time");
        let planned = plan::reads(handles, &options.key_groups).into();
        let (reading, ready) = Default::default();
        Self { store, tasks, options, planned, reading, ready, ready_memory: 0, memory: 0 }
    }

    /// The next block; `None` after the last one. After an error the rest is dropped. Cancel safe.
    ///
    /// # Errors
    /// [`ReadError`] of the next block; all blocks before it were returned.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn next(&mut self) -> Option<Result<ChangeBlock, ReadError>> {
        loop {
            if let Some(block) = self.ready.pop_front() {
                return Some(Ok(block));
            }
            // Ordering 1: the memory of the blocks that were returned is given back only when the last of them was.
            // They may share one buffer, which lives as long as any of them waits here.
            // Ordering 2: only then reads ahead begin, which may use that memory. In the other order a stream at its
            // bound would begin nothing, and with an empty `reading` it would end before its end.
            self.memory -= std::mem::take(&mut self.ready_memory);
            self.read_ahead();
            let first = self.reading.front_mut()?;
            let stopped = || ReadError::Stopped { object: first.object.clone() };
            // Awaited by reference, before the read is taken off the queue. If this call is dropped here, the next one
            // waits for the same read, and no block is lost or returned twice.
            let outcome = (&mut first.outcome).await.unwrap_or_else(|_| Err(stopped()));
            // The task has ended, so the abort by which this read is dropped has no effect.
            self.ready_memory = self.reading.pop_front().map_or(0, |read| read.memory);
            match outcome {
                Ok(blocks) => self.ready = blocks.into(),
                Err(error) => {
                    self.planned.clear();
                    self.reading.clear();
                    // Dropped reads are aborted. The next call subtracts `ready_memory`, so the sum of what is left
                    // must have it.
                    self.memory = self.ready_memory;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Stored bytes of planned reads that have not begun, to report progress.
    #[must_use]
    pub fn remaining_bytes(&self) -> u64 {
        self.planned.iter().map(|read| read.range.end - read.range.start).sum()
    }

    fn read_ahead(&mut self) {
        while let Some(next) = self.planned.front()
            && self.reading.len() < self.options.parallel_reads
            // A read that is larger than the bound goes alone. Without this exception it would never begin, and the
            // replay would hang.
            && (self.memory == 0 || self.memory.saturating_add(next.memory()) <= self.options.max_bytes)
            && let Some(read) = self.planned.pop_front()
        {
            let (send, outcome) = oneshot::channel();
            let (object, memory) = (read.object(), read.memory());
            let (store, retry) = (self.store.clone(), self.options.retry);
            let (tasks, name) = (self.tasks.clone(), object.clone());
            let task = self.tasks.spawn(async move {
                let read = tasks.catch("reading changes", read.execute(&store, retry)).await;
                // The receiver is gone only if the stream was dropped, which also aborts this task.
                let _ = send.send(read.unwrap_or_else(|source| Err(ReadError::Panicked { object: name, source })));
            });
            self.memory = self.memory.saturating_add(memory);
            self.reading.push_back(Reading { object, memory, outcome, task });
        }
    }
}
