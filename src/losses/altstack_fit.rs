//! Whether the signal frames of this machine fit on the alternate stacks of processes from another machine.
//!
//! A frame holds the processor's registers, so it grows from one processor to the next. No call reports a stack that is
//! too small in time: CRIU restores the stack by rt_sigreturn, which ignores errors (restore_altstack,
//! kernel/signal.c), and the kernel accepts a stack on which no frame fits and kills the process at the first signal.

use std::fmt;

use criu_signals_images::{AltStack, ProcessState, StackNeeds};

use crate::arch::{self, LARGEST_STATE, MINSIGSTKSZ};

/// What is wrong with an alternate stack on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// sigaltstack(2) does not take it, and a restore loses it without a word.
    Refused,
    /// The kernel takes it, and the first signal on it is a SIGSEGV: a frame has this many bytes.
    Overflow(u64),
    /// A frame fits, of this many bytes. It would not, if the process used all registers that there are ([`LARGEST_STATE`]).
    Tight(u64),
}

/// A thread whose alternate stack is smaller than this machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallStack {
    /// The thread's id in its own pid namespace.
    pub tid: i32,
    /// The stack.
    pub stack: AltStack,
    /// What is wrong with it.
    pub trouble: Trouble,
    /// AT_MINSIGSTKSZ here.
    pub minimum: u64,
    /// What the machine of the dump asked for, where that is known.
    pub there: Option<StackNeeds>,
}

impl SmallStack {
    /// Does the process lose something, at the latest with the first signal on this stack?
    pub fn is_fatal(&self) -> bool {
        !matches!(self.trouble, Trouble::Tight(_))
    }
}

impl fmt::Display for SmallStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "thread {}: alternate stack of {} bytes",
            self.tid, self.stack.size
        )?;
        match self.trouble {
            Trouble::Refused => write!(
                f,
                " is too small for this machine: the kernel refuses stacks below {MINSIGSTKSZ} bytes, and handlers \
                 would run on the main stack"
            )?,
            Trouble::Overflow(frame) => write!(
                f,
                " is too small for this machine: a signal frame has {frame} bytes here, and the first signal on that \
                 stack would cause SIGSEGV"
            )?,
            Trouble::Tight(frame) => write!(
                f,
                " is below AT_MINSIGSTKSZ, {}, but a frame without {LARGEST_STATE} state has {frame} bytes and fits",
                self.minimum
            )?,
        }
        match self.there {
            Some(there) if self.is_fatal() && there.frame >= self.stack.size => write!(
                f,
                " (the stack was too small at the dump as well, where a frame has {} bytes)",
                there.frame
            ),
            Some(there) if self.is_fatal() => {
                write!(
                    f,
                    " (at the dump a frame had {} bytes and fitted)",
                    there.frame
                )
            }
            _ => Ok(()),
        }
    }
}

/// The threads of `process` whose alternate stacks are smaller than this machine asks for.
pub fn too_small(process: &ProcessState) -> Vec<SmallStack> {
    let minimum = arch::min_sigstack();
    process
        .threads
        .iter()
        .filter_map(|thread| {
            let stack = thread.altstack;
            let frame = |top| arch::signal_frame(top, process.compat);
            let trouble = trouble(&stack, minimum, frame)?;
            Some(SmallStack {
                tid: thread.ids.innermost(),
                stack,
                trouble,
                minimum,
                there: process.stack_needs,
            })
        })
        .collect()
}

fn trouble(stack: &AltStack, minimum: u64, frame: impl Fn(u64) -> u64) -> Option<Trouble> {
    if stack.is_disabled() {
        return None;
    }
    let frame = frame(stack.sp.wrapping_add(stack.size));
    // __on_sig_stack: the frame's first byte is above the stack's lowest address.
    match stack.size {
        size if size < MINSIGSTKSZ => Some(Trouble::Refused),
        size if size <= frame => Some(Trouble::Overflow(frame)),
        size if size < minimum => Some(Trouble::Tight(frame)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Larger than the least stack, and smaller than [`judge`]'s minimum: sigaltstack(2) takes stacks that are too small.
    const FRAME: u64 = MINSIGSTKSZ + 1288;

    fn judge(size: u64) -> Option<Trouble> {
        let stack = AltStack {
            sp: 0x1000,
            flags: 0,
            size,
        };
        trouble(&stack, 11952, |_| FRAME)
    }

    #[test]
    fn sizes() {
        assert_eq!(judge(1024), Some(Trouble::Refused));
        assert_eq!(judge(MINSIGSTKSZ), Some(Trouble::Overflow(FRAME)));
        assert_eq!(judge(FRAME), Some(Trouble::Overflow(FRAME)));
        assert_eq!(judge(FRAME + 1), Some(Trouble::Tight(FRAME)));
        assert_eq!(judge(8192), Some(Trouble::Tight(FRAME)));
        assert_eq!(judge(11952), None);
        assert_eq!(trouble(&AltStack::DISABLED, 11952, |_| FRAME), None);
    }

    #[test]
    fn says_where_it_was_enough() {
        let mut small = SmallStack {
            tid: 7,
            stack: AltStack {
                sp: 0x1000,
                flags: 0,
                size: 3000,
            },
            trouble: Trouble::Overflow(3336),
            minimum: 11952,
            there: Some(StackNeeds {
                minimum: 2048,
                frame: 1100,
            }),
        };
        assert_eq!(
            small.to_string(),
            "thread 7: alternate stack of 3000 bytes is too small for this machine: a signal frame has 3336 \
             bytes here, and the first signal on that stack would cause SIGSEGV (at the dump a frame had 1100 bytes and fitted)"
        );
        small.there = Some(arch::stack_needs());
        small.stack.size = 2048;
        assert!(small.to_string().contains("too small at the dump"));
    }
}
