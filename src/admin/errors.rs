//! The newest warnings and errors of the daemon's log, for the status page.

use std::{collections::VecDeque, fmt, sync::Arc};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use crate::{clock::Clock, types::TimeMs};

/// Most events that are kept.
const KEPT: usize = 32;

/// Longest text of an event in characters; the rest is cut off.
const TEXT: usize = 600;

/// A warning or an error of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// When it was logged.
    pub at: TimeMs,
    /// The module that logged it.
    pub target: &'static str,
    /// Its message and fields.
    pub text: String,
}

/// The newest complaints. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Complaints {
    clock: Clock,
    kept: Arc<Mutex<VecDeque<Complaint>>>,
}

impl Complaints {
    /// Keeps the complaints of the log that it becomes a layer of, with the times of `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, kept: Arc::default() }
    }

    /// The complaints, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Complaint> {
        self.kept.lock().iter().cloned().collect()
    }
}

impl<S: Subscriber> Layer<S> for Complaints {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        // Ordering: the text is made before the lock is taken. A field's `Debug` is foreign code, and may log something
        // itself.
        let complaint = Complaint { at: self.clock.now_ms(), target: event.metadata().target(), text: text.joined() };
        let mut kept = self.kept.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(complaint);
    }
}

/// The message of an event, and its other fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn joined(self) -> String {
        let whole = if self.fields.is_empty() { self.message } else { format!("{} ({})", self.message, self.fields) };
        match whole.char_indices().nth(TEXT) {
            Some((at, _)) => format!("{}…", whole.get(..at).unwrap_or_default()),
            None => whole,
        }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let between = if self.fields.is_empty() { "" } else { ", " };
            self.fields.push_str(&format!("{between}{}: {value:?}", field.name()));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn warnings_and_errors_are_kept_with_their_fields() {
        let complaints = Complaints::new(Clock::new(|| 7));
        let subscriber = tracing_subscriber::registry().with(complaints.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("all is well");
            tracing::warn!(backend = %"a/b/0", "refused");
            (0..KEPT).for_each(|_| tracing::error!("{}", "x".repeat(10_000)));
            tracing::warn!(last = 1, "done");
        });
        let kept = complaints.list();
        assert_eq!((kept.len(), kept[KEPT - 1].at), (KEPT, 7));
        assert_eq!(kept[KEPT - 1].text, "done (last: 1)");
        assert_eq!(kept[0].text.chars().count(), TEXT + 1);
    }
}
