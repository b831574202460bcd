//! Scenarios with a real criu.
