//! Values of options on their way into fields.

use std::{collections::BTreeMap, mem, net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use url::Url;

use super::{
    kind::{Share, Value, Word},
    spec::{Default, Spec},
};
use crate::types::AllowedJobs;

/// The budget of memory of [`Values::usual`], in bytes.
const USUAL_BUDGET: u64 = 8 << 30;

/// One value for every option that is set or has a fixed default. Reading a value takes it.
#[derive(Debug)]
pub(crate) struct Values {
    values: BTreeMap<&'static str, Value>,
    defaults: BTreeMap<&'static str, Value>,
    /// Options whose type refused their value, with the values that it allows.
    refused: Vec<(&'static str, String)>,
}

impl Values {
    /// The defaults of `table`.
    pub(crate) fn defaults(table: impl IntoIterator<Item = &'static Spec>) -> Self {
        let default = |spec: &'static Spec| match spec.default {
            Default::Text(text) => Some((spec.key, spec.kind.parse(text).expect("a test parses every default"))),
            Default::Computed { .. } => None,
        };
        let values: BTreeMap<_, _> = table.into_iter().filter_map(default).collect();
        Self { defaults: values.clone(), values, refused: vec![] }
    }

    /// The defaults of `table`, with shares of a usual budget of memory.
    pub(crate) fn usual(table: Vec<&'static Spec>) -> Self {
        let mut values = Self::defaults(table);
        values.share_out("", USUAL_BUDGET);
        values
    }

    /// Sets the option `key`. Tables are merged by entry; any other value is replaced.
    pub(crate) fn set(&mut self, key: &'static str, value: &Value) {
        match (value, self.values.get_mut(key)) {
            (Value::Table(new), Some(Value::Table(old))) => old.extend(new.clone()),
            (value, _) => {
                self.values.insert(key, value.clone());
            }
        }
    }

    /// The value of the option `key`, which is a share.
    pub(crate) fn share(&self, key: &str) -> Share {
        let Some(Value::Share(share)) = self.values.get(key) else { unreachable!("`{key}` is no share") };
        *share
    }

    /// Makes each share a number of bytes: `whole` itself for the option that it is the value of, and percentages of it
    /// for the others.
    pub(crate) fn share_out(&mut self, of: &str, whole: u64) {
        for (key, value) in &mut self.values {
            let Value::Share(share) = *value else { continue };
            *value = Value::Number(match share {
                _ if *key == of => whole,
                Share::Bytes(bytes) => bytes,
                // The division comes first, so that the product does not overflow.
                Share::Percent(percent) => whole / 100 * percent,
            });
        }
    }

    /// Takes the value of the option `key`, which has a fixed default. A value that `T` refuses is noted, and the
    /// default stands in for it.
    pub(crate) fn take<T: FromValue>(&mut self, key: &'static str) -> T {
        let value = self.values.remove(key).expect("the key is in the table once, with a fixed default");
        T::from_value(value).unwrap_or_else(|allowed| {
            // The default stands in, so that one run finds all other faults, too.
            self.refused.push((key, allowed));
            let default = self.defaults.get(key).expect("it has a fixed default").clone();
            T::from_value(default).expect("a default is allowed")
        })
    }

    /// Takes the value of the option `key`, whose default is computed; `None` if it is not set.
    pub(crate) fn take_if_set<T: FromValue>(&mut self, key: &'static str) -> Option<T> {
        self.values.contains_key(key).then(|| self.take(key))
    }

    /// Ends the reading: the options whose type refused their value, with the values that it allows.
    pub(crate) fn refused(&mut self) -> Vec<(&'static str, String)> {
        debug_assert!(self.values.is_empty(), "nothing reads {:?}", self.values);
        mem::take(&mut self.refused)
    }
}

/// The type of a field that has the value of an option.
pub(crate) trait FromValue: Sized {
    /// The value as this type.
    ///
    /// # Errors
    /// A description of the allowed values, where the type allows fewer than the kind of the option.
    fn from_value(value: Value) -> Result<Self, String>;
}

impl<T: Word> FromValue for T {
    fn from_value(value: Value) -> Result<Self, String> {
        let Value::Text(word) = value else { mismatch(&value) };
        Ok(Self::of(&word).expect("the kind allows no other words"))
    }
}

/// Implements [`FromValue`] for types that allow all values of a kind.
macro_rules! from_value {
    ($($type:ty: $value:pat => $made:expr;)+) => {
        $(impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    $value => Ok($made),
                    other => mismatch(&other),
                }
            }
        })+
    };
}

from_value! {
    bool: Value::Flag(it) => it;
    u64: Value::Number(it) => it;
    usize: Value::Number(it) => Self::try_from(it).unwrap_or(Self::MAX);
    u32: Value::Number(it) => Self::try_from(it).unwrap_or(Self::MAX);
    u16: Value::Number(it) => Self::try_from(it).unwrap_or(Self::MAX);
    Option<NonZeroU32>: Value::Number(it) => u32::try_from(it).ok().and_then(NonZeroU32::new);
    Duration: Value::Duration(it) => it;
    Option<Duration>: Value::Duration(it) => Some(it).filter(|it| !it.is_zero());
    String: Value::Text(it) => it;
    PathBuf: Value::Path(it) => it.expect("the kind allows no empty path");
    Option<PathBuf>: Value::Path(it) => it;
    Url: Value::Store(it) => it;
    Option<SocketAddr>: Value::Address(it) => it;
    Option<Vec<u32>>: Value::Ids(it) => Some(it).filter(|it| !it.is_empty());
    Vec<PathBuf>: Value::Paths(it) => it;
    Vec<&'static str>: Value::Words(it) => it;
    BTreeMap<String, String>: Value::Table(it) => it;
}

impl FromValue for f64 {
    #[allow(clippy::cast_precision_loss, reason = "the options are bounded far below 52 bits")]
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Ratio(it) => Ok(it),
            Value::Number(it) => Ok(it as Self),
            other => mismatch(&other),
        }
    }
}

impl FromValue for AllowedJobs {
    fn from_value(value: Value) -> Result<Self, String> {
        Self::read(&BTreeMap::from_value(value)?)
    }
}

fn mismatch(value: &Value) -> ! {
    unreachable!("the option is of the kind of {value:?}, and its field is not")
}
