//! Reads the chains and pins of a job, for a sweep.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use super::{Chain, FirstSeen, Pins, SweepError, View, pins};
use crate::{
    changelog::segment::SegmentHandle,
    checkpoint::{
        base::BaseIndex,
        chain::{self, ChainError},
        index::{Page, PageRef},
        job,
        manifest::{Manifest, Materialization, SnapshotFile},
        pin::Pin,
    },
    object::{
        ObjectMeta, Retry, Store, StoreError,
        layout::{self, ObjectName},
    },
    types::{BackendId, Name, TimeMs},
};

/// Requests in flight at the same time.
const CONCURRENT_READS: usize = 16;

/// How often a chain is read again when its owner moves on, and others delete dropped objects, while its pages are
/// read.
const CHAIN_ATTEMPTS: usize = 16;

/// Observes one job. Immutable objects are read only once: pages, and the manifests below a head.
pub(super) struct Observer<'a> {
    store: &'a Store,
    job: &'a Name,
    retry: Retry,
    pages: BTreeMap<Uuid, PageContents>,
    /// The files of each materialization, by its UUID.
    bases: BTreeMap<Uuid, Vec<(Uuid, Name)>>,
    older: BTreeMap<BackendId, BTreeMap<u64, (crate::types::Epoch, bool)>>,
    /// The manifests that were listed at the beginning, with the time of each.
    listed: BTreeMap<BackendId, BTreeMap<u64, TimeMs>>,
    /// The highest manifest number of each chain that was ever seen.
    seen: BTreeMap<BackendId, u64>,
    /// Objects whose time lies in the future.
    seen_ahead: &'a mut FirstSeen,
    /// The newest manifest of each chain that is said to have retired it.
    retired: BTreeMap<BackendId, u64>,
    /// The heads as last observed.
    heads: Vec<Manifest>,
    /// The objects that pins name, which never change; `None` for pins of a later version.
    pinned: BTreeMap<Uuid, Option<pins::Held>>,
}

/// A part of a head whose objects are to be followed.
struct Named<'h> {
    /// The backend in whose chain the objects lie.
    origin: &'h BackendId,
    is_import: bool,
    /// Whether objects may be missing: the head may be that of an owner that checked its imports and gave up.
    may_lack: bool,
}

/// The objects that a page names.
#[derive(Debug, Clone, Default)]
struct PageContents {
    segments: Vec<(Uuid, u64)>,
    pages: Vec<PageRef>,
}

impl<'a> Observer<'a> {
    /// An observer of `job`, whose objects were listed as `listed`.
    pub(super) fn new(
        store: &'a Store,
        job: &'a Name,
        seen_ahead: &'a mut FirstSeen,
        listed: &[(ObjectMeta, Option<ObjectName>)],
        retry: Retry,
    ) -> Self {
        let mut observer = Self {
            store,
            job,
            retry,
            pages: BTreeMap::new(),
            bases: BTreeMap::new(),
            older: BTreeMap::new(),
            listed: BTreeMap::new(),
            seen: BTreeMap::new(),
            seen_ahead,
            retired: BTreeMap::new(),
            heads: vec![],
            pinned: BTreeMap::new(),
        };
        for (meta, name) in listed {
            if let Some(ObjectName::Manifest { backend, number }) = name {
                // A head below a manifest that was listed here must not be believed: a listing may be older than the
                // one before.
                observer.saw(backend, *number);
                observer.listed.entry(backend.clone()).or_default().insert(*number, meta.modified_ms);
            }
        }
        observer
    }

    /// Reads the manifests of `backend` that were listed below its head, except those that the head tells about.
    async fn read_older(&mut self, backend: &BackendId, head: &Manifest) -> Result<(), SweepError> {
        let Some(listed) = self.listed.get(backend) else { return Ok(()) };
        let older = self.older.entry(backend.clone()).or_default();
        let untold = untold(listed, head).into_iter().filter(|number| !older.contains_key(number));
        let (store, retry) = (self.store, self.retry);
        let reads: Vec<_> = untold.map(|number| read_older(store, backend.clone(), number, retry)).collect();
        let read: Vec<_> = stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await?;
        for (number, manifest) in read {
            older.extend(manifest.map(|manifest| (number, (manifest.owner().epoch, manifest.opens_epoch))));
        }
        Ok(())
    }

