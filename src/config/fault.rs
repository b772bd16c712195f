//! Faults of a configuration: each names the key, its value, where that came from and what is allowed.

use std::{fmt, path::PathBuf};

/// Where a setting came from, in the order in which later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The table of options.
    Default,
    /// A line of the configuration file, counted from 1.
    File {
        /// The file.
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

/// One setting as a fault quotes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// Name of the option.
    pub key: String,
    /// Its value as written; `…` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is `{}` ({})", self.key, self.value, self.origin)
    }
}

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("configuration file `{}` is not readable: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{origin}: {reason}")]
    Syntax {
        /// The line.
        origin: Origin,
        /// What the parser said.
        reason: String,
    },
    /// A key that is not in the table of options.
    #[error("`{key}` ({origin}) is not an option{}", suggestion(advice))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// Where it came from.
        origin: Origin,
        /// The nearest key of the table.
        advice: Option<String>,
    },
    /// A name or a value of Flink's that is another one here, or that dstl does not have.
    #[error("{setting}, as in Flink; {advice}")]
    Legacy {
        /// The setting.
        setting: Quoted,
        /// The option and value to write instead, or why there is none and what to do.
        advice: String,
    },
    /// An environment variable of ours that names no option.
    #[error("environment variable `{name}` names no option{}", suggestion(advice))]
    UnknownVariable {
        /// The variable.
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
        /// The setting.
        setting: Quoted,
        /// What would be right.
        allowed: String,
    },
    /// Settings that are right alone and wrong together.
    #[error("{rule}; {}", join(settings))]
    Conflict {
        /// What must hold.
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

/// Everything wrong with a configuration, at least one fault; displayed one per line.
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
