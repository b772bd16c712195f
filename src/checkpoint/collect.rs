//! Garbage collection, which finds and deletes the objects of a job that no manifest or pin names, or can come to name.
//!
//! ```text
//!   LIST the job's objects ──▶ read every chain's head, its pages, the older manifests ──▶ list pins ──▶ verdict per object
//!                                     ▲                                                                     │ garbage
//!                                     └──────── again before each batch of deletions, and compared ◀────────┘
//! ```
//!
//! A sweep may run beside owners at work, and with any grace, even none. It relies on the following facts.
//!
//! 1. **Only heads name.** The head of a chain, its highest manifest, is the authority. Each manifest is derived from
//!    the one before. An object that one manifest dropped is never named again by its successors.
//! 2. **Every owner that can name a segment was there when the segment was listed.** A change set is handed to the
//!    uploads after its owner's opening manifest was durable. So the owner of every change set in a segment of the
//!    first LIST is found when the heads are read *after* that LIST. If the chain's head is by then of another daemon
//!    instance, its owner is fenced and publishes nothing more. If it is of the segment's own instance, its
//!    `segment_low_water` decides: the owner promises that segments below it which the head does not name will never be
//!    named. An owner that closed gives this promise for all segments.
//! 3. **Pages belong to an epoch**, which is part of their path. Only the owner of that epoch names new ones, and a
//!    head of a later epoch shows that this owner is fenced. Pages are numbered in the order in which the owner moves
//!    entries into them. For the pages below it, `page_low_water` promises that no later manifest will name one that
//!    this manifest does not name. An opener writes pages of its epoch before its first manifest. If two openers try
//!    the same epoch, one of them finds the number of its manifest taken, and names nothing. A snapshot file belongs to
//!    an epoch in the same way. The owner's `snapshot_low_water` passes its number once the materialization that made
//!    it is in a manifest or given up. A later materialization reuses only files of a materialization that its own
//!    manifests still name.
//! 4. **Names that a stale writer could still create are never freed.** A manifest that opened an epoch has the number
//!    that a fenced owner would give to its next manifest. The last manifest of an epoch has the number at which that
//!    owner may still retry its present one. Both stay forever. The head says where they are
//!    ([`Fences`](super::manifest::Fences)), so that they are not read again and again. Other manifests are deleted
//!    once there are [`chain::KEPT_MANIFESTS`] newer ones. A delayed request may create one of those again. Then it is
//!    below the head and has no meaning: an opener that created it lists the chain afterwards and sees that.
//! 5. **A temporary is deleted if its target exists, or would be garbage itself.** If a living process still writes a
//!    temporary that is deleted, a later one may get the same name, and may be half written when the first process
//!    links it to the target. That is harmless in exactly these two cases: a target that exists is not replaced, and
//!    garbage may be torn.
//!
//! # Jobs
//!
//! A record of the job's chain contains everything that is still true. So only the newest record is read, and all but
//! the newest few below it are garbage. A stale writer that creates one of these again finds out when it looks at the
//! chain afterwards ([`super::job`]). A report is needed as long as its checkpoint may be committed. The newest record
//! tells, and once it rules out a checkpoint, later ones do, too. The objects of a committed checkpoint are named by
//! the heads of its tasks' chains, so a commit needs no rule here.
//!
//! # Imports
//!
//! After a rescale, heads name objects of other chains. An object that an import names is live, whichever chain it was
//! made for. Only by an import does a chain come to name an object of another chain, so imports need an argument of
//! their own. An import is made only in a manifest that opens an epoch, and only of a checkpoint that the source's head
//! retains. It counts only if the source's head, read again *after* that manifest is durable, still retains the
//! checkpoint. Otherwise the new owner gives up at once. A checkpoint is retained from its making until it is dropped,
//! and never again after that. So it was retained all the while.
//!
//! 6. **An object that nothing names at one moment is never named again by an import that counts.** Assume that some
//!    import does, and take the first manifest after that moment with such an import. Its source retained the
//!    checkpoint after this manifest was durable, so also at every earlier moment since the making of the checkpoint.
//!    While the checkpoint was being made, the source named its objects, too: since the source's epoch opened, or since
//!    the objects were new. If this naming began before the moment, the source named the object at the moment. If it
//!    began after the moment, the source's own opening named the object by an import earlier than the first one. Both
//!    contradict the assumption.
//! 7. **Two views between which no chain was opened enclose such a moment.** Within an epoch, a head names ever fewer
//!    of the objects that its owner did not make. So an object that no head of the first view names is named by no head
//!    from the end of that view on, nor by a new epoch's head, until the second view began. Therefore a batch is
//!    deleted only if both views call it garbage. If a chain was opened in between, the sweep takes a third view, and
//!    so on. In the end it leaves the batch to the next sweep.
//!
//! The manifest of an owner that gave up may name objects that are gone. If its pages are missing, they are passed
//! over, as long as that manifest is the head and no checkpoint needs the import. Any other missing page ends the
//! sweep.
//!
//! Chains of subtasks that the operator no longer has are retired first: see [`super::generation`]. Objects that only
//! they named are then garbage.
//!
//! # Pins
//!
//! A reader that clones a job does not fence it, since the job goes on. It writes a [pin](super::pin): an object with
//! imports of the checkpoint that it reads. The pin counts only if the source's head, read again *after* the pin is
//! durable, still retains the checkpoint. A pin never changes, and its name is never used again. An object that a pin
//! names is live **as long as the pin exists**. The end of its lease only allows a sweep to delete the pin, and this
//! deletion revokes it. So no two clocks have to agree. No listing can fall between an old pin and its renewal either,
//! because a renewal is an object beside the pin, which stays.
//!
//! 8. **An object that nothing names at one moment is never named again by a pin that counts.** This follows like 6:
//!    from the making of its checkpoint to the moment after the pin was durable, the source named the objects. And a
//!    pin leads to no other name, since the manifests of a clone name no object of the source.
//! 9. **A view sees every pin that may count against its verdict.** Pins are listed after the heads were read. A pin
//!    that was durable by then, and still exists, is seen. A pin that was not durable by then counts only if its
//!    source's head retains the checkpoint later than the view read that head. Then the view saw its objects named by
//!    that head; or, by 7, a chain was opened in between; or the objects were too new to be dropped, that is, above the
//!    owner's low water. A pin that goes, released or revoked, may remove names, but never adds any.
//!
//! Thus two views settle a verdict as before. Objects named only by a pin that does not count may be gone; they are
//! passed over. A lease is over when the pin and each of its renewals are older than its term, by the store's clock at
//! the beginning of the sweep. A living reader renews after each third of the term. If a renewal comes too late
//! nevertheless, the reader finds objects missing (never other ones, because names are not used again and everything
//! has a checksum), sees that its pin is gone, and stops.
//!
//! # Several sweeps, grace
//!
//! So a verdict of garbage by two such views never becomes wrong, whatever the owners do meanwhile. It follows that
//! **several sweeps may run at once** and need no lease among them: they delete the same garbage, and a second deletion
//! has no effect. (Daemons, which sweep by [`schedule`], take a lease nevertheless, only to save work.)
//!
//! If a time of the store lies in the future, the moment at which it was first seen counts instead ([`FirstSeen`]).
//!
//! Grace is a safety net: an object that is younger, by the store's clock, stays. Savepoints, which their makers
//! delete, and objects that this version does not know are never deleted, only reported. If a job has a pin of a later
//! version, none of its objects is deleted. The same holds if a head, or a page that it names, cannot be read. The only
//! exception is a head that retired its chain. Beside it is an empty object whose name says so (`ObjectName::Retired`),
//! which was made once the retirement was durable. So sweeps and openers know that this head names nothing, although
//! they cannot read it.

