//! Random states against their own control.
//!
//! A seed is a [`plan`] (made by [`generate`]), a program of 64 or 32 bits that carries it out (`chance/`), and one of
//! the [`ways`] of being dumped, restored, looked at or killed. The program looks at itself in the end, and the
//! [`oracle`] compares what it says with what it says when nobody has checkpointed it. A [`verdict`] is by whether criu
//! alone does better, and whether what is lost is said.
//!
//! [`stage`] is where a plan is carried out, [`perform`] one run of it; [`cell`] a namespace for many runs, [`campaign`]
//! many seeds ([`standstill`]: but not while the machine stands still), [`minimise`] makes a small case of one that fails, [`table`] says what came out, and
//! [`known`] which seeds are known to fail.

pub mod campaign;
pub mod cell;
pub mod generate;
pub mod known;
pub mod minimise;
pub mod oracle;
pub mod perform;
pub mod plan;
pub mod stage;
pub mod standstill;
pub mod table;
pub mod verdict;
pub mod ways;
