//! The client against the fake daemon.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod folding;
mod model;

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::{
    fake::{Event, Fake},
    *,
};
use dstl_proto::{types::MergeFunction, v1::Outcome};

struct Setup {
    fake: Fake,
    backend: Backend,
    counts: ValueState<String, i64>,
    _folder: TempDir,
}

async fn setup(configure: impl FnOnce(&mut fake::State)) -> Setup {
    let fake = Fake::new();
    configure(&mut fake.state());
    let folder = TempDir::new().unwrap();
    let client = Client::connect(fake.serve(folder.path())).await.unwrap();
    let backend = client.open(OpenOptions::new("job", "operator")).await.unwrap();
    let sums = StateOptions::new().with_merge(MergeFunction::SumI64);
    let counts = backend.value_state("counts", sums).await.unwrap();
    Setup { fake, backend, counts, _folder: folder }
}

impl Setup {
    async fn session(&self) -> Session {
        let options = SessionOptions { reconnect_timeout: Duration::from_secs(5) };
        self.backend.session_with(options).await.unwrap()
    }

    fn count(&self, key: &'static str) -> i64 {
        let values = &self.fake.state().values;
        let value = values.get(&(self.counts.id(), "".into(), key.into()));
        value.map_or(0, |bytes| i64::from_le_bytes(bytes[..].try_into().unwrap()))
    }

    fn one(&self, key: &str) -> BatchBuilder {
        let mut batch = BatchBuilder::new();
        batch.push(self.counts.merge(key, &1));
        batch
    }

    fn events(&self) -> Vec<Event> {
        self.fake.state().events.clone()
    }
}

#[tokio::test]
async fn a_task_opens_writes_reads_and_closes() {
    let setup = setup(|_| {}).await;
    assert_eq!(setup.backend.attachment(), "offset 7");
    assert_eq!(setup.backend.epoch().number, 1);
    let session = setup.session().await;
    let counts = &setup.counts;
    session.run(counts.merge("a", &2)).await.unwrap();
    session.run(counts.merge("a", &3)).await.unwrap();
    assert_eq!(session.run(counts.get("a")).await.unwrap(), Some(5));
    assert_eq!(session.run(counts.namespace(&1_u64).get("a")).await.unwrap(), None);
    session.run(counts.clear("a")).await.unwrap();
    assert_eq!(session.run(counts.get("a")).await.unwrap(), None);
    assert_eq!(session.persist().await.unwrap(), 6);
    let closed = session.clone();
    session.close().await.unwrap();
    assert!(matches!(closed.send(BatchBuilder::new()).await, Err(ClientError::Closed)));
    assert!(setup.backend.clone().close().await.unwrap());
    assert_eq!(setup.events().last(), Some(&Event::Ended));
}

#[tokio::test]
async fn session_windows_that_meet_are_merged() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let counts = &setup.counts;
    let (first, second, both) = ((0_u64, 10_u64), (5_u64, 20_u64), (0_u64, 20_u64));
    session.run(counts.namespace(&first).merge("a", &2)).await.unwrap();
    session.run(counts.namespace(&second).merge("a", &3)).await.unwrap();
    assert_eq!(
        session.run(counts.namespace(&both).merge_namespaces("a", &[first, second])).await.unwrap(),
        Outcome::Done
    );
    assert_eq!(session.run(counts.namespace(&both).get("a")).await.unwrap(), Some(5));
    assert_eq!(session.run(counts.namespace(&first).get("a")).await.unwrap(), None);
    session.close().await.unwrap();
}

#[tokio::test]
async fn pages_of_maps_and_lists_are_joined() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let map: MapState<str, String, u64> = setup.backend.map_state("map", StateOptions::new()).await.unwrap();
    for (name, number) in ["a", "b", "c", "d", "e"].into_iter().zip(0_u64..) {
        session.run(map.put("key", name, &number)).await.unwrap();
    }
    session.run(map.remove("key", "c")).await.unwrap();
    let entries = map.scan("key").collect(&session).await.unwrap();
    assert_eq!(entries, [("a", 0), ("b", 1), ("d", 3), ("e", 4)].map(|(name, number)| (name.to_owned(), number)));
    let list: ListState<str, String> = setup.backend.list_state("list", StateOptions::new()).await.unwrap();
    session.run(list.update("key", &["x".to_owned(), "y".to_owned()])).await.unwrap();
    session.run(list.add("key", "z")).await.unwrap();
    assert_eq!(list.scan("key").collect(&session).await.unwrap(), ["x", "y", "z"]);
}

