//! The backends that this daemon has open.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Duration, Instant, sleep},
};

use super::{
    environment::Environment,
    error,
    handle::Backend,
    open::{self, Opened, Opener},
    words::Description,
    worker::{coordinate::Coordinators, linger::let_linger},
};
use crate::{
    claim::{admit, spec::OpenSpec},
    error::{Error, Reason},
    restore::Progress,
    types::{Attempt, BackendId, Epoch, Name},
};

/// Most fenced owners that are remembered; each takes a name and an error.
const REMEMBERED_FENCED: usize = 1024;

/// How often a draining daemon looks whether backends are left.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// How long a draining daemon waits for the writer of a backend without session to come back.
const LEFT_PATIENCE: Duration = Duration::from_secs(1);

/// The backends of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Directory {
    env: Environment,
    inner: Arc<Mutex<Inner>>,
    draining: Arc<watch::Sender<bool>>,
    /// Lets one reader of checkpoints at a time have its memory.
    pub(super) reading: Arc<Semaphore>,
    /// Coordinators of declared jobs.
    coordinators: Coordinators,
}

#[derive(Debug, Default)]
struct Inner {
    draining: bool,
    slots: BTreeMap<BackendId, Slot>,
    openings: u64,
    /// Jobs of backends that were opened since [`Directory::jobs`] was last called.
    opened: BTreeSet<Name>,
    /// The newest fenced owners, at most [`REMEMBERED_FENCED`]. A late call for one of them is told that it was fenced.
    fenced: BTreeMap<BackendId, FencedOwner>,
    /// Number of owners that were fenced so far.
    fencings: u64,
}

/// An owner on this daemon that was fenced.
#[derive(Debug)]
struct FencedOwner {
    /// Its number in the order of fencing.
    number: u64,
    epoch: Epoch,
    why: Error,
}

/// The slot of one backend: running, being opened, or both.
#[derive(Debug, Default)]
struct Slot {
    running: Option<Backend>,
    opening: Option<Opening>,
}

/// An open that is under way.
#[derive(Debug, Clone)]
struct Opening {
    number: u64,
    attempt: Attempt,
    cancel: Arc<Notify>,
}

/// The result of looking for a backend to open.
enum Found {
    Running(Backend),
    Proceed(Opening, Option<Backend>),
}

impl Inner {
    /// Removes the slot of `id` if it is empty.
    fn tidy(&mut self, id: &BackendId) {
        if self.slots.get(id).is_some_and(|slot| slot.opening.is_none() && slot.running.is_none()) {
            self.slots.remove(id);
        }
    }

    fn remember(&mut self, id: &BackendId, epoch: Epoch, why: Error) {
        self.fencings += 1;
        self.fenced.insert(id.clone(), FencedOwner { number: self.fencings, epoch, why });
        if self.fenced.len() > REMEMBERED_FENCED {
            let oldest = self.fenced.iter().min_by_key(|(_, fenced)| fenced.number).map(|(id, _)| id.clone());
            oldest.map(|id| self.fenced.remove(&id));
        }
    }
}

impl Directory {
    /// An empty directory.
    #[must_use]
    pub fn new(env: Environment) -> Self {
        let reading = Arc::new(Semaphore::new(1));
        Self { env, inner: Arc::default(), draining: Arc::default(), reading, coordinators: Coordinators::default() }
    }

