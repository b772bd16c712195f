//! Whether the daemon's runtime still runs its tasks.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// How often the heart beats.
const INTERVAL: Duration = Duration::from_millis(100);

/// When the runtime last ran the task of the heartbeat. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Heartbeat(Arc<Mutex<Instant>>);

impl Heartbeat {
    /// A heart that has just beaten.
    #[must_use]
    pub fn starting() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Beats as long as the runtime that it is spawned on runs its tasks.
    pub async fn beat(self) {
        loop {
            *self.0.lock() = Instant::now();
            sleep(INTERVAL).await;
        }
    }

    /// The time since the last beat.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.0.lock().elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_beats_as_long_as_its_runtime_turns() {
        let heartbeat = Heartbeat::starting();
        sleep(Duration::from_secs(11)).await;
        assert!(heartbeat.pause() >= Duration::from_secs(11));
        tokio::spawn(heartbeat.clone().beat());
        sleep(Duration::from_secs(1)).await;
        assert!(heartbeat.pause() <= INTERVAL);
    }
}
