//! Materialization: a snapshot of the inner backend on the store, so that the changelog before it can be truncated.
//!
//! ```text
//!   log      ──────┬──────┬───────┬──────┬─────────────▶
//!   pieces         a      b  (c)  d      e               each copied at its own sqn, between batches; c is unchanged
//!                  │ from                │ complete_at    since the last time and only stamped anew
//! ```
//!
//! The snapshot of a backend in memory is *fuzzy*: the writer goes on while the snapshot is made. A checkpoint at or
//! after `complete_at` consists of the snapshot and the log from `from` on. A replay skips, for each piece, the changes
//! that the piece has already. Pieces that did not change since the last materialization are not uploaded again.
//!
//! A backend on local disk is copied by images instead. Each image has a part of the key groups at one sqn. Only the
//! files that the materialization before does not have are uploaded.
//!
//! [`schedule`] decides when, and [`pace`] how fast (both pure). [`driver`] makes one materialization, of the present
//! contents or of an exact cut: [`pieces`] and [`images`] upload, without the parts that are [`reusable`]; [`target`]
//! names the files and publishes the index.

pub mod driver;
pub mod images;
pub mod pace;
pub mod pieces;
pub mod reusable;
pub mod schedule;
pub mod target;
