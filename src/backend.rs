//! The changelog backend: an inner state backend and its changelog, with one owner.
//!
//! ```text
//!   Directory: the backends of this daemon ──open──▶ validate ─▶ fence ─▶ restore ─▶ Backend
//!
//!   Backend (cheap to clone) ──lock──▶ Core: Owner (log, manifests), Table (contents), Seat (numbers, credit), …
//!                                        ▲              │ change sets
//!   Session ─ batches, barriers ─────────┤              ▼
//!           ◀ Outbox: answers to send ───┤           Uploads (shared by the backends of one job)
//!                                        │              │ segment handles
//!   Query ─ batches of reads ────────────┤              │
//!   workers: manifests, snapshots, … ────┴──────────────┘
//! ```
//!
//! One write: the core checks the whole batch (shape, ids, sizes: never state) and reads the clock once. Each operation
//! decides its changes against the inner backend, which applies them, and the same bytes go into the writer's active
//! block. Then the batch is *applied*. Rolled-over change sets become *persisted* when their segment is on the store. A
//! checkpoint whose cut is persisted is published in the next manifest and then answered. A completion notice makes it
//! *confirmed*.
//!
//! A backend opened without changelog appends nothing: each of its checkpoints is a snapshot at its barrier, which
//! makes the batches before it persisted (`worker::snapshot`).
//!
//! The core is synchronous, and composed of parts that do not know each other (`core`). Its lock is held for
//! microseconds if state is in memory, otherwise as long as the disk takes. In that case a thread hands its other tasks
//! away before it waits for the lock (`shared`). Every call names its epoch, which is checked under the lock: a fenced
//! owner changes nothing.
//!
//! # Where decisions are made
//!
//! | question | file |
//! | --- | --- |
//! | which calls are answered | `condition` |
//! | whether a batch is next, repeated or out of order; halts; credit | `seat` |
//! | which operations are well-formed, and their key groups | `table/check` |
//! | the changes of an operation | `table/execute`, and [`crate::state`] below it |
//! | which descriptors go together, and which entries move | `table/register`, `table/moving` |
//! | which earlier moments can be read or gone back to | `table/marking` |
//! | where a barrier cuts, and which checkpoints give way to it | `barrier` |
//! | when a manifest is wanted, and its contents | [`crate::checkpoint::owner`]; the calls that it answers: `publication` |
//! | checkpoints that a notice fails, completes or releases | `notice` |
//! | the pieces that a materialization copies or reuses | `worker/materialize`, `worker/snapshot`, `bases` |
//! | when the writer waits for a materialization | `bases/pushback` |
//! | which parts of a declared job are reported | `coordinated` |
//! | which backend ends when memory runs short | `idle`, `worker/linger` |
//! | who becomes owner, and with which state | `crate::claim`, then `open` |
//!
//! Imports point down this list: `directory` and its extensions, `open`, `session` and `query`, `handle`, `worker`,
//! `shared`, the decisions of several parts (`apply`, `barrier`, `notice`, `publication`), `core`, the parts, `words`.

mod apply;
mod barrier;
mod bases;
mod condition;
mod coordinated;
mod core;
mod credit;
mod directory;
mod discard;
mod environment;
mod error;
mod glance;
mod handle;
mod holds;
mod idle;
mod job;
mod journal;
mod kept;
mod lane;
mod lingering;
mod metrics;
mod notice;
mod open;
mod options;
mod outbox;
mod outline;
mod proof;
mod publication;
mod query;
mod reading;
mod registration;
mod savepoint;
mod seat;
mod session;
mod shared;
mod signals;
mod table;
mod turns;
mod uploading;
mod waiters;
mod words;
mod worker;

pub use self::{
    credit::CreditPool,
    directory::Directory,
    environment::Environment,
    glance::{Glance, Phase},
    handle::Backend,
    idle::Idle,
    job::JobDescription,
    journal::{Journal, Mishap, Outcome, Phases, Proof},
    metrics::{BackendMetrics, Work},
    open::Opened,
    options::BackendOptions,
    outbox::SessionEvent,
    proof::{ProofMetrics, Prover},
    query::{Query, QueryAnswers, QueryStarted, View},
    session::Session,
    table::check::hash_key_group,
    turns::Turns,
    words::{
        Acknowledgement, BarrierRequest, BatchResult, CompletedCheckpoint, Description, Operation, Refusal,
        SavepointMade, StateSummary,
    },
};
pub use crate::claim::{
    claiming::ClaimMode,
    part::RestoredPart,
    spec::{OpenSpec, RestoreFrom},
    states::RegisteredState,
};

#[cfg(test)]
#[allow(clippy::panic, clippy::indexing_slicing)]
mod testing;
