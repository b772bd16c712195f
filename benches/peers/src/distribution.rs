//! Medians, spreads and percentiles.

use serde::{Deserialize, Serialize};

/// Where single measurements lie, in their unit.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Distribution {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// One figure for each round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Distribution {
    /// Of `values`, by nearest rank.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            values.get(rank - 1).copied().unwrap_or_default()
        };
        Self { count: values.len(), p50: at(50), p99: at(99), max: at(100) }
    }
}

impl Spread {
    /// Of one figure for each round; none of no rounds.
    pub(crate) fn of(rounds: Vec<f64>) -> Option<Self> {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let (upper, lower) = (*sorted.get(middle)?, *sorted.get(sorted.len() - 1 - middle)?);
        Some(Self { median: f64::midpoint(lower, upper), min, max, rounds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).expect("there are rounds");
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert!(Spread::of(vec![]).is_none());
    }

    #[test]
    fn percentiles_are_measurements() {
        let distribution = Distribution::of((1..=200).rev().map(f64::from).collect());
        assert_eq!((distribution.p50, distribution.p99, distribution.max), (100.0, 198.0, 200.0));
        assert_eq!(Distribution::of(vec![]).count, 0);
    }
}
