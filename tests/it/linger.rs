//! Backends without session: how long they stay open, and which of them go first where memory runs short.

use std::time::Duration;

use dstl::{
    backend::{Backend, OpenSpec, RestoreFrom, Session},
    error::{Error, Reason},
    types::{BackendId, InnerBackend, Name},
};

use crate::support::{Daemon, Settings, Task, World, on_both, spec, states};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };
const LINGER: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    Settings::on_request(inner, seed)
}

fn lingering(operator: &str, attempt: u64) -> OpenSpec {
    let plain = spec(0, 1, attempt);
    let id = BackendId { operator: Name::new(operator).unwrap(), ..plain.id.clone() };
    OpenSpec { id, linger: Some(LINGER), restore: LATEST, ..plain }
}

async fn open(daemon: &Daemon, spec: OpenSpec) -> Result<Task, Error> {
    let opened = daemon.directory.open(spec, |_| {}).await?;
    let backend = opened.backend.clone();
    backend.register(backend.epoch(), &states())?;
    let session = Session::start(backend.clone(), backend.epoch())?;
    Ok(Task { opened, session })
}

/// Ends the session and returns its backend.
fn leave(task: Task) -> Backend {
    task.opened.backend
}

fn count_of(daemon: &Daemon, cause: &str) -> u64 {
    let (text, name) = (daemon.metrics.encode(), format!("dstl_backend_lingered_total{{cause=\"{cause}\"}} "));
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

fn is_there(daemon: &Daemon, backend: &Backend) -> bool {
    let found = daemon.directory.get(backend.id(), backend.epoch());
    match found {
        Ok(_) => true,
        Err(error) => {
            assert!(matches!(error.reason, Reason::BackendNotOpen | Reason::Fenced), "{error}");
            false
        }
    }
}

async fn a_backend_ends_once_it_was_without_session_for_its_time(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = open(&daemon, lingering("op", 1)).await.unwrap();
    task.put(0, &[("a", b"1")]);
    task.checkpoint(1).await;
    tokio::time::sleep(10 * LINGER).await;
    task.put(1, &[("a", b"2")]);
    let backend = leave(task);
    tokio::time::sleep(LINGER - SECOND).await;
    // A session in between begins the time anew.
    let session = Session::start(backend.clone(), backend.epoch()).unwrap();
    tokio::time::sleep(SECOND).await;
    drop(session);
    tokio::time::sleep(LINGER - SECOND).await;
    assert!(is_there(&daemon, &backend));
    // So does the owner who comes back.
    let again = daemon.directory.open(lingering("op", 1), |_| {}).await.unwrap();
    assert!(again.reconnected);
    tokio::time::sleep(LINGER - SECOND).await;
    assert!(is_there(&daemon, &backend));
    tokio::time::sleep(2 * SECOND).await;
    assert!(!is_there(&daemon, &backend) && backend.has_ended());
    assert_eq!((daemon.directory.count(), count_of(&daemon, "time")), (0, 1));
    assert_eq!(daemon.directory.environment().state_bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
    let error = Session::start(backend.clone(), backend.epoch()).unwrap_err();
    assert_eq!(error.reason, Reason::BackendClosed, "{error}");
    // What it published is there, and the same attempt opens it again.
    let mut task = open(&daemon, OpenSpec { restore: RestoreFrom::Id(1), ..lingering("op", 1) }).await.unwrap();
    assert_eq!(task.get(0, "a"), Some(b"1".to_vec()));
}

async fn without_such_a_time_it_stays_for_ever_unless_the_daemon_has_one(inner: InnerBackend) {
    let world = World::new();
    for (seed, configured) in [(1, None), (100, Some(LINGER))] {
        let mut settings = settings(inner, seed);
        settings.options.linger = configured;
        let daemon = Daemon::start(&world, settings);
        let never = OpenSpec { linger: None, restore: RestoreFrom::Empty, ..lingering("op", 1) };
        let backend = daemon.directory.open(never, |_| {}).await.unwrap().backend;
        tokio::time::sleep(100 * LINGER).await;
        assert_eq!(is_there(&daemon, &backend), configured.is_none());
        daemon.crash();
    }
}

async fn a_newer_owner_elsewhere_ends_it_before_its_time(inner: InnerBackend) {
    let world = World::new();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&world, settings(inner, 100)));
    let backend = leave(open(&one, lingering("op", 1)).await.unwrap());
    let newer = open(&two, lingering("op", 2)).await.unwrap();
    tokio::time::sleep(LINGER / 4 + SECOND).await;
    assert!(backend.has_ended() && !is_there(&one, &backend));
    assert_eq!(count_of(&one, "owner"), 1);
    let error = backend.register(backend.epoch(), &[]).unwrap_err();
    assert_eq!(error.reason, Reason::Fenced);
    assert!(!newer.opened.backend.has_ended());
}

