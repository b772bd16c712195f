//! What may happen in an exploration, and how much of it.

use crate::checkpoint::ledger::NoticeKind;

/// How much may happen: the bounds of an exploration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    /// Owners.
    pub(super) opens: u8,
    /// Barriers of one owner.
    pub(super) barriers: u8,
    /// Notices, of each kind about each checkpoint to each owner.
    pub(super) notices: u8,
    /// Uploads that are refused, or seem to be.
    pub(super) refusals: u8,
    /// Daemons that die.
    pub(super) crashes: u8,
    pub(super) sweeps: u8,
    pub(super) materializations: u8,
    pub(super) closes: u8,
    /// Readers that pin.
    pub(super) readers: u8,
    /// Whether batches may go inline, or into segments.
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

    /// Nothing, of what fits into manifests.
    pub(super) const INLINE: Self = Self { inline: true, segments: false, ..Self::NONE };
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A new owner, which restores the checkpoint at this place of the head's, on this daemon or a new one.
    Open {
        restore: Option<usize>,
        on: Option<usize>,
    },
    Barrier {
        owner: usize,
        inline: bool,
    },
    /// An upload has its effect.
    Arrive {
        owner: usize,
        upload: usize,
    },
    /// Its owner hears of it.
    Learn {
        owner: usize,
        upload: usize,
    },
    /// Its owner hears that it failed.
    Refuse {
        owner: usize,
        upload: usize,
    },
    /// A manifest is derived and sent.
    Begin {
        owner: usize,
    },
    /// Its next request.
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
    /// A request of the dead has its effect.
    Late {
        request: usize,
    },
    Sweep,
    /// A new reader reads the head, to read the checkpoint at this place of it.
    Read {
        checkpoint: usize,
    },
    /// Its next request.
    Reader {
        reader: usize,
    },
    /// It has read what it wanted.
    Release {
        reader: usize,
    },
}
