//! `make gaps`: every case that CRIU loses, refuses, doubles or slows down, run in each way, and the table of what
//! came out.
//!
//! A case is a program of `gaps/` with an argument ([`table`]). It sets itself up, says "ready", is checkpointed or
//! not, is told to "go", and writes one line that says what it finds, in words that are the same in every run. The
//! line of a run without a checkpoint is what is right; a program has no opinion of its own. So a case is *fixed*
//! if the lines of all runs with the plugin are that line.
//!
//! [`inside`] is one run, in a pid namespace of its own; [`matrix`] makes all of them, some at a time; [`verdict`]
//! judges them; [`report`] prints; [`results`] is what the documents have.

pub mod inside;
pub mod matrix;
pub mod report;
pub mod results;
pub mod table;
pub mod verdict;