on_both! {
    a_backend_ends_once_it_was_without_session_for_its_time
    without_such_a_time_it_stays_for_ever_unless_the_daemon_has_one
    a_newer_owner_elsewhere_ends_it_before_its_time
}

/// Writes until `task` has about `bytes` of state.
fn fill(task: &mut Task, bytes: usize) -> Result<(), Reason> {
    for n in 0..bytes / 1024 {
        let number = task.session.acknowledgement().0.applied_to;
        let (key, value) = (format!("key {n}"), vec![7; 1000]);
        let operation = dstl::backend::Operation {
            state: dstl::types::StateId(1),
            key_group: Some(7),
            key: key.as_bytes(),
            namespace: b"",
            op: dstl::state::op::Op::Put(&value),
        };
        match task.apply(number, 1100, &[operation]) {
            Ok(_) => {}
            Err(dstl::backend::Refusal::Halted { error, .. }) => return Err(error.reason),
            Err(other) => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn where_memory_for_state_is_short_what_is_idle_longest_goes_before_anybody_is_refused() {
    let world = World::new();
    let mut settings = settings(InnerBackend::HashMap, 1);
    settings.options.state_memory = 1 << 20;
    let daemon = Daemon::start(&world, settings);
    let mut idle = vec![];
    for operator in ["first", "second", "third"] {
        let mut task = open(&daemon, lingering(operator, 1)).await.unwrap();
        fill(&mut task, 200 << 10).unwrap();
        tokio::time::sleep(SECOND).await;
        idle.push(leave(task));
        tokio::time::sleep(SECOND).await;
    }
    // Came back, so it is not idle; and one that may stay for ever.
    let back = Session::start(idle[0].clone(), idle[0].epoch()).unwrap();
    let for_ever = OpenSpec { linger: None, ..lingering("for-ever", 1) };
    let mut task = open(&daemon, for_ever).await.unwrap();
    fill(&mut task, 100 << 10).unwrap();
    let for_ever = leave(task);
    let mut busy = open(&daemon, lingering("busy", 1)).await.unwrap();
    fill(&mut busy, 300 << 10).unwrap();
    assert_eq!(idle.iter().map(Backend::has_ended).collect::<Vec<_>>(), [false, true, false]);
    fill(&mut busy, 100 << 10).unwrap();
    tokio::time::sleep(SECOND).await;
    assert!(!is_there(&daemon, &idle[1]), "it gives its memory back");
    let error = Session::start(idle[1].clone(), idle[1].epoch()).unwrap_err();
    assert!(error.reason == Reason::BackendClosed && error.message.contains("memory.state"), "{error}");
    assert_eq!(fill(&mut busy, 2 << 20), Err(Reason::StateMemory), "once nothing is idle, growth is refused");
    assert_eq!(idle.iter().map(Backend::has_ended).collect::<Vec<_>>(), [false, true, true]);
    assert!(!for_ever.has_ended() && !busy.opened.backend.has_ended());
    assert_eq!(count_of(&daemon, "memory"), 2);
    drop(back);
}

#[tokio::test(start_paused = true)]
async fn where_memory_for_changes_is_short_an_idle_backend_gives_way_to_one_that_opens() {
    let world = World::new();
    let mut settings = settings(InnerBackend::HashMap, 1);
    settings.budget = 3 * settings.options.limits.max_message_bytes as u64;
    let daemon = Daemon::start(&world, settings);
    let mut open_ones = vec![];
    let refused = loop {
        let operator = format!("op{}", open_ones.len());
        match open(&daemon, OpenSpec { linger: None, ..lingering(&operator, 1) }).await {
            Ok(task) => open_ones.push(task),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.reason, Reason::ChangeMemory);
    let last = open_ones.pop().unwrap();
    daemon.directory.close(last.opened.backend.id(), last.opened.backend.epoch()).await.unwrap();
    let idle = leave(open(&daemon, lingering("idle", 1)).await.unwrap());
    let next = open(&daemon, lingering("next", 1)).await.unwrap();
    assert!(idle.has_ended() && !next.opened.backend.has_ended());
    assert!(open_ones.iter().all(|task| !task.opened.backend.has_ended()));
}
