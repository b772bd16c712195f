//! The integration tests: one binary, so that everything is linked once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod backend;
mod behaviours;
mod bounded;
mod bounds;
mod claims;
mod config;
mod coordination;
mod damage;
mod demo;
mod deploy;
mod engine;
mod fight;
mod five_failures;
mod gate;
mod gc;
mod liveness;
mod local;
mod local_recovery;
mod lying;
mod materialization;
mod operator_state;
mod outage;
mod permutations;
mod picky;
mod pushback;
mod python;
mod query;
mod rescale;
mod s3;
mod schema;
mod sim;
mod snapshots;
mod support;
mod sweeping;
mod tails;
mod tidy;
mod ttl;
mod typed;
mod vanish;
mod venv;
mod warm;
mod windows;
mod zombie;
