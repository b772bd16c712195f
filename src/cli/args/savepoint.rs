//! Arguments of the commands on savepoints.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::{
    common::{ToolArgs, job_name, size},
    reading::ReadArgs,
};
use crate::{
    savepoint::SavepointId,
    tools::target::{Elsewhere, ImportSource, Target},
    types::Name,
};

/// Commands on savepoints.
#[derive(Debug, Subcommand)]
pub enum SavepointCommand {
    /// Make a savepoint of a checkpoint that the store has, while its job goes on.
    Create {
        /// The checkpoint from which the savepoint is made.
        #[command(flatten)]
        read: ReadArgs,
        /// Copy the objects of the checkpoint instead of making rows: fast, but read by dstl alone [env: none].
        #[arg(long)]
        native: bool,
        /// The name of the savepoint.
        #[arg(value_name = "NAME", value_parser = job_name)]
        name: Name,
    },
    /// List the savepoints of a job.
    Ls {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// List only those of this job [default: all jobs of the store].
        #[arg(value_name = "JOB", value_parser = job_name)]
        job: Option<Name>,
    },
    /// Show what a savepoint has.
    Show {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// Its path in the store, or any that ends with `<job>/savepoints/<name>`.
        #[arg(value_name = "SAVEPOINT", value_parser = savepoint)]
        savepoint: SavepointId,
    },
    /// Copy a savepoint to another store or folder; each file is checked on the way.
    Export {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// Its path in the store, or any that ends with `<job>/savepoints/<name>`.
        #[arg(value_name = "SAVEPOINT", value_parser = savepoint)]
        savepoint: SavepointId,
        /// Where to: `<url or folder>/<job>/savepoints/<name>`.
        #[arg(value_name = "DESTINATION")]
        destination: Elsewhere,
    },
    /// Make a savepoint of Parquet files of another program, or of a savepoint in another place.
    Import(ImportArgs),
    /// Remove a savepoint, or what is left of one that was not finished.
    Rm {
        /// The store, and the form of the output.
        #[command(flatten)]
        common: ToolArgs,
        /// Its path in the store, or any that ends with `<job>/savepoints/<name>`.
        #[arg(value_name = "SAVEPOINT", value_parser = savepoint)]
        savepoint: SavepointId,
    },
}

/// Arguments of `savepoint import`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ImportArgs {
    /// The store, and the form of the output.
    #[command(flatten)]
    pub common: ToolArgs,
    /// Sort rows of at most so many bytes in memory; with more, files are read less often [env: none].
    #[arg(long, value_name = "SIZE", default_value = "128 MiB", value_parser = size)]
    pub memory: u64,
    /// Key groups of operators that are not declared [env: none].
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_parallelism: u32,
    /// Read the states of each operator from this JSON file [default: as the rows tell] [env: none].
    #[arg(long, value_name = "FILE", conflicts_with = "like")]
    pub states: Option<PathBuf>,
    /// Take the states of each operator from this checkpoint or savepoint [default: as the rows tell] [env: none].
    #[arg(long, value_name = "TARGET")]
    pub like: Option<Target>,
    /// The savepoint to make: its path in the store, or any that ends with `<job>/savepoints/<name>`.
    #[arg(value_name = "SAVEPOINT", value_parser = savepoint)]
    pub savepoint: SavepointId,
    /// `OPERATOR=PATH` for each operator: a file, a folder with files `*.parquet`, or the URL of either. Or
    /// the place of one whole savepoint: `<url or folder>/<job>/savepoints/<name>`.
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<ImportSource>,
}

fn savepoint(path: &str) -> Result<SavepointId, String> {
    SavepointId::parse(path).ok_or_else(|| "not a path that ends with `<job>/savepoints/<name>`".to_owned())
}
