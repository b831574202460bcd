//! bpf(2): loading a program, and reading what it writes.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

use super::assemble::Instruction;

// enum bpf_cmd, bpf_prog_type and bpf_attach_type, include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_ITER: u32 = 28;

/// Helpers that copy kernel memory are for programs under this licence alone.
const LICENCE: &[u8] = b"GPL\0";
/// Of the verifier's explanation. Its end says what is wrong.
const LOG_SIZE: usize = 1 << 20;

/// The members of `union bpf_attr` for BPF_PROG_LOAD, up to the last that is needed.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// Of BPF_LINK_CREATE.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Of BPF_ITER_CREATE.
#[repr(C)]
#[derive(Default)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// Why a program could not be loaded.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) errno: Errno,
    /// What the verifier has to say, empty if it was not asked.
    pub(super) why: String,
}

/// bpf(2) for a call that makes a descriptor. `attr` must be one of the structs above, whose pointers are valid.
fn make_fd<T>(command: libc::c_int, attr: &mut T) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr`, and all that its pointers point to lives in the caller. It
    // writes to the log buffer alone, which has the size that `attr` says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call has just returned this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Loads a program that is to be run for each object of the iterator whose kernel function has the BTF id `target`.
pub(super) fn load(program: &[Instruction], target: u32) -> Result<OwnedFd, Refused> {
    let attr = || ProgLoad {
        prog_type: BPF_PROG_TYPE_TRACING,
        expected_attach_type: BPF_TRACE_ITER,
        attach_btf_id: target,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: LICENCE.as_ptr() as u64,
        prog_name: *b"criu_signals\0\0\0\0",
        ..ProgLoad::default()
    };
    let errno = match make_fd(BPF_PROG_LOAD, &mut attr()) {
        Ok(fd) => return Ok(fd),
        Err(errno) => errno,
    };
    // The verifier was not asked.
    if errno == Errno::EPERM {
        return Err(Refused {
            errno,
            why: String::new(),
        });
    }
    let mut log = vec![0_u8; LOG_SIZE];
    let explained = &mut ProgLoad {
        log_level: 1,
        log_size: u32::try_from(log.len()).unwrap_or(0),
        log_buf: log.as_mut_ptr() as u64,
        ..attr()
    };
    match make_fd(BPF_PROG_LOAD, explained) {
        Ok(fd) => Ok(fd),
        Err(errno) => {
            let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
            let why = String::from_utf8_lossy(&log[..end]).into_owned();
            Err(Refused { errno, why })
        }
    }
}

/// Runs the program over all objects each time that the link is opened by [`open`].
pub(super) fn link(program: &OwnedFd) -> Result<OwnedFd, Errno> {
    let attr = &mut LinkCreate {
        prog_fd: number(program),
        attach_type: BPF_TRACE_ITER,
        ..LinkCreate::default()
    };
    make_fd(BPF_LINK_CREATE, attr)
}

/// A file whose content is what the program writes in one pass over all objects.
pub(super) fn open(link: &OwnedFd) -> Result<File, Errno> {
    let attr = &mut IterCreate {
        link_fd: number(link),
        flags: 0,
    };
    make_fd(BPF_ITER_CREATE, attr).map(File::from)
}
