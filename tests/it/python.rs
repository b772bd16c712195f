//! The contract as stock clients see it: `tests/python/contract.py` against the built daemon.
//!
//! Its Python packages are pinned in `tests/python/requirements.txt`.

use std::{path::Path, process::Command};

use parking_lot::Mutex;

use crate::venv::{environment, text};

#[test]
fn a_stock_python_client_gets_what_the_contract_promises() {
    contract("hashmap");
}

#[test]
fn it_gets_the_same_of_state_on_disk() {
    contract("rocksdb");
}

/// Each run keeps two cores busy by itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn contract(inner: &str) {
    let _turn = ONE_AT_A_TIME.lock();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
    let python = environment("python", &folder.join("requirements.txt"), "grpc");
    let mut contract = Command::new(python);
    contract.arg(folder.join("contract.py")).args(["--binary", env!("CARGO_BIN_EXE_dstl")]);
    contract.arg("--set").arg(format!("state.backend.type={inner}"));
    let output = contract.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("the environment was just checked");
    assert!(output.status.success(), "{}", text(&output));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}
