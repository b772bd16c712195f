//! `dstl dump`, which decodes an object after it has verified all checksums.
//!
//! Most objects are recognized by their first eight bytes: segments, manifests, pages of a log index, indexes of
//! materializations and their pieces, job records, reports, pins, checkpoint handles. Others are recognized by their
//! path: files of images, which have the format of RocksDB, and objects that are only marks (renewals of pins, leases
//! of sweeps). If the path implies another object than the bytes do, the object is damaged.

mod base;
mod decode;

pub use self::decode::decode_handle;

use bytes::Bytes;
use uuid::Uuid;

use super::{checkpoints::of_checkpoint, hex, outline::Node};
use crate::{
    changelog::segment::{self, BlockHandle, SegmentHandle},
    checkpoint::{
        base::BaseIndex,
        envelope::EnvelopeError,
        handle::CheckpointHandle,
        index::{Home, Page, PageRef, Run, Stretch, Totals},
        job::{Beginning, Commit, JobCheckpoint, JobRecord, Report, Spoilt, Start},
        manifest::{EpochRecord, Import, Manifest, Materialization, Source},
        pin::Pin,
    },
    materialization::pieces,
    object::{ObjectName, Path},
    types::{CheckpointIdentity, Name, Sqn},
};

/// The reason why an object cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The object was not written by dstl.
    #[error(
        "`{object}` begins with none of the magics of segments, manifests, index pages, materializations, job records, reports, pins and \
         checkpoint handles, and has not the path of an object of dstl either"
    )]
    Unrecognized {
        /// Path or URL of the object, as given.
        object: String,
    },
    /// The object was written by dstl, and is damaged.
    #[error("`{object}` is damaged: {what}")]
    Damaged {
        /// Path or URL of the object, as given.
        object: String,
        /// The place and kind of the damage.
        what: String,
    },
}

/// Decodes the object `bytes`. Messages call it `object`, which is its path or URL as given.
///
/// # Errors
/// [`DumpError`] names the object and the damage.
pub fn describe(object: &str, bytes: &Bytes) -> Result<Node, DumpError> {
    let damaged = |what: String| DumpError::Damaged { object: object.to_owned(), what };
    let of_envelope = |error: EnvelopeError| damaged(error.to_string());
    let name = name_of(object);
    let unrecognized = || DumpError::Unrecognized { object: object.to_owned() };
    let magic: &[u8; 8] = bytes.first_chunk().unwrap_or(&[0; 8]);
    let is_snapshot_file = || name.as_ref().is_none_or(|name| matches!(name, ObjectName::SnapshotFile { .. }));
    let (kind, fields, is_named_so) = match magic {
        b"DSTLBASE" => {
            let index = BaseIndex::decode(bytes).map_err(of_envelope)?;
            ("index of a materialization", base::fields(&index), is_snapshot_file())
        }
        b"DSTLPIEC" => {
            let pieces = pieces::verify(bytes).map_err(damaged)?;
            ("pieces of a materialization", vec![("bytes_of_pieces", pieces.into())], is_snapshot_file())
        }
        b"DSTLSEG1" => {
            let index = segment::verify(bytes).map_err(|error| damaged(error.to_string()))?;
            let named = name.as_ref().is_none_or(|name| {
                matches!(name, ObjectName::Segment { instance, number, .. }
                    if (*instance, *number) == (index.instance, index.number))
            });
            ("segment", segment_fields(&index), named)
        }
        b"DSTLMANI" => {
            let manifest = Manifest::decode(bytes).map_err(of_envelope)?;
            let own = ObjectName::Manifest { backend: manifest.backend.clone(), number: manifest.number };
            ("manifest", manifest_fields(&manifest), name.is_none_or(|name| name == own))
        }
        b"DSTLPAGE" => {
            let (page, home, uuid) = Page::read(&job_of(name.as_ref()), bytes).map_err(of_envelope)?;
            let named = name.is_none_or(|name| {
                matches!(name, ObjectName::IndexPage { backend, epoch, id }
                    if (backend.subtask, epoch, id) == (home.subtask, home.epoch, uuid))
            });
            ("page of a log index", page_fields(&page, home, uuid), named)
        }
        b"DSTLJOBR" => {
            let record = JobRecord::decode(bytes).map_err(of_envelope)?;
            let named =
                name.is_none_or(|name| matches!(name, ObjectName::JobRecord { number, .. } if number == record.number));
            ("job record", job_record_fields(&record), named)
        }
        b"DSTLREPT" => {
            let report = Report::decode(bytes).map_err(of_envelope)?;
            ("report", report_fields(&report), name.is_none_or(|name| name == report.name()))
        }
        b"DSTLPINS" => {
            let pin = Pin::decode(&job_of(name.as_ref()), bytes).map_err(of_envelope)?;
            let named = name.is_none_or(|name| matches!(name, ObjectName::Pin { .. }));
            ("pin", pin_fields(&pin), named)
        }
        b"DSTLHAND" => {
            let handle = CheckpointHandle::decode(bytes).map_err(of_envelope)?;
            ("checkpoint handle", handle_fields(&handle), true)
        }
        _ => {
            let (kind, fields) = of_path(name.as_ref(), bytes).ok_or_else(unrecognized)?;
            (kind, fields, true)
        }
    };
    // Readers find an object by its name, so a whole object under the name of another one is damage to the other one.
    if !is_named_so {
        return Err(damaged(format!("it is a whole {kind}, but lies under another object's name")));
    }
    let mut all =
        vec![("kind", Node::text(kind)), ("object", Node::text(object)), ("bytes", (bytes.len() as u64).into())];
    all.extend(fields);
    Ok(Node::Fields(all))
}

