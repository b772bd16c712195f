//! The command line of `dstl-demo`.

use std::{fmt, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use dstl::config::parse_size;

use super::task::TaskOptions;

/// Show that work survives kill -9: a word count whose two processes, dstl and its task, are killed at random.
#[derive(Debug, Parser)]
#[command(name = "dstl-demo", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(term_width = 0)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) demo: DemoOptions,
}

/// The other half of this program.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Count words as the demo's task.
    #[command(hide = true)]
    AsTask(TaskOptions),
}

/// Options of a demo.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct DemoOptions {
    /// Keep state in this inner backend.
    #[arg(long, value_enum, default_value_t = Inner::Hashmap)]
    pub(super) inner: Inner,
    /// Keep changelogs in this store, a path or a URL [default: a temporary folder].
    #[arg(long, value_name = "URL")]
    pub(super) store: Option<String>,
    /// Choose the moments of the kills by this seed [default: random, printed].
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Kill the daemon or the task so many times.
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub(super) kills: u32,
    /// Count at most so many bytes of text, for example `500 KiB` or `1 GiB`.
    #[arg(long, value_name = "SIZE", default_value = "24 MiB", value_parser = size)]
    pub(super) max_bytes: u64,
    /// Print one JSON object at the end instead of a progress bar and a table.
    #[arg(long)]
    pub(super) json: bool,
    /// Run this daemon [default: the program `dstl` beside this one].
    #[arg(long, value_name = "PATH", env = "DSTL_BIN")]
    pub(super) dstl: Option<PathBuf>,
    /// Count the words of these files and folders [default: the source tree and cargo's registry].
    #[arg(value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).filter(|bytes| *bytes > 0).ok_or_else(|| "not a size such as `64 MiB`".to_owned())
}

/// Kinds of inner backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Inner {
    /// Maps in memory.
    Hashmap,
    /// RocksDB on the local disk.
    Rocksdb,
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hashmap => "hashmap",
            Self::Rocksdb => "rocksdb",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_and_paths_are_read() {
        Args::command().debug_assert();
        let line = ["dstl-demo", "--seed", "7", "--kills", "2", "--json", "--max-bytes", "2 kb", "src", "docs"];
        let demo = Args::try_parse_from(line).unwrap().demo;
        assert_eq!((demo.inner, demo.seed, demo.kills, demo.json), (Inner::Hashmap, Some(7), 2, true));
        assert_eq!((demo.max_bytes, demo.store), (2_048, None));
        assert_eq!(demo.paths, [PathBuf::from("src"), PathBuf::from("docs")]);
    }
}
