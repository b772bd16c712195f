//! What an epoch begins with, made small: none of it grows any more, and each manifest of the epoch repeats what stands
//! in it.
//!
//! ```text
//!   opened: runs  ▒▒▒▒▒▒▒▒ ▒▒▒▒▒▒▒▒▒▒▒▒▒   imports ▒▒▒▒▒▒▒   ──▶   runs  ▒▒   imports ▒   past ▫
//!                    └──────────┴─────────────────────┴──── pages ◀──────────────────────┘
//! ```
//!
//! The pages are of the new epoch, whatever chain and epoch what they list is of, and durable before the manifest that
//! opens it. Pages that others have written stay where they are.

use uuid::Uuid;

use super::Manifest;
use crate::checkpoint::index::{Bounds, Home, NewPage, fold_past, page_id};

/// Numbers of pages that those who try to open an epoch write, at most. The owner begins with this one, so that what
/// others left of an epoch that they did not get is below its first low water.
const OPENING_PAGES: u64 = 1 << 32;

impl Manifest {
    /// Moves what the epoch that this manifest opens begins with, and what else there is of older ones, into pages as
    /// far as it is beyond `bounds`. Returns them: they are to be made durable before the manifest is. `random` gives
    /// UUIDs.
    pub fn settle(&mut self, bounds: &Bounds, mut random: impl FnMut() -> Uuid) -> Vec<NewPage> {
        let present = self.owner().epoch.number;
        let home = self.home();
        let mut next = 0;
        let uuid = &mut || {
            next += 1;
            page_id(next - 1, random())
        };
        let mut pages = vec![];
        for (_, run) in self.runs.iter_mut().filter(|(epoch, _)| **epoch != present) {
            pages.extend(run.fold(bounds, home, uuid));
        }
        let began = &mut self.epochs.last_mut().expect("a manifest is written by an owner").contents;
        pages.extend(fold_past((&mut began.past, &mut began.sources), &self.runs, bounds, home, uuid));
        for import in &mut self.imports {
            for run in import.runs.values_mut() {
                pages.extend(run.fold(bounds, home, uuid));
            }
            pages.extend(fold_past((&mut import.past, &mut import.sources), &import.runs, bounds, home, uuid));
            import.runs.retain(|epoch, _| import.sources.iter().any(|source| source.epoch == *epoch));
        }
        self.page_low_water = next.max(OPENING_PAGES);
        self.prune(&[]);
        pages
    }

    /// Moves what the run of the present epoch has beyond `bounds` into pages. Returns them: they are to be made
    /// durable before a manifest that is derived from this one is. `next` is the number of the next page, `random`
    /// gives UUIDs.
    pub fn fold(&mut self, bounds: &Bounds, next: &mut u64, mut random: impl FnMut() -> Uuid) -> Vec<NewPage> {
        let home = self.home();
        let Some(run) = self.runs.get_mut(&home.epoch) else { return vec![] };
        run.fold(bounds, home, &mut || {
            *next += 1;
            page_id(*next - 1, random())
        })
    }

    fn home(&self) -> Home {
        Home { subtask: self.backend.subtask, epoch: self.owner().epoch.number }
    }
}
