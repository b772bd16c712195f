//! The wall clock, injected. Delays and deadlines use tokio's clock, which tests pause; this one only says what time it is.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::types::TimeMs;

/// Tells the wall-clock time. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> TimeMs + Send + Sync>);

impl Clock {
    /// The system's clock. A time before 1970 reads as 0.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// A clock that asks `now`.
    #[must_use]
    pub fn new(now: impl Fn() -> TimeMs + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Milliseconds since the Unix epoch. May go back, as wall clocks do.
    #[must_use]
    pub fn now_ms(&self) -> TimeMs {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