/// The job of an object, if its name is known; else `unknown`.
fn job_of(name: Option<&ObjectName>) -> Name {
    name.map_or_else(|| Name::new("unknown").expect("a valid name"), |name| name.job().clone())
}

/// Kind and fields of an object without magic, by its name. `None` if objects with this name have a magic.
fn of_path(name: Option<&ObjectName>, bytes: &Bytes) -> Option<(&'static str, Vec<(&'static str, Node)>)> {
    let kind = match name? {
        ObjectName::SnapshotFile { file, .. } if !file.as_str().ends_with(".index") => "file of an image of RocksDB",
        ObjectName::PinRenewal { .. } => "renewal of a pin",
        ObjectName::SweepLease { .. } => "lease of a sweep",
        ObjectName::Clock { .. } => "made to read the clock of the store",
        ObjectName::Temporary { .. } => "part of an object that a killed process was writing",
        _ => return None,
    };
    Some((kind, vec![("crc", crc(crc32fast::hash(bytes)))]))
}

/// The name of the object whose path or URL is `object`. The path may follow any prefix that ends with `/`.
fn name_of(object: &str) -> Option<ObjectName> {
    // The prefix of the store is not known, so the longest end that is the name of an object counts.
    let starts = std::iter::once(0).chain(object.match_indices('/').map(|(at, _)| at + 1));
    starts.filter_map(|at| Path::parse(object.get(at..)?).ok()).find_map(|path| ObjectName::parse(&path))
}

fn segment_fields(index: &segment::SegmentIndex) -> Vec<(&'static str, Node)> {
    let sets = index.sets.iter().map(|set| {
        Node::Fields(vec![
            ("backend", Node::text(format_args!("{}/{}", set.operator, set.subtask))),
            ("epoch", set.epoch.into()),
            ("sqns", Node::text(set.range)),
            ("changes", set.changes.into()),
            ("blocks", Node::list(set.blocks.iter().map(block))),
        ])
    });
    vec![("instance", Node::text(index.instance)), ("number", index.number.into()), ("change_sets", Node::list(sets))]
}

fn block(block: &BlockHandle) -> Node {
    Node::Fields(vec![
        ("offset", block.offset.into()),
        ("stored_bytes", block.stored_length.into()),
        ("bytes", block.length.into()),
        ("compression", Node::text(format_args!("{:?}", block.compression).to_string().to_lowercase())),
        ("crc", crc(block.crc)),
        ("key_groups", Node::text(block.key_groups)),
    ])
}