    /// The environment that its backends share.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.env
    }

    /// Opens a backend. Returns the running one to its own owner, which has an equal attempt, unless it is to be
    /// replaced. A higher attempt ends a running backend and any open with a lower attempt. Cancel-safe: if dropped,
    /// the open ends.
    ///
    /// # Errors
    /// An [`Error`] whose message advises a change of the request, or another try.
    pub async fn open(&self, spec: OpenSpec, progress: impl FnMut(Progress) + Send) -> Result<Opened, Error> {
        // The attempt comes first: by it the slot decides which of two openers gives way.
        let spec = admit::numbered(&self.env.claiming(), spec).await?;
        let (opening, predecessor) = match self.begin(&spec)? {
            Found::Running(backend) => {
                let opened = open::reconnect(&self.env, &spec, &backend)?;
                let_linger(&backend.shared, spec.linger.or(self.env.options.linger));
                return Ok(opened);
            }
            Found::Proceed(opening, predecessor) => (opening, predecessor),
        };
        let guard = Guard { directory: self, id: &spec.id, number: opening.number };
        let opener = Opener { env: &self.env, coordinators: &self.coordinators };
        // An open that wins this race against its cancellation all the same is found out by `finish`, which compares
        // numbers.
        let opened = tokio::select! {
            biased;
            () = opening.cancel.notified() => {
                let text = format!("backend `{}`: a newer open took over from this one", spec.id);
                Err(Error::new(Reason::Fenced, text))
            }
            opened = opener.open(&spec, predecessor, |fenced| self.end_fenced(fenced), progress) => opened,
        }?;
        guard.finish(&opened.backend)?;
        let_linger(&opened.backend.shared, spec.linger.or(self.env.options.linger));
        self.env.metrics.open_backends(self.count());
        let (directory, id, epoch) = (self.clone(), spec.id, opened.backend.epoch());
        // Ordering: the backend is in its slot before the task begins that forgets it. The other way round, a backend
        // that ends at once would be forgotten first and put into the slot afterwards, where it would stay for ever.
        let ended = opened.backend.ended();
        self.env.tasks.spawn(async move {
            let why = ended.await;
            directory.forget(&id, epoch, why);
        });
        Ok(opened)
    }

    /// Removes an owner that has ended.
    fn forget(&self, id: &BackendId, epoch: Epoch, why: Option<Error>) {
        // Dropped without the lock: all state goes with the last handle, and others must find their backends meanwhile.
        let gone = {
            let mut inner = self.inner.lock();
            let slot = inner.slots.get_mut(id);
            let gone = slot.and_then(|slot| slot.running.take_if(|running| running.epoch() == epoch));
            inner.tidy(id);
            if let Some(why) = why.filter(|why| why.reason == Reason::Fenced) {
                inner.remember(id, epoch, why);
            }
            gone
        };
        drop(gone);
        self.env.metrics.open_backends(self.count());
    }

    /// The backend of `id`.
    ///
    /// # Errors
    /// If this daemon does not have it, or `epoch` is not its owner's.
    pub fn get(&self, id: &BackendId, epoch: Epoch) -> Result<Backend, Error> {
        let inner = self.inner.lock();
        let Some(backend) = inner.slots.get(id).and_then(|slot| slot.running.clone()) else {
            if let Some(fenced) = inner.fenced.get(id).filter(|fenced| fenced.epoch == epoch) {
                return Err(fenced.why.clone());
            }
            let text = format!("backend `{id}` is not open on this daemon; open it first");
            return Err(Error::new(Reason::BackendNotOpen, text));
        };
        drop(inner);
        if backend.epoch() == epoch { Ok(backend) } else { Err(error::fenced(id, epoch, backend.epoch())) }
    }

    /// Closes a backend in order; returns whether this daemon had it.
    ///
    /// # Errors
    /// If `epoch` is not its owner's.
    pub async fn close(&self, id: &BackendId, epoch: Epoch) -> Result<bool, Error> {
        // Closing is idempotent. A backend that is not here counts as closed, while a backend of another owner is an
        // error.
        let Ok(backend) = self.get(id, epoch) else {
            let running = self.inner.lock().slots.get(id).is_some_and(|slot| slot.running.is_some());
            return if running { self.get(id, epoch).map(|_| true) } else { Ok(false) };
        };
        backend.close(epoch).await?;
        self.forget(id, epoch, None);
        Ok(true)
    }

    /// Describes one backend, or all.
    ///
    /// # Errors
    /// If the one asked for is not open here.
    pub fn describe(&self, id: Option<&BackendId>) -> Result<Vec<Description>, Error> {
        let backends = self.backends();
        let Some(id) = id else { return Ok(backends.iter().map(Backend::describe).collect()) };
        let found = backends.iter().find(|backend| backend.id() == id);
        let text = || format!("backend `{id}` is not open on this daemon");
        let found = found.ok_or_else(|| Error::new(Reason::BackendNotOpen, text()))?;
        Ok(vec![found.describe()])
    }

    /// Every open backend, by name.
    #[must_use]
    pub fn backends(&self) -> Vec<Backend> {
        self.inner.lock().slots.values().filter_map(|slot| slot.running.clone()).collect()
    }

    /// Number of open backends that have not ended.
    #[must_use]
    pub fn count(&self) -> usize {
        self.backends().iter().filter(|backend| !backend.has_ended()).count()
    }

    /// Jobs that have an open backend, or had one since the last call.
    #[must_use]
    pub fn jobs(&self) -> BTreeSet<Name> {
        let mut jobs = std::mem::take(&mut self.inner.lock().opened);
        jobs.extend(self.backends().iter().filter(|b| !b.has_ended()).map(|b| b.id().job.clone()));
        jobs
    }

    /// Refuses opens from now on.
    pub fn drain(&self) {
        self.inner.lock().draining = true;
        self.draining.send_replace(true);
    }

    /// Waits until every backend is closed, once the daemon is draining. A backend whose session has been closed for a
    /// moment is closed in order, since its writer is done. A backend that never had a session has to be closed by its
    /// engine. Cancel-safe: if dropped, the remaining backends stay open.
    pub async fn emptied(&self) {
        let mut left: BTreeMap<(BackendId, u64), Instant> = BTreeMap::new();
        while self.count() > 0 {
            let now = Instant::now();
            let backends: Vec<Backend> = self.backends().into_iter().filter(Backend::is_left).collect();
            // By epoch: a backend that was opened again meanwhile has its own patience.
            let key = |backend: &Backend| (backend.id().clone(), backend.epoch().number);
            left.retain(|known, _| backends.iter().any(|backend| key(backend) == *known));
            let mut is_done = |backend: &Backend| now - *left.entry(key(backend)).or_insert(now) >= LEFT_PATIENCE;
            self.close_each(backends.into_iter().filter(|backend| is_done(backend)).collect()).await;
            sleep(DRAIN_POLL).await;
        }
    }

    /// Waits until the daemon is draining. Cancel-safe.
    pub async fn drained(&self) {
        let mut draining = self.draining.subscribe();
        if draining.wait_for(|draining| *draining).await.is_err() {
            // The directory has the sender, so this does not happen. If it did, it would be no drain.
            std::future::pending::<()>().await;
        }
    }

    /// The backend of `id`, under any owner.
    ///
    /// # Errors
    /// If it is not open here.
    pub(super) fn running(&self, id: &BackendId) -> Result<Backend, Error> {
        let running = self.inner.lock().slots.get(id).and_then(|slot| slot.running.clone());
        running.filter(|backend| !backend.has_ended()).ok_or_else(|| error::not_open(id))
    }

    /// A backend for which `concerns` is true and that is open, or being opened, here.
    pub(super) fn in_use(&self, concerns: impl Fn(&BackendId) -> bool) -> Option<BackendId> {
        let is_used =
            |slot: &Slot| slot.opening.is_some() || slot.running.as_ref().is_some_and(|running| !running.has_ended());
        self.inner.lock().slots.iter().find(|(id, slot)| concerns(id) && is_used(slot)).map(|(id, _)| id.clone())
    }

    /// Closes every backend in order. Cancel-safe: if dropped, the remaining backends stay open.
    pub async fn close_all(&self) {
        self.close_each(self.backends()).await;
    }

    async fn close_each(&self, backends: Vec<Backend>) {
        // All at the same time: each may wait for the store, and the daemon stops only when all are closed.
        let closing = backends.into_iter().map(|backend| async move {
            if let Err(error) = self.close(backend.id(), backend.epoch()).await {
                tracing::debug!(backend = %backend.id(), %error, "closing");
            }
        });
        futures::future::join_all(closing).await;
    }

    /// Ends the backends of subtasks that an open has fenced to restore from them. Most of them never come back.
    fn end_fenced(&self, fenced: &[(BackendId, Epoch)]) {
        for (id, by) in fenced {
            let mut inner = self.inner.lock();
            let Some(slot) = inner.slots.get_mut(id) else { continue };
            // An owner with a higher epoch has opened after this fence, and goes on.
            let Some(ended) = slot.running.take_if(|running| running.epoch().number < by.number) else { continue };
            inner.tidy(id);
            drop(inner);
            // Ordering: the lock of the directory is let go before a core is locked, which may wait for a disk.
            // Otherwise all other backends of the daemon would wait for that disk, too.
            ended.end(&error::fenced_by(id, *by));
        }
    }

    /// Decides how an open begins: with the running backend of the same owner, or anew after older owners were ended.
    fn begin(&self, spec: &OpenSpec) -> Result<Found, Error> {
        // Everything is decided in one hold of the lock: of two openers, the second one sees the mark of the first.
        let mut inner = self.inner.lock();
        if inner.draining {
            return Err(Error::new(Reason::Draining, "this daemon is draining and opens no backends; use another"));
        }
        inner.openings += 1;
        let number = inner.openings;
        let slot = inner.slots.entry(spec.id.clone()).or_default();
        if let Some(running) = slot.running.as_ref().filter(|running| !running.has_ended()) {
            if running.attempt() == spec.attempt && !spec.fresh {
                return Ok(Found::Running(running.clone()));
            }
            if running.attempt() > spec.attempt {
                return Err(outdated(&spec.id, spec.attempt, running.attempt()));
            }
        }
        if let Some(opening) = &slot.opening {
            if opening.attempt > spec.attempt {
                return Err(outdated(&spec.id, spec.attempt, opening.attempt));
            }
            // Of two opens with the same attempt the newer one stays, since the client of the older one may be gone.
            // The permit is kept, so an open that does not wait for it yet is cancelled as well.
            opening.cancel.notify_one();
        }
        let opening = Opening { number, attempt: spec.attempt, cancel: Arc::new(Notify::new()) };
        slot.opening = Some(opening.clone());
        Ok(Found::Proceed(opening, slot.running.clone().filter(|running| !running.has_ended())))
    }
}

