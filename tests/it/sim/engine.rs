//! A scripted engine: opens one backend over and over for one attempt of the job, wherever a daemon runs.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    types::{Attempt, StateId},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    host::Host,
    model::{self, EITHER, Model, pick},
    owner::{End, Owner},
    plan::{MAX_PARALLELISM, Seat},
    truth::{Cut, CutKey, JobKey, Truth},
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

/// What a backend begins with.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) model: Model,
    pub(super) ids: BTreeMap<usize, StateId>,
}

/// What an open asks for, and which checkpoint is meant, if one must be there: of the backend alone, or of the job.
#[derive(Debug, Clone)]
struct Asked {
    restore: RestoreFrom,
    key: Option<CutKey>,
    job: Option<JobKey>,
}

pub(super) struct Engine {
    pub(super) world: Arc<World>,
    pub(super) seat: usize,
    /// As this attempt has it.
    pub(super) own: Seat,
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
        let who = || format!("{} attempt {}: {}", self.own.id, self.attempt, text());
        self.world.trace.note(who);
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    pub(super) fn spec(&self, restore: RestoreFrom) -> OpenSpec {
        let (plan, seat) = (&self.world.plan, &self.own);
        OpenSpec {
            id: seat.id.clone(),
            parallelism: seat.parallelism,
            max_parallelism: Some(MAX_PARALLELISM),
            key_groups: None,
            assignment: Some(plan.assignment),
            inner: None,
            changelog: Some(!self.is_unlogged()),
            attempt: self.attempt,
            token: bytes::Bytes::new(),
            fresh: false,
            peers: bytes::Bytes::new(),
            job_run: bytes::Bytes::new(),
            restore,
            fallback: false,
            retention: None,
            linger: None,
            claim: None,
        }
    }

    /// Whether this attempt opens its backend without changelog: some do.
    pub(super) fn is_unlogged(&self) -> bool {
        (self.world.plan.credit_bytes + self.attempt + self.seat as u64).is_multiple_of(4)
    }

    /// Whether an attempt after this one does not have the backend.
    pub(super) fn has_vanished(&self) -> bool {
        let newest = self.world.job.lock().attempt;
        (self.attempt + 1..=newest).any(|attempt| self.world.plan.seat(self.seat, attempt).is_none())
    }

    /// Opens, and learns what that tells. `None` if it did not work, for a good reason.
    async fn open(&self, host: &Host, wanted: Wanted) -> Option<(Opened, Restored)> {
        let asked = self.ask(wanted);
        let outdated = self.world.truths[self.seat].lock().attempt() > self.attempt;
        self.note(|| format!("opens on {} with {asked:?}", host.name));
        let named = match &asked.restore {
            RestoreFrom::Id(id) => Some(*id),
            RestoreFrom::Handles(handles) => handles.first().map(|handle| handle.checkpoint.id),
            _ => None,
        };
        named.into_iter().for_each(|id| self.world.job.lock().names(self.attempt, id));
        if let Some(key) = asked.key {
            let attempt = self.world.truths[self.seat].lock().cuts[&key].attempt;
            let mut job = self.world.job.lock();
            job.named_part |= !job.is_complete((attempt, key.1), self.world.plan.seats_of(attempt).len());
        }
        let open = host.directory.open(self.spec(asked.restore.clone()), |_| {});
        let patience = if self.one_in(6) { self.random.below(200) } else { 60_000 };
        let opened = timeout(Duration::from_millis(patience), open).await.ok()?;
        let opened = match opened {
            Ok(opened) => opened,
            Err(_) if host.life.is_over() => return None,
            Err(error) => {
                self.note(|| format!("open: {error}"));
                self.judge(&error, &asked);
                return None;
            }
        };
        // Another owner opened, on another daemon, while this one replayed: it is fenced, and will hear of it when it
        // publishes.
        if self.world.truths[self.seat].lock().epoch() > opened.backend.epoch().number {
            self.note(|| format!("opened as epoch {}, fenced already", opened.backend.epoch().number));
            return None;
        }
        assert!(!outdated, "attempt {} opened after a higher one", self.attempt);
        assert!(!opened.reconnected, "nobody ran there");
        assert_eq!(opened.applied_to, 0, "a new owner's batches begin at 0");
        Some(self.learn(opened, &asked))
    }

