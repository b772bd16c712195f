//! Without a claim under another parallelism: every part of the checkpoint stays, in whatever order the new subtasks
//! open.

use dstl::{
    backend::{ClaimMode, OpenSpec, RestoreFrom},
    checkpoint::{handle::CheckpointHandle, ledger::NoticeKind},
    types::{InnerBackend, KeyGroupRange},
};

use super::{check, dated, fill, open, settings};
use crate::support::{Daemon, Task, spec};

const KEY_GROUPS: u32 = 128;

/// How the new subtasks name what they restore.
#[derive(Debug, Clone, Copy)]
enum By {
    Id,
    Latest,
    AllHandles,
    /// Those that have key groups of the subtask.
    OwnHandles,
}

fn subtask_of(subtask: u32, parallelism: u32, attempt: u64, restore: RestoreFrom) -> OpenSpec {
    OpenSpec { restore, max_parallelism: Some(KEY_GROUPS), ..spec(subtask, parallelism, attempt) }
}

fn restore(by: By, handles: &[CheckpointHandle], (subtask, parallelism): (u32, u32)) -> RestoreFrom {
    let groups = |subtask, parallelism| KeyGroupRange::of_subtask(subtask, parallelism, KEY_GROUPS).unwrap();
    let is_needed = |handle: &&CheckpointHandle| {
        groups(handle.backend.subtask, handles.len() as u32).overlaps(groups(subtask, parallelism))
    };
    match by {
        By::Id => RestoreFrom::Id(1),
        By::Latest => RestoreFrom::Latest { or_empty: false },
        By::AllHandles => RestoreFrom::Handles(handles.to_vec()),
        By::OwnHandles => RestoreFrom::Handles(handles.iter().filter(is_needed).cloned().collect()),
    }
}

/// Goes from `before` subtasks to `order.len()`, which open in `order`, and back.
async fn there_and_back(before: u32, order: &[u32], by: By) {
    let (world, what) = (dated(), format!("{before} -> {order:?} by {by:?}"));
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 1));
    let mut old: Vec<Task> = vec![];
    for subtask in 0..before {
        let spec = subtask_of(subtask, before, 1, RestoreFrom::Empty);
        old.push(open(&daemon.directory, spec).await.unwrap());
    }
    let mut handles = vec![];
    for task in &mut old {
        fill(task, 1);
        handles.push(CheckpointHandle::decode(&task.checkpoint(1).await.handle).unwrap());
    }
    let after = order.len() as u32;
    let mut new = vec![];
    for &subtask in order {
        let restore = restore(by, &handles, (subtask, after));
        let spec = OpenSpec { claim: Some(ClaimMode::NoClaim), ..subtask_of(subtask, after, 2, restore) };
        new.push(open(&daemon.directory, spec).await.unwrap_or_else(|error| panic!("{what}: {error}")));
    }
    // One more for the manifest that lets go of what retention does not keep.
    for id in 2..5 {
        for task in &mut new {
            task.checkpoint(id).await;
            task.notice(NoticeKind::Complete, id);
        }
    }
    let mut retained = 0;
    for task in &new {
        let records = task.opened.backend.outline().manifest.checkpoints;
        for record in records.iter().filter(|record| record.identity.id == 1) {
            assert!(record.pinned && record.completed, "{what}: {:?}", task.opened.backend.id());
            retained += 1;
        }
    }
    assert_eq!(retained, before.min(after), "{what}: each chain that is open has its part");
    for subtask in 0..before {
        let spec = subtask_of(subtask, before, 3, RestoreFrom::Id(1));
        let mut back = open(&daemon.directory, spec).await.unwrap_or_else(|error| panic!("{what}, back: {error}"));
        check(&mut back, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn every_part_of_an_unclaimed_checkpoint_stays_in_whatever_order_the_new_subtasks_open() {
    for (before, after) in [(2, 4), (4, 2), (3, 7), (7, 3), (2, 2), (1, 3), (3, 1)] {
        for by in [By::Id, By::Latest, By::AllHandles, By::OwnHandles] {
            let ascending: Vec<u32> = (0..after).collect();
            for shift in 0..after as usize {
                let mut order = ascending.clone();
                order.rotate_left(shift);
                there_and_back(before, &order, by).await;
                order.reverse();
                there_and_back(before, &order, by).await;
            }
        }
    }
}
