//! Native savepoints: the objects of a checkpoint, copied into a folder of their own.
//!
//! ```text
//!   <job>/savepoints/<name>/metadata.json                             written last
//!   <job>/savepoints/<name>/<uuid>/<job>/operators/…, segments/…      the objects, with the paths that they had
//! ```
//!
//! Seen from the folder `<uuid>`, the objects are a store with one job and one checkpoint, which is read and restored
//! like any other. No object says where the folder is. Each making has a UUID of its own, so two makers of the same
//! name never write the same object. The maker that writes `metadata.json` first has made the savepoint.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    error::SavepointError,
    id::SavepointId,
    metadata::{Metadata, format_of, seal, unseal},
};
use crate::{
    object::{ObjectName, Path, Retry, Store, StoreError},
    types::{Name, TimeMs},
};

const FORMAT: &str = "dstl native savepoint";

/// The contents of `metadata.json` of a native savepoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeMetadata {
    /// The job whose state the savepoint holds.
    pub job: String,
    /// Id of the checkpoint from which it was made.
    pub checkpoint: u64,
    /// The attempt that made that checkpoint.
    pub attempt: u64,
    /// When it was made, by the clock of the daemon or tool that made it.
    pub created_ms: TimeMs,
    /// UUID of the making, which is the name of the folder of the objects.
    pub folder: String,
    /// The operators by their names.
    pub operators: BTreeMap<String, NativeOperator>,
    /// The objects, ordered by path.
    pub objects: Vec<NativeObject>,
}

/// An operator of a native savepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeOperator {
    /// Number of subtasks at the checkpoint.
    pub parallelism: u32,
    /// Number of key groups, which stays the same for the life of the state.
    pub max_parallelism: u32,
}

/// An object of a native savepoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeObject {
    /// Path of the object in the folder, equal to its path in the original store.
    pub path: String,
    /// Length of the object in bytes.
    pub bytes: u64,
}

/// A savepoint of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Savepoint {
    /// Rows in Parquet files.
    Rows(Metadata),
    /// The objects of a checkpoint.
    Native(NativeMetadata),
}

impl NativeMetadata {
    /// The bytes of `metadata.json`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        seal(FORMAT, self)
    }

    /// Reads the bytes of `metadata.json`.
    ///
    /// # Errors
    /// The first fault found.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let metadata: Self = unseal(FORMAT, bytes)?;
        Name::new(&metadata.job).map_err(|error| error.to_string())?;
        Uuid::parse_str(&metadata.folder).map_err(|error| error.to_string())?;
        metadata
            .operators
            .keys()
            .try_for_each(|name| Name::new(name).map(|_| ()))
            .map_err(|error| error.to_string())?;
        // Only the exact paths of objects of dstl are allowed. Any other one could lead out of the folder of the
        // savepoint.
        let is_named = |object: &&NativeObject| {
            Path::parse(&object.path)
                .is_ok_and(|path| path.as_ref() == object.path && ObjectName::parse(&path).is_some())
        };
        match metadata.objects.iter().find(|object| !is_named(object)) {
            Some(other) => Err(format!("`{}` is no path of an object", other.path)),
            None => Ok(metadata),
        }
    }

    /// The folder of the objects; `id` must be the savepoint of this metadata.
    #[must_use]
    pub fn folder(&self, id: &SavepointId) -> Path {
        id.folder().join(self.folder.as_str())
    }

    /// The job whose state the savepoint holds.
    ///
    /// # Panics
    /// If the metadata was not [decoded](Self::decode), which checks the name.
    #[must_use]
    pub fn job(&self) -> Name {
        Name::new(&self.job).expect("it was checked")
    }

    /// Total bytes of all objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).fold(0, u64::saturating_add)
    }
}

impl NativeObject {
    /// Path of the object if its folder is `folder`.
    #[must_use]
    pub fn at(&self, folder: &Path) -> Path {
        self.path.split('/').fold(folder.clone(), |path, part| path.join(part))
    }
}

impl Savepoint {
    /// Reads the metadata of savepoint `id`. Cancel-safe.
    ///
    /// # Errors
    /// [`SavepointError::NotFound`] if there is no such savepoint.
    pub async fn read(store: &Store, id: &SavepointId, retry: Retry) -> Result<Self, SavepointError> {
        let path = id.metadata();
        let decode = |bytes: &Bytes| match format_of(bytes).as_deref() {
            Some(FORMAT) => NativeMetadata::decode(bytes).map(Self::Native),
            _ => Metadata::decode(bytes).map(Self::Rows),
        };
        match store.get_checked(&path, retry, decode).await {
            Ok(read) => read.map_err(|what| SavepointError::damaged(&path, None, what)),
            Err(StoreError::NotFound { .. }) => Err(SavepointError::NotFound(id.folder())),
            Err(error) => Err(SavepointError::Store(error)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn metadata(path: &str) -> NativeMetadata {
        NativeMetadata {
            job: "wc".to_owned(),
            checkpoint: 7,
            attempt: 1,
            created_ms: 5,
            folder: Uuid::nil().to_string(),
            operators: BTreeMap::from([("count".to_owned(), NativeOperator { parallelism: 1, max_parallelism: 128 })]),
            objects: vec![NativeObject { path: path.to_owned(), bytes: 3 }],
        }
    }

    #[test]
    fn its_metadata_survives_its_bytes_and_names_objects_alone() {
        let own = metadata("wc/operators/count/0/manifest/00000000000000000003");
        assert_eq!(NativeMetadata::decode(&own.encode()).unwrap(), own);
        assert!(Metadata::decode(&own.encode()).unwrap_err().contains("its format is `dstl native savepoint`"));
        let id = SavepointId { job: Name::new("other").unwrap(), name: Name::new("s").unwrap() };
        let at = own.objects.first().unwrap().at(&own.folder(&id));
        let expected = format!("other/savepoints/s/{}/wc/operators/count/0/manifest/00000000000000000003", Uuid::nil());
        assert_eq!(at.as_ref(), expected);
        assert!(matches!(ObjectName::parse(&at), Some(ObjectName::SavepointFile { .. })));
        for path in ["../../other/manifest", "wc//x", "wc/operators/count/0/manifest/3", "x"] {
            let error = NativeMetadata::decode(&metadata(path).encode()).unwrap_err();
            assert!(error.contains("no path of an object"), "{path}: {error}");
        }
    }
}
