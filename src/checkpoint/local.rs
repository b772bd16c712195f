//! Decides which objects of a backend are worth a local copy: those that a restore of the newest completed checkpoint,
//! or of a newer one, reads. Pure.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{
    index::PageRef,
    ledger::Ledger,
    manifest::{CheckpointRecord, Contents, Manifest, SnapshotFile, Source},
};
use crate::{
    object::Path,
    object::copies::{Label, Part, Use, Wanted},
    types::{BackendId, Sqn, SqnRange},
};

/// The objects that the owner of `manifest` needs: those of the newest completed checkpoint, of newer ones that are
/// published or in flight, and those that later checkpoints will build on. `snapshots` are the contents that running
/// snapshots use; their files are numbered from `snapshot_low_water` on.
#[must_use]
pub fn wanted(
    manifest: &Manifest,
    ledger: &Ledger,
    snapshots: impl Iterator<Item = Contents>,
    snapshot_low_water: u64,
) -> Wanted {
    let owner = manifest.owner().epoch.number;
    let mut wanted = Wanted { files_from: (owner, snapshot_low_water), ..Wanted::default() };
    for contents in &recent(manifest, ledger, snapshots) {
        add(&mut wanted, manifest, contents);
    }
    wanted
}

/// The UUIDs of the materializations that the owner of `manifest` needs in the same sense.
#[must_use]
pub fn bases(manifest: &Manifest, ledger: &Ledger, snapshots: impl Iterator<Item = Contents>) -> BTreeSet<Uuid> {
    let mut bases = BTreeSet::new();
    for contents in recent(manifest, ledger, snapshots) {
        let imports = contents.imports.iter().filter_map(|uuid| manifest.import(*uuid));
        bases.extend(imports.flat_map(|import| &import.materialization).map(|base| base.uuid));
        bases.extend(contents.base);
    }
    bases
}

/// The contents of the newest completed checkpoint and of everything newer.
fn recent(manifest: &Manifest, ledger: &Ledger, snapshots: impl Iterator<Item = Contents>) -> Vec<Contents> {
    let owner = manifest.owner().epoch.number;
    let retained = ledger.retained();
    // Without a completed checkpoint a restore may take any of them.
    let newest = retained.iter().rposition(|record| record.completed && !record.subsumed).unwrap_or(0);
    let recent = retained.iter().skip(newest).chain(ledger.in_flight_records());
    let mut all: Vec<Contents> =
        recent.map(|record: &CheckpointRecord| manifest.contents(record)).chain(snapshots).collect();
    let base = manifest.materializations.iter().rev().find(|base| base.from.epoch() == owner).map(|base| base.uuid);
    // The contents that the next checkpoint will have, at any cut.
    all.push(manifest.contents_at(owner, base, Sqn(u64::MAX)));
    all
}

fn add(wanted: &mut Wanted, manifest: &Manifest, contents: &Contents) {
    for import in contents.imports.iter().filter_map(|uuid| manifest.import(*uuid)) {
        add_log(wanted, &import.origin, &import.past, &import.sources);
        wanted.objects.extend(import.materialization.iter().map(|base| base.index.path(&import.origin)));
    }
    let base = contents.base.and_then(|uuid| manifest.materialization(uuid));
    wanted.objects.extend(base.map(|base| base.index.path(&manifest.backend)));
    add_log(wanted, &manifest.backend, &contents.past, &contents.sources);
}

/// Adds the log of some sources. For a past it also adds the log between its parts, which owners wrote after the
/// checkpoint that their successors restored.
fn add_log(wanted: &mut Wanted, of: &BackendId, past: &[PageRef], sources: &[Source]) {
    let past = past.iter().map(|page| page.range);
    let ranges = past.chain(sources.iter().map(|source| SqnRange { from: source.from, to: source.to }));
    for range in ranges.map(|range| (of.clone(), range)) {
        if !wanted.log.contains(&range) {
            wanted.log.push(range);
        }
    }
}

/// The label of a copy of a snapshot file of `backend`; `leads_to` are the files that its readers read after it.
#[must_use]
pub fn file_label(backend: &BackendId, file: &SnapshotFile, leads_to: Vec<Path>) -> Label {
    let (epoch, number) = SnapshotFile::parse(file.name.as_str()).unwrap_or_default();
    let uses = vec![Use { backend: backend.clone(), part: Part::File { epoch, number } }];
    Label { uses, leads_to, is_image: false }
}

/// The label of a copy of a page that lists changes of one of `origins`.
#[must_use]
pub fn page_label(origins: &[BackendId], page: &PageRef) -> Label {
    let of = |origin: &BackendId| Use { backend: origin.clone(), part: Part::Log(page.range) };
    Label { uses: origins.iter().map(of).collect(), ..Label::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::iter;

    use super::*;
    use crate::{
        checkpoint::{
            ledger::{NoticeKind, NoticeTarget, Retention},
            manifest::tests::sample,
        },
        types::Name,
    };

    fn base(uuid: u128, from: u64) -> crate::checkpoint::manifest::Materialization {
        let at = |n| Sqn(Sqn::first_of(2).0 + n);
        let name = Name::new(&format!("00000002-{uuid:012}.index")).unwrap();
        let index = SnapshotFile { instance: Uuid::nil(), name, bytes: 1 };
        let (from, complete_at) = (at(from), at(from));
        let uuid = Uuid::from_u128(uuid);
        crate::checkpoint::manifest::Materialization {
            uuid,
            from,
            complete_at,
            index,
            index_crc: None,
            stored_bytes: 1,
            changes: 1,
        }
    }

    #[test]
    fn the_newest_completed_and_what_is_newer_is_wanted_whatever_the_order_of_notices() {
        let mut manifest = sample();
        manifest.materializations = vec![base(1, 5), base(2, 15)];
        let template = manifest.checkpoints.last().unwrap().clone();
        let record = |id: u64, cut: u64, base: Option<u128>| {
            let mut record = template.clone();
            (record.identity.id, record.cut, record.completed) = (id, Sqn(Sqn::first_of(2).0 + cut), false);
            record.base = base.map(Uuid::from_u128);
            record
        };
        let records = vec![record(8, 4, None), record(9, 10, Some(1)), record(10, 20, Some(2))];
        let names = |wanted: &Wanted| -> Vec<String> {
            wanted.objects.iter().filter_map(|path| path.filename()).map(|name| name[15..21].to_owned()).collect()
        };
        let complete = |ledger: &mut Ledger, id| {
            ledger.notice(NoticeKind::Complete, NoticeTarget { epoch: 2, id, uuid: None });
        };
        let mut ledger = Ledger::new(2, Retention::Explicit, records.clone(), 0);
        complete(&mut ledger, 9);
        let some = wanted(&manifest, &ledger, iter::empty(), 7);
        assert_eq!((names(&some), some.files_from), (vec!["000001".to_owned(), "000002".to_owned()], (2, 7)));
        complete(&mut ledger, 10);
        let newest = wanted(&manifest, &ledger, iter::empty(), 7);
        assert_eq!(names(&newest), ["000002"]);
        assert!(newest.log.iter().all(|(_, range)| range.from == base(2, 15).from), "{:?}", newest.log);
        complete(&mut ledger, 8);
        assert_eq!(wanted(&manifest, &ledger, iter::empty(), 7), newest, "an older one comes too late");
        ledger.notice(NoticeKind::Abort, NoticeTarget { epoch: 2, id: 10, uuid: None });
        assert_eq!(names(&wanted(&manifest, &ledger, iter::empty(), 7)), ["000001", "000002"]);
    }
}