/// Removes the mark of an open that is under way, however the open ends.
struct Guard<'a> {
    directory: &'a Directory,
    id: &'a BackendId,
    number: u64,
}

impl Guard<'_> {
    /// Puts the opened backend into its slot; an older one there ends.
    fn finish(self, backend: &Backend) -> Result<(), Error> {
        let mut inner = self.directory.inner.lock();
        inner.opened.insert(self.id.job.clone());
        let slot = inner.slots.entry(self.id.clone()).or_default();
        // Ordering: the slot is settled in one hold of the lock, and the loser ends after it was let go. A caller that
        // looks meanwhile finds the winner, and nobody waits for the loser's core under this lock.
        let taken_over = slot.opening.as_ref().is_none_or(|opening| opening.number != self.number);
        let loser = if taken_over { Some(backend.clone()) } else { slot.running.replace(backend.clone()) };
        drop(inner);
        if let Some(loser) = loser {
            loser.end(&error::fenced_by(self.id, backend.epoch()));
        }
        if taken_over { Err(error::fenced_by(self.id, backend.epoch())) } else { Ok(()) }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut inner = self.directory.inner.lock();
        let Some(slot) = inner.slots.get_mut(self.id) else { return };
        // A newer open may have put its own mark there, which stays.
        if slot.opening.as_ref().is_some_and(|opening| opening.number == self.number) {
            slot.opening = None;
        }
        inner.tidy(self.id);
    }
}

fn outdated(id: &BackendId, attempt: Attempt, newer: Attempt) -> Error {
    let text = format!("backend `{id}`: attempt {attempt} is outdated, attempt {newer} has opened it; stop");
    Error::new(Reason::Fenced, text)
}
