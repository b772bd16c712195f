//! The destination of a materialization, and its last step: the index, which completes it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use crate::{
    changelog::compression::Compression,
    checkpoint::{
        base::BaseIndex,
        envelope, local,
        manifest::{Materialization, SnapshotFile},
    },
    object::{Created, PutPayload, Retry, Store, StoreError, copies::Label},
    random::Random,
    types::{BackendId, Name, Sqn},
};

/// The destination of a materialization.
#[derive(Debug, Clone)]
pub struct Target {
    /// The store to upload to.
    pub store: Store,
    /// The backend that is materialized.
    pub backend: BackendId,
    /// Names this daemon process in file names.
    pub instance: Uuid,
    /// The number of the owner's epoch.
    pub epoch: u64,
    /// The number of the next file of this owner, shared by all of its materializations.
    pub numbers: Arc<AtomicU64>,
    /// Makes the UUID of the materialization.
    pub random: Random,
    /// Compression of the pieces.
    pub compression: Compression,
    /// How each upload is retried.
    pub retry: Retry,
    /// Until when to retry uploads that the store refuses (permissions, configuration); `None` for not at all.
    pub insist_until: Option<Instant>,
}

/// Delay before a refused upload is tried again.
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// Why a materialization was not made.
#[derive(Debug, thiserror::Error)]
pub enum MaterializationError {
    /// The store did not take an upload.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A local file cannot be read.
    #[error("reading the local file `{name}`")]
    Local {
        /// Name of the local file.
        name: String,
        /// The error of reading it.
        source: std::io::Error,
    },
    /// The pieces do not cover the state: a bug.
    #[error("the snapshot is incomplete: {0}")]
    Incomplete(&'static str),
    /// The name was taken by another owner with the same epoch number; one of the two is fenced.
    #[error("object `{0}` exists with other contents")]
    Conflict(String),
}

/// A materialization that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its entry in the manifest.
    pub materialization: Materialization,
    /// The index of its pieces and images, from which the next materialization can reuse some.
    pub index: BaseIndex,
    /// Bytes that were uploaded for it, the index included.
    pub uploaded_bytes: u64,
}

impl Target {
    /// A name for the next file; `kind` names its contents for people.
    pub(super) fn file_name(&self, kind: &str) -> Name {
        SnapshotFile::name(self.epoch, self.numbers.fetch_add(1, Ordering::Relaxed), kind)
    }

    /// Uploads one file.
    pub(super) async fn create(&self, file: &SnapshotFile, payload: PutPayload) -> Result<(), MaterializationError> {
        self.create_labelled(file, payload, || local::file_label(&self.backend, file, vec![])).await
    }

    /// Uploads one file of an image.
    pub(super) async fn create_of_image(
        &self,
        file: &SnapshotFile,
        payload: PutPayload,
    ) -> Result<(), MaterializationError> {
        let label = || Label { is_image: true, ..local::file_label(&self.backend, file, vec![]) };
        self.create_labelled(file, payload, label).await
    }

    async fn create_labelled(
        &self,
        file: &SnapshotFile,
        payload: PutPayload,
        label: impl FnOnce() -> Label,
    ) -> Result<(), MaterializationError> {
        let path = file.path(&self.backend);
        loop {
            match self.store.create(&path, payload.clone(), self.retry).await {
                Ok(Created::New | Created::Identical) => break,
                Ok(Created::Conflict) => return Err(MaterializationError::Conflict(path.to_string())),
                // A refusal may be mended by people, so it is tried again as long as somebody waits for this
                // materialization.
                Err(error) if self.insist_until.is_some_and(|until| Instant::now() + REFUSED_DELAY < until) => {
                    tracing::warn!(%path, %error, "the store refuses a snapshot file; trying again");
                    sleep(REFUSED_DELAY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Ordering: the local copy is made after the object exists, so no copy outlives an upload that failed.
        self.store.copy(&path, payload, label);
        Ok(())
    }

    /// Uploads the index, after `uploaded_bytes` of the files that it lists. At sqn `listed_at` it was decided which
    /// states have pieces. The log is kept from there on, since only the log has the changes of states that were
    /// registered later. If there was no state, the index is empty, and says that the backend was empty at that sqn.
    pub(super) async fn publish(
        &self,
        index: BaseIndex,
        uploaded_bytes: u64,
        listed_at: Sqn,
    ) -> Result<Made, MaterializationError> {
        // Both are taken down and up to `listed_at`: a state that was registered after the list has no piece, so only
        // the log from there on has its changes.
        let (lowest, highest) = index.sqns().unwrap_or((listed_at, listed_at));
        let (from, complete_at) = (lowest.min(listed_at), highest.max(listed_at));
        let bytes: Bytes = index.encode();
        let index_crc = Some(envelope::crc_of(&bytes));
        let file = SnapshotFile { instance: self.instance, name: self.file_name("index"), bytes: bytes.len() as u64 };
        // A restore reads these parts after the index.
        let parts = || index.files().into_keys().map(|part| part.path(&self.backend)).collect();
        let label = || local::file_label(&self.backend, &file, parts());
        self.create_labelled(&file, PutPayload::from_bytes(bytes), label).await?;
        let (stored_bytes, changes) = index.extent();
        let uploaded_bytes = uploaded_bytes + file.bytes;
        let uuid = self.random.uuid();
        let materialization =
            Materialization { uuid, from, complete_at, index: file, index_crc, stored_bytes, changes };
        Ok(Made { materialization, index, uploaded_bytes })
    }
}
