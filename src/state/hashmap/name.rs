//! Names of cells: key and namespace, their stable hash (which places them in slices), and their bytes at the head of a
//! cell's block.
//!
//! ```text
//!   key length: u32 │ namespace length: u32 │ key │ namespace
//! ```

use crate::state::hash::stable_hash;

/// Bytes of the two lengths.
const HEADER_BYTES: usize = 8;

/// A name in a change or read, hashed once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    hash: u64,
    header: [u8; HEADER_BYTES],
    key: &'a [u8],
    namespace: &'a [u8],
}

impl<'a> Name<'a> {
    #[inline]
    pub(crate) fn new(key: &'a [u8], namespace: &'a [u8]) -> Self {
        Self { hash: stable_hash(key, namespace), header: header(key.len(), namespace.len()), key, namespace }
    }

    /// The stable hash.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn key(&self) -> &'a [u8] {
        self.key
    }

    pub(super) fn namespace(&self) -> &'a [u8] {
        self.namespace
    }

    /// Bytes of key and namespace.
    pub(super) fn len(&self) -> usize {
        self.key.len() + self.namespace.len()
    }

    /// The lengths of key (low half) and namespace in 16 bits each, not all of them ones; `None` if they are longer.
    #[inline]
    pub(super) fn short_lengths(&self) -> Option<u32> {
        let (key, namespace) = (self.key.len() as u32, self.namespace.len() as u32);
        (self.len() < usize::from(u16::MAX)).then_some(key | namespace << 16)
    }

    /// Whether `bytes` begin with key and namespace.
    #[inline]
    pub(super) fn begins(&self, bytes: &[u8]) -> bool {
        bytes.split_at_checked(self.key.len()).is_some_and(|(key, rest)| {
            key == self.key && (self.namespace.is_empty() || rest.starts_with(self.namespace))
        })
    }

    /// Whether `block` begins with this name.
    #[inline]
    pub(super) fn heads(&self, block: &[u8]) -> bool {
        let Some((header, rest)) = block.split_first_chunk() else { return false };
        *header == self.header && self.begins(rest)
    }

    /// A new block with this name, followed by `content`.
    pub(crate) fn block(&self, content: &[u8]) -> Vec<u8> {
        let length = HEADER_BYTES + self.key.len() + self.namespace.len() + content.len();
        let mut block = Vec::with_capacity(length);
        for part in [&self.header, self.key, self.namespace, content] {
            block.extend_from_slice(part);
        }
        block
    }
}

/// The key and namespace at the beginning of `block`.
pub(crate) fn read_name(block: &[u8]) -> (&[u8], &[u8]) {
    let read = || {
        let (key, namespace) = lengths(block)?;
        let (key, rest) = block.get(HEADER_BYTES..)?.split_at_checked(key)?;
        Some((key, rest.get(..namespace)?))
    };
    read().expect("a block begins with its name")
}

/// The offset of the content of `block`, behind its name.
#[inline]
pub(super) fn content_start(block: &[u8]) -> usize {
    let (key, namespace) = lengths(block).expect("a block begins with its header");
    HEADER_BYTES + key + namespace
}

#[inline]
fn header(key: usize, namespace: usize) -> [u8; HEADER_BYTES] {
    let length = |n: usize| u64::from(u32::try_from(n).expect("keys are bounded by the longest message, below 4 GiB"));
    (length(key) | length(namespace) << 32).to_le_bytes()
}

#[inline]
fn lengths(block: &[u8]) -> Option<(usize, usize)> {
    let both = u64::from_le_bytes(*block.first_chunk()?);
    Some(((both & u64::from(u32::MAX)) as usize, (both >> 32) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_heads_its_own_blocks_only() {
        let block = Name::new(b"ab", b"c").block(b"content");
        assert!(Name::new(b"ab", b"c").heads(&block));
        for (key, namespace) in [("a", "bc"), ("abc", ""), ("ab", ""), ("ab", "d"), ("abcontent", "c")] {
            assert!(!Name::new(key.as_bytes(), namespace.as_bytes()).heads(&block), "{key} {namespace}");
        }
        assert!(!Name::new(b"ab", b"c").heads(b""));
        assert_eq!(read_name(&block), (&b"ab"[..], &b"c"[..]));
        assert_eq!(block.get(content_start(&block)..), Some(&b"content"[..]));
    }
}
