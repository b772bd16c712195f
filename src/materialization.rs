//! Materialization: a snapshot of the inner backend on the store, so that the changelog before it can be truncated.
//!
//! ```text
//!   log      ──────┬──────┬───────┬──────┬─────────────▶
//!   pieces         a      b  (c)  d      e               each copied at its own sqn, between batches; c is unchanged
//!                  │ from                │ complete_at    since the last time and only stamped anew
//! ```
//!
//! The snapshot of a backend in memory is *fuzzy*: the writer goes on while it is made. A checkpoint at or after
//! `complete_at` is the snapshot and the log from `from` on, of which a replay skips, per piece, what the piece has
//! already. What did not change since the last materialization is not uploaded again.
//!
//! A backend on local disk is copied by images instead, each of a part of its key groups at one sqn; only the files
//! that the materialization before does not have are uploaded.
//!
//! [`schedule`] decides when (pure); [`pieces`] and [`images`] upload; [`target`] says where to.

pub mod images;
pub mod pieces;
pub mod schedule;
pub mod target;
