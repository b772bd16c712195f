//! The results of all rounds: as tables, as JSON, and as data for the chart.

use std::fmt;

use serde::Serialize;

use super::{
    Parameters, Run, Work,
    distribution::Spread,
    machine::Machine,
    measured::Measured,
    system::{Place, System},
};

/// All results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) parameters: Parameters,
    pub(crate) rounds: usize,
    #[serde(skip)]
    works: Vec<Work>,
    results: Vec<Outcome>,
    left_out: Vec<LeftOut>,
}

/// The rounds of one system with one work.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) system: System,
    work: Work,
    place: Place,
    durability: &'static str,
    /// Its own, as its process told it.
    pub(crate) version: String,
    pub(crate) operations_per_second: Spread,
    /// Its median over that of the dstl which keeps state in the same place.
    pub(crate) to_dstl: Option<f64>,
    pub(crate) cpu_seconds_per_million: f64,
    /// The median over the rounds of the median duration of durable points.
    durable_p50_ms: Option<f64>,
    peak_rss_bytes: u64,
    rounds: Vec<Measured>,
}

/// A system without a result.
#[derive(Debug, Serialize)]
pub(crate) struct LeftOut {
    system: System,
    work: Work,
    why: Why,
    reason: String,
}

/// Why a system has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Why {
    /// The options did not name it.
    Unasked,
    /// Something that it needs is not on this machine.
    Absent,
    /// A run of it failed.
    Broken,
}

impl LeftOut {
    /// The options did not name it.
    pub(crate) fn unasked(system: System, work: Work) -> Self {
        Self { system, work, why: Why::Unasked, reason: "--only does not name it".to_owned() }
    }

    /// This machine lacks a program that it needs.
    pub(crate) fn absent(system: System, work: Work, reason: String) -> Self {
        Self { system, work, why: Why::Absent, reason }
    }

    /// A run of it failed.
    pub(crate) fn broken(system: System, work: Work, reason: String) -> Self {
        Self { system, work, why: Why::Broken, reason }
    }

    /// The name of the system, for readers.
    pub(crate) fn title(&self) -> &'static str {
        self.system.title()
    }
}

impl Report {
    pub(crate) fn new(run: &Run) -> Self {
        Self {
            machine: Machine::now(),
            parameters: run.parameters.clone(),
            rounds: run.rounds,
            works: run.works.clone(),
            results: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Adds a round of `system`.
    pub(crate) fn add(&mut self, system: System, work: Work, measured: Measured) {
        let before = self.results.iter().position(|result| result.system == system && result.work == work);
        let mut rounds = before.map(|at| self.results.remove(at).rounds).unwrap_or_default();
        rounds.push(measured);
        self.results.extend(Outcome::of(system, work, rounds));
        self.results.sort_by_key(|result| System::ALL.iter().position(|system| *system == result.system));
        self.compare(work);
    }

    /// Leaves `left_out` out, with any rounds that it has.
    pub(crate) fn leave_out(&mut self, left_out: LeftOut) {
        self.results.retain(|result| (result.system, result.work) != (left_out.system, left_out.work));
        self.compare(left_out.work);
        self.left_out.push(left_out);
    }

    /// Whether a run of a system failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.left_out.iter().any(|left_out| left_out.why == Why::Broken)
    }

    /// The results of `work` for one place, in the order of the table.
    pub(crate) fn of(&self, work: Work, place: Place) -> impl Iterator<Item = &Outcome> {
        self.results.iter().filter(move |result| result.work == work && result.place == place)
    }

    /// The systems without a result for `work`.
    pub(crate) fn left_out(&self, work: Work) -> impl Iterator<Item = &LeftOut> {
        self.left_out.iter().filter(move |left_out| left_out.work == work)
    }

    /// Puts every result beside that of its dstl.
    fn compare(&mut self, work: Work) {
        let rates: Vec<_> = self.results.iter().filter(|result| result.work == work).map(Outcome::rate).collect();
        let rate_of = |system: System| rates.iter().find(|(of, _)| *of == system).map(|(_, rate)| *rate);
        for result in self.results.iter_mut().filter(|result| result.work == work) {
            let (_, own) = result.rate();
            result.to_dstl = rate_of(result.system.yardstick()).map(|dstl| own / dstl);
        }
    }

    fn table(&self, f: &mut fmt::Formatter<'_>, work: Work) -> fmt::Result {
        let Parameters { keys, value_bytes, batch, seconds, warm_up } = &self.parameters;
        let value = match work {
            Work::Update => format!("{value_bytes}-byte values"),
            Work::Rmw => "counters".to_owned(),
        };
        writeln!(f, "{}: {keys} keys, {value}, batches of {batch}, a durable point each second;", work.name())?;
        let rounds = self.rounds;
        writeln!(f, "medians of {rounds} rounds of {seconds} s, each after {warm_up} s of warm-up; all in turns")?;
        for place in [Place::Memory, Place::Disk] {
            if self.of(work, place).next().is_none() {
                continue;
            }
            writeln!(
                f,
                "\n  {:<46} {:>8} {:>15} {:>8} {:>7} {:>10} {:>9}  durable each second",
                place.title(),
                "k ops/s",
                "(min to max)",
                "dstl is",
                "CPU s/M",
                "durable ms",
                "peak MiB",
            )?;
            self.of(work, place).try_for_each(|result| writeln!(f, "{result}"))?;
        }
        let missing: Vec<_> = self.left_out(work).filter(|it| it.why != Why::Unasked).collect();
        let unasked: Vec<_> = self.left_out(work).filter(|it| it.why == Why::Unasked).map(LeftOut::title).collect();
        if !(missing.is_empty() && unasked.is_empty()) {
            writeln!(f)?;
        }
        missing.iter().try_for_each(|left_out| writeln!(f, "  {left_out}"))?;
        if !unasked.is_empty() {
            writeln!(f, "  LEFT OUT, as --only does not name them: {}", unasked.join("; "))?;
        }
        writeln!(f)
    }
}

impl Outcome {
    fn of(system: System, work: Work, rounds: Vec<Measured>) -> Option<Self> {
        let of = |figure: fn(&Measured) -> f64| Spread::of(rounds.iter().map(figure).collect());
        let durable = rounds.iter().filter_map(|it| Some(it.durable_ms?.p50)).collect();
        Some(Self {
            system,
            work,
            place: system.place(),
            durability: system.durability(),
            version: rounds.last()?.version.clone(),
            operations_per_second: of(|it| it.operations_per_second)?,
            to_dstl: None,
            cpu_seconds_per_million: of(|it| it.cpu_seconds_per_million)?.median,
            durable_p50_ms: Spread::of(durable).map(|spread| spread.median),
            peak_rss_bytes: rounds.iter().map(|it| it.peak_rss_bytes).max()?,
            rounds,
        })
    }

