//! Low arguments, as clap reads them, with one line of help per flag.

mod common;
mod reading;
mod savepoint;

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand};

use self::common::job_name;
pub(super) use self::{
    common::ToolArgs,
    reading::{ByArgs, ChangelogArgs, ChangelogCommand, PinCommand, ReadArgs, StateCommand, VerifyArgs, WhichArgs},
    savepoint::ImportArgs,
};
pub use self::{
    common::{ConfigArgs, StoreArgs},
    reading::CheckpointsCommand,
    savepoint::SavepointCommand,
};
use crate::{tools::fence, types::Name};

/// A changelog state-backend daemon for stream processors.
#[derive(Debug, Parser)]
#[command(name = "dstl", version, about, arg_required_else_help = true, subcommand_required = true)]
#[command(term_width = 0, disable_help_subcommand = true)]
pub struct Args {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `dstl`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve state backends until a signal ends it.
    Serve(ServeArgs),
    /// List, explain, check and translate configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say of each object of a store whether it is garbage and why; delete the garbage if told to.
    Gc(GcArgs),
    /// List, show and compare the checkpoints that can be restored.
    #[command(subcommand)]
    Checkpoints(CheckpointsCommand),
    /// Look into the log of a checkpoint.
    #[command(subcommand)]
    Changelog(ChangelogCommand),
    /// List, set and remove pins, which keep checkpoints beyond their retention.
    #[command(subcommand)]
    Pin(PinCommand),
    /// Let go of a checkpoint, or of everything that a job has; stop its tasks first.
    Discard(DiscardArgs),
    /// Go on above a newest manifest, or job record, that is damaged and cannot be brought back.
    Fence(FenceArgs),
    /// Make, list, show, move and remove savepoints, which outlive checkpoints, backends and clusters.
    #[command(subcommand)]
    Savepoint(SavepointCommand),
    /// Prove that a checkpoint or a savepoint can be restored: read and rebuild all of it.
    Verify(VerifyArgs),
    /// Show entries of a checkpoint or a savepoint.
    #[command(subcommand)]
    State(StateCommand),
    /// Say what objects or checkpoint handles are, verifying their checksums.
    Dump(DumpArgs),
    /// Examine a store: the promises that it keeps, and its speed.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Succeed if the daemon of this configuration is ready.
    Health(HealthArgs),
    /// Watch the backends of a running daemon: rates, changelogs, recovery times, ages of checkpoints.
    Top(TopArgs),
    /// Write man pages of all commands.
    Man {
        /// Into this folder.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print a script by which a shell completes command lines.
    Completions {
        /// Of this shell.
        #[arg(value_name = "SHELL", value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Commands on configurations.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// List every option with its type, default, environment variable and meaning.
    Options {
        /// Print a JSON array instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Print a commented configuration file with every default.
    Example,
    /// Say whether a configuration is valid, naming all its faults.
    Check(ConfigArgs),
    /// Print the state part of a Flink configuration as a configuration file of dstl.
    Translate {
        /// Flink's `config.yaml` or `flink-conf.yaml`; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Commands on stores.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Say which promises of dstl hold on a store and how fast it is; fail if one does not hold.
    Doctor(DoctorArgs),
}

/// Arguments of `store doctor`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct DoctorArgs {
    /// The store to examine.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print one JSON object instead of text [env: none].
    #[arg(long)]
    pub json: bool,
    /// The store, as for `--store`; it wins over that.
    #[arg(value_name = "URL")]
    pub url: Option<String>,
}

/// Arguments of `serve`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ServeArgs {
    /// The sources of the configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only say whether the configuration is valid [default: serve] [env: none].
    #[arg(long)]
    pub check_config: bool,
}

/// Arguments of `gc`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct GcArgs {
    /// The store to sweep.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Keep what is younger, for example `1h` or `0s` [default: as configured] [env: DSTL_GC_GRACE_PERIOD].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub grace: Option<Duration>,
    /// Delete the garbage [default: only say what it is] [env: none].
    #[arg(long)]
    pub delete: bool,
    /// Print one JSON object instead of text [env: none].
    #[arg(long)]
    pub json: bool,
    /// Sweep only this job [default: all jobs of the store].
    #[arg(value_name = "JOB", value_parser = job_name)]
    pub job: Option<Name>,
}

/// Arguments of `discard`.
#[derive(Debug, Clone, Default, ClapArgs)]
#[group(id = "what", required = true, multiple = false, args = ["job", "handle"])]
pub struct DiscardArgs {
    /// The store that has the job.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Let go of this checkpoint of one subtask: its handle in hexadecimal or base64 [env: none].
    #[arg(long, value_name = "HANDLE")]
    pub handle: Option<String>,
    /// Let go even of a pinned checkpoint, or one that is being cloned [default: refuse] [env: none].
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object instead of text [env: none].
    #[arg(long)]
    pub json: bool,
    /// Let go of every checkpoint of this job, and delete what nobody else needs.
    #[arg(value_name = "JOB", value_parser = job_name)]
    pub job: Option<Name>,
}

/// Arguments of `fence`.
#[derive(Debug, Clone, ClapArgs)]
pub struct FenceArgs {
    /// The store that has the damaged object.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Fence for this attempt, if it is higher than those that the store knows of [default: those] [env: none].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub attempt: u64,
    /// Print one JSON object instead of text [env: none].
    #[arg(long)]
    pub json: bool,
    /// The backend whose newest manifest is damaged, as `JOB/OPERATOR/SUBTASK`; or the `JOB` whose newest record is.
    #[arg(value_name = "TARGET", value_parser = fence::Target::parse)]
    pub target: fence::Target,
}

/// Arguments of `dump`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct DumpArgs {
    /// The store of the objects. Without `--store`, objects are files, URLs or handles.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print a JSON array instead of text [env: none].
    #[arg(long)]
    pub json: bool,
    /// Paths within `--store`; or files, URLs of objects, or checkpoint handles in hexadecimal or base64.
    #[arg(value_name = "OBJECT", required = true)]
    pub objects: Vec<String>,
}

