//! The simulator: whole jobs on simulated daemons over a bad network, in virtual time, from one seed.
//!
//! ```text
//!   Engine per backend and attempt ─▶ Owner ─▶ Directory, Session, Backend of a Host ─▶ FaultyStore ─▶ MemoryStore
//!        │ what it sent, what it was told                 ▲ crashes, outages, weather
//!        ▼                                                │
//!   Truth, JobTruth, Model: what must hold              World
//! ```
//!
//! Owners have the inner backend in memory. RocksDB is left out: its background threads, and with them the sizes and
//! numbers of its files, follow no seed. What it adds is tested on real disks (`materialization`, `rescale`, `vanish`,
//! `fight`) and under kill -9 (`local`; `demo` and `python` of the other binary).
//!
//! A failure prints its seed. `DSTL_SIM_SEED=7` runs that seed alone, `DSTL_SIM_TRACE=1` prints what happens in it,
//! `DSTL_SIM_SEEDS=5000` runs so many, from `DSTL_SIM_FIRST` on.

mod engine;
mod host;
mod model;
mod owner;
mod plan;
mod regressions;
mod trace;
mod truth;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dstl::random::Random;
use tokio::{task::JoinSet, time::sleep};

use self::{
    engine::{Control, Engine, Phase, Wanted},
    truth::JobKey,
    world::World,
};

/// Seeds that a usual test run tries.
const SEEDS: u64 = 100;

/// Until the last consequence of the last misfortune is over: delayed effects, patience of requests.
const SETTLED: Duration = Duration::from_secs(8);

/// Checkpoints of each backend that are restored at the end, at most.
const CHECKED: usize = 6;

/// How long a phase of a run without misfortune may take.
const BOUND: Duration = Duration::from_secs(60);

/// Runs one seed; returns a hash of all that happened, and how much that was.
fn run(seed: u64) -> (u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(seed));
        let simulation = Simulation { world: world.clone(), engines: JoinSet::new() };
        simulation.run().await;
        world.trace.sum()
    })
}

struct Simulation {
    world: Arc<World>,
    engines: JoinSet<()>,
}

impl Simulation {
    async fn run(mut self) {
        let world = self.world.clone();
        world.start_hosts();
        let misfortune = {
            let world = world.clone();
            self.engines.spawn(async move { world.misfortune().await })
        };
        let mut present = vec![];
        for attempt in 1..=world.plan.attempts {
            self.retire(&mut present);
            present = self.begin(attempt);
            self.go_on(world.plan.attempt.mul_f64(world.random.fraction())).await;
        }
        misfortune.abort();
        world.calm();
        self.go_on(SETTLED).await;
        world.job.lock().barrier += 1;
        present.iter().for_each(|control| control.set(Phase::Calm));
        self.finish().await;
        self.check_all().await;
    }

    /// Ends the engines of an attempt: they close, die, or go on for a while as if nothing happened.
    fn retire(&mut self, present: &mut Vec<Arc<Control>>) {
        for control in present.drain(..) {
            match self.world.random.below(4) {
                0 => control.set(Phase::Close),
                1 => control.set(Phase::Die),
                _ => {
                    let rest = Duration::from_millis(self.world.random.below(4000));
                    self.engines.spawn(async move {
                        sleep(rest).await;
                        control.set(Phase::Die);
                    });
                }
            }
        }
    }

    /// Starts an engine for each backend.
    fn begin(&mut self, attempt: u64) -> Vec<Arc<Control>> {
        let world = &self.world;
        let newest = self.newest_common();
        world.job.lock().attempt = attempt;
        let wanted = match (world.random.below(4), newest) {
            (0, _) if attempt > 1 => Wanted::Latest { or_empty: false },
            (1, Some(key)) => Wanted::Job(key),
            (2, None) => Wanted::Empty,
            _ => Wanted::Latest { or_empty: true },
        };
        world.trace.note(|| format!("attempt {attempt} begins with {wanted:?}, newest is {newest:?}"));
        let mut controls = vec![];
        for seat in 0..world.plan.seats.len() {
            let Some(own) = world.plan.seat(seat, attempt) else {
                world.truths[seat].lock().vanish();
                continue;
            };
            let control = Arc::new(Control::default());
            let random = Random::seeded(world.random.below(u64::MAX));
            let (world, control_of) = (world.clone(), control.clone());
            let engine = Engine { world, seat, own, attempt, random, control: control_of, newest, barrier: 0 };
            self.engines.spawn(engine.run(wanted));
            controls.push(control);
        }
        controls
    }

