//! The rules of the protocol that an owner keeps by its own decisions.

/// A rule that an [owner](super::Owner) keeps. Each one closes a way to lose data, or to leave garbage for ever. Tests
/// switch one off at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The log and bases of checkpoints in flight stay named: the log from the lowest `from` of their bases, and these
    /// bases.
    InFlightStaysNamed,
    /// Materializations stay named as long as a running snapshot uses parts of them.
    SnapshotsKeepTheirBases,
    /// Each manifest has the checksum of the one before.
    DerivesFromTheHead,
    /// The manifest that opened the epoch is never deleted: an older owner would create that number again.
    OpenersStay,
    /// A notice means the checkpoint of its epoch, also if an owner uses the id again.
    NoticesNameEpochs,
    /// A segment that is uploaded but waits behind a gap in the log is above the low water.
    UnlistedSegments,
    /// Files of running snapshots are above the low water.
    FilesInTheMaking,
    /// A page that only the next manifest names is above the low water.
    PagesAreNamedLater,
    /// Each manifest raises the low waters as far as possible.
    LowWatersRise,
    /// A checkpoint that is let go or withdrawn leaves the manifest, without another reason for one.
    RemovalsArePublished,
    /// A materialization serves as the snapshot of exactly its own cut.
    ExactCuts,
    /// A manifest publishes a checkpoint only when the log below its cut is listed.
    ListedBeforeNamed,
    /// A tail is durable with the manifest that lists it, not with one that was begun before.
    TailsAreDurableLater,
    /// Pages are durable before the manifest that names them.
    PagesBeforeManifests,
    /// Without a claim, the first cut names only objects of the owner's own, even if nothing was written.
    OwnObjectsOnly,
}

/// The rules that hold: all, except in tests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    #[cfg(test)]
    off: Option<Rule>,
}

impl Rules {
    /// Whether `rule` holds.
    #[inline]
    pub(super) fn hold(self, rule: Rule) -> bool {
        self.broken() != Some(rule)
    }

    /// Whether some rule does not hold, so that assertions leave the discovery to the checks of the world.
    #[inline]
    pub(super) fn is_broken(self) -> bool {
        self.broken().is_some()
    }

    #[cfg(not(test))]
    fn broken(self) -> Option<Rule> {
        None
    }

    #[cfg(test)]
    fn broken(self) -> Option<Rule> {
        self.off
    }

    #[cfg(test)]
    pub(super) fn without(rule: Option<Rule>) -> Self {
        Self { off: rule }
    }
}
