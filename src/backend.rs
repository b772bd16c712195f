//! The changelog backend: an inner state backend and its changelog, with one owner.
//!
//! ```text
//!   Directory: which backends this daemon has ──open──▶ validate ─▶ fence ─▶ restore ─▶ Backend
//!
//!   Backend (cheap to clone) ──lock──▶ Core: inner backend, changelog writer, ledger, log index, batch numbers, credit
//!                                        ▲              │ change sets
//!   Session ─ batches, barriers ─────────┤              ▼
//!           ◀ Outbox: what it is owed ───┤           Uploads (shared by the backends of one job)
//!                                        │              │ segment handles
//!   Query ─ batches of reads ────────────┤              │
//!   worker: publishes manifests ─────────┴──────────────┘
//! ```
//!
//! One write: the core checks the whole batch (shape, ids, sizes: never state) and reads the clock once. Each operation
//! decides its changes against the inner backend, which applies them, and the same bytes go into the writer's active
//! block. Then the batch is *applied*. Rolled-over change sets become *persisted* when their segment is on the store. A
//! checkpoint whose cut is persisted is published in the next manifest and then answered. A completion notice makes it
//! *confirmed*.
//!
//! A backend opened without changelog appends nothing: each of its checkpoints is a snapshot at its barrier, which
//! makes the batches before it persisted (`snapshotting`).
//!
//! The core is synchronous. Its lock is held for microseconds if state is in memory, otherwise as long as the disk
//! takes. In that case a thread hands its other tasks away before it waits for the lock. Every call names its epoch,
//! which is checked under the lock: a fenced owner changes nothing.

mod apply;
mod checkpointing;
mod cleanup;
mod coordination;
mod copies;
mod core;
mod credit;
mod directory;
mod discard;
mod environment;
mod error;
mod glance;
mod handle;
mod held;
mod hold;
mod job;
mod journal;
mod lane;
mod linger;
mod marks;
mod materialize;
mod metrics;
mod migrate;
mod open;
mod operator;
mod outbox;
mod owed;
mod proof;
mod pushback;
mod query;
mod reading;
mod savepoint;
mod session;
mod slices;
mod snapshotting;
#[cfg(test)]
#[allow(clippy::panic, clippy::indexing_slicing)]
mod testing;
mod turns;
mod worker;

pub use self::{
    apply::{BatchResult, Operation, hash_key_group},
    checkpointing::{BarrierRequest, CompletedCheckpoint},
    coordination::Coordinators,
    core::{Acknowledgement, Description, StateSummary},
    credit::CreditPool,
    directory::Directory,
    environment::{BackendOptions, Environment},
    glance::{Glance, Phase},
    handle::Backend,
    job::JobDescription,
    journal::{Journal, Mishap, Outcome, Phases, Proof},
    linger::Idle,
    metrics::{BackendMetrics, Work},
    open::Opened,
    outbox::{SavepointMade, SessionEvent},
    proof::{ProofMetrics, Prover},
    query::{Query, QueryAnswers, QueryStarted, View},
    session::{Refusal, Session},
    turns::Turns,
};
pub use crate::claim::{
    claiming::ClaimMode,
    part::RestoredPart,
    spec::{OpenSpec, RestoreFrom},
    states::RegisteredState,
};
