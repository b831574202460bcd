//! What the plugin does around CRIU's own work: signals in custody for the time of a dump, the guardian that watches them,
//! and the stop signals that CRIU leaves behind.

pub mod custody;
pub mod guardian;
pub mod stray_stop;
