//! Bounds on the memory and descriptors that peers can occupy: connections, calls, incomplete messages, answers that
//! wait, and times.
//!
//! | resource | bound | reaction beyond it |
//! | --- | --- | --- |
//! | connections | [`Slots`]: in all and by user, below the limit of descriptors | the oldest connection without a call yet gives way; if there is none, the new one is closed |
//! | handshakes | [`Slots`] of their own | the oldest one ends |
//! | calls | a count, for each connection and in all | the call is refused at once, retryable |
//! | requests: half messages, and their decoded form | [`Pool`] of bytes | the call waits; one that has been stuck for long gives way |
//! | answers: from before they are read until the peer took them | [`Pool`] of bytes | the same |
//! | a peer that sends or takes nothing | [`Times`] | its connection or its call ends |
//!
//! The module owes its callers two things. Peers cannot make the daemon hold more than these bounds. A call that waits
//! for room gets it within the time that the bounds name, even if many peers hold on to theirs.

mod descriptors;
mod pool;
mod slots;

use std::time::Duration;

pub use self::{
    descriptors::{descriptors, raise_descriptors},
    pool::{Pool, Share, TakenBack},
    slots::{Slot, Slots},
};

/// Bounds of the gRPC service; the configuration options of the same names explain each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most connections in all.
    pub connections: usize,
    /// Most connections of one user.
    pub connections_per_uid: usize,
    /// Most TLS handshakes under way.
    pub handshakes: usize,
    /// Most calls on one connection.
    pub streams: u32,
    /// Most calls in all.
    pub calls: usize,
    /// Bytes that one call may send before the daemon reads them.
    pub stream_window_bytes: u32,
    /// Bytes that all calls of one connection may send before the daemon reads them.
    pub connection_window_bytes: u32,
    /// Bytes of requests that are incomplete or being decoded.
    pub request_bytes: u64,
    /// Bytes of answers that peers have not taken yet.
    pub answer_bytes: u64,
    /// How long peers may take.
    pub times: Times,
}

/// How long a peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Time to send the preface of HTTP/2.
    pub preface: Duration,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time until the first call.
    pub first_call: Duration,
    /// Time to send a whole request.
    pub request: Duration,
    /// Longest time without progress for a call whose memory others wait for.
    pub stuck: Duration,
}

/// The share of [`Bounds::calls`] that queries may take, in percent.
pub const QUERY_PERCENT: usize = 75;

/// The share of the limit of descriptors that is left to the store and to RocksDB, in percent.
const RESERVED_PERCENT: u64 = 50;

/// Default number of connections if descriptors allow it, and the memory budgeted for each, including half a header
/// block.
const CONNECTIONS: u64 = 4096;
const CONNECTION_BYTES: u64 = 256 << 10;

/// Smallest and largest length of an HTTP/2 frame. A connection may hold half a frame; the minimum is that of the
/// protocol, and the maximum is enough for full speed.
const FRAME_BYTES: (u32, u32) = (16 << 10, 64 << 10);
const FRAME_PART: u32 = 16;

/// Default memory for requests, and the same for answers; and the divisor of the memory budget that bounds each.
const POOL_BYTES: u64 = 256 << 20;
const POOL_PART: u64 = 16;

/// Each of the two pools holds at least so many messages of the greatest length.
const POOL_MESSAGES: u64 = 2;

/// A stream's window is the memory budget divided by this, within the bounds below. Sessions are not slower with 128
/// KiB.
const WINDOW_PART: u64 = 2048;
const WINDOW_BYTES: (u64, u64) = (64 << 10, 1 << 20);

/// A connection's window is that of so many streams.
const WINDOWS: u64 = 64;

/// Least default number of calls; a larger budget allows as many as have windows within a quarter of it.
const CALLS: u64 = 512;
const CALLS_PART: u64 = 4;

impl Bounds {
    /// Bounds for a daemon with `budget` bytes of memory, messages of up to `message` bytes, and `descriptors` open
    /// files.
    #[must_use]
    pub fn of(budget: u64, message: u64, descriptors: u64) -> Self {
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let pool = (budget / POOL_PART).min(POOL_BYTES).max(POOL_MESSAGES.saturating_mul(message));
        let window = (budget / WINDOW_PART).clamp(WINDOW_BYTES.0, WINDOW_BYTES.1);
        let connections =
            (descriptors - descriptors * RESERVED_PERCENT / 100).min(budget / CONNECTION_BYTES).clamp(1, CONNECTIONS);
        Self {
            connections: count(connections),
            connections_per_uid: count(connections),
            handshakes: 128,
            streams: 256,
            calls: count((budget / CALLS_PART / window).max(CALLS)),
            stream_window_bytes: narrow(window),
            connection_window_bytes: narrow(WINDOWS * window),
            request_bytes: pool,
            answer_bytes: pool,
            times: Times::default(),
        }
    }
}

impl Bounds {
    /// Longest frame of HTTP/2 that a peer may send.
    #[must_use]
    pub fn frame_bytes(&self) -> u32 {
        (self.stream_window_bytes / FRAME_PART).clamp(FRAME_BYTES.0, FRAME_BYTES.1)
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            preface: Duration::from_secs(10),
            handshake: Duration::from_secs(3),
            first_call: Duration::from_secs(30),
            request: Duration::from_secs(30),
            stuck: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_small_daemon_lets_peers_hold_fits_its_budget() {
        for (budget, message, descriptors) in
            [(256 << 20, 4 << 20, 1024), (2 << 30, 4 << 20, 65_536), (64 << 30, 4 << 20, 1 << 20)]
        {
            let bounds = Bounds::of(budget, message, descriptors);
            let windows = bounds.calls as u64 * u64::from(bounds.stream_window_bytes);
            assert!(windows <= budget / 4, "{bounds:?}");
            assert!(bounds.request_bytes + bounds.answer_bytes <= budget / 8, "{bounds:?}");
            assert!(bounds.connections as u64 <= descriptors / 2, "{bounds:?}");
        }
        assert_eq!(Bounds::of(1, 4 << 20, 10).request_bytes, 8 << 20, "two of the longest messages");
    }
}
