//! Translates the state part of a Flink configuration into a file of ours, with a comment for each setting.
//!
//! Each setting of Flink is taken over, renamed, changed in meaning or left out, according to the table of legacy
//! names. If several settings mean the same, the one that Flink prefers wins. The resulting file is resolved on this
//! host, and settings that are invalid there are left out, too. So the result is always a valid configuration.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    carry::{Carried, Join, carry, of_same},
    declared::Config,
    fault::{Fault, Origin},
    flink_file::{self, FlinkSetting, Unusable},
    host::Host,
    legacy::{self, Answer, SAME},
    listing::wrap,
    options,
    secret::{self, HIDDEN},
    typed::{File, Sources},
};
use crate::setting::{Default, Value};

/// Beginnings of Flink's keys that are about state.
const STATE_PART: [&str; 4] = ["state.", "dstl.", "execution.checkpointing.", "execution.state-recovery."];

/// Options that must not be longer than their companion. The companion is set, too, if its default is shorter.
const COMPANIONS: [(&str, &str, &str); 2] = [
    (
        "execution.checkpointing.timeout",
        "gc.grace-period",
        "the grace period must be at least as long as a checkpoint may last",
    ),
    (
        "state.changelog.dstl.dfs.upload.next-attempt-delay",
        "state.changelog.dstl.dfs.upload.max-attempt-delay",
        "the longest delay must be at least as long as the first",
    ),
];

/// The translation of a Flink configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// A valid configuration file, TOML.
    pub toml: String,
    /// Numbers of settings, and the keys that were not translated; as lines.
    pub summary: String,
}

/// Translates `text`, a `flink-conf.yaml` or `config.yaml`. The result is valid on `host`.
///
/// # Errors
///
/// [`Unusable`] if `text` is neither.
pub fn translate(text: &str, host: &Host) -> Result<Translation, Unusable> {
    let settings = flink_file::read(text)?;
    let mut draft = Draft::default();
    for (index, setting) in settings.iter().enumerate() {
        let again = settings.iter().skip(index + 1).find(|it| it.key == setting.key);
        draft.add(setting, again.map(|it| it.line));
    }
    draft.accompany();
    draft.hold_on(host);
    Ok(Translation { summary: draft.summary(settings.len()), toml: draft.toml() })
}

/// The treatment of one setting of Flink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    TakenOver,
    Renamed,
    Changed,
    LeftOut,
    /// The setting is not Flink's; another setting needs it.
    Added,
}

impl Fate {
    const OF_FLINK: [Self; 4] = [Self::TakenOver, Self::Renamed, Self::Changed, Self::LeftOut];

    fn name(self) -> &'static str {
        match self {
            Self::TakenOver => "taken over",
            Self::Renamed => "renamed",
            Self::Changed => "changed in meaning",
            Self::LeftOut => "left out",
            Self::Added => "added",
        }
    }
}

/// A setting of Flink, as described in a comment.
#[derive(Debug)]
struct Told {
    /// `key: value (line N)`, or the key of an added setting.
    setting: String,
    fate: Fate,
    note: String,
    /// Of several settings for one option, the lowest rank wins.
    rank: usize,
}

/// Comments, and the setting below them, if there is one.
#[derive(Debug)]
struct Block {
    told: Vec<Told>,
    carried: Option<Carried>,
}

/// The file that is being made.
#[derive(Debug, std::default::Default)]
struct Draft {
    blocks: Vec<Block>,
    unknown: Vec<String>,
    unrelated: Vec<String>,
}

