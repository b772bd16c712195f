//! A model of owners that open, upload, publish, truncate, close, crash and go on as zombies. Beside them run two
//! sweeps without grace, each step of which may fall between any two steps of the owners, and readers that fence no
//! owner and hold pins.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    checkpoint::{chain, index::page_id, manifest::Fences},
    object::ObjectName,
    types::Epoch,
};

const BACKENDS: u32 = 2;

/// A manifest. `older` of the chain is not part of it.
#[derive(Debug, Clone, PartialEq)]
struct Paper {
    chain: Chain,
    opens: bool,
}

/// A daemon process.
#[derive(Debug, Clone)]
struct Instance {
    id: Uuid,
    next: u64,
    in_flight: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// No manifest is being written.
    Idle,
    /// The pages of this manifest have to be written.
    Pages(Paper),
    /// This manifest has to be created.
    Create(Paper),
    /// A create of this manifest had no answer, and is repeated.
    Again(Paper),
    Ended,
}

#[derive(Debug, Clone)]
struct Owner {
    subtask: u32,
    instance: usize,
    /// The contents of the next manifest, except for the low water.
    paper: Paper,
    step: Step,
    opened: u64,
    /// The segments with its change sets, in order, and whether they are durable; segments that were listed are in
    /// `paper`.
    sets: Vec<(u64, bool)>,
    closing: bool,
    sealed: bool,
    deleted_below: u64,
    next_page: u64,
    /// Pages in `paper` that are not on the store yet.
    unwritten: Vec<(u64, Uuid)>,
}

#[derive(Debug, Clone, Default)]
struct Sweeping {
    listed: Vec<ObjectName>,
    older: BTreeMap<u32, BTreeMap<u64, (Epoch, bool)>>,
    chains: BTreeMap<BackendId, Chain>,
    garbage: Option<Vec<ObjectName>>,
}

/// A reader that does not fence.
#[derive(Debug, Clone)]
struct Reader {
    subtask: u32,
    pin: Uuid,
    /// The segments that it must find.
    segments: BTreeSet<(Uuid, u64)>,
    pages: BTreeSet<(u64, Uuid)>,
    /// Whether the pin exists.
    made: bool,
    /// Whether the head still named everything after that.
    counts: bool,
    /// Whether the reader died, or is too late with its renewal.
    expired: bool,
}

#[derive(Debug, Default)]
struct World {
    objects: BTreeSet<ObjectName>,
    papers: BTreeMap<(u32, u64), Paper>,
    /// Every manifest that ever existed, for requests that arrive late.
    history: Vec<(u32, Paper)>,
    instances: Vec<Instance>,
    owners: Vec<Owner>,
    readers: Vec<Reader>,
    sweeps: [Option<Sweeping>; 2],
    ids: u128,
}

impl Owner {
    /// Moves an entry into a page.
    fn fold(&mut self, random: Uuid) {
        let page = (self.paper.chain.epoch.number, page_id(self.next_page, random));
        self.next_page += 1;
        self.paper.chain.pages.insert(page);
        self.unwritten.push(page);
    }
}

