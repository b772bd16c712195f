//! Events between the steps of a materialization.

use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;
use crate::{
    backend::{
        Backend, BarrierRequest, RestoreFrom,
        testing::{daemon, get, open, put, register},
    },
    materialization::target::Target,
};

const FIRST: StateId = StateId(1);

/// The beginning of a materialization of `backend`, without pauses: where it goes, and the states that have pieces.
fn begin(backend: &Backend) -> (Target, Listed) {
    let core = backend.shared.core();
    (core.bases.target(core.owner.epoch().number, Retry::none()), Listed::of(&core, |_| true))
}

/// Copies the states of `listed`.
async fn copy(backend: &Backend, target: Target, listed: Listed) -> Made {
    let mut copying = Copying { shared: &backend.shared, pacing: None, at: At::Pieces(listed), images: vec![] };
    driver::run(target, &mut copying).await.unwrap()
}

/// Materializes `backend`; `meanwhile` runs after the states were listed.
async fn materialize_while(backend: &Backend, meanwhile: impl Future<Output = ()>) {
    let (target, listed) = begin(backend);
    meanwhile.await;
    let made = copy(backend, target, listed).await;
    let shared = &backend.shared;
    let mut schedule = Schedule::new(shared.core().env.options.materialization.clone(), Instant::now(), 0.0);
    finish(shared, &mut schedule, Ok(Done { made, covered: 0, images: vec![] }));
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_registered_after_the_states_were_listed_is_in_the_log_that_is_kept() {
    let objects = Arc::new(InMemory::new());
    let before = open(&daemon(&objects, 1), 1, RestoreFrom::Empty, true).await;
    put(&before, FIRST, b"1").await;
    let mut second = StateId(0);
    materialize_while(&before, async {
        second = register(&before, "second");
        put(&before, second, b"2").await;
    })
    .await;
    put(&before, FIRST, b"3").await;
    let request = BarrierRequest { id: 1, attachment: bytes::Bytes::new(), timeout: None };
    before.checkpoint(before.epoch(), request).await.unwrap();
    let after = open(&daemon(&objects, 100), 2, RestoreFrom::Id(1), true).await;
    assert_eq!(get(&after, second).await, Some(b"2".to_vec()));
    assert_eq!(get(&after, FIRST).await, Some(b"3".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn the_first_state_of_all_may_be_registered_after_that_too() {
    let objects = Arc::new(InMemory::new());
    let before = open(&daemon(&objects, 1), 1, RestoreFrom::Empty, true).await;
    let (target, listed) = begin(&before);
    let (at, listed) = (listed.at, Listed { left: vec![], total: 0, ..listed });
    put(&before, FIRST, b"1").await;
    let base = copy(&before, target, listed).await.materialization;
    assert_eq!((base.from, base.complete_at), (at, at));
    assert!(base.from < before.shared.core().owner.writer().next());
}
