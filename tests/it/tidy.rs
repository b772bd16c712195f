//! The shape of the source tree: imports point down the layer table, files are short and begin with what they are, and
//! nothing unfinished is left behind.
//!
//! Every exception is in a table below, with its reason.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The sources of the workspace's packages: the daemon, the wire types and the client.
pub(crate) const PACKAGES: [&str; 3] = ["src", "proto/src", "clients/rust/src"];

/// The folders of all that is no test, and with tests.
const SHIPPED: [&str; 5] = ["src", "proto", "clients/rust", "examples", "benches"];
const WRITTEN: [&str; 6] = ["src", "proto", "clients/rust", "examples", "benches", "tests"];

/// The layer table: a module imports only from rows above its own. Those of other packages are re-exported.
const ROWS: &[&[&str]] = &[
    &["types"],
    &["error", "proto", "clock", "metrics", "random", "setting", "tasks"],
    &["limits"],
    &["state", "object"],
    &["changelog", "savepoint"],
    &["checkpoint"],
    &["materialization", "restore"],
    &["export"],
    &["claim"],
    &["backend"],
    &["rpc", "admin", "client"],
    &["config"],
    &["daemon", "tools"],
    &["cli"],
    &["main"],
];

/// Imports that the rows allow and the design does not.
const FORBIDDEN: &[(&str, &str)] = &[
    // The log does not know what it logs.
    ("changelog", "state"),
    ("checkpoint", "state"),
];

/// Imports that the rows do not allow.
const EXCEPTIONS: &[(&str, &str)] = &[
    // An error's reasons and scopes are those of the protocol.
    ("error", "proto"),
];

/// Longest file in lines, its tests not counted.
const MAX_LINES: usize = 600;

/// Widest comment in characters; code is as wide.
const MAX_COLUMNS: usize = 120;

/// What no finished code says.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// What no finished comment says.
const UNFINISHED_WORDS: &[&str] = &["FIXME", "TODO", "XXX"];

pub(crate) struct Source {
    /// Relative to the root of the package.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// The text with comments and literals blanked.
    pub(crate) code: String,
}

impl Source {
    /// The top-level module that a file of `src/` belongs to.
    fn module(&self) -> String {
        let first = self.path.iter().nth(1).expect("a source file lies in `src`");
        Path::new(first).file_stem().expect("a file has a name").to_string_lossy().into_owned()
    }

    /// Whether the whole file is tests.
    pub(crate) fn is_tests(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == "tests.rs") || self.path.starts_with("tests")
    }

    /// Lines before the unit tests.
    pub(crate) fn lines(&self) -> usize {
        let lines: Vec<_> = self.code.lines().collect();
        let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && !pair[1].ends_with(';'));
        tests.unwrap_or(lines.len())
    }
}

/// Every Rust file below these folders of the package, in order.
pub(crate) fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = folders.iter().flat_map(|folder| walkdir::WalkDir::new(root.join(folder)).sort_by_file_name());
    files
        .filter_map(|entry| entry.ok().map(walkdir::DirEntry::into_path))
        .filter(|path| path.extension().is_some_and(|it| it == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file is readable");
            let path = path.strip_prefix(root).expect("it lies below the root").into();
            Source { path, code: code_of(&text), text }
        })
        .collect()
}

/// `text` with comments, strings and characters replaced by spaces; line breaks stay.
fn code_of(text: &str) -> String {
    let mut rest = text;
    let mut code = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        let before_is_word = code.chars().next_back().is_some_and(is_word);
        let length = match blank_length(rest, before_is_word) {
            Some(length) => {
                code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                length
            }
            None => {
                code.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    code
}

/// Length of the comment or literal at the start of `rest`, if one is there.
fn blank_length(rest: &str, before_is_word: bool) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    if !before_is_word && let Some(length) = raw_string_length(rest) {
        return Some(length);
    }
    match rest.as_bytes() {
        [b'"', ..] => Some(quoted_length(rest, '"')),
        [b'\'', b'\\', ..] => Some(quoted_length(rest, '\'')),
        // A character; anything else behind a single quote is a lifetime.
        [b'\'', ..] => rest.char_indices().nth(2).filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1),
        _ => None,
    }
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn raw_string_length(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A module, or what is in it, as the names that lead to it.
pub(crate) type Module = Vec<String>;

/// The paths in `code` that begin with one of `roots`, with groups expanded.
pub(crate) fn paths(code: &str, roots: &[&str]) -> Vec<Module> {
    let mut found = vec![];
    for (at, _) in code.match_indices("::") {
        let before = &code[..at];
        let start = before.rfind(|c: char| !is_word(c)).map_or(0, |at| at + 1);
        let is_first = !before[..start].trim_end().ends_with("::");
        let head = &before[start..];
        if is_first && roots.contains(&head) {
            expand(&mut vec![head.to_owned()], &code[at + 2..], &mut found);
        }
    }
    found
}

/// Adds the paths of the tree at the start of `rest`, each behind `prefix`; returns the text after the tree.
fn expand<'c>(prefix: &mut Module, rest: &'c str, found: &mut Vec<Module>) -> &'c str {
    let rest = rest.trim_start();
    if let Some(mut group) = rest.strip_prefix('{') {
        loop {
            group = expand(prefix, group, found).trim_start();
            // Behind a last comma there is no further path.
            match group.strip_prefix(',').map(str::trim_start) {
                Some(next) if !next.starts_with('}') => group = next,
                Some(end) => return end.strip_prefix('}').unwrap_or(end),
                None => return group.strip_prefix('}').unwrap_or(group),
            }
        }
    }
    let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    if name.is_empty() {
        found.push(prefix.clone());
        return after;
    }
    prefix.push(name.to_owned());
    let after = match after.strip_prefix("::") {
        Some(deeper) => expand(prefix, deeper, found),
        None => {
            found.push(prefix.clone());
            after.trim_start().strip_prefix("as ").map_or(after, |renamed| {
                let renamed = renamed.trim_start();
                &renamed[renamed.find(|c: char| !is_word(c)).unwrap_or(renamed.len())..]
            })
        }
    };
    prefix.pop();
    after
}

