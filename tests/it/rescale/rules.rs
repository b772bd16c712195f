//! What a rescale reads, whom it fences, and what is refused.

use dstl::{
    backend::{Description, SessionEvent},
    checkpoint::{chain, job, manifest::Manifest},
    error::Reason,
    object::Path,
    types::{BackendId, KeyGroupRange},
};

use super::*;

/// A generation at attempt 1 that has written, materialized if asked, and made checkpoint 1.
async fn generation(world: &World, parallelism: u32, materialized: bool) -> (Daemon, Fleet) {
    let daemon = Daemon::start(world, settings(1));
    let mut fleet = Fleet::start(&daemon, (parallelism, 1), &RestoreFrom::Empty, (Model::new(), 3)).await;
    fleet.write(2000);
    if materialized {
        fleet.materialize(|_| true).await;
    }
    fleet.checkpoint(1).await;
    (daemon, fleet)
}

async fn refusal(daemon: &Daemon, spec: OpenSpec) -> Error {
    match open(daemon, spec).await {
        Ok(subtask) => panic!("{} opened", subtask.task.opened.backend.id()),
        Err(error) => error,
    }
}

async fn heads(world: &World) -> Vec<Manifest> {
    job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap()
}

fn read_bytes(daemon: &Daemon) -> u64 {
    let text = daemon.metrics.encode();
    let line = text.lines().find(|line| line.starts_with("dstl_object_read_bytes_total")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_third_of_the_key_groups_reads_about_a_third_of_the_pieces() {
    let world = World::new();
    let (daemon, fleet) = generation(&world, 1, true).await;
    daemon.crash();
    let mut whole = 0;
    for name in world.paths("snapshot").await.iter().filter(|path| path.ends_with(".pieces")) {
        whole += world.store().get(&Path::from(name.clone()), Retry::none()).await.unwrap().len() as u64;
    }
    let index: u64 = heads(&world).await[0].materializations.iter().map(|base| base.index.bytes).sum();
    let daemon = Daemon::start(&world, settings(20));
    let mut read = 0;
    for subtask in 0..3 {
        let before = read_bytes(&daemon);
        let restore = RestoreFrom::Handles(fleet.handles.clone());
        let opened = open(&daemon, OpenSpec { restore, ..spec(subtask, 3, 2) }).await.unwrap().task.opened;
        let pieces = opened.restored.bytes_done;
        assert!((whole / 4..whole / 2).contains(&pieces), "{pieces} of {whole} bytes");
        assert_eq!(opened.restored.bytes_done, opened.restored.bytes_total);
        // Beside them: index, manifests of two chains.
        let all = read_bytes(&daemon) - before;
        assert!(all < pieces + index + 100_000, "{all} bytes for {pieces} of pieces and {index} of index");
        read += pieces;
    }
    assert!(read <= whole, "{read} of {whole}: nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_key_groups_reads_the_blocks_of_its_quarters_from_the_log() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut fleet = Fleet::start(&daemon, (1, 1), &RestoreFrom::Empty, (Model::new(), 3)).await;
    for id in 1..=3 {
        fleet.write(2500);
        fleet.checkpoint(id).await;
    }
    fleet.write(100);
    fleet.checkpoint(4).await;
    daemon.crash();
    let head = heads(&world).await.remove(0);
    let log: Vec<_> = head.runs.values().flat_map(|run| &run.handles).collect();
    assert_eq!(log.iter().map(|handle| handle.blocks.len()).collect::<Vec<_>>(), [4, 4, 4, 1], "the last one is small");
    let whole: u64 = log.iter().map(|handle| handle.stored_bytes).sum();
    let daemon = Daemon::start(&world, settings(20));
    // Of parallelism 4 each has a quarter, of 3 each shares two.
    for (attempt, parallelism, percent) in [(2, 4, 24..30), (3, 3, 45..55), (4, 2, 48..55), (5, 1, 100..101)] {
        for subtask in 0..parallelism {
            let before = read_bytes(&daemon);
            let restore = RestoreFrom::Handles(fleet.handles.clone());
            let opened = open(&daemon, OpenSpec { restore, ..spec(subtask, parallelism, attempt) }).await.unwrap();
            let opened = opened.task.opened;
            let blocks = log.iter().flat_map(|handle| &handle.blocks);
            let blocks = blocks.filter(|block| block.key_groups.overlaps(opened.shape.key_groups));
            let expected: u64 = blocks.map(|block| u64::from(block.stored_length)).sum();
            assert_eq!((opened.restored.bytes_done, opened.restored.bytes_total), (expected, expected));
            assert!(percent.contains(&(expected * 100 / whole)), "{expected} of {whole} bytes by 1 of {parallelism}");
            // Beside them: manifests.
            let all = read_bytes(&daemon) - before;
            assert!(all < expected + 30_000, "{all} bytes for {expected} of blocks of {whole}");
        }
    }
    let mut fleet = Fleet::start(&daemon, (3, 6), &RestoreFrom::Handles(fleet.handles), (fleet.model, 5)).await;
    fleet.check();
}

#[tokio::test(start_paused = true)]
async fn handles_that_lack_key_groups_are_refused_with_what_is_missing_and_change_nothing() {
    let world = World::new();
    let (daemon, fleet) = generation(&world, 5, false).await;
    daemon.crash();
    let daemon = Daemon::start(&world, settings(20));
    let before = world.paths("").await;
    let of = |subtasks: &[usize]| RestoreFrom::Handles(subtasks.iter().map(|n| fleet.handles[*n].clone()).collect());
    let open_with = |restore| OpenSpec { restore, ..spec(0, 1, 2) };
    let error = refusal(&daemon, open_with(of(&[0, 2, 3]))).await;
    assert_eq!(error.reason, Reason::InvalidArgument);
    assert!(error.message.contains("key groups 26..=51, 103..=127 are in none of the handles"), "{error}");
    assert!(error.message.contains("those of subtasks 1, 4 of 5 are missing"), "{error}");
    let mut other = fleet.handles[1].clone();
    other.checkpoint.uuid = uuid::Uuid::nil();
    let error = refusal(&daemon, open_with(RestoreFrom::Handles(vec![fleet.handles[1].clone(), other.clone()]))).await;
    assert_eq!(error.reason, Reason::InvalidArgument, "two of one subtask: {error}");
    let error = refusal(&daemon, open_with(RestoreFrom::Handles(vec![other.clone()]))).await;
    assert_eq!(error.reason, Reason::CheckpointNotFound, "{error}");
    other.backend.operator = Name::new("other").unwrap();
    let error = refusal(&daemon, open_with(RestoreFrom::Handles(vec![other]))).await;
    assert_eq!(error.reason, Reason::CheckpointNotFound, "a clone of nobody: {error}");
    let beyond = OpenSpec { key_groups: Some(KeyGroupRange::new(100, 128).unwrap()), ..open_with(of(&[3, 4])) };
    assert_eq!(refusal(&daemon, beyond).await.reason, Reason::InvalidArgument);
    let more = OpenSpec { max_parallelism: Some(256), ..open_with(of(&[0, 1, 2, 3, 4])) };
    assert_eq!(refusal(&daemon, more).await.reason, Reason::BackendMismatch);
    let error = refusal(&daemon, OpenSpec { restore: RestoreFrom::Id(7), ..spec(0, 1, 2) }).await;
    assert_eq!(error.reason, Reason::CheckpointNotFound, "{error}");
    assert_eq!(world.paths("").await, before, "nobody was fenced");
    // More than are needed, twice and in any order.
    let subtask = open(&daemon, OpenSpec { restore: of(&[4, 0, 1, 1, 2, 3]), ..spec(0, 2, 2) }).await.unwrap();
    let parts: Vec<_> = subtask.task.opened.parts.iter().map(|part| part.backend.subtask).collect();
    assert_eq!(parts, [0, 1, 2, 3, 4]);
    assert!(subtask.task.opened.parts.iter().all(|part| part.attachment == "at 1"));
    assert!(subtask.task.opened.attachment.is_empty());
    let fenced = heads(&world).await.into_iter().filter(|head| head.owner().is_fence).map(|head| head.backend.subtask);
    assert_eq!(fenced.collect::<Vec<_>>(), [1, 2, 3, 4], "those that it does not read too");
}

#[tokio::test(start_paused = true)]
async fn handles_of_different_checkpoints_are_refused() {
    let world = World::new();
    let (_daemon, mut fleet) = generation(&world, 2, false).await;
    let first = fleet.handles.clone();
    fleet.checkpoint(2).await;
    let restore = RestoreFrom::Handles(vec![first[0].clone(), fleet.handles[1].clone()]);
    let other = Daemon::start(&world, settings(20));
    let error = refusal(&other, OpenSpec { restore, ..spec(0, 1, 2) }).await;
    assert_eq!(error.reason, Reason::InvalidArgument);
    assert!(error.message.contains("1 of attempt 1") && error.message.contains("2 of attempt 1"), "{error}");
    fleet.checkpoint(3).await;
}

#[tokio::test(start_paused = true)]
async fn subtasks_that_disagree_on_a_state_are_refused() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut handles = vec![];
    for subtask in 0..2 {
        let opened = daemon.directory.open(spec(subtask, 2, 1), |_| {}).await.unwrap();
        let kind = if subtask == 0 { StateKind::Value } else { StateKind::Map };
        let state = StateDescriptor { kind, ..descriptor("value") };
        opened.backend.register(opened.backend.epoch(), &[state]).unwrap();
        let session = Session::start(opened.backend.clone(), opened.backend.epoch()).unwrap();
        let completed = Task { opened, session }.checkpoint(1).await;
        handles.push(CheckpointHandle::decode(&completed.handle).unwrap());
    }
    let other = Daemon::start(&world, settings(20));
    let error = refusal(&other, OpenSpec { restore: RestoreFrom::Handles(handles), ..spec(0, 1, 2) }).await;
    assert_eq!(error.reason, Reason::StateMismatch);
    assert!(error.message.contains("job/op/0") && error.message.contains("kind Map"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn owners_before_are_fenced_and_siblings_are_not() {
    let world = World::new();
    let (old, mut fleet) = generation(&world, 3, false).await;
    let new = Daemon::start(&world, settings(20));
    // Subtask 1 reads the chains 1 and 2, subtask 0 the chains 0 and 1; the one that comes first makes the fence.
    let at = |subtask| OpenSpec { restore: LATEST, ..spec(subtask, 2, 2) };
    let mut second = open(&new, at(1)).await.unwrap();
    second.task.checkpoint(2).await;
    for (subtask, is_fenced) in [(0, false), (2, true)] {
        let task = &mut fleet.subtasks[subtask].task;
        task.barrier(7);
        let event = task.event().await;
        let failed = matches!(&event, SessionEvent::CheckpointFailed { error, .. } if error.reason == Reason::Fenced);
        assert_eq!(failed, is_fenced, "{subtask}: {event:?}");
    }
    let mut first = open(&new, at(0)).await.unwrap();
    second.task.checkpoint(3).await;
    first.task.checkpoint(3).await;
    let late = OpenSpec { attempt: 1, ..at(0) };
    assert_eq!(refusal(&new, late).await.reason, Reason::Fenced);
    let vanished = OpenSpec { restore: LATEST, ..spec(2, 3, 1) };
    assert_eq!(refusal(&old, vanished).await.reason, Reason::Fenced);
    let mut fleet = Fleet { subtasks: vec![first, second], ..fleet };
    fleet.check();
}

#[tokio::test(start_paused = true)]
async fn backends_of_vanished_subtasks_on_the_same_daemon_end() {
    let world = World::new();
    let (daemon, fleet) = generation(&world, 3, false).await;
    assert_eq!(daemon.directory.count(), 3);
    let mut new = Fleet::start(&daemon, (1, 2), &LATEST, (fleet.model, 3)).await;
    new.check();
    assert_eq!(daemon.directory.count(), 1);
    assert!(daemon.metrics.encode().contains("dstl_backend_open 1"));
}

#[tokio::test(start_paused = true)]
async fn another_parallelism_under_the_same_attempt_is_refused() {
    let world = World::new();
    let (daemon, fleet) = generation(&world, 1, false).await;
    for subtask in [1, 0] {
        let error = refusal(&daemon, OpenSpec { restore: LATEST, ..spec(subtask, 2, 1) }).await;
        assert!(error.message.contains("higher attempt"), "{subtask}: {error}");
    }
    // By handle it is fenced all the same.
    let restore = RestoreFrom::Handles(fleet.handles.clone());
    open(&daemon, OpenSpec { restore, ..spec(1, 2, 1) }).await.unwrap();
    assert!(fleet.subtasks[0].task.opened.backend.has_ended());
}

#[tokio::test(start_paused = true)]
async fn an_id_means_the_newest_attempt_that_has_all_key_groups() {
    let world = World::new();
    let (daemon, first) = generation(&world, 1, false).await;
    let mut second = Fleet::start(&daemon, (3, 2), &LATEST, (first.model.clone(), 9)).await;
    second.write(100);
    second.checkpoint(1).await;
    let model = second.model.clone();
    second.write(100);
    for subtask in &mut second.subtasks[..2] {
        subtask.task.checkpoint(2).await;
    }
    let mut third = Fleet::start(&daemon, (2, 3), &RestoreFrom::Id(1), (model, 10)).await;
    third.check();
    assert_eq!(third.subtasks[1].task.opened.parts.len(), 2);
    let error = refusal(&daemon, OpenSpec { restore: RestoreFrom::Id(2), ..spec(0, 1, 4) }).await;
    assert_eq!(error.reason, Reason::CheckpointNotFound);
    assert!(error.message.contains("key groups 86..=127"), "{error}");
    // A subtask of the second generation let go of it, so that nobody takes its part of it, whichever key groups it
    // has.
    let discard = |subtask: &Subtask| {
        let target = dstl::checkpoint::ledger::NoticeTarget {
            epoch: subtask.task.opened.parts[0].checkpoint.epoch,
            id: 1,
            uuid: None,
        };
        let backend = &subtask.task.opened.backend;
        backend.notice(backend.epoch(), NoticeKind::Discard, target).unwrap();
    };
    discard(&third.subtasks[0]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut fourth = Fleet::start(&daemon, (5, 5), &RestoreFrom::Id(1), (first.model, 11)).await;
    fourth.check();
}

#[tokio::test(start_paused = true)]
async fn damage_in_another_chain_is_named_and_the_next_attempt_can_take_another_checkpoint() {
    let world = World::new();
    let (daemon, mut fleet) = generation(&world, 2, false).await;
    let (model, first) = (fleet.model.clone(), fleet.handles.clone());
    fleet.write(100);
    fleet.checkpoint(2).await;
    daemon.crash();
    let segment = world.paths("segments").await.last().unwrap().clone();
    let (store, path) = (world.store(), Path::from(segment.clone()));
    let mut bytes = store.get(&path, Retry::none()).await.unwrap().to_vec();
    bytes[45] ^= 1;
    store.delete(&path, Retry::none()).await.unwrap();
    store.create(&path, bytes.into(), Retry::none()).await.unwrap();
    let daemon = Daemon::start(&world, settings(20));
    let error = refusal(&daemon, OpenSpec { restore: LATEST, ..spec(0, 1, 2) }).await;
    assert_eq!(error.reason, Reason::CorruptObject);
    assert!(error.message.contains("checkpoint 2 cannot be restored") && error.message.contains(&segment), "{error}");
    let mut whole = Fleet::start(&daemon, (1, 3), &RestoreFrom::Handles(first), (model, 5)).await;
    whole.check();
}

#[tokio::test(start_paused = true)]
async fn imports_are_dropped_once_a_materialization_has_what_they_have() {
    let world = World::new();
    let (daemon, fleet) = generation(&world, 2, true).await;
    let mut whole = Fleet::start(&daemon, (1, 2), &LATEST, (fleet.model, 5)).await;
    let imports = |fleet: &Fleet| {
        let Description { manifest, .. } = fleet.subtasks[0].task.opened.backend.describe();
        (manifest.imports.len(), manifest.checkpoints.len())
    };
    assert_eq!(imports(&whole).0, 2);
    whole.checkpoint(2).await;
    whole.materialize(|_| true).await;
    whole.checkpoint(3).await;
    assert_eq!(imports(&whole).0, 2, "checkpoint 2 needs them");
    for id in 4..=6 {
        whole.write(10);
        whole.checkpoint(id).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(imports(&whole), (0, 3));
    // A second materialization does not use pieces of others again, but its own.
    let id = BackendId { subtask: 0, ..whole.handles[0].backend.clone() };
    let head = chain::read_head(&world.store(), &id, Retry::none()).await.unwrap().unwrap();
    assert_eq!(head.manifest.imports, []);
    let model = whole.model.clone();
    let mut again = Fleet::start(&daemon, (1, 3), &LATEST, (model, 5)).await;
    again.check();
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_let_go_is_not_taken_for_the_empty_state() {
    let world = World::new();
    let (old, mut fleet) = generation(&world, 2, false).await;
    let new = Daemon::start(&world, settings(20));
    let latest = |subtask, parallelism| OpenSpec { restore: LATEST, ..spec(subtask, parallelism, 2) };
    let second = open(&new, latest(1, 2)).await.unwrap();
    assert_eq!(second.task.opened.parts.len(), 1, "it chose for both");
    fleet.subtasks[0].task.notice(NoticeKind::Discard, 1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    // What the other subtask retains has none of its key groups.
    let error = refusal(&new, latest(0, 2)).await;
    assert_eq!(error.reason, Reason::CheckpointNotFound);
    assert!(error.message.contains("key groups 0..=63"), "{error}");
    old.crash();
}
