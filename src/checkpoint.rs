//! Checkpoints: the positions that a backend can be restored to, the owner that may publish them, and the deletion of
//! objects that are no longer needed.
//!
//! ```text
//!  barrier ─▶ ledger: triggered ─(log durable up to the cut)─▶ persisted ─▶ manifest N+1 on the store ─▶ published ─▶ reply
//!                                                                                  │
//!                            complete / abort / subsume / discard ─▶ retained … let go, written with the next manifest
//! ```
//!
//! The durable truth of a backend is its **manifest chain** ([`chain`]): numbered objects made by create-if-absent,
//! each derived from the one before. Only the highest counts. Opening a backend adds a manifest with a higher *fencing
//! epoch*. The next manifest of an older owner then meets an existing number; the owner reads the foreign epoch and
//! knows that it is fenced. So a stale owner can publish nothing.
//!
//! A checkpoint is a cut: a base (or the empty state, before the first materialization) and the changelog of an epoch
//! up to a sequence number, preceded by the runs that this epoch itself began with ([`manifest`]). The list of change
//! sets of a run is the **log index** ([`index`]). It stays bounded in the manifest because its older part moves into
//! pages.
//!
//! [`collect`] finds and deletes objects that no newest manifest names and that no writer can still name.
//!
//! An operator may be opened with another number of subtasks: its new backends *import* from the chains of the old ones
//! ([`generation`]).
//!
//! Cloning a job reads chains of another owner. A [`pin`] is the lease that keeps the objects of a clone from being
//! deleted.
//!
//! [`damage`] finds missing and corrupt objects and lists the checkpoints that they spoil. [`mend`] opens a way past a
//! newest manifest that is damaged.
//!
//! [`owner`] joins log, ledger and manifest of one owner, and makes every decision between them.
//!
//! [`local`] decides which objects are worth a copy on local disk.
//!
//! [`owner`], [`ledger`], [`manifest`], [`index`], [`local`] and [`generation`] are pure; [`chain`], [`job`],
//! [`pages`], [`pin`], [`discard`], [`damage`], [`mend`] and [`collect`]'s sweep talk to the store.

pub mod base;
pub mod chain;
pub mod collect;
pub mod damage;
pub mod discard;
pub mod envelope;
pub mod generation;
pub mod handle;
pub mod index;
pub mod job;
pub mod ledger;
pub mod local;
pub mod manifest;
pub mod mend;
pub mod owner;
pub mod pages;
pub mod pin;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod expand;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod explore;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod golden;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod model;
