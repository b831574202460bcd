//! Where the fields of a siginfo lie and which ones it has, checked against those who decide it: the
//! kernel's C header, libc, and the running kernel.
#![expect(
    unsafe_code,
    reason = "only libc reads its siginfo_t and only system calls reach the kernel"
)]

use std::collections::HashMap;
use std::io::Write;
use std::mem::{size_of, transmute, zeroed};
use std::process::{Command, Stdio};
use std::ptr;

use criu_signals_images::{FaultDetail, Fields, Layout, SIGINFO_SIZE, SigNo, Siginfo};

/// For each field its name in C, and fields in which it alone is all ones.
const FIELDS: &[(&str, Fields)] = &[
    ("_sifields._kill._pid", Fields::Kill { pid: -1, uid: 0 }),
    ("_sifields._kill._uid", Fields::Kill { pid: 0, uid: !0 }),
    ("_sifields._timer._tid", timer(-1, 0, 0, 0)),
    ("_sifields._timer._overrun", timer(0, -1, 0, 0)),
    ("_sifields._timer._sigval", timer(0, 0, !0, 0)),
    ("_sifields._timer._sys_private", timer(0, 0, 0, -1)),
    (
        "_sifields._rt._pid",
        Fields::Value {
            pid: -1,
            uid: 0,
            value: 0,
        },
    ),
    (
        "_sifields._rt._uid",
        Fields::Value {
            pid: 0,
            uid: !0,
            value: 0,
        },
    ),
    (
        "_sifields._rt._sigval",
        Fields::Value {
            pid: 0,
            uid: 0,
            value: !0,
        },
    ),
    ("_sifields._sigchld._pid", child(-1, 0, 0, 0, 0)),
    ("_sifields._sigchld._uid", child(0, !0, 0, 0, 0)),
    ("_sifields._sigchld._status", child(0, 0, -1, 0, 0)),
    ("_sifields._sigchld._utime", child(0, 0, 0, -1, 0)),
    ("_sifields._sigchld._stime", child(0, 0, 0, 0, -1)),
    ("_sifields._sigpoll._band", Fields::Poll { band: -1, fd: 0 }),
    ("_sifields._sigpoll._fd", Fields::Poll { band: 0, fd: -1 }),
    (
        "_sifields._sigsys._call_addr",
        Fields::Sys {
            call_addr: !0,
            syscall: 0,
            arch: 0,
        },
    ),
    (
        "_sifields._sigsys._syscall",
        Fields::Sys {
            call_addr: 0,
            syscall: -1,
            arch: 0,
        },
    ),
    (
        "_sifields._sigsys._arch",
        Fields::Sys {
            call_addr: 0,
            syscall: 0,
            arch: !0,
        },
    ),
    (
        "_sifields._sigfault._addr",
        Fields::Fault {
            addr: !0,
            detail: FaultDetail::None,
        },
    ),
    (
        "_sifields._sigfault._trapno",
        detail(FaultDetail::Trapno(-1)),
    ),
    (
        "_sifields._sigfault._addr_lsb",
        detail(FaultDetail::Lsb(-1)),
    ),
    (
        "_sifields._sigfault._addr_bnd._lower",
        detail(FaultDetail::Bounds {
            lower: !0,
            upper: 0,
        }),
    ),
    (
        "_sifields._sigfault._addr_bnd._upper",
        detail(FaultDetail::Bounds {
            lower: 0,
            upper: !0,
        }),
    ),
    (
        "_sifields._sigfault._addr_pkey._pkey",
        detail(FaultDetail::Pkey(!0)),
    ),
    (
        "_sifields._sigfault._perf._data",
        detail(FaultDetail::Perf {
            data: !0,
            kind: 0,
            flags: 0,
        }),
    ),
    (
        "_sifields._sigfault._perf._type",
        detail(FaultDetail::Perf {
            data: 0,
            kind: !0,
            flags: 0,
        }),
    ),
    (
        "_sifields._sigfault._perf._flags",
        detail(FaultDetail::Perf {
            data: 0,
            kind: 0,
            flags: !0,
        }),
    ),
];

const fn timer(id: i32, overrun: i32, value: u64, sys_private: i32) -> Fields {
    Fields::Timer {
        id,
        overrun,
        value,
        sys_private,
    }
}

