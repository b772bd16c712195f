//! Finds the nearest known name to one that a person typed.

/// Most edits between a word and its misspelling.
const SLIPS: usize = 2;

/// The name in `known` that `typed` most likely meant: one that `typed` is a part of (`state.backend` of
/// `state.backend.type`, or `persist-delay` at the end of a key), otherwise the one with the fewest edits, up to a
/// third of its length.
pub(super) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    let part = known.clone().find(|name| extends(name, &typed));
    let (edits, close) = known.map(|name| (distance(&typed, name), name)).min_by_key(|(edits, _)| *edits)?;
    // Ordering: a slip wins over a part, which may be part of many names.
    if edits <= SLIPS {
        return Some(close);
    }
    part.or_else(|| (edits <= typed.chars().count() / 3).then_some(close))
}

/// The name in `known` that differs from `typed` by at most a typing mistake or two.
pub(super) fn misspelt<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.map(|name| (distance(typed, name), name)).filter(|(edits, _)| *edits <= SLIPS).min().map(|(_, name)| name)
}

/// Whether `name` begins or ends with `typed`, cut at a separator.
fn extends(name: &str, typed: &str) -> bool {
    let at_end = |rest: &str| rest.ends_with(['.', '_']);
    let at_start = |rest: &str| rest.starts_with(['.', '_']);
    !typed.is_empty()
        && (name.strip_suffix(typed).is_some_and(at_end) || name.strip_prefix(typed).is_some_and(at_start))
}

/// Levenshtein distance, ignoring letter case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_ascii_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, left) in left.chars().enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(&right) {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = *cell;
            before = substituted.min(diagonal + 1).min(before + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["state.backend.type", "state.changelog.enabled", "batch.persist-delay", "log.level"];

    #[test]
    fn counts_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "SAME"), 0);
    }

    #[test]
    fn suggests_by_part_and_by_spelling() {
        for (typed, meant) in [
            ("state.backend", Some("state.backend.type")),
            ("persist-delay", Some("batch.persist-delay")),
            ("state.changelog.enable", Some("state.changelog.enabled")),
            ("Log.Levle", Some("log.level")),
            ("taskmanager.numberOfTaskSlots", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, KNOWN.into_iter()), meant, "{typed}");
        }
    }
}
