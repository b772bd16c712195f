//! Prices of requests to the object store.

use std::collections::BTreeMap;

use crate::{
    object::Operation,
    setting::{FromValue, Value},
};

/// Requests that a price is for.
const REQUESTS: f64 = 1_000.0;

/// The entry of a table that names the currency.
const CURRENCY: &str = "currency";

/// The price of 1,000 requests of each operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Prices {
    currency: String,
    of: BTreeMap<&'static str, f64>,
}

impl Default for Prices {
    /// Those of Amazon S3 Standard in `us-east-1`, in dollars of the United States.
    fn default() -> Self {
        let of = Operation::ALL.map(|operation| {
            let price = match operation {
                Operation::Create | Operation::Copy | Operation::List => 0.005,
                Operation::Get | Operation::GetRange | Operation::Head => 0.0004,
                Operation::Delete => 0.0,
            };
            (operation.as_str(), price)
        });
        Self { currency: "USD".to_owned(), of: of.into() }
    }
}

impl Prices {
    /// Reads a table of operations and prices, and the entry `currency`; entries that it lacks have their defaults.
    ///
    /// # Errors
    /// Says which entries are allowed, if one is none.
    pub fn read(table: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut prices = Self::default();
        for (name, value) in table {
            if name == CURRENCY {
                prices.currency.clone_from(value);
                continue;
            }
            let price = value.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
            match (prices.of.get_mut(name.as_str()), price) {
                (Some(of), Some(price)) => *of = price,
                _ => return Err(format!("a table of {}, each a price from 0 up, and `currency`", names())),
            }
        }
        Ok(prices)
    }

    /// The currency, for people.
    #[must_use]
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// The price of so many requests of `operation`.
    #[must_use]
    pub fn price(&self, operation: Operation, requests: f64) -> f64 {
        self.of.get(operation.as_str()).map_or(0.0, |price| price * requests / REQUESTS)
    }
}

impl FromValue for Prices {
    fn from_value(value: Value) -> Result<Self, String> {
        Self::read(&BTreeMap::from_value(value)?)
    }
}

fn names() -> String {
    Operation::ALL.map(|operation| format!("`{operation}`")).join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<Prices, String> {
        Prices::read(&entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn entries_that_are_not_given_have_their_defaults() {
        let prices = read(&[("create", "0.01"), ("currency", "EUR")]).unwrap();
        assert_eq!(prices.currency(), "EUR");
        assert_eq!(prices.price(Operation::Create, 2_000.0), 0.02);
        assert_eq!(prices.price(Operation::List, 1_000.0), 0.005);
        assert_eq!(prices.price(Operation::Delete, 1e9), 0.0);
    }

    #[test]
    fn what_is_no_operation_or_no_price_is_refused() {
        for (name, value) in [("put", "1"), ("create", "-1"), ("create", "cheap"), ("create", "inf")] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains("`get_range`"), "{name}={value}: {error}");
        }
    }
}