impl World {
    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    fn numbers(&self, subtask: u32) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.papers.keys().filter(move |(of, _)| *of == subtask).map(|(_, number)| *number)
    }

    fn head(&self, subtask: u32) -> Option<&Paper> {
        self.numbers(subtask).next_back().map(|number| &self.papers[&(subtask, number)])
    }

    fn act(&mut self, kind: u8, a: usize, b: usize) {
        match kind % 20 {
            0 => self.open(u32::try_from(a).unwrap() % BACKENDS, b),
            1 => self.upload(a, b),
            2 | 3 => self.finish(a, b),
            4 => self.prepare(a, b),
            5..=8 => self.write(a, b),
            9 => self.crash(a, b),
            10 => self.truncate(a, b),
            11 | 12 => self.sweep_step(a % 2),
            13 | 14 => self.publish(a, b),
            15 | 16 => self.read(a, b),
            17 => self.stop_reading(a, b),
            _ => self.sweep_whole(a % 2),
        }
    }

    fn open(&mut self, subtask: u32, on: usize) {
        if self.instances.is_empty() || on.is_multiple_of(3) {
            let (id, in_flight) = (self.id(), BTreeSet::new());
            self.instances.push(Instance { id, next: 1, in_flight });
        }
        let (instance, owner) = (on % self.instances.len(), self.id());
        let head = self.head(subtask).map(|paper| paper.chain.clone());
        let page = (on % 2 == 1).then(|| page_id(0, self.id()));
        let number = head.as_ref().map_or(1, |head| head.epoch.number + 1);
        let chain = Chain {
            head: head.as_ref().map_or(1, |head| head.head + 1),
            epoch: Epoch { number, owner },
            instance: self.instances[instance].id,
            segment_low_water: 0,
            segments: head.as_ref().map(|head| head.segments.clone()).unwrap_or_default(),
            pages: head.map(|head| head.pages).unwrap_or_default(),
            snapshots: BTreeSet::new(),
            imported: BTreeSet::new(),
            snapshot_low_water: 0,
            page_low_water: u64::from(page.is_some()),
            told: Fences::default(),
            older: BTreeMap::new(),
        };
        let mut paper = Paper { chain, opens: true };
        paper.chain.pages.extend(page.map(|id| (number, id)));
        let (step, opened) = (Step::Pages(paper.clone()), paper.chain.head);
        let next_page = paper.chain.page_low_water;
        self.owners.push(Owner {
            subtask,
            instance,
            paper,
            step,
            opened,
            sets: vec![],
            closing: false,
            sealed: false,
            deleted_below: 0,
            next_page,
            unwritten: page.map(|id| (number, id)).into_iter().collect(),
        });
    }

    /// A reader begins with the objects that a head names, or goes on: it makes its pin, then reads the head again.
    fn read(&mut self, a: usize, b: usize) {
        let begun: Vec<usize> = (0..self.readers.len()).filter(|i| !self.readers[*i].counts).collect();
        let Some(at) = begun.get(a % begun.len().max(1)).copied().filter(|_| !b.is_multiple_of(4)) else {
            let (subtask, pin) = (u32::try_from(a).unwrap() % BACKENDS, self.id());
            let Some(head) = self.head(subtask) else { return };
            let (segments, pages) = (head.chain.segments.clone(), head.chain.pages.clone());
            let (made, counts, expired) = (false, false, false);
            self.readers.push(Reader { subtask, pin, segments, pages, made, counts, expired });
            return;
        };
        let mut reader = self.readers[at].clone();
        if !reader.made {
            self.objects.insert(ObjectName::Pin { job: job(), id: reader.pin });
            self.readers[at].made = true;
            return;
        }
        let head = &self.head(reader.subtask).unwrap().chain;
        reader.counts = reader.segments.is_subset(&head.segments) && reader.pages.is_subset(&head.pages);
        if reader.counts {
            self.readers[at] = reader;
        } else {
            self.objects.remove(&ObjectName::Pin { job: job(), id: reader.pin });
            self.readers.remove(at);
        }
    }

    /// A reader ends in order, or dies.
    fn stop_reading(&mut self, a: usize, b: usize) {
        let Some(at) = (!self.readers.is_empty()).then(|| a % self.readers.len()) else { return };
        if b.is_multiple_of(2) {
            self.readers[at].expired = true;
        } else {
            let pin = self.readers.remove(at).pin;
            self.objects.remove(&ObjectName::Pin { job: job(), id: pin });
        }
    }

    /// The pins on the store.
    fn pins(&self) -> Pins {
        let mut pins = Pins::default();
        for reader in &self.readers {
            if !self.objects.contains(&ObjectName::Pin { job: job(), id: reader.pin }) {
                continue;
            }
            let objects = reader.pages.iter().map(|at| page(reader.subtask, *at)).collect();
            let held = pins::Held { lease_ms: 1, segments: reader.segments.clone(), objects };
            pins.add(reader.pin, held, 0, reader.expired.into());
        }
        pins
    }

    /// An owner that serves, if there is one.
    fn serving(&self, which: usize) -> Option<usize> {
        let serves = |o: &Owner| match &o.step {
            Step::Ended => false,
            Step::Idle => true,
            Step::Pages(paper) | Step::Create(paper) | Step::Again(paper) => !paper.opens,
        };
        let serving: Vec<usize> = (0..self.owners.len()).filter(|i| serves(&self.owners[*i])).collect();
        (!serving.is_empty()).then(|| serving[which % serving.len()])
    }

    /// Begins a segment of one instance, with change sets of owner `a` and perhaps of a neighbour.
    fn upload(&mut self, a: usize, b: usize) {
        let Some(first) = self.serving(a) else { return };
        let instance = self.owners[first].instance;
        let number = self.instances[instance].next;
        self.instances[instance].next += 1;
        self.instances[instance].in_flight.insert(number);
        self.owners[first].sets.push((number, false));
        if let Some(second) = self.serving(b).filter(|i| *i != first && self.owners[*i].instance == instance) {
            self.owners[second].sets.push((number, false));
        }
    }

    fn finish(&mut self, a: usize, b: usize) {
        if self.instances.is_empty() {
            return;
        }
        let at = a % self.instances.len();
        let instance = &mut self.instances[at];
        let flights: Vec<u64> = instance.in_flight.iter().copied().collect();
        let Some(number) = flights.get(b % flights.len().max(1)) else { return };
        self.objects.insert(segment((instance.id, *number)));
        if b.is_multiple_of(4) {
            // The segment is durable, but the uploader does not know that yet.
            return;
        }
        for owner in self.owners.iter_mut().filter(|owner| owner.instance == at) {
            owner.sets.iter_mut().filter(|(n, _)| n == number).for_each(|(_, durable)| *durable = true);
            if owner.step == Step::Ended {
                continue;
            }
            while owner.sets.first().is_some_and(|(_, durable)| *durable) {
                let (number, _) = owner.sets.remove(0);
                owner.paper.chain.segments.insert((instance.id, number));
            }
        }
        instance.in_flight.remove(number);
    }

    /// Derives a manifest; sometimes the last one.
    fn prepare(&mut self, a: usize, b: usize) {
        let Some(at) = self.serving(a) else { return };
        let (before, beside) = (self.id(), self.id());
        let owner = &mut self.owners[at];
        if owner.step != Step::Idle || owner.sealed {
            return;
        }
        owner.closing |= b.is_multiple_of(7);
        owner.sealed = owner.closing;
        let instance = &self.instances[owner.instance];
        let uploading = instance.in_flight.first().copied().unwrap_or(instance.next);
        let unlisted = owner.sets.iter().filter(|(_, durable)| *durable).map(|(number, _)| *number).min();
        let paper = &mut owner.paper;
        paper.opens = false;
        paper.chain.head += 1;
        paper.chain.segment_low_water =
            if owner.sealed { u64::MAX } else { unlisted.map_or(uploading, |unlisted| unlisted.min(uploading)) };
        if b.is_multiple_of(2) {
            owner.fold(before);
        }
        owner.paper.chain.page_low_water = if owner.sealed { u64::MAX } else { owner.next_page };
        owner.step = Step::Pages(owner.paper.clone());
        if b.is_multiple_of(3) && !owner.sealed {
            owner.fold(beside);
        }
    }

    fn write(&mut self, a: usize, b: usize) {
        let busy: Vec<usize> = (0..self.owners.len())
            .filter(|i| matches!(self.owners[*i].step, Step::Pages(_) | Step::Create(_) | Step::Again(_)))
            .collect();
        let Some(at) = busy.get(a % busy.len().max(1)).copied() else { return };
        let subtask = self.owners[at].subtask;
        match self.owners[at].step.clone() {
            Step::Pages(paper) => {
                // Pages that only the next manifest names may be written later.
                let is_written = |at: &mut (u64, Uuid)| paper.chain.pages.contains(at) || b.is_multiple_of(2);
                let new: Vec<_> = self.owners[at].unwritten.extract_if(.., is_written).collect();
                self.objects.extend(new.into_iter().map(|at| page(subtask, at)));
                self.owners[at].step = Step::Create(paper);
            }
            Step::Create(paper) | Step::Again(paper) => {
                let created = self.create(subtask, &paper);
                if b.is_multiple_of(3) {
                    // The request had no answer.
                    self.owners[at].step = Step::Again(paper);
                } else {
                    self.created(at, &paper, created);
                }
            }
            Step::Idle | Step::Ended => unreachable!("not busy"),
        }
    }

    /// Creates the manifest; returns whether the object has these bytes.
    fn create(&mut self, subtask: u32, paper: &Paper) -> bool {
        let key = (subtask, paper.chain.head);
        if let Some(there) = self.papers.get(&key) {
            return there == paper;
        }
        let newest = self.numbers(subtask).next_back().unwrap_or(0);
        assert!(paper.opens || paper.chain.head > newest, "a stale owner published {key:?}");
        self.put(subtask, paper.clone());
        true
    }

    fn put(&mut self, subtask: u32, paper: Paper) {
        self.objects.insert(ObjectName::Manifest { backend: backend(subtask), number: paper.chain.head });
        self.history.push((subtask, paper.clone()));
        self.papers.insert((subtask, paper.chain.head), paper);
    }

    /// The owner learns the outcome.
    fn created(&mut self, at: usize, paper: &Paper, is_ours: bool) {
        let (number, subtask) = (paper.chain.head, self.owners[at].subtask);
        let is_head = self.numbers(subtask).next_back() == Some(number);
        let owner = &mut self.owners[at];
        owner.step = if !is_ours || (paper.opens && !is_head) || owner.sealed { Step::Ended } else { Step::Idle };
        if !is_ours || paper.opens {
            return;
        }
        let gone = chain::deletable(owner.deleted_below, owner.opened, number);
        owner.deleted_below = gone.end;
        for number in gone {
            self.papers.remove(&(subtask, number));
            self.objects.remove(&ObjectName::Manifest { backend: backend(subtask), number });
        }
    }

    /// An owner publishes so often that its older manifests may be deleted, while everything that others wait for stays
    /// pending.
    fn publish(&mut self, a: usize, b: usize) {
        let Some(at) = self.serving(a) else { return };
        for _ in 0..b % 12 {
            let owner = &mut self.owners[at];
            if owner.step != Step::Idle || owner.sealed || !owner.unwritten.is_empty() {
                return;
            }
            owner.paper.opens = false;
            owner.paper.chain.head += 1;
            owner.paper.chain.page_low_water = owner.next_page;
            let (subtask, paper) = (owner.subtask, owner.paper.clone());
            let created = self.create(subtask, &paper);
            self.created(at, &paper, created);
        }
    }

    /// A sweep goes on to its end; if none is under way, one begins and runs to its end.
    fn sweep_whole(&mut self, which: usize) {
        self.sweep_step(which);
        while self.sweeps[which].is_some() {
            self.sweep_step(which);
        }
    }

    /// A daemon dies: all its owners end. Depending on `b`, requests under way still arrive, or leave temporaries in a
    /// store that is a directory.
    fn crash(&mut self, a: usize, b: usize) {
        if self.instances.is_empty() {
            return;
        }
        let at = a % self.instances.len();
        let id = self.instances[at].id;
        for number in self.instances[at].in_flight.clone() {
            let name = segment((id, number));
            if b.is_multiple_of(2) {
                self.objects.insert(name);
            } else {
                self.objects.insert(ObjectName::Temporary { of: Box::new(name), number: 1 });
            }
        }
        for i in (0..self.owners.len()).filter(|i| self.owners[*i].instance == at).collect::<Vec<_>>() {
            let step = std::mem::replace(&mut self.owners[i].step, Step::Ended);
            let subtask = self.owners[i].subtask;
            if let Step::Create(paper) | Step::Again(paper) = step {
                let name = ObjectName::Manifest { backend: backend(subtask), number: paper.chain.head };
                if b.is_multiple_of(3) {
                    self.create(subtask, &paper);
                } else {
                    self.objects.insert(ObjectName::Temporary { of: Box::new(name), number: 1 });
                }
            }
        }
        self.instances[at].in_flight.clear();
        // A very old request arrives.
        if let Some((subtask, paper)) = self.history.get(b % self.history.len().max(1)).cloned()
            && !self.papers.contains_key(&(subtask, paper.chain.head))
        {
            self.put(subtask, paper);
        }
    }

    /// An owner lets a checkpoint go, so that some objects that it inherited or wrote are no longer named.
    fn truncate(&mut self, a: usize, b: usize) {
        let Some(at) = self.serving(a) else { return };
        let chain = &mut self.owners[at].paper.chain;
        let keep = |i: usize| !(i + b).is_multiple_of(3);
        chain.segments = chain.segments.iter().copied().enumerate().filter(|(i, _)| keep(*i)).map(|(_, s)| s).collect();
        chain.pages = chain.pages.iter().copied().enumerate().filter(|(i, _)| keep(*i)).map(|(_, page)| page).collect();
    }

    /// One step of a sweep: list, then read one chain at a time, then delete one object at a time.
    fn sweep_step(&mut self, which: usize) {
        let Some(mut sweep) = self.sweeps[which].take() else {
            let listed = self.objects.iter().cloned().collect();
            let mut older: BTreeMap<u32, BTreeMap<u64, _>> = BTreeMap::new();
            for ((subtask, number), paper) in &self.papers {
                older.entry(*subtask).or_default().insert(*number, (paper.chain.epoch, paper.opens));
            }
            self.sweeps[which] = Some(Sweeping { listed, older, ..Sweeping::default() });
            return;
        };
        if let Some(garbage) = &mut sweep.garbage {
            let Some(name) = garbage.pop() else { return };
            self.objects.remove(&name);
            if let ObjectName::Manifest { backend, number } = &name {
                self.papers.remove(&(backend.subtask, *number));
            }
            self.sweeps[which] = Some(sweep);
            return;
        }
        let unread = (0..BACKENDS).find(|s| self.head(*s).is_some() && !sweep.chains.contains_key(&backend(*s)));
        if let Some(subtask) = unread {
            let mut chain = self.head(subtask).unwrap().chain.clone();
            let older = sweep.older.get(&subtask).cloned().unwrap_or_default();
            chain.older = older.into_iter().filter(|(number, _)| *number < chain.head).collect();
            sweep.chains.insert(backend(subtask), chain);
        } else {
            let (chains, exists) = (std::mem::take(&mut sweep.chains), |name: &ObjectName| sweep.listed.contains(name));
            let view = View::new(chains, self.pins());
            let garbage = sweep.listed.iter().filter(|name| view.judge(name, false, exists).is_garbage());
            sweep.garbage = Some(garbage.cloned().collect());
        }
        self.sweeps[which] = Some(sweep);
    }

    fn check(&self) {
        for subtask in 0..BACKENDS {
            let Some(head) = self.head(subtask) else { continue };
            for at in &head.chain.segments {
                assert!(self.objects.contains(&segment(*at)), "{at:?} is named and gone");
            }
            for at in &head.chain.pages {
                assert!(self.objects.contains(&page(subtask, *at)), "page {at:?} is named and gone");
            }
        }
        let holds =
            |reader: &&Reader| reader.counts && self.objects.contains(&ObjectName::Pin { job: job(), id: reader.pin });
        for reader in self.readers.iter().filter(holds) {
            for at in &reader.segments {
                assert!(self.objects.contains(&segment(*at)), "{at:?} is pinned and gone");
            }
            for at in &reader.pages {
                assert!(self.objects.contains(&page(reader.subtask, *at)), "page {at:?} is pinned and gone");
            }
        }
    }

    /// Everything ends, and each backend is opened and closed once more; then two undisturbed sweeps run.
    fn settle(&mut self) {
        for at in 0..self.instances.len() {
            self.crash(at, 2);
        }
        for subtask in 0..BACKENDS {
            self.open(subtask, 0);
            let at = self.owners.len() - 1;
            let opening = self.owners[at].paper.clone();
            self.owners[at].unwritten.clear();
            self.create(subtask, &opening);
            self.created(at, &opening, true);
            let last = &mut self.owners[at].paper;
            (last.opens, last.chain.segment_low_water, last.chain.page_low_water) = (false, u64::MAX, u64::MAX);
            last.chain.head += 1;
            let last = last.clone();
            self.create(subtask, &last);
            self.check();
        }
        self.sweeps = [None, None];
        self.readers.iter_mut().for_each(|reader| reader.expired = true);
        // The first sweep deletes the pins of dead readers, the next one the objects that these kept.
        self.sweep_whole(0);
        self.sweep_whole(0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn deletes_what_nobody_can_name_and_nothing_else(
        actions in prop::collection::vec((any::<u8>(), 0..16_usize, 0..64_usize), 1..200)
    ) {
        let mut world = World::default();
        for (kind, a, b) in actions {
            world.act(kind, a, b);
            world.check();
        }
        world.settle();
        world.check();
        let named: BTreeSet<ObjectName> = (0..BACKENDS)
            .flat_map(|subtask| {
                let chain = &world.head(subtask).unwrap().chain;
                let segments = chain.segments.iter().map(|at| segment(*at));
                segments.chain(chain.pages.iter().map(move |at| page(subtask, *at))).collect::<Vec<_>>()
            })
            .collect();
        let fences: usize = (0..BACKENDS)
            .map(|subtask| {
                let epochs: BTreeSet<_> = world.history.iter().filter(|(s, _)| *s == subtask).map(|(_, p)| p.chain.epoch.owner).collect();
                2 * epochs.len() + usize::try_from(chain::KEPT_MANIFESTS).unwrap()
            })
            .sum();
        let (manifests, rest): (Vec<_>, Vec<_>) =
            world.objects.iter().partition(|name| matches!(name, ObjectName::Manifest { .. }));
        for name in rest {
            // Temporaries of manifests above a head may remain until the chain gets there.
            let in_the_making = matches!(name, ObjectName::Temporary { of, .. }
                if matches!(**of, ObjectName::Manifest { ref backend, number }
                    if number > world.head(backend.subtask).unwrap().chain.head));
            prop_assert!(in_the_making || named.contains(name), "{} stays", name);
        }
        prop_assert!(manifests.len() <= fences, "{} manifests", manifests.len());
    }
}
