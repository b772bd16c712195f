//! Merges settings: one value per option, from the source that wins, with its origin.

use std::collections::BTreeMap;

use super::{
    fault::{Fault, Origin, Quoted},
    options,
    typed::Setting,
};
use crate::setting::Values;

/// One value for every option that is set or has a fixed default, and how faults quote each.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) values: Values,
    quoted: BTreeMap<&'static str, Quoted>,
}

impl Merged {
    /// Defaults, then the settings in order.
    pub(super) fn new(settings: &[Setting]) -> Self {
        let mut values = Values::defaults(options::all());
        let mut quoted = BTreeMap::new();
        for spec in options::all() {
            let value = spec.default.describe().into();
            quoted.insert(spec.key, Quoted { key: spec.key.into(), value, origin: Origin::Default });
        }
        for setting in settings {
            values.set(setting.spec.key, &setting.value);
            quoted.insert(setting.spec.key, setting.quoted.clone());
        }
        Self { values, quoted }
    }

    /// How a fault quotes the option `key`.
    pub(super) fn quoted(&self, key: &str) -> Quoted {
        self.quoted.get(key).expect("every key of the table is quoted").clone()
    }

    /// The fault of an invalid value of `key`.
    pub(super) fn malformed(&self, key: &str, allowed: impl Into<String>) -> Fault {
        Fault::Malformed { setting: self.quoted(key), allowed: allowed.into() }
    }

    /// Lets faults quote the computed default of `key`.
    pub(super) fn quote_default(&mut self, key: &str, value: String) {
        let quoted = self.quoted.get_mut(key).expect("every key of the table is quoted");
        if quoted.origin == Origin::Default {
            quoted.value = value;
        }
    }
}
