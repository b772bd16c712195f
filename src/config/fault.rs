//! Faults of a configuration: each names the key, its value, its origin and the allowed values.

use std::{fmt, path::PathBuf};

/// The origin of a setting, in the order in which later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The table of options.
    Default,
    /// A line of the configuration file, counted from 1.
    File {
        /// Path of the file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line, `--set` or a named one.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One setting, as a fault quotes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// Name of the option.
    pub key: String,
    /// Its value as written; `…` for a secret.
    pub value: String,
    /// The origin of the value.
    pub origin: Origin,
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is `{}` ({})", self.key, self.value, self.origin)
    }
}

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("configuration file `{}` is not readable: {reason}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{origin}: {reason}")]
    Syntax {
        /// The file and line.
        origin: Origin,
        /// The message of the parser.
        reason: String,
    },
    /// A key that is not in the table of options.
    #[error("`{key}` ({origin}) is not an option{}", suggestion(advice))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The origin of the key.
        origin: Origin,
        /// The nearest key of the table.
        advice: Option<String>,
    },
    /// A name or value that Flink has, and that is different or missing here.
    #[error("{setting}, as in Flink; {advice}")]
    Legacy {
        /// The setting as quoted.
        setting: Quoted,
        /// The option and value to write instead; or why there is none, and what to do.
        advice: String,
    },
    /// An environment variable with our prefix that names no option.
    #[error("environment variable `{name}` names no option{}", suggestion(advice))]
    UnknownVariable {
        /// Name of the variable.
        name: String,
        /// The nearest known variable.
        advice: Option<String>,
    },
    /// A `--set` without `=`.
    #[error("flag --set `{text}` is not of the form `key=value`")]
    NotAssignment {
        /// The argument as written.
        text: String,
    },
    /// A value that its option does not allow.
    #[error("{setting}; allowed is {allowed}")]
    Malformed {
        /// The setting as quoted.
        setting: Quoted,
        /// A description of the allowed values.
        allowed: String,
    },
    /// Settings that are valid alone and invalid together.
    #[error("{rule}; {}", join(settings))]
    Conflict {
        /// The rule that they break.
        rule: String,
        /// The settings that break it.
        settings: Vec<Quoted>,
    },
}

fn suggestion(advice: &Option<String>) -> String {
    advice.as_ref().map_or_else(|| "; `dstl config options` lists them".into(), |it| format!("; did you mean `{it}`?"))
}

fn join(settings: &[Quoted]) -> String {
    settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// All faults of a configuration, at least one; displayed one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0.len() == 1 { "fault" } else { "faults" };
        write!(f, "the configuration has {} {noun}:", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}
