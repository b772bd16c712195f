//! The steps of an exploration, and how many of each are allowed.

use crate::checkpoint::ledger::NoticeKind;

/// The bounds of an exploration: how often each event may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    /// Owners that may open.
    pub(super) opens: u8,
    /// Barriers per owner.
    pub(super) barriers: u8,
    /// Notices of each kind, about each checkpoint, to each owner.
    pub(super) notices: u8,
    /// Uploads that are refused, or seem to be.
    pub(super) refusals: u8,
    /// Daemons that may die.
    pub(super) crashes: u8,
    pub(super) sweeps: u8,
    pub(super) materializations: u8,
    pub(super) closes: u8,
    /// Readers that may pin.
    pub(super) readers: u8,
    /// Whether batches may be inlined, or go into segments.
    pub(super) inline: bool,
    pub(super) segments: bool,
    /// Whether a later owner may be on the same daemon.
    pub(super) same_daemon: bool,
    pub(super) retention: Option<usize>,
}

impl Scope {
    pub(super) const NONE: Self = Self {
        opens: 0,
        barriers: 0,
        notices: 0,
        refusals: 0,
        crashes: 0,
        sweeps: 0,
        materializations: 0,
        closes: 0,
        readers: 0,
        inline: false,
        segments: true,
        same_daemon: false,
        retention: None,
    };

    /// No events; batches are inlined only.
    pub(super) const INLINE: Self = Self { inline: true, segments: false, ..Self::NONE };
}

/// A step of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A new owner opens on this daemon or a new one, and restores the checkpoint at this position in the head.
    Open {
        restore: Option<usize>,
        on: Option<usize>,
    },
    Barrier {
        owner: usize,
        inline: bool,
    },
    /// An upload takes effect on the store.
    Arrive {
        owner: usize,
        upload: usize,
    },
    /// The owner learns that the upload is durable.
    Learn {
        owner: usize,
        upload: usize,
    },
    /// The owner learns that the upload failed.
    Refuse {
        owner: usize,
        upload: usize,
    },
    /// A manifest is derived and sent.
    Begin {
        owner: usize,
    },
    /// The next request of the publication takes effect.
    Go {
        owner: usize,
    },
    Notice {
        owner: usize,
        kind: NoticeKind,
        of: (u64, u64),
    },
    Materialize {
        owner: usize,
    },
    MaterializationArrives {
        owner: usize,
    },
    Materialized {
        owner: usize,
        succeeded: bool,
    },
    Close {
        owner: usize,
    },
    Crash {
        instance: usize,
    },
    /// A request of a dead daemon takes effect.
    Late {
        request: usize,
    },
    Sweep,
    /// A new reader reads the head, to read the checkpoint at this position in it.
    Read {
        checkpoint: usize,
    },
    /// The next request of the reader takes effect.
    Reader {
        reader: usize,
    },
    /// The reader has finished reading.
    Release {
        reader: usize,
    },
}
