//! Options of [`crate::limits`]: bounds on connections, calls and memory that clients can make the daemon hold.

use super::{AT_LEAST_1_MS, Default, Kind, Spec, at_least, text};

const COUNT: Kind = Kind::Integer { min: 1, max: 1 << 20 };

pub(super) const LIMITS: &[Spec] = &[
    Spec {
        key: "rpc.max-connections",
        kind: COUNT,
        default: Default::Computed {
            how: "half of the open files that this process may have, one for each 256 KiB of memory.budget, at most 4096",
            for_root: "512",
        },
        doc: "Most connections. At this number one that has not called yet gives way to the next, the oldest first; where all have called, the \
              next is closed.",
    },
    Spec {
        key: "rpc.max-connections-per-uid",
        kind: COUNT,
        default: Default::Computed { how: "as rpc.max-connections", for_root: "512" },
        doc: "Most connections of the processes of one user, over the socket.",
    },
    text("rpc.max-handshakes", COUNT, "128", "Most TLS handshakes at a time; beyond it the oldest ends."),
    text("rpc.max-streams", COUNT, "256", "Most calls at a time on one connection; a client queues the others."),
    Spec {
        key: "rpc.max-calls",
        kind: COUNT,
        default: Default::Computed {
            how: "512, or as many as a quarter of memory.budget has windows for, whichever is more",
            for_root: "1638",
        },
        doc: "Most calls at a time; three quarters of them may be queries. Beyond it calls are refused with REASON_TOO_MANY_CALLS.",
    },
    Spec {
        key: "rpc.request-memory",
        kind: at_least(1 << 20),
        default: Default::Computed {
            how: "a sixteenth of memory.budget, at most 256 MiB, but enough for two of the longest messages",
            for_root: "256 MiB",
        },
        doc: "Budget of requests that are not whole or being worked on, those of sessions not counted. Beyond it calls wait.",
    },
    Spec {
        key: "rpc.answer-memory",
        kind: at_least(1 << 20),
        default: Default::Computed { how: "as rpc.request-memory", for_root: "256 MiB" },
        doc: "Budget of answers, from before they are read until their clients took them. Beyond it reads wait; each session has one answer \
              of its own beside it.",
    },
    text(
        "rpc.preface-timeout",
        AT_LEAST_1_MS,
        "10 s",
        "A connection that does not begin to speak HTTP/2 for so long is closed.",
    ),
    text("rpc.handshake-timeout", AT_LEAST_1_MS, "3 s", "A TLS handshake that takes longer ends."),
    text(
        "rpc.first-call-timeout",
        AT_LEAST_1_MS,
        "30 s",
        "A connection without a call for so long after it began is closed. Later ones are kept as long as their client answers pings.",
    ),
    text(
        "rpc.request-timeout",
        AT_LEAST_1_MS,
        "30 s",
        "A call whose request is not whole after so long ends; a session's later ones excepted.",
    ),
    text(
        "rpc.stuck-timeout",
        AT_LEAST_1_MS,
        "5 s",
        "A call whose client sent and took nothing for so long ends when others need the memory that it holds; a session's excepted.",
    ),
    text(
        "rpc.max-message-size",
        Kind::Size { min: 128 << 10, max: 1 << 30 },
        "4 MiB",
        "Longest gRPC message. The memory budgets must hold at least one.",
    ),
    text(
        "rpc.max-key-size",
        Kind::Size { min: 1, max: 256 << 20 },
        "32 KiB",
        "Longest key, longest namespace and longest key of a map entry.",
    ),
    text(
        "rpc.max-value-size",
        Kind::Size { min: 1, max: 512 << 20 },
        "1 MiB",
        "Longest value, list element or result of an append.",
    ),
    text(
        "rpc.max-batch-operations",
        Kind::Integer { min: 1, max: 10_000_000 },
        "100000",
        "Most operations of one batch.",
    ),
];
