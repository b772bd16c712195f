//! Timers: registers and deletes single timers, reads and fires those of all key groups in order of time.
//!
//! ```text
//!   token: version u8 │ scope u64 │ state u32 │ time i64 │ key group u16 │ key length u32 │ key │ namespace
//! ```
//!
//! Numbers are little-endian. A token names the last timer of its page, which need not exist any more; the next page
//! begins behind it. So a timer that is registered between two pages is seen if it lies behind the first page. The
//! scope is the owner that made the token, as in [`scan`](super::scan).
//!
//! Every change is one timer added or removed; operations without effect are not logged. Firing removes exactly the
//! timers that it returns.

use bytes::Bytes;

use super::{
    Answer, OpContext, Writer,
    scan::{take_header, token_header},
};
use crate::{
    state::{Action, Address, Change, PageLimit, StateBackend, StateError, TimerRef},
    types::{KeyGroup, StateId},
};

/// Distinguishes these tokens from those of keys.
const VERSION: u8 = 0x41;

/// A timer that was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    /// The time at which it fires.
    pub time: i64,
    /// The key that it belongs to.
    pub key: Bytes,
    /// The namespace that it belongs to.
    pub namespace: Bytes,
    /// The key group of its key.
    pub key_group: KeyGroup,
}

/// The timers to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a> {
    pub(super) state: StateId,
    pub(super) up_to: i64,
    /// Empty for the first page.
    pub(super) token: &'a [u8],
    /// Most timers of the page; 0 for as many as fit.
    pub(super) limit: u64,
}

impl Timer {
    /// The same timer, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> TimerRef<'_> {
        TimerRef { time: self.time, key: &self.key, namespace: &self.namespace, key_group: self.key_group }
    }

    /// A copy of a borrowed timer.
    #[must_use]
    pub fn copied(timer: TimerRef<'_>) -> Self {
        let (key, namespace) = (Bytes::copy_from_slice(timer.key), Bytes::copy_from_slice(timer.namespace));
        Self { time: timer.time, key, namespace, key_group: timer.key_group }
    }
}

/// Registers a timer if `is_wanted`, or deletes it.
pub(super) fn set<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &mut Writer<'_, B, L>,
    time: i64,
    is_wanted: bool,
) -> Result<(), StateError> {
    if writer.backend.timer(writer.at, time)? == is_wanted {
        return Ok(());
    }
    writer.write(if is_wanted { Action::TimerPut { time } } else { Action::TimerRemove { time } })
}

/// Reads one page.
pub(super) fn read<B: StateBackend + ?Sized>(
    backend: &B,
    scan: Scan<'_>,
    context: &OpContext<'_>,
) -> Result<Answer, StateError> {
    let foreign = StateError::Mismatch { state: scan.state, what: "a token of another owner" };
    let after = match scan.token {
        [] => None,
        token => Some(decode(token, scan.state, context.scope).ok_or(foreign)?),
    };
    let (timers, last) = page(backend, scan, after.as_ref().map(Timer::as_ref), context)?;
    let token = last.map(|last| encode(last.as_ref(), scan.state, context.scope).into());
    Ok(Answer::Timers { timers, token })
}

/// Reads the first page, and removes its timers.
pub(super) fn fire<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &mut Writer<'_, B, L>,
    scan: Scan<'_>,
    context: &OpContext<'_>,
) -> Result<Answer, StateError> {
    // Ordering: the page is read whole before its first timer is removed. The index must not change under a read.
    let (timers, last) = page(&*writer.backend, scan, None, context)?;
    for Timer { time, key, namespace, key_group } in &timers {
        let at = Address { state: scan.state, key_group: *key_group, key, namespace };
        let mut writer = Writer { backend: &mut *writer.backend, at, log: &mut *writer.log };
        writer.write(Action::TimerRemove { time: *time })?;
    }
    Ok(Answer::Fired { timers, more: last.is_some() })
}

/// Reads a page of the timers of the wanted key groups; also returns the timer behind which the next page begins, if
/// others may follow. For a single key group it looks at as many timers of all as a page of keys looks at names, so the
/// page may have fewer than exist.
fn page<B: StateBackend + ?Sized>(
    backend: &B,
    scan: Scan<'_>,
    after: Option<TimerRef<'_>>,
    context: &OpContext<'_>,
) -> Result<(Vec<Timer>, Option<Timer>), StateError> {
    let most = if scan.limit == 0 { usize::MAX } else { usize::try_from(scan.limit).unwrap_or(usize::MAX) };
    let entries = if context.key_groups.count() > 1 { most } else { context.reach.names };
    let limit = PageLimit { entries, bytes: context.page_bytes };
    let (mut timers, mut skipped, mut is_full) = (vec![], None, false);
    let more = backend.timer_page(scan.state, after, scan.up_to, limit, &mut |timer| {
        // For a single key group, the backend's page is wider than the wanted one, and is cut here.
        is_full |= timers.len() >= most;
        if is_full {
            return;
        }
        // The token names the last timer that was looked at, not the last one on the page. Else a key group with few
        // timers would be searched from its last timer on, again and again.
        if context.key_groups.contains(timer.key_group) {
            timers.push(Timer::copied(timer));
            skipped = None;
        } else {
            skipped = Some(Timer::copied(timer));
        }
    })?;
    let behind = |timers: &[Timer]| skipped.or_else(|| timers.last().cloned()).or(after.map(Timer::copied));
    let last = if more || is_full { behind(&timers) } else { None };
    Ok((timers, last))
}

fn encode(timer: TimerRef<'_>, state: StateId, scope: u64) -> Vec<u8> {
    let mut out = token_header(VERSION, state, scope);
    out.extend(timer.time.to_le_bytes());
    out.extend(timer.key_group.0.to_le_bytes());
    out.extend(u32::try_from(timer.key.len()).expect("keys are bounded far below").to_le_bytes());
    out.extend_from_slice(timer.key);
    out.extend_from_slice(timer.namespace);
    out
}

/// The timer of a token; `None` if it was not made by this owner for this state.
pub(super) fn decode(token: &[u8], state: StateId, scope: u64) -> Option<Timer> {
    let rest = take_header(token, VERSION, state, scope)?;
    let (time, rest) = rest.split_first_chunk()?;
    let (group, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (key, namespace) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let key_group = KeyGroup(u16::from_le_bytes(*group));
    Some(Timer::copied(TimerRef { time: i64::from_le_bytes(*time), key, namespace, key_group }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_a_timer_of_its_owner_and_state() {
        for (time, key, namespace) in [(i64::MIN + 1, "k", ""), (-1, "key", "ns"), (i64::MAX, "\0", "\0\0")] {
            let (key, namespace) = (key.as_bytes(), namespace.as_bytes());
            let timer = TimerRef { time, key, namespace, key_group: KeyGroup(300) };
            let token = encode(timer, StateId(7), 99);
            assert_eq!(decode(&token, StateId(7), 99).unwrap().as_ref(), timer);
            assert_eq!(decode(&token, StateId(8), 99), None);
            assert_eq!(decode(&token, StateId(7), 98), None);
        }
        for token in [&b"x"[..], &[VERSION; 26], &[1; 40]] {
            assert_eq!(decode(token, StateId(7), 99), None);
        }
    }
}