/// Top-level modules that `code` names by `root::` (`crate` or the crate's name), alone or in a group.
fn imports(code: &str, root: &str) -> BTreeSet<String> {
    paths(code, &[root]).into_iter().filter_map(|path| path.into_iter().nth(1)).collect()
}

fn head(path: &str) -> Option<String> {
    let word: String = path.chars().take_while(|c| is_word(*c)).collect();
    (!word.is_empty()).then_some(word)
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn may_import(module: &str, imported: &str) -> bool {
    let pair = (module, imported);
    let above = row(imported) < row(module) && !FORBIDDEN.contains(&pair);
    module == imported || above || EXCEPTIONS.contains(&pair)
}

/// What is wrong with the imports of one file of `src/`.
fn import_faults(source: &Source) -> Vec<String> {
    let module = source.module();
    let shown = source.path.display();
    if module == "lib" {
        return Vec::new();
    }
    if row(&module).is_none() {
        return vec![format!("{shown}: module `{module}` is in no row of the layer table")];
    }
    // Only the binary sees the library by its name.
    let root = if module == "main" { "dstl" } else { "crate" };
    let mut faults: Vec<_> = imports(&source.code, root)
        .iter()
        .filter(|imported| row(imported).is_none_or(|_| !may_import(&module, imported)))
        .map(|imported| format!("{shown}: `{module}` must not import `{imported}`"))
        .collect();
    faults.extend(climbs(source).iter().map(|it| format!("{shown}: `{it}` leaves its module; write `crate::`")));
    faults
}

/// Paths of `super`s that may climb out of the file's top-level module, which would hide an import. The module `tests`
/// of a file is one level further down.
fn climbs(source: &Source) -> Vec<String> {
    let depth = source.path.iter().count() - 1;
    let tests = source.code.lines().take(source.lines()).map(|line| line.len() + 1).sum::<usize>();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = source.code[at..].find("super::").map(|next| at + next) {
        let chain = &source.code[next..];
        let supers = chain.split("::").take_while(|step| *step == "super").count();
        if supers >= depth + usize::from(next >= tests) {
            found.push("super::".repeat(supers) + &head(&chain["super::".len() * supers..]).unwrap_or_default());
        }
        at = next + "super::".len() * supers;
    }
    found
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn modules_import_only_from_rows_above_their_own() {
    none(sources(&["src"]).iter().flat_map(import_faults).collect());
}

#[test]
fn every_exception_is_used() {
    let sources = sources(&["src"]);
    let used = |(module, imported): &&(&str, &str)| {
        sources.iter().any(|source| source.module() == *module && imports(&source.code, "crate").contains(*imported))
    };
    none(EXCEPTIONS.iter().filter(|it| !used(it)).map(|it| format!("exception {it:?} is not needed")).collect());
}

#[test]
fn every_file_begins_with_what_it_is() {
    let files = sources(&WRITTEN);
    let silent = files.iter().filter(|source| !source.text.starts_with("//! "));
    none(silent.map(|source| format!("{}: does not begin with `//!`", source.path.display())).collect());
}

#[test]
fn files_are_short() {
    let sources = sources(&SHIPPED);
    let long = sources.iter().filter(|source| !source.is_tests() && source.lines() > MAX_LINES);
    none(long.map(|it| format!("{}: {} lines, of at most {MAX_LINES}", it.path.display(), it.lines())).collect());
}

/// Comments of `text` that are wider than code may be, but for pictures and tables, which cannot be broken.
fn wide_comments(text: &str) -> Vec<usize> {
    let (mut is_picture, mut wide) = (false, vec![]);
    for (number, line) in (1..).zip(text.lines()) {
        let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
        let comment = comment.trim_start_matches(['/', '!']);
        is_picture ^= comment.trim_start().starts_with("```");
        let is_broken = !is_picture && !comment.trim_start().starts_with('|') && !comment.starts_with("     ");
        if is_broken && line.chars().count() > MAX_COLUMNS {
            wide.push(number);
        }
    }
    wide
}

#[test]
fn comments_are_as_narrow_as_code() {
    let sources = sources(&WRITTEN);
    let wide =
        |source: &Source| wide_comments(&source.text).into_iter().map(|line| (source.path.clone(), line)).collect();
    let wide: Vec<(PathBuf, usize)> = sources.iter().flat_map(|source: &Source| -> Vec<_> { wide(source) }).collect();
    none(
        wide.iter().map(|(path, line)| format!("{}:{line}: more than {MAX_COLUMNS} columns", path.display())).collect(),
    );
    let (long, table) = ("word ".repeat(30), "| ".repeat(70));
    assert_eq!(wide_comments(&format!("// {long}\n/// {table}\n//! ```text\n//! {long}\n//! ```\n/// {long}")), [1, 6]);
}

#[test]
fn no_folder_hides_its_front_page() {
    let hidden = sources(&WRITTEN).into_iter().filter(|it| it.path.file_name().is_some_and(|it| it == "mod.rs"));
    none(hidden.map(|source| format!("{}: is a `mod.rs`", source.path.display())).collect());
}

#[test]
fn nothing_is_left_unfinished() {
    let mut faults = Vec::new();
    for source in sources(&SHIPPED) {
        let code = UNFINISHED.iter().filter(|word| source.code.contains(**word));
        let prose = UNFINISHED_WORDS.iter().filter(|word| source.text.contains(**word));
        faults.extend(code.chain(prose).map(|word| format!("{}: says `{word}`", source.path.display())));
    }
    none(faults);
}

#[test]
fn nothing_is_unsafe() {
    let names = |source: &Source| source.code.split(|c| !is_word(c)).any(|word| word == "unsafe");
    let found = sources(&WRITTEN).into_iter().filter(names);
    none(found.map(|source| format!("{}: is unsafe", source.path.display())).collect());
}

#[test]
fn the_reader_of_imports_sees_groups_and_skips_prose() {
    let text = r##"
        //! Not crate::daemon.
        use crate::types::Sqn;
        use crate::{clock::{Clock, Tick}, object};
        /* crate::cli /* nested */ crate::demo */
        fn f<'a>(c: char) -> &'a str { if c == '"' || c == '\'' { r#"crate::rpc"# } else { "crate::admin \" crate::tools" } }
        fn g() { crate::state::open(); mycrate::restore(); }
    "##;
    let found: Vec<_> = imports(&code_of(text), "crate").into_iter().collect();
    assert_eq!(found, ["clock", "object", "state", "types"]);
}

#[test]
fn climbing_out_of_a_module_is_seen() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into(), code: code_of(text) };
    let tests = "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
    assert_eq!(climbs(&source("src/rpc.rs", "use super::daemon::x;\n")), ["super::daemon"]);
    assert!(climbs(&source("src/rpc.rs", tests)).is_empty());
    assert!(climbs(&source("src/rpc/session.rs", "use super::convert::x;\n")).is_empty());
    assert_eq!(climbs(&source("src/rpc/session.rs", "use super::super::cli::x;\n")), ["super::super::cli"]);
}

#[test]
fn the_rows_forbid_neighbours_and_whatever_is_below() {
    assert!(may_import("rpc", "backend") && may_import("backend", "changelog") && may_import("main", "cli"));
    for (module, imported) in [("object", "state"), ("state", "object"), ("backend", "rpc"), ("changelog", "state")] {
        assert!(!may_import(module, imported), "{module} -> {imported}");
    }
}

/// The files that links of a Markdown text lead to.
fn links(text: &str) -> Vec<&str> {
    let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link));
    let files = ends.filter_map(|link| link.split('#').next());
    files.filter(|file| !file.is_empty() && !file.contains(':') && !file.contains(' ')).collect()
}

#[test]
fn links_of_pages_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["docs", "deploy", "benches", "clients"].map(|folder| walkdir::WalkDir::new(root.join(folder)));
    let found = folders.into_iter().flatten().filter_map(|entry| entry.ok().map(walkdir::DirEntry::into_path));
    let is_made = |path: &Path| path.iter().any(|part| part == "target" || part == "node_modules");
    let pages = found.filter(|path| path.extension().is_some_and(|it| it == "md") && !is_made(path));
    let pages: Vec<_> = pages.chain(["README.md", "CONTRIBUTING.md"].map(|page| root.join(page))).collect();
    assert!(pages.len() > 8, "{pages:?}");
    let lost = pages.iter().flat_map(|page| {
        let text = fs::read_to_string(page).expect("a page is readable");
        let folder = page.parent().expect("a page lies in a folder");
        let lost = links(&text).into_iter().filter(|link| !folder.join(link).exists());
        lost.map(|link| format!("{}: `{link}` leads nowhere", page.display())).collect::<Vec<_>>()
    });
    none(lost.collect());
    assert_eq!(links("[a](b.md#c), [d](https://e/f), [g](#h), ![i](j/k.svg)"), ["b.md", "j/k.svg"]);
}
