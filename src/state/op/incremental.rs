//! Incremental clean-up: batches look at some entries of a state, in turn, and remove those that are expired.
//!
//! ```text
//!   turn: key group by key group ─▶ names, some hundreds at a time ─▶ entries of each, a few per batch
//! ```
//!
//! A turn goes once through all entries. It notes when the first of those that it leaves will be expired; none that is
//! written meanwhile will be before what is written at its beginning. Until then there is no other turn, so a state in
//! which nothing expires costs next to nothing.

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

/// Names that are read ahead: an inner backend may have to sort many to find some.
const NAMES: PageLimit = PageLimit { entries: 512, bytes: 64 << 10 };

/// Key groups in which one batch looks for names, at most.
const MAX_KEY_GROUPS: usize = 8;

/// Key and namespace.
type StoredName = (Vec<u8>, Vec<u8>);

/// How far the clean-up of one state has come.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Not looked at yet.
    names: VecDeque<(KeyGroup, Vec<u8>, Vec<u8>)>,
    /// Where to look within the first of `names`.
    within: Within,
    /// Where names are to be read on; `None` between turns.
    next: Option<(KeyGroup, Option<StoredName>)>,
    /// When the next turn is worth while.
    due: TimeMs,
}

/// Where to go on within a (key, namespace).
#[derive(Debug, Default)]
enum Within {
    #[default]
    Begin,
    Map(Vec<u8>),
    List(u64, Tally),
}

/// What is cleaned up.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// A state with TTL.
    pub state: StateId,
    /// Its kind.
    pub kind: StateKind,
    /// The backend's.
    pub key_groups: KeyGroupRange,
    /// How its entries live.
    pub life: Lifespan,
}

/// Looks at `entries` entries and removes those that are expired. Each change is applied to `backend`, then handed to
/// `log`.
///
/// # Errors
/// Those of the backend. Changes made before an error stay made and logged.
pub fn clean<B: StateBackend + ?Sized>(
    backend: &mut B,
    target: &Target,
    cursor: &mut Cursor,
    (entries, upkeep): (u64, &Upkeep),
    log: &mut impl FnMut(&Change<'_>),
) -> Result<(), StateError> {
    let mut left = entries;
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
    /// Reads names ahead; returns whether there are any to look at.
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
                self.due = life.expiry(life.now());
                self.next = Some((key_groups.first(), None));
                continue;
            };
            let behind = after.as_ref().map(|(key, namespace)| (&key[..], &namespace[..]));
            let names = &mut self.names;
            let more = backend.name_page(state, key_group, behind, NAMES, &mut |key, namespace| {
                names.push_back((key_group, key.to_vec(), namespace.to_vec()));
            })?;
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
    /// Entries that may be looked at.
    left: u64,
}

impl Look<'_> {
    /// Counts an entry; returns whether it is to be removed.
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

    /// Removes an entry, unless enough was removed.
    fn remove<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
        &mut self,
        writer: &mut Writer<'_, B, L>,
        action: Action<'_>,
    ) -> Result<(), StateError> {
        if self.upkeep.takes(writer.at.key.len() + writer.at.namespace.len()) {
            self.upkeep.removed();
            return writer.write(action);
        }
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
        if more {
            return Ok(Within::List(index, tally));
        }
        if tally.is_mostly_gone() {
            upkeep::compact(writer, (self.life, self.upkeep), &[])?;
        }
        Ok(Within::Begin)
    }
}