    /// Reads every chain's head with the pages that it names, then the pins. `now_ms` is the time by the store's clock
    /// when the sweep began. Cancel-safe.
    pub(super) async fn observe(&mut self, now_ms: TimeMs) -> Result<View, SweepError> {
        // Listed anew for each view, so that a chain that was opened meanwhile is found. Two views that miss the same
        // new chain would call its imports garbage.
        let objects = self.store.list(&layout::operators(self.job), self.retry).await?;
        for name in objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)) {
            match name {
                ObjectName::Manifest { backend, number } => self.saw(&backend, number),
                ObjectName::Retired { backend, number } => drop(self.retired.insert(backend, number)),
                _ => {}
            }
        }
        let backends: Vec<BackendId> = self.seen.keys().cloned().collect();
        let (store, retry) = (self.store, self.retry);
        // Collected first: a closure over borrowed names would make the sweep a future that cannot be spawned.
        let reads = backends.iter().cloned().map(|backend| {
            let retired = self.retired.get(&backend).copied();
            read_head(store, backend, retired, retry)
        });
        let reads: Vec<_> = reads.collect();
        let heads: Vec<_> = stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await?;
        let mut chains = BTreeMap::new();
        self.heads.clear();
        for (backend, head) in backends.into_iter().zip(heads) {
            let mut chain = match head {
                // The damaged head names nothing, so there are no pages to follow and no head to keep.
                Found::Retired(number) => Chain::retired(number),
                Found::Head(head) => {
                    let manifest = self.newest(&backend, head.map(|head| *head))?;
                    let (chain, head) = self.follow(manifest).await?;
                    self.read_older(&backend, &head).await?;
                    self.heads.push(head);
                    chain
                }
            };
            let older = self.older.get(&backend).cloned().unwrap_or_default();
            chain.older = older.into_iter().filter(|(number, _)| *number < chain.head).collect();
            chains.insert(backend, chain);
        }
        // Ordering: 1. chains, 2. the job's record, 3. pins. A pin that is not durable when the pins are listed counts
        // only if its source's head retains the checkpoint later than this view read that head. So the view saw its
        // objects named.
        let record = job::newest(self.store, self.job, self.retry).await?;
        Ok(View::new(chains, self.pins(now_ms).await?).with_job(record))
    }

    /// Reads the existing pins.
    async fn pins(&mut self, now_ms: TimeMs) -> Result<Pins, SweepError> {
        let mut pins = Pins::default();
        for (id, touched_ms) in pins::list(self.store, self.job, self.seen_ahead, now_ms, self.retry).await? {
            // A pin never changes, so one read is enough for all views of this sweep.
            if !self.pinned.contains_key(&id) {
                // A pin that is gone is not added, so the view calls it released.
                let Some(read) = pins::read(self.store, self.job, id, self.retry).await? else { continue };
                let held = match read {
                    pins::Contents::Unknown => None,
                    pins::Contents::Damaged => Some(pins::Held::default()),
                    pins::Contents::Pin(pin) => Some(self.held(&pin).await?),
                };
                self.pinned.insert(id, held);
            }
            match self.pinned.get(&id) {
                Some(Some(held)) => pins.add(id, held.clone(), touched_ms, now_ms),
                _ => pins.add_unknown(id),
            }
        }
        Ok(pins)
    }

    /// The objects that a pin names, pages included.
    async fn held(&mut self, pin: &Pin) -> Result<pins::Held, SweepError> {
        let mut chain = pins::chain_of(pin);
        for import in &pin.imports {
            // If the pin is not effective, some may be gone.
            let named = Named { origin: &import.origin, is_import: true, may_lack: true };
            let all_there = "what may lack is passed over";
            self.pages(&mut chain, &named, import.pages().collect()).await?.expect(all_there);
            self.bases(&mut chain, &named, import.materialization.as_slice()).await?.expect(all_there);
        }
        Ok(pins::Held::new(pin, chain))
    }

    /// The heads as last observed.
    pub(super) fn heads(&self) -> &[Manifest] {
        &self.heads
    }

    /// Whether an object beside manifest `number` says that it retired the chain.
    pub(super) fn is_said_retired(&self, backend: &BackendId, number: u64) -> bool {
        self.retired.get(backend).is_some_and(|said| *said >= number)
    }

    fn saw(&mut self, backend: &BackendId, number: u64) {
        let seen = self.seen.entry(backend.clone()).or_default();
        *seen = number.max(*seen);
    }

    /// Checks that a chain's head is not older than one that was seen before.
    fn newest(&mut self, backend: &BackendId, head: Option<Manifest>) -> Result<Manifest, SweepError> {
        // A store, or somebody with a tool, may show an older state of the chain. Objects that only the vanished head
        // names would be called garbage, so the sweep ends instead.
        let seen = self.seen.get(backend).copied().unwrap_or_default();
        let head = head
            .filter(|head| head.number >= seen)
            .ok_or_else(|| SweepError::HeadLost { object: chain::manifest_name(backend, seen).path().to_string() })?;
        self.saw(backend, head.number);
        Ok(head)
    }

    /// Follows `head`, or a newer one, through its pages. Returns the facts, and the head that was used.
    async fn follow(&mut self, head: Manifest) -> Result<(Chain, Manifest), SweepError> {
        let mut head = head;
        for _ in 0..CHAIN_ATTEMPTS {
            let missing = match self.expand(&head).await? {
                Ok(chain) => return Ok((chain, head)),
                Err(missing) => missing,
            };
            // Another sweep may delete objects that a later manifest has dropped.
            let now = chain::read_head(self.store, &head.backend, self.retry).await?.map(|head| head.manifest);
            let now = self.newest(&head.backend, now)?;
            // The head still names the page that is missing. Judging on would treat the objects below the page as
            // unnamed.
            if now.number == head.number {
                return Err(SweepError::PageMissing { object: missing, backend: head.backend });
            }
            head = now;
        }
        Err(ChainError::Contended(head.backend).into())
    }

    /// Follows `head` through its pages; or returns the path of a missing page.
    async fn expand(&mut self, head: &Manifest) -> Result<Result<Chain, String>, SweepError> {
        // Built anew for each head: names of a head that was given up must not stay, and missing ones must not be
        // carried over.
        let mut chain = Chain::new(head);
        // Pages of attachments name no further objects.
        let attached = head.checkpoints.iter().filter_map(|record| record.attachment.page());
        chain.pages.extend(attached.map(|page| (page.home.epoch, page.uuid)));
        let own = Named { origin: &head.backend, is_import: false, may_lack: false };
        let past = head.epochs.iter().flat_map(|record| &record.contents.past);
        // The pasts of all epochs that the head records, and not of the present one alone: retained checkpoints of
        // earlier epochs need theirs.
        let pages = past.chain(head.runs.values().flat_map(|run| &run.pages)).copied().collect();
        if let Err(missing) = self.pages(&mut chain, &own, pages).await? {
            return Ok(Err(missing));
        }
        if let Err(missing) = self.bases(&mut chain, &own, &head.materializations).await? {
            return Ok(Err(missing));
        }
        for import in &head.imports {
            let is_needed = |record| head.contents(record).imports.contains(&import.uuid);
            // An owner whose import did not count gives up with its opening manifest as the head. If the owner goes on,
            // its next manifest has `opens_epoch` unset, and a missing page is a fault again.
            let may_lack = head.opens_epoch && !head.checkpoints.iter().any(is_needed);
            let named = Named { origin: &import.origin, is_import: true, may_lack };
            if let Err(missing) = self.pages(&mut chain, &named, import.pages().collect()).await? {
                return Ok(Err(missing));
            }
            if let Err(missing) = self.bases(&mut chain, &named, import.materialization.as_slice()).await? {
                return Ok(Err(missing));
            }
        }
        Ok(Ok(chain))
    }

    /// Adds the objects that the pages in `open`, and pages below them, name; or returns the path of a missing page.
    async fn pages(
        &mut self,
        chain: &mut Chain,
        named: &Named<'_>,
        mut open: Vec<PageRef>,
    ) -> Result<Result<(), String>, SweepError> {
        while !open.is_empty() {
            // A page never changes, so one read is enough for all heads and views of this sweep. Successive heads share
            // most of their pages.
            let new = open.iter().filter(|page| !self.pages.contains_key(&page.uuid));
            let reads: Vec<_> = new.map(|page| read_page(self.store, named.origin, *page, self.retry)).collect();
            let read: Vec<_> = stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await?;
            for (page, contents) in read {
                match contents {
                    Some(contents) => drop(self.pages.insert(page.uuid, contents)),
                    None if named.may_lack => {}
                    None => return Ok(Err(page.name(named.origin).path().to_string())),
                }
            }
            let mut below = vec![];
            for page in open {
                let Some(contents) = self.pages.get(&page.uuid) else { continue };
                if named.is_import {
                    // By its full name, since the page lies in another chain than this one.
                    chain.imported.insert(page.name(named.origin));
                } else {
                    chain.pages.insert((page.home.epoch, page.uuid));
                }
                // Segments belong to the job and not to a chain, so it does not matter here by which chain they came.
                chain.segments.extend(contents.segments.iter().copied());
                below.extend(contents.pages.iter().copied());
            }
            open = below;
        }
        Ok(Ok(()))
    }

    /// Adds the files of `bases`; or returns the path of a missing index.
    async fn bases(
        &mut self,
        chain: &mut Chain,
        named: &Named<'_>,
        bases: &[Materialization],
    ) -> Result<Result<(), String>, SweepError> {
        // Like pages, indexes are read once.
        let new = bases.iter().filter(|base| !self.bases.contains_key(&base.uuid));
        let reads: Vec<_> = new.map(|base| read_base(self.store, named.origin, base, self.retry)).collect();
        let read: Vec<_> = stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await?;
        for (base, files) in read {
            match files {
                Some(files) => drop(self.bases.insert(base.uuid, files)),
                None if named.may_lack => {}
                None => return Ok(Err(snapshot_path(named.origin, &base.index).to_string())),
            }
        }
        for (instance, file) in bases.iter().filter_map(|base| self.bases.get(&base.uuid)).flatten() {
            if named.is_import {
                let (backend, instance) = (named.origin.clone(), *instance);
                chain.imported.insert(ObjectName::SnapshotFile { backend, instance, file: file.clone() });
            } else {
                chain.snapshots.insert((*instance, file.clone()));
            }
        }
        Ok(Ok(()))
    }
}

