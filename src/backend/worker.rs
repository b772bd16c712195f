//! The background work of one backend: publishing manifests, timeouts, deleting superseded manifests.
//!
//! Level-triggered: each round asks the core what is due, does it, and sleeps until woken or until the next deadline. One
//! manifest is under way at a time; checkpoints that become durable meanwhile share the next one.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{checkpointing::Publication, core::Condition, error, handle::Shared};
use crate::{
    checkpoint::{
        chain::{self, ChainError},
        envelope, local,
    },
    object::{Created, PutPayload, Retry, Store, layout::ObjectName},
    types::BackendId,
};

/// How long to wait before trying again what the store refused for good (permissions, configuration).
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// An end of time, for a timer that is not armed.
const FAR: Duration = Duration::from_secs(86_400);

/// Serves `shared` until its backend ends.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let now = Instant::now();
        let (publication, deadline, ended) = {
            let mut core = shared.core.lock();
            core.expire(now);
            let ended = matches!(core.condition, Condition::Ended(_));
            (core.next_publication(now), core.next_deadline(), ended)
        };
        if ended {
            return;
        }
        if let Some(publication) = publication {
            publish(&shared, publication).await;
            continue;
        }
        tokio::select! {
            biased;
            () = shared.wake.notified() => {}
            () = sleep_until(deadline.unwrap_or(now + FAR)) => {}
        }
    }
}

/// Makes one manifest durable and tells the core; timeouts of checkpoints go on meanwhile.
async fn publish(shared: &Arc<Shared>, publication: Publication) {
    let store = shared.store.clone();
    let number = publication.manifest.number;
    let writing = write(&store, publication);
    tokio::pin!(writing);
    let result = loop {
        let deadline = shared.core.lock().next_deadline().unwrap_or(Instant::now() + FAR);
        tokio::select! {
            biased;
            result = &mut writing => break result,
            () = sleep_until(deadline.max(Instant::now() + Duration::from_millis(1))) => {
                shared.core.lock().expire(Instant::now());
            }
        }
    };
    let mut core = shared.core.lock();
    match result {
        Ok(crc) => {
            core.published(crc);
            let deletable = chain::deletable(core.deleted_below, core.opened_number, number);
            // In one request per few manifests rather than one each.
            if deletable.end.saturating_sub(deletable.start) >= chain::KEPT_MANIFESTS {
                core.deleted_below = deletable.end;
                let (store, id) = (store.clone(), core.id.clone());
                core.env.tasks.spawn(async move { delete_manifests(&store, &id, deletable).await });
            }
        }
        Err(ended) => {
            tracing::warn!(backend = %core.id, error = %ended, "backend is fenced");
            core.env.metrics.fenced();
            core.end(&ended);
        }
    }
}

/// Writes pages, then the manifest, patiently. Returns the manifest's checksum, or why this owner has ended.
async fn write(store: &Store, publication: Publication) -> Result<u32, crate::error::Error> {
    let Publication { pages, manifest } = publication;
    let (backend, epoch) = (manifest.backend.clone(), manifest.owner().epoch.number);
    for (uuid, bytes) in pages {
        let path = ObjectName::IndexPage { backend: backend.clone(), epoch, id: uuid }.path();
        loop {
            match store.create(&path, PutPayload::from_bytes(bytes.clone()), Retry::forever()).await {
                Ok(Created::New | Created::Identical) => {
                    store.copy(&path, PutPayload::from_bytes(bytes), || local::page_label(&manifest, uuid));
                    break;
                }
                Ok(Created::Conflict) => unreachable!("the page's UUID is new"),
                Err(error) => refused(&backend, &error).await,
            }
        }
    }
    loop {
        match chain::append(store, &manifest, Retry::forever()).await {
            Ok(crc) => {
                debug_assert_eq!(crc, envelope::crc_of(&manifest.encode()));
                return Ok(crc);
            }
            Err(ChainError::Fenced { by, .. }) => return Err(error::fenced_by(&backend, by)),
            Err(error) => refused(&backend, &error).await,
        }
    }
}

async fn refused(backend: &BackendId, error: &(dyn std::error::Error + Send + Sync + 'static)) {
    tracing::warn!(%backend, error, "the store refuses a manifest; trying again");
    sleep(REFUSED_DELAY).await;
}

/// Best effort: what stays is found by a sweep.
async fn delete_manifests(store: &Store, backend: &BackendId, numbers: std::ops::Range<u64>) {
    let paths = numbers.map(|number| chain::manifest_name(backend, number).path()).collect();
    if let Err(error) = store.delete_all(paths, Retry::none()).await {
        tracing::debug!(%backend, %error, "superseded manifests stay for the sweep");
    }
}