impl Draft {
    fn add(&mut self, setting: &FlinkSetting, again: Option<usize>) {
        let present = legacy::present_name(&setting.key);
        let key = present.as_deref().unwrap_or(&setting.key);
        let same = options::find(key).filter(|_| STATE_PART.iter().any(|part| key.starts_with(part)));
        let found = legacy::find(key);
        let left_out = |why: &str| (Fate::LeftOut, why.trim_end_matches("; remove it").to_owned(), Ok(None));
        let is_secret = matches!(found.map(|it| it.answer), Some(Answer::Secret(_)));
        let (fate, note, carried) = match (same, found.map(|it| it.answer)) {
            // Of several settings of one key, Flink takes the last one.
            _ if again.is_some() => left_out("it is set again further down"),
            (Some(spec), _) => {
                let note = SAME.iter().find(|it| it.key == key).map_or("", |it| it.note);
                let fate = match (note.is_empty(), &present) {
                    (false, _) => Fate::Changed,
                    (true, Some(_)) => Fate::Renamed,
                    (true, None) => Fate::TakenOver,
                };
                (fate, note.to_owned(), carry(of_same(spec.key), key, spec.key, &setting.value))
            }
            (None, Some(Answer::Renamed { to, carry: how })) => {
                (Fate::Renamed, String::new(), carry(*how, key, to, &setting.value))
            }
            (None, Some(Answer::Changed { to, carry: how, note })) => {
                (Fate::Changed, (*note).to_owned(), carry(*how, key, to, &setting.value))
            }
            (None, Some(Answer::Missing(why) | Answer::Secret(why))) => left_out(why),
            (None, Some(Answer::Foreign(_))) => return self.unrelated.push(setting.key.clone()),
            (None, None) if STATE_PART.iter().any(|part| key.starts_with(part)) => {
                return self.unknown.push(setting.key.clone());
            }
            (None, None) => return self.unrelated.push(setting.key.clone()),
        };
        let value = if is_secret { HIDDEN.to_owned() } else { secret::hide(&setting.value) };
        let line = setting.line;
        let rank = if same.is_some() { 0 } else { found.map_or(usize::MAX, |it| it.rank + 1) };
        let told = |fate, note| Told { setting: format!("{}: {value} (line {line})", setting.key), fate, note, rank };
        match carried {
            Ok(Some(carried)) => self.put(told(fate, with_backend(note, &carried, &setting.value)), carried),
            Ok(None) if fate == Fate::LeftOut => self.tell(told(fate, note)),
            Ok(None) => self.tell(told(Fate::LeftOut, "it is off without being named".into())),
            Err(why) => self.tell(told(Fate::LeftOut, format!("this value cannot stay: {why}"))),
        }
    }

    fn tell(&mut self, told: Told) {
        self.blocks.push(Block { told: vec![told], carried: None });
    }

    /// Adds a setting, to the block of those with the same meaning if there is one.
    fn put(&mut self, mut told: Told, carried: Carried) {
        let of_key = |block: &&mut Block| block.carried.as_ref().is_some_and(|it| it.key == carried.key);
        let Some(block) = self.blocks.iter_mut().find(of_key) else {
            return self.blocks.push(Block { told: vec![told], carried: Some(carried) });
        };
        if carried.join == Join::Replace {
            let loses = format!("`{}` is set by another one, which wins", carried.key);
            let winner = block.told.iter_mut().find(|it| it.fate != Fate::LeftOut);
            match winner {
                Some(winner) if told.rank < winner.rank => {
                    (winner.fate, winner.note) = (Fate::LeftOut, loses);
                    block.carried = Some(carried);
                }
                _ => (told.fate, told.note) = (Fate::LeftOut, loses),
            }
        } else if let Some(all) = &mut block.carried {
            all.join(&carried);
        }
        block.told.push(told);
    }

    /// Adds companions of the settings.
    fn accompany(&mut self) {
        for (key, companion, why) in COMPANIONS {
            let text =
                self.blocks.iter().filter_map(|it| it.carried.as_ref()).find(|it| it.key == key).map(|it| &it.text);
            let longer = text.filter(|text| longer_than_default(text, companion)).cloned();
            if let Some(text) = longer {
                let note = format!("it follows {key}, as {why}");
                let told = Told { setting: companion.into(), fate: Fate::Added, note, rank: 0 };
                let carried = Carried { key: companion.into(), text, join: Join::Replace };
                self.blocks.push(Block { told: vec![told], carried: Some(carried) });
            }
        }
    }

    /// Removes settings that make the file invalid, one after the other.
    fn hold_on(&mut self, host: &Host) {
        loop {
            // Each turn drops one setting, so this ends. It is resolved anew each time, since one dropped setting may
            // mend several faults.
            let file = File { path: "dstl.toml".into(), contents: Ok(self.toml()) };
            let resolved = Config::resolve(&Sources { file: Some(file), ..Sources::default() }, host);
            let faults = resolved.err().map(|it| it.0).unwrap_or_default();
            if !faults.iter().any(|fault| self.drop_faulty(fault)) {
                return;
            }
        }
    }

