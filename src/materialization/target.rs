//! Where a materialization goes, and its last step: the index, which makes it whole.

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

/// Where a materialization goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The store.
    pub store: Store,
    /// Whose.
    pub backend: BackendId,
    /// This daemon process.
    pub instance: Uuid,
    /// The owner's epoch, and its counter of files.
    pub epoch: u64,
    /// The next file's number.
    pub numbers: Arc<AtomicU64>,
    /// For the name of the materialization.
    pub random: Random,
    /// How pieces are stored.
    pub compression: Compression,
    /// For each upload.
    pub retry: Retry,
    /// Until when to try again what the store refuses for good (permissions, configuration).
    pub insist_until: Option<Instant>,
}

/// How long to wait before such an upload is tried again.
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// Why a materialization was not made.
#[derive(Debug, thiserror::Error)]
pub enum MaterializationError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A local file cannot be read.
    #[error("reading the local file `{name}`")]
    Local {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The pieces do not cover the state: a bug.
    #[error("the snapshot is incomplete: {0}")]
    Incomplete(&'static str),
    /// A name was taken: by another owner of the same epoch number, which is fenced.
    #[error("object `{0}` exists with other contents")]
    Conflict(String),
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// For the manifest.
    pub materialization: Materialization,
    /// Its pieces, for the next one.
    pub index: BaseIndex,
    /// Bytes uploaded now, the index included.
    pub uploaded_bytes: u64,
}

impl Target {
    /// A name for the next file, of a kind that tells people what it is.
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
                Err(error) if self.insist_until.is_some_and(|until| Instant::now() + REFUSED_DELAY < until) => {
                    tracing::warn!(%path, %error, "the store refuses a snapshot file; trying again");
                    sleep(REFUSED_DELAY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.store.copy(&path, payload, label);
        Ok(())
    }

    /// Uploads the index, after `uploaded_bytes` of what it lists. `listed_at` is the sqn at which it was decided which
    /// states have pieces: the log is kept from there on, since it alone has the changes of a state that was registered
    /// later. Without any state the index is empty, and says so of the backend as it was then.
    pub(super) async fn publish(
        &self,
        index: BaseIndex,
        uploaded_bytes: u64,
        listed_at: Sqn,
    ) -> Result<Made, MaterializationError> {
        let (lowest, highest) = index.sqns().unwrap_or((listed_at, listed_at));
        let (from, complete_at) = (lowest.min(listed_at), highest.max(listed_at));
        let bytes: Bytes = index.encode();
        let index_crc = Some(envelope::crc_of(&bytes));
        let file = SnapshotFile { instance: self.instance, name: self.file_name("index"), bytes: bytes.len() as u64 };
        // Whoever reads it reads them after it.
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
