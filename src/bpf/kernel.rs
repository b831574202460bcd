//! bpf(2): loads a program, and reads the program's output.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

use super::assemble::Instruction;
use crate::error::{Cause, Error};
use crate::proc;

// enum bpf_cmd, bpf_prog_type and bpf_attach_type, include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_BTF_LOAD: libc::c_int = 18;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_FEXIT: u32 = 25;
const BPF_TRACE_ITER: u32 = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;

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
    iter_info: u64,
    iter_info_len: u32,
    reserved: u32,
}

/// `union bpf_iter_link_info` for tasks (Linux 6.1).
#[repr(C)]
#[derive(Default)]
struct TaskInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
}

/// Of BPF_MAP_CREATE.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// Of BPF_MAP_LOOKUP_ELEM and BPF_MAP_UPDATE_ELEM.
#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Of BPF_BTF_LOAD.
#[repr(C)]
#[derive(Default)]
struct BtfLoad {
    btf: u64,
    log_buf: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
    reserved: u32,
}

/// `struct bpf_func_info`: where a function begins, and its type.
#[repr(C)]
struct FuncInfo {
    instruction: u32,
    type_id: u32,
}

/// Of BPF_RAW_TRACEPOINT_OPEN.
#[repr(C)]
#[derive(Default)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    reserved: u32,
}

/// Of BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
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

impl Refused {
    /// Without a word of the verifier's.
    pub(super) fn alone(errno: Errno) -> Refused {
        Refused {
            errno,
            why: String::new(),
        }
    }

    /// What it means.
    pub(super) fn error(self, what: &'static str) -> Error {
        match self.errno {
            Errno::EPERM | Errno::EACCES if self.why.is_empty() => {
                Error::new(what, Cause::Unsupported(not_permitted(self.errno)))
            }
            errno if self.why.is_empty() => Error::os(what, errno),
            errno => {
                // What matters stands at the end.
                let lines: Vec<&str> = self.why.lines().rev().take(4).collect();
                let why = format!("{errno:?}, the verifier says: {}", lines.join(" / "));
                Error::new(what, Cause::Unsupported(why.into()))
            }
        }
    }
}

/// Why bpf(2) permits nothing. The kernel gives the same errno for a capability that is missing and for what it forbids everybody.
fn not_permitted(errno: Errno) -> Cow<'static, str> {
    // CAP_SYS_ADMIN stands for both.
    let [admin, perfmon, bpf] =
        [21, 38, 39].map(|number| proc::has_capability(number).unwrap_or(false));
    if !(admin || perfmon && bpf) {
        return "CAP_BPF and CAP_PERFMON are needed (root has them)".into();
    }
    format!(
        "{errno:?}, although this process has the capabilities: the kernel forbids such a program, or the process is in a user \
         namespace, where the capabilities do not count"
    )
    .into()
}

/// bpf(2). `attr` must be one of the structs above, whose pointers are valid.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr`, and all that its pointers point to lives in the caller. It
    // writes to the log buffer, which has the size that `attr` says, and to the value of an element, which has the size of the
    // map's values.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    Errno::result(result)
}

/// As [`bpf`], for a call that makes a descriptor.
fn make_fd<T>(command: libc::c_int, attr: &mut T) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(bpf(command, attr)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call has just returned this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Memory that a program and this process share: an array with one element.
pub(super) struct Map {
    fd: OwnedFd,
    size: usize,
}

impl Map {
    pub(super) fn create(size: usize) -> Result<Map, Errno> {
        let attr = &mut MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: u32::try_from(size).map_err(|_| Errno::E2BIG)?,
            max_entries: 1,
        };
        // The kernel's own copies are multiples of eight bytes.
        if !size.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        let fd = make_fd(BPF_MAP_CREATE, attr)?;
        Ok(Map { fd, size })
    }

    /// For [`Program::map_value`](super::assemble::Program::map_value).
    pub(super) fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    fn element(&self, command: libc::c_int, key: &u32, value: u64) -> Result<(), Errno> {
        let attr = &mut MapElement {
            map_fd: number(&self.fd),
            key: std::ptr::from_ref(key) as u64,
            value,
            ..MapElement::default()
        };
        bpf(command, attr).map(drop)
    }

    /// Reads all of it into `bytes`, which gets its size.
    pub(super) fn read(&self, bytes: &mut Vec<u8>) -> Result<(), Errno> {
        bytes.resize(self.size, 0);
        self.element(BPF_MAP_LOOKUP_ELEM, &0, bytes.as_mut_ptr() as u64)
    }

    /// Writes all of it.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.len() != self.size {
            return Err(Errno::EINVAL);
        }
        self.element(BPF_MAP_UPDATE_ELEM, &0, bytes.as_ptr() as u64)
    }
}

/// A ring buffer of `size` bytes, a power of two and a multiple of the page size.
pub(super) fn create_ring(size: usize) -> Result<OwnedFd, Errno> {
    let attr = &mut MapCreate {
        map_type: BPF_MAP_TYPE_RINGBUF,
        max_entries: u32::try_from(size).map_err(|_| Errno::E2BIG)?,
        ..MapCreate::default()
    };
    make_fd(BPF_MAP_CREATE, attr)
}