    /// Removes a setting that is part of the fault; `false` if there is none.
    fn drop_faulty(&mut self, fault: &Fault) -> bool {
        let (keys, why): (Vec<&str>, String) = match fault {
            Fault::Malformed { setting, allowed } => (vec![&setting.key], format!("allowed is {allowed}")),
            Fault::Conflict { rule, settings } => {
                let from_file = settings.iter().filter(|it| matches!(it.origin, Origin::File { .. }));
                let others: Vec<_> = settings.iter().map(|it| format!("`{}` is `{}`", it.key, it.value)).collect();
                (from_file.map(|it| it.key.as_str()).collect(), format!("{rule}; {}", others.join(", ")))
            }
            _ => return false,
        };
        let named = |block: &Block| block.carried.as_ref().is_some_and(|it| keys.contains(&it.key.as_str()));
        let Some(index) = self.blocks.iter().position(named) else { return false };
        let Some(block) = self.blocks.get_mut(index) else { return false };
        // A companion that was not in Flink's file goes without a word.
        if block.told.iter().all(|it| it.fate == Fate::Added) {
            self.blocks.remove(index);
            return true;
        }
        block.carried = None;
        for told in &mut block.told {
            (told.fate, told.note) = (Fate::LeftOut, format!("not valid here: {why}"));
        }
        true
    }

    fn toml(&self) -> String {
        let mut out = String::from("# Configuration of dstl, made from one of Flink by `dstl config translate`.\n");
        for block in &self.blocks {
            out.push('\n');
            for told in &block.told {
                let Told { setting, fate, note, .. } = told;
                let separator = if note.is_empty() { "" } else { ": " };
                let fate = format!("{}{separator}{note}.", capitalized(fate.name()));
                wrap(&mut out, "# ", &printable(setting));
                wrap(&mut out, "#     ", &printable(&fate));
            }
            if let Some(carried) = &block.carried {
                let _ = writeln!(out, "{}", carried.toml());
            }
        }
        self.tell_defaults(&mut out);
        out
    }

    /// Comments on options that the file does not set and whose defaults differ from Flink's.
    fn tell_defaults(&self, out: &mut String) {
        let set = |key: &str| self.blocks.iter().any(|it| it.carried.as_ref().is_some_and(|it| it.key == key));
        let unset: Vec<_> = SAME.iter().filter(|it| !it.flink_default.is_empty() && !set(it.key)).collect();
        if !unset.is_empty() {
            out.push_str("\n# Not set above, with another default than Flink's:\n");
        }
        for same in unset {
            let default = options::find(same.key).map_or("", |spec| spec.default.describe());
            wrap(out, "#     ", &format!("{}: {default} (Flink: {})", same.key, same.flink_default));
        }
    }

    fn summary(&self, settings: usize) -> String {
        let mut counts = BTreeMap::<Fate, usize>::new();
        self.blocks.iter().flat_map(|it| &it.told).for_each(|it| *counts.entry(it.fate).or_default() += 1);
        let counts =
            Fate::OF_FLINK.map(|fate| format!("{} {}", counts.get(&fate).unwrap_or(&0), fate.name())).join(", ");
        let (unknown, unrelated) = (self.unknown.len(), self.unrelated.len());
        let mut out =
            format!("{settings} settings of Flink: {counts}, {unknown} unknown, {unrelated} unrelated to state\n");
        for (what, keys) in [("unknown", &self.unknown), ("unrelated to state", &self.unrelated)] {
            if !keys.is_empty() {
                let keys: Vec<_> = keys.iter().map(|key| format!("`{}`", printable(key))).collect();
                let _ = writeln!(out, "  {what}: {}", keys.join(", "));
            }
        }
        out
    }
}

/// `note`, with the remark about the state backend that was carried over.
fn with_backend(note: String, carried: &Carried, value: &str) -> String {
    let said = legacy::backend(value.trim()).map_or("", |(_, said)| said);
    match (carried.key == legacy::BACKEND, note.is_empty(), said.is_empty()) {
        (false, ..) | (true, _, true) => note,
        (true, true, false) => said.to_owned(),
        (true, false, false) => format!("{said}; {note}"),
    }
}

/// Whether the duration `text` is longer than the default of the option `companion`.
fn longer_than_default(text: &str, companion: &str) -> bool {
    let Some(spec) = options::find(companion) else { return false };
    let Default::Text(default) = spec.default else { return false };
    match (spec.kind.parse(text), spec.kind.parse(default)) {
        (Some(Value::Duration(it)), Some(Value::Duration(default))) => it > default,
        _ => false,
    }
}

