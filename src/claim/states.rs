//! The registered states of a backend, and which of their registrations are in force.
//!
//! ```text
//!   register: descriptors, changes ──plan (pure)──▶ new registrations, which are in force now, entries to move
//!                 ▲                                      │ carried out at once, under the core's lock
//!                 └───────── until nothing moves ◀───────┴─▶ mover (batches of the daemon's own)
//! ```
//!
//! A [`Registration`] never changes. If the entries can stay as they are, a changed descriptor is another registration
//! of the same data, which replaces the old one. Any other change is a registration of new data; the old one stays in
//! force beside it until its entries have moved. A checkpoint records which registrations were in force at its cut, so
//! a restore gets back the descriptors of that moment, even in the middle of a move or migration.

mod adopt;
mod check;
mod plan;
mod registered;
#[cfg(test)]
mod tests;

pub use self::registered::RegisteredState;
pub(crate) use self::{
    adopt::{Adopted, adopt},
    check::check,
    plan::{Move, Plan, Rewrite},
    registered::States,
};
