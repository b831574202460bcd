//! A file of the kernel's, mapped to be read.
#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The bytes of a file that nobody changes or shortens, for as long as this lives.
#[derive(Debug)]
pub(super) struct Mapped {
    at: NonNull<u8>,
    len: NonZeroUsize,
}

impl Mapped {
    /// Of a file in sysfs: what is there is the kernel's own, and stays as it is.
    pub(super) fn of_kernel(file: &File) -> Result<Mapped, Errno> {
        let len = file.metadata().map_err(|e| {
            let errno = e.raw_os_error();
            errno.map_or(Errno::EIO, Errno::from_raw)
        })?;
        let len = usize::try_from(len.len()).map_err(|_| Errno::EFBIG)?;
        let len = NonZeroUsize::new(len).ok_or(Errno::ENODATA)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ,
                MapFlags::MAP_PRIVATE,
                file,
                0,
            )
        }?;
        Ok(Mapped { at: at.cast(), len })
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped with this length until `drop`, and never written: the memory is the kernel's, which shows its types in it
        // for as long as it runs.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len.get()) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped in `of_kernel` with this length; slices of it do not outlive `self`.
        let _ = unsafe { munmap(self.at.cast(), self.len.get()) };
    }
}