/// `text` without characters that would end a comment.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().into_iter().map(|c| c.to_ascii_uppercase()).chain(letters).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host { uid: Some(0), memory_bytes: Some(4 << 30), ..Host::default() }
    }

    fn translated(text: &str) -> (String, Vec<String>) {
        let toml = translate(text, &host()).unwrap().toml;
        let settings = toml.lines().filter(|it| !it.is_empty() && !it.starts_with('#')).map(Into::into).collect();
        (toml, settings)
    }

    #[test]
    fn the_name_that_flink_prefers_wins() {
        for text in [
            "state.checkpoints.dir: s3://old/a\nexecution.checkpointing.dir: s3://new/a\n",
            "execution.checkpointing.dir: s3://new/a\nstate.checkpoints.dir: s3://old/a\n",
            "state.checkpoints.dir: s3://old/a\nstate.changelog.dstl.dfs.base-path: s3://new/a\n",
            "dstl.dfs.base-path: s3://new/a\nstate.checkpoints.dir: s3://old/a\n",
            "dstl.dfs.base-path: s3://older/a\ndstl.dfs.base-path: s3://new/a\n",
            "dstl.dfs.base-path: oss://bucket/a\nstate.checkpoints.dir: s3://new/a\n",
        ] {
            let (toml, settings) = translated(text);
            assert_eq!(settings, ["state.changelog.dstl.dfs.base-path = \"s3://new/a\""], "{text}");
            assert!(toml.contains("Left out: "), "{toml}");
        }
    }

    #[test]
    fn what_belongs_together_is_one_setting() {
        let (_, settings) = translated(
            "state.backend.rocksdb.metrics.num-snapshots: true\nstate.backend.rocksdb.block.blocksize: 16kb\n\
             state.backend.rocksdb.metrics.estimate-num-keys: true\nstate.backend.rocksdb.block.metadata-blocksize: 8kb\n",
        );
        let expected = [
            "state.backend.rocksdb.metrics = [\"num-snapshots\", \"estimate-num-keys\"]",
            "state.backend.rocksdb.options.block_based_table_factory = \"{block_size=16384;metadata_block_size=8192}\"",
        ];
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_cannot_hold_is_left_out_with_the_reason() {
        let (toml, settings) = translated(
            "state.backend.rocksdb.memory.fixed-per-slot: 16 gb\nstate.changelog.dstl.dfs.upload.max-in-flight: 1 mb\n\
             execution.checkpointing.num-retained: 2\n",
        );
        assert_eq!(settings, ["execution.checkpointing.num-retained = 2"]);
        let toml = toml.replace("\n#     ", " ");
        assert!(toml.contains("must fit the memory budget together"), "{toml}");
    }

    #[test]
    fn options_that_must_follow_do() {
        let (_, settings) = translated(
            "execution.checkpointing.timeout: 2 h\nstate.changelog.dstl.dfs.upload.next-attempt-delay: 10 s\n",
        );
        let expected = [
            "execution.checkpointing.timeout = \"2h\"",
            "state.changelog.dstl.dfs.upload.next-attempt-delay = \"10s\"",
            "gc.grace-period = \"2h\"",
            "state.changelog.dstl.dfs.upload.max-attempt-delay = \"10s\"",
        ];
        assert_eq!(settings, expected);
    }

    #[test]
    fn no_value_ends_its_comment() {
        let (toml, settings) = translated("state.savepoints.dir: \"s3://a\\nlog.level = 'debug'\"\n");
        assert!(settings.is_empty(), "{toml}");
        let (toml, settings) =
            translated("state.changelog.dstl.dfs.store-options: x\ns3.endpoint: \"http://a\\\"\\nb\"\n");
        assert_eq!(
            settings,
            [r#"state.changelog.dstl.dfs.store-options.aws_endpoint = "http://a\"\u000ab""#],
            "{toml}"
        );
    }

    #[test]
    fn credentials_are_not_written() {
        let text = "s3.access-key: hush\ns3.secret-key: hush\nfs.s3a.session.token: hush\n";
        let Translation { toml, summary } = translate(text, &host()).unwrap();
        assert!(!toml.contains("hush") && !summary.contains("hush"), "{toml}{summary}");
        assert!(toml.contains("AWS_ACCESS_KEY_ID"), "{toml}");
    }

    #[test]
    fn every_setting_is_counted_once() {
        let text = "state.backend: rocksdb\nstate.savepoints.dir: /s\nstate.wonderful: 1\nrest.port: 8081\nmine: 2\n";
        let summary = translate(text, &host()).unwrap().summary;
        let expected = "5 settings of Flink: 0 taken over, 1 renamed, 0 changed in meaning, 1 left out, 1 unknown, 2 unrelated to state\n  \
                        unknown: `state.wonderful`\n  unrelated to state: `rest.port`, `mine`\n";
        assert_eq!(summary, expected);
    }
}
