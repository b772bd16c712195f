//! Handles that the engine vouches for: of different checkpoints, operators and jobs.

use dstl::types::KeyGroupRange;

use super::*;

const GROUPS: u32 = 128;

/// One of two subtasks of an operator of a job.
fn one_of_two(job: &str, operator: &str, subtask: u32, attempt: u64, restore: RestoreFrom) -> OpenSpec {
    let name = |name: &str| Name::new(name).unwrap();
    let id = BackendId { job: name(job), operator: name(operator), subtask };
    OpenSpec { id, restore, max_parallelism: Some(GROUPS), ..spec(subtask, 2, attempt) }
}

async fn handle(task: &mut Task, id: u64) -> CheckpointHandle {
    CheckpointHandle::decode(&task.checkpoint(id).await.handle).unwrap()
}

/// A subtask with `value` in each key and a checkpoint with that id.
async fn with(daemon: &Daemon, spec: OpenSpec, value: u64) -> (Task, CheckpointHandle) {
    let mut task = open(&daemon.directory, spec).await.unwrap();
    fill(&mut task, value);
    let handle = handle(&mut task, value).await;
    task.notice(NoticeKind::Complete, value);
    (task, handle)
}

/// What a backend has under the key groups of `range`.
fn values(task: &mut Task, range: KeyGroupRange) -> Vec<Option<String>> {
    let own = std::mem::replace(&mut task.opened.shape.key_groups, range);
    let read = |task: &mut Task, key: u64| {
        let number = task.session.acknowledgement().0.applied_to;
        task.get(number, &format!("key {key}")).map(|value| String::from_utf8(value).unwrap())
    };
    let values = (0..KEYS).map(|key| read(task, key)).collect();
    task.opened.shape.key_groups = own;
    values
}

fn all(value: u64) -> Vec<Option<String>> {
    (0..KEYS).map(|key| Some(format!("{value} of {key}"))).collect()
}

fn half(subtask: u32) -> KeyGroupRange {
    KeyGroupRange::of_subtask(subtask, 2, GROUPS).unwrap()
}

fn whole(job: &str, attempt: u64, restore: RestoreFrom) -> OpenSpec {
    let one = one_of_two(job, "op", 0, attempt, restore);
    OpenSpec { parallelism: 1, ..one }
}

async fn parts_of_different_attempts_and_ids_make_one_backend(inner: InnerBackend) {
    let world = dated();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let (_zero, first) = with(&daemon, one_of_two("job", "op", 0, 1, RestoreFrom::Empty), 3).await;
    let (_one, second) = with(&daemon, one_of_two("job", "op", 1, 2, RestoreFrom::Empty), 8).await;
    let given = vec![first.clone(), second.clone()];
    let refused = open(&daemon.directory, whole("job", 3, RestoreFrom::Handles(given.clone()))).await.err().unwrap();
    assert_eq!(refused.reason, Reason::InvalidArgument, "unless they are vouched for: {refused}");
    let mut task = open(&daemon.directory, whole("job", 3, RestoreFrom::Vouched(given))).await.unwrap();
    assert_eq!((values(&mut task, half(0)), values(&mut task, half(1))), (all(3), all(8)));
    assert_eq!(task.opened.parts.len(), 2);
    let again = handle(&mut task, 9).await;
    sweep_job(&world, "job").await;
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 100));
    let mut task = open(&daemon.directory, whole("job", 4, RestoreFrom::Handles(vec![again]))).await.unwrap();
    assert_eq!((values(&mut task, half(0)), values(&mut task, half(1))), (all(3), all(8)));
}

