//! Why a checkpoint stays although no retention asks for it.

/// Why an owner holds one of its checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// A savepoint is made of it.
    Savepoint,
    /// It can be read, and so many are reading it.
    Readable(usize),
}