#[tokio::test]
async fn another_descriptor_under_the_same_name_is_refused() {
    let setup = setup(|_| {}).await;
    let refused = setup.backend.value_state::<str, i64>("counts", StateOptions::new()).await;
    assert_eq!(refused.unwrap_err().reason(), Reason::StateMismatch);
}

#[tokio::test]
async fn batches_are_pipelined_within_tight_credit() {
    let setup = setup(|state| {
        state.credit = 60;
        state.answer_delay = Duration::from_millis(1);
    })
    .await;
    let session = setup.session().await;
    let mut receipts = Vec::new();
    for _ in 0..100 {
        receipts.push(session.send(setup.one("a")).await.unwrap());
    }
    for (receipt, number) in receipts.into_iter().zip(0..) {
        assert_eq!(receipt.applied().await.unwrap().number, number);
    }
    assert_eq!(setup.count("a"), 100);
    assert_eq!(session.acknowledged().applied_to, 100);
    let most_used = setup.fake.state().most_used;
    assert!((20..=60).contains(&most_used), "{most_used}");
}

#[tokio::test]
async fn what_was_unacknowledged_at_a_break_applies_once() {
    let setup = setup(|state| {
        state.answer_delay = Duration::from_millis(2);
        state.breaks = [3, 4, 20].into();
    })
    .await;
    let session = setup.session().await;
    let mut receipts = Vec::new();
    for _ in 0..40 {
        receipts.push(session.send(setup.one("a")).await.unwrap());
    }
    for (receipt, number) in receipts.into_iter().zip(0..) {
        assert_eq!(receipt.applied().await.unwrap().number, number);
    }
    session.close().await.unwrap();
    assert_eq!(setup.count("a"), 40);
    assert_eq!(setup.events().iter().filter(|event| **event == Event::Started).count(), 4);
}

#[tokio::test]
async fn reads_that_a_break_left_unanswered_are_asked_again() {
    let setup = setup(|state| state.breaks = [0].into()).await;
    let session = setup.session().await;
    let mut batch = setup.one("a");
    let read = batch.push(setup.counts.get("a"));
    let applied = session.send(batch).await.unwrap().applied().await.unwrap();
    assert_eq!((applied.number, applied.get(read).unwrap()), (0, Some(1)));
    assert_eq!(setup.events()[1..], [Event::Applied(0, 2), Event::Started, Event::Applied(1, 1)]);
}

#[tokio::test]
async fn reads_of_a_repeated_batch_are_asked_again() {
    let setup = setup(|state| state.breaks = [0].into()).await;
    let session = setup.session().await;
    let mut batch = setup.one("a");
    let read = batch.push(setup.counts.get("a"));
    // The new stream tells that batch 0 is next, although it is applied.
    setup.fake.state().understated = 1;
    let applied = session.send(batch).await.unwrap().applied().await.unwrap();
    assert_eq!(applied.get(read).unwrap(), Some(1));
    assert_eq!(setup.count("a"), 1);
    session.close().await.unwrap();
}

