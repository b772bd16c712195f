//! Answers that come in time whatever the store does, and what is owed to whom: within its timeout, after a break, and
//! of what has ended.

use std::{collections::BTreeSet, time::Duration};

use dstl::{
    backend::{Backend, BackendOptions, BarrierRequest, Refusal, RestoreFrom, Session, SessionEvent},
    checkpoint::ledger::{NoticeKind, NoticeTarget},
    error::{Error, Reason},
    types::InnerBackend,
};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Daemon, Settings, Task, World, on_both};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

/// Of a barrier.
const TIMEOUT: Duration = Duration::from_millis(1500);

on_both! {
    each_barrier_in_an_outage_fails_within_its_own_timeout: |inner| super::timeouts(inner, true);
    each_snapshot_in_an_outage_fails_within_its_own_timeout: |inner| super::timeouts(inner, false);
    a_barrier_that_failed_or_was_let_go_is_told_so_when_it_is_sent_again: |inner| super::sent_again(inner, true);
    a_snapshot_that_failed_or_was_let_go_is_told_so_when_it_is_sent_again: |inner| super::sent_again(inner, false);
    what_a_broken_session_was_owed_is_told_to_the_next_one: super::owed_after_a_break;
    what_would_be_owed_beyond_the_bound_is_refused: super::owed_beyond_the_bound;
    a_backend_that_was_taken_over_elsewhere_frees_all_that_it_had: |inner| super::taken_over(inner, true);
    one_without_changelog_that_was_taken_over_elsewhere_frees_all_that_it_had: |inner| super::taken_over(inner, false);
    a_job_that_is_closed_leaves_no_series: super::no_series;
}

fn settings(inner: InnerBackend, seed: u64, changelog: bool) -> Settings {
    let settings = Settings::on_request(inner, seed);
    Settings { options: BackendOptions { changelog, ..settings.options }, ..settings }
}

fn barrier(id: u64, timeout: Duration) -> BarrierRequest {
    BarrierRequest { id, attachment: "".into(), timeout: Some(timeout) }
}

/// The next answer, which must come within `patience`.
async fn answer(task: &mut Task, patience: Duration) -> SessionEvent {
    timeout(patience, task.event()).await.expect("an answer in time")
}

async fn failed(task: &mut Task, id: u64, patience: Duration) -> Error {
    match answer(task, patience).await {
        SessionEvent::CheckpointFailed { id: failed, error } if failed == id => error,
        other => panic!("checkpoint {id}: {other:?}"),
    }
}

/// Breaks the session of `task` and starts the next one.
fn again(task: Task) -> Task {
    let Task { opened, session } = task;
    drop(session);
    let session = Session::start(opened.backend.clone(), opened.backend.epoch()).unwrap();
    Task { opened, session }
}

async fn timeouts(inner: InnerBackend, changelog: bool) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1, changelog));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("key", b"0")]);
    task.checkpoint(1).await;
    // A notice wants a manifest, which is stuck.
    task.notice(NoticeKind::Complete, 1);
    daemon.faults.set_outage(true);
    sleep(Duration::from_secs(8)).await;
    let mut number = 1;
    for id in 2..8 {
        if id % 2 == 0 {
            task.put(number, &[("key", b"1")]);
            number += 1;
        }
        let sent = Instant::now();
        task.session.barrier(barrier(id, TIMEOUT)).unwrap();
        let error = failed(&mut task, id, TIMEOUT + Duration::from_millis(200)).await;
        // The upload of a snapshot gives up where no further try would fit into the time.
        assert!(!changelog || sent.elapsed() >= TIMEOUT);
        assert_eq!((error.reason, error.retryable), (Reason::CheckpointTimeout, true));
        for part in ["1.5s", "the store's last error, ", "create of `"] {
            assert!(error.message.contains(part), "no `{part}`: {error}");
        }
    }
    // Behind one that may take long.
    task.session.barrier(barrier(8, Duration::from_secs(600))).unwrap();
    sleep(Duration::from_secs(1)).await;
    let backend = task.opened.backend.clone();
    let unary = timeout(TIMEOUT * 2, backend.checkpoint(backend.epoch(), barrier(9, TIMEOUT))).await;
    assert_eq!(unary.expect("an answer in time").unwrap_err().reason, Reason::CheckpointTimeout);
    daemon.faults.set_outage(false);
    match answer(&mut task, Duration::from_secs(60)).await {
        SessionEvent::CheckpointCompleted(done) => assert_eq!(done.identity.id, 8),
        other => panic!("{other:?}"),
    }
    task.checkpoint(10).await;
}