mod ahead;
mod judge;
mod lease;
pub mod metrics;
mod observe;
mod pins;
pub mod schedule;
mod sweep;

pub use self::{
    ahead::FirstSeen,
    judge::{Chain, View},
    observe::jobs,
    pins::Pins,
    sweep::{Finding, SweepError, SweepOptions, SweepReport, Tally, store_time, sweep, sweep_on},
};
use uuid::Uuid;

use crate::types::BackendId;

#[cfg(doc)]
use super::chain;

/// The verdict on an object, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is needed.
    Live(Live),
    /// Nothing names it, but it stays for now.
    Kept(Kept),
    /// Nothing needs it, and nothing ever will.
    Garbage(Garbage),
    /// This version does not know such objects, so it never touches them.
    Unknown,
}

/// Why an object is needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Live {
    /// The head of a chain names this segment, page or snapshot file.
    #[error("named by the head of `{0}`")]
    Named(BackendId),
    /// A pin names this segment, page or snapshot file.
    #[error("named by pin {0}: somebody reads it")]
    Pinned(Uuid),
    /// This is a pin or its renewal, and its lease is not over.
    #[error("the lease of a reader")]
    Pin,
    /// This manifest is the newest of its chain.
    #[error("the head of its chain")]
    Head,
    /// This manifest is one of the newest of its chain.
    #[error("one of the newest of its chain")]
    Recent,
    /// This manifest opened an epoch.
    #[error("opened epoch {0}, so fences its predecessor")]
    Opens(u64),
    /// This manifest is the last one of an epoch.
    #[error("the last one of epoch {0}, whose owner may not know that it is durable")]
    Ends(u64),
    /// This manifest opened or ended an epoch, as the head of the chain tells.
    #[error("the first or last one of its epoch, as the head tells")]
    Fence,
    /// This object lies beside a head that retired its chain, and says so.
    #[error("says that the head of its chain retired that, should it be damaged")]
    Retired,
    /// This is one of the newest records of the job.
    #[error("one of the newest of the job's chain of generations and commits")]
    JobRecord,
    /// This report may still be needed for a commit.
    #[error("its checkpoint may still be committed")]
    Report,
    /// This lease of a daemon's scheduled sweep says when the job was last swept.
    #[error("tells daemons when the job was last swept; the next sweep deletes it")]
    SweepLease,
    /// This file belongs to a savepoint.
    #[error("savepoints are deleted by those who took them")]
    Savepoint,
}

