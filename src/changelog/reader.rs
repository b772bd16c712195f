//! Reads change sets back, verified.
//!
//! A [`SegmentHandle`] has the positions and checksums of the blocks. So a reader fetches exactly their bytes, and
//! trusts nothing else in the object. [`ReplayStream`] reads many of them ahead.

mod plan;
mod stream;

use bytes::Bytes;

pub use self::stream::{ReplayOptions, ReplayStream};
use super::{
    block::{Batch, BlockReader},
    segment::{BlockHandle, Place, SegmentError, SegmentHandle, SegmentId, SegmentIndex, verify},
};
use crate::{
    object::{ObjectName, Path, Retry, Store, StoreError},
    tasks::Panicked,
    types::{KeyGroupRange, SqnRange},
};

/// One verified, uncompressed block of a change set.
#[derive(Debug, Clone)]
pub struct ChangeBlock {
    /// The segment, or the handle itself, that it was read from.
    pub place: Place,
    /// Its position there, and its checksum.
    pub handle: BlockHandle,
    /// The sequence numbers of its change set.
    pub range: SqnRange,
    /// The uncompressed contents. May share memory with other blocks of the same read.
    pub bytes: Bytes,
}

/// Change sets that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// An object differs from the one that was written.
    #[error("object `{object}`, {what}")]
    Corrupt {
        /// Path of the object.
        object: String,
        /// Offset in the object, from 0.
        offset: u64,
        /// The place, and the expected and found contents.
        what: String,
    },
    /// An object does not exist.
    #[error("object `{object}` is missing")]
    Missing {
        /// Path of the object.
        object: String,
    },
    /// The store does not answer, or refuses.
    #[error("reading object `{object}`")]
    Store {
        /// Path of the object.
        object: String,
        /// The error of the store.
        source: StoreError,
    },
    /// The task of the read panicked.
    #[error("reading object `{object}`: {source}")]
    Panicked {
        /// Path of the object.
        object: String,
        /// The panic, with its message.
        source: Panicked,
    },
    /// The read was ended from outside, because the daemon stops.
    #[error("reading object `{object}` was stopped")]
    Stopped {
        /// Path of the object.
        object: String,
    },
}

impl ChangeBlock {
    /// Its batches; errors name the object and the place.
    pub fn batches(&self) -> impl Iterator<Item = Result<Batch<'_>, ReadError>> {
        BlockReader::new(&self.bytes, self.range).map(|batch| {
            let error = |error| SegmentError::Block { offset: self.handle.offset, error };
            batch.map_err(|found| corrupt(&self.place, self.range, &error(found)))
        })
    }
}

/// Reads the blocks of one change set that share a key group with `key_groups`, in order. A block may have changes of
/// other key groups, too. Cancel safe.
///
/// # Errors
/// [`ReadError`], after the attempts that `retry` allows.
pub async fn read_change_set(
    store: &Store,
    handle: &SegmentHandle,
    key_groups: KeyGroupRange,
    retry: Retry,
) -> Result<Vec<ChangeBlock>, ReadError> {
    let mut blocks = Vec::new();
    for read in plan::reads(std::slice::from_ref(handle), &[key_groups]) {
        blocks.extend(read.execute(store, retry).await?);
    }
    Ok(blocks)
}

/// Reads a whole segment, verifies it down to each change, and returns its index; for tools. Cancel safe.
///
/// # Errors
/// [`ReadError::Corrupt`], also if the segment lies under another segment's name.
pub async fn read_index(store: &Store, id: &SegmentId, retry: Retry) -> Result<SegmentIndex, ReadError> {
    let path = path(id);
    let bytes = store.get(&path, retry).await.map_err(|error| store_error(&path, error))?;
    let index = verify(&bytes).map_err(|error| corrupt_object(path.to_string(), &error))?;
    // Every checksum of a segment that lies under another one's name is right, so only its header tells.
    if (index.instance, index.number) == (id.instance, id.number) {
        return Ok(index);
    }
    let what = format!("holds segment {}/{}", index.instance, index.number);
    Err(ReadError::Corrupt { object: path.to_string(), offset: 0, what })
}

fn path(id: &SegmentId) -> Path {
    ObjectName::Segment { job: id.job.clone(), instance: id.instance, number: id.number }.path()
}

/// The name of a change set's place in errors: the path of its segment, or a phrase.
#[must_use]
pub fn object_of(place: &Place, range: SqnRange) -> String {
    match place {
        Place::Segment(id) => path(id).to_string(),
        Place::Inline(_) => format!("inline change set {range}"),
    }
}

fn corrupt(place: &Place, range: SqnRange, error: &SegmentError) -> ReadError {
    corrupt_object(object_of(place, range), error)
}

fn corrupt_object(object: String, error: &SegmentError) -> ReadError {
    let text = error.to_string();
    // Every segment error begins with its offset, which the read error already has.
    let what = text.split_once(": ").map_or(text.as_str(), |(_, what)| what).to_owned();
    ReadError::Corrupt { object, offset: error.offset(), what }
}

fn store_error(path: &Path, error: StoreError) -> ReadError {
    let object = path.to_string();
    match error {
        StoreError::NotFound { .. } => ReadError::Missing { object },
        StoreError::OutOfRange { from, to, size, .. } => {
            ReadError::Corrupt { object, offset: size, what: format!("cut off: bytes {from} to {to} are recorded") }
        }
        source => ReadError::Store { object, source },
    }
}

#[cfg(test)]
mod tests;
