//! Attempts by token, and subtasks of one start whose attempts are unequal.

use bytes::Bytes;
use dstl::{
    checkpoint::{
        job::{self, Naming},
        ledger::NoticeTarget,
    },
    error::Reason,
};

use super::*;

/// How subtask `subtask` of `parallelism` opens in a start: the engine's graph, and its own number for the subtask.
fn started(subtask: u32, parallelism: u32, (graph, number): (&'static str, u32), restore: RestoreFrom) -> OpenSpec {
    OpenSpec {
        token: Bytes::from(format!("{graph}/{number}")),
        fresh: true,
        peers: Bytes::from(graph),
        job_run: Bytes::from_static(b"run"),
        restore,
        ..spec(subtask, parallelism, 0)
    }
}

async fn number(world: &World, token: &str) -> u64 {
    let naming = Naming { token: Bytes::from(token.to_owned()), peers: Bytes::new(), now: 0, grace_ms: 1000 };
    job::number(&world.store(), &Name::new("job").unwrap(), &naming, Retry::none()).await.unwrap()
}

fn all_orders() -> Vec<[u32; 4]> {
    let all = (0..256_u32).map(|n| [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6]);
    all.filter(|order| (0..4).all(|subtask| order.contains(&subtask))).collect()
}

/// Two subtasks with checkpoint 1, and something after it.
async fn two(daemon: &Daemon) -> Fleet {
    let mut subtasks = vec![];
    for subtask in 0..2 {
        subtasks.push(open(daemon, started(subtask, 2, ("first", 0), RestoreFrom::Empty)).await.unwrap());
    }
    let (checkpoints, handles) = Default::default();
    let mut fleet = Fleet { subtasks, model: Model::new(), random: Random::seeded(7), checkpoints, handles };
    fleet.write(300);
    fleet.checkpoint(1).await;
    fleet.write(50);
    fleet
}

/// From two to four: subtasks 0 and 1 have number 1, the new ones 0, and in the job whichever of both came first has
/// the lower attempt. A subtask gets the handles of those whose key groups it has.
async fn rescale_in_order(order: [u32; 4], old_first: bool, daemons: u64) {
    let world = World::new();
    let before = Daemon::start(&world, settings(1));
    let fleet = two(&before).await;
    let tokens = if old_first { ["second/1", "second/0"] } else { ["second/0", "second/1"] };
    let numbers = [number(&world, tokens[0]).await, number(&world, tokens[1]).await];
    assert_eq!(numbers, [2, 3], "the first start has 1");
    let after: Vec<Daemon> = (0..daemons).map(|n| Daemon::start(&world, settings(100 + 10 * n))).collect();
    let mut opened: BTreeMap<u32, Subtask> = BTreeMap::new();
    for subtask in order {
        let restore = RestoreFrom::Handles(vec![fleet.handles[subtask as usize / 2].clone()]);
        let number = u32::from(subtask < 2);
        let daemon = &after[subtask as usize % after.len()];
        let spec = started(subtask, 4, ("second", number), restore);
        let new = open(daemon, spec).await.unwrap_or_else(|error| panic!("{order:?}: {subtask}: {error}"));
        assert_eq!(new.task.opened.backend.attempt(), if old_first == (number == 1) { 2 } else { 3 });
        opened.insert(subtask, new);
    }
    let mut rescaled = Fleet { subtasks: opened.into_values().collect(), ..fleet };
    rescaled.model = rescaled.checkpoints[0].1.clone();
    rescaled.check();
    rescaled.write(100);
    rescaled.checkpoint(2).await;
    for subtask in &rescaled.subtasks {
        assert!(!subtask.task.opened.backend.has_ended(), "{order:?}: {}", subtask.task.opened.backend.id());
    }
    sweep(&world).await;
    // Whoever was before is outdated in both chains, whatever they are to it.
    for subtask in &mut fleet_of_zombies(&before).await {
        assert_eq!(subtask.checkpoint(3).await.unwrap_err().reason, Reason::Fenced);
    }
    // The next start, of the whole generation by the handles of its own.
    let mut again = vec![];
    for subtask in 0..4 {
        let restore = RestoreFrom::Handles(vec![rescaled.handles[subtask as usize].clone()]);
        again.push(open(&after[0], started(subtask, 4, ("third", 0), restore)).await.unwrap());
    }
    let attempts: Vec<_> = again.iter().map(|subtask| subtask.task.opened.backend.attempt()).collect();
    assert_eq!(attempts, [4; 4]);
    let mut last = Fleet { subtasks: again, ..rescaled };
    last.model = last.checkpoints[1].1.clone();
    last.check();
}

/// The backends that a daemon has, whoever owns them now.
async fn fleet_of_zombies(daemon: &Daemon) -> Vec<Zombie> {
    daemon.directory.backends().into_iter().map(Zombie).collect()
}

struct Zombie(dstl::backend::Backend);

impl Zombie {
    async fn checkpoint(&mut self, id: u64) -> Result<(), Error> {
        let barrier = dstl::backend::BarrierRequest { id, attachment: Bytes::new(), timeout: None };
        self.0.checkpoint(self.0.epoch(), barrier).await.map(|_| ())
    }
}

#[tokio::test(start_paused = true)]
async fn subtasks_of_one_start_with_unequal_attempts_open_in_any_order() {
    let orders = all_orders();
    assert_eq!(orders.len(), 24);
    for order in orders {
        for old_first in [true, false] {
            rescale_in_order(order, old_first, 1).await;
            rescale_in_order(order, old_first, 2).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_equal_attempt_that_is_fresh_restores_rather_than_finds_what_was_rolled_back() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut fleet = two(&daemon).await;
    let at_checkpoint = fleet.checkpoints[0].1.clone();
    let mut again = vec![];
    for subtask in 0..2 {
        let restore = RestoreFrom::Handles(vec![fleet.handles[subtask as usize].clone()]);
        let new = open(&daemon, started(subtask, 2, ("first", 0), restore)).await.unwrap();
        assert!(!new.task.opened.reconnected);
        assert_eq!(new.task.opened.backend.attempt(), 1);
        again.push(new);
    }
    for (old, new) in fleet.subtasks.iter().zip(&again) {
        assert!(old.task.opened.backend.has_ended());
        assert!(old.task.opened.backend.epoch().number < new.task.opened.backend.epoch().number);
    }
    fleet = Fleet { subtasks: again, model: at_checkpoint, ..fleet };
    fleet.check();
    let found = OpenSpec { fresh: false, ..started(0, 2, ("first", 0), RestoreFrom::Empty) };
    let found = daemon.directory.open(found, |_| {}).await.unwrap();
    assert!(found.reconnected, "one that is not fresh finds its backend, as ever");
}

#[tokio::test(start_paused = true)]
async fn in_one_chain_a_peer_with_a_lower_attempt_is_refused() {
    let world = World::new();
    let (one, other) = (Daemon::start(&world, settings(1)), Daemon::start(&world, settings(20)));
    let fleet = two(&one).await;
    let restore = || RestoreFrom::Handles(vec![fleet.handles[0].clone()]);
    let newer = open(&one, started(0, 2, ("first", 1), restore())).await.unwrap();
    for daemon in [&one, &other] {
        let error = open(daemon, started(0, 2, ("first", 0), restore())).await.err().unwrap();
        assert_eq!(error.reason, Reason::Fenced, "{error}");
    }
    assert!(!newer.task.opened.backend.has_ended());
    // Of another group, too; and a higher one takes over.
    let last = open(&other, started(0, 2, ("first", 2), restore())).await.unwrap();
    assert_eq!(last.task.opened.backend.attempt(), newer.task.opened.backend.attempt() + 1);
}

#[tokio::test(start_paused = true)]
async fn a_zombie_with_a_token_of_its_own_costs_a_restart_and_no_data() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut fleet = two(&daemon).await;
    let handle = |subtask: usize| RestoreFrom::Handles(vec![fleet.handles[subtask].clone()]);
    let living = Daemon::start(&world, settings(20));
    let mut subtasks = vec![];
    for subtask in 0..2 {
        subtasks.push(open(&living, started(subtask, 2, ("second", 0), handle(subtask as usize))).await.unwrap());
    }
    // One of the graph before whose token nobody had seen takes the next attempt, and fences the living.
    let zombie = open(&daemon, started(0, 2, ("first", 9), handle(0))).await.unwrap();
    assert_eq!(zombie.task.opened.backend.attempt(), 3);
    let backend = subtasks[0].task.opened.backend.clone();
    let error = Zombie(backend).checkpoint(2).await.unwrap_err();
    assert_eq!(error.reason, Reason::Fenced);
    // The engine starts that subtask again: its peers go on.
    subtasks[0] = open(&living, started(0, 2, ("second", 1), handle(0))).await.unwrap();
    assert_eq!(subtasks[0].task.opened.backend.attempt(), 4);
    let model = fleet.checkpoints[0].1.clone();
    fleet = Fleet { subtasks, model, ..fleet };
    fleet.check();
    fleet.checkpoint(2).await;
    let error = Zombie(zombie.task.opened.backend.clone()).checkpoint(2).await.unwrap_err();
    assert_eq!(error.reason, Reason::Fenced);
}

#[tokio::test(start_paused = true)]
async fn vanished_chains_of_peers_stay_as_long_as_a_survivor_retains_a_part_of_their_checkpoint() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut subtasks = vec![];
    for subtask in 0..4 {
        let number = u32::from(subtask < 2);
        subtasks.push(open(&daemon, started(subtask, 4, ("first", number), RestoreFrom::Empty)).await.unwrap());
    }
    let (checkpoints, handles) = Default::default();
    let mut fleet = Fleet { subtasks, model: Model::new(), random: Random::seeded(7), checkpoints, handles };
    fleet.write(300);
    fleet.checkpoint(1).await;
    let mut survivors = vec![];
    for subtask in 0..2 {
        let restore = RestoreFrom::Handles(vec![fleet.handles[subtask as usize].clone()]);
        let key_groups = Some(fleet.subtasks[subtask as usize].task.opened.shape.key_groups);
        let spec = OpenSpec { key_groups, ..started(subtask, 2, ("second", 0), restore) };
        survivors.push(open(&daemon, spec).await.unwrap());
    }
    assert_eq!(sweep(&world).await.retired, [], "unequal attempts are parts of one checkpoint");
    for id in 2..=5 {
        for subtask in &mut survivors {
            subtask.task.checkpoint(id).await;
            subtask.task.notice(NoticeKind::Complete, id);
        }
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let retired: Vec<_> = sweep(&world).await.retired.iter().map(|chain| chain.backend.subtask).collect();
    assert_eq!(retired, [2, 3]);
    let gone = NoticeTarget { epoch: 1, id: 1, uuid: None };
    for chain in job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap() {
        assert!(chain.checkpoints.iter().all(|record| record.identity.id != gone.id), "{}", chain.backend);
    }
}
