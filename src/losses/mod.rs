//! What a checkpoint cannot keep, or a destination cannot give: found and named, never passed over.

pub mod altstack_fit;
pub mod cpu_limit;
pub mod files;
pub mod not_compared;
pub mod notices;
pub mod parents;
pub mod timeouts;
pub mod timers;
pub mod zombies;
