//! Proofs on a schedule that the newest checkpoint can be restored.

use std::time::Duration;

use dstl::{
    backend::{Proof, ProofMetrics, Prover},
    object::{Path, Retry},
    types::InnerBackend,
};

use super::{KEYS, filled, write};
use crate::support::{Daemon, Settings, Task, World};

/// Waits for the proof of checkpoint `id`.
async fn proof(daemon: &Daemon, task: &Task, id: u64) -> Proof {
    let journal = daemon.directory.environment().metrics.journal();
    for _ in 0..2_000 {
        if let Some(proof) = journal.proof(task.opened.backend.id()).filter(|proof| proof.id == id) {
            return proof;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("checkpoint {id} is not proved");
}

async fn finds_damage(inner: InnerBackend) {
    let world = World::new();
    let (daemon, mut subtasks) = filled(&world, Settings::on_request(inner, 7)).await;
    let prover =
        Prover::new(daemon.directory.clone(), Duration::from_millis(1), ProofMetrics::register(&daemon.metrics));
    let env = daemon.directory.environment();
    env.tasks.spawn(prover.run());
    let metric = |name: &str| {
        let text = daemon.metrics.encode();
        let line = format!("dstl_{name}{{job=\"job\",operator=\"op\",subtask=\"0\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line).map(str::to_owned))
    };
    let of_first = subtasks[0].task.checkpoint(1).await;
    let proved = proof(&daemon, &subtasks[0].task, 1).await;
    assert_eq!(proved.fault, None);
    // Without the index of the base, what a restore reads of base and log; a tail in the manifest is read already.
    assert!(proved.bytes > 0 && proved.bytes <= of_first.full_bytes + 10_000, "{proved:?} of {of_first:?}");
    assert!(proved.took > Duration::ZERO);
    assert_eq!(metric("last_verified_checkpoint").as_deref(), Some("1"));
    assert_eq!(metric("verify_failed").as_deref(), Some("0"));
    assert_eq!(metric("last_verified_timestamp_seconds").as_deref(), Some("1.0"));
    assert_eq!(world.paths("pins").await, Vec::<String>::new());

    write(&mut subtasks, 2, 0..KEYS);
    let mut taken = vec![];
    for path in world.paths("op/0/snapshot").await.into_iter().map(Path::from) {
        taken.push((path.clone(), world.store().get(&path, Retry::none()).await.unwrap()));
        world.store().delete(&path, Retry::none()).await.unwrap();
    }
    subtasks[0].task.checkpoint(2).await;
    let failed = proof(&daemon, &subtasks[0].task, 2).await;
    assert!(failed.fault.as_ref().is_some_and(|why| why.contains("op/0/snapshot/")), "{failed:?}");
    assert_eq!(metric("verify_failed").as_deref(), Some("1"));
    assert_eq!(metric("last_verified_checkpoint").as_deref(), Some("1"), "the last one that could be restored");

    // A verdict can be taken back.
    for (path, contents) in taken {
        world.store().create(&path, contents.into(), Retry::none()).await.unwrap();
    }
    subtasks[0].task.checkpoint(3).await;
    assert_eq!(proof(&daemon, &subtasks[0].task, 3).await.fault, None);
    assert_eq!(metric("verify_failed").as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_state_in_memory_they_tell_the_time_of_a_restore_and_find_damage() {
    finds_damage(InnerBackend::HashMap).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_state_on_disk_they_tell_the_time_of_a_restore_and_find_damage() {
    finds_damage(InnerBackend::RocksDb).await;
}
