//! What a door to the store that reads local copies first had to ask the store for.

use object_store::path::Path;
use parking_lot::Mutex;

/// Tells which reads found no local copy.
#[derive(Debug, Default)]
pub struct Recall(Mutex<(u64, Option<Path>)>);

impl Recall {
    /// How many reads went to the store, and what the first of them read; `None` if none did.
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
