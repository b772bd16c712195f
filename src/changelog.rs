//! The changelog of a backend: every state change, in order, made durable in segments on the object store.
//!
//! ```text
//!  append ─▶ writer: active block ──roll over──▶ change set ─▶ batcher ─▶ uploader ─▶ one segment on the store
//!                                                   │                                    │
//!            pending: who waits for which sqn ◀─────┴──── on_uploaded(segment handle) ◀──┘
//! ```
//!
//! The log does not know the meaning of a change, which is a key group and opaque bytes. It owes its callers three
//! things. Order: change sets of one backend become durable in the order of their sequence numbers, as far as
//! `persisted_to` tells. Integrity: a block whose checksum does not match is never returned. Patience: an upload is
//! tried until it succeeds.
//!
//! [`writer`], [`pending`] and the decisions of [`batcher`] are pure; [`uploader`] and [`reader`] talk to the store.

pub mod batcher;
pub mod block;
pub mod compression;
pub mod metrics;
pub mod pending;
pub mod reader;
pub mod registry;
pub mod segment;
pub mod squash;
pub mod uploader;
pub mod writer;
