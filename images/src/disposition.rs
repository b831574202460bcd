//! Dispositions: the action of a process for each signal, `sigaction(2)`.

use std::fmt;
use std::ops::{Index, IndexMut};

use crate::code_place::CodePlace;
use crate::codec::{Codec, proto::signals as pb};
use crate::error::FieldError;
use crate::signo::SigNo;
use crate::sigset::SigSet;

const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;
const COUNT: usize = 64;

/// The kernel's `struct sigaction`, flags and restorer as the kernel keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Disposition {
    /// 0 is SIG_DFL, 1 is SIG_IGN, anything else an address in the process.
    pub handler: u64,
    /// `SA_*`, those included that only the kernel and libc use (SA_RESTORER, SA_IA32_ABI).
    pub flags: u64,
    /// Where the handler returns to, if SA_RESTORER is set.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

/// asm-generic/signal-defs.h; SA_RESTORER from asm/signal.h, the ABI bits from x86's kernel header.
const FLAG_NAMES: &[(u64, &str)] = &[
    (0x0000_0001, "SA_NOCLDSTOP"),
    (0x0000_0002, "SA_NOCLDWAIT"),
    (0x0000_0004, "SA_SIGINFO"),
    (0x0000_0400, "SA_UNSUPPORTED"),
    (0x0000_0800, "SA_EXPOSE_TAGBITS"),
    (0x0100_0000, "SA_X32_ABI"),
    (0x0200_0000, "SA_IA32_ABI"),
    (0x0400_0000, "SA_RESTORER"),
    (0x0800_0000, "SA_ONSTACK"),
    (0x1000_0000, "SA_RESTART"),
    (0x4000_0000, "SA_NODEFER"),
    (0x8000_0000, "SA_RESETHAND"),
];

impl Disposition {
    /// SIG_DFL with everything else 0: what a new process has.
    pub const DEFAULT: Disposition = Disposition {
        handler: SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: SigSet::EMPTY,
    };

    /// Size of the kernel's `struct sigaction`, as `rt_sigaction` takes it.
    pub const KERNEL_SIZE: usize = 32;

    /// Is the handler SIG_DFL, whatever the flags?
    pub const fn is_default_handler(&self) -> bool {
        self.handler == SIG_DFL
    }

    /// Is the handler SIG_IGN?
    pub const fn is_ignored(&self) -> bool {
        self.handler == SIG_IGN
    }

    /// The disposition with the names of its addresses, to be printed.
    pub const fn named<'d>(&'d self, names: &'d [CodePlace]) -> NamedDisposition<'d> {
        NamedDisposition {
            disposition: self,
            names,
        }
    }

    /// The addresses that it has in the program's code.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        let handler = (self.handler > SIG_IGN).then_some(self.handler);
        let restorer = (self.restorer != 0).then_some(self.restorer);
        handler.into_iter().chain(restorer)
    }

    /// `struct sigaction { handler, flags, restorer, mask }` of the kernel, 64-bit, little endian.
    ///
    /// x86_64 and aarch64 have the same four fields in the same order (asm-generic/signal.h; both define
    /// SA_RESTORER).
    pub fn to_kernel_bytes(&self) -> [u8; Disposition::KERNEL_SIZE] {
        let mut bytes = [0; Disposition::KERNEL_SIZE];
        let fields = [self.handler, self.flags, self.restorer, self.mask.bits()];
        for (to, from) in bytes.as_chunks_mut().0.iter_mut().zip(fields) {
            *to = from.to_le_bytes();
        }
        bytes
    }

    /// The reverse of [`to_kernel_bytes`](Disposition::to_kernel_bytes).
    pub fn from_kernel_bytes(bytes: &[u8; Disposition::KERNEL_SIZE]) -> Disposition {
        let mut fields = [0; 4];
        for (to, from) in fields.iter_mut().zip(bytes.as_chunks().0) {
            *to = u64::from_le_bytes(*from);
        }
        let [handler, flags, restorer, mask] = fields;
        Disposition {
            handler,
            flags,
            restorer,
            mask: SigSet::from_bits(mask),
        }
    }
}

impl Default for Disposition {
    fn default() -> Disposition {
        Disposition::DEFAULT
    }
}

/// A disposition with the names of its addresses, to be printed.
#[derive(Debug, Clone, Copy)]
pub struct NamedDisposition<'d> {
    disposition: &'d Disposition,
    names: &'d [CodePlace],
}