fn manifest_fields(manifest: &Manifest) -> Vec<(&'static str, Node)> {
    let shape = &manifest.shape;
    let assignment = format!("{:?}", shape.assignment).to_lowercase();
    let states = manifest.states.iter().map(|(id, registration)| {
        let state = &registration.descriptor;
        Node::Fields(vec![
            ("registration", id.0.into()),
            ("id", registration.data.0.into()),
            ("migrating_from", Node::list(registration.migrating_from.iter().map(|data| data.0.into()))),
            ("name", Node::text(&state.name)),
            ("kind", Node::text(format!("{:?}", state.kind).to_lowercase())),
            ("merge", state.merge.map_or(Node::None, |merge| Node::text(format_args!("{merge:?}")))),
            (
                "redistribution",
                state.redistribution.map_or(Node::None, |one| Node::text(format!("{one:?}").to_lowercase())),
            ),
            ("schema", Node::text(state.schema.to_string())),
            ("ttl_ms", Node::Number(state.ttl.map_or(0, |ttl| ttl.duration_ms))),
            ("default_value_bytes", Node::Number(state.default_value.len() as u64)),
        ])
    });
    let runs = manifest.runs.iter().map(|(epoch, of)| run(*epoch, of));
    vec![
        ("backend", Node::text(&manifest.backend)),
        ("number", manifest.number.into()),
        ("opens_epoch", manifest.opens_epoch.into()),
        ("previous_crc", crc(manifest.previous_crc)),
        ("parallelism", shape.parallelism.into()),
        ("max_parallelism", shape.max_parallelism.into()),
        ("key_groups", Node::text(shape.key_groups)),
        ("key_group_assignment", Node::text(assignment)),
        ("inner_backend", Node::text(shape.inner)),
        ("changelog", shape.changelog.into()),
        ("instance", Node::text(manifest.instance)),
        ("segment_low_water", low_water(manifest.segment_low_water)),
        ("page_low_water", manifest.page_low_water.into()),
        ("epochs", Node::list(manifest.epochs.iter().map(epoch))),
        ("states", Node::list(states)),
        ("checkpoints", Node::list(manifest.checkpoints.iter().map(|record| of_checkpoint(manifest, record)))),
        ("materializations", Node::list(manifest.materializations.iter().map(materialization))),
        ("imports", Node::list(manifest.imports.iter().map(import))),
        ("log", Node::list(runs)),
    ]
}

fn materialization(base: &Materialization) -> Node {
    Node::Fields(vec![
        ("uuid", Node::text(base.uuid)),
        ("from", Node::text(base.from)),
        ("complete_at", Node::text(base.complete_at)),
        ("index", Node::text(&base.index.name)),
        ("index_crc", base.index_crc.map_or(Node::text("not recorded"), |crc| Node::text(format_args!("{crc:08x}")))),
        ("stored_bytes", base.stored_bytes.into()),
        ("changes", base.changes.into()),
    ])
}

fn import(import: &Import) -> Node {
    let names = import.states.iter().map(|(origin, own)| Node::text(format_args!("{} is {}", origin.0, own.0)));
    Node::Fields(vec![
        ("uuid", Node::text(import.uuid)),
        ("of", Node::text(&import.origin)),
        ("key_groups", Node::text(import.key_groups)),
        ("states", Node::list(names)),
        ("materialization", import.materialization.as_ref().map_or(Node::None, materialization)),
        ("past", Node::list(import.past.iter().map(page_ref))),
        ("sources", Node::list(import.sources.iter().map(source))),
        ("log", Node::list(import.runs.iter().map(|(epoch, of)| run(*epoch, of)))),
    ])
}

fn pin_fields(pin: &Pin) -> Vec<(&'static str, Node)> {
    vec![
        ("operator", Node::text(&pin.operator)),
        ("lease_ms", pin.lease_ms.into()),
        ("imports", Node::list(pin.imports.iter().map(import))),
    ]
}

fn source(source: &Source) -> Node {
    Node::text(format_args!("epoch {} from {} up to {}", source.epoch, source.from, source.to))
}

fn low_water(number: u64) -> Node {
    if number == u64::MAX { Node::text("closed: no further segment will be named") } else { number.into() }
}

