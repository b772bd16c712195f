//! All subtasks of an attempt begin with one checkpoint of the job, by whatever name they ask for it.

use dstl::{
    backend::{OpenSpec, RestoreFrom},
    checkpoint::{handle::CheckpointHandle, ledger::Retention},
    error::{Error, Reason},
    types::{BackendId, InnerBackend, Name},
};

use crate::support::{Daemon, Settings, Task, World, spec};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

fn settings(seed: u64) -> Settings {
    let mut settings = Settings::on_request(InnerBackend::HashMap, seed);
    settings.options.retention = Retention::Explicit;
    settings
}

/// A subtask that writes the name of what it is about to take.
struct Subtask {
    task: Task,
    handles: Vec<CheckpointHandle>,
}

impl Subtask {
    async fn open(daemon: &Daemon, spec: OpenSpec) -> Result<Self, Error> {
        let opened = daemon.directory.open(spec, |_| {}).await?;
        let backend = opened.backend.clone();
        backend.register(backend.epoch(), &crate::support::states())?;
        let session = dstl::backend::Session::start(backend.clone(), backend.epoch())?;
        Ok(Self { task: Task { opened, session }, handles: vec![] })
    }

    async fn checkpoint(&mut self, id: u64) {
        let attempt = self.task.opened.backend.attempt();
        let number = self.task.session.acknowledgement().0.applied_to;
        self.task.put(number, &[("key", format!("{id} of attempt {attempt}").as_bytes())]);
        let completed = self.task.checkpoint(id).await;
        self.handles.push(CheckpointHandle::decode(&completed.handle).unwrap());
    }

    fn value(&mut self) -> String {
        let number = self.task.session.acknowledgement().0.applied_to;
        self.task.get(number, "key").map_or_else(|| "nothing".to_owned(), |value| String::from_utf8(value).unwrap())
    }
}

async fn open(daemon: &Daemon, subtask: u32, attempt: u64, restore: RestoreFrom) -> Result<Subtask, Error> {
    Subtask::open(daemon, OpenSpec { restore, ..spec(subtask, 2, attempt) }).await
}

/// Two subtasks of attempt 1 that took 5, 6 and 7.
async fn pair(daemons: [&Daemon; 2]) -> [Subtask; 2] {
    let mut pair = [open(daemons[0], 0, 1, LATEST).await.unwrap(), open(daemons[1], 1, 1, LATEST).await.unwrap()];
    for id in [5, 6, 7] {
        for subtask in &mut pair {
            subtask.checkpoint(id).await;
        }
    }
    pair
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_before_that_still_publishes_changes_nothing_for_those_who_come_later() {
    let world = World::new();
    let (one, two) = (Daemon::start(&world, settings(1)), Daemon::start(&world, settings(100)));
    pair([&one, &two]).await;
    // Back to 5, so that ids are used again.
    let back = || RestoreFrom::Id(5);
    let mut again = [open(&one, 0, 2, back()).await.unwrap(), open(&two, 1, 2, back()).await.unwrap()];
    again[0].checkpoint(7).await;
    let mut first = open(&one, 0, 3, RestoreFrom::Id(7)).await.unwrap();
    again[1].checkpoint(7).await;
    let mut second = open(&two, 1, 3, RestoreFrom::Id(7)).await.unwrap();
    assert_eq!([first.value(), second.value()], ["7 of attempt 1", "7 of attempt 1"]);
    // From here on 7 of attempt 2 is whole.
    let mut third = open(&one, 0, 4, RestoreFrom::Id(7)).await.unwrap();
    assert_eq!(third.value(), "7 of attempt 2");
}

#[tokio::test(start_paused = true)]
async fn an_id_is_that_of_a_checkpoint_that_all_operators_have() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let spec_of = |operator: &str, attempt, restore| {
        let plain = spec(0, 1, attempt);
        let id = BackendId { operator: Name::new(operator).unwrap(), ..plain.id.clone() };
        OpenSpec { id, restore, ..plain }
    };
    for (attempt, restore, ids) in [(1, LATEST, vec![5, 7]), (2, RestoreFrom::Id(5), vec![7])] {
        for operator in ["left", "right"] {
            let mut task = Subtask::open(&daemon, spec_of(operator, attempt, restore.clone())).await.unwrap();
            for &id in ids.iter().filter(|_| attempt == 1 || operator == "left") {
                task.checkpoint(id).await;
            }
        }
    }
    for operator in ["left", "right"] {
        let mut task = Subtask::open(&daemon, spec_of(operator, 3, RestoreFrom::Id(7))).await.unwrap();
        assert_eq!(task.value(), "7 of attempt 1", "{operator}");
    }
}

/// What the second subtask of attempt 2 gets for `second`, after the first one asked for `first`.
async fn after(first: &str, second: &str) -> Result<(), Reason> {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let pair = pair([&daemon, &daemon]).await;
    let all = |at: usize| pair.iter().map(|subtask| subtask.handles[at].clone()).collect();
    let restore = |name: &str| match name {
        "id 5" => RestoreFrom::Id(5),
        "handles of 5" => RestoreFrom::Handles(all(0)),
        "id 7" => RestoreFrom::Id(7),
        "handles of 7" => RestoreFrom::Handles(all(2)),
        _ => LATEST,
    };
    let mut one = open(&daemon, 0, 2, restore(first)).await.unwrap();
    let mut two = open(&daemon, 1, 2, restore(second)).await.map_err(|error| error.reason)?;
    assert_eq!(one.value(), two.value(), "{first}, then {second}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whoever_names_something_else_than_the_first_of_an_attempt_is_refused() {
    let refused = Err(Reason::InvalidArgument);
    for first in ["id 5", "handles of 5"] {
        for same in ["id 5", "handles of 5", "latest"] {
            assert_eq!(after(first, same).await, Ok(()), "{first}, then {same}");
        }
        for other in ["id 7", "handles of 7"] {
            assert_eq!(after(first, other).await, refused, "{first}, then {other}");
        }
    }
    for same in ["id 7", "handles of 7", "latest"] {
        assert_eq!(after("latest", same).await, Ok(()), "the latest, then {same}");
    }
    for other in ["id 5", "handles of 5"] {
        assert_eq!(after("latest", other).await, refused, "the latest, then {other}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_lower_than_the_newest_of_the_job_is_outdated_in_every_chain() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let pair = pair([&daemon, &daemon]).await;
    open(&daemon, 0, 3, RestoreFrom::Id(7)).await.unwrap();
    let handles = RestoreFrom::Handles(vec![pair[1].handles[2].clone()]);
    for restore in [RestoreFrom::Empty, RestoreFrom::Id(7), handles, LATEST] {
        let refused = open(&daemon, 1, 2, restore.clone()).await.err().map(|error| error.reason);
        assert_eq!(refused, Some(Reason::Fenced), "{restore:?}");
    }
    open(&daemon, 1, 3, RestoreFrom::Id(7)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_within_an_attempt_may_name_a_checkpoint_of_that_attempt() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let pair = pair([&daemon, &daemon]).await;
    for (subtask, of_before) in (0..).zip(pair) {
        let backend = of_before.task.opened.backend;
        daemon.directory.close(backend.id(), backend.epoch()).await.unwrap();
        let mut again = open(&daemon, subtask, 1, RestoreFrom::Id(6)).await.unwrap();
        assert_eq!(again.value(), "6 of attempt 1");
    }
}
