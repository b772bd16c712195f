//! The integration tests: one binary, so that everything is linked once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod backend;
mod behaviours;
mod config;
mod demo;
mod deploy;
mod fight;
mod gc;
mod local;
mod materialization;
mod operator_state;
mod picky;
mod pushback;
mod python;
mod rescale;
mod s3;
mod sim;
mod support;
mod sweeping;
mod tidy;
mod vanish;
mod venv;
mod windows;
