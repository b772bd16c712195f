//! The contract as stock clients see it: `tests/python/contract.py` against the built daemon.
//!
//! Its Python packages are pinned in `tests/python/requirements.txt`. They are installed once, into a virtual environment
//! below the user's cache folder; later runs need no network.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// What a user has to do where there is no usable Python.
const NEEDED: &str = "the contract is tested with Python 3.9 or newer, its `venv` module, and packages from PyPI on the first run \
                      (Debian: `apt-get install python3-venv`)";

#[test]
fn a_stock_python_client_gets_what_the_contract_promises() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
    let python = environment(&folder.join("requirements.txt"));
    let mut contract = Command::new(python);
    contract.arg(folder.join("contract.py")).args(["--binary", env!("CARGO_BIN_EXE_dstl")]);
    let output = contract.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("the environment was just checked");
    assert!(output.status.success(), "{}", text(&output));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

/// The interpreter of an environment with exactly `requirements`, made if it is not there.
fn environment(requirements: &Path) -> PathBuf {
    let cache = cache().join("dstl");
    fs::create_dir_all(&cache).unwrap_or_else(|error| panic!("create `{}`: {error}", cache.display()));
    // Two runs at once must not build into one folder.
    let lock = fs::File::create(cache.join("python.lock")).unwrap();
    lock.lock().unwrap();
    let (folder, wanted) = (cache.join("python"), fs::read_to_string(requirements).unwrap());
    // Written last, so that it tells a whole environment from a part.
    let stamp = folder.join("requirements.txt");
    let python = folder.join("bin/python");
    let whole = fs::read_to_string(&stamp).is_ok_and(|has| has == wanted);
    if whole && Command::new(&python).args(["-c", "import grpc"]).output().is_ok_and(|output| output.status.success()) {
        return python;
    }
    let _ = fs::remove_dir_all(&folder);
    step(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--requirement"];
    step(Command::new(&python).args(pip).arg(requirements));
    fs::write(stamp, wanted).unwrap();
    python
}

fn step(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; {NEEDED}"));
    assert!(output.status.success(), "{command:?}: {}\n{}\n{NEEDED}", output.status, text(&output));
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `$XDG_CACHE_HOME`, or `~/.cache`.
fn cache() -> PathBuf {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || named("HOME").expect("`HOME` or `XDG_CACHE_HOME` says where the packages are kept");
    named("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"))
}
