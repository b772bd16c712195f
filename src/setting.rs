//! Declarations of options. One entry of [`options!`] is all that an option needs.
//!
//! ```text
//! options! {
//!     /// Retries of uploads.                         the struct, and its document
//!     pub struct RetryOptions {
//!         /// Longest delay between two attempts.     the document of the field, and the text of `dstl config options`
//!         pub longest_delay: Duration = option("upload.max-attempt-delay", Transfer 5, Kind::AT_LEAST_1_MS, "5 s");
//!     }                                                 │                    │           │                   │
//! }                               its name in settings ─┘  place in listings ┘  allowed values           its default
//! ```
//!
//! The macro makes three things of it: the field, the row of the table of options ([`Spec`], by `declare`), and the
//! reading of the field from the merged settings ([`Values`], by `read`). So no option is in the table that nothing
//! reads, and no default is written twice: `usual` gives the struct with all defaults.
//!
//! | entry | the field |
//! | --- | --- |
//! | `option(key, Section place, kind, default)` | the value of an option |
//! | `computed(key, Section place, kind, how, for root) else { … }` | the same, with a default of the facts that are `given` and of the fields above |
//! | `group(…)` | a struct that is declared in the same way, with the facts that it is given |
//! | `from(Type)` | made of such a struct |
//! | `plain(value)` | not an option |
//!
//! The component that has the options declares them, and its struct is a part of `config::Config`. Words are declared
//! by [`words!`], beside the variants that they name.

mod kind;
pub(crate) mod size;
mod spec;
mod value;

pub use self::size::parse as parse_size;
pub(crate) use self::{
    kind::{Kind, Share, Value, Word},
    spec::{Default, Section, Spec},
    value::{FromValue, Values},
};

/// Declares a struct of options, as the page of the module shows it.
///
/// A struct that is `given` nothing is [`Default`](std::default::Default), with the defaults of the options.
macro_rules! options {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        $crate::setting::options! { $(#[$meta])* $vis struct $name given () { $($fields)* } }

        impl std::default::Default for $name {
            fn default() -> Self {
                Self::usual()
            }
        }
    };
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident given ($($given:ident: $fact:ty),*) {
            $(
                $(#[doc = $doc:literal])+
                $field_vis:vis $field:ident: $type:ty = $how:ident $entry:tt $(else $default:block)?;
            )+
        }
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $($(#[doc = $doc])+ $field_vis $field: $type,)+
        }

        impl $name {
            /// Adds the rows of its options to the table.
            pub(crate) fn declare(table: &mut Vec<&'static $crate::setting::Spec>) {
                $($crate::setting::options!(@declare table $type, [$($doc)+] $how $entry);)+
            }

            /// Reads its options.
            pub(crate) fn read(values: &mut $crate::setting::Values $(, $given: $fact)*) -> Self {
                $(let $field: $type = $crate::setting::options!(@read values $type, $how $entry $($default)?);)+
                Self { $($field),+ }
            }

            /// The defaults of its options, for a budget of memory of 8 GiB.
            #[allow(dead_code, reason = "some are read only with the whole configuration")]
            pub(crate) fn usual($($given: $fact),*) -> Self {
                let mut table = vec![];
                Self::declare(&mut table);
                Self::read(&mut $crate::setting::Values::usual(table) $(, $given)*)
            }
        }
    };

    (@declare $table:ident $type:ty, $doc:tt option
        ($key:literal, $section:ident $place:literal, $kind:expr, $default:expr $(,)?)) => {
        $crate::setting::options!(
            @row $table $doc $key, $section $place, $kind, $crate::setting::Default::Text($default)
        )
    };
    (@declare $table:ident $type:ty, $doc:tt computed
        ($key:literal, $section:ident $place:literal, $kind:expr, $how:expr, $for_root:expr $(,)?)) => {
        $crate::setting::options!(
            @row $table $doc $key, $section $place, $kind,
            $crate::setting::Default::Computed { how: $how, for_root: $for_root }
        )
    };
    (@declare $table:ident $type:ty, $doc:tt group $given:tt) => { <$type>::declare($table) };
    (@declare $table:ident $type:ty, $doc:tt from ($source:ty)) => { <$source>::declare($table) };
    (@declare $table:ident $type:ty, $doc:tt plain $value:tt) => {};

    (@row $table:ident [$($doc:literal)+] $key:literal, $section:ident $place:literal, $kind:expr, $default:expr) => {
        $table.push(const {
            &$crate::setting::Spec {
                key: $key,
                section: $crate::setting::Section::$section,
                place: $place,
                kind: $kind,
                default: $default,
                doc: concat!($($doc),+).trim_ascii_start(),
            }
        })
    };

    (@read $values:ident $type:ty, option ($key:literal, $($row:tt)+)) => { $values.take::<$type>($key) };
    (@read $values:ident $type:ty, computed ($key:literal, $($row:tt)+) $default:block) => {
        match $values.take_if_set::<$type>($key) {
            Some(value) => value,
            None => $default,
        }
    };
    (@read $values:ident $type:ty, group ($($given:expr),*)) => { <$type>::read($values $(, $given)*) };
    (@read $values:ident $type:ty, from ($source:ty)) => { <$source>::read($values).into() };
    (@read $values:ident $type:ty, plain ($value:expr)) => { $value };
}
pub(crate) use options;

/// Declares an enum with the word of each variant in settings.
macro_rules! words {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident { $($(#[$of_variant:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$of_variant])* $variant,)+
        }

        impl $crate::setting::Word for $name {
            const WORDS: &[&str] = &[$($word),+];

            fn of(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use words;
