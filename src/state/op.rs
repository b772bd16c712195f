//! Operations on state: what they read, decide and change.