fn epoch(record: &EpochRecord) -> Node {
    Node::Fields(vec![
        ("epoch", record.epoch.number.into()),
        ("owner", Node::text(record.epoch.owner)),
        ("attempt", record.attempt.into()),
        ("restored", record.restored.map_or(Node::None, |(identity, _)| Node::text(identity))),
        ("fence", record.is_fence.into()),
        ("peers", Node::text(hex(&record.peers))),
        ("run", Node::text(hex(&record.job_run))),
        ("parallelism", record.span.parallelism.into()),
        ("key_groups", Node::text(record.span.key_groups)),
        ("began_with_imports", Node::list(record.contents.imports.iter().map(Node::text))),
        ("began_with_materialization", record.contents.base.map_or(Node::None, Node::text)),
        ("began_with_past", Node::list(record.contents.past.iter().map(page_ref))),
        ("began_with", Node::list(record.contents.sources.iter().map(source))),
    ])
}

fn run(epoch: u64, run: &Run) -> Node {
    let Totals { change_sets, stored_bytes, changes } = run.totals();
    Node::Fields(vec![
        ("epoch", epoch.into()),
        ("first", Node::text(Sqn::first_of(epoch))),
        ("change_sets", change_sets.into()),
        ("stored_bytes", stored_bytes.into()),
        ("changes", changes.into()),
        ("pages", Node::list(run.pages.iter().map(page_ref))),
        ("handles", Node::list(run.handles.iter().map(handle))),
    ])
}

fn page_fields(page: &Page, home: Home, uuid: Uuid) -> Vec<(&'static str, Node)> {
    let list = match page {
        Page::Handles(handles) => ("handles", Node::list(handles.iter().map(handle))),
        Page::Past(stretches) => ("past", Node::list(stretches.iter().map(stretch))),
        Page::Pages(pages) => ("pages", Node::list(pages.iter().map(page_ref))),
        Page::Attachments(all) => ("attachments", Node::list(all.iter().map(|(of, bytes)| attachment(of, bytes)))),
    };
    let (subtask, epoch) = (home.subtask, home.epoch);
    vec![
        ("uuid", Node::text(uuid)),
        ("subtask", subtask.into()),
        ("epoch", epoch.into()),
        ("level", page.level().into()),
        list,
    ]
}

fn attachment(of: &CheckpointIdentity, bytes: &Bytes) -> Node {
    Node::Fields(vec![("checkpoint", Node::text(of)), ("attachment", Node::text(hex(bytes)))])
}

fn stretch(stretch: &Stretch) -> Node {
    Node::Fields(vec![("source", source(&stretch.source)), ("log", run(stretch.source.epoch, &stretch.run))])
}

fn page_ref(page: &PageRef) -> Node {
    Node::Fields(vec![
        ("uuid", Node::text(page.uuid)),
        ("subtask", page.home.subtask.into()),
        ("epoch", page.home.epoch.into()),
        ("level", page.level.into()),
        ("sqns", Node::text(page.range)),
        ("change_sets", page.totals.change_sets.into()),
        ("stored_bytes", page.totals.stored_bytes.into()),
        ("changes", page.totals.changes.into()),
        ("crc", crc(page.crc)),
    ])
}

fn handle(handle: &SegmentHandle) -> Node {
    let blocks = handle.blocks.iter().map(|block| format!("{}+{}", block.offset, block.stored_length));
    Node::Fields(vec![
        ("sqns", Node::text(handle.range)),
        ("changes", handle.changes.into()),
        match handle.segment() {
            Some(id) => ("segment", Node::text(format_args!("{}/{}", id.instance, id.number))),
            None => ("inline_bytes", (handle.inline_bytes() as u64).into()),
        },
        ("at", Node::text(blocks.collect::<Vec<_>>().join(" "))),
    ])
}

fn damaged(spoilt: &Spoilt) -> Node {
    let JobCheckpoint { attempt, id } = spoilt.checkpoint;
    Node::Fields(vec![("id", id.into()), ("attempt", attempt.into()), ("what", Node::text(&spoilt.what))])
}

