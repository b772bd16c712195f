//! One attempt at each operation of the store: the requests it makes, and whether their answers allow another attempt.

use std::{collections::BTreeSet, future::Future, ops::Range, sync::Arc, time::UNIX_EPOCH};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use object_store::{CopyOptions, Error as StoreFault, GetOptions, PutMode, PutOptions, PutPayload, path::Path};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    AttemptError, Created, ObjectMeta, Operation, Store, StoreError,
    error::Class,
    metered::Outcome,
    retry::{Bound, Failure},
};
use crate::types::TimeMs;

/// Entries per page of a listing, as S3 and GCS give them. Used to count the further requests of a long listing.
const LIST_PAGE: usize = 1000;

/// Weight of one object in a deletion in bulk: a request may take as long as a transfer of this many bytes per object.
const DELETE_WEIGHT_BYTES: u64 = 128 << 10;

impl Store {
    /// Puts the object unless one exists; if one exists, compares their bytes.
    pub(super) async fn create_once(&self, bound: Bound, path: &Path, payload: PutPayload) -> Result<Created, Failure> {
        let location = self.absolute(path);
        let size = length(payload.content_length());
        // Never an overwrite: an object under this name may be named by a manifest already.
        let options = PutOptions::from(PutMode::Create);
        let put = self.0.store.put_opts(&location, payload.clone(), options);
        match self.request(Operation::Create, bound, bound.within(size, put)).await {
            Ok(_) => {
                self.0.metrics.wrote(size);
                Ok(Created::New)
            }
            // "Exists" may be the echo of an earlier attempt whose answer was lost. Only the bytes tell: identical ones
            // are our own, or as good as our own, and others are a conflict.
            Err(AttemptError::Store(error)) if Class::of(&error) == Class::Exists => {
                match self.holds(bound, path, &payload).await {
                    Ok(true) => Ok(Created::Identical),
                    Ok(false) => Ok(Created::Conflict),
                    // A store also answers "exists" (409) while another create is under way.
                    Err(Failure::Final(StoreError::NotFound { .. })) => Err(Failure::Again(AttemptError::Vanished)),
                    Err(failure) => Err(failure),
                }
            }
            // A create misses no object, so a "not found" is about the bucket or a directory.
            Err(AttemptError::Store(error)) if Class::of(&error) == Class::NotFound => {
                Err(Failure::Again(AttemptError::Store(error)))
            }
            Err(error) => Err(failure(Operation::Create, path, error)),
        }
    }

    /// Copies an object within the store; `false` if the store has no such operation.
    pub(super) async fn copy_once(&self, bound: Bound, from: &Path, to: &Path, bytes: u64) -> Result<bool, Failure> {
        let (source, target) = (self.absolute(from), self.absolute(to));
        let copy = self.0.store.copy_opts(&source, &target, CopyOptions::new());
        match self.request(Operation::Copy, bound, bound.within(bytes, copy)).await {
            Ok(()) => Ok(true),
            // No error, since the caller can copy through memory.
            Err(AttemptError::Store(StoreFault::NotImplemented { .. } | StoreFault::NotSupported { .. })) => Ok(false),
            Err(error) => Err(failure(Operation::Copy, from, error)),
        }
    }

    /// Whether the object at `path` has exactly the bytes of `payload`. Reads it only if the sizes are equal.
    async fn holds(&self, bound: Bound, path: &Path, payload: &PutPayload) -> Result<bool, Failure> {
        let meta = self.head_once(bound, path).await?;
        if meta.size != length(payload.content_length()) {
            return Ok(false);
        }
        // Limited to the size that was told, so that no answer takes more memory than the payload.
        let stored = self.get_once(bound, path, meta.size).await?;
        let mut rest = &stored[..];
        let same = payload.iter().all(|chunk| match rest.split_at_checked(chunk.len()) {
            Some((head, tail)) => {
                rest = tail;
                head == chunk
            }
            None => false,
        });
        Ok(same && rest.is_empty())
    }

