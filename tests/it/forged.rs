//! Objects that somebody forged or a bug mistook, under right checksums: each field of each stored message at its
//! edges, gone, and there twice. Whatever is opened by them is served or refused with a reason that names the object;
//! nothing panics or hangs.

mod edits;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use dstl::{
    backend::{OpenSpec, RestoreFrom},
    checkpoint::{
        base::BaseIndex,
        envelope::EnvelopeError,
        generation,
        handle::CheckpointHandle,
        index::Page,
        job::{JobRecord, JobView, Report},
        manifest::Manifest,
        pin::Pin,
    },
    error::Reason,
    object::Path,
    random::Random,
    tools::dump,
    types::{InnerBackend, KeyGroupRange, Name},
};
use object_store::ObjectStoreExt as _;

use self::edits::{Edit, edits, seal, unseal};
use crate::{
    support::{Daemon, World, on_both, spec},
    vanish::{self, copy_without},
};

/// Longer than any answer may take.
const HANG: Duration = Duration::from_secs(3600);

/// How many edits of one object are opened.
const OPENED: usize = 100;

fn fixture(name: &str) -> Bytes {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap().into()
}

/// Decodes an object of whatever kind it is, encodes it again, and does with it what needs nothing else.
fn decode(object: &[u8]) -> Result<(), EnvelopeError> {
    let job = Name::new("job").unwrap();
    match &object[..8] {
        b"DSTLMANI" => {
            let manifest = Manifest::decode(object)?;
            assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
            use_manifest(&manifest);
        }
        b"DSTLPAGE" => {
            let (page, home, uuid) = Page::read(&job, object)?;
            let sealed = page.seal(home, uuid);
            assert_eq!(Page::decode(&job, &sealed.reference, &sealed.bytes).unwrap(), page);
        }
        b"DSTLJOBR" => {
            let record = JobRecord::decode(object)?;
            assert_eq!(JobRecord::decode(&record.encode()).unwrap(), record);
            assert!(record.successor().number > record.number);
            let _ = (record.commits(), record.stands_on(), record.declared.as_ref().map(|declared| declared.tasks()));
        }
        b"DSTLBASE" => {
            let index = BaseIndex::decode(object)?;
            assert_eq!(BaseIndex::decode(&index.encode()).unwrap(), index);
            let _ = (index.extent(), index.files(), index.sqns());
        }
        b"DSTLPINS" => {
            let pin = Pin::decode(&job, object)?;
            assert_eq!(Pin::decode(&job, &pin.encode(&job)).unwrap(), pin);
        }
        b"DSTLHAND" => _ = CheckpointHandle::decode(object)?.encode(),
        b"DSTLREPT" => _ = Report::decode(object)?.encode(),
        other => panic!("{other:?}"),
    }
    Ok(())
}

fn use_manifest(manifest: &Manifest) {
    let heads = [manifest.clone()];
    let view = JobView::of(&heads);
    let missing = view.operators.values().flatten().map(|found| found.missing().count());
    assert!(missing.sum::<usize>() <= 32_768 * manifest.checkpoints.len());
    let _ = (generation::retired(&heads), manifest.log_totals(), manifest.served());
    for record in &manifest.checkpoints {
        let _ = (manifest.contents(record), manifest.stored_bytes(record), manifest.span(record));
        let mut next = 0;
        let uuid = || {
            next += 1;
            uuid::Uuid::from_u128(next)
        };
        let imports = manifest.export(record, KeyGroupRange::new(0, 127).unwrap(), &BTreeMap::new(), uuid);
        for import in imports {
            let (view, beginning) = import.view(manifest, 3);
            let _ = view.contents(&beginning);
        }
    }
    let head = dstl::checkpoint::chain::Head { manifest: manifest.clone(), crc: 1 };
    let fence = generation::fence(&head, u64::MAX, &bytes::Bytes::new(), uuid::Uuid::from_u128(1));
    if let Some(mut fence) = fence {
        fence.settle(&dstl::checkpoint::index::Bounds::SETTLED, || uuid::Uuid::from_u128(2));
        let _ = Manifest::decode(&fence.encode());
    }
}

#[test]
fn no_edit_of_a_golden_object_makes_a_codec_panic() {
    let names = [
        "manifest-v1.bin",
        "page-v1-handles.bin",
        "page-v1-pages.bin",
        "page-v1-past.bin",
        "page-v1-tails.bin",
        "job-record-v1.bin",
        "job-record-v1-declared.bin",
        "report-v1.bin",
        "handle-v1.bin",
        "pin-v1.bin",
        "base-index-v1.bin",
    ];
    for name in names {
        let (magic, message) = unseal(&fixture(name));
        let edits = edits(&message);
        assert!(edits.len() > 50, "{name}");
        let mut refused = 0;
        for Edit { what, message } in edits {
            let object = Bytes::from(seal(magic, &message));
            match decode(&object) {
                Ok(()) => _ = dump::describe(&what, &object).unwrap(),
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, EnvelopeError::Contents(_)), "{name} {what}: {error}");
                }
            }
        }
        assert!(refused > 0, "{name}");
    }
}