impl NamedDisposition<'_> {
    fn write_address(self, f: &mut fmt::Formatter<'_>, what: &str, address: u64) -> fmt::Result {
        write!(f, "{what} {address:#x}")?;
        match CodePlace::find(self.names, address) {
            Some(place) => write!(f, " [{place}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Disposition {
    /// `default`, or `handler 0x401000 flags SA_RESTART|SA_RESTORER restorer 0x7f00 mask SIGINT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named(&[]).fmt(f)
    }
}

impl fmt::Display for NamedDisposition<'_> {
    /// `handler 0x401000 [on_int, victim+0x1000] restorer 0x7f00 [libc.so.6+0x3fdf0, build-id 59b1]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = *self;
        let disposition = self.disposition;
        match disposition.handler {
            SIG_DFL => f.write_str("default")?,
            SIG_IGN => f.write_str("ignore")?,
            address => whole.write_address(f, "handler", address)?,
        }
        if disposition.flags != 0 {
            f.write_str(" flags ")?;
            write_flags(f, disposition.flags)?;
        }
        if disposition.restorer != 0 {
            whole.write_address(f, " restorer", disposition.restorer)?;
        }
        if !disposition.mask.is_empty() {
            write!(f, " mask {}", disposition.mask)?;
        }
        Ok(())
    }
}

fn write_flags(f: &mut fmt::Formatter<'_>, flags: u64) -> fmt::Result {
    let mut rest = flags;
    let mut separator = "";
    for &(flag, name) in FLAG_NAMES {
        if rest & flag != 0 {
            write!(f, "{separator}{name}")?;
            separator = "|";
            rest &= !flag;
        }
    }
    if rest != 0 {
        write!(f, "{separator}{rest:#x}")?;
    }
    Ok(())
}

/// The dispositions of all 64 signals: the kernel's `struct sighand_struct`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dispositions(Box<[Disposition; COUNT]>);

impl Dispositions {
    /// Each signal with its disposition, the lowest number first.
    pub fn iter(&self) -> impl Iterator<Item = (SigNo, &Disposition)> {
        SigNo::all().zip(self.0.iter())
    }
}

impl Dispositions {
    /// The addresses that all of them have in the program's code, each once, the lowest first.
    pub fn addresses(&self) -> Vec<u64> {
        let mut addresses: Vec<u64> = self.0.iter().flat_map(Disposition::addresses).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}

impl Default for Dispositions {
    /// [`Disposition::DEFAULT`] for all.
    fn default() -> Dispositions {
        Dispositions(Box::new([Disposition::DEFAULT; COUNT]))
    }
}

impl From<[Disposition; COUNT]> for Dispositions {
    /// The first is signal 1's.
    fn from(dispositions: [Disposition; COUNT]) -> Dispositions {
        Dispositions(Box::new(dispositions))
    }
}

impl Index<SigNo> for Dispositions {
    type Output = Disposition;

    fn index(&self, signo: SigNo) -> &Disposition {
        &self.0[signo.index()]
    }
}

impl IndexMut<SigNo> for Dispositions {
    fn index_mut(&mut self, signo: SigNo) -> &mut Disposition {
        &mut self.0[signo.index()]
    }
}

// Not a `Codec`: a disposition is written together with the number it is for, and all of them as one
// repeated field.
impl Dispositions {
    pub(crate) fn to_proto(&self) -> Vec<pb::Disposition> {
        self.iter()
            .map(|(signo, disposition)| pb::Disposition {
                signo: signo.to_proto(),
                handler: disposition.handler,
                flags: disposition.flags,
                restorer: disposition.restorer,
                mask: disposition.mask.bits(),
                ..pb::Disposition::default()
            })
            .collect()
    }

