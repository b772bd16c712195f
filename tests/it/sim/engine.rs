//! A scripted engine: opens one backend over and over for one attempt of the job, wherever a daemon runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use dstl::{
    backend::{OpenSpec, Opened, RestoreFrom},
    error::{Error, Reason},
    random::Random,
    types::Attempt,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    host::Host,
    model::pick,
    owner::{End, Owner},
    plan::MAX_PARALLELISM,
    truth::{Cut, CutKey, JobKey},
    world::World,
};

/// What an engine has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Anything.
    Run,
    /// Bring all to a good end.
    Calm,
    /// Close the backend.
    Close,
    /// Leave everything as it is.
    Die,
}

/// Tells an engine its phase.
#[derive(Debug, Default)]
pub(super) struct Control {
    phase: AtomicU8,
    changed: Notify,
}

impl Control {
    pub(super) fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    pub(super) fn phase(&self) -> Phase {
        let phase = self.phase.load(Ordering::SeqCst);
        [Phase::Run, Phase::Calm, Phase::Close, Phase::Die][usize::from(phase)]
    }

    async fn ends(&self) {
        loop {
            let changed = self.changed.notified();
            if self.phase() >= Phase::Close {
                return;
            }
            changed.await;
        }
    }
}

/// What an engine begins with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    Empty,
    Latest {
        or_empty: bool,
    },
    /// Its part of a checkpoint of the job.
    Job(JobKey),
    /// Any checkpoint of its own.
    Own,
}

pub(super) struct Engine {
    pub(super) world: Arc<World>,
    pub(super) seat: usize,
    pub(super) attempt: Attempt,
    pub(super) random: Random,
    pub(super) control: Arc<Control>,
    /// What was the newest checkpoint that all backends have to have when the attempt began.
    pub(super) newest: Option<JobKey>,
    /// The last barrier that was sent under this attempt.
    pub(super) barrier: u64,
}

impl Engine {
    pub(super) async fn run(mut self, mut wanted: Wanted) {
        let (world, control) = (self.world.clone(), self.control.clone());
        while control.phase() < Phase::Close {
            let hosts = world.hosts();
            if !hosts.is_empty() {
                let host = pick(&self.random, &hosts).clone();
                drop(hosts);
                let opened = tokio::select! {
                    biased;
                    () = host.life.over() => None,
                    () = control.ends() => None,
                    opened = self.open(&host, wanted) => opened,
                };
                if let Some((opened, restored)) = opened {
                    match Owner::start(&mut self, host, opened, restored).run().await {
                        End::Done => return,
                        End::Fenced if self.random.below(2) == 0 => return,
                        End::Fenced | End::Crashed => {}
                    }
                }
                wanted = match self.random.below(8) {
                    0 => Wanted::Empty,
                    1 | 2 => Wanted::Latest { or_empty: self.random.below(2) == 0 },
                    _ => Wanted::Own,
                };
            }
            sleep(Duration::from_millis(1 + self.random.below(100))).await;
        }
    }

