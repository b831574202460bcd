//! Captures the whole signal state of Linux processes, and puts it back.
#![deny(unsafe_code)]

pub mod criu;

pub use criu_signals_images as images;
