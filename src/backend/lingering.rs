//! How long a backend may be without session, and since when it is.

use tokio::time::{Duration, Instant};

/// The time without session of one backend.
#[derive(Debug)]
pub(super) struct Lingering {
    /// How long the backend may be without session; `None` for ever.
    linger: Option<Duration>,
    /// Since when it has no session.
    idle_since: Option<Instant>,
    /// Whether a watcher ends it when that time is over.
    is_watched: bool,
}

impl Lingering {
    /// A backend that has no session since `now`, and may stay for ever.
    pub(super) fn new(now: Instant) -> Self {
        Self { linger: None, idle_since: Some(now), is_watched: false }
    }

    /// Notes that a session began.
    pub(super) fn begin_session(&mut self) {
        self.idle_since = None;
    }

    /// Notes that the session ended at `now`.
    pub(super) fn end_session(&mut self, now: Instant) {
        self.idle_since = Some(now);
    }

    /// Sets how long the backend may be without session, counted from `now`. Returns whether a watcher has to begin.
    pub(super) fn set(&mut self, linger: Option<Duration>, now: Instant) -> bool {
        self.linger = linger;
        self.idle_since = self.idle_since.map(|_| now);
        linger.is_some() && !std::mem::replace(&mut self.is_watched, true)
    }

    /// How long it may be without session; if for ever, its watcher leaves.
    pub(super) fn watched(&mut self) -> Option<Duration> {
        // Noted in the same hold of the lock in which the watcher decides to leave. A linger that is set after that
        // begins another watcher.
        self.is_watched = self.linger.is_some();
        self.linger
    }

    /// Since when it is idle, and until when it may be; `None` if it has a session, or may stay for ever.
    pub(super) fn may_go(&self) -> Option<(Instant, Instant)> {
        self.idle_since.zip(self.linger).map(|(since, linger)| (since, since + linger))
    }
}
