//! A resource limit, `getrlimit(2)`.

use std::fmt;

use crate::codec::{Codec, proto::signals as pb};
use crate::error::FieldError;

/// A resource limit, `getrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rlimit {
    /// The one that counts. RLIM_INFINITY is `u64::MAX`.
    pub soft: u64,
    /// How far the process may raise the soft one.
    pub hard: u64,
}

impl Rlimit {
    /// No limit: RLIM_INFINITY.
    pub const INFINITY: u64 = u64::MAX;
}

impl fmt::Display for Rlimit {
    /// `soft 4096 hard unlimited`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, limit) in [("soft", self.soft), (" hard", self.hard)] {
            match limit {
                Rlimit::INFINITY => write!(f, "{name} unlimited")?,
                limit => write!(f, "{name} {limit}")?,
            }
        }
        Ok(())
    }
}

impl Codec for Rlimit {
    type Message = pb::Rlimit;

    fn to_proto(&self) -> pb::Rlimit {
        pb::Rlimit {
            soft: self.soft,
            hard: self.hard,
            ..pb::Rlimit::default()
        }
    }

    fn from_proto(message: &pb::Rlimit) -> Result<Rlimit, FieldError> {
        Ok(Rlimit {
            soft: message.soft,
            hard: message.hard,
        })
    }
}
