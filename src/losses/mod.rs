//! What a checkpoint cannot keep, or a destination cannot give: found and named, never passed over.

pub mod altstack_fit;
pub mod zombies;
