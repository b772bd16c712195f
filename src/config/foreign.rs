//! Faults of settings that are Flink's: what to write instead, in the notation of the source, or why there is nothing
//! to write.

use super::{
    carry::{Carried, carry},
    fault::{Fault, Origin, Quoted},
    legacy::{self, Answer, BACKEND, Carry, Found},
    options::{self, find_with_entry},
    secret::{self, HIDDEN},
    store_url,
};
use crate::setting::Kind;

/// The fault of the setting `key`, which is not an option, if it is one of Flink's. A key that may be a misspelt option
/// must be in the table as a whole.
pub(super) fn key(key: &str, value: &str, origin: &Origin, misspelt: bool) -> Option<Fault> {
    let present = legacy::present_name(key);
    let current = present.as_deref().unwrap_or(key);
    if present.is_some() && find_with_entry(current).is_some() {
        let advice = written(carry(Carry::AsIs, current, current, value), current, origin);
        return Some(fault(key, value, origin, advice));
    }
    Some(answered(found(legacy::find(current), misspelt)?, key, current, value, origin))
}

/// As [`key`], for the environment variable `name`.
pub(super) fn variable(name: &str, value: &str, misspelt: bool) -> Option<Fault> {
    let origin = Origin::Environment(name.into());
    if let Some(key) = options::all().map(|spec| spec.key).find(|key| moved(key, name)) {
        let advice = written(carry(Carry::AsIs, key, key, value), key, &origin);
        return Some(fault(name, value, &origin, advice));
    }
    let present = legacy::MOVED.iter().find_map(|(old, new)| {
        Some(format!("{}{}", options::variable(new), name.strip_prefix(&options::variable(old))?))
    });
    let current = present.as_deref().unwrap_or(name);
    // In the name of a variable, the end of a key has lost its letter case and its dashes.
    let key = current.to_ascii_lowercase();
    let key = key.strip_prefix("dstl_state_backend_rocksdb_metrics_").unwrap_or(&key).replace('_', "-");
    Some(answered(found(legacy::find_variable(current), misspelt)?, name, &key, value, &origin))
}

/// The fault of a value that the option `key` does not allow, if it is a value of Flink's.
pub(super) fn value(key: &str, value: &str, origin: &Origin) -> Option<Fault> {
    if matches!(options::find(key)?.kind, Kind::Store) {
        let of_hadoop = store_url::is_foreign(value.trim());
        return of_hadoop.then(|| fault(key, value, origin, written(carry(Carry::AsIs, key, key, value), key, origin)));
    }
    let (_, note) = legacy::backend(value.trim()).filter(|_| key == BACKEND)?;
    let advice = with(written(carry(Carry::Backend, key, key, value), key, origin), note);
    Some(fault(key, value, origin, advice))
}

/// Whether the variable `name` is that of the option `key` under an earlier beginning of its name.
fn moved(key: &str, name: &str) -> bool {
    let old = legacy::MOVED.iter().filter_map(|(old, new)| Some(format!("{old}{}", key.strip_prefix(new)?)));
    old.map(|old| options::variable(&old)).any(|variable| variable == name)
}

/// The entry of the table, if it is about a name that may be a misspelt option.
fn found(found: Option<Found>, misspelt: bool) -> Option<Found> {
    // A beginning says little. A name with a slip or two to one of ours is more likely that one, misspelt.
    found.filter(|found| found.whole || !misspelt)
}

/// The fault of the setting `key`, which Flink calls `current` now.
fn answered(found: Found, key: &str, current: &str, value: &str, origin: &Origin) -> Fault {
    let advice = match found.answer {
        Answer::Renamed { to, carry: Carry::Backend } => {
            let note = legacy::backend(value.trim()).map_or("", |(_, note)| note);
            with(written(carry(Carry::Backend, current, to, value), to, origin), note)
        }
        Answer::Renamed { to, carry: how } => written(carry(*how, current, to, value), to, origin),
        Answer::Changed { to, carry: how, note } => with(written(carry(*how, current, to, value), to, origin), note),
        Answer::Missing(why) | Answer::Foreign(why) => format!("dstl has no such option: {why}"),
        Answer::Secret(why) => return fault(key, HIDDEN, origin, format!("dstl has no such option: {why}")),
    };
    fault(key, value, origin, advice)
}

/// The setting to write instead, in the notation of the source.
fn written(carried: Result<Option<Carried>, String>, to: &str, origin: &Origin) -> String {
    match (carried, origin) {
        (Ok(Some(carried)), Origin::Environment(_)) => format!("here it is `{}`", carried.variable()),
        (Ok(Some(carried)), Origin::Flag(_)) => format!("here it is `{}`", carried.flag()),
        (Ok(Some(carried)), _) => format!("here it is `{}`", carried.toml()),
        (Ok(None), _) => format!("here it is `{to}`, without which it is off; remove it"),
        (Err(allowed), _) => format!("here it is `{to}`, and this value cannot stay: {allowed}"),
    }
}

fn with(advice: String, note: &str) -> String {
    if note.is_empty() { advice } else { format!("{advice}; {note}") }
}

fn fault(key: &str, value: &str, origin: &Origin, advice: String) -> Fault {
    let setting = Quoted { key: key.into(), value: secret::hide(value), origin: origin.clone() };
    Fault::Legacy { setting, advice: secret::hide(&advice) }
}
