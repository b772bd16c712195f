//! Examples at the end of each command's help.

use clap::Command;

/// Command lines. Each is shown in the help of the command that it calls.
const EXAMPLES: &[&str] = &[
    "dstl serve --socket /run/dstl/dstl.sock --store s3://bucket/prefix",
    "dstl serve --config /etc/dstl.toml --set memory.budget=2GiB",
    "dstl config options --json",
    "dstl config example",
    "dstl config check --config /etc/dstl.toml",
    "dstl config translate flink-conf.yaml",
    "dstl gc --store s3://bucket/prefix",
    "dstl gc --store s3://bucket/prefix wordcount --grace 1h --delete",
    "dstl checkpoints ls --store s3://bucket/prefix wordcount",
    "dstl checkpoints show --store s3://bucket/prefix wordcount@7 --json",
    "dstl checkpoints diff --store s3://bucket/prefix wordcount@5 wordcount@7 --keys 20",
    "dstl changelog dump --store s3://bucket/prefix wordcount --state counts --key the --limit 10",
    "dstl changelog dump --store s3://bucket/prefix wordcount@7 --from 3.17 --to 3.20 --json",
    "dstl pin ls --store s3://bucket/prefix wordcount",
    "dstl pin add --store s3://bucket/prefix wordcount@7 --socket /run/dstl/dstl.sock",
    "dstl pin rm --store s3://bucket/prefix wordcount@7 --stopped",
    "dstl discard --store s3://bucket/prefix wordcount",
    "dstl discard --store s3://bucket/prefix --handle 4453544c48414e44",
    "dstl fence --store s3://bucket/prefix wordcount/counter/0",
    "dstl savepoint create --store s3://bucket/prefix wordcount before-2.0",
    "dstl savepoint create --store s3://bucket/prefix wordcount@7 before-2.0 --native",
    "dstl savepoint ls --store s3://bucket/prefix wordcount",
    "dstl savepoint show --store s3://bucket/prefix wordcount/savepoints/before-2.0",
    "dstl savepoint export --store s3://bucket/prefix wordcount/savepoints/before-2.0 /backup/wordcount/savepoints/before-2.0",
    "dstl savepoint import --store s3://bucket/prefix wordcount/savepoints/bootstrap counter=/data/counts/",
    "dstl savepoint import --store s3://bucket/prefix wordcount/savepoints/back /backup/wordcount/savepoints/before-2.0",
    "dstl savepoint rm --store s3://bucket/prefix wordcount/savepoints/before-2.0",
    "dstl verify --store s3://bucket/prefix wordcount",
    "dstl verify --store s3://bucket/prefix wordcount/savepoints/before-2.0 --memory 1GiB",
    "dstl state get --store s3://bucket/prefix wordcount --state counts the",
    "dstl state scan --store s3://bucket/prefix wordcount@7 --key-group 5 --limit 10 --json",
    "dstl dump --store s3://bucket/prefix wordcount/operators/counter/0/manifest/00000000000000000003",
    "dstl store doctor s3://bucket/prefix",
    "dstl health --admin 127.0.0.1:9321",
    "dstl top --admin 127.0.0.1:9321",
    "dstl top --socket /run/dstl/dstl.sock --once",
    "dstl man /usr/local/share/man/man1",
    "dstl completions bash",
];

/// Adds examples to the help of `command` and of all its subcommands.
pub(super) fn add(command: Command) -> Command {
    let name = command.get_name().to_owned();
    below(command, &name)
}

fn below(command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    let of_this: Vec<&str> = EXAMPLES
        .iter()
        .filter(|line| line.strip_prefix(path).is_some_and(|rest| rest.starts_with(' ') || rest.is_empty()))
        .copied()
        .collect();
    if names.is_empty() {
        let lines: String = of_this.iter().map(|line| format!("\n  {line}")).collect();
        return if of_this.is_empty() { command } else { command.after_help(format!("Examples:{lines}")) };
    }
    names.into_iter().fold(command, |command, name| {
        let path = format!("{path} {name}");
        command.mut_subcommand(name, |command| below(command, &path))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory as _;

    use super::{super::args::Args, *};

    /// Collects the commands without subcommands, each with the words that lead to it.
    fn leaves(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let path = format!("{path} {}", below.get_name());
            assert!(below.get_about().is_some(), "`{path}` has no help");
            leaves(below, &path, found);
            if !below.has_subcommands() {
                found.push((path, below.clone()));
            }
        }
    }

    #[test]
    fn every_command_and_argument_has_help_and_examples_that_are_understood() {
        let command = add(Args::command());
        let mut found = vec![];
        leaves(&command, "dstl", &mut found);
        assert!(found.len() > 25, "{}", found.len());
        for (path, command) in &found {
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 5, "`{path}`: `{}` has no help", argument.get_id());
            }
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(path), "`{path}` has no example");
        }
        for line in EXAMPLES {
            let parsed = command.clone().try_get_matches_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            assert!(found.iter().any(|(path, _)| line.starts_with(path)), "{line}");
        }
    }
}
