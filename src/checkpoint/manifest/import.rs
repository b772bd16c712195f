//! Imports: the parts of other chains that an epoch began with, after a rescale.
//!
//! ```text
//!   chain 0, key groups 0..=42     ▒▒▒▒▒▒▒▒▒░░   checkpoint 9 ─┐  those of 0..=63: all
//!   chain 1, key groups 43..=85    ▒▒▒▒▒▒▒▒▒▒░   checkpoint 9 ─┴▶ chain 0, key groups 0..=63, epoch 5 = two imports
//!                                                                 those of 0..=63: 43..=63
//! ```
//!
//! An import lists the objects of its origin that are needed, as the origin's manifest named them. It stands for
//! itself: the origin may forget the checkpoint, and be swept, because sweeps keep the objects that imports name. An
//! import is dropped once a materialization of its own chain has its contents and no retained checkpoint builds on it.
//!
//! Operator state is imported separately, under [`KeyGroupRange::OPERATOR`], and only for a short time. The new owner
//! reads that of each old subtask, and logs its own share as changes. So no epoch begins with it. The manifest that
//! opens the epoch names it all the same, so that nothing of it is deleted meanwhile; the next manifest does not.
//!
//! If a checkpoint builds on imports itself, these are exported as imports, restricted, followed by its own part. So an
//! import never leads to another import.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::{CheckpointRecord, Contents, EpochRecord, Manifest, Materialization, Registration, Shape, Source};
use crate::{
    checkpoint::index::{PageRef, Run, Totals},
    types::{BackendId, Epoch, KeyGroupRange, StateId},
};

/// A part of a checkpoint of another chain, by key groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// Its UUID, by which the manifest's contents name it.
    pub uuid: Uuid,
    /// The backend in whose chain its objects lie; of the same operator.
    pub origin: BackendId,
    /// The key groups that it has. Its objects may have others, which are ignored.
    pub key_groups: KeyGroupRange,
    /// The ids of entries ([`Registration::data`]) in its objects, and the ids that they get here. Other ids in the
    /// objects are ignored.
    pub states: BTreeMap<StateId, StateId>,
    /// The materialization that it begins with; `None` for the empty state.
    pub materialization: Option<Materialization>,
    /// Pages that list the sources before `sources`, with their runs.
    pub past: Vec<PageRef>,
    /// The origin's runs, as far as `sources` need them.
    pub runs: BTreeMap<u64, Run>,
    /// The parts of the log after that, in order.
    pub sources: Vec<Source>,
}

impl Import {
    /// Most stored bytes that a restore of it reads.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let log = Totals::sum(self.past.iter().map(|page| page.totals).chain(self.runs.values().map(Run::totals)));
        self.materialization.as_ref().map_or(0, |base| base.stored_bytes).saturating_add(log.stored_bytes)
    }

    /// Every page that the import names directly.
    pub fn pages(&self) -> impl Iterator<Item = PageRef> + '_ {
        self.past.iter().chain(self.runs.values().flat_map(|run| &run.pages)).copied()
    }

    /// The import, which `by` has, in the form of a manifest of its origin, for a backend with just these key groups,
    /// and a checkpoint called `id` in it. States have the ids of the origin.
    #[must_use]
    pub fn view(&self, by: &Manifest, id: u64) -> (Manifest, CheckpointRecord) {
        let shape = Shape { key_groups: self.key_groups, ..by.shape };
        let named = |(origin, own): (&StateId, &StateId)| {
            let descriptor = by.states.get(own)?.descriptor.clone();
            Some((*origin, Registration::first(*origin, descriptor)))
        };
        let contents = Contents {
            imports: vec![],
            base: self.materialization.as_ref().map(|base| base.uuid),
            past: self.past.clone(),
            sources: self.sources.clone(),
        };
        // If nothing was logged, any epoch will do.
        let newest = self.sources.last().map_or(1, |source| source.epoch);
        let epoch = EpochRecord {
            epoch: Epoch { number: newest, owner: Uuid::nil() },
            attempt: 0,
            restored: None,
            contents,
            span: shape.span(),
            peers: Bytes::new(),
            job_run: Bytes::new(),
            is_fence: false,
            published_to: None,
        };
        let manifest = Manifest {
            number: 0,
            backend: self.origin.clone(),
            shape,
            epochs: vec![epoch],
            states: self.states.iter().filter_map(named).collect(),
            runs: self.runs.clone(),
            checkpoints: vec![],
            materializations: self.materialization.iter().cloned().collect(),
            imports: vec![],
            instance: Uuid::nil(),
            segment_low_water: 0,
            snapshot_low_water: 0,
            page_low_water: 0,
            previous_crc: 0,
            opens_epoch: false,
            fences: super::Fences::default(),
        };
        let beginning = manifest.beginning(id);
        (manifest, beginning)
    }
}

