//! One owner of a backend as a value: its changelog writer, its ledger and its newest manifest, and every decision that
//! is made between them. Pure.
//!
//! ```text
//!   batch ─▶ log ─▶ roll over ─▶ uploaded ─▶ listed ──┐
//!   barrier ─▶ cut of the log, or of the state ───────┼─▶ is_due? ─▶ begin ─▶ Publication ─▶ published ─▶ replies
//!   notice ─▶ let go, withdrawn ──────────────────────┤                │ pages, manifest, pages
//!   materialization ─▶ base ──────────────────────────┘                ▼ low waters: names that are ruled out
//! ```
//!
//! An owner decides when a manifest is wanted and its contents ([`publication`](Owner::begin)), which parts a
//! checkpoint waits for and builds on ([`barrier`](Owner::cut_log)), which materialization is its base
//! ([`materialized`](Owner::materialized), [`snapshotted`](Owner::snapshotted)), and which checkpoints a notice
//! withdraws ([`notice`](Owner::notice)). Each decision is returned as data, and the caller carries it out. Time,
//! randomness, registrations, and the numbers that segments and files have reached, are arguments.
//!
//! Three callers run this same code: the daemon (`backend`), the exhaustive exploration (`explore`), which visits every
//! order of events within small bounds, and a random model (`model`) over long runs. [`Rule`] lists the rules of the
//! protocol that are kept here. Tests switch each one off, and the exploration finds out.

mod barrier;
mod notice;
mod publication;
mod rules;
mod snapshot;
mod state;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

pub use self::{
    barrier::{Barrier, RolledOver, Tails},
    publication::{Outside, Publication, Published},
    rules::Rule,
    snapshot::Turn,
    state::{Beginning, Cut, Log, Options, Owner, Uploaded},
};
