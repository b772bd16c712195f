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
use crate::setting::{Kind, options};

options! {
    /// Bounds of the gRPC service, for a daemon with `budget` bytes of memory, messages of up to `message` bytes, and
    /// `descriptors` open files.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Bounds given (budget: u64, message: u64, descriptors: u64) {
        /// Most connections. At this number one that has not called yet gives way to the next, the oldest first; where
        /// all have called, the next is closed.
        pub connections: usize = computed(
            "rpc.max-connections", Limits 1, Kind::COUNT,
            "half of the open files that this process may have, one for each 256 KiB of memory.budget, at most 4096",
            "512",
        ) else { usual_connections(budget, descriptors) };
        /// Most connections of the processes of one user, over the socket.
        pub connections_per_uid: usize = computed(
            "rpc.max-connections-per-uid", Limits 2, Kind::COUNT,
            "as rpc.max-connections",
            "512",
        ) else { connections };
        /// Most TLS handshakes at a time; beyond it the oldest ends.
        pub handshakes: usize = option("rpc.max-handshakes", Limits 3, Kind::COUNT, "128");
        /// Most calls at a time on one connection; a client queues the others.
        pub streams: u32 = option("rpc.max-streams", Limits 4, Kind::COUNT, "256");
        /// Most calls at a time; three quarters of them may be queries. Beyond it calls are refused with
        /// REASON_TOO_MANY_CALLS.
        pub calls: usize = computed(
            "rpc.max-calls", Limits 5, Kind::COUNT,
            "512, or as many as a quarter of memory.budget has windows for, whichever is more",
            "1638",
        ) else { usual_calls(budget) };
        /// Bytes that one call may send before the daemon reads them.
        pub stream_window_bytes: u32 = plain(narrow(window(budget)));
        /// Bytes that all calls of one connection may send before the daemon reads them.
        pub connection_window_bytes: u32 = plain(narrow(WINDOWS * window(budget)));
        /// Budget of requests that are not whole or being worked on, those of sessions not counted. Beyond it calls
        /// wait.
        pub request_bytes: u64 = computed(
            "rpc.request-memory", Limits 6, Kind::at_least(1 << 20),
            "a sixteenth of memory.budget, at most 256 MiB, but enough for two of the longest messages",
            "256 MiB",
        ) else { usual_pool(budget, message) };
        /// Budget of answers, from before they are read until their clients took them. Beyond it reads wait; each
        /// session has one answer of its own beside it.
        pub answer_bytes: u64 = computed(
            "rpc.answer-memory", Limits 7, Kind::at_least(1 << 20),
            "as rpc.request-memory",
            "256 MiB",
        ) else { request_bytes };
        /// How long peers may take.
        pub times: Times = group();
    }
}

options! {
    /// How long a peer may take.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Times {
        /// A connection that does not begin to speak HTTP/2 for so long is closed.
        pub preface: Duration = option("rpc.preface-timeout", Limits 8, Kind::AT_LEAST_1_MS, "10 s");
        /// A TLS handshake that takes longer ends.
        pub handshake: Duration = option("rpc.handshake-timeout", Limits 9, Kind::AT_LEAST_1_MS, "3 s");
        /// A connection without a call for so long after it began is closed. Later ones are kept as long as their
        /// client answers pings.
        pub first_call: Duration = option("rpc.first-call-timeout", Limits 10, Kind::AT_LEAST_1_MS, "30 s");
        /// A call whose request is not whole after so long ends; a session's later ones excepted.
        pub request: Duration = option("rpc.request-timeout", Limits 11, Kind::AT_LEAST_1_MS, "30 s");
        /// A call whose client sent and took nothing for so long ends when others need the memory that it holds; a
        /// session's excepted.
        pub stuck: Duration = option("rpc.stuck-timeout", Limits 12, Kind::AT_LEAST_1_MS, "5 s");
    }
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
    /// The defaults of a daemon with `budget` bytes of memory, messages of up to `message` bytes, and so many open
    /// files.
    #[must_use]
    pub fn of(budget: u64, message: u64, descriptors: u64) -> Self {
        Self::usual(budget, message, descriptors)
    }

    /// Longest frame of HTTP/2 that a peer may send.
    #[must_use]
    pub fn frame_bytes(&self) -> u32 {
        (self.stream_window_bytes / FRAME_PART).clamp(FRAME_BYTES.0, FRAME_BYTES.1)
    }
}

fn usual_connections(budget: u64, descriptors: u64) -> usize {
    let spared = descriptors - descriptors * RESERVED_PERCENT / 100;
    count(spared.min(budget / CONNECTION_BYTES).clamp(1, CONNECTIONS))
}

fn usual_calls(budget: u64) -> usize {
    count((budget / CALLS_PART / window(budget)).max(CALLS))
}

fn usual_pool(budget: u64, message: u64) -> u64 {
    (budget / POOL_PART).min(POOL_BYTES).max(POOL_MESSAGES.saturating_mul(message))
}

/// The window of one call, in bytes.
fn window(budget: u64) -> u64 {
    (budget / WINDOW_PART).clamp(WINDOW_BYTES.0, WINDOW_BYTES.1)
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
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
