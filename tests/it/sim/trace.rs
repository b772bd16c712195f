//! What happened, in one number: two runs of one seed must have the same.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The trace of one run. Cheap to clone. `DSTL_SIM_TRACE` prints it.
#[derive(Debug, Clone)]
pub(super) struct Trace(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    hash: DefaultHasher,
    lines: u64,
    prints: bool,
}

impl Trace {
    pub(super) fn new() -> Self {
        let prints = std::env::var_os("DSTL_SIM_TRACE").is_some();
        Self(Arc::new(Mutex::new(Inner { begun: Instant::now(), hash: DefaultHasher::new(), lines: 0, prints })))
    }

    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        let mut inner = self.0.lock();
        let (time, line) = (inner.begun.elapsed(), line());
        (time.as_micros(), &line).hash(&mut inner.hash);
        inner.lines += 1;
        if inner.prints {
            println!("{:>10.3} {line}", time.as_secs_f64() * 1000.0);
        }
    }

    /// A hash over all lines, and their number.
    pub(super) fn sum(&self) -> (u64, u64) {
        let inner = self.0.lock();
        (inner.hash.finish(), inner.lines)
    }
}