    /// What to ask for.
    fn ask(&self, wanted: Wanted) -> Asked {
        let none = |restore| Asked { restore, key: None, job: None };
        if let Wanted::Job(job) = wanted
            && self.world.plan.seat(self.seat, job.0).map(|seat| seat.parallelism) != Some(self.own.parallelism)
        {
            return self.ask_others(job).unwrap_or_else(|| none(RestoreFrom::Empty));
        }
        let truth = self.world.truths[self.seat].lock();
        // What it had of another generation is not what it has to have now.
        let of_now = |key: &CutKey| {
            let then = self.world.plan.seat(self.seat, truth.cuts[key].attempt);
            then.is_some_and(|then| then.parallelism == self.own.parallelism)
        };
        let musts: Vec<_> = truth.musts().into_iter().filter(of_now).collect();
        let of_job = |(attempt, id)| musts.iter().rev().find(|key| truth.cuts[*key].attempt == attempt && key.1 == id);
        let key = match wanted {
            Wanted::Empty => return none(RestoreFrom::Empty),
            Wanted::Latest { or_empty } => return none(RestoreFrom::Latest { or_empty }),
            Wanted::Job(job) if of_job(job).is_some() => of_job(job).copied(),
            _ if musts.is_empty() => return none(RestoreFrom::Empty),
            _ => Some(*pick(&self.random, &musts)),
        };
        let cut = &truth.cuts[&key.expect("one was picked")];
        let handle = cut.handle.clone().expect("it must be restorable");
        let by_id = self.one_in(2);
        let restore = if by_id { RestoreFrom::Id(handle.checkpoint.id) } else { RestoreFrom::Handles(vec![handle]) };
        Asked { restore, key, job: None }
    }

    /// Asks for a checkpoint that another generation made; `None` if it may be gone.
    fn ask_others(&self, job: JobKey) -> Option<Asked> {
        let plan = &self.world.plan;
        let of_operator = |seat: &usize| plan.seats[*seat].operator == self.own.id.operator;
        let handle = |seat: usize| {
            let truth = self.world.truths[seat].lock();
            let is_it = |(key, cut): &(&CutKey, &Cut)| (cut.attempt, key.1) == job && truth.must_of_job(job);
            truth.cuts.iter().rev().find(is_it).and_then(|(_, cut)| cut.handle.clone())
        };
        let handles: Option<Vec<_>> = plan.seats_of(job.0).into_iter().filter(of_operator).map(handle).collect();
        let restore = if self.one_in(2) { RestoreFrom::Id(job.1) } else { RestoreFrom::Handles(handles?) };
        Some(Asked { restore, key: None, job: Some(job) })
    }

    /// Whether the refusal of an open is right.
    fn judge(&self, error: &Error, asked: &Asked) {
        let attempt = self.world.job.lock().attempt;
        let right = match error.reason {
            Reason::Fenced => {
                let opened = self.world.truths[self.seat].lock().attempt();
                let used = matches!(asked.restore, RestoreFrom::Latest { .. }) && opened == self.attempt;
                attempt > self.attempt || used
            }
            Reason::StoreUnavailable | Reason::ChangeMemory => true,
            Reason::CheckpointNotFound | Reason::NoConsistentCheckpoint => match (asked.key, asked.job) {
                (Some(key), _) => {
                    !self.world.truths[self.seat].lock().must(key) || self.means_another(&asked.restore, key.1)
                }
                (_, Some(job)) => {
                    !self.is_common(job) || attempt > self.attempt || self.means_another(&asked.restore, job.1)
                }
                // An owner of the attempt before may have let go what the first open of this attempt chose.
                _ => self.newest.is_none_or(|newest| self.may_be_gone(newest)) || attempt > self.attempt,
            },
            // Another checkpoint was named for this attempt first, or its id means parts of several. Where there were
            // other subtasks, one that is left alone is held to its word, too.
            Reason::InvalidArgument => {
                let names = matches!(asked.restore, RestoreFrom::Id(_) | RestoreFrom::Handles(_));
                names && (self.world.plan.seats_of(self.attempt).len() > 1 || self.world.plan.rescales())
            }
            // One operator restored what another never had: that looks as if the other had lost it.
            Reason::MissingObject => {
                matches!(asked.restore, RestoreFrom::Latest { .. }) && self.world.job.lock().named_part
            }
            // Subtasks chose either shape of one name.
            Reason::StateMismatch => self.world.plan.rescales() && self.have_either(),
            _ => false,
        };
        assert!(right, "{asked:?}, newest {:?}: {:?} {error}", self.newest, error.reason);
    }

    /// Whether an id may mean checkpoints of several attempts: then the job chose one of them.
    fn means_another(&self, restore: &RestoreFrom, id: u64) -> bool {
        let attempts = |truth: &Truth| {
            let of_id = truth.cuts.iter().filter(|(key, _)| key.1 == id);
            of_id.map(|(_, cut)| cut.attempt).collect::<BTreeSet<_>>()
        };
        let all: BTreeSet<_> = self.world.truths.iter().flat_map(|truth| attempts(&truth.lock())).collect();
        matches!(restore, RestoreFrom::Id(_)) && all.len() > 1
    }

    /// Whether checkpoints have both shapes of the one name.
    fn have_either(&self) -> bool {
        let has = |state: &usize| {
            self.world.truths.iter().any(|truth| truth.lock().cuts.values().any(|cut| cut.ids.contains_key(state)))
        };
        EITHER.iter().all(has)
    }

