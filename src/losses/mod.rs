//! Losses: finds and reports state that a checkpoint cannot preserve or that the destination cannot provide.

pub(crate) mod altstack_fit;
pub mod by_stop;
pub(crate) mod call_eintr;
pub(crate) mod call_masks;
pub(crate) mod cpu_limit;
pub(crate) mod files;
pub(crate) mod not_compared;
pub mod notices;
pub(crate) mod parents;
pub(crate) mod timeouts;
pub(crate) mod timers;
pub(crate) mod zombies;
