//! Prints the figures of a run, one measurement after the other.

use super::{Scenario, baseline::Baseline, figures::Figures};

/// The run so far.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    floors: Vec<Figures>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, floors: vec![] }
    }

    /// Prints the figures of a scenario, beside the machine's own figures and, if that was measured before, the floor.
    pub(crate) fn print(&mut self, baseline: &Baseline, mut measured: Vec<Figures>) {
        for figures in &mut measured {
            figures.bare_echo_us = Some(baseline.echo_us);
            figures.fsynced_bandwidth_bytes_per_second = baseline.bandwidth;
            if let Some(write_ms) = baseline.write_ms {
                figures.set("fsynced_write_ms", write_ms);
            }
            if figures.scenario != Scenario::Floor {
                figures.compare(&self.floors);
            }
            if self.json {
                println!("{}", serde_json::json!(figures));
            } else {
                println!("{figures}");
            }
        }
        self.floors.extend(measured.into_iter().filter(|figures| figures.scenario == Scenario::Floor));
    }
}
