//! The subtask that opens, as its job sees it.

use crate::{
    checkpoint::manifest::Manifest,
    types::{Attempt, BackendId},
};

/// A subtask that opens under an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opener<'a> {
    /// The backend that the subtask opens.
    pub backend: &'a BackendId,
    /// The number of subtasks that its operator has under the attempt.
    pub parallelism: u32,
    /// The attempt that it opens under.
    pub attempt: Attempt,
}

impl Opener<'_> {
    /// Whether it is the only subtask of the job, whose chains have `heads`. Pure.
    pub(super) fn is_alone(&self, heads: &[Manifest]) -> bool {
        let is_only = |head: &Manifest| head.backend == *self.backend && head.shape.parallelism <= 1;
        self.parallelism <= 1 && heads.iter().all(is_only)
    }
}
