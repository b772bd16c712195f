//! Events between the steps of a materialization.

use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;
use crate::backend::{
    BarrierRequest, RestoreFrom,
    testing::{daemon, get, open, put, register},
};

const FIRST: StateId = StateId(1);

/// Materializes `backend`; `meanwhile` runs after the states were listed.
async fn materialize_while(backend: &crate::backend::Backend, meanwhile: impl Future<Output = ()>) {
    let shared = &backend.shared;
    let (target, listed) = {
        let core = shared.core();
        (target(&core, shared, Retry::none()), Listed::of(&core, |_| true))
    };
    meanwhile.await;
    let mut writer = PieceWriter::new(target);
    copy_states(shared, &mut writer, &listed, None).await.unwrap();
    let made = writer.finish((vec![], 0), listed.at).await.unwrap();
    let mut schedule = Schedule::new(shared.core().env.options.materialization.clone(), Instant::now(), 0.0);
    finish(shared, &mut schedule, Ok(Done { made, log_changes_before: 0, images: vec![] }));
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
    let shared = &before.shared;
    let (target, listed) = {
        let core = shared.core();
        (target(&core, shared, Retry::none()), Listed { states: vec![], ..Listed::of(&core, |_| true) })
    };
    put(&before, FIRST, b"1").await;
    let made = PieceWriter::new(target).finish((vec![], 0), listed.at).await.unwrap();
    let base = made.materialization;
    assert_eq!((base.from, base.complete_at), (listed.at, listed.at));
    assert!(base.from < shared.core().owner.writer().next());
}
