//! `dstl fence`: a way past a damaged newest manifest or job record that frees no name.

use std::time::Duration;

use dstl::{
    backend::{BarrierRequest, RestoreFrom},
    checkpoint::{
        collect::{self, SweepOptions},
        ledger::NoticeKind,
    },
    error::Reason,
    object::{Path, Retry},
    random::Random,
    tools::fence::{self, FenceFault, Target},
    types::{InnerBackend, Name},
};
use object_store::{ObjectStoreExt as _, PutPayload};

use crate::support::{Daemon, Settings, Task, World};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: false };

fn start(world: &World, seed: u64) -> Daemon {
    Daemon::start(world, Settings::on_request(InnerBackend::HashMap, seed))
}

/// Flips a bit of the object at `path`.
async fn damage(world: &World, path: &str) {
    let path = Path::from(path);
    let mut bytes = world.objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world.objects.put(&path, PutPayload::from(bytes)).await.unwrap();
}

async fn manifests(world: &World) -> Vec<String> {
    world.paths("/op/0/manifest/").await
}

async fn mend(world: &World, target: &str) -> Result<String, FenceFault> {
    let target = Target::parse(target).unwrap();
    let node = fence::run(&world.store(), &target, 0, &Random::seeded(5)).await?;
    Ok(node.to_text())
}

/// A task that completed checkpoints 1 to 3, and what it holds of each.
async fn worked(daemon: &Daemon) -> Task {
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    for id in 1..4 {
        let number = task.session.acknowledgement().0.applied_to;
        task.put(number, &[("key", format!("value {id}").as_bytes())]);
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
    }
    task
}

fn value(task: &mut Task) -> Option<String> {
    let number = task.session.acknowledgement().0.applied_to;
    task.get(number, "key").map(|value| String::from_utf8(value).unwrap())
}

async fn sweep(world: &World) -> u64 {
    let options = SweepOptions { grace: Duration::ZERO, now_ms: u64::MAX, delete: true };
    let swept = collect::sweep(&world.store(), &Name::new("job").unwrap(), &options, Retry::none()).await;
    swept.unwrap().deleted().objects
}

#[tokio::test(start_paused = true)]
async fn a_fence_above_a_damaged_head_frees_no_name_and_lets_no_owner_of_before_publish() {
    let world = World::new();
    let (one, two) = (start(&world, 1), start(&world, 100));
    let old = worked(&one).await;
    let before = manifests(&world).await;
    damage(&world, before.last().unwrap()).await;
    let error = two.task(2, LATEST).await.err().unwrap();
    assert_eq!(error.reason, Reason::CorruptObject);
    assert!(error.message.contains("dstl fence job/op/0") && !error.message.contains("remove"), "{error}");
    let told = mend(&world, "job/op/0").await.unwrap();
    assert!(told.contains("open with attempt"), "{told}");
    assert_eq!(manifests(&world).await.len(), before.len() + 1, "one more, and none less");
    // The owner of before finds its next number taken, whichever it knows of.
    let stale = BarrierRequest { id: 9, attachment: bytes::Bytes::new(), timeout: None };
    let backend = old.opened.backend.clone();
    let refused = backend.checkpoint(backend.epoch(), stale).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Fenced, "{refused}");
    let mut new = two.task(2, LATEST).await.unwrap();
    // The third checkpoint was named by the damaged manifest alone.
    assert_eq!(value(&mut new).as_deref(), Some("value 2"));
    assert!(new.opened.backend.epoch().number > backend.epoch().number + 1, "an epoch that nobody can read is skipped");
    new.checkpoint(4).await;
    new.notice(NoticeKind::Complete, 4);
    new.checkpoint(5).await;
    sweep(&world).await;
    let left = manifests(&world).await;
    assert!(left.contains(before.last().unwrap()), "the damaged one stays: {left:?}");
    let mut again = one.task(3, LATEST).await.unwrap();
    assert_eq!(value(&mut again).as_deref(), Some("value 2"));
}

