//! The gRPC service.

mod authority;
pub mod listener;
mod tls;
