//! Arguments of the commands that read checkpoints.

use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args as ClapArgs, Subcommand};

use super::common::{StoreArgs, ToolArgs, job_name, size};
use crate::{
    tools::{state::parse_bytes, target::Target},
    types::{Name, Sqn},
};

/// Commands on checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointsCommand {
    /// List the checkpoints that can be restored.
    Ls {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// List only this job [default: all jobs of the store].
        #[arg(value_name = "JOB", value_parser = job_name)]
        job: Option<Name>,
    },
    /// Show a checkpoint: its parts, its states, and how much a restore reads.
    Show {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// `JOB` for its newest checkpoint, `JOB@ID` for another one; or the path of a savepoint.
        #[arg(value_name = "TARGET")]
        target: Target,
    },
    /// Tell which states and keys grew from one checkpoint, or savepoint, to another.
    Diff {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// Use at most so many bytes of memory [env: none].
        #[arg(long, value_name = "SIZE", default_value = "128 MiB", value_parser = size)]
        memory: u64,
        /// Tell so many keys, those that changed most [env: none].
        #[arg(long, value_name = "N", default_value_t = 10)]
        keys: usize,
        /// The earlier one: `JOB@ID`, or the path of a savepoint.
        #[arg(value_name = "FROM")]
        from: Target,
        /// The later one: `JOB` for its newest checkpoint, `JOB@ID`, or the path of a savepoint.
        #[arg(value_name = "TO")]
        to: Target,
    },
}

/// Commands on the log of a checkpoint.
#[derive(Debug, Subcommand)]
pub enum ChangelogCommand {
    /// Show the changes that a restore of a checkpoint replays, one on each line.
    Dump(Box<ChangelogArgs>),
}

/// Arguments of `changelog dump`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ChangelogArgs {
    /// The checkpoint whose log is shown.
    #[command(flatten)]
    pub read: ReadArgs,
    /// Only of this operator [default: all] [env: none].
    #[arg(long, value_name = "NAME", value_parser = job_name)]
    pub operator: Option<Name>,
    /// Only of this subtask [default: all] [env: none].
    #[arg(long, value_name = "N")]
    pub subtask: Option<u32>,
    /// Only of this state [default: all] [env: none].
    #[arg(long, value_name = "NAME")]
    pub state: Option<String>,
    /// Only of this key, as text or `0x…` [default: all] [env: none].
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub key: Option<Bytes>,
    /// Only of this key group [default: all, and operator state] [env: none].
    #[arg(long, value_name = "N")]
    pub key_group: Option<u16>,
    /// Only from this sequence number on, such as `3.17` [default: the first] [env: none].
    #[arg(long, value_name = "SQN")]
    pub from: Option<Sqn>,
    /// Only below this sequence number [default: all] [env: none].
    #[arg(long, value_name = "SQN")]
    pub to: Option<Sqn>,
    /// Show at most so many [default: all] [env: none].
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

/// Commands on pins.
#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// List the pins of checkpoints, and the leases of readers.
    Ls {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// List only those of this job [default: all jobs of the store].
        #[arg(value_name = "JOB", value_parser = job_name)]
        job: Option<Name>,
    },
    /// Keep a checkpoint, whatever its retention says.
    Add {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// The writer of the pin.
        #[command(flatten)]
        by: ByArgs,
        /// `JOB` for its newest checkpoint, `JOB@ID` for another one.
        #[arg(value_name = "TARGET")]
        target: Target,
    },
    /// Release a checkpoint, or end the lease of a reader that is gone.
    Rm {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// The writer of the release; not needed for a lease.
        #[command(flatten)]
        by: ByArgs,
        /// `JOB`, `JOB@ID`, or `JOB/pins/UUID` for a lease.
        #[arg(value_name = "TARGET")]
        target: String,
    },
}

/// The writer of a pin into the chains of a checkpoint: a daemon, or this command.
#[derive(Debug, Clone, Default, ClapArgs)]
#[group(required = false, multiple = false)]
pub struct ByArgs {
    /// Let the daemon with this socket do it, which runs the job [env: none].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Do it here: no task of the job runs. A task that does is fenced, and stops [env: none].
    #[arg(long)]
    pub stopped: bool,
}

/// The checkpoint or savepoint to read, and the memory for its state.
#[derive(Debug, Clone, ClapArgs)]
pub struct ReadArgs {
    /// The store to read from.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Hold state of at most so many bytes in memory [env: none].
    #[arg(long, value_name = "SIZE", default_value = "128 MiB", value_parser = size)]
    pub memory: u64,
    /// Print JSON instead of text [env: none].
    #[arg(long)]
    pub json: bool,
    /// `JOB` for its newest checkpoint, `JOB@ID` for another one, or the path of a savepoint,
    /// `…/<job>/savepoints/<name>`.
    #[arg(value_name = "TARGET")]
    pub target: Target,
}

/// Arguments of `verify`.
#[derive(Debug, Clone, ClapArgs)]
pub struct VerifyArgs {
    /// The checkpoint or savepoint to verify.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// Commands on the entries of a checkpoint or a savepoint.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Show the entries of one key; fail if there are none.
    Get {
        /// The checkpoint or savepoint to read.
        #[command(flatten)]
        read: ReadArgs,
        /// The selection of states and namespace.
        #[command(flatten)]
        which: WhichArgs,
        /// The key as the task wrote it: as text, or its bytes as `0x…`.
        #[arg(value_name = "KEY", value_parser = parse_bytes)]
        key: Bytes,
    },
    /// Show all entries, one on each line.
    Scan {
        /// The checkpoint or savepoint to read.
        #[command(flatten)]
        read: ReadArgs,
        /// The selection of states and namespace.
        #[command(flatten)]
        which: WhichArgs,
        /// Only of this key group [default: all, and operator state] [env: none].
        #[arg(long, value_name = "N")]
        key_group: Option<u16>,
        /// Show at most so many [default: all] [env: none].
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
}

/// The selection of states and namespace to show.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct WhichArgs {
    /// Only of this operator [default: all] [env: none].
    #[arg(long, value_name = "NAME", value_parser = job_name)]
    pub operator: Option<Name>,
    /// Only of this state [default: all] [env: none].
    #[arg(long, value_name = "NAME")]
    pub state: Option<String>,
    /// Only in this namespace, as text or `0x…` [default: all] [env: none].
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub namespace: Option<Bytes>,
}