    pub(crate) fn from_proto(messages: &[pb::Disposition]) -> Result<Dispositions, FieldError> {
        let mut dispositions = Dispositions::default();
        let mut seen = SigSet::EMPTY;
        for (index, message) in messages.iter().enumerate() {
            let signo = SigNo::from_proto(&message.signo)
                .map_err(|error| error.within_item("dispositions", index))?;
            if seen.contains(signo) {
                let reason = format!("{signo} occurs twice");
                return Err(FieldError::new(
                    format!("dispositions[{index}].signo"),
                    reason,
                ));
            }
            seen.insert(signo);
            dispositions[signo] = Disposition {
                handler: message.handler,
                flags: message.flags,
                restorer: message.restorer,
                mask: SigSet::from_bits(message.mask),
            };
        }
        if seen != SigSet::FULL {
            let reason = format!("there is none for {}", seen.complement());
            return Err(FieldError::new("dispositions", reason));
        }
        Ok(dispositions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn flags_are_libc_s() {
        for (name, flag) in [
            ("SA_NOCLDSTOP", libc::SA_NOCLDSTOP),
            ("SA_NOCLDWAIT", libc::SA_NOCLDWAIT),
            ("SA_SIGINFO", libc::SA_SIGINFO),
            ("SA_ONSTACK", libc::SA_ONSTACK),
            ("SA_RESTART", libc::SA_RESTART),
            ("SA_NODEFER", libc::SA_NODEFER),
            ("SA_RESETHAND", libc::SA_RESETHAND),
        ] {
            let mut disposition = Disposition::DEFAULT;
            disposition.flags = u64::from(flag.cast_unsigned());
            assert_eq!(disposition.to_string(), format!("default flags {name}"));
        }
    }

    #[test]
    fn text() {
        let disposition = Disposition {
            handler: 0x40_1000,
            flags: 0x1400_0000 | 1 << 40,
            restorer: 0x7f00,
            mask: SigSet::from(SigNo::INT),
        };
        assert_eq!(
            disposition.to_string(),
            "handler 0x401000 flags SA_RESTORER|SA_RESTART|0x10000000000 restorer 0x7f00 mask SIGINT"
        );
        assert_eq!(Disposition::DEFAULT.to_string(), "default");
        assert!(Disposition::DEFAULT.is_default_handler());
    }

    #[test]
    fn handlers_and_addresses() {
        let with = |handler, restorer| Disposition {
            handler,
            restorer,
            ..Disposition::DEFAULT
        };
        let kind = |disposition: Disposition| {
            let addresses: Vec<u64> = disposition.addresses().collect();
            let (default, ignored) = (disposition.is_default_handler(), disposition.is_ignored());
            (default, ignored, addresses)
        };
        assert_eq!(kind(with(SIG_DFL, 0)), (true, false, vec![]));
        assert_eq!(kind(with(SIG_IGN, 0)), (false, true, vec![]));
        assert_eq!(kind(with(SIG_IGN, 7)), (false, true, vec![7]));
        assert_eq!(kind(with(2, 7)), (false, false, vec![2, 7]));
    }

    #[test]
    fn dispositions_by_their_signals() {
        let with = |handler| Disposition {
            handler,
            restorer: 7,
            ..Disposition::DEFAULT
        };
        let mut array = [Disposition::DEFAULT; COUNT];
        array[SigNo::INT.index()] = with(9);
        let mut dispositions = Dispositions::from(array);
        dispositions[SigNo::TERM] = with(8);
        assert_eq!(dispositions[SigNo::INT], with(9));
        assert_eq!(dispositions[SigNo::TERM], with(8));
        assert_eq!(dispositions[SigNo::HUP], Disposition::DEFAULT);
        assert_eq!(dispositions.addresses(), [7, 8, 9]);
    }

    #[test]
    fn each_signal_exactly_once() {
        let all = Dispositions::default().to_proto();
        assert_eq!(all.len(), 64);

        let missing = Dispositions::from_proto(&all[..63]).expect_err("64 is missing");
        assert!(
            format!("{missing:?}").contains("SIGRTMIN+30"),
            "{missing:?}"
        );

        let mut twice = all.clone();
        twice[5].signo = 5;
        let twice = Dispositions::from_proto(&twice).expect_err("5 occurs twice");
        assert!(
            format!("{twice:?}").contains("dispositions[5].signo"),
            "{twice:?}"
        );

        let mut beyond = all;
        beyond.push(pb::Disposition::new());
        Dispositions::from_proto(&beyond).expect_err("0 is no signal");
    }

    proptest! {
        #[test]
        fn round_trip(dispositions in testing::dispositions()) {
            prop_assert_eq!(Dispositions::from_proto(&dispositions.to_proto()), Ok(dispositions));
        }

        #[test]
        fn kernel_bytes_round_trip(bytes: [u8; Disposition::KERNEL_SIZE]) {
            prop_assert_eq!(Disposition::from_kernel_bytes(&bytes).to_kernel_bytes(), bytes);
        }
    }
}
