//! The log that a table appends its changes to.

use crate::{checkpoint::owner, state::Change};

/// Appends the changes of the current batch to the changelog, and counts them.
pub(crate) struct Log<'a> {
    /// The log of the owner.
    pub(crate) log: owner::Log<'a>,
    /// Changes that a restore would replay, if the log left none out that others overwrite.
    pub(crate) log_changes: &'a mut u64,
}

impl Log<'_> {
    /// Appends one change.
    #[inline]
    pub(super) fn append(&mut self, change: &Change<'_>) {
        *self.log_changes += u64::from(!self.log.is_silent());
        self.log.push(change.at.key_group, |buffer| change.encode(buffer));
    }
}
