//! A record of the reads for which no local copy was found, kept by [`Store::recalling`](super::Store::recalling).

use object_store::path::Path;
use parking_lot::Mutex;

/// Number of reads that found no local copy, and the path of the first of them. Shared with the store that fills it.
#[derive(Debug, Default)]
pub struct Recall(Mutex<(u64, Option<Path>)>);

impl Recall {
    /// Number of reads that went to the store, and the path of the first of them. `None` if no read did.
    #[must_use]
    pub fn missing(&self) -> Option<(u64, Path)> {
        let missed = self.0.lock();
        missed.1.clone().map(|first| (missed.0, first))
    }

    pub(super) fn missed(&self, path: &Path) {
        let mut missed = self.0.lock();
        missed.0 += 1;
        missed.1.get_or_insert_with(|| path.clone());
    }
}
