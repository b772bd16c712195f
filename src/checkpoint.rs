//! Checkpoints: what a backend can be restored to, who may say so, and what may be deleted.
//!
//! ```text
//!  barrier ─▶ ledger: triggered ─(log durable up to the cut)─▶ persisted ─▶ manifest N+1 on the store ─▶ published ─▶ reply
//!                                                                                  │
//!                            complete / abort / subsume / discard ─▶ retained … let go, written with the next manifest
//! ```
//!
//! The durable truth of a backend is its **manifest chain** ([`chain`]): numbered objects made by create-if-absent,
//! each derived from the one before; only the highest counts. Whoever opens a backend adds a manifest with a higher
//! *fencing epoch*; an older owner's next manifest then meets an existing number, reads the foreign epoch, and knows
//! that it is fenced. So a stale owner can publish nothing.
//!
//! A checkpoint is a cut: a base (none yet: the empty state) and the changelog of an epoch up to a sequence number,
//! after the runs that this epoch itself began with ([`manifest`]). The list of change sets of a run is the **log
//! index** ([`index`]), kept bounded in the manifest by moving its older part into pages.
//!
//! What no head names and nobody can still name is found and deleted by [`collect`].
//!
//! An operator may go on with another number of subtasks: its new backends *import* from the chains of the old ones
//! ([`generation`]).
//!
//! Who reads a chain without owning it, to clone a job, holds a lease on what it reads: a [`pin`].
//!
//! What of it is missing or corrupt, and what that spoils, tells [`damage`]; past a newest manifest that is, leads
//! [`mend`].
//!
//! What of all this is worth a copy on local disk says [`local`].
//!
//! [`ledger`], [`manifest`], [`index`], [`local`] and [`generation`] are pure; [`chain`], [`job`], [`pin`],
//! [`discard`], [`damage`], [`mend`] and [`collect`]'s sweep talk to the store.

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
pub mod pin;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod explore;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod golden;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod model;
