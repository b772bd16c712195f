//! dstl: a changelog state-backend daemon for stream processors.

pub mod types;

#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod error;
#[cfg(feature = "server")]
pub mod metrics;
pub mod proto;
#[cfg(feature = "server")]
pub mod random;
#[cfg(feature = "server")]
pub mod tasks;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "server")]
pub mod object;
#[cfg(feature = "server")]
pub mod state;

#[cfg(feature = "server")]
pub mod changelog;

#[cfg(feature = "server")]
pub mod checkpoint;

#[cfg(feature = "server")]
pub mod restore;

#[cfg(feature = "server")]
pub mod backend;

#[cfg(feature = "server")]
pub mod admin;
#[cfg(feature = "server")]
pub mod rpc;

#[cfg(feature = "server")]
pub mod config;

#[cfg(feature = "server")]
pub mod daemon;
#[cfg(feature = "server")]
pub mod demo;
#[cfg(feature = "server")]
pub mod tools;

#[cfg(feature = "server")]
pub mod cli;