fn job_record_fields(record: &JobRecord) -> Vec<(&'static str, Node)> {
    let restores = match (record.beginning, record.restore()) {
        (Beginning::Undecided, _) => Node::text("not chosen yet"),
        (_, Some(restore)) => Node::text(format_args!("checkpoint {restore}")),
        (_, None) => Node::text("nothing: it begins empty"),
    };
    let declared = record.declared.as_ref().map_or_else(|| Node::text("no: its engine coordinates"), Node::text);
    let committed = |commit: &Commit| {
        let parts = commit.parts.iter().flat_map(|(operator, parts)| {
            let part =
                |(part, subtask): (&CheckpointIdentity, u32)| Node::text(format_args!("{operator}/{subtask}: {part}"));
            parts.iter().zip(0..).map(part).collect::<Vec<_>>()
        });
        Node::Fields(vec![("checkpoint", Node::text(commit.checkpoint)), ("parts", Node::list(parts))])
    };
    vec![
        ("number", record.number.into()),
        ("attempt", record.attempt.into()),
        ("began", record.began.into()),
        ("restores", restores),
        ("declared", declared),
        ("new_operators", Node::list(record.new_operators.iter().map(Node::text))),
        ("commit", record.commit.as_ref().map_or(Node::None, committed)),
        ("earlier_commits", Node::list(record.earlier.iter().map(Node::text))),
        ("damaged", Node::list(record.spoilt.iter().map(damaged))),
        ("starts", Node::list(record.starts.iter().map(start))),
    ]
}

fn start(start: &Start) -> Node {
    Node::text(format_args!("{} is attempt {}", hex(&start.token), start.attempt))
}

fn report_fields(report: &Report) -> Vec<(&'static str, Node)> {
    let mut fields = vec![("attempt", report.attempt.into())];
    fields.extend(handle_fields(&report.handle()));
    fields
}

fn handle_fields(handle: &CheckpointHandle) -> Vec<(&'static str, Node)> {
    vec![
        ("backend", Node::text(&handle.backend)),
        ("id", handle.checkpoint.id.into()),
        ("epoch", handle.checkpoint.epoch.into()),
        ("uuid", Node::text(handle.checkpoint.uuid)),
        ("hex", Node::text(hex(&handle.encode()))),
    ]
}

