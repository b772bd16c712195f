//! Import circles between files: there may be no more than there are, and those that go do not come back.
//!
//! The rows of the layer table keep the top-level modules apart. Within one of them, files that import each other in a
//! circle cannot be read, tested or moved alone. A front page and one of its own files are no circle here, as a page
//! names its files.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::{Module, PACKAGES, Source, paths, sources};

/// Files that are in circles, by top-level module. A number here may only become smaller.
const ALLOWANCE: &[(&str, usize)] = &[("changelog", 14), ("checkpoint", 7), ("client", 19), ("rpc", 22), ("state", 30)];

/// Packages other than the daemon's, whose modules lie in one that is named like this.
const OTHERS: &[(&str, &str)] = &[("clients/rust/src", "client"), ("proto/src", "proto")];

/// The module of a file.
fn module_of(source: &Source) -> Module {
    let file = source.path.with_extension("");
    let other = OTHERS.iter().find_map(|(folder, name)| Some((file.strip_prefix(folder).ok()?, Some(*name))));
    let (file, package) = other.unwrap_or_else(|| (file.strip_prefix("src").expect("a folder of sources"), None));
    let parts = file.iter().map(|part| part.to_string_lossy().into_owned());
    let is_root = |part: &String| package.is_some() && part == "lib";
    package.map(str::to_owned).into_iter().chain(parts.filter(|part| !is_root(part))).collect()
}

/// The root of the package that `module` is in.
fn root_of(module: &Module) -> Module {
    module.iter().take(1).filter(|top| OTHERS.iter().any(|(_, name)| name == top)).cloned().collect()
}

/// The module that `path`, written in `module`, leads into, of those that are `known`.
fn resolve(path: &[String], module: &Module, known: &BTreeSet<Module>) -> Option<Module> {
    let mut at = if path[0] == "crate" { root_of(module) } else { module.clone() };
    let mut rest = &path[1..];
    if path[0] == "super" {
        at.pop()?;
        while rest.first().is_some_and(|name| name == "super") {
            at.pop()?;
            rest = &rest[1..];
        }
    }
    at.extend(rest.iter().cloned());
    (1..=at.len()).rev().map(|length| at[..length].to_vec()).find(|prefix| known.contains(prefix))
}

/// The files of each circle, by the strongly connected components of the imports.
fn circles(files: &[(Module, String)]) -> Vec<BTreeSet<Module>> {
    let known: BTreeSet<Module> = files.iter().map(|(module, _)| module.clone()).collect();
    let edges: BTreeMap<Module, BTreeSet<Module>> = files
        .iter()
        .map(|(module, code)| {
            let targets =
                paths(code, &["crate", "super", "self"]).into_iter().filter_map(|path| resolve(&path, module, &known));
            (module.clone(), targets.filter(|target| target != module && target[0] == module[0]).collect())
        })
        .collect();
    let reachable = |from: &Module| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = left.pop() {
            for next in edges.get(&module).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    left.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = known.iter().map(|module| (module, reachable(module))).collect();
    let mut circles = BTreeSet::new();
    for module in &known {
        let circle: BTreeSet<Module> =
            reached[module].iter().filter(|it| reached[it].contains(module)).cloned().collect();
        let is_page_and_file = circle.len() == 2 && {
            let mut pair = circle.iter();
            let (page, file) = (pair.next().unwrap(), pair.next().unwrap());
            file.len() == page.len() + 1 && file.starts_with(page)
        };
        if circle.len() > 1 && !is_page_and_file {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

#[test]
fn no_more_files_are_in_circles_than_were() {
    let sources = sources(&PACKAGES);
    let files: Vec<(Module, String)> = sources
        .iter()
        .filter(|source| !source.is_tests() && module_of(source) != ["lib"])
        .map(|source| (module_of(source), source.code.lines().take(source.lines()).collect::<Vec<_>>().join("\n")))
        .collect();
    let mut found: BTreeMap<String, BTreeSet<Module>> = BTreeMap::new();
    for circle in circles(&files) {
        let top = circle.iter().next().unwrap()[0].clone();
        found.entry(top).or_default().extend(circle);
    }
    let counted: BTreeMap<&str, usize> = found.iter().map(|(top, files)| (top.as_str(), files.len())).collect();
    let allowed: BTreeMap<&str, usize> = ALLOWANCE.iter().copied().collect();
    assert_eq!(counted, allowed, "fewer: lower the allowance; more: {found:#?}");
}

#[test]
fn circles_are_found_through_groups_and_pages() {
    let file = |module: &str, code: &str| (module.split("::").map(str::to_owned).collect::<Module>(), code.to_owned());
    let files = [
        file("a", "use self::b::X; use crate::z::Y;"),
        file("a::b", "use super::{c::{D, e as f}, g};"),
        file("a::c", "fn x() { super::d::y() }"),
        file("a::d", "use crate::{a::b::Z, k};"),
        file("a::e", "use super::Top;"),
        file("z", "use crate::a::b::X;"),
    ];
    let [circle] = &circles(&files)[..] else { panic!("{:?}", circles(&files)) };
    let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
    assert_eq!(names, ["a", "a::b", "a::c", "a::d"]);
}

#[test]
fn the_core_of_a_backend_only_composes() {
    let sources = sources(&["src/backend"]);
    let core = sources.iter().find(|source| source.path.ends_with("backend/core.rs")).expect("there is a core");
    let fields = core.code.lines().skip_while(|line| !line.contains("struct Core {")).skip(1);
    let fields = fields.take_while(|line| *line != "}").filter(|line| line.contains(": ")).count();
    assert!((1..=15).contains(&fields), "{fields} fields: a field belongs to a part");
    assert!(core.lines() <= 300, "{} lines: a decision of one part belongs to it", core.lines());
    let others = sources.iter().filter(|source| source.path != core.path && source.code.contains("impl Core"));
    assert_eq!(others.count(), 0, "no other file adds methods to the core");
}

#[test]
fn only_a_table_and_its_loading_meet_the_inner_backend() {
    let meets = |source: &&Source| source.code.contains("StateBackend");
    let may =
        |source: &&Source| ["table", "open"].iter().any(|room| source.path.starts_with(format!("src/backend/{room}")));
    let sources = sources(&["src/backend"]);
    let others: Vec<_> = sources.iter().filter(meets).filter(|source| !may(source) && !source.is_tests()).collect();
    let others: Vec<_> = others.iter().map(|source| &source.path).filter(|path| !path.ends_with("table.rs")).collect();
    assert!(others.is_empty(), "others wait for a disk without knowing: {others:?}");
}
