//! The header of an image: format version, producer and machine.

use std::fmt;

use protobuf::EnumOrUnknown;

use crate::codec::{Codec, limited, proto::signals as pb};
use crate::error::{FieldError, ImageError};

/// The newest format version that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 2;
/// The one of images that need no newer: older programs read them.
pub(crate) const FIRST_VERSION: u32 = 1;

/// Of each text in the header, in bytes.
const TEXT_LIMIT: usize = 256;

/// The architecture an image was taken on. Both are 64-bit, little endian, and share the layout of
/// siginfo and sigaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// x86_64.
    X86_64,
    /// aarch64.
    Aarch64,
}

impl Arch {
    /// The one this program was built for; `None` where that is neither.
    pub const fn current() -> Option<Arch> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Arch::X86_64)
        } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
            Some(Arch::Aarch64)
        } else {
            None
        }
    }
}

impl fmt::Display for Arch {
    /// `x86_64`, `aarch64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        })
    }
}

/// The first entry of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The oldest that can hold the state: [`ProcessState::format_version`](crate::ProcessState::format_version).
    pub format_version: u32,
    /// Where the process ran.
    pub arch: Arch,
    /// `uname -r` of the kernel that it ran on.
    pub kernel_release: String,
    /// Version of the program that wrote the image.
    pub tool_version: String,
    /// Version of the CRIU that it was written under; `None` without one.
    pub criu_version: Option<String>,
}

impl Codec for Arch {
    /// The field of that name.
    type Message = EnumOrUnknown<pb::Arch>;

    fn to_proto(&self) -> EnumOrUnknown<pb::Arch> {
        match self {
            Arch::X86_64 => pb::Arch::ARCH_X86_64,
            Arch::Aarch64 => pb::Arch::ARCH_AARCH64,
        }
        .into()
    }

    fn from_proto(message: &EnumOrUnknown<pb::Arch>) -> Result<Arch, FieldError> {
        match message.enum_value() {
            Ok(pb::Arch::ARCH_X86_64) => Ok(Arch::X86_64),
            Ok(pb::Arch::ARCH_AARCH64) => Ok(Arch::Aarch64),
            Ok(pb::Arch::ARCH_UNSPECIFIED) => Err(FieldError::missing("arch")),
            Err(number) => {
                let reason = format!("{number} is not an architecture that this program knows");
                Err(FieldError::new("arch", reason))
            }
        }
    }
}

/// Comes before all else: nothing more is known of a version that is not ours.
pub(crate) fn check_version(found: u32) -> Result<(), ImageError> {
    match found {
        0 => Err(FieldError::missing("header.format_version").into()),
        1..=FORMAT_VERSION => Ok(()),
        _ => Err(ImageError::NewerVersion {
            found,
            supported: FORMAT_VERSION,
        }),
    }
}

impl Header {
    /// The texts are short enough to be read back.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        limited("kernel_release", &self.kernel_release, TEXT_LIMIT)?;
        limited("tool_version", &self.tool_version, TEXT_LIMIT)?;
        limited(
            "criu_version",
            self.criu_version.as_deref().unwrap_or_default(),
            TEXT_LIMIT,
        )
    }
}

impl Codec for Header {
    type Message = pb::Header;

    fn to_proto(&self) -> pb::Header {
        pb::Header {
            format_version: self.format_version,
            arch: self.arch.to_proto(),
            kernel_release: self.kernel_release.clone(),
            tool_version: self.tool_version.clone(),
            criu_version: self.criu_version.clone(),
            ..pb::Header::default()
        }
    }

    /// For a header whose version has been found to be readable.
    fn from_proto(message: &pb::Header) -> Result<Header, FieldError> {
        let header = Header {
            format_version: message.format_version,
            arch: Arch::from_proto(&message.arch)?,
            kernel_release: message.kernel_release.clone(),
            tool_version: message.tool_version.clone(),
            criu_version: message.criu_version.clone(),
        };
        header.check()?;
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn limits() {
        let valid = pb::Header {
            format_version: 1,
            arch: pb::Arch::ARCH_AARCH64.into(),
            ..pb::Header::default()
        };
        Header::from_proto(&valid).expect("texts may be empty");

        let mut message = valid.clone();
        message.arch = EnumOrUnknown::from_i32(77);
        Header::from_proto(&message).expect_err("no such architecture");

        message = valid.clone();
        message.arch = EnumOrUnknown::default();
        Header::from_proto(&message).expect_err("no architecture");

        message = valid.clone();
        message.criu_version = Some("4".repeat(TEXT_LIMIT + 1));
        Header::from_proto(&message).expect_err("too long");
    }

    #[test]
    fn this_machine() {
        assert_eq!(
            Arch::current().map(|arch| arch.to_string()).as_deref(),
            Some(std::env::consts::ARCH)
        );
    }

    proptest! {
        #[test]
        fn round_trip(header in testing::header()) {
            prop_assert_eq!(Header::from_proto(&header.to_proto()), Ok(header));
        }
    }
}
