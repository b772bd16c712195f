//! The gRPC service: the engine contract (`proto/dstl/v1`) over the directory of backends.
//!
//! ```text
//!   listener ─▶ authority ─▶ guard ─▶ tonic ─▶ server ─▶ control: Hello, Open, unary calls ──────┐
//!                                                     ├▶ query: one stream per reader ──────────────┤
//!                                                     └▶ codec ─▶ session: one stream per writer ┴─▶ backend::Directory
//! ```
//!
//! `convert` translates between protobuf and domain types, and `status` alone turns dstl's errors into gRPC statuses. A
//! session is one task: the task reads a request, applies it and answers, without handing it to another task.

mod access;
mod authority;
mod codec;
mod control;
mod convert;
mod guard;
pub mod listener;
mod messages;
mod pages;
mod query;
mod reply;
mod server;
mod session;
#[cfg(any(test, feature = "testing"))]
pub mod stage;
mod status;
mod tls;

pub use self::{control::Service, guard::GuardLayer, server::Routed, status::describe_refusals};
