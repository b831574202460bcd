//! The engine: signal state is captured, replayed in the order that the kernel demands, and repaired where a restore left
//! something out. Both wings, [`checkpoint`](crate::checkpoint) and [`live`](crate::live), stand on it.

pub mod capture;
pub mod repair;
pub mod replay;
pub mod send;
pub(crate) mod stops;
