//! The size of signal frames on an alternate stack, on one machine.

use crate::codec::{Codec, proto::signals as pb};
use crate::error::FieldError;

/// What the kernel puts on an alternate stack before the handler runs, in bytes. It grows with the processor's
/// registers, so that a stack that was large enough on one machine may be too small on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StackNeeds {
    /// AT_MINSIGSTKSZ of getauxval(3): enough for every process, also for those that have asked for registers that
    /// others do not have (AMX). Linux since 5.14; 0 where the kernel does not say.
    pub minimum: u64,
    /// The signal frame of a process that has not, at the alignment that costs most.
    pub frame: u64,
}

impl Codec for StackNeeds {
    type Message = pb::StackNeeds;

    fn to_proto(&self) -> pb::StackNeeds {
        pb::StackNeeds {
            minimum: self.minimum,
            frame: self.frame,
            ..pb::StackNeeds::default()
        }
    }

    fn from_proto(message: &pb::StackNeeds) -> Result<StackNeeds, FieldError> {
        Ok(StackNeeds {
            minimum: message.minimum,
            frame: message.frame,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(needs in crate::testing::stack_needs()) {
            prop_assert_eq!(StackNeeds::from_proto(&needs.to_proto()), Ok(needs));
        }
    }
}
