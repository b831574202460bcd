//! A thread's alternate signal stack, `sigaltstack(2)`.

use std::fmt;

use crate::codec::{Codec, proto::signals as pb};
use crate::error::FieldError;

/// What `sigaltstack(NULL, &old)` reports, the kernel's `stack_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AltStack {
    /// Lowest address.
    pub sp: u64,
    /// `SS_ONSTACK` 1, `SS_DISABLE` 2, `SS_AUTODISARM` 1 << 31.
    pub flags: u32,
    /// Length in bytes.
    pub size: u64,
}

/// The thread runs on it at present. Reported only, never set.
pub const SS_ONSTACK: u32 = 1;
/// There is none.
pub const SS_DISABLE: u32 = 2;
/// It is disabled while a handler runs on it.
pub const SS_AUTODISARM: u32 = 1 << 31;

impl AltStack {
    /// No alternate stack: what a new process has.
    pub const DISABLED: AltStack = AltStack {
        sp: 0,
        flags: SS_DISABLE,
        size: 0,
    };

    /// Is there none?
    pub const fn is_disabled(&self) -> bool {
        self.flags & SS_DISABLE != 0
    }

    /// Was the thread running on it?
    pub const fn on_stack(&self) -> bool {
        self.flags & SS_ONSTACK != 0
    }

    /// Is it disabled while a handler runs on it?
    pub const fn autodisarm(&self) -> bool {
        self.flags & SS_AUTODISARM != 0
    }
}

impl Default for AltStack {
    fn default() -> AltStack {
        AltStack::DISABLED
    }
}

impl fmt::Display for AltStack {
    /// `disabled`, or `0x7f0000 size 8192 SS_AUTODISARM`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == AltStack::DISABLED {
            return f.write_str("disabled");
        }
        write!(f, "{:#x} size {}", self.sp, self.size)?;
        let mut rest = self.flags;
        for (flag, name) in [
            (SS_ONSTACK, "SS_ONSTACK"),
            (SS_DISABLE, "SS_DISABLE"),
            (SS_AUTODISARM, "SS_AUTODISARM"),
        ] {
            if self.flags & flag != 0 {
                write!(f, " {name}")?;
                rest &= !flag;
            }
        }
        if rest != 0 {
            write!(f, " flags {rest:#x}")?;
        }
        Ok(())
    }
}

impl Codec for AltStack {
    type Message = pb::AltStack;

    fn to_proto(&self) -> pb::AltStack {
        pb::AltStack {
            sp: self.sp,
            flags: self.flags,
            size: self.size,
            ..pb::AltStack::default()
        }
    }

    fn from_proto(message: &pb::AltStack) -> Result<AltStack, FieldError> {
        Ok(AltStack {
            sp: message.sp,
            flags: message.flags,
            size: message.size,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn flags_are_libc_s() {
        assert_eq!(SS_ONSTACK, libc::SS_ONSTACK.cast_unsigned());
        assert_eq!(SS_DISABLE, libc::SS_DISABLE.cast_unsigned());
    }

    #[test]
    fn text() {
        assert_eq!(AltStack::DISABLED.to_string(), "disabled");
        let stack = AltStack {
            sp: 0x7f00_0000,
            flags: SS_ONSTACK | SS_AUTODISARM | 8,
            size: 8192,
        };
        assert_eq!(
            stack.to_string(),
            "0x7f000000 size 8192 SS_ONSTACK SS_AUTODISARM flags 0x8"
        );
        assert!(stack.on_stack() && stack.autodisarm() && !stack.is_disabled());
    }

    proptest! {
        #[test]
        fn round_trip(stack in crate::testing::altstack()) {
            prop_assert_eq!(AltStack::from_proto(&stack.to_proto()), Ok(stack));
        }
    }
}
