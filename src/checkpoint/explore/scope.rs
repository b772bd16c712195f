//! The steps of an exploration, and how many of each are allowed.

use crate::checkpoint::{ledger::NoticeKind, owner::Rule};

/// The bounds of an exploration: how often each event may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Whether a barrier may come without changes before it.
    pub(super) idle: bool,
    /// Whether a later owner may be on the same daemon.
    pub(super) same_daemon: bool,
    /// Whether the log index moves into pages as soon as it can.
    pub(super) folds: bool,
    /// Whether owners have no log, so that checkpoints are snapshots.
    pub(super) unlogged: bool,
    /// Whether owners must not claim the checkpoint that they restore.
    pub(super) no_claim: bool,
    /// The rule that owners break.
    pub(super) off: Option<Rule>,
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
        idle: false,
        same_daemon: false,
        folds: false,
        unlogged: false,
        no_claim: false,
        off: None,
        retention: None,
    };

    /// The events that are left.
    pub(super) fn events(&self) -> impl std::hash::Hash {
        let Self { opens, barriers, notices, refusals, crashes, sweeps, materializations, closes, readers, .. } = *self;
        (opens, barriers, notices, refusals, crashes, sweeps, materializations, closes, readers)
    }

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
    /// A barrier without changes before it.
    IdleBarrier {
        owner: usize,
    },
    /// A manifest is derived and sent.
    Begin {
        owner: usize,
    },
    /// The next request of the publication takes effect.
    Go {
        owner: usize,
    },
    /// Change sets move into pages although no manifest is wanted.
    Fold {
        owner: usize,
    },
    /// The next request that writes pages takes effect.
    Page {
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
    /// The turn of a snapshot comes.
    Turn {
        owner: usize,
        id: u64,
    },
    /// The files of a snapshot arrive.
    SnapshotArrives {
        owner: usize,
        id: u64,
    },
    /// The owner learns that the snapshot is durable.
    Snapshotted {
        owner: usize,
        id: u64,
    },
    /// The time of a snapshot's checkpoint is over.
    Expire {
        owner: usize,
        id: u64,
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