#[tokio::test(start_paused = true)]
async fn several_damaged_manifests_are_passed_over_and_what_lacks_an_object_is_lost() {
    let world = World::new();
    let one = start(&world, 1);
    drop(worked(&one).await);
    one.crash();
    let all = manifests(&world).await;
    for path in &all[all.len() - 2..] {
        damage(&world, path).await;
    }
    let segment = world.paths("/segments/").await.remove(0);
    world.store().delete_all(vec![segment.as_str().into()], Retry::none()).await.unwrap();
    let told = mend(&world, "job/op/0").await.unwrap();
    assert!(told.contains(&segment), "what is lost, and why: {told}");
    let two = start(&world, 100);
    let gone = two.task(2, LATEST).await.err().unwrap();
    assert_eq!(gone.reason, Reason::CheckpointNotFound, "{gone}");
    let mut fresh = two.task(2, RestoreFrom::Empty).await.unwrap();
    fresh.checkpoint(1).await;
    sweep(&world).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fenced_that_is_whole_or_cannot_be_read_at_all() {
    let world = World::new();
    let one = start(&world, 1);
    drop(worked(&one).await);
    let before = world.paths("").await;
    for (target, what) in [("job/op/0", "is whole"), ("job/op/1", "has no backend"), ("job", "is whole")] {
        let refused = mend(&world, target).await.unwrap_err();
        assert!(refused.to_string().contains(what), "{refused}");
    }
    for path in manifests(&world).await {
        damage(&world, &path).await;
    }
    let refused = mend(&world, "job/op/0").await.unwrap_err();
    assert!(refused.to_string().contains("backup"), "{refused}");
    assert_eq!(world.paths("").await, before);
}

#[tokio::test(start_paused = true)]
async fn a_record_above_a_damaged_one_lets_the_next_attempt_choose() {
    let world = World::new();
    let one = start(&world, 1);
    drop(worked(&one).await);
    drop(one.task(2, LATEST).await.unwrap());
    let records = world.paths("job/job/").await;
    damage(&world, records.last().unwrap()).await;
    let two = start(&world, 100);
    let refused = two.task(3, LATEST).await.err().unwrap();
    assert!(refused.message.contains("dstl fence job"), "{refused}");
    let told = mend(&world, "job").await.unwrap();
    assert!(told.contains("open with attempt"), "{told}");
    assert_eq!(world.paths("job/job/").await.len(), records.len() + 1);
    let mut task = two.task(3, LATEST).await.unwrap();
    assert_eq!(value(&mut task).as_deref(), Some("value 3"));
    // What the damaged one may have recorded is outdated.
    assert_eq!(start(&world, 200).task(2, LATEST).await.err().unwrap().reason, Reason::Fenced);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_head_that_retired_its_chain_hinders_neither_openers_nor_sweeps() {
    let world = World::new();
    let one = start(&world, 1);
    for subtask in 0..2 {
        let mut task = one.subtask(subtask, 2, 1, RestoreFrom::Empty).await.unwrap();
        task.put(0, &[("key", b"old")]);
        task.checkpoint(1).await;
    }
    let mut task = one.subtask(0, 1, 2, LATEST).await.unwrap();
    task.put(0, &[("key", b"new")]);
    task.opened.backend.materialize(task.opened.backend.epoch()).await.unwrap();
    for id in 2..8 {
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
    }
    sweep(&world).await;
    let vanished = world.paths("/op/1/manifest/").await;
    assert_eq!(world.paths("/op/1/retired/").await.len(), 1);
    damage(&world, vanished.last().unwrap()).await;
    task.checkpoint(8).await;
    sweep(&world).await;
    let two = start(&world, 100);
    for (attempt, fallback) in [(3, false), (4, true)] {
        let spec = dstl::backend::OpenSpec { restore: LATEST, fallback, ..crate::support::spec(0, 1, attempt) };
        let opened = two.directory.open(spec, |_| {}).await.unwrap();
        assert_eq!((opened.checkpoint.map(|it| it.id), opened.skipped.len()), (Some(8), 0));
    }
    // Not of one that nobody has retired: it may name what is needed.
    let served = world.paths("/op/0/manifest/").await;
    damage(&world, served.last().unwrap()).await;
    assert_eq!(two.task(5, LATEST).await.err().unwrap().reason, Reason::CorruptObject);
}