impl Manifest {
    /// The parts of `checkpoint` with `key_groups` (or [`KeyGroupRange::OPERATOR`]), for the manifest of another
    /// backend, or of this one under another shape. In order: the imports that it builds on, then its own part.
    /// `states` maps its state ids to those of the other manifest; `uuid` makes UUIDs.
    #[must_use]
    pub fn export(
        &self,
        checkpoint: &CheckpointRecord,
        key_groups: KeyGroupRange,
        states: &BTreeMap<StateId, StateId>,
        mut uuid: impl FnMut() -> Uuid,
    ) -> Vec<Import> {
        let contents = self.contents(checkpoint);
        let mut exported = vec![];
        for import in contents.imports.iter().filter_map(|uuid| self.import(*uuid)) {
            // Imports of imports are exported themselves, restricted. A chain of references would grow with each
            // rescale, and a reader would have to follow it.
            let Some(key_groups) = import.key_groups.intersection(key_groups) else { continue };
            let named = |(origin, own): (&StateId, &StateId)| Some((*origin, *states.get(own)?));
            let states = import.states.iter().filter_map(named).collect();
            exported.push(Import { uuid: uuid(), key_groups, states, ..import.clone() });
        }
        let span = self.span(checkpoint).key_groups;
        // Operator state lies outside every range of key groups, so it is exported whole or not at all.
        let own = if key_groups == KeyGroupRange::OPERATOR { Some(key_groups) } else { span.intersection(key_groups) };
        let is_empty = contents.base.is_none() && contents.past.is_empty() && contents.sources.is_empty();
        if let Some(key_groups) = own.filter(|_| !is_empty) {
            let materialization = contents.base.and_then(|uuid| self.materialization(uuid)).cloned();
            exported.push(Import {
                uuid: uuid(),
                origin: self.backend.clone(),
                key_groups,
                states: states.clone(),
                materialization,
                runs: self.runs_of(&contents.sources),
                past: contents.past,
                sources: contents.sources,
            });
        }
        exported
    }

    /// The parts of the runs that `sources` need.
    fn runs_of(&self, sources: &[Source]) -> BTreeMap<u64, Run> {
        let part = |source: &Source| {
            let mut run = self.runs.get(&source.epoch)?.clone();
            run.drop_before(source.from);
            run.drop_from(source.to);
            Some((source.epoch, run))
        };
        sources.iter().filter_map(part).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::manifest::tests::sample,
        types::{CheckpointIdentity, Sqn},
    };

    fn range(first: u32, last: u32) -> KeyGroupRange {
        KeyGroupRange::new(first, last).unwrap()
    }

    fn ids(pairs: &[(u32, u32)]) -> BTreeMap<StateId, StateId> {
        pairs.iter().map(|(from, to)| (StateId(*from), StateId(*to))).collect()
    }

    fn names() -> impl FnMut() -> Uuid {
        let mut next = 1000;
        move || {
            next += 1;
            Uuid::from_u128(next)
        }
    }

    /// A manifest of subtask 5 with the key groups 60 to 99, whose epoch began with the contents of `of`.
    fn importer(of: &Manifest, id: u64) -> Manifest {
        let mut manifest = sample();
        manifest.backend.subtask = 5;
        manifest.shape.key_groups = range(60, 99);
        manifest.imports =
            of.export(of.checkpoint_by_id(id).unwrap(), manifest.shape.key_groups, &ids(&[(1, 4)]), names());
        manifest.epochs.remove(0);
        manifest.epochs[0].span = manifest.shape.span();
        manifest.epochs[0].contents =
            Contents { imports: manifest.imports.iter().map(|import| import.uuid).collect(), ..Contents::default() };
        manifest.checkpoints.retain(|record| record.identity.epoch == 2);
        manifest.runs.remove(&1);
        manifest
    }

    #[test]
    fn an_import_has_the_common_key_groups_and_what_the_checkpoint_needs() {
        let origin = sample();
        let imports = importer(&origin, 7).imports;
        assert_eq!(imports.len(), 1);
        assert_eq!((&imports[0].origin, imports[0].key_groups), (&origin.backend, range(64, 99)));
        assert_eq!(imports[0].sources, origin.contents(origin.checkpoint_by_id(7).unwrap()).sources);
        let handles: Vec<_> = imports[0].runs.values().map(|run| run.handles.len()).collect();
        assert_eq!(handles, [2, 2], "up to the cuts only");
        let none = origin.export(origin.checkpoint_by_id(7).unwrap(), range(0, 63), &ids(&[]), names());
        assert_eq!(none, []);
    }

