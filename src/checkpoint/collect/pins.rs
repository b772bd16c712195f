//! The pins of a job, for a sweep: which objects readers need, and which pins have lost their holder.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Chain, FirstSeen, Garbage, Kept, Live, SweepError, Verdict, judge};
use crate::{
    changelog::segment::SegmentHandle,
    checkpoint::{envelope::EnvelopeError, manifest::Fences, pin::Pin},
    object::{
        Retry, Store, StoreError,
        layout::{self, ObjectName},
    },
    types::{Epoch, Name, TimeMs},
};

/// The pins of a job at one moment.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    /// Every pin that can be read, and whether its lease is over.
    known: BTreeMap<Uuid, bool>,
    unknown: BTreeSet<Uuid>,
    /// The objects that pins name, each with one pin that names it.
    segments: BTreeMap<(Uuid, u64), Uuid>,
    objects: BTreeMap<ObjectName, Uuid>,
}

/// The objects that one pin names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) lease_ms: u64,
    /// The segments, by instance and number.
    pub(super) segments: BTreeSet<(Uuid, u64)>,
    /// The pages and snapshot files.
    pub(super) objects: BTreeSet<ObjectName>,
}

/// The contents of a pin object.
pub(super) enum Contents {
    Pin(Box<Pin>),
    /// A later version wrote it.
    Unknown,
    /// The pin is damaged, so it protects nothing; its holder will find objects missing.
    Damaged,
}

impl Pins {
    /// Adds a pin that was made, or renewed last, at `touched_ms`. The present time is `now_ms`.
    pub(super) fn add(&mut self, id: Uuid, held: Held, touched_ms: TimeMs, now_ms: TimeMs) {
        // Saturates: a time ahead of `now_ms` is as young as can be.
        self.known.insert(id, now_ms.saturating_sub(touched_ms) >= held.lease_ms);
        self.segments.extend(held.segments.into_iter().map(|segment| (segment, id)));
        self.objects.extend(held.objects.into_iter().map(|object| (object, id)));
    }

    /// Adds a pin of a later version.
    pub(super) fn add_unknown(&mut self, id: Uuid) {
        self.unknown.insert(id);
    }

    /// Whether there are pins of a later version.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// The pins whose lease is not over.
    pub fn in_force(&self) -> impl Iterator<Item = Uuid> + '_ {
        let known = self.known.iter().filter(|(_, is_over)| !**is_over).map(|(id, _)| *id);
        known.chain(self.unknown.iter().copied())
    }

    /// A pin that names the object, if there is one.
    pub(super) fn holder(&self, name: &ObjectName) -> Option<Uuid> {
        match name {
            ObjectName::Segment { instance, number, .. } => self.segments.get(&(*instance, *number)).copied(),
            name => self.objects.get(name).copied(),
        }
    }

    /// The verdict on a pin.
    pub(super) fn judge(&self, id: Uuid) -> Verdict {
        match self.known.get(&id) {
            Some(false) => Verdict::Live(Live::Pin),
            Some(true) => Verdict::Garbage(Garbage::Expired),
            None if self.unknown.contains(&id) => Verdict::Kept(Kept::Foreign),
            None => Verdict::Garbage(Garbage::Released),
        }
    }
}

impl Held {
    /// The objects that `pin` names. `names` holds the objects that its imports name, pages included.
    pub(super) fn new(pin: &Pin, names: Chain) -> Self {
        Self { lease_ms: pin.lease_ms, segments: names.segments, objects: names.imported }
    }
}

/// The objects that the imports of `pin` name, without their pages, in the form of a chain.
pub(super) fn chain_of(pin: &Pin) -> Chain {
    let runs = pin.imports.iter().flat_map(|import| import.runs.values());
    let handles = runs.flat_map(|run| &run.handles);
    Chain {
        head: 0,
        epoch: Epoch { number: 0, owner: Uuid::nil() },
        instance: Uuid::nil(),
        segment_low_water: 0,
        segments: handles.filter_map(SegmentHandle::segment).map(|id| (id.instance, id.number)).collect(),
        pages: BTreeSet::new(),
        snapshots: BTreeSet::new(),
        imported: pin.imports.iter().filter_map(judge::index_of).collect(),
        snapshot_low_water: 0,
        page_low_water: 0,
        told: Fences::default(),
        older: BTreeMap::new(),
    }
}

/// The pins of `job`, each with the time when it was made or renewed last, by the store's clock, which shows `now_ms`.
pub(super) async fn list(
    store: &Store,
    job: &Name,
    seen: &mut FirstSeen,
    now_ms: TimeMs,
    retry: Retry,
) -> Result<BTreeMap<Uuid, TimeMs>, SweepError> {
    let mut pins = BTreeMap::new();
    for meta in store.list(&layout::pins(job), retry).await? {
        if let Some(ObjectName::Pin { id, .. }) = ObjectName::parse(&meta.path) {
            pins.insert(id, seen.time_of(&meta, now_ms));
        }
    }
    // Most jobs have no pin, and are spared the second listing. Renewals without a pin are garbage.
    if pins.is_empty() {
        return Ok(pins);
    }
    // Ordering: renewals are listed after the pins. A renewal that comes between the two listings is seen, and the pin
    // counts as younger than it was. In the other order, a pin that was renewed between the listings would look as if
    // its lease were over.
    for meta in store.list(&layout::renewals(job), retry).await? {
        if let Some(ObjectName::PinRenewal { id, .. }) = ObjectName::parse(&meta.path)
            // A renewal of a pin that is gone does not bring it back.
            && let Some(touched) = pins.get_mut(&id)
        {
            *touched = seen.time_of(&meta, now_ms).max(*touched);
        }
    }
    Ok(pins)
}

/// The contents of a pin; `None` if it no longer exists.
pub(super) async fn read(store: &Store, job: &Name, id: Uuid, retry: Retry) -> Result<Option<Contents>, SweepError> {
    let path = ObjectName::Pin { job: job.clone(), id }.path();
    let decoded = match store.get_checked(&path, retry, |bytes| Pin::decode(job, bytes)).await {
        Ok(decoded) => decoded,
        // Released or revoked since the listing.
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(match decoded {
        Ok(pin) => Contents::Pin(Box::new(pin)),
        Err(EnvelopeError::Version(_)) => Contents::Unknown,
        Err(error) => {
            tracing::warn!(object = %path, %error, "a damaged pin");
            Contents::Damaged
        }
    }))
}
