//! The sizes of states and their parts.

/// The size of a state, or of a part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Number of values, map entries or list elements.
    pub(super) entries: u64,
    /// Bytes of memory.
    pub(super) bytes: u64,
}

impl Usage {
    /// Replaces the size of a part, `before`, by `after`.
    #[inline]
    pub(super) fn replace(&mut self, before: Self, after: Self) {
        self.entries = self.entries - before.entries + after.entries;
        self.bytes = self.bytes - before.bytes + after.bytes;
    }

    /// Replaces the bytes of a part, `before`, by `after`.
    pub(super) fn replace_bytes(&mut self, before: u64, after: u64) {
        self.bytes = self.bytes - before + after;
    }
}

/// The size of a state, and the stamp that its changes get.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) usage: Usage,
    /// The stamp of the next change.
    pub(super) stamp: u64,
}
