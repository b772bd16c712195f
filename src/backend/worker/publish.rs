//! The background work of one backend: publishing manifests, timeouts, deleting superseded manifests.
//!
//! Level-triggered: each round asks the core which publication is due, carries it out, and sleeps until woken or until
//! the next deadline. One manifest is under way at a time; checkpoints that become durable meanwhile share the next
//! one. Pages of the log index are written beside a manifest that does not name them yet, so that no checkpoint waits
//! for a page of its own.
//!
//! A silent owner needs care, too. The segments of other backends of the job are kept until this owner says that it
//! names none of them, so it publishes that now and then. And it may have a successor on another host without having
//! met it, so it looks at the chain now and then.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    backend::{barrier::expire, core::Core, error, publication, shared::Shared},
    checkpoint::{
        chain::{self, ChainError},
        envelope,
        index::NewPage,
        manifest::Manifest,
        owner::Publication,
        pages,
    },
    error::Error,
    object::{Retry, Store},
    types::BackendId,
};

/// Delay before a write is tried again that the store refused (permissions, configuration).
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// A time that never comes, for a timer that is not armed.
const FAR: Duration = Duration::from_secs(86_400);

/// How often a backend that is not woken checks whether its low water is waited for.
const POLL: Duration = Duration::from_secs(30);

/// How long an owner publishes nothing before it checks that it is still the owner.
const SILENCE: Duration = Duration::from_secs(900);

/// Serves `shared` until its backend ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let now = Instant::now();
        let (publication, deadline, ended) = {
            let mut core = shared.core();
            // Ordering: late checkpoints fail before a manifest begins, in the same hold of the lock. The manifest
            // would publish a checkpoint otherwise whose caller is told that it failed.
            expire(&mut core, now);
            let ended = core.has_ended();
            (publication::next_publication(&mut core, now), publication::next_deadline(&core), ended)
        };
        if ended {
            return;
        }
        if let Some(publication) = publication {
            publish(&shared, publication).await;
            continue;
        }
        let (id, pages) = {
            let mut core = shared.core();
            (core.id.clone(), publication::next_pages(&mut core))
        };
        if !pages.is_empty() {
            // The log index names these pages already, so no manifest may begin before they are durable.
            if attend(&shared, write_pages(&shared.store, &id, pages)).await.is_some() {
                shared.core().owner.pages_written();
            }
            continue;
        }
        if shared.core().owner.is_silent_for(SILENCE, now.into_std()) {
            look(&shared, now).await;
            continue;
        }
        tokio::select! {
            biased;
            () = shared.signals.wake.notified() => {}
            () = sleep_until(deadline.map_or(now + POLL, |deadline| deadline.min(now + POLL))) => {}
        }
    }
}

/// Checks whether another owner has opened the chain. If the store does not answer, the next check will tell.
async fn look(shared: &Arc<Shared>, now: Instant) {
    let manifest = {
        let mut core = shared.core();
        core.owner.look(now.into_std());
        core.owner.manifest().clone()
    };
    let overtaken = chain::overtaken(&shared.store, &manifest, manifest.number, Retry::none());
    if let Some(Ok(Some(by))) = attend(shared, overtaken).await {
        fenced(shared, &error::fenced_by(&manifest.backend, by));
    }
}

fn fenced(shared: &Shared, by: &Error) {
    let mut core = shared.core();
    tracing::warn!(backend = %core.id, error = %by, "backend is fenced");
    core.env.metrics.fenced();
    core.end(by);
}

/// Makes one manifest durable and tells the core, then the pages that only the next manifest names.
async fn publish(shared: &Arc<Shared>, publication: Publication) {
    let Publication { before, manifest, beside, .. } = publication;
    let store = &shared.store;
    let writing = async {
        // Ordering 1: pages that the manifest names.
        // Ordering 2: the manifest. If it came first, a crash in between would leave a head that names pages which do
        // not exist, and its checkpoints could not be restored.
        // Ordering 3: pages that only the next manifest names, at any time until this function returns. The next one
        // does not begin before that.
        write_pages(store, &manifest.backend, before).await;
        write(store, &manifest).await
    };
    let beside = write_pages(store, &manifest.backend, beside);
    tokio::pin!(writing, beside);
    let mut pages_left = true;
    let result = attend(shared, async {
        loop {
            tokio::select! {
                biased;
                result = &mut writing => break result,
                () = &mut beside, if pages_left => pages_left = false,
            }
        }
    });
    match result.await {
        // Given up as in a crash: the manifest may or may not become durable.
        None => return,
        Some(Ok(crc)) => published(shared, crc),
        Some(Err(by)) => return fenced(shared, &by),
    }
    // The owner begins no manifest until it hears of these pages, since the next one names them.
    if !pages_left || attend(shared, beside).await.is_some() {
        shared.core().owner.pages_written();
    }
}

