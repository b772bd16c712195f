//! Tools.

pub mod health;
