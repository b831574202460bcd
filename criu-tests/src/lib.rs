//! Runs a real criu over small programs ("victims") whose signal state is known, with the plugin and without it.
//!
//! A *victim* is a C program in `victims/`: it sets up one behaviour, says that it is ready, and when it is told to
//! go on it looks at itself and prints PASS. A *scenario* ([`table`]) is a victim with what is expected of it; each
//! scenario is run in four [flavours](scenario::Flavour). The same program passes without a checkpoint first: Linux
//! is the oracle, not this crate.
//!
//! The modules, in the order in which a run needs them: [`ns`] gives it pids of its own, [`rundir`] a folder,
//! [`victim`] starts the program, [`criu`] dumps and restores it, [`procfs`] looks at it from outside, [`plugin`]
//! reads what the plugin said, [`run`] puts these together; [`harness`] makes a test of it, [`cases`] one of any
//! function. [`containers`] does it under container engines. [`gaps`] is the table of what CRIU loses, [`chance`] makes
//! states at random, [`zdtm`] runs CRIU's own suite. [`work`] kills the command `criu-signals`; [`mounted`] is
//! its mount, and those who use it.

#![deny(unsafe_code)]

pub mod baseline;
pub mod bench;
pub mod cases;
pub mod chance;
pub mod config;
pub mod containers;
pub mod criu;
pub mod curve;
pub mod document;
#[cfg(test)]
mod documents;
pub mod gaps;
pub mod harness;
pub mod limited;
pub mod mounted;
pub mod ns;
pub mod numbers;
pub mod plugin;
pub mod procfs;
pub mod random;
pub mod readings;
pub mod run;
pub mod rundir;
pub mod sample;
pub mod scenario;
pub mod served;
pub mod six;
pub mod skip;
pub mod streamer;
pub mod table;
pub mod terminal;
pub mod victim;
pub mod wait;
pub mod work;
pub mod zdtm;