    #[test]
    fn operator_state_is_never_that_of_an_import() {
        let middle = importer(&sample(), 6);
        let record = middle.checkpoint_by_id(7).unwrap();
        let other = || Uuid::from_u128(5);
        let imports = middle.export(record, KeyGroupRange::OPERATOR, &ids(&[(4, 2)]), other);
        let found: Vec<_> = imports.iter().map(|import| (import.origin.subtask, import.key_groups)).collect();
        assert_eq!(found, [(5, KeyGroupRange::OPERATOR)], "what its owner logged");
        let mut by = importer(&sample(), 7);
        by.imports.extend(imports);
        assert_eq!(Manifest::decode(&by.encode()).unwrap(), by);
        by.prune(&[]);
        assert_eq!(by.imports.len(), 1, "the next manifest does not name it");
    }

    #[test]
    fn imports_of_imports_are_flat_restricted_and_in_order() {
        let origin = sample();
        let middle = importer(&origin, 6);
        let record = middle.checkpoint_by_id(7).unwrap();
        let imports = middle.export(record, range(90, 127), &ids(&[(4, 2), (1, 3)]), names());
        let found: Vec<_> = imports.iter().map(|import| (import.origin.subtask, import.key_groups)).collect();
        assert_eq!(found, [(1, range(90, 99)), (5, range(90, 99))]);
        assert_eq!(imports[0].states, ids(&[(1, 2)]), "1 is 4 there, which is 2 here");
        assert_eq!(imports[1].states, ids(&[(4, 2), (1, 3)]));
        let outside_the_import = middle.export(record, range(60, 63), &ids(&[]), names());
        assert_eq!(outside_the_import.len(), 1, "its own part: {outside_the_import:?}");
    }

    #[test]
    fn a_view_consists_of_what_the_import_has() {
        let mut by = importer(&sample(), 7);
        let descriptor = by.states[&StateId(1)].clone();
        by.states.insert(StateId(4), Registration { data: StateId(4), ..descriptor.clone() });
        let import = by.imports[0].clone();
        let (manifest, record) = import.view(&by, 7);
        assert_eq!(manifest.states, BTreeMap::from([(StateId(1), descriptor)]), "by the ids of the origin");
        assert_eq!(manifest.contents(&record).sources, import.sources);
        assert_eq!((&manifest.backend, manifest.shape.key_groups), (&import.origin, import.key_groups));
    }

    #[test]
    fn imports_go_when_neither_checkpoint_nor_owner_needs_them() {
        let mut manifest = importer(&sample(), 7);
        manifest.prune(&[]);
        assert_eq!(manifest.imports.len(), 1);
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        let at = |n| Sqn(Sqn::first_of(2).0 + n);
        let base = Materialization {
            uuid: Uuid::from_u128(8),
            from: at(25),
            complete_at: at(25),
            index: crate::checkpoint::manifest::SnapshotFile {
                instance: Uuid::nil(),
                name: crate::types::Name::new("x.index").unwrap(),
                bytes: 1,
            },
            index_crc: None,
            stored_bytes: 9,
            changes: 9,
        };
        manifest.materializations.push(base.clone());
        manifest.prune(&[]);
        assert_eq!(manifest.imports.len(), 1, "a checkpoint needs it");
        let in_flight = manifest.contents_at(2, None, at(22));
        manifest.checkpoints.clear();
        manifest.prune(std::slice::from_ref(&in_flight));
        assert_eq!(manifest.imports.len(), 1, "one in flight does");
        manifest.prune(&[]);
        assert_eq!(manifest.imports, []);
        let newer = manifest.contents_at(2, Some(base.uuid), at(26));
        assert_eq!((newer.imports.len(), newer.base), (0, Some(base.uuid)));
    }

    #[test]
    fn the_beginning_of_an_epoch_is_what_it_began_with() {
        let manifest = importer(&sample(), 7);
        let beginning = manifest.beginning(7);
        assert_eq!(manifest.contents(&beginning), manifest.owner().contents);
        assert_eq!(beginning.identity, CheckpointIdentity { epoch: 2, id: 7, uuid: Uuid::nil() });
    }
}
