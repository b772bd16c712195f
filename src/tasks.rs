//! Background tasks of one daemon, all ended together: by `abort_all` when it stops, or when a simulation crashes it.

use std::{future::Future, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{AbortHandle, JoinSet},
};

/// Spawns tasks onto the current runtime and ends them together. Cheap to clone; when the last clone is dropped, every
/// task that is still running is aborted.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Runs `task` in the background.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = self.0.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    /// Aborts every task at its next await.
    pub fn abort_all(&self) {
        self.0.lock().abort_all();
    }
}

/// As [`blocking`], of what blocks its thread only if it `may_block`.
pub fn blocking_if<T>(may_block: bool, call: impl FnOnce() -> T) -> T {
    if may_block { blocking(call) } else { call() }
}

/// Calls what may block its thread, for a disk; the other tasks of the thread go on elsewhere meanwhile, if there is an
/// elsewhere.
pub fn blocking<T>(call: impl FnOnce() -> T) -> T {
    let elsewhere = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if elsewhere { tokio::task::block_in_place(call) } else { call() }
}
