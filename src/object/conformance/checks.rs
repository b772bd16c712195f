//! The checks of [`Promise`], as methods of [`Ground`].

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::join_all, stream};
use object_store::path::Path;
use uuid::Uuid;

use super::{Broken, Check, Ground, Promise, expect, retry};
use crate::{
    object::{Created, ObjectName, PutPayload, StoreError},
    types::{BackendId, CheckpointIdentity, Name},
};

/// Number of creators that race for one name, and number of races.
const RACERS: usize = 16;
const RACES: usize = 4;

/// More objects than one page of a listing has with S3 (1,000).
const MANY: usize = 1_100;

/// Number of concurrent creates of a check that needs many objects.
const CREATED_AT_ONCE: usize = 16;

/// Largest deviation of the store's clock that is allowed, in milliseconds.
const CLOCK_TOLERANCE_MS: u64 = 60_000;

/// Each check is a method of [`Ground`].
macro_rules! checks {
    ($($promise:ident: $method:ident),+ $(,)?) => {
        &[$(Check { name: stringify!($method), promise: Promise::$promise, run: |ground| ground.$method().boxed_local() }),+]
    };
}

pub(super) const ALL: &[Check] = checks![
    CreateIfAbsent: creates_once,
    CreateIfAbsent: one_of_many_creators_wins,
    CreateIfAbsent: all_identical_creators_win,
    ReadAfterWrite: reads_what_was_written,
    LargeObjects: stores_large_objects_in_chunks,
    LargeObjects: reads_parts_of_large_objects,
    Ranges: reads_ranges_exactly,
    Absence: tells_what_does_not_exist,
    ListAfterWrite: lists_what_was_created,
    ListAfterDelete: lists_no_more_what_was_deleted,
    LongLists: lists_more_than_a_page,
    ListAfterName: lists_from_a_name_on,
    Delete: deletes_idempotently,
    LongNames: takes_the_longest_names,
    Clock: dates_objects_by_a_clock_that_is_right,
];

impl Ground {
    /// An object is created once. A further create is told "identical" for the same bytes and "conflict" for others,
    /// and changes nothing.
    async fn creates_once(&self) -> Result<(), Broken> {
        let path = self.path("a");
        self.create_new(&path, "one").await?;
        let chunks: PutPayload = [&b"o"[..], b"", b"ne"].into_iter().map(Bytes::from_static).collect();
        for same in [PutPayload::from_static(b"one"), chunks] {
            let again = self.create(&path, same).await?;
            expect(again == Created::Identical, || {
                format!("a second create of `{path}` with the same bytes was told `{again:?}`")
            })?;
        }
        for other in ["two", "on", "one more", ""] {
            let again = self.create(&path, other).await?;
            expect(again == Created::Conflict, || {
                format!("a second create of `{path}` with other bytes was told `{again:?}`")
            })?;
        }
        let empty = self.path("empty");
        self.create_new(&empty, "").await?;
        let again = self.create(&empty, "").await?;
        expect(again == Created::Identical, || format!("a second create of the empty `{empty}` was told `{again:?}`"))?;
        let again = self.create(&empty, "1").await?;
        expect(again == Created::Conflict, || format!("a second create of the empty `{empty}` was told `{again:?}`"))
    }

    /// If many callers create one name with different bytes, exactly one of them wins, and its bytes stay.
    async fn one_of_many_creators_wins(&self) -> Result<(), Broken> {
        for race in 0..RACES {
            let path = self.path(&format!("{race}"));
            // Later races have larger objects, which take longer to send.
            let bytes = |racer: usize| format!("racer {racer}").repeat(1 << (race * 5));
            let racers = join_all((0..RACERS).map(|racer| self.create(&path, bytes(racer)))).await;
            let outcomes: Vec<_> = racers.into_iter().collect::<Result<_, _>>()?;
            // A winner whose answer was lost finds its own bytes.
            let mut winners = (0..RACERS).filter(|racer| outcomes.get(*racer) != Some(&Created::Conflict));
            let (first, others) = (winners.next(), winners.count());
            let winner = first.filter(|_| others == 0).ok_or_else(|| {
                let winners = others + usize::from(first.is_some());
                Broken(format!("{winners} of {RACERS} who created `{path}` at once were told that they did"))
            })?;
            self.settle(&path).await?;
            let stored = self.get(&path).await?;
            expect(stored == bytes(winner), || format!("`{path}` has not the bytes of the one who created it"))?;
        }
        Ok(())
    }