    fn rate(&self) -> (System, f64) {
        (self.system, self.operations_per_second.median)
    }

    /// How many times as fast dstl is.
    pub(crate) fn dstl_is(&self) -> Option<f64> {
        self.to_dstl.filter(|_| !self.system.is_dstl()).map(f64::recip)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine.line())?;
        writeln!(f, "load of the machine before the run: {}\n", self.machine.load_before)?;
        self.works.iter().try_for_each(|work| self.table(f, *work))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { median, min, max, .. } = &self.operations_per_second;
        let title = match self.version.as_str() {
            _ if self.system == System::Floor => self.system.title().to_owned(),
            version => format!("{} {version}", self.system.title()),
        };
        let dstl_is = self.dstl_is().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2} x"));
        let durable = self.durable_p50_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        write!(
            f,
            "  {title:<46} {:>8.0} {:>15} {dstl_is:>8} {:>7.2} {durable:>10} {:>9}  {}",
            median / 1e3,
            format!("({:.0} to {:.0})", min / 1e3, max / 1e3),
            self.cpu_seconds_per_million,
            self.peak_rss_bytes >> 20,
            self.durability,
        )
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, reason, .. } = self;
        write!(f, "LEFT OUT: {} ({}): {reason}", system.title(), system.name())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::Args;

    /// A report of these rates.
    pub(crate) fn report(rates: &[(System, f64)]) -> Report {
        let args = Args::try_parse_from(["peers", "--keys", "1000"]).expect("these are its arguments");
        let mut report = Report::new(&args.run);
        for (system, rate) in rates {
            let (version, durable_ms) = ("1.2.3".to_owned(), None);
            let (cpu_seconds_per_million, peak_rss_bytes) = (1.0, 1 << 20);
            let measured =
                Measured { version, operations_per_second: *rate, cpu_seconds_per_million, durable_ms, peak_rss_bytes };
            report.add(*system, Work::Update, measured);
        }
        report
    }

    #[test]
    fn each_system_is_compared_with_the_dstl_of_its_place() {
        let report = report(&[(System::Redis, 5e5), (System::Rocksdb, 5e5), (System::DstlHashmap, 1.5e6)]);
        let redis = report.of(Work::Update, Place::Memory).find(|it| it.system == System::Redis).expect("it was added");
        assert_eq!(redis.dstl_is(), Some(3.0));
        let rocksdb = report.of(Work::Update, Place::Disk).next().expect("it was added");
        assert_eq!(rocksdb.dstl_is(), None);
    }

    #[test]
    fn a_system_that_breaks_loses_its_rounds_and_is_named() {
        let mut report = report(&[(System::Redis, 5e5), (System::DstlHashmap, 1.5e6)]);
        report.leave_out(LeftOut::broken(System::Redis, Work::Update, "it fell over".to_owned()));
        assert!(report.is_broken());
        let text = report.to_string();
        assert!(text.contains("LEFT OUT: Redis (redis): it fell over"), "{text}");
        assert!(!text.contains("Redis 1.2.3"), "{text}");
    }
}