    /// Reads the whole object, unless it has more than `limit` bytes.
    pub(super) async fn get_once(&self, bound: Bound, path: &Path, limit: u64) -> Result<Bytes, Failure> {
        let location = self.absolute(path);
        let answer = self.request(Operation::Get, bound, async {
            let result = bound.within(0, self.0.store.get_opts(&location, GetOptions::new())).await?;
            let size = result.meta.size;
            // Refused by the size that the answer tells, before its bytes are taken into memory.
            if size > limit {
                return Ok(Err(size));
            }
            whole(bound.within(size, result.bytes()).await?, size).map(Ok)
        });
        let bytes = answer.await.map_err(|error| failure(Operation::Get, path, error))?;
        let bytes = bytes.map_err(|size| Failure::Final(StoreError::TooLarge { path: path.clone(), size }))?;
        self.0.metrics.read(length(bytes.len()));
        Ok(bytes)
    }

    /// Reads a range, which is not empty. Stores answer a range that begins behind the end of the object with various
    /// errors, and cut short a range that ends behind it. Both become [`StoreError::OutOfRange`].
    pub(super) async fn get_range_once(&self, bound: Bound, path: &Path, range: Range<u64>) -> Result<Bytes, Failure> {
        let location = self.absolute(path);
        let expected = range.end.saturating_sub(range.start);
        let options = GetOptions::new().with_range(Some(range.clone()));
        let answer = self.request(Operation::GetRange, bound, async {
            let result = bound.within(0, self.0.store.get_opts(&location, options)).await?;
            whole(bound.within(expected, result.bytes()).await?, expected)
        });
        match answer.await {
            Ok(bytes) => {
                self.0.metrics.read(expected);
                Ok(bytes)
            }
            // Says nothing about the object, so its size is not asked for.
            Err(error @ (AttemptError::Timeout { .. } | AttemptError::Held)) => Err(Failure::Again(error)),
            Err(error) => match self.head_once(bound, path).await {
                // The size decides, and not the error: stores answer a range beyond the end in various ways.
                Ok(meta) if meta.size < range.end => Err(Failure::Final(StoreError::OutOfRange {
                    path: path.clone(),
                    from: range.start,
                    to: range.end,
                    size: meta.size,
                })),
                _ => Err(failure(Operation::GetRange, path, error)),
            },
        }
    }

    /// Asks for the size and time of the object.
    pub(super) async fn head_once(&self, bound: Bound, path: &Path) -> Result<ObjectMeta, Failure> {
        let location = self.absolute(path);
        let options = GetOptions::new().with_head(true);
        let head =
            self.request(Operation::Head, bound, bound.within(0, self.0.store.get_opts(&location, options))).await;
        head.map(|result| self.meta(&result.meta)).map_err(|error| failure(Operation::Head, path, error))
    }

