//! The demo as users run it: small inputs, real processes, real kills.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

fn demo(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dstl-demo"));
    command.env_remove("DSTL_CONFIG").args(["--dstl", env!("CARGO_BIN_EXE_dstl")]);
    let output = command.args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Text with common and rare words in files of different sizes.
fn write_text(folder: &Path) {
    fs::create_dir_all(folder.join("more")).unwrap();
    for file in 0..12_u64 {
        let words = 1_500 * (file % 4 + 1);
        let text: String = (0..words).map(|at| format!("w{} ", (at * at + 31 * file) % (97 + at))).collect();
        let name = if file % 2 == 0 { format!("{file}.txt") } else { format!("more/{file}.txt") };
        fs::write(folder.join(name), text).unwrap();
    }
}

#[test]
fn the_demo_survives_its_kills_and_is_exact() {
    survives("hashmap");
}

#[test]
fn the_demo_survives_its_kills_with_state_on_disk() {
    survives("rocksdb");
}

fn survives(inner: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (text, store) = (dir.path().join("text"), dir.path().join("store"));
    write_text(&text);
    let [text, store] = [&text, &store].map(|path| path.to_str().unwrap());
    let (code, out, err) = demo(&["--inner", inner, "--kills", "3", "--seed", "11", "--json", "--store", store, text]);
    assert_eq!(code, Some(0), "{out}{err}");
    let outcome: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&outcome["ok"], &outcome["inner"]), (&Value::from(true), &Value::from(inner)), "{out}");
    assert_eq!((&outcome["mismatches"], &outcome["records"]), (&Value::from(0), &Value::from(45_000)), "{out}");
    let kills = ["daemon", "task"].map(|victim| outcome["kills"][victim].as_u64().unwrap());
    assert!(kills.iter().all(|times| *times >= 1) && kills.iter().sum::<u64>() == 3, "{out}");
    assert_eq!(outcome["recoveries_ms"].as_array().unwrap().len(), 3, "{out}");
    assert_eq!(outcome["objects"]["unreferenced"], 0, "{out}");
    assert!(outcome["objects"]["live"].as_u64().unwrap() > 0, "{out}");
    assert!(outcome["checkpoints"]["count"].as_u64().unwrap() >= 2, "{out}");
    assert!(outcome["checkpoints"]["p50_ms"].as_f64().unwrap() > 0.0, "{out}");
    assert!(outcome["updates_per_second"].as_f64().unwrap() > 0.0, "{out}");
}

#[test]
fn the_demo_says_what_it_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    for (arguments, expected) in [
        (&["--store", "memory://", "Cargo.toml"][..], "is gone with its process"),
        (&["--store", "ftp://host/dir", "Cargo.toml"][..], "ftp"),
        (&["/no/such/file"][..], "`/no/such/file` cannot be read"),
        (&[empty][..], "no text with words"),
    ] {
        let (code, out, err) = demo(arguments);
        assert_eq!((code, out.as_str()), (Some(64), ""), "{arguments:?}: {err}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
}

#[test]
fn the_daemon_tells_where_the_demo_is() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
    let output = command.args(["demo", "--kills", "3", "--inner", "rocksdb", "text"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0));
    assert!(String::from_utf8(output.stderr).unwrap().contains("`dstl-demo --kills 3 --inner rocksdb text`"));
}
