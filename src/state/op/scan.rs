//! Reads the keys of a state, page by page.
//!
//! ```text
//!   token: version u8 │ scope u64 │ state u32 │ key group u16 │ key length u32 │ key │ namespace
//! ```
//!
//! Numbers are little-endian. A token names the (key, namespace) and key group behind which the next page begins;
//! without a key it means the beginning of the key group. The scope is the owner that made the token: another owner may
//! keep its keys in another order.
//!
//! The order of keys does not change while others come and go. A key that exists from the first page to the last is on
//! exactly one page, however the same session writes in between. A key that comes or goes meanwhile may be missing.

use bytes::Bytes;

use super::{Answer, Op, OpContext, OpError, lists, timed, timers};
use crate::{
    state::{Address, PageLimit, StateBackend, StateError},
    types::{KeyGroup, KeyGroupRange, StateId},
};

const VERSION: u8 = 1;

/// Bounds of one page: how much it looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Names; names of other namespaces are skipped, but counted.
    pub names: usize,
    /// Key groups that a page looks at.
    pub key_groups: usize,
}

impl Default for Reach {
    fn default() -> Self {
        Self { names: 10_000, key_groups: 256 }
    }
}

/// The beginning of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    key_group: KeyGroup,
    /// Key and namespace behind which it begins; `None` for the beginning of the key group.
    after: Option<(Vec<u8>, Vec<u8>)>,
}

/// The keys to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a> {
    pub(super) state: StateId,
    /// The namespace to read; `None` for all.
    pub(super) namespace: Option<&'a [u8]>,
    /// Empty for the first page.
    pub(super) token: &'a [u8],
    /// Most keys of the page; 0 for as many as fit.
    pub(super) limit: u64,
}

/// Checks that the token of an operation, if it has one, was made by this owner, for this state, these key groups and
/// this kind of operation. A list token must also be for this list and, if there are `cursors`, still known to them.
///
/// # Errors
/// [`OpError::ForeignToken`] if it was not.
pub fn check_token(
    op: &Op<'_>,
    at: Address<'_>,
    scope: u64,
    cursors: Option<&lists::Cursors>,
    key_groups: KeyGroupRange,
) -> Result<(), OpError> {
    let state = at.state;
    let is_within = |position: Position| key_groups.contains(position.key_group);
    let is_own = match *op {
        Op::Keys { token, .. } => token.is_empty() || Position::decode(token, state, scope).is_some_and(is_within),
        Op::Timers { token, .. } => token.is_empty() || timers::decode(token, state, scope).is_some(),
        Op::ListGet { token, .. } => {
            let is_known = |token| cursors.is_none_or(|cursors| cursors.find(at, token).is_some());
            token.is_empty() || lists::Token::decode(token, at, scope).is_some_and(is_known)
        }
        _ => true,
    };
    if is_own { Ok(()) } else { Err(OpError::ForeignToken) }
}

/// The beginning of a token.
pub(super) fn token_header(version: u8, state: StateId, scope: u64) -> Vec<u8> {
    let mut out = vec![version];
    out.extend(scope.to_le_bytes());
    out.extend(state.0.to_le_bytes());
    out
}

/// The bytes behind the header of a token; `None` if the header differs.
pub(super) fn take_header(token: &[u8], version: u8, state: StateId, scope: u64) -> Option<&[u8]> {
    let rest = token.strip_prefix(&[version])?;
    let (of, rest) = rest.split_first_chunk()?;
    let (id, rest) = rest.split_first_chunk()?;
    (u64::from_le_bytes(*of) == scope && u32::from_le_bytes(*id) == state.0).then_some(rest)
}

