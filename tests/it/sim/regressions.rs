//! What the simulator once found, each as a story of its own.

use bytes::Bytes;
use dstl::{
    backend::{BarrierRequest, CompletedCheckpoint, Opened, RestoreFrom},
    checkpoint::ledger::{NoticeKind, NoticeTarget, Retention},
    error::Reason,
    types::StateId,
};

use super::{
    engine::{Control, Engine},
    model::{EITHER, descriptor},
    world::World,
    *,
};

/// A job of two subtasks on one daemon, and nothing goes wrong.
struct Pair {
    world: Arc<World>,
}

impl Pair {
    fn new() -> Self {
        let seeds = (0..).map(World::new);
        let fits = |world: &World| {
            world.plan.seats.len() == 2 && !world.plan.rescales() && world.plan.retention == Retention::Explicit
        };
        let world = seeds.into_iter().find(fits).unwrap();
        world.start_hosts();
        Self { world: Arc::new(world) }
    }

    async fn open(&self, seat: usize, attempt: u64, restore: RestoreFrom) -> Result<Opened, Reason> {
        let (world, random, control) = (self.world.clone(), Random::seeded(0), Arc::new(Control::default()));
        let own = world.plan.seat(seat, attempt).unwrap();
        let engine = Engine { world, seat, own, attempt, random, control, newest: None, barrier: 0 };
        let opened = self.world.hosts()[0].directory.open(engine.spec(restore), |_| {}).await;
        opened.map_err(|error| error.reason)
    }

    /// Lets the daemon crash and starts another.
    fn crash(&self) {
        self.world.crash_all();
        self.world.start_hosts();
    }
}

async fn checkpoint(opened: &Opened, id: u64) -> CompletedCheckpoint {
    let request = BarrierRequest { id, attachment: Bytes::new(), timeout: None };
    let epoch = opened.backend.epoch();
    let completed = opened.backend.checkpoint(epoch, request).await.unwrap();
    let target = NoticeTarget { epoch: epoch.number, id, uuid: None };
    opened.backend.notice(epoch, NoticeKind::Complete, target).unwrap();
    completed
}

#[tokio::test(start_paused = true)]
async fn subtasks_that_come_back_for_the_latest_restore_the_same() {
    let pair = Pair::new();
    let (a, b) =
        (pair.open(0, 1, RestoreFrom::Empty).await.unwrap(), pair.open(1, 1, RestoreFrom::Empty).await.unwrap());
    for id in 1..=2 {
        checkpoint(&a, id).await;
        if id == 1 {
            checkpoint(&b, id).await;
        }
    }
    pair.open(0, 2, RestoreFrom::Id(1)).await.unwrap();
    pair.crash();
    let latest = || RestoreFrom::Latest { or_empty: true };
    let first = pair.open(0, 2, latest()).await.unwrap().checkpoint.unwrap();
    // The attempt before does not come back, though nobody fenced this chain yet.
    assert_eq!(pair.open(1, 1, RestoreFrom::Id(1)).await.unwrap_err(), Reason::Fenced);
    let second = pair.open(1, 2, latest()).await.unwrap().checkpoint.unwrap();
    assert_eq!((first.id, second.id), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_subtask_that_made_checkpoints_in_its_attempt_is_not_taken_back_alone() {
    let pair = Pair::new();
    for seat in 0..2 {
        checkpoint(&pair.open(seat, 1, RestoreFrom::Empty).await.unwrap(), 1).await;
    }
    pair.crash();
    let refused = pair.open(0, 1, RestoreFrom::Latest { or_empty: true }).await.unwrap_err();
    assert_eq!(refused, Reason::Fenced);
}

#[tokio::test(start_paused = true)]
async fn a_state_of_an_owner_that_was_set_back_binds_nobody_however_many_come_after() {
    let pair = Pair::new();
    let register = |opened: &Opened, state| {
        opened.backend.register(opened.backend.epoch(), &[descriptor(state)]).map(|ids| ids[0])
    };
    let first = pair.open(0, 1, RestoreFrom::Empty).await.unwrap();
    let before = checkpoint(&first, 1).await.identity;
    assert_eq!(register(&first, EITHER[0]), Ok(StateId(1)));
    checkpoint(&first, 2).await;
    let set_back = pair.open(0, 2, RestoreFrom::Id(before.id)).await.unwrap();
    assert_eq!(register(&set_back, 0), Ok(StateId(2)));
    checkpoint(&set_back, 3).await;
    let third = pair.open(0, 3, RestoreFrom::Id(3)).await.unwrap();
    assert_eq!(third.states.iter().map(|state| state.id).collect::<Vec<_>>(), [StateId(2)]);
    assert_eq!(register(&third, EITHER[1]), Ok(StateId(3)), "its other shape is free");
}
