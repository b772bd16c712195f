//! The decision which copies are needed, by an open backend or by one that may be opened again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use object_store::path::Path;
use tokio::time::Instant;

use crate::types::{BackendId, SqnRange};

/// The backends that may need a copy, and the objects that it refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    /// The parts of backends that the object holds. All backends belong to one job.
    pub uses: Vec<Use>,
    /// Objects that a reader of this object needs, too.
    pub leads_to: Vec<Path>,
    /// Whether the object is a file of an image. Not written to the head of a copy.
    pub is_image: bool,
}

/// A part of a backend that an object holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The backend that may need the object.
    pub backend: BackendId,
    /// The part of its changelog or snapshot.
    pub part: Part,
}

/// The part of a backend's state that an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Changes with these sequence numbers, or a page that lists where they are.
    Log(SqnRange),
    /// A file of a snapshot.
    File {
        /// Number of the epoch that wrote the file.
        epoch: u64,
        /// Number of the file within the epoch.
        number: u64,
    },
}

/// The objects that one owner of a backend needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Ranges of changelogs, each with the backend that wrote it.
    pub log: Vec<(BackendId, SqnRange)>,
    /// Paths of objects. Objects that they lead to are needed, too.
    pub objects: BTreeSet<Path>,
    /// First of its own files, as (epoch, number), that a materialization under way may need; so are all later ones.
    pub files_from: (u64, u64),
}

/// The needs of all backends.
#[derive(Debug)]
pub(super) struct Wants {
    open: BTreeMap<BackendId, (u64, Wanted)>,
    /// When a backend that is not open was last open, or one of its copies was last read.
    last_used: BTreeMap<BackendId, Instant>,
    began: Instant,
    idle_timeout: Duration,
}

impl Wants {
    pub(super) fn new(idle_timeout: Duration, began: Instant) -> Self {
        Self { open: BTreeMap::new(), last_used: BTreeMap::new(), began, idle_timeout }
    }

    /// Sets the needs of owner `epoch`. Returns `false` if a later owner has set its own.
    pub(super) fn set(&mut self, backend: &BackendId, epoch: u64, wanted: Wanted) -> bool {
        // A fenced owner on this host may speak after its successor, and would drop the copies that the successor
        // needs.
        if self.open.get(backend).is_some_and(|(newer, _)| *newer > epoch) {
            return false;
        }
        self.open.insert(backend.clone(), (epoch, wanted));
        true
    }

    pub(super) fn release(&mut self, backend: &BackendId, epoch: u64, now: Instant) {
        // Likewise, the end of an older owner does not end its successor.
        if self.open.get(backend).is_some_and(|(open, _)| *open == epoch) {
            self.open.remove(backend);
            self.used(backend, now);
        }
    }

    /// Whether an open backend may need the object: it is open itself, or wants the log of the backend that wrote it.
    pub(super) fn is_asked_for(&self, label: &Label) -> bool {
        let is_of = |backend: &BackendId| {
            let wanted = || self.open.values().flat_map(|(_, wanted)| &wanted.log);
            self.open.contains_key(backend) || wanted().any(|(of, _)| of == backend)
        };
        !label.is_image && label.uses.iter().any(|usage| is_of(&usage.backend))
    }

    pub(super) fn used(&mut self, backend: &BackendId, now: Instant) {
        self.last_used.insert(backend.clone(), now);
    }