/// Arguments of `health`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct HealthArgs {
    /// Read the daemon's options from this TOML file [default: none].
    #[arg(long, value_name = "FILE", env = "DSTL_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Ask the daemon with this admin address [default: 127.0.0.1:9321] [env: DSTL_ADMIN_ADDRESS].
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
}

/// Arguments of `top`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct TopArgs {
    /// The daemon to watch.
    #[command(flatten)]
    pub daemon: HealthArgs,
    /// Ask over this Unix socket instead; it tells less [default: the admin address] [env: none].
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    pub socket: Option<PathBuf>,
    /// Print one picture as text and end [env: none].
    #[arg(long)]
    pub once: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::Flag;

    #[derive(Debug, Parser)]
    struct Serve {
        #[command(flatten)]
        serve: ServeArgs,
    }

    #[test]
    fn the_commands_are_consistent() {
        for command in [Args::command(), Serve::command()] {
            command.debug_assert();
        }
    }

    #[test]
    fn named_flags_become_settings_after_set() {
        let line = ["dstl", "--set", "log.level=debug", "--socket", "/run/a.sock", "--check-config", "--set", "a=b=c"];
        let serve = Serve::try_parse_from(line).unwrap().serve;
        assert!(serve.check_config);
        let expected = [
            Flag::Set("log.level=debug".into()),
            Flag::Set("a=b=c".into()),
            Flag::Named { name: "--socket", key: "rpc.socket", value: "/run/a.sock".into() },
        ];
        assert_eq!(serve.config.sources().flags, expected);
    }

    #[test]
    fn gc_is_a_dry_run_unless_told_otherwise() {
        let parsed = |line: &[&str]| match Args::try_parse_from(line) {
            Ok(Args { command: Command::Gc(gc) }) => Ok(gc),
            Ok(_) => unreachable!("the line says gc"),
            Err(error) => Err(error.to_string()),
        };
        let gc = parsed(&["dstl", "gc", "--store", "/srv", "wc", "--grace", "90m"]).unwrap();
        assert!(!gc.delete);
        assert_eq!((gc.grace, gc.job.unwrap().as_str()), (Some(Duration::from_secs(5400)), "wc"));
        let store = Flag::Named { name: "--store", key: "state.changelog.dstl.dfs.base-path", value: "/srv".into() };
        assert_eq!(gc.store.sources(None).flags, [store]);
        assert!(parsed(&["dstl", "gc", "a/b"]).unwrap_err().contains("names consist of"));
        assert!(parsed(&["dstl", "gc", "--grace", "soon"]).is_err());
    }

    #[test]
    fn discard_is_told_one_thing() {
        let parsed = |line: &[&str]| Args::try_parse_from([&["dstl", "discard"], line].concat()).is_ok();
        assert!(parsed(&["wc"]) && parsed(&["--handle", "00", "--force"]));
        assert!(!parsed(&[]) && !parsed(&["--force"]) && !parsed(&["wc", "--handle", "00"]));
    }

    #[test]
    fn fence_is_told_a_job_or_a_backend() {
        let parsed = |line: &[&str]| Args::try_parse_from([&["dstl", "fence"], line].concat()).is_ok();
        assert!(parsed(&["wc"]) && parsed(&["wc/count/0", "--attempt", "7", "--json"]));
        assert!(!parsed(&[]) && !parsed(&["wc/count"]) && !parsed(&["wc", "--attempt", "x"]));
    }
}
