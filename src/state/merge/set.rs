//! Sets of byte strings in their stored form.

use std::cmp::Ordering;

use super::Unfit;

const LENGTH_BYTES: usize = 4;

/// The next member with its length before it, the member, and the rest. `None` if there is no whole member.
fn split(set: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (length, rest) = set.split_first_chunk::<LENGTH_BYTES>()?;
    let (member, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some((set.get(..LENGTH_BYTES + member.len())?, member, rest))
}

/// Checks that these bytes are a set.
///
/// # Errors
/// [`Unfit`] if not.
pub fn check(set: &[u8]) -> Result<(), Unfit> {
    let unfit = |expected| Unfit { bytes: set.len(), expected };
    let (mut rest, mut last): (_, Option<&[u8]>) = (set, None);
    while !rest.is_empty() {
        let (_, member, behind) = split(rest).ok_or(unfit("a member is shorter than its length says"))?;
        if last.is_some_and(|last| last >= member) {
            return Err(unfit("members ascend, each once"));
        }
        (rest, last) = (behind, Some(member));
    }
    Ok(())
}

/// The union of two sets; `None` if it equals `a`.
///
/// # Errors
/// [`Unfit`] if either is not a set.
pub fn union(a: &[u8], b: &[u8]) -> Result<Option<Vec<u8>>, Unfit> {
    check(a)?;
    check(b)?;
    let (mut left, mut right, mut out) = (a, b, Vec::with_capacity(a.len() + b.len()));
    loop {
        let (whole, order) = match (split(left), split(right)) {
            (None, None) => break,
            (Some((whole, ..)), None) => (whole, Ordering::Less),
            (None, Some((whole, ..))) => (whole, Ordering::Greater),
            (Some((from_left, member, _)), Some((from_right, other, _))) => {
                let order = member.cmp(other);
                (if order.is_gt() { from_right } else { from_left }, order)
            }
        };
        out.extend_from_slice(whole);
        if order.is_le() {
            left = left.get(whole.len()..).unwrap_or_default();
        }
        if order.is_ge() {
            right = right.get(whole.len()..).unwrap_or_default();
        }
    }
    // A union has all of `a`, so it equals `a` if it is not longer.
    Ok((out.len() > a.len()).then_some(out))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn encode(set: &BTreeSet<Vec<u8>>) -> Vec<u8> {
        let mut out = Vec::new();
        for member in set {
            out.extend(u32::try_from(member.len()).unwrap().to_le_bytes());
            out.extend(member);
        }
        out
    }

    fn any_set() -> impl Strategy<Value = BTreeSet<Vec<u8>>> {
        prop::collection::btree_set(prop::collection::vec(0..3_u8, 0..4), 0..12)
    }

    proptest! {
        #[test]
        fn unions_are_those_of_sets((a, b) in (any_set(), any_set())) {
            let both = &a | &b;
            prop_assert_eq!(check(&encode(&a)), Ok(()));
            let expected = (both != a).then(|| encode(&both));
            prop_assert_eq!(union(&encode(&a), &encode(&b)).unwrap(), expected);
        }

        #[test]
        fn any_bytes_are_a_set_or_refused(bytes in prop::collection::vec(0..3_u8, 0..30)) {
            if check(&bytes).is_ok() {
                prop_assert_eq!(union(&[], &bytes).unwrap().unwrap_or_default(), bytes);
            } else {
                prop_assert!(union(&bytes, &[]).is_err() && union(&[], &bytes).is_err());
            }
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let foreign: [&[u8]; 5] = [
            &[1],
            &[0, 0, 0],
            &[1, 0, 0, 0],
            &[1, 0, 0, 0, b'a', 1, 0, 0, 0, b'a'],
            &[1, 0, 0, 0, b'b', 1, 0, 0, 0, b'a'],
        ];
        for bytes in foreign {
            assert!(check(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(check(&[0, 0, 0, 0, 1, 0, 0, 0, 0]), Ok(()));
        assert!(check(&[0xff, 0xff, 0xff, 0xff, 0]).is_err());
    }
}
