//! Reads whose bytes are checked. An object is damaged only if a second read, past local copies, says so too.
//!
//! One answer may be wrong although the object is whole: a bit flipped on the way, an error document came with a status
//! of success, a cache stood in between, or a listing was ahead of reads. So bytes that the check refuses, and an
//! object that is missing, are asked for once more.

use std::{fmt::Display, ops::Range};

use bytes::Bytes;

use super::{Path, Retry, Store, StoreError};

impl Store {
    /// Reads the object at `path` and returns the result of `check`. If `check` refuses the bytes, or if there is no
    /// object, returns the result of a second read.
    ///
    /// # Errors
    /// As [`Store::get`]. The inner error is the answer of `check` to the second read.
    pub async fn get_checked<T, E: Display>(
        &self,
        path: &Path,
        retry: Retry,
        check: impl Fn(&Bytes) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        match self.get(path, retry).await.map(|bytes| check(&bytes)) {
            Ok(Ok(checked)) => return Ok(Ok(checked)),
            Ok(Err(error)) => doubt(path, &error),
            Err(error) if is_verdict(&error) => doubt(path, &error),
            Err(error) => return Err(error),
        }
        // Past the local copies: a damaged copy would confirm itself.
        Ok(check(&self.past_copies(path).get(path, retry).await?))
    }

    /// Like [`Store::get_checked`], for bytes `range.start` to `range.end` (exclusive) of the object at `path`.
    ///
    /// # Errors
    /// As [`Store::get_range`]. The inner error is the answer of `check` to the second read.
    pub async fn get_range_checked<T, E: Display>(
        &self,
        path: &Path,
        range: Range<u64>,
        retry: Retry,
        check: impl Fn(&Bytes) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        match self.get_range(path, range.clone(), retry).await.map(|bytes| check(&bytes)) {
            Ok(Ok(checked)) => return Ok(Ok(checked)),
            Ok(Err(error)) => doubt(path, &error),
            Err(error) if is_verdict(&error) => doubt(path, &error),
            Err(error) => return Err(error),
        }
        Ok(check(&self.past_copies(path).get_range(path, range, retry).await?))
    }

    /// The same store without local copies, for a read of `path`. The read counts as missed by the
    /// [`Recall`](super::Recall), if there is one.
    pub fn past_copies(&self, path: &Path) -> Self {
        if let Some(recall) = &self.2 {
            recall.missed(path);
        }
        // Without the recall, too, which has counted the read already.
        Self(self.0.clone(), None, None)
    }
}

/// Whether an error is about the object rather than about the store.
fn is_verdict(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. } | StoreError::OutOfRange { .. })
}

fn doubt(path: &Path, error: &impl Display) {
    tracing::debug!(%path, %error, "reading again what was refused");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::{
        clock::Clock,
        metrics::Metrics,
        object::{MemoryStore, PutPayload, RetryOptions},
        random::Random,
    };

    #[tokio::test]
    async fn what_is_refused_is_read_once_more() {
        let memory = Arc::new(MemoryStore::new(Clock::new(|| 5)));
        let store = Store::new(memory, Path::default(), RetryOptions::default(), &Metrics::new(), Random::seeded(1));
        let (path, retry) = (Path::from("a"), Retry::none());
        let calls = AtomicU32::new(0);
        let wrong_until = |good: u32| {
            calls.store(0, Ordering::Relaxed);
            let calls = &calls;
            move |bytes: &Bytes| match calls.fetch_add(1, Ordering::Relaxed) {
                call if call < good => Err("wrong"),
                _ => Ok(bytes.len()),
            }
        };
        assert!(matches!(store.get_checked(&path, retry, wrong_until(0)).await, Err(StoreError::NotFound { .. })));
        store.create(&path, PutPayload::from_static(b"abc"), retry).await.unwrap();
        for (good, outcome) in [(0, Ok(3)), (1, Ok(3)), (2, Err("wrong"))] {
            assert_eq!(store.get_checked(&path, retry, wrong_until(good)).await.unwrap(), outcome);
        }
        for (good, outcome) in [(0, Ok(2)), (1, Ok(2)), (2, Err("wrong"))] {
            assert_eq!(store.get_range_checked(&path, 1..3, retry, wrong_until(good)).await.unwrap(), outcome);
        }
        let beyond = store.get_range_checked(&path, 1..9, retry, wrong_until(0)).await;
        assert!(matches!(beyond, Err(StoreError::OutOfRange { .. })));
    }
}