/// Why an object that nothing names stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    /// It is younger than the grace period.
    #[error("garbage, but younger than the grace")]
    Grace,
    /// The job has pins that a later version wrote, and they might name it.
    #[error("garbage, but the job has pins of a later version, which this one cannot read")]
    Pins,
    /// It is a segment, page or snapshot file, or a temporary of one, and an owner may still name it.
    #[error("the owner of `{0}` may still name it")]
    MayBeNamed(BackendId),
    /// It is a temporary that a living process may still write.
    #[error("may be in the making")]
    InTheMaking,
    /// It is a manifest below the head that cannot be read.
    #[error("a manifest that cannot be read: damaged, or deleted meanwhile")]
    Unreadable,
    /// Its chain, or every chain of the job, is gone.
    #[error("there is no manifest that could tell whether it is needed")]
    NoChain,
    /// It is a pin that a later version wrote.
    #[error("made by a later version, which this one cannot read")]
    Foreign,
}

/// Why an object is garbage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// No head names this segment, page or snapshot file, and no owner can name it any more.
    #[error("no head names it, and no owner that could still do so remains")]
    Unnamed,
    /// No head names this page or snapshot file, and the epoch that wrote it is over.
    #[error("no head names it, and epoch {0}, which wrote it, has a successor")]
    Outdated(u64),
    /// Newer manifests or job records have replaced it.
    #[error("superseded")]
    Superseded,
    /// Its checkpoint is committed or subsumed, or its generation is over.
    #[error("its checkpoint is committed or subsumed, or its generation is over")]
    OutdatedReport,
    /// It is a temporary whose writer is gone.
    #[error("left behind by a process that was killed")]
    Temporary,
    /// It is a pin whose holder is gone, or a damaged one that never protected anything.
    #[error("a pin whose lease is over")]
    Expired,
    /// It is a renewal of a pin that is gone, or a pin that was released.
    #[error("of a pin that is no longer there")]
    Released,
    /// It was made by [`store_time`] to read the store's clock.
    #[error("made to read the store's clock")]
    Clock,
}

impl Verdict {
    /// `live`, `kept`, `garbage` or `unknown`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Live(_) => "live",
            Self::Kept(_) => "kept",
            Self::Garbage(_) => "garbage",
            Self::Unknown => "unknown",
        }
    }

    /// The reason, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Live(why) => why.to_string(),
            Self::Kept(why) => why.to_string(),
            Self::Garbage(why) => why.to_string(),
            Self::Unknown => "not a name that this version makes".to_owned(),
        }
    }

    /// Whether it may be deleted.
    #[must_use]
    pub fn is_garbage(&self) -> bool {
        matches!(self, Self::Garbage(_))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
