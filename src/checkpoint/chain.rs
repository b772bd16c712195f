//! The manifest chain of a backend on the store: reading its head, appending to it, and fencing by it.
//!
//! Numbers begin at 1. Each is used once, by create-if-absent. The writer of number N+1 has derived it from N. An owner
//! that finds N+1 taken reads it: if it has another epoch, the owner is fenced.
//!
//! An owner deletes only manifests of its own epoch that neither opened the epoch nor are among its newest
//! [`KEPT_MANIFESTS`]. So the head and every epoch's first manifest stay. No number becomes free that a stale writer
//! could still create, since its next number is the successor's first.

use super::{
    envelope::{self, EnvelopeError},
    manifest::Manifest,
};
use crate::{
    object::{
        Created, PutPayload, Retry, Store, StoreError,
        layout::{self, ObjectName},
    },
    types::{BackendId, Epoch},
};
use bytes::Bytes;

/// Newest manifests of the present owner that stay on the store, the head included. A reader that listed them a moment
/// ago still finds one of them, and a damaged head has predecessors.
pub const KEPT_MANIFESTS: u64 = 8;

/// How often an opener lists the chain again if the chain moves meanwhile.
const OPEN_ATTEMPTS: usize = 16;

/// The newest manifest of a chain.
#[derive(Debug, Clone)]
pub struct Head {
    /// The contents of the manifest.
    pub manifest: Manifest,
    /// Checksum of its object, which the next manifest records.
    pub crc: u32,
}

