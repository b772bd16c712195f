//! Incremental clean-up: batches look at some entries of a state, in turn, and remove those that are expired.
//!
//! ```text
//!   turn: key group by key group ─▶ names, some hundreds at a time ─▶ entries of each, a few per batch
//! ```
//!
//! A turn goes once through all entries, and notes when the first of the remaining entries will expire. Entries that
//! are written meanwhile expire no earlier than those that were written when the turn began. There is no other turn
//! before that time, so a state in which nothing expires costs next to nothing.

use std::collections::VecDeque;

use super::{
    Writer,
    upkeep::{self, Tally, Upkeep},
};
use crate::{
    state::{
        Action, Address, Change, MapKeys, PageLimit, StateBackend, StateError,
        ttl::{Entry, Lifespan, REMOVED},
    },
    types::{KeyGroup, KeyGroupRange, StateId, StateKind, TimeMs},
};

/// Names that are read ahead, since an inner backend may have to sort many names to find some.
const NAMES: PageLimit = PageLimit { entries: 512, bytes: 64 << 10 };

/// Most key groups in which one batch looks for names.
const MAX_KEY_GROUPS: usize = 8;

/// Key and namespace.
type StoredName = (Vec<u8>, Vec<u8>);

/// The progress of the clean-up of one state.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Names whose entries were not looked at yet.
    names: VecDeque<(KeyGroup, Vec<u8>, Vec<u8>)>,
    /// The position within the first of `names`.
    within: Within,
    /// Where to read the next names; `None` between turns.
    next: Option<(KeyGroup, Option<StoredName>)>,
    /// The time from which on the next turn is worth its cost.
    due: TimeMs,
}

/// The position within a (key, namespace).
#[derive(Debug, Default)]
enum Within {
    #[default]
    Begin,
    Map(Vec<u8>),
    List(u64, Tally),
}

/// The target of a clean-up.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The state, which has a TTL.
    pub state: StateId,
    /// The kind of the state.
    pub kind: StateKind,
    /// The key groups of the backend.
    pub key_groups: KeyGroupRange,
    /// The TTL of the state, at the time of the batch.
    pub life: Lifespan,
    /// Number of entries that the batch looks at.
    pub entries: u64,
}

/// Looks at as many entries as the target says, and removes the expired ones. Each change is applied to `backend`, then
/// passed to `log`.
///
/// # Errors
/// The error of the backend. Changes made before it stay made and logged.
pub fn clean<B: StateBackend + ?Sized>(
    backend: &mut B,
    target: &Target,
    cursor: &mut Cursor,
    upkeep: &Upkeep,
    log: &mut impl FnMut(&Change<'_>),
) -> Result<(), StateError> {
    let mut left = target.entries;
    while left > 0 {
        let Some((key_group, key, namespace)) = cursor.names.pop_front() else {
            if !cursor.read_ahead(backend, target)? {
                return Ok(());
            }
            continue;
        };
        let at = Address { state: target.state, key_group, key: &key, namespace: &namespace };
        let mut writer = Writer { backend: &mut *backend, at, log: &mut *log };
        let mut look = Look { life: target.life, upkeep, due: cursor.due, left };
        // Ordering: the name goes back to the front as long as it has entries left. `within` is a position in the first
        // name, so the two must always change together.
        let within = std::mem::take(&mut cursor.within);
        cursor.within = match target.kind {
            StateKind::Value => look.at_value(&mut writer)?,
            StateKind::Map => look.at_map(&mut writer, within)?,
            StateKind::List => look.at_list(&mut writer, within)?,
            StateKind::Timer => Within::Begin,
        };
        (left, cursor.due) = (look.left, look.due);
        if !matches!(cursor.within, Within::Begin) {
            cursor.names.push_front((key_group, key, namespace));
        }
    }
    Ok(())
}

impl Cursor {
    /// Reads names ahead; returns whether there are any.
    fn read_ahead<B: StateBackend + ?Sized>(&mut self, backend: &B, target: &Target) -> Result<bool, StateError> {
        let Target { state, key_groups, life, .. } = *target;
        for _ in 0..MAX_KEY_GROUPS {
            if !self.names.is_empty() {
                return Ok(true);
            }
            let Some((key_group, after)) = self.next.take() else {
                if life.now() < self.due {
                    return Ok(false);
                }
                // A new turn. What is written from now on is due no earlier than this. `Look::sees` lowers it for older
                // entries.
                self.due = life.expiry(life.now());
                self.next = Some((key_groups.first(), None));
                continue;
            };
            let behind = after.as_ref().map(|(key, namespace)| (&key[..], &namespace[..]));
            let names = &mut self.names;
            let more = backend.name_page(state, key_group, behind, NAMES, &mut |key, namespace| {
                names.push_back((key_group, key.to_vec(), namespace.to_vec()));
            })?;
            // There were no names before this page, so the last name is the last one of the page.
            self.next = match self.names.back() {
                Some((_, key, namespace)) if more => Some((key_group, Some((key.clone(), namespace.clone())))),
                _ => key_groups.iter().find(|group| *group > key_group).map(|group| (group, None)),
            };
            if self.next.is_none() && self.names.is_empty() {
                return Ok(false);
            }
        }
        Ok(!self.names.is_empty())
    }
}

/// A look at the entries of one (key, namespace).
struct Look<'a> {
    life: Lifespan,
    upkeep: &'a Upkeep,
    due: TimeMs,
    /// Number of entries that may still be looked at.
    left: u64,
}