/// The head of one chain.
enum Found {
    /// The newest manifest.
    Head(Option<Box<Manifest>>),
    /// The newest manifest cannot be read, but is known to retire the chain.
    Retired(u64),
}

/// Reads the newest manifest of one chain; number `retired` is known to have retired it.
async fn read_head(store: &Store, backend: BackendId, retired: Option<u64>, retry: Retry) -> Result<Found, ChainError> {
    match chain::read_head(store, &backend, retry).await {
        Err(ChainError::Corrupt { object, .. }) if chain::is_manifest(&object, &backend, retired) => {
            Ok(Found::Retired(retired.unwrap_or_default()))
        }
        head => Ok(Found::Head(head?.map(|head| Box::new(head.manifest)))),
    }
}

/// The manifests below `head` that have to be read. These are the `listed` ones that the head tells nothing about. A
/// stale writer may also have created a number late: if a manifest that the head tells about is younger than the next
/// one, it and the next one are read, too. Pure.
fn untold(listed: &BTreeMap<u64, TimeMs>, head: &Manifest) -> BTreeSet<u64> {
    let mut untold = BTreeSet::new();
    // Each listed manifest beside the one that is listed after it.
    let next = listed.iter().skip(1).map(Some).chain([None]);
    for ((number, made_ms), next) in listed.range(..head.number).zip(next) {
        if !head.fences.has(*number) {
            untold.insert(*number);
        } else if let Some((next, next_ms)) = next
            // Numbers are used in the order of time. A manifest that is younger than its successor was created late,
            // below the head, by a writer that did not know that it was fenced; then the head's statement is not about
            // this object.
            && made_ms > next_ms
        {
            untold.extend([*number, *next].into_iter().filter(|number| *number < head.number));
        }
    }
    untold
}