const fn child(pid: i32, uid: u32, status: i32, utime: i64, stime: i64) -> Fields {
    Fields::Child {
        pid,
        uid,
        status,
        utime,
        stime,
    }
}

const fn detail(detail: FaultDetail) -> Fields {
    Fields::Fault { addr: 0, detail }
}

/// Runs a C program that includes the kernel's own header, and gives the lines it prints.
///
/// The compiler is the one that Rust links with, so it is there.
fn run_c(body: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("program");
    let source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include <asm/signal.h>\n#include <asm/siginfo.h>\n\
         int main(void) {{\n{body}\nreturn 0;\n}}\n"
    );
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut cc = Command::new(compiler)
        .args(["-x", "c", "-", "-o"])
        .arg(&program)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the C compiler that Rust links with");
    let mut input = cc.stdin.take().expect("a pipe");
    input.write_all(source.as_bytes()).expect("it reads");
    drop(input);
    assert!(cc.wait().expect("it ends").success(), "{source}");
    let output = Command::new(&program).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("ASCII");
    text.lines().map(str::to_owned).collect()
}

/// Positions of the bytes that are not 0.
fn set_bytes(siginfo: &Siginfo) -> Vec<usize> {
    let bytes = siginfo.as_bytes().iter().enumerate();
    bytes
        .filter(|(_, byte)| **byte != 0)
        .map(|(at, _)| at)
        .collect()
}

#[test]
fn offsets_are_those_of_the_c_header() {
    let nothing = Fields::Kill { pid: 0, uid: 0 };
    let mut found = vec![
        ("si_signo", Siginfo::from_fields(-1, 0, 0, &nothing)),
        ("si_errno", Siginfo::from_fields(0, -1, 0, &nothing)),
        ("si_code", Siginfo::from_fields(0, 0, -1, &nothing)),
    ];
    found.extend(
        FIELDS
            .iter()
            .map(|(name, fields)| (*name, Siginfo::from_fields(0, 0, 0, fields))),
    );

    let line = |name: &str| {
        format!(
            "printf(\"%zu %zu\\n\", offsetof(siginfo_t, {name}), sizeof ((siginfo_t *)0)->{name});"
        )
    };
    let body: Vec<String> = found.iter().map(|(name, _)| line(name)).collect();
    let expected = run_c(&body.join("\n"));
    assert_eq!(expected.len(), found.len());
    for ((name, siginfo), expected) in found.iter().zip(expected) {
        let (offset, size) = expected.split_once(' ').expect("two numbers");
        let (offset, size): (usize, usize) = (
            offset.parse().expect("a number"),
            size.parse().expect("a number"),
        );
        let field: Vec<usize> = (offset..offset + size).collect();
        assert_eq!(set_bytes(siginfo), field, "{name}");
    }
    assert_eq!(
        run_c("printf(\"%zu\\n\", sizeof(siginfo_t));"),
        [SIGINFO_SIZE.to_string()]
    );
}

/// Every name that a siginfo's line may show, with its number; a header may be too old for some.
#[test]
fn code_names_are_those_of_the_c_header() {
    let nothing = Fields::Kill { pid: 0, uid: 0 };
    let mut names = HashMap::new();
    for signo in SigNo::all() {
        for code in -64..=0x80 {
            let line = Siginfo::from_fields(signo.get(), 0, code, &nothing).to_string();
            let name = line.split(' ').nth(1).expect("a code").to_owned();
            if name != "code" {
                names.insert(name, code);
            }
        }
    }
    assert!(names.len() > 60, "{names:?}");
    let lines: Vec<String> = names
        .keys()
        .map(|name| format!("#ifdef {name}\nprintf(\"{name} %d\\n\", (int)({name}));\n#endif"))
        .collect();
    let known = run_c(&lines.join("\n"));
    assert!(
        known.len() + 2 >= names.len(),
        "the header knows but {} of {}",
        known.len(),
        names.len()
    );
    for line in known {
        let (name, code) = line.split_once(' ').expect("name and number");
        assert_eq!(
            names.get(name).map(ToString::to_string).as_deref(),
            Some(code),
            "{name}"
        );
    }
}

