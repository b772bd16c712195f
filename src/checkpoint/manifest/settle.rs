//! Makes the beginning of an epoch small. No part of it grows any more, and each manifest of the epoch repeats the
//! parts that stand in it.
//!
//! ```text
//!   opened: runs  ▒▒▒▒▒▒▒▒ ▒▒▒▒▒▒▒▒▒▒▒▒▒   imports ▒▒▒▒▒▒▒   ──▶   runs  ▒▒   imports ▒   past ▫
//!                    └──────────┴─────────────────────┴──── pages ◀──────────────────────┘
//! ```
//!
//! The pages belong to the new epoch, even if they list changes of other chains and epochs, and are durable before the
//! manifest that opens it. Existing pages of others stay where they are.

use uuid::Uuid;

use super::Manifest;
use crate::checkpoint::index::{Bounds, Folding, Home, NewPage, page_id};

/// Bound on the page numbers of those who try to open an epoch. The owner's own pages begin with this number, so that
/// pages that others left in an epoch that they did not get are below its first low water.
const OPENING_PAGES: u64 = 1 << 32;

impl Manifest {
    /// Moves the contents that the epoch of this manifest begins with, and those of older epochs, into pages as far as
    /// they exceed `bounds`. Returns the pages, which must be durable before the manifest. `random` makes UUIDs.
    pub fn settle(&mut self, bounds: &Bounds, mut random: impl FnMut() -> Uuid) -> Vec<NewPage> {
        let present = self.owner().epoch.number;
        let home = self.home();
        let mut next = 0;
        let mut uuid = || {
            next += 1;
            page_id(next - 1, random())
        };
        let mut folding = Folding { bounds, home, uuid: &mut uuid };
        let mut pages = vec![];
        // Ordering: runs are folded before the past that lists them. A stretch in a page of the past contains its run,
        // so a run that is long would otherwise go into the page with all its handles.
        for (_, run) in self.runs.iter_mut().filter(|(epoch, _)| **epoch != present) {
            pages.extend(run.fold(&mut folding));
        }
        let began = &mut self.epochs.last_mut().expect("a manifest is written by an owner").contents;
        pages.extend(folding.fold_past(&mut began.past, &mut began.sources, &self.runs));
        for import in &mut self.imports {
            for run in import.runs.values_mut() {
                pages.extend(run.fold(&mut folding));
            }
            pages.extend(folding.fold_past(&mut import.past, &mut import.sources, &import.runs));
            // Sources that moved into the past took their runs with them.
            import.runs.retain(|epoch, _| import.sources.iter().any(|source| source.epoch == *epoch));
        }
        // Everything below is ruled out but for the pages that this manifest names. So pages of an opener that lost the
        // race for this epoch are garbage at once.
        self.page_low_water = next.max(OPENING_PAGES);
        // Removes the runs of sources that moved into pages.
        self.prune(&[]);
        pages
    }

    /// Moves entries of the present epoch's run beyond `bounds` into pages. Returns the pages, which must be durable
    /// before a manifest that is derived from this one. `next` is the number of the next page, `random` makes UUIDs.
    pub fn fold(&mut self, bounds: &Bounds, next: &mut u64, mut random: impl FnMut() -> Uuid) -> Vec<NewPage> {
        let home = self.home();
        let Some(run) = self.runs.get_mut(&home.epoch) else { return vec![] };
        let mut uuid = || {
            *next += 1;
            page_id(*next - 1, random())
        };
        run.fold(&mut Folding { bounds, home, uuid: &mut uuid })
    }

    fn home(&self) -> Home {
        Home { subtask: self.backend.subtask, epoch: self.owner().epoch.number }
    }
}