async fn key_groups_that_no_part_has_begin_empty(inner: InnerBackend) {
    let world = dated();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let (_zero, first) = with(&daemon, one_of_two("job", "op", 0, 1, RestoreFrom::Empty), 3).await;
    let (_one, second) = with(&daemon, one_of_two("job", "op", 1, 1, RestoreFrom::Empty), 3).await;
    for (attempt, given) in [(2, first.clone()), (3, second.clone())] {
        let at = u32::from(given == second);
        let restore = RestoreFrom::Vouched(vec![given]);
        let mut task = open(&daemon.directory, whole("job", attempt, restore)).await.unwrap();
        let nothing = vec![None; KEYS as usize];
        assert_eq!((values(&mut task, half(at)), values(&mut task, half(1 - at))), (all(3), nothing));
        fill(&mut task, 7);
        task.opened.backend.materialize(task.opened.backend.epoch()).await.unwrap();
        let again = RestoreFrom::Handles(vec![handle(&mut task, 4).await]);
        let mut task = open(&daemon.directory, whole("job", attempt, again)).await.unwrap();
        check(&mut task, 7);
    }
    // One that has none of the key groups.
    let far = OpenSpec { key_groups: Some(half(1)), ..whole("job", 5, RestoreFrom::Vouched(vec![first.clone()])) };
    let mut task = open(&daemon.directory, far).await.unwrap();
    assert_eq!((values(&mut task, half(1)), task.opened.checkpoint), (vec![None; KEYS as usize], None));
    // A part that is wanted twice.
    let twice = RestoreFrom::Vouched(vec![first.clone(), handle(&mut task, 1).await, second]);
    let refused = open(&daemon.directory, whole("job", 6, twice)).await.err().unwrap();
    assert_eq!(refused.reason, Reason::InvalidArgument);
    assert!(refused.message.contains("key groups in common"), "{refused}");
}

async fn parts_of_other_jobs_and_operators_are_cloned_and_leave_everybody_undisturbed(inner: InnerBackend) {
    let world = dated();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&world, settings(inner, 100)));
    let (mut left, first) = with(&one, one_of_two("job", "op", 0, 5, RestoreFrom::Empty), 3).await;
    let (mut right, second) = with(&one, one_of_two("third", "other", 1, 1, RestoreFrom::Empty), 8).await;
    for job in ["other", "job"] {
        let given = RestoreFrom::Vouched(vec![first.clone(), second.clone()]);
        let claiming = OpenSpec { claim: Some(ClaimMode::Claim), ..whole(job, 9, given.clone()) };
        let refused = open(&two.directory, claiming).await.err().unwrap();
        assert_eq!(refused.reason, Reason::InvalidArgument, "{refused}");
        let spec = OpenSpec {
            id: BackendId { subtask: 0, ..one_of_two(job, "joined", 0, 9, LATEST).id },
            ..whole(job, 9, given)
        };
        let mut clone = open(&two.directory, spec).await.unwrap();
        assert_eq!((values(&mut clone, half(0)), values(&mut clone, half(1))), (all(3), all(8)), "as job `{job}`");
        assert_eq!(count(&world, "/pins/").await, 0, "released once it is self-sustained");
        assert_eq!(clone.checkpoint(1).await.self_sustained_since, 1);
        assert_eq!(clone.opened.backend.outline().manifest.imports, []);
    }
    for task in [&mut left, &mut right] {
        fill(task, 11);
        handle(task, 12).await;
    }
}

/// The own chain has a part, and so has another job's: none of it may be claimed, and nothing of both be named.
async fn a_part_of_the_own_chain_beside_a_foreign_one_is_read_and_not_claimed(inner: InnerBackend) {
    let world = dated();
    let daemon = Daemon::start(&world, settings(inner, 1));
    for far in [false, true] {
        let job = if far { "far" } else { "near" };
        let (_own, first) = with(&daemon, one_of_two(job, "op", 0, 1, RestoreFrom::Empty), 3).await;
        let (_other, second) = with(&daemon, one_of_two(&format!("{job}er"), "op", 1, 1, RestoreFrom::Empty), 8).await;
        let restore = RestoreFrom::Vouched(vec![first, second]);
        // Where the foreign part has none of the key groups, what is left is just the own chain as it was.
        let spec = if far { one_of_two(job, "op", 0, 2, restore) } else { whole(job, 2, restore) };
        let mut task = open(&daemon.directory, spec).await.unwrap();
        assert_eq!(values(&mut task, half(0)), all(3));
        if !far {
            assert_eq!(values(&mut task, half(1)), all(8));
        }
        assert_eq!(task.checkpoint(20).await.self_sustained_since, 20);
        let manifest = task.opened.backend.outline().manifest;
        let own = manifest.contents(manifest.checkpoints.last().unwrap());
        assert!(own.imports.is_empty() && own.sources.iter().all(|source| source.epoch == 2), "{own:?}");
    }
}

on_both! {
    parts_of_different_attempts_and_ids_make_one_backend
    key_groups_that_no_part_has_begin_empty
    parts_of_other_jobs_and_operators_are_cloned_and_leave_everybody_undisturbed
    a_part_of_the_own_chain_beside_a_foreign_one_is_read_and_not_claimed
}
