//! The invariants of every state of the world.

use bytes::Bytes;

use super::{
    actor::{Actor, Phase},
    world::World,
};
use crate::{
    changelog::segment::SegmentHandle,
    checkpoint::{
        expand,
        index::{Page, PageRef, Run, Source},
        manifest::{CheckpointRecord, Manifest, tests::sample},
    },
    object::{ObjectName, Path},
    types::Sqn,
};

impl World {
    /// Asserts the invariants.
    pub(super) fn check(&self) {
        let head = self.head();
        if let Some(head) = &head {
            self.check_named(head, None);
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
            let head = head.as_ref().filter(|head| head.owner().epoch == owner.owner.epoch());
            self.check_owner(owner, head.map(|head| &**head));
        }
    }

    fn page(&self, page: &PageRef) -> Bytes {
        self.pages[&page.uuid].clone()
    }

    fn handles(&self, run: &Run) -> Vec<SegmentHandle> {
        expand::handles(run, &|page| self.page(page))
    }

    /// Checks that the objects that a manifest names exist. Pages that its owner is writing need not yet.
    fn check_named(&self, manifest: &Manifest, by: Option<&Actor>) {
        for (epoch, run) in &manifest.runs {
            self.check_pages(&run.pages, by);
            for id in self.handles(run).iter().filter_map(|handle| handle.segment()).cloned() {
                let path = ObjectName::Segment { job: id.job, instance: id.instance, number: id.number }.path();
                self.check_object(&path, &format!("epoch {epoch}"));
            }
        }
        for record in &manifest.epochs {
            self.check_pages(&record.contents.past, by);
        }
        for base in &manifest.materializations {
            self.bases[&base.uuid].1.iter().for_each(|path| self.check_object(path, "a base"));
        }
    }

    fn check_object(&self, path: &Path, of: &str) {
        assert!(self.objects.has(path), "`{path}` of {of} is named and gone");
    }

    fn check_pages(&self, pages: &[PageRef], by: Option<&Actor>) {
        for page in pages {
            let is_new = || by.is_some_and(|by| by.new_pages().any(|(uuid, _)| uuid == page.uuid));
            let path = page.name(&sample().backend).path();
            assert!(self.objects.has(&path) || is_new(), "page `{path}` is named and gone");
            let page = Page::decode(&sample().backend.job, page, &self.page(page)).expect("nobody damages it");
            if let Page::Pages(below) = page {
                self.check_pages(&below, by);
            }
        }
    }

    /// Checks that the rungs of durability are in order, and that everything in flight or retained is kept: its log as
    /// far as it is listed, and its base.
    fn check_owner(&self, actor: &Actor, head: Option<&Manifest>) {
        let (epoch, owner) = (actor.epoch(), &actor.owner);
        let writer = owner.writer();
        let (confirmed, persisted) = (owner.ledger().confirmed_to(), writer.persisted_batches(actor.batches));
        assert!(confirmed <= persisted && persisted <= actor.batches, "rungs of epoch {epoch} are in order");
        assert!(writer.persisted_to() <= writer.listed_to() && writer.listed_to() <= writer.next());
        // Others may have let go of it, and swept.
        let Some(head) = head else { return };
        self.check_named(owner.manifest(), Some(actor));
        self.check_tails(actor, head);
        let is_idle = actor.publication.is_none() && actor.pages.is_none();
        if is_idle && !actor.wants_manifest(&self.instances[actor.instance], false) {
            let of_head = head.checkpoints.iter().map(|record| record.identity);
            let retained = owner.ledger().retained().iter().map(|record| record.identity);
            assert!(of_head.eq(retained), "nothing is on its way, so the head retains what the owner does");
            assert_eq!(
                writer.persisted_to(),
                writer.listed_to(),
                "nothing is on its way, so what is listed is durable"
            );
            let mut waits = owner.ledger().in_flight_records().map(|record| record.cut > writer.listed_to());
            assert!(waits.all(|waits| waits), "nothing is on its way, so no checkpoint waits for a manifest");
        }
        for record in owner.ledger().retained().iter().chain(owner.ledger().in_flight_records()) {
            self.check_contents(owner.manifest(), record, writer.listed_to());
            if record.identity.epoch == epoch && !actor.is_claimed {
                self.check_own(owner.manifest(), record);
            }
        }
        for snapshot in owner.snapshot_contents() {
            let base = snapshot.base.expect("a snapshot leans on bases");
            assert!(owner.manifest().materialization(base).is_some(), "a base that a snapshot uses is not named");
        }
    }

    /// Checks that tails that count as durable are in the head.
    fn check_tails(&self, actor: &Actor, head: &Manifest) {
        let listed = head.runs.get(&actor.epoch()).map(|run| self.handles(run)).unwrap_or_default();
        let listed_to = listed.last().map_or(Sqn::first_of(actor.epoch()), |handle| handle.range.to);
        let tails = actor.owner.manifest().runs.get(&actor.epoch()).into_iter().flat_map(|run| &run.handles);
        let persisted_to = actor.owner.writer().persisted_to();
        let mut durable = tails.filter(|handle| handle.segment().is_none() && handle.range.to <= persisted_to);
        assert!(durable.all(|handle| handle.range.to <= listed_to), "a tail counts as durable, and no manifest has it");
    }

    /// Checks that a checkpoint of an owner without a claim builds on objects of the owner's own alone.
    fn check_own(&self, manifest: &Manifest, record: &CheckpointRecord) {
        let (epoch, contents) = (record.identity.epoch, manifest.contents(record));
        let base = contents.base.and_then(|uuid| manifest.materialization(uuid));
        let is_own = base.is_some_and(|base| base.from.epoch() == epoch) && contents.past.is_empty();
        let is_own = is_own && contents.sources.iter().all(|source| source.epoch == epoch);
        assert!(is_own, "checkpoint {} needs objects that its owner must not claim", record.identity.id);
    }

    /// Checks that the contents of `record` in `manifest` are exactly the state at its barrier; of the present owner's
    /// run only the part below `listed_to`.
    fn check_contents(&self, manifest: &Manifest, record: &CheckpointRecord, listed_to: Sqn) {
        let (id, epoch) = (record.identity.id, record.identity.epoch);
        let contents = manifest.contents(record);
        let log = expand::log(manifest, &contents, &|page| self.page(page));
        for (source, handles) in &log {
            let of_present = listed_to.epoch() == source.epoch;
            let to = if of_present { source.to.min(listed_to.max(source.from)) } else { source.to };
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
            self.bases[&uuid].0.clone()
        });
        let truth = &self.truths[&(epoch, id)].1;
        let sources: Vec<Source> = log.iter().map(|(source, _)| *source).collect();
        assert_eq!(&expand::union(of_base.unwrap_or_default(), &sources), truth, "checkpoint {id} of epoch {epoch}");
    }
}
