//! What a checkpoint cannot keep, or a destination cannot give: found and named, never passed over.

pub(crate) mod altstack_fit;
pub(crate) mod cpu_limit;
pub(crate) mod files;
pub(crate) mod not_compared;
pub mod notices;
pub(crate) mod parents;
pub(crate) mod timeouts;
pub(crate) mod timers;
pub(crate) mod zombies;
