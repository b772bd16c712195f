//! Outcomes of uploads: what is durable is listed, then told; a refused segment is tried again.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{
    backend::{shared::Shared, uploading::OnUploaded},
    changelog::{
        segment::{ChangeSet, SegmentHandle},
        uploader::UploadError,
    },
    checkpoint::owner::Uploaded,
    error::{Error, Reason},
};

/// Delay before a segment is tried again that the store refused (permissions, configuration).
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// Takes the outcomes for the backend `shared`, as long as it is in memory.
pub(crate) fn outcomes_for(shared: Weak<Shared>) -> OnUploaded {
    Arc::new(move |result, set| on_uploaded(&shared, result, set))
}

/// Takes the outcome of an upload: the change set is durable, or will never be.
fn on_uploaded(shared: &Weak<Shared>, result: Result<SegmentHandle, UploadError>, set: ChangeSet) {
    let Some(shared) = shared.upgrade() else { return };
    let mut core = shared.core();
    let handle = match result {
        Ok(handle) => handle,
        // The backend has ended; all waiting callers were answered then.
        Err(UploadError::Cancelled) => return,
        Err(UploadError::Stopped) => {
            let text = format!("backend `{}`: uploads have stopped with the daemon", core.id);
            core.end(&Error::new(Reason::Draining, text));
            return;
        }
        Err(error @ UploadError::Store { .. }) => {
            tracing::warn!(backend = %core.id, %error, "the store refuses a segment; trying again");
            // Later change sets cannot be listed before this one, so it is tried until it succeeds or the backend ends.
            let tasks = core.env.tasks.clone();
            drop(core);
            let weak = Arc::downgrade(&shared);
            let again = async move {
                tokio::time::sleep(REFUSED_DELAY).await;
                let core = shared.core();
                if !core.has_ended() {
                    core.uploading.submit(set, true);
                }
            };
            tasks.supervise("an upload that is tried again", again, move |panicked| {
                if let Some(shared) = weak.upgrade() {
                    shared.core().end_panicked(panicked);
                }
            });
            return;
        }
        Err(UploadError::Panicked) => {
            let text = format!("backend `{}` was ended by a bug in dstl: its uploads panicked; open it again", core.id);
            core.end(&Error::new(Reason::Internal, text));
            return;
        }
    };
    // Ordering 1: the owner lists the change sets that continue the log without a gap. The others wait in it: a restore
    // that met a gap would lose the changes in it.
    let Uploaded { is_listed, released_bytes } = core.owner.on_uploaded(handle);
    core.release_memory(released_bytes);
    if core.has_ended() || !is_listed {
        return;
    }
    // Ordering 2: callers hear that changes are durable only once they are listed.
    // Ordering 3: the worker looks for checkpoints that are ready, which depends on the list.
    core.on_persisted();
    drop(core);
    shared.wake();
}