    /// Paths of those `copies`, made or queued, that no backend needs.
    pub(super) fn unneeded<'a>(
        &mut self,
        copies: impl Iterator<Item = (&'a Path, &'a Label)> + Clone,
        now: Instant,
    ) -> Vec<Path> {
        let mut objects: BTreeSet<&Path> = BTreeSet::new();
        for (path, label) in copies.clone() {
            if self.open.values().any(|(_, wanted)| wanted.objects.contains(path)) {
                objects.insert(path);
                // An index leads to its data files. They are needed as long as the index is, and are not listed by the
                // wishes.
                objects.extend(&label.leads_to);
            }
        }
        let is_needed = |path: &Path, label: &Label| {
            objects.contains(path)
                || label.uses.iter().any(|usage| self.covers(usage) || self.expiry(&usage.backend) > Some(now))
        };
        let unneeded = copies.clone().filter(|(path, label)| !is_needed(path, label)).map(|(path, _)| path.clone());
        let unneeded = unneeded.collect();
        let owners: BTreeSet<&BackendId> =
            copies.flat_map(|(_, label)| label.uses.iter().map(|usage| &usage.backend)).collect();
        // Backends without copies are forgotten, so the map does not grow with every backend that ever was.
        self.last_used.retain(|backend, _| owners.contains(backend) && !self.open.contains_key(backend));
        unneeded
    }

    /// The next time after `now` at which a backend that is not open counts as gone.
    pub(super) fn next_expiry<'a>(&self, labels: impl Iterator<Item = &'a Label>, now: Instant) -> Option<Instant> {
        let owners: BTreeSet<&BackendId> =
            labels.flat_map(|label| label.uses.iter().map(|usage| &usage.backend)).collect();
        // A backend that is gone already may still have copies, which another one needs.
        owners.into_iter().filter_map(|backend| self.expiry(backend)).filter(|expiry| *expiry > now).min()
    }

    /// When a backend that is not open counts as gone; `None` if it is open.
    fn expiry(&self, backend: &BackendId) -> Option<Instant> {
        if self.open.contains_key(backend) {
            return None;
        }
        Some(*self.last_used.get(backend).unwrap_or(&self.began) + self.idle_timeout)
    }

    /// Whether an open backend needs the part `usage`.
    fn covers(&self, usage: &Use) -> bool {
        match usage.part {
            Part::Log(range) => {
                let overlaps = |(backend, wanted): &(BackendId, SqnRange)| {
                    *backend == usage.backend && wanted.from < range.to && range.from < wanted.to
                };
                self.open.values().any(|(_, wanted)| wanted.log.iter().any(overlaps))
            }
            Part::File { epoch, number } => {
                self.open.get(&usage.backend).is_some_and(|(_, wanted)| (epoch, number) >= wanted.files_from)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::types::{Name, Sqn};

    const TIMEOUT: Duration = Duration::from_secs(600);

    fn backend(subtask: u32) -> BackendId {
        BackendId { job: Name::new("job").unwrap(), operator: Name::new("op").unwrap(), subtask }
    }

    fn range(from: u64, to: u64) -> SqnRange {
        SqnRange { from: Sqn(from), to: Sqn(to) }
    }

    fn log(uses: &[(u32, u64, u64)]) -> Label {
        let usage = |(subtask, from, to): &(u32, u64, u64)| Use {
            backend: backend(*subtask),
            part: Part::Log(range(*from, *to)),
        };
        Label { uses: uses.iter().map(usage).collect(), ..Label::default() }
    }

    fn file(epoch: u64, number: u64, leads_to: &[&str]) -> Label {
        let uses = vec![Use { backend: backend(0), part: Part::File { epoch, number } }];
        Label { uses, leads_to: leads_to.iter().map(|path| Path::from(*path)).collect(), is_image: false }
    }

    fn wanted(log: &[(u32, u64, u64)], objects: &[&str], files_from: (u64, u64)) -> Wanted {
        Wanted {
            log: log.iter().map(|(subtask, from, to)| (backend(*subtask), range(*from, *to))).collect(),
            objects: objects.iter().map(|path| Path::from(*path)).collect(),
            files_from,
        }
    }

    fn unneeded(wants: &mut Wants, copies: &[(&str, Label)], now: Instant) -> Vec<String> {
        let copies: Vec<_> = copies.iter().map(|(path, label)| (Path::from(*path), label.clone())).collect();
        let copies = copies.iter().map(|(path, label)| (path, label));
        wants.unneeded(copies, now).iter().map(Path::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_segment_stays_until_all_its_backends_are_done_with_it() {
        let now = Instant::now();
        let mut wants = Wants::new(TIMEOUT, now);
        let copies = [("a", log(&[(0, 1, 5), (1, 1, 4)])), ("b", log(&[(0, 5, 9)]))];
        assert_eq!(unneeded(&mut wants, &copies, now), Vec::<String>::new(), "nobody has come for them yet");
        assert!(wants.set(&backend(0), 2, wanted(&[(0, 9, 20)], &[], (2, 1))));
        assert_eq!(unneeded(&mut wants, &copies, now), ["b"], "subtask 1 may come for the other one");
        assert!(wants.set(&backend(1), 2, wanted(&[(1, 3, 20)], &[], (2, 1))));
        assert_eq!(unneeded(&mut wants, &copies, now), ["b"]);
        assert!(wants.set(&backend(1), 2, wanted(&[(1, 4, 20)], &[], (2, 1))));
        assert_eq!(unneeded(&mut wants, &copies, now), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn copies_of_a_backend_that_is_not_open_go_after_the_idle_time() {
        let now = Instant::now();
        let mut wants = Wants::new(TIMEOUT, now);
        let copies = [("a", log(&[(0, 1, 5)]))];
        assert_eq!(wants.next_expiry(copies.iter().map(|(_, label)| label), now), Some(now + TIMEOUT));
        wants.set(&backend(0), 1, wanted(&[(0, 0, 9)], &[], (1, 1)));
        assert_eq!(wants.next_expiry(copies.iter().map(|(_, label)| label), now), None);
        assert!(unneeded(&mut wants, &copies, now + 9 * TIMEOUT).is_empty(), "an open one is never idle");
        wants.release(&backend(0), 2, now);
        assert_eq!(wants.next_expiry(copies.iter().map(|(_, label)| label), now), None, "another owner's end");
        wants.release(&backend(0), 1, now + TIMEOUT);
        assert!(unneeded(&mut wants, &copies, now + 2 * TIMEOUT - Duration::from_millis(1)).is_empty());
        assert_eq!(unneeded(&mut wants, &copies, now + 2 * TIMEOUT), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn files_stay_with_their_index_and_while_a_materialization_is_under_way() {
        let now = Instant::now();
        let mut wants = Wants::new(TIMEOUT, now);
        let copies =
            [("1", file(2, 1, &[])), ("2", file(2, 2, &[])), ("3", file(2, 3, &["1"])), ("4", file(2, 4, &[]))];
        wants.set(&backend(0), 2, wanted(&[], &["3"], (2, 4)));
        assert_eq!(unneeded(&mut wants, &copies, now), ["2"]);
        wants.set(&backend(0), 2, wanted(&[], &[], (2, 5)));
        assert_eq!(unneeded(&mut wants, &copies, now), ["1", "2", "3", "4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_owner_decides_nothing_and_imports_keep_what_they_are_of() {
        let now = Instant::now();
        let mut wants = Wants::new(TIMEOUT, now);
        let copies = [("a", log(&[(1, 1, 5)]))];
        wants.set(&backend(0), 3, wanted(&[(1, 1, 5)], &[], (3, 1)));
        assert!(!wants.set(&backend(0), 2, wanted(&[], &[], (2, 1))));
        assert!(unneeded(&mut wants, &copies, now + 2 * TIMEOUT).is_empty(), "subtask 0 was made from subtask 1");
        assert_eq!(wants.next_expiry(copies.iter().map(|(_, label)| label), now), Some(now + TIMEOUT));
        assert_eq!(wants.next_expiry(copies.iter().map(|(_, label)| label), now + TIMEOUT), None, "that is over");
        wants.set(&backend(0), 3, wanted(&[], &[], (3, 1)));
        assert_eq!(unneeded(&mut wants, &copies, now + 2 * TIMEOUT), ["a"]);
    }
}