#[test]
fn libc_reads_the_same() {
    let read = |fields: Fields| {
        let siginfo = Siginfo::from_fields(3, 4, 5, &fields);
        // SAFETY: siginfo_t is 128 bytes (`transmute` checks it) of integers: any bytes are one.
        let libc: libc::siginfo_t = unsafe { transmute(*siginfo.as_bytes()) };
        assert_eq!((libc.si_signo, libc.si_errno, libc.si_code), (3, 4, 5));
        libc
    };
    let bits = |bytes: [u8; 8]| u64::from_le_bytes(bytes);

    let kill = read(Fields::Kill { pid: 11, uid: 12 });
    // SAFETY: the accessors read from within the 128 bytes, all of which are initialized.
    assert_eq!(unsafe { (kill.si_pid(), kill.si_uid()) }, (11, 12));

    let value = read(Fields::Value {
        pid: 11,
        uid: 12,
        value: 13,
    });
    // SAFETY: as above.
    let (pid, uid, sigval) = unsafe { (value.si_pid(), value.si_uid(), value.si_value()) };
    assert_eq!((pid, uid, sigval.sival_ptr.addr()), (11, 12, 13));

    let timer = read(timer(11, 12, 13, 0));
    // SAFETY: as above.
    assert_eq!(unsafe { timer.si_value() }.sival_ptr.addr(), 13);

    let child = read(child(11, 12, 13, 14, 15));
    // SAFETY: as above.
    let (pid, uid, status) = unsafe { (child.si_pid(), child.si_uid(), child.si_status()) };
    assert_eq!((pid, uid, status), (11, 12, 13));
    // SAFETY: as above.
    assert_eq!(unsafe { (child.si_utime(), child.si_stime()) }, (14, 15));

    let addr = bits([1, 2, 3, 4, 5, 6, 7, 8]);
    let fault = read(Fields::Fault {
        addr,
        detail: FaultDetail::None,
    });
    // SAFETY: as above.
    assert_eq!(unsafe { fault.si_addr() }.addr() as u64, addr);
}

/// The kernel's signalfd hands out the fields that its own siginfo_layout() says a signal has, so the
/// running kernel can be asked about every number and code: queue it, read it, compare.
#[test]
fn the_running_kernel_sees_the_same_layouts() {
    // The private queue is read first, so signals for the whole process do not get between.
    let signalfd = block_all_and_open_signalfd();
    // The kernel keeps 48 bytes and wants the rest to be 0 where it does not know the code.
    let mut bytes = [0; SIGINFO_SIZE];
    for (byte, value) in bytes[16..48].iter_mut().zip(1..) {
        *byte = value;
    }
    let codes = (-70..=140).chain([i32::MIN, i32::MAX, 256, 0x10000]);
    for code in codes {
        for signo in SigNo::all() {
            // These cannot be blocked.
            if signo == SigNo::KILL || signo == SigNo::STOP {
                continue;
            }
            // SEGV_CPERR: kernels before 6.6 do not count it among SIGSEGV's codes.
            if (signo, code) == (SigNo::SEGV, 10) {
                continue;
            }
            let head = Siginfo::from_fields(signo.get(), 7, code, &Fields::Kill { pid: 0, uid: 0 });
            bytes[..16].copy_from_slice(&head.as_bytes()[..16]);
            let siginfo = Siginfo::from_bytes(bytes);
            queue_to_this_thread(&siginfo);
            let seen = Seen::from_kernel(&read_signalfd(signalfd));
            assert_eq!(seen, Seen::from_fields(&siginfo), "{siginfo}");
        }
    }
    // SAFETY: it was opened here, and nobody else has it.
    unsafe { libc::close(signalfd) };
}

/// What a signalfd tells of a siginfo; 0 for what it does not have.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    signo: i32,
    errno: i32,
    code: i32,
    pid: i32,
    uid: u32,
    fd: i32,
    tid: i32,
    band: u32,
    overrun: u32,
    trapno: i32,
    status: i32,
    ptr: u64,
    utime: u64,
    stime: u64,
    addr: u64,
    lsb: u16,
    syscall: i32,
    call_addr: u64,
    arch: u32,
}