    pub(super) fn note(&self, text: impl FnOnce() -> String) {
        let who = || format!("{} attempt {}: {}", self.world.plan.seats[self.seat].id, self.attempt, text());
        self.world.trace.note(who);
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    pub(super) fn spec(&self, restore: RestoreFrom) -> OpenSpec {
        let (plan, seat) = (&self.world.plan, &self.world.plan.seats[self.seat]);
        OpenSpec {
            id: seat.id.clone(),
            parallelism: seat.parallelism,
            max_parallelism: Some(MAX_PARALLELISM),
            key_groups: None,
            assignment: Some(plan.assignment),
            inner: None,
            changelog: None,
            attempt: self.attempt,
            restore,
            retention: None,
        }
    }

    /// Opens, and learns what that tells. `None` if it did not work, for a good reason.
    async fn open(&self, host: &Host, wanted: Wanted) -> Option<(Opened, Option<CutKey>)> {
        let (restore, key) = self.restore(wanted);
        let outdated = self.world.truths[self.seat].lock().attempt() > self.attempt;
        self.note(|| format!("opens on {} with {restore:?}", host.name));
        let open = host.directory.open(self.spec(restore.clone()), |_| {});
        let patience = if self.one_in(6) { self.random.below(200) } else { 60_000 };
        let opened = timeout(Duration::from_millis(patience), open).await.ok()?;
        let opened = match opened {
            Ok(opened) => opened,
            Err(_) if host.life.is_over() => return None,
            Err(error) => {
                self.note(|| format!("open: {error}"));
                self.judge(&error, &restore, key);
                return None;
            }
        };
        // Another owner opened, on another daemon, while this one replayed: it is fenced, and will hear of it when it publishes.
        if self.world.truths[self.seat].lock().epoch() > opened.backend.epoch().number {
            self.note(|| format!("opened as epoch {}, fenced already", opened.backend.epoch().number));
            return None;
        }
        assert!(!outdated, "attempt {} opened after a higher one", self.attempt);
        assert!(!opened.reconnected, "nobody ran there");
        assert_eq!(opened.applied_to, 0, "a new owner's batches begin at 0");
        Some(self.learn(opened, &restore, key))
    }

    /// What to ask for, and the checkpoint that is meant, if it must be there.
    fn restore(&self, wanted: Wanted) -> (RestoreFrom, Option<CutKey>) {
        let truth = self.world.truths[self.seat].lock();
        let musts = truth.musts();
        let of_job = |(attempt, id)| musts.iter().rev().find(|key| truth.cuts[*key].attempt == attempt && key.1 == id);
        let key = match wanted {
            Wanted::Empty => return (RestoreFrom::Empty, None),
            Wanted::Latest { or_empty } => return (RestoreFrom::Latest { or_empty }, None),
            Wanted::Job(job) if of_job(job).is_some() => of_job(job).copied(),
            _ if musts.is_empty() => return (RestoreFrom::Empty, None),
            _ => Some(*pick(&self.random, &musts)),
        };
        let cut = &truth.cuts[&key.expect("one was picked")];
        let handle = cut.handle.clone().expect("it must be restorable");
        let by_id = self.one_in(2);
        (if by_id { RestoreFrom::Id(handle.checkpoint.id) } else { RestoreFrom::Handles(vec![handle]) }, key)
    }

    /// Whether the refusal of an open is right.
    fn judge(&self, error: &Error, restore: &RestoreFrom, key: Option<CutKey>) {
        let job = self.world.job.lock();
        let truth = self.world.truths[self.seat].lock();
        let right = match error.reason {
            Reason::Fenced => {
                let used = matches!(restore, RestoreFrom::Latest { .. }) && truth.attempt() == self.attempt;
                job.attempt > self.attempt || used
            }
            Reason::StoreUnavailable | Reason::ChangeMemory => true,
            Reason::CheckpointNotFound | Reason::NoConsistentCheckpoint => {
                drop(truth);
                match key {
                    Some(key) => !self.world.truths[self.seat].lock().must(key),
                    // An owner of the attempt before may have let go what the first open of this attempt chose.
                    None => self.newest.is_none_or(|newest| self.may_be_gone(newest)) || job.attempt > self.attempt,
                }
            }
            _ => false,
        };
        assert!(right, "{restore:?} {key:?}, newest {:?}: {:?} {error}", self.newest, error.reason);
    }

    /// Whether this checkpoint, or a newer one, may be gone.
    fn may_be_gone(&self, key: JobKey) -> bool {
        let truth = self.world.truths[self.seat].lock();
        let newer = |(own, _): &(&CutKey, &Cut)| (truth.cuts[*own].attempt, own.1) > key;
        let gone = truth.cuts.iter().filter(newer).any(|(own, _)| !truth.must(*own));
        drop(truth);
        gone || !self.is_common(key)
    }

    /// Whether every backend must be able to restore it.
    fn is_common(&self, key: JobKey) -> bool {
        self.world.truths.iter().all(|truth| truth.lock().must_of_job(key))
    }

    /// Checks what was opened against what is known. Returns the checkpoint too.
    fn learn(&self, opened: Opened, restore: &RestoreFrom, wanted: Option<CutKey>) -> (Opened, Option<CutKey>) {
        let key = opened.checkpoint.map(|checkpoint| (checkpoint.epoch, checkpoint.id));
        self.note(|| format!("opened as epoch {}, checkpoint {key:?}", opened.backend.epoch().number));
        let records = opened.backend.describe().manifest.checkpoints;
        let mut truth = self.world.truths[self.seat].lock();
        truth.open(opened.backend.epoch().number, self.attempt, &records);
        match restore {
            RestoreFrom::Empty => assert_eq!(key, None),
            RestoreFrom::Handles(handles) => {
                assert_eq!(opened.checkpoint, handles.first().map(|handle| handle.checkpoint));
            }
            RestoreFrom::Id(id) => assert!(key.is_some_and(|key| key.1 == *id) && key >= wanted),
            RestoreFrom::Latest { .. } => {
                let found = key.map(|key| (truth.cuts[&key].attempt, key.1));
                drop(truth);
                let mut job = self.world.job.lock();
                if self.world.truths.len() > 1 {
                    job.restored_latest(self.attempt, found);
                }
                let newest = self.newest.filter(|newest| self.is_common(*newest));
                assert!(found >= newest || job.attempt > self.attempt, "{found:?} is restored, {newest:?} is there");
                drop(job);
                truth = self.world.truths[self.seat].lock();
            }
        }
        if let Some(key) = key {
            let cut = truth.cuts.get(&key).expect("it is retained, so it is known");
            assert!(cut.completed, "whatever is restored completed");
            assert_eq!(opened.attachment, cut.attachment, "the attachment of {key:?}");
        }
        (opened, key)
    }
}