#[tokio::test]
async fn a_rejected_batch_fails_alone_and_what_follows_keeps_its_order() {
    let setup = setup(|state| state.answer_delay = Duration::from_millis(1)).await;
    let session = setup.session().await;
    let first = session.send(setup.one("a")).await.unwrap();
    let failed = session.send(setup.one("bad")).await.unwrap();
    let second = session.send(setup.one("b")).await.unwrap();
    let checkpoint = session.barrier(7, "offsets").await.unwrap();
    let third = session.send(setup.one("c")).await.unwrap();
    let failed_too = session.send(setup.one("bad")).await.unwrap();
    let last = session.barrier(8, "").await.unwrap();

    assert_eq!(failed.applied().await.unwrap_err().reason(), Reason::UnknownState);
    assert_eq!(failed_too.applied().await.unwrap_err().reason(), Reason::UnknownState);
    let numbers = [first.applied().await, second.applied().await, third.applied().await];
    assert_eq!(numbers.map(|applied| applied.unwrap().number), [0, 1, 2]);
    let completed = checkpoint.await.unwrap();
    assert_eq!((completed.applied_to, completed.handle), (2, "offsets".into()));
    assert_eq!(last.await.unwrap().applied_to, 3);
    session.close().await.unwrap();
    let applied: Vec<_> = setup
        .events()
        .into_iter()
        .filter(|event| !matches!(event, Event::Refused(_) | Event::RefusedBarrier(_)))
        .collect();
    assert_eq!(
        applied,
        [
            Event::Started,
            Event::Applied(0, 1),
            Event::Rejected(1),
            Event::Resume(1),
            Event::Applied(1, 1),
            Event::Barrier(7),
            Event::Applied(2, 1),
            Event::Rejected(3),
            Event::Resume(3),
            Event::Barrier(8),
            Event::Ended
        ]
    );
}

#[tokio::test]
async fn only_the_operation_to_blame_fails_among_those_that_share_a_batch() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let counts = &setup.counts;
    let keys = ["a", "b", "bad", "c", "d"];
    let calls: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let (counts, session) = (counts.clone(), session.clone());
            tokio::spawn(async move { session.run(counts.merge(key, &1)).await })
        })
        .collect();
    for (call, key) in calls.into_iter().zip(keys) {
        assert_eq!(call.await.unwrap().is_err(), key == "bad", "{key}");
    }
    assert_eq!(["a", "b", "c", "d"].map(|key| setup.count(key)), [1; 4]);
}

#[tokio::test]
async fn concurrent_awaits_share_batches() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let counts = &setup.counts;
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let (counts, session) = (counts.clone(), session.clone());
            tokio::spawn(async move { session.run(counts.merge("a", &1)).await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(setup.count("a"), 500);
    let batches = setup.fake.state().applied_to;
    assert!(batches <= 5, "{batches} batches");
}

#[tokio::test]
async fn a_barrier_cuts_between_what_is_before_and_after_it() {
    let setup = setup(|state| state.credit = 60).await;
    let session = setup.session().await;
    let mut checkpoints = Vec::new();
    for id in 1..=20 {
        session.send(setup.one("a")).await.unwrap();
        checkpoints.push(session.barrier(id, "").await.unwrap());
    }
    for (checkpoint, applied_to) in checkpoints.into_iter().zip(1..) {
        let completed = checkpoint.await.unwrap();
        assert_eq!(completed.applied_to, applied_to);
        let identity = completed.checkpoint.unwrap();
        assert_eq!(session.complete(&identity).await.unwrap(), NoticeOutcome::Done);
    }
}

#[tokio::test]
async fn a_checkpoint_in_flight_at_a_break_is_interrupted() {
    let setup = setup(|state| {
        state.holds_barriers = true;
        state.breaks = [0].into();
    })
    .await;
    let session = setup.session().await;
    let pending = session.barrier(1, "").await.unwrap();
    session.send(setup.one("a")).await.unwrap().applied().await.unwrap();
    assert!(matches!(pending.await, Err(ClientError::CheckpointInterrupted { checkpoint_id: 1 })));
    setup.fake.state().holds_barriers = false;
    assert_eq!(session.barrier(2, "").await.unwrap().await.unwrap().applied_to, 1);
}

#[tokio::test]
async fn a_connection_that_dies_is_made_again() {
    let fake = Fake::new();
    fake.state().answer_delay = Duration::from_millis(5);
    let folder = TempDir::new().unwrap();
    let serve = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let path = fake.serve(folder.path());
        drop(entered);
        (runtime, path)
    };
    let (runtime, path) = serve();
    let client = Client::connect(path).await.unwrap();
    let backend = client.open(OpenOptions::new("job", "operator")).await.unwrap();
    let counts = backend.value_state::<str, i64>("counts", StateOptions::new()).await.unwrap();
    let session = backend.session().await.unwrap();
    let mut receipts = Vec::new();
    let mut runtime = Some(runtime);
    for number in 0..40 {
        if number == 20 {
            runtime.take().unwrap().shutdown_background();
            runtime = Some(serve().0);
        }
        let mut batch = session.batch();
        batch.push(counts.merge("a", &1));
        receipts.push(session.send(batch).await.unwrap());
    }
    for receipt in receipts {
        receipt.applied().await.unwrap();
    }
    assert_eq!(session.run(counts.get("a")).await.unwrap(), Some(40));
    session.close().await.unwrap();
    runtime.unwrap().shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_mix_of_rejections_and_breaks_applies_every_good_batch_once_and_in_order() {
    for seed in 1..=30_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        let setup = setup(|state| {
            state.credit = 100 + below(1000);
            state.breaks = (0..60).filter(|_| below(8) == 0).collect();
            state.answer_delay = Duration::from_micros(if seed % 8 == 0 { 100 } else { 0 });
        })
        .await;
        let session = setup.session().await;
        let list: ListState<str, u64> = ListState::from_id(9);
        let mut sent = Vec::new();
        for number in 0..80 {
            let is_bad = below(6) == 0;
            let mut batch = session.batch();
            batch.push(list.add(if is_bad { "bad" } else { "good" }, &number));
            let read = (below(3) == 0).then(|| batch.push(setup.counts.get("a")));
            sent.push((number, is_bad, read, session.send(batch).await.unwrap()));
        }
        let mut good = Vec::new();
        for (number, is_bad, read, receipt) in sent {
            let applied = receipt.applied().await;
            assert_eq!(applied.is_err(), is_bad, "seed {seed}");
            if let (Some(read), Ok(applied)) = (read, &applied) {
                assert_eq!(applied.get(read).unwrap(), None, "seed {seed}");
            }
            if !is_bad {
                good.push(Bytes::from(number.to_le_bytes().to_vec()));
            }
        }
        session.close().await.unwrap();
        assert_eq!(setup.fake.state().lists[&(9, "good".into())], good, "seed {seed}");
    }
}

