//! Pages of reads: bounded in entries and bytes.

use std::mem;

/// The bounds of one page of a read. A page ends before it exceeds either, but the first entry is always returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Most entries on a page.
    pub entries: usize,
    /// Most bytes of keys and values.
    pub bytes: usize,
}

/// The entries of a map to read, in order of their keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MapKeys<'a> {
    /// The first key, inclusive. It need not exist, and may be one byte longer than a key.
    pub from: &'a [u8],
    /// The end, exclusive; empty for no end.
    pub to: &'a [u8],
    /// A prefix that all keys must have.
    pub prefix: &'a [u8],
}

impl<'a> MapKeys<'a> {
    /// All entries with keys from this one on.
    #[must_use]
    pub fn from(from: &'a [u8]) -> Self {
        Self { from, ..Self::default() }
    }

    /// The key at which reading begins.
    pub(super) fn first(&self) -> &'a [u8] {
        self.from.max(self.prefix)
    }

    /// Whether reading in order ends before `key`, which is not before [`first`](Self::first).
    pub(super) fn end_before(&self, key: &[u8]) -> bool {
        (!self.to.is_empty() && key >= self.to) || !key.starts_with(self.prefix)
    }
}

/// A page that is being filled.
pub(super) struct Page {
    left: PageLimit,
    is_first: bool,
}

impl Page {
    pub(super) fn new(limit: PageLimit) -> Self {
        Self { left: limit, is_first: true }
    }

    /// Whether an entry of this many bytes fits on the page; the first one always does.
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.left.entries > 0 && self.left.bytes >= bytes;
        // A page that has refused an entry is full for good. If it took a smaller one behind that, the refused one
        // would be skipped.
        self.left = if fits {
            PageLimit { entries: self.left.entries - 1, bytes: self.left.bytes - bytes }
        } else {
            PageLimit { entries: 0, bytes: 0 }
        };
        mem::take(&mut self.is_first) || fits
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_map_keys_is_cut_by_first_end_and_prefix() {
        let all = ["", "a", "ab", "ab\0", "abc", "ac", "b"];
        let read = |from: &str, to: &str, prefix: &str| {
            let keys = MapKeys { from: from.as_bytes(), to: to.as_bytes(), prefix: prefix.as_bytes() };
            let from_first = all.iter().filter(|key| key.as_bytes() >= keys.first());
            from_first.take_while(|key| !keys.end_before(key.as_bytes())).copied().collect::<Vec<_>>()
        };
        assert_eq!(read("", "", ""), all);
        assert_eq!(read("ab", "", ""), all[2..]);
        assert_eq!(read("", "abc", ""), all[..4]);
        assert_eq!(read("", "", "ab"), ["ab", "ab\0", "abc"]);
        assert_eq!(read("ab\0", "abc", "ab"), ["ab\0"]);
        assert_eq!(read("b", "", "ab"), [""; 0]);
        assert_eq!(read("", "a", "ab"), [""; 0]);
    }

    #[test]
    fn a_page_ends_before_it_exceeds_a_limit_but_has_a_first_entry() {
        let takes = |entries, bytes, sizes: &[usize]| {
            let mut page = Page::new(PageLimit { entries, bytes });
            sizes.iter().take_while(|&&size| page.takes(size)).count()
        };
        assert_eq!(takes(2, 100, &[1, 1, 1]), 2);
        assert_eq!(takes(9, 10, &[5, 5, 1]), 2);
        assert_eq!(takes(0, 0, &[5, 0]), 1);
        assert_eq!(takes(9, 4, &[5, 0]), 1);
    }
}