/// The chain could not be read or extended.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Another owner extended the chain.
    #[error("backend `{backend}` has a newer owner, epoch {by}")]
    Fenced {
        /// The backend whose chain it is.
        backend: BackendId,
        /// The epoch of the newer owner.
        by: Epoch,
    },
    /// A manifest is damaged.
    #[error("manifest `{object}` is damaged: {source}{hint}")]
    Corrupt {
        /// Path of the manifest.
        object: String,
        /// The offset and kind of the damage.
        source: EnvelopeError,
        /// Advice that depends on the other manifests.
        hint: String,
    },
    /// The chain moved each time it was read.
    #[error("the manifest chain of `{0}` kept moving: its owner writes to it all the time, or others open it too")]
    Contended(BackendId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads the newest manifest; `None` for a backend that was never opened. Cancel-safe.
///
/// # Errors
/// [`ChainError::Corrupt`] if it is damaged; [`ChainError::Store`] after the attempts that `retry` allows.
pub async fn read_head(store: &Store, backend: &BackendId, retry: Retry) -> Result<Option<Head>, ChainError> {
    for _ in 0..OPEN_ATTEMPTS {
        let numbers = numbers(store, backend, retry).await?;
        // The highest number is the authority, even if it cannot be read. Falling back to an older manifest would take
        // a head for the truth whose successor may have let go of checkpoints that were deleted since.
        let Some(&newest) = numbers.last() else { return Ok(None) };
        let path = manifest_name(backend, newest).path();
        let read = |bytes: &Bytes| {
            decode(backend, newest, bytes).map(|manifest| Head { manifest, crc: envelope::crc_of(bytes) })
        };
        let head = match store.get_checked(&path, retry, read).await {
            Ok(head) => head,
            // The owner has moved on since the listing, and has deleted it.
            Err(StoreError::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        return head.map(Some).map_err(|source| ChainError::Corrupt {
            object: path.to_string(),
            source,
            hint: hint(backend, &numbers),
        });
    }
    Err(ChainError::Contended(backend.clone()))
}

/// Reads the manifest that was listed as the newest under `number`, or a newer one. Cancel-safe.
///
/// # Errors
/// As [`read_head`].
pub async fn read_listed(
    store: &Store,
    backend: BackendId,
    number: u64,
    retry: Retry,
) -> Result<Option<Manifest>, ChainError> {
    let path = manifest_name(&backend, number).path();
    // One request instead of a listing and a read, for the common case that the chain has not moved.
    match store.get(&path, retry).await.map(|bytes| decode(&backend, number, &bytes)) {
        Ok(Ok(manifest)) => Ok(Some(manifest)),
        // Damaged, or deleted since: a new look at the chain tells which.
        Ok(Err(_)) | Err(StoreError::NotFound { .. }) => {
            Ok(read_head(store, &backend, retry).await?.map(|head| head.manifest))
        }
        Err(error) => Err(error.into()),
    }
}

/// The epoch of a newer owner, if another owner has opened the chain since manifest `number`. Cancel-safe.
///
/// # Errors
/// As [`read_head`].
pub async fn overtaken(
    store: &Store,
    manifest: &Manifest,
    number: u64,
    retry: Retry,
) -> Result<Option<Epoch>, ChainError> {
    // A listing costs one request and is enough while nothing has changed; the head is read only if it moved.
    let newest = numbers(store, &manifest.backend, retry).await?.last().copied();
    if newest.is_none_or(|newest| newest <= number) {
        return Ok(None);
    }
    let head = read_head(store, &manifest.backend, retry).await?;
    // A higher number of the same epoch is a manifest of this owner that became durable since.
    Ok(head.map(|head| head.manifest.owner().epoch).filter(|epoch| *epoch != manifest.owner().epoch))
}

/// Makes `manifest` the head. On success it is durable, and was the highest number when it was made. Returns its
/// checksum.
///
/// Not cancel-safe: if dropped, it may or may not have taken effect.
///
/// # Errors
/// [`ChainError::Fenced`] if another owner has its number, or a higher one.
pub async fn append(store: &Store, manifest: &Manifest, retry: Retry) -> Result<u32, ChainError> {
    let (crc, ()) = append_beside(store, manifest, retry, std::future::ready(())).await?;
    Ok(crc)
}

/// Like [`append`], and runs `beside` as soon as the manifest is durable, at the same time as the look for a higher
/// number. After an error, `beside` may or may not have run.
///
/// # Errors
/// [`ChainError::Fenced`] if another owner has its number, or a higher one.
pub async fn append_beside<T>(
    store: &Store,
    manifest: &Manifest,
    retry: Retry,
    beside: impl Future<Output = T>,
) -> Result<(u32, T), ChainError> {
    let backend = &manifest.backend;
    // Encoded once, so that every attempt sends identical bytes.
    let bytes = manifest.encode();
    let crc = envelope::crc_of(&bytes);
    let path = manifest_name(backend, manifest.number).path();
    // Order: 1. the manifest becomes durable. 2. Only then an opener looks for a higher number: if its own number was
    // deleted below a newer head meanwhile, the create succeeds all the same.
    match store.create(&path, PutPayload::from_bytes(bytes), retry).await? {
        // Identical bytes come from an earlier attempt of this request whose answer was lost, or from another sweep
        // that retires the chain in the same way.
        Created::New | Created::Identical => {}
        // The number is taken by other bytes: of another owner, or of a fence. Both end this owner.
        Created::Conflict => return Err(fenced(store, manifest, retry).await?),
    }
    let newest = async {
        match manifest.opens_epoch {
            true => Ok(numbers(store, backend, retry).await?.last().copied()),
            // An owner that goes on needs no look: its number can be taken only by a successor, whose opening manifest
            // is never deleted. An opener's number may have been deleted, since it may be one of the numbers below a
            // newer head.
            false => Ok::<_, ChainError>(None),
        }
    };
    // Both are polled to their ends: `beside` is not dropped halfway if the look fails first.
    let (newest, beside) = futures::future::join(newest, beside).await;
    if let Some(newest) = newest?
        && newest > manifest.number
    {
        return Err(fenced(store, manifest, retry).await?);
    }
    Ok((crc, beside))
}

/// The error for `manifest` that was refused; it names the newest owner.
async fn fenced(store: &Store, manifest: &Manifest, retry: Retry) -> Result<ChainError, ChainError> {
    let backend = manifest.backend.clone();
    // Names the newest owner instead of the one that took the number: a caller that gives up wants to know who has the
    // backend now.
    let by = read_head(store, &backend, retry).await?.map(|head| head.manifest.owner().epoch);
    Ok(ChainError::Fenced { backend, by: by.unwrap_or(manifest.owner().epoch) })
}

/// The numbers of the manifests that an owner at `head` may delete. `from` is the lowest number that it has not
/// deleted, `opened` the number that opened its epoch. Pure.
#[must_use]
pub fn deletable(from: u64, opened: u64, head: u64) -> std::ops::Range<u64> {
    // Never the opening manifest, and never one twice.
    let first = from.max(opened + 1);
    first..(head + 1).saturating_sub(KEPT_MANIFESTS).max(first)
}

/// The object of one manifest.
#[must_use]
pub fn manifest_name(backend: &BackendId, number: u64) -> ObjectName {
    ObjectName::Manifest { backend: backend.clone(), number }
}

/// Whether `object` is manifest `number` of `backend`.
pub(super) fn is_manifest(object: &str, backend: &BackendId, number: Option<u64>) -> bool {
    number.is_some_and(|number| manifest_name(backend, number).path().as_ref() == object)
}

/// Numbers of all manifests of the chain, ascending.
pub(super) async fn numbers(store: &Store, backend: &BackendId, retry: Retry) -> Result<Vec<u64>, StoreError> {
    let objects = store.list(&layout::manifests(backend), retry).await?;
    let number = |name| match name {
        ObjectName::Manifest { number, .. } => Some(number),
        _ => None,
    };
    let mut numbers: Vec<u64> =
        objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)).filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The manifest of one number, decoded or with its fault, and its bytes; `None` if it does not exist.
pub(super) async fn read(
    store: &Store,
    backend: &BackendId,
    number: u64,
    retry: Retry,
) -> Result<Option<(Result<Manifest, EnvelopeError>, Bytes)>, StoreError> {
    let bytes = store.get_optional(&manifest_name(backend, number).path(), retry).await?;
    Ok(bytes.map(|bytes| (decode(backend, number, &bytes), bytes)))
}

fn decode(backend: &BackendId, number: u64, bytes: &Bytes) -> Result<Manifest, EnvelopeError> {
    let manifest = Manifest::decode(bytes)?;
    // The checksum is right, but it is not the object of this name. Somebody has copied or renamed it, and its contents
    // would be taken for the truth of another chain.
    if manifest.number != number || manifest.backend != *backend {
        let what = format!("it is manifest {} of `{}`", manifest.number, manifest.backend);
        return Err(EnvelopeError::Contents(what));
    }
    Ok(manifest)
}

fn hint(backend: &BackendId, numbers: &[u64]) -> String {
    // The advice is not to remove it: a number that is free again would let an older owner publish.
    let back = "; bring it back from a backup, same path, same bytes";
    match numbers.iter().rev().nth(1) {
        Some(before) => format!(
            "{back}; or let `dstl fence {backend}` add a manifest above it that says what manifest {before} says, and tell what is lost"
        ),
        None => format!("{back}; there is no older one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_deletes_neither_its_first_nor_its_newest_manifests() {
        assert!(deletable(0, 5, 6).is_empty());
        assert_eq!(deletable(0, 5, 20), 6..13);
        assert_eq!(deletable(13, 5, 21), 13..14);
        assert!(deletable(14, 5, 21).is_empty());
    }
}
