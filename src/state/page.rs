//! Pages of reads: bounded in entries and bytes.

use std::mem;

/// Bounds one page of a read: it ends before it exceeds either, but a first entry is always returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Most entries.
    pub entries: usize,
    /// Most bytes of keys and values.
    pub bytes: usize,
}

/// A page being filled.
pub(super) struct Page {
    left: PageLimit,
    is_first: bool,
}

impl Page {
    pub(super) fn new(limit: PageLimit) -> Self {
        Self { left: limit, is_first: true }
    }

    /// Whether an entry of so many bytes is on the page; the first one always is.
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.left.entries > 0 && self.left.bytes >= bytes;
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
