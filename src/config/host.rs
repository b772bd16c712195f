//! Facts about the machine and the user that some defaults depend on: user id, memory limit, folders named by the
//! environment.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::limits;

/// The facts from which defaults are computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Effective user id; `None` if `/proc` does not tell.
    pub uid: Option<u32>,
    /// Bytes of memory that this process may use: the least of the machine's memory and the limits of its cgroup and
    /// that cgroup's ancestors. `None` if `/proc` does not tell.
    pub memory_bytes: Option<u64>,
    /// Number of files and connections that this process may have open; `None` if it cannot be found out.
    pub descriptors: Option<u64>,
    /// Value of `$HOME`, an absolute path.
    pub home: Option<PathBuf>,
    /// Value of `$XDG_STATE_HOME`, an absolute path.
    pub state_home: Option<PathBuf>,
    /// Value of `$XDG_RUNTIME_DIR`, an absolute path.
    pub runtime_dir: Option<PathBuf>,
}

impl Host {
    /// Reads the facts of this machine. Facts that cannot be read are `None`.
    #[must_use]
    pub fn detect() -> Self {
        Self {
            uid: effective_uid(),
            memory_bytes: memory_bytes(),
            descriptors: Some(limits::descriptors()),
            home: folder("HOME"),
            state_home: folder("XDG_STATE_HOME"),
            runtime_dir: folder("XDG_RUNTIME_DIR"),
        }
    }

    /// The files and connections that this process may have open, or the usual number if it cannot be found out.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        /// The usual limit of a process.
        const USUAL: u64 = 1024;
        self.descriptors.unwrap_or(USUAL)
    }

    /// The default of `dstl.data-dir`: `$XDG_STATE_HOME/dstl`; else for root, and where there is no home,
    /// `/var/lib/dstl`; else `~/.local/state/dstl`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        match (&self.state_home, &self.home) {
            (Some(state), _) => state.join("dstl"),
            (None, Some(home)) if self.uid != Some(0) => home.join(".local/state/dstl"),
            (None, _) => PathBuf::from("/var/lib/dstl"),
        }
    }

    /// The default of `rpc.socket`: `$XDG_RUNTIME_DIR/dstl.sock`; else for root `/run/dstl/dstl.sock`; else
    /// `/tmp/dstl-<uid>/dstl.sock`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match (&self.runtime_dir, self.uid) {
            (Some(runtime), _) => runtime.join("dstl.sock"),
            (None, Some(0)) => PathBuf::from("/run/dstl/dstl.sock"),
            (None, Some(uid)) => PathBuf::from(format!("/tmp/dstl-{uid}/dstl.sock")),
            (None, None) => PathBuf::from("/tmp/dstl/dstl.sock"),
        }
    }
}

/// An absolute path in the environment; the XDG specification says to ignore relative ones.
fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn effective_uid() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

fn memory_bytes() -> Option<u64> {
    let machine = machine_memory(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(Path::new("/sys/fs/cgroup"), &cgroups);
    // A limit file without a number (`max`) does not parse, and so sets no limit.
    limits.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).chain([machine]).min()
}

fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Files with the memory limits of a process whose `/proc/self/cgroup` is `cgroups`: its own and its ancestors', of
/// both versions of cgroups. Inside a container the root folder is the container's own, so it is always listed.
fn limit_files(root: &Path, cgroups: &str) -> Vec<PathBuf> {
    let mut files = vec![root.join("memory.max"), root.join("memory/memory.limit_in_bytes")];
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (base, name) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            list if list.split(',').any(|it| it == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let own = Path::new(path.trim_start_matches('/'));
        files.extend(own.ancestors().filter(|it| *it != Path::new("")).map(|it| base.join(it).join(name)));
    }
    files
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_user_gets_folders_of_the_user() {
        let host = Host { uid: Some(1000), home: Some("/home/ada".into()), ..Host::default() };
        assert_eq!(host.data_dir(), Path::new("/home/ada/.local/state/dstl"));
        assert_eq!(host.socket(), Path::new("/tmp/dstl-1000/dstl.sock"));
    }

    #[test]
    fn root_gets_folders_of_the_system() {
        let host = Host { uid: Some(0), home: Some("/root".into()), ..Host::default() };
        assert_eq!(host.data_dir(), Path::new("/var/lib/dstl"));
        assert_eq!(host.socket(), Path::new("/run/dstl/dstl.sock"));
    }

    #[test]
    fn xdg_folders_come_first() {
        let host = Host { state_home: Some("/s".into()), runtime_dir: Some("/r".into()), ..Host::default() };
        assert_eq!(host.data_dir(), Path::new("/s/dstl"));
        assert_eq!(host.socket(), Path::new("/r/dstl.sock"));
    }

    #[test]
    fn reads_the_machines_memory() {
        assert_eq!(machine_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(machine_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn a_cgroup_is_bound_by_its_ancestors_too() {
        let files = limit_files(Path::new("/c"), "0::/pod/box\n4:cpu,memory:/old\n3:pids:/x\n");
        let expected = [
            "memory.max",
            "memory/memory.limit_in_bytes",
            "pod/box/memory.max",
            "pod/memory.max",
            "memory/old/memory.limit_in_bytes",
        ];
        assert_eq!(files, expected.map(|it| Path::new("/c").join(it)));
    }
}
