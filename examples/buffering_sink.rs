//! A sink that delivers in lots, and keeps what it has not delivered in operator state; restored with other subtasks,
//! too.
//!
//! The records of six partitions come in. Which partitions a subtask reads, and up to where it has, is a list, and so
//! is what it buffers: both are cut evenly among however many subtasks come after it. After the first crash there are
//! two again, after the second one three.
//!
//! What was delivered after the restored checkpoint is delivered again: exactly once needs a receiver that knows the
//! numbers.
//!
//! `cargo run --release --example buffering_sink`

#[path = "support/crash.rs"]
mod crash;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use crash::{Job, Life};
use dstl_client::{ClientError, ListState, StateOptions, types::Redistribution};

const PARTITIONS: u64 = 6;
/// Records of a partition.
const RECORDS: u64 = 150;
const LOT: usize = 32;

/// Where records go; it outlives the daemon, and takes a record that it knows for the same.
type Receiver = Arc<Mutex<BTreeSet<u64>>>;

/// The sink of one subtask.
struct Sink {
    receiver: Receiver,
    buffer: Vec<u64>,
}

impl Sink {
    /// Returns whether everything was delivered, so that nothing is buffered any more.
    fn take(&mut self, record: u64, is_last: bool) -> bool {
        self.buffer.push(record);
        let is_full = self.buffer.len() >= LOT || is_last;
        if is_full {
            self.receiver.lock().unwrap_or_else(PoisonError::into_inner).extend(self.buffer.drain(..));
        }
        is_full
    }
}

/// Returns how many records were buffered in the restored checkpoint.
async fn task(mut life: Life, receiver: Receiver) -> Result<usize, ClientError> {
    let (split, session) = (Redistribution::Split, life.session.clone());
    let positions: ListState<(), (u64, u64)> =
        life.backend.operator_list("positions", split, StateOptions::new()).await?;
    let buffered: ListState<(), u64> = life.backend.operator_list("buffer", split, StateOptions::new()).await?;

    let mut partitions = positions.scan(&()).collect(&session).await?;
    if life.backend.checkpoint().is_none() {
        let own = |partition: &u64| partition % u64::from(life.parallelism) == u64::from(life.subtask);
        partitions = (0..PARTITIONS).filter(own).map(|partition| (partition, 0)).collect();
    }
    let mut sink = Sink { receiver, buffer: buffered.scan(&()).collect(&session).await? };
    let restored = sink.buffer.len();

    // From the partition that is the furthest behind, until all are read.
    while let Some((partition, next)) = partitions.iter_mut().filter(|(_, next)| *next < RECORDS).min_by_key(|it| it.1)
    {
        let record = *partition * RECORDS + *next;
        *next += 1;
        let is_last = partitions.iter().all(|(_, next)| *next == RECORDS);
        let mut batch = session.batch();
        batch.push(positions.update(&(), &partitions));
        match sink.take(record, is_last) {
            true => batch.push(buffered.update(&(), &[])),
            false => batch.push(buffered.add(&(), &record)),
        };
        session.send(batch).await?.applied().await?;
        life.step(0).await?;
    }
    Ok(restored)
}

fn main() -> ExitCode {
    let receiver = Receiver::default();
    let job = Job { name: "buffering_sink", lives: &[2, 2, 3], crash_after: 117 };
    let task = |life| task(life, receiver.clone());
    crash::run(job, task, |restored| {
        let received = receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let expected: BTreeSet<_> = (0..PARTITIONS * RECORDS).collect();
        let missing: Vec<_> = expected.difference(&received).collect();
        match missing.is_empty() && received.len() == expected.len() {
            true => Ok(format!("{} records delivered; {restored:?} of them came out of the buffers", received.len())),
            false => Err(format!("records are missing: {missing:?}")),
        }
    })
}
