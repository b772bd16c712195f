//! The contract as stock clients see it: each module of `tests/python`, with both inner backends, against the built
//! daemon.
//!
//! Its Python packages are pinned in `tests/python/requirements.txt`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::venv::{environment, text};

/// Scenarios that one module runs at a time. The test runner runs as many modules at a time as there are cores.
const WORKERS: &str = "3";

macro_rules! modules {
    ($($module:ident)*) => {
        const MODULES: &[&str] = &[$(stringify!($module)),*];

        mod hashmap {
            $(#[test]
            fn $module() {
                super::run(stringify!($module), "hashmap");
            })*
        }

        mod rocksdb {
            $(#[test]
            fn $module() {
                super::run(stringify!($module), "rocksdb");
            })*
        }
    };
}

modules! {
    changelog_off checkpoints claims coordination crashes damage imports jobs opening operations operator_state outage query
    rescale savepoints schema service sessions starts tails timers ttl warm zombie
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}

fn run(module: &str, inner: &str) {
    let folder = folder();
    let python = environment("python", &folder.join("requirements.txt"), "grpc");
    let mut contract = Command::new(python);
    contract.arg(folder.join("contract.py")).args(["--binary", env!("CARGO_BIN_EXE_dstl"), "--module", module]);
    contract.args(["--workers", WORKERS, "--set"]).arg(format!("state.backend.type={inner}"));
    let output = contract.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("the environment was just checked");
    assert!(output.status.success(), "{}", text(&output));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_module_with_scenarios_is_run() {
    let files = fs::read_dir(folder()).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    let has_scenarios = |path: &PathBuf| {
        path.extension().is_some_and(|it| it == "py")
            && fs::read_to_string(path).expect("a module is text").contains("\n@scenario")
    };
    let found = files.filter(has_scenarios).filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let run: BTreeSet<String> = MODULES.iter().map(|module| (*module).to_owned()).collect();
    assert_eq!(found.collect::<BTreeSet<_>>(), run);
}