    /// Lists from the beginning. Some stores do not list in order, so a listing that broke off cannot be resumed.
    pub(super) async fn list_once(
        &self,
        bound: Bound,
        prefix: &Path,
        after: Option<&Path>,
    ) -> Result<Vec<ObjectMeta>, Failure> {
        let location = self.absolute(prefix);
        // Begun outside of the bound and the pace; it sends nothing before it is polled.
        let mut listing = match after {
            Some(after) => self.0.store.list_with_offset(Some(&location), &self.absolute(after)),
            None => self.0.store.list(Some(&location)),
        };
        let answer = self.request(Operation::List, bound, async {
            let mut found = Vec::new();
            while let Some(meta) = bound.within(0, async { listing.next().await.transpose() }).await? {
                found.push(self.meta(&meta));
            }
            Ok(found)
        });
        let mut found = answer.await.map_err(|error| match error {
            AttemptError::Store(store) if Class::of(&store) == Class::Unsupported => {
                failure(Operation::List, prefix, AttemptError::Store(store))
            }
            error => Failure::Again(error),
        })?;
        // The pace admitted one request, but each further page was one, too. Later requests wait for them.
        let further_pages = found.len().saturating_sub(1) / LIST_PAGE;
        self.0.pace.charge(u32::try_from(further_pages).unwrap_or(u32::MAX));
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Deletes the objects in `left` (absolute paths), and removes from it those that are gone.
    pub(super) async fn delete_once(&self, bound: Bound, left: &Mutex<BTreeSet<Path>>) -> Result<(), Failure> {
        let wanted: Vec<_> = left.lock().iter().cloned().collect();
        let weight = length(wanted.len()).saturating_mul(DELETE_WEIGHT_BYTES);
        let requests = wanted.len().div_ceil(self.0.deletes_per_request);
        let mut deletions = self.0.store.delete_stream(stream::iter(wanted.into_iter().map(Ok)).boxed());
        // Objects that do not exist are as good as deleted, but their errors do not always name them. So they are
        // counted.
        let mut absent = 0;
        bound.admitted(&self.0.pace, u32::try_from(requests).unwrap_or(u32::MAX)).await.map_err(Failure::Again)?;
        let answer = self.admitted_request(Operation::Delete, async {
            let mut failed = None;
            let drain = async {
                while let Some(deleted) = deletions.next().await {
                    match deleted {
                        Ok(path) => {
                            // Noted at once: if the attempt is cut short, the next one asks only for the rest.
                            left.lock().remove(&path);
                        }
                        Err(error) if Class::of(&error) == Class::NotFound => absent += 1,
                        Err(error) => failed = Some(error),
                    }
                }
                Ok(())
            };
            bound.within(weight, drain).await?;
            failed.map_or(Ok(()), |error| Err(AttemptError::Store(error)))
        });
        answer.await.map_err(|error| match error {
            AttemptError::Store(store) if Class::of(&store) == Class::Unsupported => {
                let path = left.lock().first().map(|path| self.relative(path)).unwrap_or_default();
                failure(Operation::Delete, &path, AttemptError::Store(store))
            }
            error => Failure::Again(error),
        })?;
        // Stores differ in how a "not found" names its object. But if nothing else failed, the objects that were not
        // found account for all that is left.
        let mut left = left.lock();
        if left.len() > absent {
            return Err(Failure::Again(AttemptError::Incomplete { left: left.len() - absent }));
        }
        left.clear();
        Ok(())
    }

    /// Waits until the pace admits one request, then counts and times it.
    async fn request<T>(
        &self,
        operation: Operation,
        bound: Bound,
        request: impl Future<Output = Result<T, AttemptError>>,
    ) -> Result<T, AttemptError> {
        bound.admitted(&self.0.pace, 1).await?;
        self.admitted_request(operation, request).await
    }

    async fn admitted_request<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, AttemptError>>,
    ) -> Result<T, AttemptError> {
        let start = Instant::now();
        let answer = request.await;
        let outcome = answer.as_ref().map_or_else(Outcome::from, |_| Outcome::Ok);
        self.0.metrics.requested(operation, outcome, start.elapsed());
        answer
    }

    fn meta(&self, meta: &object_store::ObjectMeta) -> ObjectMeta {
        let modified = std::time::SystemTime::from(meta.last_modified);
        let modified_ms = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        ObjectMeta {
            path: self.relative(&meta.location),
            size: meta.size,
            modified_ms: TimeMs::try_from(modified_ms).unwrap_or(TimeMs::MAX),
        }
    }
}

/// How an error of an operation on the single object at `path` is handled: final, or worth another attempt.
fn failure(operation: Operation, path: &Path, error: AttemptError) -> Failure {
    // Time-outs, short answers and the like say nothing about the object.
    let AttemptError::Store(error) = error else { return Failure::Again(error) };
    match Class::of(&error) {
        Class::NotFound => Failure::Final(StoreError::NotFound { path: path.clone() }),
        Class::Unsupported => {
            Failure::Final(StoreError::Unsupported { path: path.clone(), operation, source: Arc::new(error) })
        }
        Class::Exists | Class::Retry => Failure::Again(AttemptError::Store(error)),
    }
}

/// Fails if an answer has fewer or more bytes than `expected`.
fn whole(bytes: Bytes, expected: u64) -> Result<Bytes, AttemptError> {
    let got = length(bytes.len());
    if got == expected { Ok(bytes) } else { Err(AttemptError::Short { expected, got }) }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("no host addresses more than 64 bits")
}
