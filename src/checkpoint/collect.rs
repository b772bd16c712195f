//! Garbage collection: finds the objects of a job that nothing names and nobody can still name, and deletes them.
//!
//! ```text
//!   LIST the job's objects ──▶ read every chain's head, its pages, the older manifests ──▶ list pins ──▶ verdict per object
//!                                     ▲                                                                     │ garbage
//!                                     └──────── again before each batch of deletions, and compared ◀────────┘
//! ```
//!
//! A sweep may run beside owners at work, and with any grace, even none. What it relies on:
//!
//! 1. **Only heads name.** The highest manifest of each chain is the authority; each is derived from the one before,
//!    and what one of them dropped none of its successors names again.
//! 2. **Who can name a segment was there when it was listed.** A change set is handed to the uploads after its owner's
//!    opening manifest was durable. So the owner of every change set in a segment that the first LIST returned is found
//!    when the heads are read *after* it. If the chain's head is by then of another daemon instance, its owner is
//!    fenced and publishes nothing more. If it is of the segment's own instance, its `segment_low_water` decides: the
//!    owner promises that segments below it which that manifest does not name will never be named. An owner that closed
//!    promised so of all.
//! 3. **Pages belong to an epoch**, which their path tells. Only that epoch's owner names new ones, and a head of a
//!    later epoch says that it is fenced. They are numbered in the order in which it moves entries into them;
//!    `page_low_water` promises of those before that no manifest will name what this one does not. Whoever opens an
//!    epoch writes pages before its first manifest: of two that try the same epoch one finds the number of its manifest
//!    taken, and names nothing. A snapshot file belongs to an epoch likewise, whose number the owner's
//!    `snapshot_low_water` passes once the materialization that made it is in a manifest or given up. A later
//!    materialization uses again only files of one that its own manifests still name.
//! 4. **Names that a stale writer could still create are never freed.** A manifest that opened an epoch stands where a
//!    fenced owner would put its next one, the last manifest of an epoch where it tries its present one again; both
//!    stay for ever, and the head tells where they are ([`Fences`](super::manifest::Fences)), so that they are not read
//!    again and again. Other manifests go once [`chain::KEPT_MANIFESTS`] newer ones are there. Should a delayed request
//!    create one of those again, it is below the head and so means nothing: an opener that created it lists the chain
//!    and sees that.
//! 5. **A temporary goes when its target exists, or would be garbage itself.** Deleting one that a living process still
//!    writes makes a later one of the same name possible, half written when the first process links it to the target.
//!    That is harmless exactly then: a target that exists is not replaced, and garbage may be torn.
//!
//! # Jobs
//!
//! A record of the job's chain says all that is still true, so only the newest is read, and all but the newest few of
//! those below it are garbage. A stale writer that creates one again finds out, as it looks at the chain afterwards
//! ([`super::job`]). A report is needed as long as its checkpoint may be committed: the newest record tells, and what
//! it once rules out stays so. What a commit consists of is named by the heads of the chains of its tasks, so it needs
//! no word here.
//!
//! # Imports
//!
//! After a rescale, heads name objects of other chains. What an import names is live, wherever it lies. An import is
//! the one way in which an object comes to be named by a chain that it was not made for, so it needs an argument of its
//! own. It is made only in a manifest that opens an epoch, of a checkpoint that the source's head retains; and it
//! counts only if the source's head, read again *after* that manifest is durable, retains the checkpoint still. Else
//! its owner gives up at once. A checkpoint is retained from its making until it is dropped, once, so it was retained
//! all the while.
//!
//! 6. **What nobody names at one moment is never named again by an import that counts.** Take the first such manifest
//!    after that moment. Its source retained the checkpoint after it was durable, so from its making to then. Whoever
//!    makes a checkpoint names its objects all the while that it is in the making: since the source's epoch opened, or
//!    since they were new. If that was before the moment, the source named the object then; if after, the source's own
//!    opening named it by an import earlier than the first. Neither can be.
//! 7. **Two views between which no chain was opened enclose such a moment.** Within an epoch, a head names ever fewer
//!    of the objects that are not its own. So what the first view's heads do not name, no head names once that view was
//!    complete; nor does a new epoch's, until the second view began. Therefore a batch is deleted only if both views
//!    say garbage, and where a chain was opened in between, the sweep looks a third time, and so on; in the end it
//!    leaves the batch to the next sweep.
//!
//! The manifest of an owner that gave up may name what is gone. If its pages are missing, they are passed over, as long
//! as that manifest is the head and no checkpoint needs the import; any other missing page ends the sweep.
//!
//! Chains of subtasks that the operator no longer has are retired first: see [`super::generation`]. Everything that
//! only they named is then garbage.
//!
//! # Pins
//!
//! A reader that does not fence, since the job of what it clones goes on, writes a [pin](super::pin): an object with
//! imports of what it reads. The pin counts only if the source's head, read again *after* the pin is durable, retains
//! the checkpoint still. A pin never changes and its name is never used again. What a pin names is live **for as long
//! as the pin exists**: whether its lease is over only decides whether a sweep may delete it, and that deletion is the
//! revocation. So no two clocks have to agree, and no listing can fall between an old pin and its renewal, which is an
//! object of its own beside the pin that stays.
//!
//! 8. **What nobody names at one moment is never named again by a pin that counts.** The argument of 6: from the making
//!    of its checkpoint to the moment after the pin was durable, the source named the objects. And a pin makes no other
//!    name: a clone's manifests name nothing of the source.
//! 9. **A view sees every pin that may count against its verdict.** Pins are listed after the heads were read. A pin
//!    that was durable by then, and is there still, is seen. One that was not counts only if its source's head retains
//!    the checkpoint later than the view read that head: the view saw its objects named by that head then, or, by 7, a
//!    chain was opened in between, or they were not yet what a head can drop: too new for the owner's low water. A pin
//!    that goes, released or revoked, may take names away, never add any.
//!
//! Thus two views settle a verdict as before. What a pin that does not count names may be gone, and is passed over. A
//! lease is over when the pin and each of its renewals are older than it, by the store's clock as it was when the sweep
//! began. A reader that lives renews in thirds of it. Should a renewal come too late after all, the reader finds
//! objects missing (never other ones: names are not used again and all is checksummed), sees that its pin is gone, and
//! stops.
//!
//! # Several sweeps, grace
//!
//! So a verdict of garbage by two such views never turns, whatever the owners do meanwhile. From this follows that
//! **several sweeps may run at once** and need no lease among them: both delete what stays garbage, and deleting twice
//! is deleting once. (Daemons, which sweep by [`schedule`], take a lease all the same, only to save the work.)
//!
//! A time of the store that lies ahead counts as the moment when it was first seen ([`FirstSeen`]).
//!
//! Grace is a net: an object younger than it, by the store's clock, stays. What its makers delete (savepoints) or this
//! version does not know is never deleted, only reported; beside pins of a later version, nothing of the job is. If a
//! head or a page that it names cannot be read, nothing of the job is deleted. But for a head that retired its chain:
//! an empty object beside it says so by its name (`ObjectName::Retired`), made once the retirement was durable. So such
//! a head is known to name nothing although nobody can read it, to sweeps and to openers.

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