    /// Whether this checkpoint, or a newer one, may be gone.
    fn may_be_gone(&self, key: JobKey) -> bool {
        let is_gone = |truth: &Truth| {
            let newer = |(own, cut): &(&CutKey, &Cut)| (cut.attempt, own.1) > key;
            truth.cuts.iter().filter(newer).any(|(own, _)| !truth.must(*own))
        };
        let rescales = self.world.plan.rescales();
        let truths = self.world.truths.iter().enumerate().filter(|(seat, _)| rescales || *seat == self.seat);
        truths.into_iter().any(|(_, truth)| is_gone(&truth.lock())) || !self.is_common(key)
    }

    /// Whether every backend of its attempt must be able to restore it.
    fn is_common(&self, key: JobKey) -> bool {
        self.world.plan.seats_of(key.0).iter().all(|seat| self.world.truths[*seat].lock().must_of_job(key))
    }

    /// Checks what was opened against what is known. Returns what it has to have.
    fn learn(&self, opened: Opened, asked: &Asked) -> (Opened, Restored) {
        let epoch = opened.backend.epoch().number;
        self.note(|| format!("opened as epoch {epoch}, {:?}", opened.parts));
        let records = opened.backend.describe().manifest.checkpoints;
        self.world.truths[self.seat].lock().open(epoch, self.attempt, &records);
        let (restored, found) = self.restored(&opened);
        let key = opened.checkpoint.map(|checkpoint| (checkpoint.epoch, checkpoint.id));
        match &asked.restore {
            RestoreFrom::Empty => assert_eq!(key, None),
            RestoreFrom::Savepoint(id) => unreachable!("nobody made savepoint {id:?}"),
            RestoreFrom::Handles(handles) | RestoreFrom::Vouched(handles) => {
                let asked: Vec<_> = handles.iter().map(|handle| handle.checkpoint).collect();
                assert_eq!(opened.parts.iter().map(|part| part.checkpoint).collect::<Vec<_>>(), asked);
            }
            RestoreFrom::Id(id) if asked.job.is_some() => {
                assert!(
                    found == asked.job || self.means_another(&asked.restore, *id),
                    "by id {id}: {found:?}, not {:?}",
                    asked.job
                );
            }
            RestoreFrom::Id(id) => {
                // Of an older attempt only if all have it: a newer one may not be complete.
                let seats = |job: JobKey| self.world.plan.seats_of(job.0).len();
                let is_whole = found.is_some_and(|job| self.world.job.lock().is_complete(job, seats(job)));
                assert!(key.is_some_and(|key| key.1 == *id) && (key >= asked.key || is_whole));
            }
            RestoreFrom::Latest { .. } => {
                if self.world.plan.seats_of(self.attempt).len() > 1 {
                    self.world.job.lock().restored_latest(self.attempt, found);
                }
                let newest = self.newest.filter(|newest| self.is_common(*newest));
                let outdated = self.world.job.lock().attempt > self.attempt;
                // An attempt begins with what any of its subtasks named first.
                let named = found.is_some_and(|(_, id)| self.world.job.lock().has_named(self.attempt, id));
                assert!(found >= newest || outdated || named, "{found:?} is restored, {newest:?} is there");
            }
        }
        (opened, restored)
    }

    /// What the parts that were restored had, and which checkpoint of the job they are of.
    fn restored(&self, opened: &Opened) -> (Restored, Option<JobKey>) {
        let (mut restored, mut found) = (Restored::default(), None);
        for part in &opened.parts {
            let seat = self.world.plan.seats.iter().position(|seat| *seat == part.backend).expect("one of the job's");
            let key = (part.checkpoint.epoch, part.checkpoint.id);
            let cut = self.world.truths[seat].lock().cuts.get(&key).cloned().expect("it is retained, so it is known");
            let is_own = seat == self.seat && part.key_groups == self.own.key_groups;
            assert!(cut.completed || !is_own, "whatever is restored completed");
            assert_eq!(part.attachment, cut.attachment, "the attachment of {key:?}");
            assert!(found.is_none_or(|found| found == (cut.attempt, key.1)), "parts of different checkpoints");
            found = Some((cut.attempt, key.1));
            if !part.key_groups.overlaps(self.own.key_groups) {
                continue;
            }
            restored.model.take(&cut.model, self.own.key_groups);
            for (state, id) in &cut.ids {
                let mut known = opened.states.iter().filter(|known| known.descriptor == model::descriptor(*state));
                let known = known.next().map(|known| known.id).expect("a state that the checkpoint has");
                assert!(known == *id || !is_own, "state {state} keeps its id");
                restored.ids.insert(*state, known);
            }
        }
        (restored, found)
    }
}