fn crc(crc: u32) -> Node {
    Node::text(format_args!("{crc:08x}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::{
        changelog::segment::SegmentHandle,
        checkpoint::{index::tests::handle as segment_handle, manifest::tests::sample},
        types::{BackendId, CheckpointIdentity},
    };

    #[test]
    fn tells_what_a_manifest_is_and_that_it_lies_under_another_name() {
        let manifest = sample();
        let path = ObjectName::Manifest { backend: manifest.backend.clone(), number: 12 }.path();
        let node = describe(&format!("/srv/store/{path}"), &manifest.encode()).unwrap();
        let text = node.to_text();
        for line in ["kind: manifest", "backend: job/count/1", "segment low water: 41", "number: 12"] {
            assert!(text.lines().any(|l| l == line), "`{line}` is not in\n{text}");
        }
        assert_eq!(node.to_json()["checkpoints"][1]["id"], 6);
        let other = ObjectName::Manifest { backend: manifest.backend.clone(), number: 13 }.path();
        let error = describe(other.as_ref(), &manifest.encode()).unwrap_err();
        assert!(error.to_string().contains("under another object's name"), "{error}");
        describe("copied.bin", &manifest.encode()).unwrap();
    }

    #[test]
    fn names_what_is_damaged() {
        let mut bytes = sample().encode().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let error = describe("m", &bytes.into()).unwrap_err();
        assert!(matches!(&error, DumpError::Damaged { object, .. } if object == "m"), "{error}");
        assert!(error.to_string().contains("checksum"), "{error}");
        assert!(matches!(describe("x", &Bytes::from_static(b"hello world")), Err(DumpError::Unrecognized { .. })));
        assert!(matches!(describe("x", &Bytes::new()), Err(DumpError::Unrecognized { .. })));
    }

    #[test]
    fn tells_what_a_page_is() {
        let handles: Vec<SegmentHandle> = vec![segment_handle(0, 10), segment_handle(10, 20)];
        let home = Home { subtask: 0, epoch: 7 };
        let bytes = Page::Handles(handles).seal(home, Uuid::nil()).bytes;
        let node = describe("page", &bytes).unwrap();
        assert_eq!(node.to_json()["handles"].as_array().unwrap().len(), 2);
        let backend = BackendId { job: Name::new("wc").unwrap(), operator: Name::new("op").unwrap(), subtask: 0 };
        let at = |epoch| ObjectName::IndexPage { backend: backend.clone(), epoch, id: Uuid::nil() }.path();
        let at_sqn = |n| Sqn(Sqn::first_of(1).0 + n);
        let source = Source { epoch: 1, from: at_sqn(3), to: at_sqn(10) };
        let of_run = segment_handle(at_sqn(0).0, at_sqn(10).0);
        let pages = vec![Page::Handles(vec![of_run]).seal(home, Uuid::nil()).reference];
        let past = Page::Past(vec![Stretch { source, run: Run { pages, handles: vec![] } }]).seal(home, Uuid::nil());
        let json = describe("page", &past.bytes).unwrap().to_json();
        assert_eq!(json["past"][0]["source"], "epoch 1 from 1.3 up to 1.10");
        assert_eq!(json["past"][0]["log"]["pages"][0]["epoch"], 7);
        describe(at(7).as_ref(), &bytes).unwrap();
        describe(at(1).as_ref(), &bytes).unwrap_err();
    }

    #[test]
    fn tells_what_a_materialization_consists_of() {
        let of = |file: &str| format!("wc/operators/op/0/snapshot/{}/{file}", Uuid::nil());
        let pieces = |bytes: &[u8]| {
            let mut file = [&b"DSTLPIEC\x01\0\0\0\0\0\0\0"[..], bytes].concat();
            let crc = crc32fast::hash(&file).to_le_bytes();
            file.extend(crc.iter().chain(b"DSTLPEND"));
            Bytes::from(file)
        };
        let json = describe(&of("00000001-000000000001.pieces"), &pieces(b"12345")).unwrap().to_json();
        assert_eq!(
            (json["kind"].as_str(), json["bytes_of_pieces"].as_u64()),
            (Some("pieces of a materialization"), Some(5))
        );
        let mut damaged = pieces(b"12345").to_vec();
        damaged[17] ^= 1;
        let error = describe("x.pieces", &damaged.into()).unwrap_err();
        assert!(error.to_string().contains("checksum of the whole"), "{error}");
        let index = Bytes::from_static(include_bytes!("../../tests/fixtures/base-index-v1.bin"));
        let json = describe(&of("00000001-000000000002.index"), &index).unwrap().to_json();
        assert_eq!(json["kind"], "index of a materialization");
        assert_eq!((json["files"].as_array().unwrap().len(), json["pieces"].as_array().unwrap().len()), (2, 3));
        assert_eq!((json["pieces"][1]["at"].as_str(), json["stored_bytes"].as_u64()), (Some("16+40"), Some(80)));
        let json = describe(&of("00000001-000000000003.sst"), &Bytes::from_static(b"sst")).unwrap().to_json();
        assert_eq!(json["kind"], "file of an image of RocksDB");
        describe(&of("00000001-000000000004.index"), &Bytes::from_static(b"no index")).unwrap_err();
    }

    #[test]
    fn tells_what_is_there_only_to_be_there() {
        let job = Name::new("wc").unwrap();
        let renewal = ObjectName::PinRenewal { job: job.clone(), id: Uuid::nil(), number: 3 }.path();
        let lease = ObjectName::SweepLease { job, number: 3 }.path();
        for (path, kind) in [(renewal, "renewal of a pin"), (lease, "lease of a sweep")] {
            assert_eq!(describe(path.as_ref(), &Bytes::new()).unwrap().to_json()["kind"], kind, "{path}");
        }
    }

    #[test]
    fn tells_what_a_handle_is_by_its_text() {
        let backend = sample().backend;
        let checkpoint = CheckpointIdentity { epoch: 3, id: 17, uuid: Uuid::from_u128(5) };
        let bytes = CheckpointHandle { backend, checkpoint }.encode();
        let decoded = decode_handle(&hex(&bytes)).unwrap();
        assert_eq!(decoded, bytes);
        let json = describe("handle", &decoded).unwrap().to_json();
        assert_eq!((json["id"].as_u64(), json["epoch"].as_u64()), (Some(17), Some(3)));
    }
}
