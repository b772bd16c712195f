//! Virtual environments of Python for tests: made once, below the user's cache folder, of pinned packages; later runs
//! need no network.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The interpreter of the environment `name` with exactly the packages of `requirements`, made if it is not there. It
/// is whole if it can import `module`.
///
/// # Panics
/// Where it cannot be made; says what is missing.
pub(crate) fn environment(name: &str, requirements: &Path, module: &str) -> PathBuf {
    let cache = cache().join("dstl");
    fs::create_dir_all(&cache).unwrap_or_else(|error| panic!("create `{}`: {error}", cache.display()));
    // Two runs at once must not build into one folder.
    let lock = fs::File::create(cache.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let (folder, wanted) = (cache.join(name), fs::read_to_string(requirements).unwrap());
    // Written last, so that it tells a whole environment from a part.
    let stamp = folder.join("requirements.txt");
    let python = folder.join("bin/python");
    let whole = fs::read_to_string(&stamp).is_ok_and(|has| has == wanted);
    let imports = |output: Output| output.status.success();
    if whole && Command::new(&python).args(["-c", &format!("import {module}")]).output().is_ok_and(imports) {
        return python;
    }
    let _ = fs::remove_dir_all(&folder);
    step(Command::new("python3").args(["-m", "venv"]).arg(&folder), requirements);
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--requirement"];
    step(Command::new(&python).args(pip).arg(requirements), requirements);
    fs::write(stamp, wanted).unwrap();
    python
}

fn step(command: &mut Command, requirements: &Path) {
    let needed = format!(
        "this test needs Python 3.10 or newer, its `venv` module (Debian: `apt-get install python3-venv`) and, on its first \
         run, the packages of `{}` from PyPI",
        requirements.display()
    );
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; {needed}"));
    assert!(output.status.success(), "{command:?}: {}\n{}\n{needed}", output.status, text(&output));
}

/// What a process said.
pub(crate) fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `$XDG_CACHE_HOME`, or `~/.cache`.
fn cache() -> PathBuf {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || named("HOME").expect("`HOME` or `XDG_CACHE_HOME` says where the packages are kept");
    named("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"))
}
