//! The signal state of a Linux process: its types, and its forms as image, JSON and text.
//!
//! One module per kind of state: its type, its protobuf form and its tests side by side. Nothing here
//! touches a process; the crate `criu-signals` takes this state and puts it back.
//!
//! ```
//! use criu_signals_images::{SigNo, SigSet};
//!
//! let set: SigSet = [SigNo::HUP, "SIGRTMIN+2".parse()?].into_iter().collect();
//! assert_eq!(set.to_string(), "SIGHUP,SIGRTMIN+2");
//! # Ok::<(), criu_signals_images::ParseSigNoError>(())
//! ```
//!
//! The image format is described in this crate's `README.md` and in `proto/signals.proto`.
#![deny(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod codec;
#[cfg(test)]
mod testing;

pub mod altstack;
pub mod clocks;
pub mod code_place;
pub mod core_json;
pub mod criu_core;
pub mod criu_files;
pub mod criu_images;
pub mod criu_mm;
pub mod diff;
pub mod disposition;
pub mod error;
pub mod exit_signal;
mod framing;
pub mod header;
pub mod ids;
pub mod image;
pub mod interrupted;
pub mod itimer;
pub mod json;
pub mod kernel_names;
pub mod owner;
pub mod pending;
pub mod printable;
pub mod process;
pub mod recorded;
pub mod rlimit;
pub mod siginfo;
pub mod signal_file;
pub mod signo;
pub mod sigset;
pub mod stack_needs;
pub mod text;
pub mod timer;
pub mod wait_status;

pub use altstack::AltStack;
pub use code_place::CodePlace;
pub use criu_core::CoreImage;
pub use criu_files::FilesImage;
pub use diff::{
    Comparison, Difference, Field, Place, compare, compare_all, compare_exit_signals,
    compare_interval_timers, cpu_limit_differs, file_owner_differs, timerfd_differs,
};
pub use disposition::{Disposition, Dispositions};
pub use error::ImageError;
pub use exit_signal::ExitSignal;
pub use header::{Arch, FORMAT_VERSION, Header};
pub use ids::{NsIds, Pid, Tid};
pub use image::Image;
pub use interrupted::{InterruptedCall, RestartCode};
pub use itimer::IntervalTimer;
pub use kernel_names::{CallTable, Clock};
pub use owner::FileOwner;
pub use pending::Pending;
pub use printable::{Name, Printable, Shown};
pub use process::{ProcessState, Rlimit, RunState, TakenOut, ThreadState};
pub use recorded::{Aspect, EndedBy, Recorded};
pub use siginfo::{FaultDetail, Fields, Layout, SIGINFO_SIZE, Siginfo};
pub use signal_file::{SignalFile, SignalFiles};
pub use signo::{DefaultAction, ParseSigNoError, SigNo};
pub use sigset::SigSet;
pub use stack_needs::StackNeeds;
pub use timer::{DeletedTimer, Notify, PosixTimer, TIMERS_LIMIT, TimerEntry};
pub use wait_status::WaitStatus;

/// So that the example there is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
