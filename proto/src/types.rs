//! The words of the domain as types: names, key groups, sequence numbers, epochs, checkpoints, state descriptors.
//!
//! Everything here is plain data: no I/O, no clock, no locks. Values are checked when they are made, so their users can
//! rely on them.

mod access;
mod backend;
mod checkpoint;
mod descriptor;
#[cfg(feature = "server")]
pub mod hex;
mod key_group;
mod limits;
mod sequence;
mod sketch;
mod ttl;

pub use self::{
    access::{AllowedJobs, Identity},
    backend::{BackendId, Epoch, InnerBackend, Name, NameError},
    checkpoint::{Attempt, CheckpointId, CheckpointIdentity, Rung},
    descriptor::{
        MergeFunction, Redistribution, Schema, SchemaChange, SchemaMode, Serializer, StateDescriptor, StateId,
        StateKind,
    },
    key_group::{
        HashRange, KEY_GROUP_PARTS, KeyGroup, KeyGroupAssignment, KeyGroupError, KeyGroupRange, MAX_PARALLELISM_LIMIT,
        default_max_parallelism,
    },
    limits::Limits,
    sequence::{Sqn, SqnRange},
    sketch::Sketch,
    ttl::{CompactionCleanup, IncrementalCleanup, Ttl, TtlCleanup, TtlUpdate, TtlVisibility},
};

/// Milliseconds since the Unix epoch.
pub type TimeMs = u64;
