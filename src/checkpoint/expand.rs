//! Reads log indexes whole, through their pages, for tests.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    index::{Page, PageRef, Run, Source, Stretch},
    manifest::{Contents, Manifest, tests::sample},
};
use crate::changelog::segment::SegmentHandle;

/// A source with all its handles.
pub(super) type Part = (Source, Vec<SegmentHandle>);

/// All pages of the lowest level, in order. `get` returns the bytes of a page.
pub(super) fn leaves(pages: &[PageRef], get: &impl Fn(&PageRef) -> Bytes) -> Vec<Page> {
    let mut leaves = vec![];
    for page in pages {
        match Page::decode(&sample().backend.job, page, &get(page)).unwrap() {
            Page::Pages(pages) => leaves.extend(self::leaves(&pages, get)),
            leaf => leaves.push(leaf),
        }
    }
    leaves
}

/// All handles of a run, in order.
pub(super) fn handles(run: &Run, get: &impl Fn(&PageRef) -> Bytes) -> Vec<SegmentHandle> {
    let mut handles = vec![];
    for page in leaves(&run.pages, get) {
        let Page::Handles(found) = page else { panic!("a run lists handles") };
        handles.extend(found);
    }
    handles.extend_from_slice(&run.handles);
    handles
}

/// The log of `contents` in `manifest`, in order.
pub(super) fn log(manifest: &Manifest, contents: &Contents, get: &impl Fn(&PageRef) -> Bytes) -> Vec<Part> {
    let imports = contents.imports.iter().map(|uuid| manifest.import(*uuid).expect("an import"));
    let imports = imports.map(|import| (&import.past, &import.sources, &import.runs));
    let parts = imports.chain([(&contents.past, &contents.sources, &manifest.runs)]);
    parts.flat_map(|(past, sources, runs)| parts_of(past, sources, runs, get)).collect()
}

/// The parts that a past and the sources after it list, in order.
pub(super) fn parts_of(
    past: &[PageRef],
    sources: &[Source],
    runs: &BTreeMap<u64, Run>,
    get: &impl Fn(&PageRef) -> Bytes,
) -> Vec<Part> {
    let mut stretches = vec![];
    for page in leaves(past, get) {
        let Page::Past(found) = page else { panic!("a past lists sources") };
        stretches.extend(found);
    }
    let run = |source: &Source| runs.get(&source.epoch).cloned().unwrap_or_default();
    stretches.extend(sources.iter().map(|source| Stretch { source: *source, run: run(source) }));
    stretches.into_iter().map(|stretch| (stretch.source, handles(&stretch.run, get))).collect()
}

/// Both in order; adjacent parts of one run are joined.
pub(super) fn union(base: Vec<Source>, sources: &[Source]) -> Vec<Source> {
    let mut all = base;
    for source in sources {
        match all.last_mut().filter(|last| last.epoch == source.epoch && source.from <= last.to) {
            Some(last) => last.to = last.to.max(source.to),
            None => all.push(*source),
        }
    }
    all
}