/// Reads one listed manifest; `None` if it is damaged or was deleted meanwhile.
async fn read_older(
    store: &Store,
    backend: BackendId,
    number: u64,
    retry: Retry,
) -> Result<(u64, Option<Manifest>), SweepError> {
    let path = chain::manifest_name(&backend, number).path();
    let manifest = match store.get_checked(&path, retry, |bytes| Manifest::decode(bytes)).await {
        Ok(manifest) => manifest.ok(),
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // A copy under another name would be taken for the opener of an epoch, or hide one.
    let manifest = manifest.filter(|manifest| manifest.number == number && manifest.backend == backend);
    Ok((number, manifest))
}

/// Reads one page; no contents if it is missing.
async fn read_page(
    store: &Store,
    backend: &BackendId,
    page: PageRef,
    retry: Retry,
) -> Result<(PageRef, Option<PageContents>), SweepError> {
    let path = page.name(backend).path();
    let decoded = match store.get_checked(&path, retry, |bytes| Page::decode(&backend.job, &page, bytes)).await {
        Ok(decoded) => decoded,
        Err(StoreError::NotFound { .. }) => return Ok((page, None)),
        Err(error) => return Err(error.into()),
    };
    let contents = match decoded {
        Ok(Page::Handles(handles)) => PageContents { segments: segments(&handles).collect(), pages: vec![] },
        Ok(Page::Past(stretches)) => PageContents {
            segments: stretches.iter().flat_map(|stretch| segments(&stretch.run.handles)).collect(),
            pages: stretches.into_iter().flat_map(|stretch| stretch.run.pages).collect(),
        },
        Ok(Page::Pages(pages)) => PageContents { segments: vec![], pages },
        // Attachments name no objects.
        Ok(Page::Attachments(_)) => PageContents::default(),
        // Nothing is deleted then: the damaged page names objects that cannot be listed any more.
        Err(source) => return Err(SweepError::PageDamaged { object: path.to_string(), source }),
    };
    Ok((page, Some(contents)))
}

fn segments(handles: &[SegmentHandle]) -> impl Iterator<Item = (Uuid, u64)> + '_ {
    handles.iter().filter_map(SegmentHandle::segment).map(|id| (id.instance, id.number))
}

