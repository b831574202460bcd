//! The reader's end of a BPF ring buffer (Documentation/bpf/ringbuf.rst).
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::kernel;

// include/uapi/linux/bpf.h: in the first word of a record, beside its length.
const BPF_RINGBUF_BUSY_BIT: u32 = 1 << 31;
const BPF_RINGBUF_DISCARD_BIT: u32 = 1 << 30;
const HEADER: usize = 8;

/// A ring buffer that programs write to, and this process reads.
pub(super) struct Ring {
    fd: OwnedFd,
    size: usize,
    page: usize,
    /// A page with the reader's position, which this process writes.
    consumer: NonNull<u8>,
    /// A page with the writers' position, and behind it the data, twice, so that every record is in one piece.
    producer: NonNull<u8>,
}

impl Ring {
    /// `size` must be a power of two and a multiple of the page size.
    pub(super) fn create(size: usize) -> Result<Ring, Errno> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
        let page = page.and_then(|size| usize::try_from(size).ok());
        let page = page.ok_or(Errno::EINVAL)?;
        let fd = kernel::create_ring(size)?;
        let map = |at: usize, length: usize, how: ProtFlags| {
            let length = NonZeroUsize::new(length).ok_or(Errno::EINVAL)?;
            let offset = i64::try_from(at).map_err(|_| Errno::EINVAL)?;
            // SAFETY: a new mapping at an address that the kernel chooses.
            unsafe { mmap(None, length, how, MapFlags::MAP_SHARED, &fd, offset) }
        };
        let consumer = map(0, page, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?.cast::<u8>();
        let producer = match map(page, page + 2 * size, ProtFlags::PROT_READ) {
            Ok(mapped) => mapped.cast::<u8>(),
            Err(errno) => {
                // SAFETY: mapped above, with this length, and nobody knows of it.
                let _ = unsafe { munmap(consumer.cast(), page) };
                return Err(errno);
            }
        };
        Ok(Ring {
            fd,
            size,
            page,
            consumer,
            producer,
        })
    }

    /// For [`Program::map`](super::assemble::Program::map).
    pub(super) fn descriptor(&self) -> i32 {
        use std::os::fd::AsRawFd as _;
        self.fd.as_raw_fd()
    }

    /// Hands all records that are there to `each`, in order.
    pub(super) fn drain(&self, mut each: impl FnMut(&[u8])) {
        // SAFETY: both pages are mapped for as long as `self` lives, begin with a word of eight bytes, and are aligned. The kernel
        // writes them atomically, as this process does.
        let [consumer, producer] = [self.consumer, self.producer]
            .map(|page| unsafe { AtomicU64::from_ptr(page.as_ptr().cast()) });
        let mut at = consumer.load(Ordering::Relaxed);
        while at < producer.load(Ordering::Acquire) {
            let place = usize::try_from(at).unwrap_or(0) & (self.size - 1);
            // SAFETY: `place` is in the first of the two copies of the data, and a multiple of eight, as lengths of records are
            // rounded up to that.
            let head = unsafe { self.producer.as_ptr().add(self.page + place) };
            // SAFETY: a word of the mapped data, aligned, which the kernel writes atomically.
            let length = unsafe { AtomicU32::from_ptr(head.cast()) }.load(Ordering::Acquire);
            if length & BPF_RINGBUF_BUSY_BIT != 0 {
                break;
            }
            let bytes = (length & !BPF_RINGBUF_DISCARD_BIT) as usize;
            if length & BPF_RINGBUF_DISCARD_BIT == 0 && bytes <= self.size {
                // SAFETY: a record is at most as long as the data, which are mapped twice in a row. Its writer is done with it, and
                // the kernel does not use its place before the position of the reader is moved below.
                each(unsafe { std::slice::from_raw_parts(head.add(HEADER), bytes) });
            }
            at += (bytes + HEADER).next_multiple_of(8) as u64;
            consumer.store(at, Ordering::Release);
        }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped in `create` with these lengths; no slice of the data outlives `drain`.
        unsafe {
            let _ = munmap(self.consumer.cast(), self.page);
            let _ = munmap(self.producer.cast(), self.page + 2 * self.size);
        }
    }
}
