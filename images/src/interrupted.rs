//! A system call that a thread was waiting in when it was stopped.

use std::fmt;
use std::time::Duration;

use crate::codec::{Codec, proto::signals as pb};
use crate::error::FieldError;
use crate::kernel_names::CallTable;

/// What the kernel has noted down as the result of an interrupted call (include/linux/errno.h): what becomes of
/// it is decided only when the thread goes on, and programs never see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestartCode {
    /// ERESTARTSYS: EINTR if a handler without SA_RESTART runs, else restarted.
    UnlessHandlerForbids,
    /// ERESTARTNOINTR: restarted.
    Always,
    /// ERESTARTNOHAND: EINTR if a handler runs, else restarted.
    UnlessHandled,
    /// ERESTART_RESTARTBLOCK: likewise, but restarted by restart_syscall(2), which goes by what the kernel has
    /// noted down in the thread's `restart_block`: the time that is left.
    ByBlock,
}

impl RestartCode {
    /// All of them.
    pub const ALL: [RestartCode; 4] = [
        RestartCode::UnlessHandlerForbids,
        RestartCode::Always,
        RestartCode::UnlessHandled,
        RestartCode::ByBlock,
    ];

    /// The kernel's number, without its sign.
    pub const fn number(self) -> u16 {
        match self {
            RestartCode::UnlessHandlerForbids => 512,
            RestartCode::Always => 513,
            RestartCode::UnlessHandled => 514,
            RestartCode::ByBlock => 516,
        }
    }

    /// The code that a result stands for: -512, -513, -514 or -516.
    pub fn from_result(result: i64) -> Option<RestartCode> {
        RestartCode::ALL
            .into_iter()
            .find(|code| -i64::from(code.number()) == result)
    }
}

impl fmt::Display for RestartCode {
    /// The kernel's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RestartCode::UnlessHandlerForbids => "ERESTARTSYS",
            RestartCode::Always => "ERESTARTNOINTR",
            RestartCode::UnlessHandled => "ERESTARTNOHAND",
            RestartCode::ByBlock => "ERESTART_RESTARTBLOCK",
        })
    }
}

/// A system call that has neither ended nor failed. One that has ended, with EINTR too, is not one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InterruptedCall {
    /// Its number, in the table of the thread's mode. At most `i32::MAX`.
    pub number: u32,
    /// What is to become of it.
    pub code: RestartCode,
    /// Address of the instruction behind it.
    pub ip: u64,
    /// How much longer it would have waited, in nanoseconds, where its arguments do not tell and something else
    /// did.
    pub remaining: Option<u64>,
    /// It has a relative timeout of which part may have passed, how much is not known, and it begins anew with the
    /// whole of it.
    pub whole_timeout: bool,
    /// How long that is, in nanoseconds, where it is known. Only with `whole_timeout`.
    pub timeout: Option<u64>,
}

/// A call with its name, to be printed.
#[derive(Debug, Clone, Copy)]
pub struct NamedCall<'c> {
    call: &'c InterruptedCall,
    table: CallTable,
}

impl fmt::Display for NamedCall<'_> {
    /// `nanosleep (ERESTART_RESTARTBLOCK), 1.500 s left`; `epoll_wait (ERESTARTNOHAND), whole timeout of 250ms`, or
    /// `whole timeout` where that is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NamedCall { call, table } = self;
        write!(f, "{} ({})", table.call(call.number), call.code)?;
        if call.whole_timeout {
            f.write_str(", whole timeout")?;
            if let Some(ns) = call.timeout {
                write!(f, " of {:?}", Duration::from_nanos(ns))?;
            }
        }
        match call.remaining {
            Some(ns) => write!(
                f,
                ", {}.{:03} s left",
                ns / 1_000_000_000,
                ns / 1_000_000 % 1000
            ),
            None => Ok(()),
        }
    }
}

impl InterruptedCall {
    /// The call with its name in this table, to be printed.
    pub const fn named(&self, table: CallTable) -> NamedCall<'_> {
        NamedCall { call: self, table }
    }

    pub(crate) fn check(&self) -> Result<(), FieldError> {
        if i32::try_from(self.number).is_err() {
            let reason = format!("{} is no number of a system call", self.number);
            return Err(FieldError::new("number", reason));
        }
        if self.timeout.is_some() && !self.whole_timeout {
            let reason = "the call does not begin anew with its whole timeout".to_owned();
            return Err(FieldError::new("whole_timeout_ns", reason));
        }
        Ok(())
    }
}

impl Codec for InterruptedCall {
    type Message = pb::InterruptedCall;

    fn to_proto(&self) -> pb::InterruptedCall {
        pb::InterruptedCall {
            number: self.number,
            code: u32::from(self.code.number()),
            ip: self.ip,
            remaining_ns: self.remaining,
            whole_timeout: self.whole_timeout,
            whole_timeout_ns: self.timeout,
            ..pb::InterruptedCall::default()
        }
    }

    fn from_proto(message: &pb::InterruptedCall) -> Result<InterruptedCall, FieldError> {
        let code = RestartCode::from_result(-i64::from(message.code)).ok_or_else(|| {
            let reason = format!("{} is not 512, 513, 514 or 516", message.code);
            FieldError::new("code", reason)
        })?;
        let call = InterruptedCall {
            number: message.number,
            code,
            ip: message.ip,
            remaining: message.remaining_ns,
            whole_timeout: message.whole_timeout,
            timeout: message.whole_timeout_ns,
        };
        call.check()?;
        Ok(call)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text() {
        let table = CallTable {
            arch: Some(crate::header::Arch::X86_64),
            compat: false,
        };
        let call = InterruptedCall {
            number: 35,
            code: RestartCode::ByBlock,
            ip: 0x40_1002,
            remaining: Some(1_500_000_000),
            whole_timeout: false,
            timeout: None,
        };
        assert_eq!(
            call.named(table).to_string(),
            "nanosleep (ERESTART_RESTARTBLOCK), 1.500 s left"
        );
        let call = InterruptedCall {
            remaining: None,
            whole_timeout: true,
            ..call
        };
        assert_eq!(
            call.named(table).to_string(),
            "nanosleep (ERESTART_RESTARTBLOCK), whole timeout"
        );
        let call = InterruptedCall {
            timeout: Some(1_250_000_000),
            ..call
        };
        assert_eq!(
            call.named(table).to_string(),
            "nanosleep (ERESTART_RESTARTBLOCK), whole timeout of 1.25s"
        );
    }

    #[test]
    fn limits() {
        let valid = pb::InterruptedCall {
            number: 7,
            code: 516,
            ..pb::InterruptedCall::default()
        };
        InterruptedCall::from_proto(&valid).expect("valid");
        for code in [0, 4, 511, 515, 517, u32::MAX] {
            let message = pb::InterruptedCall {
                code,
                ..valid.clone()
            };
            InterruptedCall::from_proto(&message).expect_err("no such code");
        }
        let message = pb::InterruptedCall {
            whole_timeout_ns: Some(1),
            ..valid.clone()
        };
        InterruptedCall::from_proto(&message).expect_err("of a timeout that it has not");
        let message = pb::InterruptedCall {
            number: 1 << 31,
            ..valid
        };
        InterruptedCall::from_proto(&message).expect_err("not in a system call");
    }

    proptest! {
        #[test]
        fn round_trip(call in crate::testing::interrupted_call()) {
            prop_assert_eq!(InterruptedCall::from_proto(&call.to_proto()), Ok(call));
        }
    }
}
