//! Command lines of earlier versions. Each runs as the command that replaces it, with a remark on standard error.

use std::ffi::OsString;

/// Options of earlier versions that are positional arguments now.
const MOVED: [&str; 2] = ["--job", "--checkpoint"];

/// The command line that replaces `arguments`, whose first item is the program's name; `None` if it has the present
/// form.
pub(super) fn replacement(arguments: &[OsString]) -> Option<Vec<String>> {
    let words: Vec<&str> = arguments.iter().skip(1).map(|word| word.to_str()).collect::<Option<_>>()?;
    // Help is that of the present form.
    if words.iter().any(|word| ["-h", "--help"].contains(word)) {
        return None;
    }
    if let ["demo", rest @ ..] = words.as_slice() {
        return Some([&["dstl-demo"], rest].concat().into_iter().map(str::to_owned).collect());
    }
    let (command, rest): (&[&str], &[&str]) = match words.as_slice() {
        ["checkpoints", rest @ ..] if rest.first().is_none_or(|word| word.starts_with('-')) => {
            (&["checkpoints", "ls"], rest)
        }
        ["savepoint", "verify", rest @ ..] => (&["verify"], rest),
        ["savepoint", "create", rest @ ..] => (&["savepoint", "create"], rest),
        ["savepoint", "ls", rest @ ..] => (&["savepoint", "ls"], rest),
        ["gc", rest @ ..] => (&["gc"], rest),
        ["discard", rest @ ..] => (&["discard"], rest),
        _ => return None,
    };
    let (moved, kept) = split(rest);
    let is_old = !words.starts_with(command) || moved.iter().any(Option::is_some);
    is_old.then(|| {
        let [job, checkpoint] = moved;
        let target = match (job, checkpoint) {
            (Some(job), Some(checkpoint)) => Some(format!("{job}@{checkpoint}")),
            (None, Some(checkpoint)) => Some(format!("JOB@{checkpoint}")),
            (job, None) => job,
        };
        let command = command.iter().map(|word| (*word).to_owned());
        ["dstl".to_owned()].into_iter().chain(command).chain(target).chain(kept).collect()
    })
}

/// The values of the [`MOVED`] options, and the remaining words.
fn split(words: &[&str]) -> ([Option<String>; 2], Vec<String>) {
    let (mut moved, mut kept) = ([None, None], vec![]);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (name, value) = word.split_once('=').map_or((*word, None), |(name, value)| (name, Some(value)));
        match MOVED.iter().zip(&mut moved).find(|(option, _)| **option == name) {
            Some((_, slot)) => *slot = value.or_else(|| words.next().copied()).map(str::to_owned),
            None => kept.push((*word).to_owned()),
        }
    }
    (moved, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_command_lines_are_replaced_by_new_ones() {
        let answer = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            replacement(&words).map(|words| words.join(" "))
        };
        for (old, new) in [
            ("dstl checkpoints", "dstl checkpoints ls"),
            ("dstl checkpoints --store /srv --job wc --json", "dstl checkpoints ls wc --store /srv --json"),
            ("dstl savepoint create --job wc --checkpoint 7 before", "dstl savepoint create wc@7 before"),
            ("dstl savepoint create --job=wc before --json", "dstl savepoint create wc before --json"),
            ("dstl savepoint ls --job wc", "dstl savepoint ls wc"),
            ("dstl savepoint verify wc/savepoints/x", "dstl verify wc/savepoints/x"),
            ("dstl gc --job wc --delete", "dstl gc wc --delete"),
            ("dstl discard --store /srv --job wc", "dstl discard wc --store /srv"),
            ("dstl demo --kills 3", "dstl-demo --kills 3"),
        ] {
            assert_eq!(answer(old).as_deref(), Some(new), "{old}");
            assert_eq!(answer(new), None, "{new}");
        }
        for line in
            ["dstl", "dstl checkpoints --help", "dstl demo-task --job wc", "dstl gc --set a=b", "dstl state scan wc"]
        {
            assert_eq!(answer(line), None, "{line}");
        }
    }
}