    /// The newest checkpoint that every backend must be able to restore.
    fn newest_common(&self) -> Option<JobKey> {
        let truths = &self.world.truths;
        let job = self.world.job.lock();
        let plan = &self.world.plan;
        let is_there = |key: &JobKey| plan.seats_of(key.0).iter().all(|seat| truths[*seat].lock().must_of_job(*key));
        job.complete(plan).find(is_there)
    }

    /// Lets time pass and orders barriers.
    async fn go_on(&mut self, time: Duration) {
        let world = self.world.clone();
        let barriers = async {
            loop {
                sleep(Duration::from_millis(50 + world.random.below(250))).await;
                world.job.lock().barrier += 1;
            }
        };
        let failures = async {
            while let Some(ended) = self.engines.join_next().await {
                check(ended);
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = failures => {}
            () = barriers => {}
            () = sleep(time) => {}
        }
    }

    /// Waits until every engine has ended.
    async fn finish(&mut self) {
        let all = async {
            while let Some(ended) = self.engines.join_next().await {
                check(ended);
            }
        };
        tokio::time::timeout(BOUND, all).await.expect("every engine comes to its end");
    }

    /// Checks what is left: the daemons' memory, every checkpoint, and that the newest is the latest.
    async fn check_all(&mut self) {
        let world = self.world.clone();
        for host in world.hosts() {
            host.directory.close_all().await;
            assert_eq!(host.directory.count(), 0);
            let env = host.directory.environment();
            sleep(Duration::from_millis(1)).await;
            assert_eq!(env.credit.shared().0, 0, "{} holds credit for nobody", host.name);
            assert_eq!(env.state_bytes.load(Ordering::Relaxed), 0, "{} counts state of nobody", host.name);
        }
        world.crash_all();
        for seat in 0..world.truths.len() {
            let musts = world.truths[seat].lock().musts();
            for key in musts.into_iter().rev().take(CHECKED) {
                world.check_restorable(seat, key).await;
            }
        }
        world.start_hosts();
        let last = (world.plan.attempts, world.job.lock().barrier);
        assert_eq!(self.newest_common(), Some(last));
        let controls = self.begin(world.plan.attempts + 1);
        sleep(Duration::from_secs(1)).await;
        world.job.lock().barrier += 1;
        controls.iter().for_each(|control| control.set(Phase::Calm));
        self.finish().await;
        let left = world.left_after_sweep().await;
        assert!(left.is_empty(), "nothing needs these, yet they stay: {left:#?}");
        for seat in world.plan.seats_of(world.plan.attempts + 1) {
            let newest = world.truths[seat].lock().musts().into_iter().next_back();
            world.check_restorable(seat, newest.expect("it completed a moment ago")).await;
        }
    }
}

/// Passes on the failure of an engine.
fn check(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Runs a seed and says which, should it fail.
fn run_named(seed: u64) -> (u64, u64) {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|failure| {
        eprintln!("DSTL_SIM_SEED={seed} fails");
        std::panic::resume_unwind(failure)
    })
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn jobs_survive_crashes_and_bad_networks() {
    if let Some(seed) = setting("DSTL_SIM_SEED") {
        println!("{:x?}", run_named(seed));
        return;
    }
    let (first, seeds) = (setting("DSTL_SIM_FIRST").unwrap_or(0), setting("DSTL_SIM_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let failures = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + seeds {
                        return;
                    }
                    if (seed - first) % 500 == 499 {
                        println!("{} of {seeds} seeds", seed - first);
                    }
                    if catch_unwind(|| run_named(seed)).is_err() {
                        failures.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert_eq!(failures.into_inner(), 0, "seeds failed, as printed above");
}

#[test]
fn one_seed_gives_one_run() {
    for seed in [3, 4] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(3), run(4));
}
