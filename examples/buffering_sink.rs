//! A sink that delivers records in lots, and keeps undelivered records in operator state. The job is restored with a
//! different number of subtasks, too.
//!
//! The records come from six partitions. Two lists are operator state: the partitions that a subtask reads, each with
//! its next record, and the records that it buffers. Both lists are cut evenly among the subtasks of the next life.
//! After the first crash there are two subtasks again, after the second one three.
//!
//! Records that were delivered after the restored checkpoint are delivered again. Delivery exactly once needs a
//! receiver that recognizes their numbers.
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
/// Records of each partition.
const RECORDS: u64 = 150;
const LOT: usize = 32;

/// The destination of the records. It outlives the daemon, and keeps a record that comes twice only once.
type Receiver = Arc<Mutex<BTreeSet<u64>>>;

/// The sink of one subtask.
struct Sink {
    receiver: Receiver,
    buffer: Vec<u64>,
}

impl Sink {
    /// Takes a record. Returns whether everything was delivered, so that the buffer is empty.
    fn take(&mut self, record: u64, is_last: bool) -> bool {
        self.buffer.push(record);
        let is_full = self.buffer.len() >= LOT || is_last;
        if is_full {
            self.receiver.lock().unwrap_or_else(PoisonError::into_inner).extend(self.buffer.drain(..));
        }
        is_full
    }
}

/// Runs one life of a subtask. Returns the number of records that its restored checkpoint had buffered.
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

    // Take the next record of the partition that is furthest behind, until all are read.
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
