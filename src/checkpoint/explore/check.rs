//! The invariants of every state of the world.

use super::{
    owner::{Owner, Phase, Truth},
    world::World,
};
use crate::{
    checkpoint::{
        index::Run,
        manifest::{CheckpointRecord, Manifest, Source},
    },
    object::ObjectName,
    types::Sqn,
};

impl World {
    /// Asserts the invariants.
    pub(super) fn check(&self) {
        let head = self.head();
        if let Some(head) = &head {
            self.check_named(head);
            for record in &head.checkpoints {
                self.check_contents(head, record, Sqn(u64::MAX));
            }
        }
        for (epoch, id) in &self.promised {
            let is_it = |record: &&CheckpointRecord| (record.identity.epoch, record.identity.id) == (*epoch, *id);
            let record = head.as_ref().and_then(|head| head.checkpoints.iter().find(is_it));
            let record = record.unwrap_or_else(|| panic!("checkpoint {id} of epoch {epoch} was replied and is gone"));
            assert_eq!(record.identity, self.truths[&(*epoch, *id)].0);
        }
        for path in self.readers.iter().flat_map(|reader| reader.reads()) {
            assert!(self.objects.has(path), "`{path}` is read and gone");
        }
        for owner in self.owners.iter().filter(|owner| owner.phase == Phase::Serving) {
            let head = head.as_ref().filter(|head| head.owner().epoch == owner.manifest.owner().epoch);
            self.check_owner(owner, head.map(|head| &**head));
        }
    }

    /// Checks that the objects that a head names exist.
    fn check_named(&self, head: &Manifest) {
        for (epoch, run) in &head.runs {
            self.check_run(*epoch, run);
        }
        for base in &head.materializations {
            let path = base.index.path(&head.backend);
            assert!(self.objects.has(&path), "`{path}` is named and gone");
        }
    }

    fn check_run(&self, epoch: u64, run: &Run) {
        for id in run.handles.iter().filter_map(|handle| handle.segment()).cloned() {
            let path = ObjectName::Segment { job: id.job, instance: id.instance, number: id.number }.path();
            assert!(self.objects.has(&path), "`{path}` of epoch {epoch} is named and gone");
        }
    }

    /// Checks that the rungs of durability are in order, and that everything in flight or retained is kept: its log as
    /// far as it is listed, and its base.
    fn check_owner(&self, owner: &Owner, head: Option<&Manifest>) {
        let epoch = owner.epoch();
        let (confirmed, persisted) = (owner.ledger.confirmed_to(), owner.writer.persisted_batches(owner.batches));
        assert!(confirmed <= persisted && persisted <= owner.batches, "rungs of epoch {epoch} are in order");
        assert!(
            owner.writer.persisted_to() <= owner.writer.listed_to() && owner.writer.listed_to() <= owner.writer.next()
        );
        // Others may have let go of it, and swept.
        let Some(head) = head else { return };
        self.check_named(&owner.manifest);
        if owner.publication.is_none() && !owner.wants_manifest() {
            let of_head = head.checkpoints.iter().map(|record| record.identity);
            let retained = owner.ledger.retained().iter().map(|record| record.identity);
            assert!(of_head.eq(retained), "nothing is on its way, so the head retains what the owner does");
        }
        for record in owner.ledger.retained().iter().chain(owner.ledger.in_flight_records()) {
            self.check_contents(&owner.manifest, record, owner.writer.listed_to());
        }
    }

    /// Checks that the contents of `record` in `manifest` are exactly the state at its barrier; of the present owner's
    /// run only the part below `listed_to`.
    fn check_contents(&self, manifest: &Manifest, record: &CheckpointRecord, listed_to: Sqn) {
        let (id, epoch) = (record.identity.id, record.identity.epoch);
        let contents = manifest.contents(record);
        for source in &contents.sources {
            let of_present = listed_to.epoch() == source.epoch;
            let to = if of_present { source.to.min(listed_to.max(source.from)) } else { source.to };
            let handles = manifest.runs.get(&source.epoch).map(|run| &run.handles[..]).unwrap_or_default();
            let mut next = source.from;
            for handle in handles.iter().filter(|h| h.range.from < to && h.range.to > source.from) {
                assert!(handle.range.from <= next, "a gap in the log of checkpoint {id} of epoch {epoch}");
                next = handle.range.to;
            }
            assert!(next >= to, "the log of checkpoint {id} of epoch {epoch} ends at {next}, before {to}");
        }
        let of_base = contents.base.map(|uuid| {
            let base = manifest.materialization(uuid).expect("the base of a checkpoint is in the manifest");
            assert!(base.complete_at <= record.cut || base.from.epoch() != epoch, "a base serves later cuts only");
            self.bases[&uuid].clone()
        });
        let truth = &self.truths[&(epoch, id)].1;
        assert_eq!(&union(of_base.unwrap_or_default(), &contents.sources), truth, "checkpoint {id} of epoch {epoch}");
    }
}

/// Both in order; adjacent parts of one run are joined.
fn union(base: Truth, sources: &[Source]) -> Truth {
    let mut all = base;
    for source in sources {
        match all.last_mut().filter(|last| last.epoch == source.epoch && source.from <= last.to) {
            Some(last) => last.to = last.to.max(source.to),
            None => all.push(*source),
        }
    }
    all
}
