//! `pending` and `shared_pending`: the mask of pending signals, and two lines for each entry of the queue.

use std::fmt::Write as _;

use super::dialect::{Dialect, TextError};
use super::line::Line;
use super::mask::{self, Columns};
use crate::pending::Pending;
use crate::siginfo::{FaultDetail, Fields, SIGINFO_SIZE, Siginfo};
use crate::signo::SigNo;
use crate::sigset::SigSet;

/// What `pending` or `shared_pending` is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WrittenQueue {
    /// The bits, and the entries in their order.
    pub pending: Pending,
    /// Which of the entries are said to be the kernel's own of a POSIX timer, by their place.
    pub preallocated: Vec<Preallocated>,
}

/// An entry that only the kernel can queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preallocated {
    /// Its place in the queue, counted from 0.
    pub index: usize,
    /// The line that says it.
    pub line: usize,
}

/// The kernel's `SIGQUEUE_PREALLOC`: the entry was allocated with a POSIX timer.
const PREALLOC: i32 = 1;

/// The text of a queue. `preallocated` says which entries are a POSIX timer's own.
pub fn render(pending: &Pending, preallocated: impl Fn(&Siginfo) -> bool) -> String {
    let mut text = mask::render(pending.bits) + "\n";
    for info in &pending.queue {
        let fields = info.fields();
        let (pid, uid) = sender(&fields).unwrap_or_default();
        let flags = if preallocated(info) { PREALLOC } else { 0 };
        let (signo, errno, code) = (info.signo(), info.errno(), info.code());
        let _ = writeln!(
            text,
            "sig {signo}: uid {uid} pid {pid} flags {flags} errno {errno} code {code}"
        );
        if info.is_canonical() {
            let _ = writeln!(text, "    {}", Layout(&fields));
        } else {
            let _ = writeln!(text, "    raw {}", Hex(info.as_bytes()));
        }
    }
    text
}

fn sender(fields: &Fields) -> Option<(i32, u32)> {
    match *fields {
        Fields::Kill { pid, uid }
        | Fields::Child { pid, uid, .. }
        | Fields::Value { pid, uid, .. } => Some((pid, uid)),
        _ => None,
    }
}

/// The union's member, in the words of the patches where they have some, and in decimal as all their numbers.
struct Layout<'f>(&'f Fields);

impl std::fmt::Display for Layout<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self.0 {
            Fields::Kill { pid, uid } => write!(f, "pid {pid} uid {uid}"),
            Fields::Value { pid, uid, value } => write!(f, "pid {pid} uid {uid} value {value}"),
            Fields::Child {
                pid,
                uid,
                status,
                utime,
                stime,
            } => {
                write!(
                    f,
                    "pid {pid} uid {uid} status {status} utime {utime} stime {stime}"
                )
            }
            Fields::Timer {
                id,
                overrun,
                value,
                sys_private,
            } => {
                write!(
                    f,
                    "timer {id} overrun {overrun} value {value} sys_private {sys_private}"
                )
            }
            Fields::Poll { band, fd } => write!(f, "band {band} fd {fd}"),
            Fields::Sys {
                call_addr,
                syscall,
                arch,
            } => {
                write!(f, "call_addr {call_addr} syscall {syscall} arch {arch}")
            }
            Fields::Fault { addr, detail } => {
                write!(f, "addr {addr}")?;
                match detail {
                    FaultDetail::None => Ok(()),
                    FaultDetail::Trapno(trapno) => write!(f, " trapno {trapno}"),
                    FaultDetail::Lsb(lsb) => write!(f, " lsb {lsb}"),
                    FaultDetail::Bounds { lower, upper } => {
                        write!(f, " lower {lower} upper {upper}")
                    }
                    FaultDetail::Pkey(pkey) => write!(f, " pkey {pkey}"),
                    FaultDetail::Perf { data, kind, flags } => {
                        write!(f, " perf_data {data} perf_type {kind} perf_flags {flags}")
                    }
                }
            }
        }
    }
}

