//! The engine captures signal state, replays it in the order that the kernel requires, and repairs processes whose
//! state differs from an image. [`checkpoint`](crate::checkpoint) and [`live`](crate::live) are built on the engine.

pub mod capture;
pub mod repair;
pub mod replay;
pub mod send;
pub(crate) mod stops;
pub mod told;
