//! Merges settings: one value per option, from the source that wins, with its origin.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use url::Url;

use super::{
    fault::{Fault, Origin, Quoted},
    kind::{Share, Value},
    options::{self, Default},
    typed::{Setting, Typed},
};

/// One value for every option that is set or has a fixed default. Reading a value removes it, so that an option that is
/// never read is noticed.
#[derive(Debug)]
pub(super) struct Merged {
    values: BTreeMap<&'static str, Value>,
    quoted: BTreeMap<&'static str, Quoted>,
}

impl Merged {
    /// Defaults, then the settings in order. Tables are merged by entry; any other value is replaced.
    pub(super) fn new(typed: &Typed) -> Self {
        let mut merged = Self { values: BTreeMap::new(), quoted: BTreeMap::new() };
        for spec in options::all() {
            if let Default::Text(text) = spec.default {
                let value = spec.kind.parse(text).expect("a test parses every default");
                merged.values.insert(spec.key, value);
            }
            let quoted =
                Quoted { key: spec.key.into(), value: spec.default.describe().into(), origin: Origin::Default };
            merged.quoted.insert(spec.key, quoted);
        }
        typed.settings.iter().for_each(|setting| merged.set(setting));
        merged
    }

    fn set(&mut self, setting: &Setting) {
        self.quoted.insert(setting.spec.key, setting.quoted.clone());
        match (&setting.value, self.values.get_mut(setting.spec.key)) {
            (Value::Table(new), Some(Value::Table(old))) => old.extend(new.clone()),
            (value, _) => {
                self.values.insert(setting.spec.key, value.clone());
            }
        }
    }

    /// How a fault quotes the option `key`.
    pub(super) fn quoted(&self, key: &str) -> Quoted {
        self.quoted.get(key).expect("every key of the table is quoted").clone()
    }

    /// The fault of an invalid value of `key`.
    pub(super) fn malformed(&self, key: &str, allowed: &str) -> Fault {
        Fault::Malformed { setting: self.quoted(key), allowed: allowed.into() }
    }

    /// Options whose value was never taken.
    pub(super) fn untaken(&self) -> Vec<&'static str> {
        self.values.keys().copied().collect()
    }

    fn take(&mut self, key: &str) -> Value {
        self.values.remove(key).expect("the table has this key, with a fixed default, and it is taken once")
    }

    pub(super) fn flag(&mut self, key: &str) -> bool {
        let Value::Flag(it) = self.take(key) else { mismatch(key) };
        it
    }

    pub(super) fn number(&mut self, key: &str) -> u64 {
        let Value::Number(it) = self.take(key) else { mismatch(key) };
        it
    }

    /// A number whose bounds are far below the limit of `usize`.
    pub(super) fn count(&mut self, key: &str) -> usize {
        usize::try_from(self.number(key)).unwrap_or(usize::MAX)
    }

    pub(super) fn duration(&mut self, key: &str) -> Duration {
        let Value::Duration(it) = self.take(key) else { mismatch(key) };
        it
    }

    pub(super) fn share(&mut self, key: &str) -> Share {
        let Value::Share(it) = self.take(key) else { mismatch(key) };
        it
    }

    pub(super) fn ratio(&mut self, key: &str) -> f64 {
        let Value::Ratio(it) = self.take(key) else { mismatch(key) };
        it
    }

    /// A number whose default is computed; `None` if it is not set.
    pub(super) fn computed_count(&mut self, key: &str) -> Option<usize> {
        let value = self.values.remove(key)?;
        let Value::Number(it) = value else { mismatch(key) };
        Some(usize::try_from(it).unwrap_or(usize::MAX))
    }

    /// Lets faults quote the computed default of `key`.
    pub(super) fn quote_default(&mut self, key: &str, value: String) {
        let quoted = self.quoted.get_mut(key).expect("every key of the table is quoted");
        if quoted.origin == Origin::Default {
            quoted.value = value;
        }
    }

    pub(super) fn text(&mut self, key: &str) -> String {
        let Value::Text(it) = self.take(key) else { mismatch(key) };
        it
    }

    /// The meaning of the chosen word, looked up in `meanings`.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, meanings: &[(&str, T)]) -> T {
        let word = self.text(key);
        meanings.iter().find(|(name, _)| *name == word).expect("every word of the option has a meaning").1
    }

    /// A path; `None` if it is empty, or computed and not set.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let value = self.values.remove(key)?;
        let Value::Path(it) = value else { mismatch(key) };
        it
    }

    /// A store; `None` if it is not set.
    pub(super) fn store(&mut self, key: &str) -> Option<Url> {
        let value = self.values.remove(key)?;
        let Value::Store(it) = value else { mismatch(key) };
        Some(it)
    }

    pub(super) fn address(&mut self, key: &str) -> Option<SocketAddr> {
        let Value::Address(it) = self.take(key) else { mismatch(key) };
        it
    }

    pub(super) fn ids(&mut self, key: &str) -> Vec<u32> {
        let Value::Ids(it) = self.take(key) else { mismatch(key) };
        it
    }

    /// Paths; `None` if they are not set.
    pub(super) fn paths(&mut self, key: &str) -> Option<Vec<PathBuf>> {
        let value = self.values.remove(key)?;
        let Value::Paths(it) = value else { mismatch(key) };
        Some(it)
    }

    pub(super) fn words(&mut self, key: &str) -> Vec<&'static str> {
        let Value::Words(it) = self.take(key) else { mismatch(key) };
        it
    }

    pub(super) fn table(&mut self, key: &str) -> BTreeMap<String, String> {
        let Value::Table(it) = self.take(key) else { mismatch(key) };
        it
    }
}

fn mismatch(key: &str) -> ! {
    unreachable!("the table gives `{key}` another type than its reader")
}