#[test]
fn no_bytes_under_a_right_checksum_make_a_codec_panic() {
    let random = Random::seeded(11);
    let below = |end: usize| usize::try_from(random.below(end as u64)).unwrap();
    for name in ["manifest-v1.bin", "page-v1-past.bin", "job-record-v1-declared.bin", "pin-v1.bin", "base-index-v1.bin"]
    {
        let (magic, golden) = unseal(&fixture(name));
        for _ in 0..20_000 {
            let mut message = golden.clone();
            for _ in 0..=below(4) {
                let (at, byte) = (below(message.len()), u8::try_from(below(256)).unwrap());
                match below(4) {
                    0 => message.insert(at, byte),
                    1 if message.len() > 1 => _ = message.remove(at),
                    2 => {
                        let part = message[at..message.len().min(at + below(40))].to_vec();
                        message.extend(part);
                    }
                    _ => message[at] = byte,
                }
            }
            let _ = decode(&seal(magic, &message));
        }
    }
}

on_both! {
    whatever_is_forged_is_served_or_refused_by_its_name
}

/// `world` as it is, with `object` at `path`.
async fn with(world: &World, path: &str, object: Vec<u8>) -> World {
    let copy = copy_without(world, path).await;
    copy.objects.put(&Path::from(path), object.into()).await.unwrap();
    copy
}

async fn whatever_is_forged_is_served_or_refused_by_its_name(inner: InnerBackend) {
    let world = World::new();
    vanish::prepare(&world, inner).await;
    let objects = world.paths("").await;
    let last = |part: &str, end: &str| objects.iter().rfind(|path| path.contains(part) && path.ends_with(end)).unwrap();
    let victims =
        [last("op/0/manifest/", ""), last("op/0/index/", ""), last("/snapshot/", ".index"), last("job/job/", "")];
    let random = Random::seeded(7);
    for victim in victims {
        let bytes = world.objects.get(&Path::from(victim.as_str())).await.unwrap().bytes().await.unwrap();
        let (magic, message) = unseal(&bytes);
        let all = edits(&message);
        let chance = OPENED as f64 / all.len() as f64;
        let (mut served, mut refused) = (0, 0);
        for Edit { what, message } in all.into_iter().filter(|_| random.fraction() < chance) {
            let label = format!("{victim} {what}");
            let world = with(&world, victim, seal(magic, &message)).await;
            let daemon = Daemon::start(&world, vanish::settings(inner, 77));
            let spec = OpenSpec { restore: RestoreFrom::Latest { or_empty: false }, ..spec(0, 2, 3) };
            let opened = tokio::time::timeout(HANG, daemon.directory.open(spec, |_| {})).await;
            match opened.unwrap_or_else(|_| panic!("{label}: it hangs")) {
                Ok(_) => served += 1,
                Err(error) => {
                    refused += 1;
                    assert_ne!(error.reason, Reason::Internal, "{label}: {error}");
                    // It may be the right one that does not fit what the forged one says of it.
                    let is_named = objects.iter().any(|object| error.message.contains(object.as_str()));
                    assert!(is_named || error.reason != Reason::CorruptObject, "{label}: {error}");
                }
            }
            assert_eq!(daemon.directory.environment().tasks.panics(), 0, "{label}");
            daemon.crash();
        }
        assert!(served + refused > OPENED / 2, "{victim}: {served} served, {refused} refused");
    }
}

#[test]
fn a_page_names_no_page_twice_and_is_what_its_reference_tells() {
    let job = Name::new("job").unwrap();
    let (magic, message) = unseal(&fixture("page-v1-pages.bin"));
    let page = Page::read(&job, &seal(magic, &message)).unwrap().0;
    let Page::Pages(pages) = page else { panic!("it is a page of pages") };
    let twice = Page::Pages(vec![pages[0], pages[0]]);
    let sealed = twice.seal(pages[0].home, uuid::Uuid::from_u128(1));
    assert!(Page::read(&job, &sealed.bytes).is_err(), "thirty levels of that would be a thousand million pages");
    let right = Page::Pages(pages.clone()).seal(pages[0].home, uuid::Uuid::from_u128(1));
    let mut other = right.reference;
    other.totals.changes += 1;
    assert!(Page::decode(&job, &right.reference, &right.bytes).is_ok());
    assert!(Page::decode(&job, &other, &right.bytes).is_err());
}
