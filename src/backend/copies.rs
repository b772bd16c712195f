//! Local copies of what a backend would restore from.

use super::core::Core;
use crate::checkpoint::local;

impl Core {
    /// Says which local copies are of use, if the daemon has any.
    pub(super) fn want_copies(&self) {
        if let Some(copies) = self.env.store.copies() {
            let wanted =
                local::wanted(&self.manifest, &self.ledger, self.snapshots.contents(), self.snapshot_low_water());
            copies.want(&self.id, self.epoch.number, wanted);
        }
    }

    /// Says that this owner has ended.
    pub(super) fn release_copies(&self) {
        if let Some(copies) = self.env.store.copies() {
            copies.release(&self.id, self.epoch.number);
        }
    }
}
