//! Scenarios with a real criu.

pub mod gaps;
