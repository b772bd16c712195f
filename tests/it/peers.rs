//! The package `benches/peers` has a lock file of its own, and takes the RocksDB that was compiled for dstl: cargo does
//! that as long as everything that goes into it is the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Each package of a lock file, with the names of its dependencies; names have their versions where the file needs
/// them.
fn locked(path: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("there is a lock file");
    let lock: toml::Table = text.parse().expect("a lock file is TOML");
    let packages = lock["package"].as_array().expect("it lists packages");
    let text = |it: &toml::Value| it.as_str().expect("it is text").to_owned();
    let names: Vec<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let is_single = |name: &str| names.iter().filter(|it| *it == name).count() == 1;
    let whole = |name: &str| {
        let version = packages.iter().find(|it| it["name"].as_str() == Some(name)).map(|it| text(&it["version"]));
        version.filter(|_| is_single(name)).map_or_else(|| name.to_owned(), |version| format!("{name} {version}"))
    };
    let dependencies = |package: &toml::Value| {
        let listed = package.get("dependencies").and_then(|it| it.as_array());
        listed.into_iter().flatten().map(|it| whole(&text(it))).collect()
    };
    let name = |package: &toml::Value| format!("{} {}", text(&package["name"]), text(&package["version"]));
    packages.iter().map(|package| (name(package), dependencies(package))).collect()
}

/// RocksDB's bindings and all that goes into them.
fn rocksdb(path: &str) -> BTreeSet<String> {
    let packages = locked(path);
    let first = packages.keys().find(|name| name.starts_with("librocksdb-sys ")).expect("RocksDB is locked");
    let (mut found, mut next) = (BTreeSet::new(), vec![first.clone()]);
    while let Some(name) = next.pop() {
        if found.insert(name.clone()) {
            next.extend(packages.get(&name).into_iter().flatten().cloned());
        }
    }
    found
}

#[test]
fn the_peers_take_the_rocksdb_of_dstl() {
    let (ours, theirs) = (rocksdb("Cargo.lock"), rocksdb("benches/peers/Cargo.lock"));
    assert!(ours.len() > 10, "{ours:?}");
    let differences: Vec<_> = ours.symmetric_difference(&theirs).collect();
    assert!(differences.is_empty(), "copy Cargo.lock to benches/peers and let cargo complete it: {differences:?}");
}