impl Seen {
    fn from_kernel(info: &libc::signalfd_siginfo) -> Seen {
        Seen {
            signo: info.ssi_signo.cast_signed(),
            errno: info.ssi_errno,
            code: info.ssi_code,
            pid: info.ssi_pid.cast_signed(),
            uid: info.ssi_uid,
            fd: info.ssi_fd,
            tid: info.ssi_tid.cast_signed(),
            band: info.ssi_band,
            overrun: info.ssi_overrun,
            trapno: info.ssi_trapno.cast_signed(),
            status: info.ssi_status,
            ptr: info.ssi_ptr,
            utime: info.ssi_utime,
            stime: info.ssi_stime,
            addr: info.ssi_addr,
            lsb: info.ssi_addr_lsb,
            syscall: info.ssi_syscall,
            call_addr: info.ssi_call_addr,
            arch: info.ssi_arch,
        }
    }

    fn from_fields(siginfo: &Siginfo) -> Seen {
        let seen = Seen {
            signo: siginfo.signo(),
            errno: siginfo.errno(),
            code: siginfo.code(),
            ..Seen::default()
        };
        match siginfo.fields() {
            Fields::Kill { pid, uid } => Seen { pid, uid, ..seen },
            // sys_private is not for user space.
            Fields::Timer {
                id, overrun, value, ..
            } => Seen {
                tid: id,
                overrun: overrun.cast_unsigned(),
                ptr: value,
                ..seen
            },
            Fields::Poll { band, fd } => Seen {
                // Halved by signalfd's own struct.
                band: u32::try_from(band & 0xffff_ffff).expect("masked"),
                fd,
                ..seen
            },
            // Of the details it tells only this one.
            Fields::Fault {
                addr,
                detail: FaultDetail::Lsb(lsb),
            } => Seen {
                addr,
                lsb: lsb.cast_unsigned(),
                ..seen
            },
            Fields::Fault { addr, .. } => {
                assert_ne!(siginfo.layout(), Layout::FaultTrapno);
                Seen { addr, ..seen }
            }
            Fields::Child {
                pid,
                uid,
                status,
                utime,
                stime,
            } => Seen {
                pid,
                uid,
                status,
                utime: utime.cast_unsigned(),
                stime: stime.cast_unsigned(),
                ..seen
            },
            Fields::Value { pid, uid, value } => Seen {
                pid,
                uid,
                ptr: value,
                ..seen
            },
            Fields::Sys {
                call_addr,
                syscall,
                arch,
            } => Seen {
                call_addr,
                syscall,
                arch,
                ..seen
            },
        }
    }
}

/// By system call: libc's functions leave out signals 32 and 33.
fn block_all_and_open_signalfd() -> i32 {
    let all = u64::MAX;
    // SAFETY: rt_sigprocmask(2) reads 8 bytes at `all`.
    let blocked = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            0,
            8,
        )
    };
    assert_eq!(blocked, 0);
    // SAFETY: signalfd4(2) reads 8 bytes at `all`.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const all,
            8,
            libc::SFD_NONBLOCK | libc::SFD_CLOEXEC,
        )
    };
    i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .expect("a descriptor")
}

fn queue_to_this_thread(siginfo: &Siginfo) {
    let bytes = ptr::from_ref(siginfo.as_bytes());
    // SAFETY: rt_tgsigqueueinfo(2) reads 128 bytes at `bytes`; the signal is blocked here, so nothing runs.
    let queued = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            libc::getpid(),
            libc::syscall(libc::SYS_gettid),
            siginfo.signo(),
            bytes,
        )
    };
    assert_eq!(queued, 0, "{siginfo}: {}", std::io::Error::last_os_error());
}

fn read_signalfd(fd: i32) -> libc::signalfd_siginfo {
    // SAFETY: it is made of integers, for which 0 is a value.
    let mut info: libc::signalfd_siginfo = unsafe { zeroed() };
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: read(2) writes `size` bytes at most, which is how large `info` is.
    let read = unsafe { libc::read(fd, ptr::from_mut(&mut info).cast(), size) };
    assert_eq!(
        usize::try_from(read).ok(),
        Some(size),
        "{}",
        std::io::Error::last_os_error()
    );
    info
}