async fn sent_again(inner: InnerBackend, changelog: bool) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1, changelog));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("key", b"0")]);
    task.checkpoint(1).await;
    task.notice(NoticeKind::Discard, 1);
    daemon.faults.set_outage(true);
    task.put(1, &[("key", b"1")]);
    task.barrier(2);
    task.session.barrier(barrier(3, TIMEOUT)).unwrap();
    sleep(TIMEOUT * 2).await;
    task.notice(NoticeKind::Abort, 2);
    let mut task = again(task);
    // Told once by itself, in the order in which they failed.
    assert_eq!(failed(&mut task, 3, TIMEOUT).await.reason, Reason::CheckpointTimeout);
    assert_eq!(failed(&mut task, 2, TIMEOUT).await.reason, Reason::CheckpointAborted);
    for (id, reason) in [(1, Reason::CheckpointAborted), (2, Reason::CheckpointAborted), (3, Reason::CheckpointTimeout)]
    {
        task.barrier(id);
        assert_eq!(failed(&mut task, id, TIMEOUT).await.reason, reason, "{id}");
        let Err(Refusal::Request(error)) = task.session.barrier(barrier(id, TIMEOUT)) else { panic!("taken twice") };
        assert_eq!(error.reason, Reason::CheckpointOutOfOrder, "in the same session");
    }
    daemon.faults.set_outage(false);
    task.checkpoint(4).await;
}

async fn owed_after_a_break(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1, true));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    daemon.faults.set_outage(true);
    task.put(0, &[("key", b"0")]);
    for token in 0..1000 {
        task.session.persist(token).unwrap();
    }
    task.barrier(7);
    task.session.barrier(barrier(8, TIMEOUT)).unwrap();
    assert!(task.session.is_owed());
    let task = again(task);
    sleep(TIMEOUT * 2).await;
    daemon.faults.set_outage(false);
    sleep(Duration::from_secs(60)).await;
    // Nobody took anything of it, so it is still owed; to one that replaces it, too.
    assert!(task.session.is_owed());
    let mut task = again(task);
    let old = std::mem::replace(
        &mut task.session,
        Session::start(task.opened.backend.clone(), task.opened.backend.epoch()).unwrap(),
    );
    assert!(matches!(old.outbox().pop(), Some(SessionEvent::Ended(_))));
    let (mut tokens, mut rest) = (BTreeSet::new(), vec![]);
    while let Some(event) = task.session.outbox().pop() {
        match event {
            SessionEvent::Persisted { token, persisted_to: 1 } => assert!(tokens.insert(token)),
            SessionEvent::CheckpointCompleted(done) => rest.push((done.identity.id, true)),
            SessionEvent::CheckpointFailed { id, .. } => rest.push((id, false)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((tokens.len(), rest), (1000, vec![(8, false), (7, true)]));
    assert!(!task.session.is_owed());
}

async fn owed_beyond_the_bound(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1, true));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    daemon.faults.set_outage(true);
    task.put(0, &[("key", b"0")]);
    let mut taken = 0;
    let refused = loop {
        match task.session.persist(taken) {
            Ok(()) => taken += 1,
            Err(Refusal::Request(error)) => break error,
            Err(other) => panic!("{other:?}"),
        }
        assert!(taken < 10_000, "no bound");
    };
    assert_eq!((refused.reason, refused.retryable), (Reason::LimitExceeded, true));
    assert!(matches!(task.session.barrier(barrier(1, TIMEOUT)), Err(Refusal::Request(error)) if error == refused));
    let mut task = again(task);
    assert!(matches!(task.session.persist(9), Err(Refusal::Request(_))), "also in the next session");
    daemon.faults.set_outage(false);
    for _ in 0..taken {
        assert!(matches!(answer(&mut task, Duration::from_secs(60)).await, SessionEvent::Persisted { .. }));
    }
    task.checkpoint(1).await;
}

