//! Keys and values.

use std::sync::Arc;

use super::options::Options;

/// Random bytes that values are cut from, at random places: no two windows of the log look alike.
const POOL_BYTES: usize = 8 << 20;

/// Keys and values, the same in every run.
#[derive(Clone)]
pub(crate) struct Source {
    state: u64,
    keys: u64,
    value_bytes: usize,
    pool: Arc<[u8]>,
    zipf: Option<Zipf>,
}

/// Ranks by a Zipf distribution, after Gray et al., "Quickly generating billion-record synthetic databases".
#[derive(Debug, Clone, Copy)]
struct Zipf {
    theta: f64,
    zeta: f64,
    eta: f64,
}

impl Source {
    pub(crate) fn new(options: &Options) -> Self {
        let (keys, value_bytes) = (options.keys.max(1), options.value_bytes);
        let zipf = options.zipf.filter(|theta| (0.0..1.0).contains(theta)).map(|theta| Zipf::new(theta, keys));
        let mut source = Self { state: 1, keys, value_bytes, pool: Arc::new([]), zipf };
        source.pool = (0..POOL_BYTES.max(2 * value_bytes) / 8).flat_map(|_| source.next().to_le_bytes()).collect();
        source
    }

    /// The same, from another place on.
    pub(crate) fn seeded(mut self, seed: u64) -> Self {
        self.state = seed;
        self
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes
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
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).unwrap_or_default()
    }

    /// A key, uniform or skewed. The hot ones of skewed keys are spread over all keys.
    pub(crate) fn key(&mut self) -> u64 {
        match self.zipf {
            None => self.below(self.keys),
            Some(zipf) => {
                let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
                let rank = zipf.rank(uniform, self.keys);
                rank.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.keys
            }
        }
    }

    pub(crate) fn value(&mut self) -> &[u8] {
        let places = self.pool.len() - self.value_bytes;
        let at = usize::try_from(self.below(places as u64)).unwrap_or_default();
        self.pool.get(at..at + self.value_bytes).unwrap_or_default()
    }
}

impl Zipf {
    fn new(theta: f64, keys: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|rank| (rank as f64).powf(-theta)).sum::<f64>();
        let all = zeta(keys);
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - theta)) / (1.0 - zeta(2.min(keys)) / all);
        Self { theta, zeta: all, eta }
    }

    fn rank(self, uniform: f64, keys: u64) -> u64 {
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            return 1.min(keys - 1);
        }
        let rank = keys as f64 * (self.eta * uniform - self.eta + 1.0).powf(1.0 / (1.0 - self.theta));
        (rank as u64).min(keys - 1)
    }
}
