//! Who may use which jobs.

use std::collections::BTreeMap;

/// Rules about who may use which jobs. Without rules, everybody may use all jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedJobs {
    rules: Vec<(Who, Vec<Pattern>)>,
}

/// The clients that a rule applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Uid(u32),
    Certificate(String),
    /// All clients that no other rule names.
    Others,
}

/// A pattern of job names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    Beginning(String),
}

/// The identity of a client, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity<'a> {
    /// A process of this host, with this user id.
    Uid(u32),
    /// A client whose certificate has these names.
    Certificate(&'a [String]),
    /// The client cannot be identified.
    Unknown,
}

impl AllowedJobs {
    /// Reads rules from a table. A key is `uid:1000`, `cert:NAME`, or `*` for all other clients. A value lists job
    /// names, separated by spaces; each may end with `*`.
    ///
    /// # Errors
    /// For an entry of another form: a text that says which forms are allowed.
    pub fn read(table: &BTreeMap<String, String>) -> Result<Self, String> {
        let rule = |(named, jobs): (&String, &String)| {
            let who = match named.split_once(':') {
                _ if named == "*" => Some(Who::Others),
                Some(("uid", uid)) => uid.parse().ok().map(Who::Uid),
                Some(("cert", name)) if !name.is_empty() => Some(Who::Certificate(name.to_owned())),
                _ => None,
            };
            let who =
                who.ok_or_else(|| format!("`uid:<number>`, `cert:<name>` or `*` on the left side, not `{named}`"))?;
            let pattern = |job: &str| match job.strip_suffix('*') {
                Some(beginning) => Pattern::Beginning(beginning.to_owned()),
                None => Pattern::Exactly(job.to_owned()),
            };
            Ok((who, jobs.split_whitespace().map(pattern).collect()))
        };
        Ok(Self { rules: table.iter().map(rule).collect::<Result<_, String>>()? })
    }

    /// Whether there are no rules, so that everybody may use all jobs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the client `who` may use `job`.
    #[must_use]
    pub fn allows(&self, who: Identity<'_>, job: &str) -> bool {
        if self.rules.is_empty() {
            return true;
        }
        let is_about = |rule: &Who| match (rule, who) {
            (Who::Uid(uid), Identity::Uid(asks)) => *uid == asks,
            (Who::Certificate(name), Identity::Certificate(names)) => names.contains(name),
            _ => false,
        };
        let mut named = self.rules.iter().filter(|(rule, _)| is_about(rule)).peekable();
        let fits = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(job));
        // A rule that names the client takes it out of the others, also for jobs that this rule does not allow.
        if named.peek().is_some() {
            return named.any(|(_, patterns)| fits(patterns));
        }
        self.rules.iter().any(|(rule, patterns)| *rule == Who::Others && fits(patterns))
    }
}

impl Pattern {
    fn fits(&self, job: &str) -> bool {
        match self {
            Self::Exactly(name) => name == job,
            Self::Beginning(beginning) => job.starts_with(beginning),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rules(entries: &[(&str, &str)]) -> Result<AllowedJobs, String> {
        AllowedJobs::read(&entries.iter().map(|(who, jobs)| ((*who).to_owned(), (*jobs).to_owned())).collect())
    }

    #[test]
    fn whoever_is_named_may_use_those_jobs_and_the_others_what_is_left_to_them() {
        let rules =
            rules(&[("uid:7", "payroll word-*"), ("cert:task-a", "a"), ("cert:spiffe://x/b", "b"), ("*", "open-*")])
                .unwrap();
        let certificate = ["task-a".to_owned(), "spiffe://x/b".to_owned()];
        for (who, job, allowed) in [
            (Identity::Uid(7), "payroll", true),
            (Identity::Uid(7), "payroll2", false),
            (Identity::Uid(7), "word-count", true),
            (Identity::Uid(7), "open-house", false),
            (Identity::Uid(8), "open-house", true),
            (Identity::Uid(8), "payroll", false),
            (Identity::Certificate(&certificate), "a", true),
            (Identity::Certificate(&certificate), "b", true),
            (Identity::Certificate(&certificate), "open-house", false),
            (Identity::Unknown, "open-house", true),
            (Identity::Unknown, "a", false),
        ] {
            assert_eq!(rules.allows(who, job), allowed, "{who:?} {job}");
        }
    }

    #[test]
    fn without_rules_everybody_may_use_all_and_with_them_strangers_nothing() {
        assert!(rules(&[]).unwrap().allows(Identity::Unknown, "any"));
        let one = rules(&[("uid:7", "*")]).unwrap();
        assert!(one.allows(Identity::Uid(7), "any") && !one.allows(Identity::Uid(0), "any"));
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for who in ["uid:x", "uid:", "cert:", "user:7", "7", ""] {
            assert!(rules(&[(who, "*")]).is_err(), "{who}");
        }
    }
}