/// Types for a program with functions, which the verifier asks for (Documentation/bpf/btf.rst): `int f()`, and of that type one
/// function that is the program, and one that it hands on.
fn types_of_functions() -> Vec<u8> {
    const BTF_KIND_INT: u32 = 1;
    const BTF_KIND_FUNC: u32 = 12;
    const BTF_KIND_FUNC_PROTO: u32 = 13;
    const BTF_INT_SIGNED: u32 = 1;
    const BTF_FUNC_GLOBAL: u32 = 1;
    const HEADER: u32 = 24;
    let strings = b"\0int\0all\0each\0\0\0";
    let types: [u32; 13] = [
        // Number 1.
        1,
        BTF_KIND_INT << 24,
        4,
        BTF_INT_SIGNED << 24 | 32,
        // Number 2.
        0,
        BTF_KIND_FUNC_PROTO << 24,
        1,
        // Numbers 3 and 4.
        5,
        BTF_KIND_FUNC << 24 | BTF_FUNC_GLOBAL,
        2,
        9,
        BTF_KIND_FUNC << 24,
        2,
    ];
    let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let sizes = [types.len(), strings.len()].map(|size| u32::try_from(size).unwrap_or(0));
    let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    for word in [HEADER, 0, sizes[0], sizes[0], sizes[1]] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}
/// Numbers in [`types_of_functions`].
const PROGRAM_TYPE: u32 = 3;
const FUNCTION_TYPE: u32 = 4;

fn load_types() -> Result<OwnedFd, Errno> {
    let types = types_of_functions();
    let attr = &mut BtfLoad {
        btf: types.as_ptr() as u64,
        btf_size: u32::try_from(types.len()).unwrap_or(0),
        ..BtfLoad::default()
    };
    make_fd(BPF_BTF_LOAD, attr)
}

/// When a program is run.
#[derive(Clone, Copy)]
pub(super) enum When {
    /// For each object of the iterator whose kernel function has this BTF id.
    Iterates(u32),
    /// When a tracepoint is passed: its arguments are plain numbers.
    PassesTracepoint,
    /// When the kernel function of this BTF id returns.
    Returns(u32),
}

impl When {
    /// Type of the program, type of attachment, BTF id.
    fn words(self) -> [u32; 3] {
        match self {
            When::Iterates(target) => [BPF_PROG_TYPE_TRACING, BPF_TRACE_ITER, target],
            When::PassesTracepoint => [BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0],
            When::Returns(target) => [BPF_PROG_TYPE_TRACING, BPF_TRACE_FEXIT, target],
        }
    }
}

/// Loads a program that is to be run for each object of the iterator whose kernel function has the BTF id `target`.
pub(super) fn load(program: &[Instruction], target: u32) -> Result<OwnedFd, Refused> {
    load_with(program, &[], When::Iterates(target))
}

/// As [`load`], of a program with functions that begin at these instructions.
pub(super) fn load_with(
    program: &[Instruction],
    functions: &[usize],
    when: When,
) -> Result<OwnedFd, Refused> {
    let mut infos = Vec::new();
    let mut types = None;
    if !functions.is_empty() {
        types = Some(load_types().map_err(Refused::alone)?);
        infos.push(FuncInfo {
            instruction: 0,
            type_id: PROGRAM_TYPE,
        });
        infos.extend(functions.iter().map(|&at| FuncInfo {
            instruction: u32::try_from(at).unwrap_or(u32::MAX),
            type_id: FUNCTION_TYPE,
        }));
    }
    let [prog_type, expected_attach_type, attach_btf_id] = when.words();
    let attr = || ProgLoad {
        prog_btf_fd: types.as_ref().map_or(0, number),
        func_info_rec_size: u32::try_from(size_of::<FuncInfo>()).unwrap_or(0),
        func_info: infos.as_ptr() as u64,
        func_info_cnt: u32::try_from(infos.len()).unwrap_or(0),
        prog_type,
        expected_attach_type,
        attach_btf_id,
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
        return Err(Refused::alone(errno));
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

/// Runs the program when the tracepoint `name` is passed, or, without a name, when the function returns that the program was
/// loaded for. It ends with the descriptor.
pub(super) fn attach(program: &OwnedFd, name: Option<&CStr>) -> Result<OwnedFd, Errno> {
    let attr = &mut RawTracepointOpen {
        name: name.map_or(0, |name| name.as_ptr() as u64),
        prog_fd: number(program),
        reserved: 0,
    };
    make_fd(BPF_RAW_TRACEPOINT_OPEN, attr)
}

/// Runs a program for tracepoints once, in the calling thread (Linux 5.10).
pub(super) fn run_once(program: &OwnedFd) -> Result<(), Errno> {
    let attr = &mut TestRun {
        prog_fd: number(program),
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, attr).map(drop)
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

/// As [`link`], over the threads of one process. Kernels before 6.1 do not know that: either they go over all tasks then, or
/// they refuse, and the caller is given a link over all tasks.
pub(super) fn link_to(program: &OwnedFd, pid: u32) -> Result<OwnedFd, Errno> {
    let info = TaskInfo {
        pid,
        ..TaskInfo::default()
    };
    let attr = &mut LinkCreate {
        prog_fd: number(program),
        attach_type: BPF_TRACE_ITER,
        iter_info: std::ptr::from_ref(&info) as u64,
        iter_info_len: u32::try_from(size_of::<TaskInfo>()).unwrap_or(0),
        ..LinkCreate::default()
    };
    match make_fd(BPF_LINK_CREATE, attr) {
        Err(Errno::EINVAL | Errno::E2BIG) => link(program),
        made => made,
    }
}

/// A file whose content is what the program writes in one pass over all objects.
pub(super) fn open(link: &OwnedFd) -> Result<File, Errno> {
    let attr = &mut IterCreate {
        link_fd: number(link),
        flags: 0,
    };
    make_fd(BPF_ITER_CREATE, attr).map(File::from)
}