    /// If many callers create one name with the same bytes, all learn that the object has them, as after a lost answer.
    async fn all_identical_creators_win(&self) -> Result<(), Broken> {
        let path = self.path("a");
        for outcome in join_all((0..RACERS).map(|_| self.create(&path, "same"))).await {
            let outcome = outcome?;
            expect(outcome != Created::Conflict, || {
                format!("one of those who created `{path}` with the same bytes was told `{outcome:?}`")
            })?;
        }
        Ok(())
    }

    async fn reads_what_was_written(&self) -> Result<(), Broken> {
        for number in 0..20 {
            let (path, bytes) = (self.path(&format!("{number}")), format!("object {number}"));
            self.create(&path, bytes.clone()).await?;
            let read = self.get(&path).await?;
            expect(read == bytes, || format!("`{path}` was read with other bytes than it was created with"))?;
            let head = self.store.head(&path, retry()).await?;
            let size = head.map(|meta| meta.size);
            expect(size == Some(bytes.len() as u64), || {
                format!("`{path}` has {} bytes, and the store says {size:?}", bytes.len())
            })?;
        }
        Ok(())
    }

    /// An object of several megabytes, sent in chunks of odd sizes, is read back.
    async fn stores_large_objects_in_chunks(&self) -> Result<(), Broken> {
        let (path, bytes) = (self.path("a"), large());
        let mut rest = bytes.clone();
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            chunks.push(rest.split_to(rest.len().min(1_000_003)));
        }
        let payload: PutPayload = chunks.into_iter().collect();
        self.create_new(&path, payload).await?;
        let read = self.get(&path).await?;
        expect(read == bytes, || format!("`{path}`, {} bytes, is not read back as written", bytes.len()))
    }

    /// Parts of a large object are read exactly. If even parts of small objects are not, the check says nothing, as
    /// that is another promise.
    async fn reads_parts_of_large_objects(&self) -> Result<(), Broken> {
        let (path, bytes, small) = (self.path("a"), large(), self.path("small"));
        self.create_new(&path, bytes.clone()).await?;
        self.create_new(&small, "0123456789").await?;
        if !matches!(self.store.get_range(&small, 3..7, retry()).await, Ok(part) if part == "3456") {
            return Ok(());
        }
        for range in [0..1, 1_000_000..5_000_000, 8_388_000..8_388_608] {
            let part = self.store.get_range(&path, range.start as u64..range.end as u64, retry()).await?;
            expect(part == bytes.slice(range.clone()), || {
                format!("bytes {range:?} of `{path}` are not those written")
            })?;
        }
        Ok(())
    }

    /// Ranges are read exactly, up to the last byte. A range that ends behind the object is an error that tells its
    /// size.
    async fn reads_ranges_exactly(&self) -> Result<(), Broken> {
        let path = self.path("a");
        self.create_new(&path, "0123456789").await?;
        let ranges = [(0..10, "0123456789"), (0..1, "0"), (3..7, "3456"), (6..10, "6789"), (9..10, "9"), (4..4, "")];
        for (range, bytes) in ranges {
            let read = self.store.get_range(&path, range.clone(), retry()).await?;
            expect(read == bytes, || format!("bytes {range:?} of `{path}` are `{bytes}`, and {read:?} was read"))?;
        }
        for range in [0..11, 9..20, 10..11, 50..60] {
            let answer = self.store.get_range(&path, range.clone(), retry()).await;
            expect(matches!(answer, Err(StoreError::OutOfRange { size: 10, .. })), || {
                format!("`{path}` has 10 bytes, and asked for {range:?} the store said {answer:?}")
            })?;
        }
        Ok(())
    }

    /// A missing object is distinguished from an unreachable store.
    async fn tells_what_does_not_exist(&self) -> Result<(), Broken> {
        let path = self.path("a");
        let missing = |answer: &Result<Bytes, StoreError>| matches!(answer, Err(StoreError::NotFound { .. }));
        for answer in [self.store.get(&path, retry()).await, self.store.get_range(&path, 0..1, retry()).await] {
            expect(missing(&answer), || {
                format!("asked for `{path}`, which does not exist, the store said {answer:?}")
            })?;
        }
        let head = self.store.head(&path, retry()).await?;
        expect(head.is_none(), || {
            format!("asked for the size of `{path}`, which does not exist, the store said {head:?}")
        })?;
        let listed = self.list(&self.root).await?;
        expect(listed.is_empty(), || format!("an empty folder is listed with {listed:?}"))?;
        Ok(self.store.probe(retry()).await?)
    }

    /// A listing has every object that was created before it, in order of the paths and with sizes. Folders whose names
    /// only begin with the same letters are left out.
    async fn lists_what_was_created(&self) -> Result<(), Broken> {
        let names = ["b/2", "b/1", "b/1x", "a", "b/c/d", "bb/1"];
        let mut expected = BTreeSet::new();
        for name in names {
            self.create_new(&self.path(name), "12345").await?;
            expected.insert(self.path(name));
            let listed = self.list(&self.root).await?;
            expect(listed.iter().map(|meta| &meta.path).eq(&expected), || {
                format!("after {} objects were created, {} are listed: {listed:?}", expected.len(), listed.len())
            })?;
            expect(listed.iter().all(|meta| meta.size == 5), || {
                format!("objects of 5 bytes are listed as {listed:?}")
            })?;
        }
        let within: Vec<_> = self.list(&self.path("b")).await?.into_iter().map(|meta| meta.path).collect();
        expect(within == ["b/1", "b/1x", "b/2", "b/c/d"].map(|name| self.path(name)), || {
            format!("the folder `{}` is listed with {within:?}", self.path("b"))
        })
    }

    /// A deleted object is gone from listings and reads.
    async fn lists_no_more_what_was_deleted(&self) -> Result<(), Broken> {
        let paths: Vec<_> = (0..10).map(|number| self.path(&format!("{number}"))).collect();
        for path in &paths {
            self.create_new(path, "1").await?;
        }
        self.lists_eventually(&paths).await?;
        for (number, path) in paths.iter().enumerate() {
            self.store.delete(path, retry()).await?;
            let listed: Vec<_> = self.list(&self.root).await?.into_iter().map(|meta| meta.path).collect();
            expect(listed.iter().eq(paths.iter().skip(number + 1)), || {
                format!("after `{path}` and those before it were deleted, {listed:?} are listed")
            })?;
            // The kind of the error is another promise.
            let read = self.store.get(path, retry()).await;
            expect(read.is_err(), || format!("`{path}` is still read after it was deleted"))?;
        }
        Ok(())
    }

    async fn lists_more_than_a_page(&self) -> Result<(), Broken> {
        let paths: Vec<_> = (0..MANY).map(|number| self.path(&format!("{number:05}"))).collect();
        let creating: Vec<_> = paths.iter().map(|path| self.create_new(path, "1")).collect();
        stream::iter(creating).buffer_unordered(CREATED_AT_ONCE).try_collect::<()>().await?;
        self.lists_eventually(&paths).await
    }

    /// Waits until a listing has exactly `paths`, in their order.
    async fn lists_eventually(&self, paths: &[Path]) -> Result<(), Broken> {
        self.eventually(async || {
            let listed = self.list(&self.root).await?;
            expect(listed.iter().map(|meta| &meta.path).eq(paths), || {
                format!("`{}` has {} objects, and {} are listed", self.root, paths.len(), listed.len())
            })
        })
        .await
    }

    async fn lists_from_a_name_on(&self) -> Result<(), Broken> {
        for name in ["1", "1x", "2", "c/d"] {
            self.create_new(&self.path(name), "1").await?;
        }
        self.lists_eventually(&["1", "1x", "2", "c/d"].map(|name| self.path(name))).await?;
        for (after, left) in [("1x", &["2", "c/d"][..]), ("1a", &["1x", "2", "c/d"]), ("c/d", &[])] {
            let listed = self.store.list_after(&self.root, &self.path(after), retry()).await?;
            let listed: Vec<_> = listed.into_iter().map(|meta| meta.path).collect();
            let left: Vec<_> = left.iter().map(|name| self.path(name)).collect();
            expect(listed == left, || format!("after `{}` are {left:?}, and {listed:?} are listed", self.path(after)))?;
        }
        Ok(())
    }

    /// Deleting is idempotent, one by one and in bulk.
    async fn deletes_idempotently(&self) -> Result<(), Broken> {
        let paths: Vec<_> = (0..25).map(|number| self.path(&format!("{number}"))).collect();
        for path in &paths {
            self.create_new(path, "1").await?;
        }
        let first = paths.first().expect("there are 25 paths");
        for _ in 0..2 {
            self.store.delete(first, retry()).await?;
        }
        // The first time one of them is missing, the second time all are.
        for _ in 0..2 {
            self.store.delete_all(paths.clone(), retry()).await?;
        }
        self.store.delete_all(Vec::new(), retry()).await?;
        Ok(())
    }

    /// The longest names that dstl makes are accepted. Names of temporaries are left out: only the store itself makes
    /// them, and not every store lets others do so.
    async fn takes_the_longest_names(&self) -> Result<(), Broken> {
        let longest = Name::new(&"n".repeat(Name::MAX_BYTES)).expect("so long a name may be");
        let backend = BackendId { job: longest.clone(), operator: longest.clone(), subtask: u32::MAX };
        let report = ObjectName::Report {
            backend: backend.clone(),
            attempt: u64::MAX,
            checkpoint: CheckpointIdentity { epoch: u64::MAX, id: u64::MAX, uuid: Uuid::max() },
        };
        let file = ObjectName::SnapshotFile { backend, instance: Uuid::max(), file: longest };
        let paths: BTreeSet<_> =
            [report, file].iter().map(|name| Path::from_iter(self.root.parts().chain(name.path().parts()))).collect();
        for path in &paths {
            self.create_new(path, "1").await?;
            let read = self.get(path).await?;
            expect(read == "1", || format!("`{path}` is not read back as written"))?;
        }
        self.lists_eventually(&paths.into_iter().collect::<Vec<_>>()).await
    }

    async fn dates_objects_by_a_clock_that_is_right(&self) -> Result<(), Broken> {
        let path = self.path("a");
        let before = self.clock.now_ms();
        self.create_new(&path, "1").await?;
        let after = self.clock.now_ms();
        let head = self.store.head(&path, retry()).await?;
        let dated = head.map(|meta| meta.modified_ms).ok_or_else(|| Broken(format!("`{path}` has no date")))?;
        let off = before.saturating_sub(dated).max(dated.saturating_sub(after));
        expect(off <= CLOCK_TOLERANCE_MS, || {
            format!(
                "an object was dated {off} ms {} than this host's time",
                if dated > after { "later" } else { "earlier" }
            )
        })
    }
}

/// Eight MiB of bytes that do not repeat.
fn large() -> Bytes {
    (0..8_u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}
