//! Warns at start about state folders that other users may enter. New folders are private, by the umask of the process.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use crate::{config::Config, object};

/// Mode bits of a folder for users that are neither its owner nor in its group.
const OTHERS: u32 = 0o007;

/// Warns about every existing state folder that every user of this host may enter.
pub(super) fn warn_about_open(config: &Config) {
    for folder in open(config) {
        tracing::warn!(
            folder = %folder.display(),
            "every user of this host may enter a folder with state: chmod o-rwx, also for what is in it from before"
        );
    }
}

fn open(config: &Config) -> Vec<PathBuf> {
    let store = object::local_folder(&config.changelog.base_path);
    let local = config.rocksdb.local_dirs.iter().chain(&config.local_copies.dirs).cloned();
    let mut folders: Vec<_> = store.into_iter().chain(local).collect();
    folders.dedup();
    folders.retain(|folder| fs::metadata(folder).is_ok_and(|found| found.mode() & OTHERS != 0));
    folders
}
