//! Man pages and shell completions, generated from the same description as `--help`.

use std::{io, path::Path};

use clap_complete::Shell;

use super::{CliError, command, output};

/// Writes a man page for each command into `folder`, which is created if it is missing.
pub(super) fn man(folder: &Path) -> Result<(), CliError> {
    let fault = |error: io::Error| CliError::runtime(format!("writing man pages to `{}`: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(fault)?;
    clap_mangen::generate_to(command(), folder).map_err(fault)?;
    let pages = std::fs::read_dir(folder).map_err(fault)?;
    let pages = pages.filter_map(Result::ok).filter(|page| page.file_name().to_string_lossy().starts_with("dstl"));
    output::print(&format!("{} man pages are in {}\n", pages.count(), folder.display()))
}

/// Prints the completion script of `shell`.
pub(super) fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut command(), "dstl", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
