//! Protection keys: the permission overlay of a thread (POR_EL0, FEAT_S1POE, Linux 6.12).
#![allow(unsafe_code)]

/// HWCAP2_POE of asm/hwcap.h.
const HWCAP2_POE: u64 = 1 << 63;
/// POE_RWX of asm/pgtable-hwdef.h: what key 0 allows by default.
const EVERYTHING: u8 = 0b111;

/// A register of 64 bits, of which the lowest four say what key 0 allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectionKeys(());

impl ProtectionKeys {
    /// What PTRACE_GETREGSET calls the register that holds them (linux/elf.h), and its name.
    pub const REGISTERS: (usize, &'static str) = (0x40f, "PTRACE_GETREGSET(NT_ARM_POE)");

    /// How much of the registers has to be read.
    pub fn room(self) -> usize {
        size_of::<u64>()
    }

    /// Do the rights in `state` keep the thread from memory with key 0?
    pub fn denies_default(self, state: &[u8]) -> bool {
        state
            .first()
            .is_some_and(|rights| rights & EVERYTHING != EVERYTHING)
    }
}

/// `None` where this machine has none.
pub fn protection_keys() -> Option<ProtectionKeys> {
    // SAFETY: getauxval reads a table that the kernel has made before this program ran.
    let has = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    (has & HWCAP2_POE != 0).then_some(ProtectionKeys(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_overlay_says_of_key_0() {
        let keys = ProtectionKeys(());
        assert!(!keys.denies_default(&7u64.to_le_bytes()));
        assert!(keys.denies_default(&3u64.to_le_bytes()), "no writing");
        assert!(!keys.denies_default(&[]));
    }
}