/// Waits for `work`. Meanwhile checkpoints time out, including those that are triggered meanwhile. `None` if the
/// backend ends before and has no last manifest to write.
async fn attend<T>(shared: &Arc<Shared>, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    loop {
        let expiry = {
            let mut core = shared.core();
            expire(&mut core, Instant::now());
            if publication::has_given_up(&core) {
                return None;
            }
            core.waiters.next_expiry()
        };
        tokio::select! {
            biased;
            result = &mut work => break Some(result),
            // A barrier has come, or the backend has ended. The caller looks at everything else once the work is done.
            () = shared.signals.wake.notified() => {}
            () = sleep_until(expiry.unwrap_or(Instant::now() + FAR)) => {}
        }
    }
}

/// Tells the core that the manifest is durable, and deletes superseded manifests.
fn published(shared: &Arc<Shared>, crc: u32) {
    let mut core = shared.core();
    // Ordering: the core learns that the manifest is durable, and only then older ones are deleted. The newest few
    // stay, so the chain has a head at every moment.
    publication::published(&mut core, crc);
    if let Some(superseded) = core.owner.superseded() {
        let (store, id) = (shared.store.clone(), core.id.clone());
        core.env.tasks.spawn(async move {
            delete_manifests(&store, &id, superseded).await;
        });
    }
    settle(shared, &mut core);
}

/// Deletes the manifests of earlier owners between their first and last ones, so that later reads need not look there
/// again.
fn settle(shared: &Arc<Shared>, core: &mut Core) {
    let Some(between) = core.owner.settle() else { return };
    let end = between.iter().map(|range| range.end).max();
    let (shared, id) = (shared.clone(), core.id.clone());
    core.env.tasks.spawn(async move {
        // Ordering: delete first, and tell the next manifest only then. It says that no manifest is left between. If it
        // said so too early, those that a crash left behind would never be looked for again.
        let mut is_done = true;
        for range in between {
            is_done &= delete_manifests(&shared.store, &id, range).await;
        }
        shared.core().owner.settled(end.filter(|_| is_done));
    });
}

/// Writes pages, and tries again until they are durable.
async fn write_pages(store: &Store, backend: &BackendId, pages: Vec<NewPage>) {
    while let Err(error) = pages::write(store, std::slice::from_ref(backend), pages.clone(), Retry::forever()).await {
        refused(backend, &error).await;
    }
}

/// Writes a manifest, and tries again until it is durable. Returns its checksum, or why this owner has ended.
async fn write(store: &Store, manifest: &Manifest) -> Result<u32, Error> {
    loop {
        match chain::append(store, manifest, Retry::forever()).await {
            Ok(crc) => {
                debug_assert_eq!(crc, envelope::crc_of(&manifest.encode()));
                return Ok(crc);
            }
            Err(ChainError::Fenced { by, .. }) => return Err(error::fenced_by(&manifest.backend, by)),
            Err(error) => refused(&manifest.backend, &error).await,
        }
    }
}

async fn refused(backend: &BackendId, error: &(dyn std::error::Error + Send + Sync + 'static)) {
    tracing::warn!(%backend, error, "the store refuses a manifest; trying again");
    sleep(REFUSED_DELAY).await;
}

/// Deletes manifests with one attempt; a sweep finds the remaining ones. Returns whether all were deleted.
async fn delete_manifests(store: &Store, backend: &BackendId, numbers: std::ops::Range<u64>) -> bool {
    let paths = numbers.map(|number| chain::manifest_name(backend, number).path()).collect();
    let deleted = store.delete_all(paths, Retry::none()).await;
    if let Err(error) = &deleted {
        tracing::debug!(%backend, %error, "superseded manifests stay for the sweep");
    }
    deleted.is_ok()
}
