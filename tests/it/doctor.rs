//! `dstl store doctor`, the program: what it prints, and how it ends.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

fn doctor(store: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
    command.args(["store", "doctor", "--json"]).arg(store).env_clear().output().unwrap()
}

fn broken(output: &Output) -> Vec<String> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let promises = report["promises"].as_array().unwrap();
    assert_eq!(promises.len(), 12, "{report}");
    let broken = promises.iter().filter(|promise| promise["holds"] == false);
    broken.map(|promise| promise["promise"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn all_promises_hold_on_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let output = doctor(dir.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(broken(&output), [""; 0]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

/// Linux takes paths of 4,095 bytes, and the longest name of an object has about a thousand.
#[test]
fn a_promise_that_does_not_hold_is_named_and_the_exit_code_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let deep = (0..15).fold(PathBuf::from(dir.path()), |path, _| path.join("d".repeat(240)));
    std::fs::create_dir_all(&deep).unwrap();
    let output = doctor(&deep);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(broken(&output), ["long-names"]);
    assert!(told.contains("`long-names` does not hold on this store") && told.contains("too long"), "{told}");
    assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0, "nothing is left");
}
