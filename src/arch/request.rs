//! The type of ptrace(2)'s requests.

/// The type that the C library gives to requests of ptrace(2).
#[cfg(target_env = "musl")]
pub type PtraceRequest = libc::c_int;
/// The type that the C library gives to requests of ptrace(2).
#[cfg(not(target_env = "musl"))]
pub type PtraceRequest = libc::c_uint;
