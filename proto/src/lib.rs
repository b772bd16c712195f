//! The wire types of dstl: the engine contract ([`v1`]), the durable formats that are protobuf ([`store`]), and the
//! words of the domain as checked types ([`types`]). [`wire`] reads batches in place, [`status`] carries errors over
//! gRPC.
//!
//! The daemon and the Rust client share this package. Its feature `server` adds the daemon's half.

pub mod status;
pub mod types;
pub mod wire;

/// The engine contract, `proto/dstl/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("dstl.v1");
}

/// Messages inside durable objects, `proto/dstl/store/v1`.
#[cfg(feature = "server")]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod store {
    tonic::include_proto!("dstl.store.v1");
}

/// The encoded descriptor set of the protocol, for gRPC reflection.
#[cfg(feature = "server")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dstl.bin"));
