//! A mapping for programs without unsafe code.

use crate::mmap::{Inner, MmapOptions};
use crate::report::MapReport;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use udax_linux::Sharing;

/// A mapping for loads and stores, which reach the file, by copies of bytes. Unlike [`MmapMut`](crate::MmapMut) it needs no promise:
/// others may load and store the same bytes at any time. What the file does not have any more is `SIGBUS`.
#[derive(Debug)]
pub struct SharedMap {
    pub(crate) inner: Inner,
}

impl MmapOptions {
    /// Maps for loads and stores by copies; needs no promise.
    ///
    /// # Errors
    /// As [`map_mut`](Self::map_mut).
    pub fn map_shared(&self, file: impl AsFd) -> io::Result<SharedMap> {
        let (read, write) = (1, 2);
        let inner = self.make(file.as_fd().as_raw_fd(), Sharing::Shared, read | write)?;
        Ok(SharedMap { inner })
    }
}

impl SharedMap {
    /// The addresses of its bytes, to find them in `/proc/self/smaps`.
    #[must_use]
    pub fn addresses(&self) -> Range<usize> {
        let start = self.inner.mapped.as_ref().map_or(0, udax_linux::Mapped::address);
        start + self.inner.skipped..start + self.inner.skipped + self.inner.length
    }

    #[inline]
    fn check(&self, at: usize, length: usize) {
        let end = at.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.inner.length), "out of the mapping's bounds");
    }

    /// Copies bytes out of the mapping. May fault; blocks while a fault is served.
    ///
    /// # Panics
    /// If the bytes are not all in the mapping.
    #[inline]
    pub fn load(&self, at: usize, into: &mut [u8]) {
        self.check(at, into.len());
        if let Some(mapped) = &self.inner.mapped {
            mapped.load(self.inner.skipped + at, into);
        }
    }

    /// Copies bytes into the mapping. May fault; blocks while a fault is served.
    ///
    /// # Panics
    /// If the bytes are not all in the mapping.
    #[inline]
    pub fn store(&self, at: usize, from: &[u8]) {
        self.check(at, from.len());
        if let Some(mapped) = &self.inner.mapped {
            mapped.store(self.inner.skipped + at, from);
        }
    }

    /// Makes all stores so far durable. Blocks.
    ///
    /// # Errors
    /// As [`MmapMut::flush`](crate::MmapMut::flush).
    pub fn flush(&self) -> io::Result<()> {
        self.inner.flush(0, self.inner.length, crate::mmap::MS_SYNC)
    }

    /// How it is mapped, 2 MiB by 2 MiB, and why not larger. A snapshot.
    #[must_use]
    pub fn report(&self) -> MapReport {
        self.inner.report()
    }
}