/// Folders and files that an inner backend of `daemon` has on disk.
fn on_disk(world: &World, daemon: &Daemon) -> usize {
    let instance = daemon.directory.environment().instance.to_string();
    let mut open = vec![world.disk.path().to_owned()];
    let mut found = 0;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found += usize::from(path.is_file() && path.to_string_lossy().contains(&instance));
            open.extend(path.is_dir().then_some(path));
        }
    }
    found
}

fn gauge(daemon: &Daemon, name: &str) -> u64 {
    let text = daemon.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
    line.parse().unwrap()
}

async fn taken_over(inner: InnerBackend, changelog: bool) {
    let world = World::new();
    let old = Daemon::start(&world, settings(inner, 1, changelog));
    let without = on_disk(&world, &old);
    let mut task = old.task(1, LATEST).await.unwrap();
    task.put(0, &[("key", &[7; 10_000])]);
    task.checkpoint(1).await;
    if changelog {
        task.opened.backend.materialize(task.opened.backend.epoch()).await.unwrap();
    }
    assert!(gauge(&old, "dstl_state_bytes") > 0 && gauge(&old, "dstl_backend_open") == 1);
    let other = Daemon::start(&world, settings(inner, 2, changelog));
    let mut successor = other.task(2, LATEST).await.unwrap();
    // It finds out with its next manifest; somebody still holds it.
    task.barrier(2);
    let Task { opened, session } = task;
    let backend: Backend = opened.backend;
    let error = timeout(Duration::from_secs(60), async {
        loop {
            match session.outbox().pop() {
                Some(SessionEvent::Ended(error)) => break error,
                Some(_) => {}
                None => session.outbox().changed().await,
            }
        }
    });
    assert_eq!(error.await.unwrap().reason, Reason::Fenced);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((gauge(&old, "dstl_state_bytes"), gauge(&old, "dstl_backend_open")), (0, 0));
    assert!(old.directory.backends().is_empty() && old.directory.describe(None).unwrap().is_empty());
    assert_eq!((backend.outline().state_bytes, on_disk(&world, &old)), (0, without), "though somebody holds it");
    let text = old.metrics.encode();
    assert_eq!(text.lines().filter(|line| line.contains("job=\"job\"")).collect::<Vec<_>>(), [] as [&str; 0]);
    // Whoever still calls is told why.
    let called = old.directory.get(backend.id(), backend.epoch()).unwrap_err();
    assert_eq!(called.reason, Reason::Fenced, "{called}");
    assert!(!old.directory.close(backend.id(), backend.epoch()).await.unwrap());
    assert_eq!(successor.get(0, "key").map(|value| value.len()), Some(10_000));
    // And the place is free.
    let mut back = old.task(3, LATEST).await.unwrap();
    assert_eq!(back.get(0, "key").map(|value| value.len()), Some(10_000));
    assert_eq!(old.directory.get(backend.id(), backend.epoch()).unwrap_err().reason, Reason::Fenced);
}

async fn no_series(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1, true));
    let of_job = || daemon.metrics.encode().lines().filter(|line| line.contains("job=\"job\"")).count();
    for attempt in 1..3 {
        let mut task = daemon.task(attempt, LATEST).await.unwrap();
        task.put(0, &[("key", b"value")]);
        task.checkpoint(1).await;
        let backend = task.opened.backend.clone();
        let target = NoticeTarget { epoch: backend.epoch().number, id: 1, uuid: None };
        backend.notice(backend.epoch(), NoticeKind::Complete, target).unwrap();
        backend.materialize(backend.epoch()).await.unwrap();
        assert!(of_job() > 20, "{}", of_job());
        if attempt == 2 {
            // A materialization that fails, and a manifest that hangs, when the backend ends tell nothing afterwards.
            daemon.faults.set_outage(true);
            task.put(1, &[("key", b"other")]);
            task.barrier(2);
            let _ = timeout(Duration::from_secs(1), backend.materialize(backend.epoch())).await;
        }
        daemon.directory.close(backend.id(), backend.epoch()).await.unwrap();
        drop((task, backend));
        daemon.faults.set_outage(false);
        sleep(Duration::from_secs(700)).await;
        assert_eq!(of_job(), 0, "{}", daemon.metrics.encode());
    }
}
