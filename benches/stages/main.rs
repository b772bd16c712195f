//! Stages: how long each step of a write and of a restore takes by itself, on the code that the daemon runs, so that a
//! regression has an address.
//!
//! ```text
//!   cargo bench --bench stages --features testing -- [FILTER]
//!
//!   message ─decode─▶ operations ─check─▶ key groups ─apply─▶ changes ─append─▶ change set ─seal─▶ segment ─upload─▶
//!                                            inner backend ◀──replay────────────────────────────────────────── store
//! ```
//!
//! The ids have the parameters. Each stage but `seal` and `upload`, which tell bytes, tells operations a second.

#![allow(clippy::disallowed_methods)]

mod daemon;
mod data;
mod log;
mod restore;
mod write;

use criterion::Criterion;

/// Any error of the preparations.
type Fault = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Fault> {
    let mut criterion = Criterion::default().configure_from_args();
    write::decode(&mut criterion)?;
    write::check(&mut criterion)?;
    write::apply(&mut criterion)?;
    log::append(&mut criterion)?;
    log::seal(&mut criterion)?;
    log::upload(&mut criterion)?;
    restore::replay(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
