//! The inner backend in memory.
