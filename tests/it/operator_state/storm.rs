//! Rescales that are cut short, in bad weather, with sweeps beside them and owners that do not know that they are
//! outdated.

use dstl::object::faulty::FaultPlan;

use super::*;

/// Opens all subtasks at once; `None` if one of them fails.
async fn try_open_all(
    daemon: &Daemon,
    (parallelism, attempt): (u32, u64),
    restore: &RestoreFrom,
) -> Option<Vec<Subtask>> {
    let spec = |subtask| OpenSpec { restore: restore.clone(), ..spec(subtask, parallelism, attempt) };
    let opening = (0..parallelism).map(|subtask| Subtask::open(daemon, spec(subtask)));
    futures::future::try_join_all(opening).await.ok()
}

fn weather() -> FaultPlan {
    FaultPlan {
        latency: Duration::ZERO..Duration::from_millis(40),
        error_before: 0.03,
        error_after: 0.03,
        refused: 0.03,
        delayed: 0.02,
        delay: Duration::ZERO..Duration::from_secs(10),
        ..FaultPlan::none()
    }
}

/// Eight generations of which some never come up.
async fn generations(world: &World, seed: u64) {
    let random = Random::seeded(seed);
    let (mut model, mut from, mut zombies) = (Model::default(), RestoreFrom::Empty, vec![]);
    for attempt in 1..=8 {
        let daemon = Daemon::start(world, settings(InnerBackend::HashMap, seed * 1000 + attempt * 10));
        daemon.faults.set_plan(weather());
        let parallelism = 1 + random.below(4) as u32;
        let patience = Duration::from_millis(if random.below(2) == 0 { 60_000 } else { random.below(1500) });
        let opening = try_open_all(&daemon, (parallelism, attempt), &from);
        let Ok(Some(subtasks)) = tokio::time::timeout(patience, opening).await else {
            daemon.crash();
            continue;
        };
        let redistributed = model.redistributed(parallelism as usize);
        let mut fleet =
            Fleet { subtasks, model: redistributed, random: Random::seeded(seed + attempt), handles: vec![] };
        fleet.check();
        for id in 1..=1 + random.below(5) {
            fleet.write(random.below(2) * 50);
            if random.below(2) == 0 {
                fleet.materialize().await;
            }
            fleet.checkpoint(id).await;
            from = restore(random.below(3), id, &fleet);
        }
        model = fleet.model.clone();
        fleet.write(20);
        if random.below(2) == 0 { daemon.crash() } else { zombies.push((daemon, fleet)) }
    }
    let daemon = Daemon::start(world, settings(InnerBackend::HashMap, seed * 1000 + 999));
    Fleet::open(&daemon, (3, 99), &from, (&model, seed)).await.check();
}

#[tokio::test(start_paused = true)]
async fn no_element_is_lost_or_doubled_however_rescales_end() {
    for seed in 1..=6 {
        let world = World::new();
        let slow = crate::gc::sweeper(&world, seed + 500, Duration::ZERO..Duration::from_millis(30));
        let sweeping = async {
            loop {
                collect::sweep(&slow, &Name::new("job").unwrap(), &NO_GRACE, Retry::none()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            biased;
            () = sweeping => {}
            () = generations(&world, seed) => {}
        }
    }
}