impl Look<'_> {
    /// Counts an entry; returns whether it has to be removed.
    fn sees(&mut self, entry: &Entry<'_>) -> bool {
        self.left = self.left.saturating_sub(1);
        if !entry.is_expired {
            self.due = self.due.min(self.life.expiry(entry.touched));
        }
        entry.is_expired
    }

    fn limit(&self) -> PageLimit {
        PageLimit { entries: usize::try_from(self.left).unwrap_or(usize::MAX), bytes: NAMES.bytes }
    }

    /// Removes an entry, unless the batch has removed enough.
    fn remove<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
        &mut self,
        writer: &mut Writer<'_, B, L>,
        action: Action<'_>,
    ) -> Result<(), StateError> {
        if self.upkeep.takes(writer.at.key.len() + writer.at.namespace.len()) {
            self.upkeep.removed();
            return writer.write(action);
        }
        // The budget of the batch is used up. The entry stays, and the next turn, due at once, meets it again.
        (self.left, self.due) = (0, self.life.now());
        Ok(())
    }

    fn at_value<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
        &mut self,
        writer: &mut Writer<'_, B, L>,
    ) -> Result<Within, StateError> {
        let (life, mut is_expired) = (self.life, Ok::<_, StateError>(false));
        writer.backend.value(writer.at, &mut |stored| {
            is_expired = stored.map_or(Ok(false), |stored| Ok(self.sees(&life.entry(stored)?)));
        })?;
        if is_expired? {
            self.remove(writer, Action::Clear)?;
        }
        Ok(Within::Begin)
    }

    fn at_map<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
        &mut self,
        writer: &mut Writer<'_, B, L>,
        within: Within,
    ) -> Result<Within, StateError> {
        // Entries are removed after the page was read, since the backend is borrowed while it is read.
        let from = if let Within::Map(from) = within { from } else { vec![] };
        let (life, mut expired, mut last, mut fault) = (self.life, vec![], None, None);
        let more = writer.backend.map_page(writer.at, MapKeys::from(&from), self.limit(), &mut |map_key, stored| {
            match life.entry(stored) {
                Ok(entry) if self.sees(&entry) => expired.push(map_key.to_vec()),
                Ok(_) => {}
                Err(error) => fault = Some(error),
            }
            last = Some(map_key.to_vec());
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        for map_key in &expired {
            self.remove(writer, Action::MapRemove { map_key })?;
        }
        Ok(match last {
            Some(mut from) if more => {
                from.push(0);
                Within::Map(from)
            }
            _ => Within::Begin,
        })
    }

    fn at_list<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
        &mut self,
        writer: &mut Writer<'_, B, L>,
        within: Within,
    ) -> Result<Within, StateError> {
        let (mut index, mut tally) =
            if let Within::List(index, tally) = within { (index, tally) } else { (0, Tally::default()) };
        let (life, mut expired, mut fault) = (self.life, vec![], None);
        let more = writer.backend.list_page(writer.at, index, self.limit(), &mut |stored| {
            match life.entry(stored) {
                Ok(entry) => {
                    tally.add(&entry);
                    if self.sees(&entry) && stored != REMOVED {
                        expired.push(index);
                    }
                }
                Err(error) => fault = Some(error),
            }
            index += 1;
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        for index in expired {
            self.remove(writer, Action::ListPut { index, element: REMOVED })?;
        }
        // The tally of a part may call a list mostly gone whose other elements are alive.
        if more {
            return Ok(Within::List(index, tally));
        }
        if tally.is_mostly_gone() {
            upkeep::compact(writer, self.life, self.upkeep, &[])?;
        }
        Ok(Within::Begin)
    }
}
