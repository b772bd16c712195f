//! Whether the daemon accepts opens.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

/// The phases of the daemon's life that others can see, in order. A daemon never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadinessState {
    /// Not listening yet.
    Starting,
    /// Accepts opens and serves open backends.
    Ready,
    /// Refuses opens. Open backends continue until they are closed.
    Draining,
}

/// The shared [`ReadinessState`] of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<ReadinessState>>);

impl Readiness {
    /// The readiness of a daemon that is starting.
    #[must_use]
    pub fn starting() -> Self {
        Self(Arc::new(watch::Sender::new(ReadinessState::Starting)))
    }

    /// Moves on to `state`; a state that is earlier than the present one is ignored.
    pub fn advance(&self, state: ReadinessState) {
        self.0.send_if_modified(|now| {
            let advances = *now < state;
            if advances {
                *now = state;
            }
            advances
        });
    }

    /// The present state.
    #[must_use]
    pub fn get(&self) -> ReadinessState {
        *self.0.borrow()
    }

    /// A receiver that sees each change of the state. The sender lives as long as any clone of this handle.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<ReadinessState> {
        self.0.subscribe()
    }
}

impl fmt::Display for ReadinessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::{ReadinessState::*, *};

    #[test]
    fn never_goes_back() {
        let readiness = Readiness::starting();
        let mut follower = readiness.subscribe();
        readiness.advance(Draining);
        readiness.clone().advance(Ready);
        assert_eq!(readiness.get(), Draining);
        assert!(follower.has_changed().unwrap());
        assert_eq!(*follower.borrow_and_update(), Draining);
        readiness.advance(Draining);
        assert!(!follower.has_changed().unwrap());
    }
}
