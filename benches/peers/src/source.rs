//! Keys and values, drawn as the bench `load` draws them.

use super::Parameters;

/// Random bytes that values are cut from, at random places: no two windows of a log look alike.
const POOL_BYTES: usize = 8 << 20;

/// Keys and values, the same in every run.
pub(crate) struct Source {
    state: u64,
    keys: u64,
    value_bytes: usize,
    pool: Vec<u8>,
}

impl Source {
    pub(crate) fn new(parameters: &Parameters) -> Self {
        let value_bytes = parameters.value_bytes;
        let mut source = Self { state: 1, keys: parameters.keys.max(1), value_bytes, pool: vec![] };
        source.pool = (0..POOL_BYTES.max(2 * value_bytes) / 8).flat_map(|_| source.next().to_le_bytes()).collect();
        source
    }

    /// The next number of the generator SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `bound`, but for a bias of `bound` / 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).unwrap_or_default()
    }

    /// A uniform key.
    pub(crate) fn key(&mut self) -> u64 {
        self.below(self.keys)
    }

    /// A value that no compression makes shorter.
    pub(crate) fn value(&mut self) -> &[u8] {
        let places = self.pool.len() - self.value_bytes;
        let at = usize::try_from(self.below(places as u64)).unwrap_or_default();
        self.pool.get(at..at + self.value_bytes).unwrap_or_default()
    }
}
