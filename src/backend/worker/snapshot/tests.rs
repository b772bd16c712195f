//! Events between the steps of a snapshot.

use std::sync::Arc;

use object_store::memory::InMemory;
use tokio::sync::oneshot;

use super::*;
use crate::{
    backend::{
        Backend, BarrierRequest, CompletedCheckpoint, RestoreFrom, barrier,
        testing::{daemon, get, open, put},
        waiters::CheckpointReply,
    },
    types::StateId,
};

const FIRST: StateId = StateId(1);

type Answer = oneshot::Receiver<Result<CompletedCheckpoint, Error>>;

fn cut(backend: &Backend, id: CheckpointId) -> Answer {
    let (reply, answer) = oneshot::channel();
    let request = BarrierRequest { id, attachment: bytes::Bytes::new(), timeout: None };
    barrier::take(&mut backend.shared.core(), request, CheckpointReply::Call(reply)).unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_durable_already_keeps_its_base_while_a_later_one_overtakes_it() {
    let objects = Arc::new(InMemory::new());
    let backend = open(&daemon(&objects, 1), 1, RestoreFrom::Empty, false).await;
    put(&backend, FIRST, b"1").await;
    let (first, second) = (cut(&backend, 1), cut(&backend, 2));
    let shared = &backend.shared;
    // From here on the test does the work of its task.
    shared.core().bases.snapshots.abort(2);
    first.await.unwrap().unwrap();
    let begun = begin(&mut shared.core(), 2);
    let Some(Begun::Durable(base)) = begun else { panic!("both have the same cut") };
    put(&backend, FIRST, b"3").await;
    cut(&backend, 3).await.unwrap().unwrap();
    done(&mut shared.core(), 2, Ok(Snapped::Durable(base)));
    shared.wake();
    second.await.unwrap().unwrap();
    let manifest = backend.outline().manifest;
    for record in &manifest.checkpoints {
        let base = manifest.materialization(record.base.unwrap()).unwrap();
        assert_eq!(base.complete_at, record.cut, "of checkpoint {}", record.identity.id);
    }
    let after = open(&daemon(&objects, 100), 2, RestoreFrom::Id(2), false).await;
    assert_eq!(get(&after, FIRST).await, Some(b"1".to_vec()));
}
