//! dstl: a changelog state-backend daemon for stream processors.
//!
//! A daemon runs beside a task process, keeps the task's keyed state in an inner backend and makes every change durable
//! in a changelog on an object store. A checkpoint is a position in that log. It takes as long as the changes since the
//! last checkpoint, not as long as the state is large. Recovery replays the log.
//!
//! A task in Rust depends on the package `dstl-client` ([`client`]) alone; `examples/` has whole tasks. Other languages
//! speak the protocol in `proto/dstl/v1` ([`proto`]).
//!
//! # One write, end to end
//!
//! 1. A batch arrives on a session stream ([`rpc`]). Its bytes are viewed as operations, not copied.
//! 2. The session spends the credit that was granted for it and checks its number ([`backend`]). Under the backend's
//!    lock the whole batch is checked: ids, kinds, key groups, sizes. A fault rejects it whole and halts the session.
//! 3. Each operation decides its changes against the inner backend ([`state`]). A change is absolute and touches one
//!    entry, so it can be replayed without user code. The inner backend applies each change, and its bytes go into the
//!    active block of the writer ([`changelog`]). The batch is now **applied**: it has a batch number and, if it
//!    changed anything, a sequence number.
//! 4. When the block is large enough, or a barrier or persist request comes, it is rolled over into a change set. The
//!    change sets of all backends of one job share a segment: one object, created if absent, retried until it is
//!    durable ([`object`]). The batch is now **persisted**; its memory is free and credit is granted again.
//! 5. A barrier cuts the log after some batch. Once everything below the cut is durable, the next manifest of the
//!    backend's chain names the checkpoint ([`checkpoint`]). When the manifest is durable, the engine gets the handle.
//! 6. The engine says that the checkpoint completed for the whole job. The batch is now **confirmed**, and retention
//!    lets older checkpoints go.
//!
//! A later owner, on this daemon or another, adds a manifest with a higher fencing epoch, reads the log up to the cut
//! and replays it ([`restore`]). The older owner's next manifest meets that number and knows that it is fenced.
//!
//! # Layers
//!
//! A module imports only from rows above its own; two modules of one row do not know each other (`tests/it/tidy.rs`
//! checks it).
//!
//! | row | modules | |
//! | --- | --- | --- |
//! | 0 | [`types`] | the words of the domain (package `dstl-proto`) |
//! | 1 | `error` [`proto`] `clock` `random` `tasks` `metrics` `setting` | wire types (package `dstl-proto`); the injected tools of every part; declarations of options |
//! | 2 | [`limits`] | bounds on the memory that peers can occupy |
//! | 3 | [`state`] [`object`] | inner backends; the object store |
//! | 4 | [`changelog`] [`savepoint`] | the log, which does not know the meaning of a change; state as rows in files |
//! | 5 | [`checkpoint`] | manifests, ledger, job view, collection |
//! | 6 | [`materialization`] [`restore`] | snapshots, so that the log can be truncated; load and replay |
//! | 7 | [`export`] | savepoints made of checkpoints on the store |
//! | 8 | `claim` | an opener becomes the owner of a chain, and gets the state that it begins with |
//! | 9 | [`backend`] | a backend as a whole: inner backend, changelog and checkpoints under one owner |
//! | 10 | [`rpc`] [`admin`] | gRPC; metrics and health |
//! | 11 | [`config`] | |
//! | 12 | [`daemon`] [`tools`] | |
//! | 13 | [`cli`], `main` | |
//!
//! Decisions are pure functions of observed facts that return data: `changelog::{writer, pending, batcher}`,
//! `checkpoint::{owner, ledger, manifest, index, local, generation}` and `checkpoint::collect::judge`. Clock,
//! randomness and background tasks are passed in, so a simulation drives the same code that the daemon runs.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub use dstl_client as client;
pub use dstl_proto::{self as proto, types};

pub mod clock;
pub mod error;
pub mod metrics;
pub mod random;
mod setting;
pub mod tasks;

pub mod limits;

pub mod object;
pub mod state;

pub mod changelog;
pub mod savepoint;

pub mod checkpoint;

pub mod materialization;
pub mod restore;

pub mod export;

mod claim;

pub mod backend;

pub mod admin;
pub mod rpc;

pub mod config;

pub mod daemon;
pub mod tools;

pub mod cli;

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
