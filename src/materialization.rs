//! Materialization: a snapshot of the inner backend on the store, so that the changelog before it can be truncated.
//!
//! ```text
//!   log      ──────┬──────┬───────┬──────┬─────────────▶
//!   pieces         a      b  (c)  d      e               each copied at its own sqn, between batches; c is unchanged
//!                  │ from                │ complete_at    since the last time and only stamped anew
//! ```
//!
//! The snapshot is *fuzzy*: the writer goes on while it is made. A checkpoint at or after `complete_at` is the snapshot and the log
//! from `from` on, of which a replay skips, per piece, what the piece has already. What did not change since the last
//! materialization is not uploaded again.
//!
//! [`schedule`] decides when (pure); [`writer`] uploads.

pub mod schedule;
pub mod writer;
