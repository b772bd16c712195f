//! A reader that owns no chain: it pins a checkpoint, checks that the head still retains it, and only then relies on
//! it.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::script::{Objects, Request, Script, Stage};
use crate::{
    checkpoint::{
        chain::{self, Head},
        expand,
        index::PageRef,
        manifest::{Import, tests::sample},
        pin::{Held, Pin},
    },
    object::{ObjectName, Path, Retry, Store},
    random::Random,
    types::{CheckpointIdentity, StateId},
};

/// A reader at some point of its work.
#[derive(Debug, Clone, Hash)]
pub(super) struct Reader {
    number: u64,
    checkpoint: CheckpointIdentity,
    /// The objects that it reads; empty if it gave up or is done.
    #[allow(clippy::struct_field_names, reason = "as in a pin")]
    reads: Vec<Path>,
    script: Option<Script>,
    pin: Option<Path>,
}

impl Reader {
    /// Reads the head, and begins to pin the checkpoint at position `at` in it.
    pub(super) fn new(stage: &Stage, number: u64, objects: &mut Objects, at: usize) -> Self {
        let read = |store: Store| async move { read_head(&store).await };
        let head = Script::whole(stage, objects, read);
        let checkpoint = head.manifest.checkpoints[at].identity;
        let imports = imports(&head, checkpoint);
        let reads = imports.iter().flat_map(|import| names(objects, import)).collect();
        let script = Some(Script::begin(stage, |store| pin(store, number, imports.clone(), checkpoint)));
        Self { number, checkpoint, reads, script, pin: None }
    }

    pub(super) fn is_pinning(&self) -> bool {
        self.script.is_some()
    }

    pub(super) fn holds(&self) -> bool {
        self.pin.is_some() && self.script.is_none()
    }

    /// The objects that must exist, from the moment when it relies on its pin until it releases the pin.
    pub(super) fn reads(&self) -> &[Path] {
        if self.holds() { &self.reads } else { &[] }
    }

    pub(super) fn step(&mut self, stage: &Stage, objects: &mut Objects) {
        let mut script = self.script.take().expect("it is pinning");
        if let Some(Request::Create(path, bytes)) = script.next() {
            self.pin = Some(path.clone());
            let decoded = Pin::decode(&sample().backend.job, bytes).expect("it is a pin");
            assert!(!decoded.imports.is_empty());
        }
        let imports = self.pin_imports(objects, &script);
        let counts = script.step(stage, objects, |store| pin(store, self.number, imports.clone(), self.checkpoint));
        match counts {
            None => self.script = Some(script),
            Some(true) => {}
            Some(false) => self.release(objects),
        }
    }

    /// The imports that it pins: those of the request, or of the pin that was made.
    fn pin_imports(&self, objects: &Objects, script: &Script) -> Vec<Import> {
        let bytes = match script.next() {
            Some(Request::Create(_, bytes)) => bytes,
            _ => objects.get(self.pin.as_ref().expect("the pin was first")).expect("nobody revokes it"),
        };
        Pin::decode(&sample().backend.job, bytes).expect("it is a pin").imports
    }

    /// Deletes its pin, if it made one.
    pub(super) fn release(&mut self, objects: &mut Objects) {
        (self.script, self.reads) = (None, vec![]);
        if let Some(path) = self.pin.take() {
            Request::Delete(vec![path]).arrive(objects);
        }
    }
}

async fn read_head(store: &Store) -> Head {
    chain::read_head(store, &sample().backend, Retry::none()).await.unwrap().expect("somebody opened it")
}

/// Whether the pin is effective.
async fn pin(store: Store, number: u64, imports: Vec<Import>, checkpoint: CheckpointIdentity) -> bool {
    let (job, operator) = (sample().backend.job, sample().backend.operator);
    let pin = Pin { operator, lease_ms: u64::MAX, imports };
    let random = Random::seeded(number);
    let _held = Held::make(&store, &job, &pin, &random, Retry::none()).await.unwrap();
    let head = read_head(&store).await;
    head.manifest.checkpoints.iter().any(|record| record.identity == checkpoint)
}

fn imports(head: &Head, checkpoint: CheckpointIdentity) -> Vec<Import> {
    let manifest = &head.manifest;
    let record = manifest.checkpoints.iter().find(|record| record.identity == checkpoint).expect("it was chosen");
    let (names, mut imports) = (BTreeMap::from([(StateId(1), StateId(1))]), 0);
    let uuid = || {
        imports += 1;
        Uuid::from_u128(imports)
    };
    manifest.export(record, manifest.shape.key_groups, &names, uuid)
}

/// The objects that an import names.
fn names(objects: &Objects, import: &Import) -> Vec<Path> {
    let origin = &import.origin;
    let read = |page: &PageRef| objects.get(&page.name(origin).path()).expect("the head names it").clone();
    let log = expand::parts_of(&import.past, &import.sources, &import.runs, &read);
    let segments = log.iter().flat_map(|(_, handles)| handles).filter_map(|handle| handle.segment()).cloned();
    let segments =
        segments.map(|id| ObjectName::Segment { job: id.job, instance: id.instance, number: id.number }.path());
    let index = import.materialization.as_ref().map(|base| base.index.path(origin));
    segments.chain(index).chain(import.pages().map(|page| page.name(origin).path())).collect()
}
