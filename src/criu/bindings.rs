//! The bindings that bindgen generates from the `criu-plugin.h` that `build.rs` found.

// Generated code keeps C's names and is not documented. It holds types and constants only: nothing here runs.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unsafe_code
)]
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/criu_plugin.rs"));