#[tokio::test]
async fn a_fenced_session_fails_whatever_is_pending() {
    let setup = setup(|state| state.breaks = [0].into()).await;
    let session = setup.session().await;
    setup.fake.state().refusal = Some(Reason::Fenced);
    let receipt = session.send(setup.one("a")).await.unwrap();
    assert!(receipt.applied().await.unwrap_err().is_fenced());
    assert!(session.wait_applied(5).await.unwrap_err().is_fenced());
    assert!(session.send(setup.one("a")).await.unwrap_err().is_fenced());
    assert!(session.close().await.unwrap_err().is_fenced());
}

#[tokio::test]
async fn a_restarted_daemon_loses_the_session() {
    let setup = setup(|state| state.breaks = [0].into()).await;
    let session = setup.session().await;
    setup.fake.state().instance = "two".to_owned();
    let error = session.send(setup.one("a")).await.unwrap().applied().await.unwrap_err();
    let ClientError::SessionLost(Lost::DaemonRestarted { was, is }) = &error else { panic!("{error:?}") };
    assert_eq!((was.as_str(), is.as_str()), ("one", "two"));
}

#[tokio::test]
async fn what_was_handed_in_is_sent_although_the_last_handle_is_gone() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let receipt = session.send(setup.one("a")).await.unwrap();
    let mut acknowledgements = session.acknowledgements();
    drop((receipt, session));
    acknowledgements.wait_for(|acknowledged| acknowledged.applied_to == 1).await.unwrap();
    assert!(acknowledgements.changed().await.is_err(), "the worker ends");
    assert_eq!(setup.events().last(), Some(&Event::Ended));
}

#[tokio::test]
async fn nobody_at_the_socket_is_told() {
    let error = Client::connect("/nowhere/dstl.sock").await.unwrap_err();
    assert_eq!(error.to_string(), "connecting to `/nowhere/dstl.sock`");
}