struct Hex<'b>(&'b [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The line "sig", and what the line behind it says.
#[derive(Debug, Clone)]
struct Entry {
    line: usize,
    signo: SigNo,
    pid: i32,
    uid: u32,
    flags: i32,
    errno: i32,
    code: i32,
    body: Body,
}

/// The line behind the line "sig".
#[derive(Debug, Clone)]
enum Body {
    /// There is none. The patches' own writer expects none for most signals: sender and user are what is known.
    None,
    Fields {
        line: usize,
        fields: Fields,
    },
    Raw(Siginfo),
}

/// Takes the lines one by one.
#[derive(Debug, Clone, Default)]
pub(super) struct Parser {
    mask: Option<Columns>,
    entries: Vec<Entry>,
    /// Something is in it that only the patches print.
    patches: bool,
}

impl Parser {
    pub(super) fn feed(&mut self, mut line: Line<'_>) -> Result<(), TextError> {
        if self.mask.is_none() {
            self.mask = Some(mask::parse(&mut line)?);
            return line.end();
        }
        if line.peek() == "sig" {
            let entry = self.header(&mut line)?;
            self.entries.push(entry);
            return Ok(());
        }
        let Some(entry) = self.entries.last_mut() else {
            line.word();
            return Err(line.wrong("expected a line that begins with \"sig\""));
        };
        if !matches!(entry.body, Body::None) {
            line.word();
            return Err(line
                .wrong("expected a line that begins with \"sig\": the one above has its siginfo"));
        }
        let (body, patches) = body(&mut line, entry)?;
        line.end()?;
        entry.body = body;
        self.patches |= patches;
        Ok(())
    }

    fn header(&mut self, line: &mut Line<'_>) -> Result<Entry, TextError> {
        line.keyword("sig")?;
        let signo = line.between("the signal", ":", 1, 64)?;
        let signo = SigNo::new(signo).ok_or_else(|| line.wrong("no signal"))?;
        // The first of the two patches calls it so, and has no pid.
        let user = line.peek() == "user";
        self.patches |= user;
        let uid = line.named(if user { "user" } else { "uid" }, Line::u32)?;
        let pid = if user {
            0
        } else {
            line.named("pid", Line::i32)?
        };
        let entry = Entry {
            line: line.number(),
            signo,
            pid,
            uid,
            flags: line.named("flags", Line::i32)?,
            errno: line.named("errno", Line::i32)?,
            code: line.named("code", Line::i32)?,
            body: Body::None,
        };
        line.end()?;
        Ok(entry)
    }

    pub(super) fn finish(
        &self,
        dialect: Option<Dialect>,
    ) -> Result<Option<WrittenQueue>, TextError> {
        let Some(mask) = self.mask else {
            return Ok(None);
        };
        let dialect = dialect.unwrap_or_else(|| self.dialect(mask));
        let mut written = WrittenQueue::default();
        written.pending.bits = bits(mask, dialect);
        for (index, entry) in self.entries.iter().enumerate() {
            if !may_have(written.pending.bits, entry.signo, dialect) {
                let column = match dialect {
                    Dialect::Ours => entry.signo.get(),
                    Dialect::Patches => entry.signo.get() + 1,
                };
                let reason = format!(
                    "{} has an entry here, but column {column} of the mask says that it is not pending",
                    entry.signo
                );
                return Err(TextError {
                    line: entry.line,
                    column: 1,
                    reason,
                });
            }
            if entry.flags & PREALLOC != 0 {
                let line = entry.line;
                written.preallocated.push(Preallocated { index, line });
            }
            written.pending.bits.insert(entry.signo);
            written.pending.queue.push(entry.siginfo(dialect)?);
        }
        Ok(Some(written))
    }

    /// Whose text it is: the patches' only if it must be.
    fn dialect(&self, mask: Columns) -> Dialect {
        let fits = |dialect| {
            self.entries
                .iter()
                .all(|entry| may_have(bits(mask, dialect), entry.signo, dialect))
        };
        if self.patches || !fits(Dialect::Ours) && fits(Dialect::Patches) {
            Dialect::Patches
        } else {
            Dialect::Ours
        }
    }
}

fn bits(mask: Columns, dialect: Dialect) -> SigSet {
    mask.read_as(dialect)
}

/// May an entry of this signal be there? The patches' masks have no column for signal 64.
fn may_have(bits: SigSet, signo: SigNo, dialect: Dialect) -> bool {
    bits.contains(signo) || dialect == Dialect::Patches && signo == SigNo::MAX
}

impl Entry {
    fn siginfo(&self, dialect: Dialect) -> Result<Siginfo, TextError> {
        let from = |fields| Siginfo::from_fields(self.signo.get(), self.errno, self.code, fields);
        match &self.body {
            Body::None => Ok(from(&Fields::Kill {
                pid: self.pid,
                uid: self.uid,
            })),
            Body::Raw(info) => Ok(*info),
            Body::Fields { line, fields } => {
                let stated = (self.pid, self.uid);
                // The patches' first line has the user that the entry is charged to, and bytes of whatever is there.
                if dialect == Dialect::Ours
                    && stated != (0, 0)
                    && sender(fields).is_some_and(|sender| sender != stated)
                {
                    let reason = format!(
                        "pid and uid differ from pid {} and uid {} in line {}",
                        self.pid, self.uid, self.line
                    );
                    return Err(TextError {
                        line: *line,
                        column: 1,
                        reason,
                    });
                }
                Ok(from(fields))
            }
        }
    }
}

/// What the second line of an entry says. True: only the patches print that.
fn body(line: &mut Line<'_>, entry: &Entry) -> Result<(Body, bool), TextError> {
    let number = line.number();
    let mut patches = false;
    let fields = match line.peek() {
        "raw" => {
            line.keyword("raw")?;
            return Ok((Body::Raw(raw(line, entry)?), false));
        }
        "Unsupported" | "spid" => {
            patches = true;
            of_patches(line, entry)?
        }
        "pid" => of_sender(line)?,
        "timer" => Fields::Timer {
            id: line.named("timer", Line::i32)?,
            overrun: line.named("overrun", Line::i32)?,
            value: line.named("value", Line::u64)?,
            sys_private: line.named("sys_private", Line::i32)?,
        },
        "band" => Fields::Poll {
            band: line.named("band", Line::i64)?,
            fd: line.named("fd", Line::i32)?,
        },
        "call_addr" => Fields::Sys {
            call_addr: line.named("call_addr", Line::u64)?,
            syscall: line.named("syscall", Line::i32)?,
            arch: line.named("arch", Line::u32)?,
        },
        "addr" => Fields::Fault {
            addr: line.named("addr", Line::u64)?,
            detail: detail(line)?,
        },
        _ => {
            line.word();
            return Err(line.wrong(
                "expected \"sig\", or the siginfo of the signal above: pid, addr, band, timer, call_addr or raw",
            ));
        }
    };
    Ok((
        Body::Fields {
            line: number,
            fields,
        },
        patches,
    ))
}

/// The two forms that only the patches print.
fn of_patches(line: &mut Line<'_>, entry: &Entry) -> Result<Fields, TextError> {
    if line.peek() == "spid" {
        let pid = line.named("spid", Line::i32)?;
        // "suid" in what reads it out, "uid" in its description.
        let uid = if line.peek() == "suid" { "suid" } else { "uid" };
        let uid = line.named(uid, Line::u32)?;
        return Ok(Fields::Kill { pid, uid });
    }
    for word in ["Unsupported", "siginfo", "for", "signal"] {
        line.keyword(word)?;
    }
    let of = line.i32("the signal")?;
    if of != entry.signo.get() {
        return Err(line.wrong(format!("the line above is about {}", entry.signo.get())));
    }
    let (pid, uid) = (entry.pid, entry.uid);
    Ok(Fields::Kill { pid, uid })
}

/// The forms that begin with a sender: the next word tells which.
fn of_sender(line: &mut Line<'_>) -> Result<Fields, TextError> {
    let pid = line.named("pid", Line::i32)?;
    let uid = line.named("uid", Line::u32)?;
    Ok(match line.peek() {
        "value" => Fields::Value {
            pid,
            uid,
            value: line.named("value", Line::u64)?,
        },
        "status" => Fields::Child {
            pid,
            uid,
            status: line.named("status", Line::i32)?,
            utime: line.named("utime", Line::i64)?,
            stime: line.named("stime", Line::i64)?,
        },
        _ => Fields::Kill { pid, uid },
    })
}

fn detail(line: &mut Line<'_>) -> Result<FaultDetail, TextError> {
    Ok(match line.peek() {
        "trapno" => FaultDetail::Trapno(line.named("trapno", Line::i32)?),
        "lsb" => {
            line.keyword("lsb")?;
            FaultDetail::Lsb(line.between("lsb", "", i16::MIN.into(), i16::MAX.into())?)
        }
        "lower" => FaultDetail::Bounds {
            lower: line.named("lower", Line::u64)?,
            upper: line.named("upper", Line::u64)?,
        },
        "pkey" => FaultDetail::Pkey(line.named("pkey", Line::u32)?),
        "perf_data" => FaultDetail::Perf {
            data: line.named("perf_data", Line::u64)?,
            kind: line.named("perf_type", Line::u32)?,
            flags: line.named("perf_flags", Line::u32)?,
        },
        _ => FaultDetail::None,
    })
}

/// All bytes, as two hexadecimal digits each.
fn raw(line: &mut Line<'_>, entry: &Entry) -> Result<Siginfo, TextError> {
    let digits = line.word().as_bytes();
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| match pair {
            &[high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect();
    let info = bytes
        .and_then(|bytes| <[u8; SIGINFO_SIZE]>::try_from(bytes).ok())
        .map(Siginfo)
        .ok_or_else(|| {
            let wanted = SIGINFO_SIZE * 2;
            line.wrong(format!(
                "expected the {SIGINFO_SIZE} bytes of a siginfo as {wanted} hexadecimal digits"
            ))
        })?;
    let stated = (entry.signo.get(), entry.errno, entry.code);
    if stated != (info.signo(), info.errno(), info.code()) {
        return Err(line.wrong(format!(
            "these bytes begin with signal {}, errno {} and code {}, but line {} differs",
            info.signo(),
            info.errno(),
            info.code(),
            entry.line
        )));
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{SigFile, Written, parse};
    use super::*;
    use crate::testing;

    fn read(text: &str) -> Result<WrittenQueue, TextError> {
        match parse(SigFile::Pending, text.as_bytes(), None)? {
            Written::Queue(queue) => Ok(queue),
            other => panic!("{other:?}"),
        }
    }

    fn mask_of(signals: &[i32]) -> String {
        mask::render(signals.iter().copied().filter_map(SigNo::new).collect())
    }

    /// As `print_sigset` of the patches prints it; what stands in column 0 is not in the set.
    fn patches_mask_of(signals: &[i32]) -> String {
        (0..64)
            .map(|i| if signals.contains(&i) { '1' } else { '0' })
            .collect()
    }

    fn fields(text: &str) -> Vec<(i32, i32, Fields)> {
        let queue = read(text)
            .unwrap_or_else(|e| panic!("{e}\n{text}"))
            .pending
            .queue;
        queue
            .iter()
            .map(|i| (i.signo(), i.code(), i.fields()))
            .collect()
    }

    /// checkforker.sh sends 10, 29 and 11; SIGCHLD comes from the child. `addr` of a SIGSEGV that kill(1) sent is pid
    /// and uid, which the patches print by the signal's number alone.
    #[test]
    fn what_the_patches_print_for_forker() {
        let text = format!(
            "{}\n\
             sig 17: uid 0 pid 4712 flags 0 errno 0 code 1\n pid 4712 uid 0 status 0 utime 0 stime 1\n\
             sig 10: uid 0 pid 4800 flags 0 errno 0 code 0\n Unsupported siginfo for signal 10\n\
             sig 29: uid 0 pid 4801 flags 0 errno 0 code 0\n band 4801 fd 0\n\
             sig 11: uid 0 pid 4802 flags 0 errno 0 code 0\n addr 4802\n",
            patches_mask_of(&[10, 11, 17, 29])
        );
        let kill = |pid| Fields::Kill { pid, uid: 0 };
        let child = Fields::Child {
            pid: 4712,
            uid: 0,
            status: 0,
            utime: 0,
            stime: 1,
        };
        assert_eq!(
            fields(&text),
            [
                (17, 1, child),
                (10, 0, kill(4800)),
                (29, 0, kill(4801)),
                (11, 0, kill(4802))
            ]
        );
        assert_eq!(
            read(&text).expect("theirs").pending.bits_without_info(),
            SigSet::EMPTY
        );
    }

    /// set_sigpending expects no second line for most signals, and the first patch no pid in the first.
    #[test]
    fn what_the_patches_take() {
        let text = format!(
            "{}\nsig 10: uid 3 pid 5 flags 0 errno 0 code 0\n",
            patches_mask_of(&[10])
        );
        assert_eq!(fields(&text), [(10, 0, Fields::Kill { pid: 5, uid: 3 })]);
        let text = format!(
            "{}\nsig 10: user 3 flags 0 errno 0 code 0\n  spid 8 suid 9\n",
            patches_mask_of(&[10, 9])
        );
        let queue = read(&text).expect("theirs");
        assert_eq!(
            queue.pending.bits,
            [SigNo::KILL, SigNo::USR1].into_iter().collect()
        );
        assert_eq!(
            queue.pending.queue[0].fields(),
            Fields::Kill { pid: 8, uid: 9 }
        );
    }

    /// Both readings fit: 10 and 11 are pending to us, 11 and 12 (without an entry) would be to the patches.
    #[test]
    fn what_may_be_ours_is_ours() {
        let text = format!(
            "{}\nsig 11: uid 0 pid 1 flags 0 errno 0 code 0\n",
            mask_of(&[10, 11])
        );
        let bits = read(&text).expect("ours").pending.bits;
        assert_eq!(bits, [SigNo::USR1, SigNo::SEGV].into_iter().collect());
    }

    /// Both readings fit: 10 and 11 are pending to us, 9 and 10 to the patches.
    #[test]
    fn what_only_the_patches_print_is_theirs() {
        let mask = mask_of(&[10, 11]);
        let bits =
            |lines: &str| read(&format!("{mask}\n{lines}\n")).map(|queue| queue.pending.bits);
        let ours: SigSet = [SigNo::USR1, SigNo::SEGV].into_iter().collect();
        let theirs: SigSet = [SigNo::KILL, SigNo::USR1].into_iter().collect();
        let head = "sig 10: uid 0 pid 1 flags 0 errno 0 code 0";
        assert_eq!(bits(head), Ok(ours));
        assert_eq!(bits(&format!("{head}\n  spid 8 suid 9")), Ok(theirs));
        let user = |signo| format!("sig {signo}: user 0 flags 0 errno 0 code 0");
        assert_eq!(bits(&user(10)), Ok(theirs));
        let error = bits(&user(12)).expect_err("not in the mask");
        assert!(error.reason.contains("column 13 of the mask"), "{error}");
    }

    #[test]
    fn signal_64_has_no_column_in_the_patches_masks() {
        let mask = mask_of(&[]);
        let text = format!("{mask}\nsig 64: uid 0 pid 1 flags 0 errno 0 code 0\n");
        let read = |dialect| parse(SigFile::Pending, text.as_bytes(), Some(dialect));
        read(Dialect::Patches).expect("theirs");
        read(Dialect::Ours).expect_err("64 is not in the mask");
    }

    #[test]
    fn a_system_call_that_was_caught() {
        let mask = mask_of(&[31]);
        let text = format!(
            "{mask}\nsig 31: uid 0 pid 0 flags 0 errno 0 code 1\n    call_addr 1 syscall 2 arch 3\n"
        );
        let call = Fields::Sys {
            call_addr: 1,
            syscall: 2,
            arch: 3,
        };
        assert_eq!(fields(&text), [(31, 1, call)]);
    }

    #[test]
    fn bits_without_an_entry() {
        let queue = read(&mask_of(&[10, 34])).expect("a mask");
        assert_eq!(queue.pending.bits_without_info().len(), 2);
        assert_eq!(read(&mask_of(&[])), Ok(WrittenQueue::default()));
    }

    #[test]
    fn text_of_each_layout() {
        let render_one = |signo, code, fields: &Fields| {
            let info = Siginfo::from_fields(signo, 0, code, fields);
            let pending = Pending {
                bits: SigNo::new(signo).into_iter().collect(),
                queue: vec![info],
            };
            let text = render(&pending, |_| false);
            let again = read(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(again.pending, pending);
            text.lines().nth(2).expect("three lines").to_owned()
        };
        let fault = |detail| Fields::Fault { addr: 4096, detail };
        let perf = FaultDetail::Perf {
            data: 1,
            kind: 2,
            flags: 3,
        };
        for (signo, code, fields, line) in [
            (10, 0, Fields::Kill { pid: 5, uid: 6 }, "    pid 5 uid 6"),
            (
                34,
                -1,
                Fields::Value {
                    pid: 5,
                    uid: 6,
                    value: 7,
                },
                "    pid 5 uid 6 value 7",
            ),
            (
                17,
                1,
                Fields::Child {
                    pid: 5,
                    uid: 6,
                    status: 7,
                    utime: 8,
                    stime: 9,
                },
                "    pid 5 uid 6 status 7 utime 8 stime 9",
            ),
            (11, 1, fault(FaultDetail::None), "    addr 4096"),
            (7, 4, fault(FaultDetail::Lsb(12)), "    addr 4096 lsb 12"),
            (
                11,
                3,
                fault(FaultDetail::Bounds { lower: 1, upper: 2 }),
                "    addr 4096 lower 1 upper 2",
            ),
            (11, 4, fault(FaultDetail::Pkey(3)), "    addr 4096 pkey 3"),
            (
                5,
                6,
                fault(perf),
                "    addr 4096 perf_data 1 perf_type 2 perf_flags 3",
            ),
            (29, 1, Fields::Poll { band: 65, fd: 3 }, "    band 65 fd 3"),
            (
                14,
                -2,
                Fields::Timer {
                    id: 1,
                    overrun: 2,
                    value: 3,
                    sys_private: 0,
                },
                "    timer 1 overrun 2 value 3 sys_private 0",
            ),
            (
                31,
                1,
                Fields::Sys {
                    call_addr: 1,
                    syscall: 2,
                    arch: 3,
                },
                "    call_addr 1 syscall 2 arch 3",
            ),
        ] {
            assert_eq!(render_one(signo, code, &fields), line);
        }
        // Of other architectures, which this one never renders.
        let mask = mask_of(&[4]);
        let head = "sig 4: uid 0 pid 0 flags 0 errno 0 code 5";
        let trapno = Siginfo::from_fields(4, 0, 5, &fault(FaultDetail::Trapno(6)));
        let written = read(&format!("{mask}\n{head}\n    addr 4096 trapno 6\n"));
        assert_eq!(written.expect("a fault").pending.queue, [trapno]);
        let mut odd = testing::queued(34, 7);
        odd.0[127] = 0xab;
        let pending = Pending {
            bits: SigSet::from_bits(1 << 33),
            queue: vec![odd],
        };
        let text = render(&pending, |_| true);
        assert!(
            text.contains("\nsig 34: uid 1000 pid 12 flags 1 errno 0 code -1\n    raw 22000000"),
            "{text}"
        );
        assert!(text.ends_with("ab\n"));
        let written = read(&text).expect("own text");
        assert_eq!(written.preallocated, [Preallocated { index: 0, line: 2 }]);
        assert_eq!(written.pending, pending);
    }

    #[test]
    fn what_is_no_queue() {
        let head = "sig 10: uid 0 pid 5 flags 0 errno 0 code 0";
        let mask = mask_of(&[10]);
        let raw = "0".repeat(256);
        for (text, place, says) in [
            (head.to_owned(), (1, 1), "expected a mask"),
            (
                format!("{mask}\n pid 1 uid 2"),
                (2, 2),
                "begins with \"sig\"",
            ),
            (format!("{mask}\nsig 65: uid 0"), (2, 5), "from 1 to 64"),
            (
                format!("{mask}\nsig 10 uid 0"),
                (2, 5),
                "with \":\" behind it",
            ),
            (
                format!("{mask}\nsig 10: uid 0 pid 5 flags 0 errno 0"),
                (2, 36),
                "the line ends",
            ),
            (
                format!("{mask}\n{head} 7"),
                (2, 44),
                "expected the end of the line",
            ),
            (
                format!("{mask}\n{head}\n    pid 5 uid 0\n    pid 5 uid 0"),
                (4, 5),
                "begins with \"sig\"",
            ),
            (
                format!("{mask}\n{head}\n    pid 6 uid 0"),
                (3, 1),
                "pid and uid differ",
            ),
            (
                format!("{mask}\n{head}\n    raw 00"),
                (3, 9),
                "256 hexadecimal digits",
            ),
            (
                format!("{mask}\n{head}\n    raw {raw}"),
                (3, 9),
                "begin with signal 0",
            ),
            (
                format!("{mask}\n{head}\n    Unsupported siginfo for signal 11"),
                (3, 36),
                "is about 10",
            ),
            (
                format!("{mask}\nsig 12: uid 0 pid 5 flags 0 errno 0 code 0"),
                (2, 1),
                "column 12 of the mask",
            ),
            (format!("{mask}\n{head}\n    band 1"), (3, 11), "\"fd\""),
        ] {
            let error = read(&text).expect_err(&text);
            assert_eq!((error.line, error.column), place, "{text}: {error}");
            assert!(error.reason.contains(says), "{error}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(pending in testing::any_pending(), preallocated: bool) {
            let written = read(&render(&pending, |_| preallocated)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(written.preallocated.len(), if preallocated { pending.queue.len() } else { 0 });
            prop_assert_eq!(written.pending, pending);
        }
    }
}