/// Reads one page.
pub(super) fn keys<B: StateBackend + ?Sized>(
    backend: &B,
    scan: Scan<'_>,
    context: &OpContext<'_>,
) -> Result<Answer, StateError> {
    let range = context.key_groups;
    let mut position = match scan.token {
        [] => Position { key_group: range.first(), after: None },
        token => Position::decode(token, scan.state, context.scope)
            .filter(|position| range.contains(position.key_group))
            .ok_or(StateError::Mismatch { state: scan.state, what: "a token of another owner, or key group" })?,
    };
    let most = if scan.limit == 0 { usize::MAX } else { usize::try_from(scan.limit).unwrap_or(usize::MAX) };
    let (mut keys, mut looked_at, mut bytes) = (vec![], 0, 0);
    let mut groups = 0;
    loop {
        // Neither difference is below 1: a page that has reached a bound has returned below.
        let limit = PageLimit {
            entries: (context.reach.names - looked_at).min(most - keys.len()),
            bytes: context.page_bytes.saturating_sub(bytes),
        };
        let after = position.after.take();
        let (mut last, mut fault) = (None, None);
        let more = backend.name_page(
            scan.state,
            position.key_group,
            after.as_ref().map(|(key, namespace)| (&key[..], &namespace[..])),
            limit,
            &mut |key, namespace| {
                looked_at += 1;
                let at = Address { state: scan.state, key_group: position.key_group, key, namespace };
                let mut is_there = || {
                    timed::has_visible(backend, at, context).unwrap_or_else(|error| {
                        fault = Some(error);
                        false
                    })
                };
                if scan.namespace.is_none_or(|wanted| wanted == namespace) && is_there() {
                    bytes += key.len() + namespace.len();
                    let (key, namespace) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(namespace));
                    keys.push((position.key_group, key, namespace));
                }
                last = Some((key.to_vec(), namespace.to_vec()));
            },
        )?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        groups += 1;
        if more {
            // Without a name on the page, the next page begins where this one did.
            position.after = last.or(after);
        } else if let Some(next) = range.iter().find(|group| *group > position.key_group) {
            // The key group is done. If the page is full, too, the token names the beginning of the next key group.
            position.key_group = next;
        } else {
            return Ok(Answer::Keys { keys, token: None });
        }
        let is_full = keys.len() >= most || looked_at >= context.reach.names || bytes >= context.page_bytes;
        if more || is_full || groups >= context.reach.key_groups {
            let token = position.encode(scan.state, context.scope);
            return Ok(Answer::Keys { keys, token: Some(token.into()) });
        }
    }
}

impl Position {
    fn encode(&self, state: StateId, scope: u64) -> Vec<u8> {
        let mut out = token_header(VERSION, state, scope);
        out.extend(self.key_group.0.to_le_bytes());
        if let Some((key, namespace)) = &self.after {
            out.extend(u32::try_from(key.len()).expect("keys are bounded far below").to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(namespace);
        }
        out
    }

    fn decode(token: &[u8], state: StateId, scope: u64) -> Option<Self> {
        let rest = take_header(token, VERSION, state, scope)?;
        let (group, rest) = rest.split_first_chunk()?;
        let after = match rest.split_first_chunk() {
            None if rest.is_empty() => None,
            None => return None,
            Some((length, rest)) => {
                let (key, namespace) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                Some((key.to_vec(), namespace.to_vec()))
            }
        };
        Some(Self { key_group: KeyGroup(u16::from_le_bytes(*group)), after })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all() -> KeyGroupRange {
        KeyGroupRange::new(0, 400).unwrap()
    }

    #[test]
    fn a_token_is_good_for_its_owner_and_state_alone() {
        let at = |state| Address { state, key_group: KeyGroup(0), key: b"", namespace: b"" };
        let check_token = |token: &[u8], state, scope| {
            check_token(&Op::Keys { all_namespaces: true, token, limit: 0 }, at(state), scope, None, all())
        };
        for after in [None, Some((b"key".to_vec(), vec![])), Some((b"key".to_vec(), b"ns".to_vec()))] {
            let position = Position { key_group: KeyGroup(300), after };
            let token = position.encode(StateId(7), 99);
            assert_eq!(Position::decode(&token, StateId(7), 99), Some(position));
            assert_eq!(check_token(&token, StateId(7), 99), Ok(()));
            let timers = Op::Timers { up_to: 0, token: &token, limit: 0 };
            assert_eq!(super::check_token(&timers, at(StateId(7)), 99, None, all()), Err(OpError::ForeignToken));
            let elsewhere = KeyGroupRange::new(301, 301).unwrap();
            let keys = Op::Keys { all_namespaces: true, token: &token, limit: 0 };
            assert_eq!(super::check_token(&keys, at(StateId(7)), 99, None, elsewhere), Err(OpError::ForeignToken));
            for (state, scope) in [(StateId(8), 99), (StateId(7), 98)] {
                assert_eq!(check_token(&token, state, scope), Err(OpError::ForeignToken));
            }
        }
        assert_eq!(check_token(b"", StateId(7), 99), Ok(()));
        for token in [&b"x"[..], &[1; 14], &[1; 17]] {
            assert_eq!(check_token(token, StateId(7), 99), Err(OpError::ForeignToken));
        }
    }
}
