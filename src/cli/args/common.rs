//! Arguments that several commands share.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::{
    config::{File, Flag, Sources, parse_size},
    types::{Name, NameError},
};

/// The sources of the configuration of `serve`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ConfigArgs {
    /// Read options from this TOML file [default: none].
    #[arg(long, value_name = "FILE", env = "DSTL_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Serve on this Unix socket [default: see `dstl config options`] [env: DSTL_RPC_SOCKET].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// Keep changelogs in this store [default: `store` in the data folder] [env:
    /// DSTL_STATE_CHANGELOG_DSTL_DFS_BASE_PATH].
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Serve metrics and health here, or `off` [default: 127.0.0.1:9321] [env: DSTL_ADMIN_ADDRESS].
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Write the log as `text` or `json` [default: text] [env: DSTL_LOG_FORMAT].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log this level or filter [default: info] [env: DSTL_LOG_LEVEL].
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Set any option; may be repeated [default: none] [env: DSTL_…].
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// The file, the environment of this process, and these flags. The named flags win over `--set`.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let named = [
            ("--socket", "rpc.socket", &self.socket),
            ("--store", "state.changelog.dstl.dfs.base-path", &self.store),
            ("--admin", "admin.address", &self.admin),
            ("--log-format", "log.format", &self.log_format),
            ("--log-level", "log.level", &self.log_level),
        ];
        let named = named.into_iter().filter_map(|(name, key, value)| {
            let value = value.clone()?;
            Some(Flag::Named { name, key, value })
        });
        Sources {
            file: self.config.as_deref().map(File::read),
            environment: std::env::vars_os().collect(),
            flags: self.set.iter().cloned().map(Flag::Set).chain(named).collect(),
        }
    }
}

/// The store that a tool reads or writes.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct StoreArgs {
    /// Look at this store [default: as configured] [env: DSTL_STATE_CHANGELOG_DSTL_DFS_BASE_PATH].
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Read options from this TOML file [default: none].
    #[arg(long, value_name = "FILE", env = "DSTL_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Set any option; may be repeated [default: none] [env: DSTL_…].
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl StoreArgs {
    /// The file, the environment of this process, and these flags. `store` replaces the flag `--store` if it is given.
    #[must_use]
    pub fn sources(&self, store: Option<String>) -> Sources {
        let (config, set) = (self.config.clone(), self.set.clone());
        ConfigArgs { config, set, store: store.or_else(|| self.store.clone()), ..ConfigArgs::default() }.sources()
    }
}

/// The store and the form of the output, which all tools share.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ToolArgs {
    /// The store that the tool reads or writes.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print one JSON object instead of text [env: none].
    #[arg(long)]
    pub json: bool,
}

pub(super) fn job_name(name: &str) -> Result<Name, NameError> {
    Name::new(name)
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    parse_size(text).filter(|bytes| *bytes > 0).ok_or_else(|| "not a size such as `64 MiB`".to_owned())
}