/// Reads the list of files of one materialization; `None` if its index is missing.
async fn read_base<'a>(
    store: &Store,
    backend: &BackendId,
    base: &'a Materialization,
    retry: Retry,
) -> Result<(&'a Materialization, Option<Vec<(Uuid, Name)>>), SweepError> {
    let path = snapshot_path(backend, &base.index);
    let decoded = match store.get_checked(&path, retry, |bytes| BaseIndex::of(base, bytes)).await {
        Ok(decoded) => decoded,
        Err(StoreError::NotFound { .. }) => return Ok((base, None)),
        Err(error) => return Err(error.into()),
    };
    let index = decoded.map_err(|source| SweepError::PageDamaged { object: path.to_string(), source })?;
    Ok((base, Some(index.files().into_keys().map(|file| (file.instance, file.name)).collect())))
}

fn snapshot_path(backend: &BackendId, file: &SnapshotFile) -> crate::object::Path {
    let name = ObjectName::SnapshotFile { backend: backend.clone(), instance: file.instance, file: file.name.clone() };
    name.path()
}

/// The jobs that have objects in `store`, in order. Lists the whole store. Cancel-safe.
///
/// # Errors
/// The error of the store.
pub async fn jobs(store: &Store, retry: Retry) -> Result<Vec<Name>, StoreError> {
    let objects = store.list(&crate::object::Path::default(), retry).await?;
    let jobs: BTreeSet<Name> =
        objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)).map(|name| name.job().clone()).collect();
    Ok(jobs.into_iter().collect())
}
