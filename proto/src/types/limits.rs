//! The limits on a client's requests.

/// The limits of one daemon, as `Hello` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest gRPC message in bytes, either direction.
    pub max_message_bytes: usize,
    /// Longest key, namespace and map key in bytes.
    pub max_key_bytes: usize,
    /// Longest value, list element or result of a merge in bytes.
    pub max_value_bytes: usize,
    /// Longest attachment of a barrier in bytes.
    pub max_attachment_bytes: usize,
    /// Most operations of one batch.
    pub max_batch_operations: usize,
    /// Most checkpoints of one backend that are triggered and not yet answered.
    pub max_concurrent_checkpoints: usize,
    /// Most checkpoints of one backend that are retained.
    pub max_retained_checkpoints: usize,
    /// Most states of one backend.
    pub max_states: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 4 << 20,
            max_key_bytes: 32 << 10,
            max_value_bytes: 1 << 20,
            max_attachment_bytes: 64 << 10,
            max_batch_operations: 100_000,
            max_concurrent_checkpoints: 64,
            max_retained_checkpoints: 1_000,
            max_states: 10_000,
        }
    }
}
