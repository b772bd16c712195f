//! Lanes let callers through one at a time, in the order in which they came.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Lets one through at a time, first come, first served.
#[derive(Debug)]
pub(super) struct Lane(Semaphore);

/// The way through a lane; free again when it is dropped.
pub(super) type Turn<'a> = SemaphorePermit<'a>;

impl Default for Lane {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Lane {
    /// Waits for its turn; if the lane is free, it does not wait. Cancel-safe: if dropped, the caller leaves the queue.
    pub(super) async fn enter(&self) -> Turn<'_> {
        // This overtakes nobody: while callers wait, a permit that is given back goes to the first of them directly.
        match self.0.try_acquire() {
            Ok(turn) => turn,
            Err(_taken) => self.0.acquire().await.expect("a lane is never closed"),
        }
    }
}
