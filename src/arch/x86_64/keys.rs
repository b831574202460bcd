//! Protection keys: the position of a thread's rights in the register set NT_X86_XSTATE (PTRACE_GETREGSET).
#![allow(unsafe_code)]

use core::arch::x86_64::{__cpuid_count, __get_cpuid_max};
use std::sync::OnceLock;

/// CPUID leaf 7, ECX: the kernel has turned protection keys on.
const OSPKE: u32 = 1 << 4;
/// The leaf of XSAVE, and the component that holds PKRU.
const CPUID_XSAVE: u32 = 0xd;
const XFEATURE_PKRU: u32 = 9;
/// Of the area of XSAVE: where it says which components are there (XSTATE_BV).
const XSTATE_BV: usize = 512;
/// Bits of PKRU for key 0: no access; no writing.
const KEY_0: u32 = 0b11;

/// Where PKRU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectionKeys {
    offset: usize,
}

impl ProtectionKeys {
    /// What PTRACE_GETREGSET calls the registers that hold them (linux/elf.h), and its name.
    pub const REGISTERS: (usize, &'static str) = (0x202, "PTRACE_GETREGSET(NT_X86_XSTATE)");

    /// How much of the extended state has to be read.
    pub fn room(self) -> usize {
        self.offset + size_of::<u64>()
    }

    /// Do the rights in `state` keep the thread from memory with key 0?
    pub fn denies_default(self, state: &[u8]) -> bool {
        // What is not marked as being there has its initial value (fpu/xstate.c), which is 0: everything is allowed.
        let number = |at: usize| {
            state
                .get(at..)
                .and_then(|rest| rest.first_chunk())
                .map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let is_there = number(XSTATE_BV) >> XFEATURE_PKRU & 1 == 1;
        is_there && number(self.offset) & u64::from(KEY_0) != 0
    }
}

/// `None` where this machine has none.
pub fn protection_keys() -> Option<ProtectionKeys> {
    static KEYS: OnceLock<Option<ProtectionKeys>> = OnceLock::new();
    *KEYS.get_or_init(ask)
}

fn ask() -> Option<ProtectionKeys> {
    // __cpuid_count is unsafe up to Rust 1.93 or so.
    #[allow(unused_unsafe)]
    // SAFETY: every x86_64 processor has CPUID, and the leaves are asked for only where there are so many.
    let offset = unsafe {
        if __get_cpuid_max(0).0 < CPUID_XSAVE || __cpuid_count(7, 0).ecx & OSPKE == 0 {
            return None;
        }
        __cpuid_count(CPUID_XSAVE, XFEATURE_PKRU).ebx
    };
    usize::try_from(offset)
        .ok()
        .filter(|&offset| offset > XSTATE_BV)
        .map(|offset| ProtectionKeys { offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pkru_says_of_key_0() {
        let keys = ProtectionKeys { offset: 2688 };
        let state = |marked: bool, pkru: u32| {
            let mut state = vec![0; keys.room()];
            state[XSTATE_BV + 1] = u8::from(marked) << 1;
            state[2688..2692].copy_from_slice(&pkru.to_le_bytes());
            state
        };
        // As programs begin: key 0 alone is open.
        assert!(!keys.denies_default(&state(true, 0x5555_5554)));
        assert!(keys.denies_default(&state(true, 0x5555_5555)));
        assert!(keys.denies_default(&state(true, 2)));
        assert!(!keys.denies_default(&state(false, 3)));
        assert!(!keys.denies_default(&[]));
    }

    /// Where this machine has them, a thread of this very program has access to its own memory.
    #[test]
    fn they_are_where_the_kernel_says() {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has = flags.split_whitespace().any(|flag| flag == "ospke");
        assert_eq!(protection_keys().is_some(), has);
    }
}
