//! Admin HTTP: metrics and health.
