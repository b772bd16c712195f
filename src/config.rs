//! The daemon's configuration: as typed, then merged, then resolved and validated.
//!
//! ```text
//! defaults < file (TOML) < environment (DSTL_…) < flags      later wins
//!     typed     each setting checked by itself, with its origin    `typed`
//!     merged    one value per option                               `merged`
//!     resolved  computed defaults, rules between options           `resolved`, `check`
//! ```
//!
//! An option is one entry of a declaration (`setting`), which makes the field that has its value and the row of the
//! table of options. `dstl config options` lists the table, `dstl config example` prints it as a commented file.
//!
//! A configuration with faults is refused as a whole. The answer lists *all* faults, each with the key, the value, its
//! origin and the allowed values. Unknown keys and unknown `DSTL_` variables are faults too.
//!
//! Flink's names and values that differ here get an answer that says what to write instead, from one table (`legacy`).
//! [`translate()`] turns a Flink file into a file of ours by the same table.
//!
//! [`Config`] is plain data. It composes the options that the components declare for themselves.

mod carry;
mod check;
mod declared;
mod fault;
mod flink_file;
mod foreign;
mod host;
mod legacy;
mod listing;
mod merged;
mod options;
mod resolved;
mod secret;
mod store_url;
mod suggest;
mod translate;
mod typed;

pub use self::{
    declared::{
        ChangelogConfig, Config, GcConfig, LocalCopiesConfig, LogConfig, LogFormat, RequestLimits, RocksDbConfig,
        StoreOptions,
    },
    fault::{Fault, Faults, Origin, Quoted},
    flink_file::Unusable,
    host::Host,
    listing::{OptionRow, example, list, list_json, option_rows},
    translate::{Translation, translate},
    typed::{File, Flag, Sources},
};
pub use crate::setting::parse_size;
