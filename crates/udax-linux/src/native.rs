//! Memory calls for crates that have no unsafe code: the program's own calls passed on, and mappings of the library's own.

use crate::area::{Prot, Sharing, VmaArea, bytes};
use crate::sys::errno::Errno;
use crate::sys::mem;
use linux_raw_sys::general as k;
use std::os::fd::RawFd;
use udax_core::{PageIndex, PageRange};

/// The right to pass the program's own memory calls on to the kernel, by raw system calls.
#[derive(Clone, Copy, Debug)]
pub struct NativeCalls(());

impl NativeCalls {
    /// Takes the right.
    ///
    /// # Safety
    /// 1. Every call is made with arguments that the program itself passed for that purpose, or on memory that the caller owns.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// `mmap`.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn mmap(
        self,
        address: usize,
        length_bytes: usize,
        prot: i32,
        flags: i32,
        fd: RawFd,
        offset: u64,
    ) -> Result<usize, Errno> {
        let (prot, flags) = (prot as u32, flags as u32);
        // SAFETY: 1: the arguments are the program's, by the promise made for this value.
        unsafe { mem::mmap(address, length_bytes, prot, flags, fd, offset) }
    }

    /// `munmap`.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn munmap(self, address: usize, length_bytes: usize) -> Result<(), Errno> {
        // SAFETY: 1: the arguments are the program's, by the promise made for this value.
        unsafe { mem::munmap(address, length_bytes) }
    }

    /// `mprotect`.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn mprotect(self, address: usize, length_bytes: usize, prot: i32) -> Result<(), Errno> {
        // SAFETY: 1: the arguments are the program's, by the promise made for this value.
        unsafe { mem::mprotect(address, length_bytes, prot as u32) }
    }

    /// `mremap`. Of served memory only after [`crate::LinuxSpace::plain_all`]: it would wait for its event to be read.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn mremap(
        self,
        old: usize,
        old_bytes: usize,
        new_bytes: usize,
        flags: i32,
        new: usize,
    ) -> Result<usize, Errno> {
        // SAFETY: 1: the arguments are the program's, by the promise made for this value.
        unsafe { mem::mremap(old, old_bytes, new_bytes, flags as u32, new) }
    }

    /// `madvise`.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn madvise(self, address: usize, length_bytes: usize, advice: i32) -> Result<(), Errno> {
        // SAFETY: 1: the arguments are the program's, by the promise made for this value.
        unsafe { mem::madvise(address, length_bytes, advice as u32) }
    }

    /// `msync`.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn msync(self, address: usize, length_bytes: usize, flags: i32) -> Result<(), Errno> {
        mem::msync(address, length_bytes, flags as u32)
    }

    /// The pages of a file that the program has mapped at `address`.
    ///
    /// # Panics
    /// If the address is no multiple of 4096.
    #[must_use]
    pub const fn area(
        self,
        address: usize,
        pages: PageRange,
        sharing: Sharing,
        prot: Prot,
    ) -> VmaArea {
        assert!(address.is_multiple_of(mem::PAGE), "a mapping begins at a page");
        VmaArea { address, pages, sharing, prot }
    }
}

/// Bytes that are copied at once where they are aligned.
const WORD: usize = 8;

/// A mapping of a file that the library makes for itself, where the kernel chooses. Dropping unmaps it.
#[derive(Debug)]
pub struct Mapped {
    area: VmaArea,
    length_bytes: usize,
}

impl Mapped {
    /// Maps `length_bytes` from byte `offset` on, at an address with the offset's place in its 2 MiB.
    ///
    /// # Errors
    /// The kernel's own; [`Errno::INVAL`] for a length of 0 or an offset that is no multiple of 4096.
    pub fn new(
        fd: RawFd,
        offset: u64,
        length_bytes: usize,
        sharing: Sharing,
        prot: Prot,
        extra_flags: i32,
    ) -> Result<Self, Errno> {
        let pages = PageRange::of_bytes(offset, length_bytes as u64);
        if length_bytes == 0 || PageIndex::of_byte(offset).byte() != offset {
            return Err(Errno::INVAL);
        }
        let flags = extra_flags as u32
            | k::MAP_FIXED
            | match sharing {
                Sharing::Shared => k::MAP_SHARED,
                Sharing::Private => k::MAP_PRIVATE,
            };
        let target = crate::sys::to_usize(offset);
        let place = crate::window::Scratch::new(target, bytes(pages))?;
        // SAFETY: 1: the place was reserved for this.
        unsafe { mem::mmap(place.address, length_bytes, prot.raw(), flags, fd, offset) }?;
        let area = VmaArea { address: place.address, pages, sharing, prot };
        std::mem::forget(place);
        Ok(Self { area, length_bytes })
    }

    /// Memory without a file, to compare a mapping with: what the kernel itself can do. It begins on 2 MiB.
    ///
    /// # Errors
    /// The kernel's own; [`Errno::INVAL`] for a length of 0.
    pub fn anonymous(length_bytes: usize, huge_pages: bool) -> Result<Self, Errno> {
        let pages = PageRange::of_bytes(0, length_bytes as u64);
        if length_bytes == 0 {
            return Err(Errno::INVAL);
        }
        let prot = Prot::from_bits(3);
        let place = crate::window::Scratch::new(0, bytes(pages))?;
        place.allow(prot.raw())?;
        let area = VmaArea { address: place.address, pages, sharing: Sharing::Private, prot };
        std::mem::forget(place);
        let made = Self { area, length_bytes };
        let advice = if huge_pages { k::MADV_HUGEPAGE } else { k::MADV_NOHUGEPAGE };
        // A kernel without huge pages refuses both.
        let _ = made.madvise(0, bytes(pages), advice as i32);
        Ok(made)
    }

    /// The address of its first byte.
    #[must_use]
    pub const fn address(&self) -> usize {
        self.area.address
    }

    /// Its length as it was asked for.
    #[must_use]
    pub const fn length_bytes(&self) -> usize {
        self.length_bytes
    }

    /// The pages it maps.
    #[must_use]
    pub const fn area(&self) -> VmaArea {
        self.area
    }

    /// Where it begins.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        std::ptr::with_exposed_provenance(self.area.address)
    }

    /// Where it begins.
    #[must_use]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.area.address)
    }

    /// Its bytes.
    ///
    /// # Safety
    /// 1. Nobody changes the bytes, and nobody truncates the file, while the slice lives.
    /// 2. It may be read.
    #[must_use]
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the mapping is that long and lives as long as `self`; 1 and 2: the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.length_bytes) }
    }

    /// Its bytes, to be changed.
    ///
    /// # Safety
    /// 1. Nobody else reads or changes the bytes, and nobody truncates the file, while the slice lives.
    /// 2. It may be read and written.
    #[must_use]
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is that long and lives as long as `self`; 1 and 2: the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.length_bytes) }
    }

    fn check(&self, at: usize, length_bytes: usize) {
        let end = at.checked_add(length_bytes);
        assert!(end.is_some_and(|end| end <= self.length_bytes), "out of the mapping's bounds");
    }

    /// Copies bytes out, which others may be changing. What the file does not have any more is SIGBUS.
    ///
    /// # Panics
    /// If the bytes are not all in the mapping.
    #[inline]
    pub fn load(&self, at: usize, into: &mut [u8]) {
        self.check(at, into.len());
        let from = self.as_ptr().wrapping_add(at);
        let single = from.align_offset(WORD).min(into.len());
        let (head, rest) = into.split_at_mut(single);
        let (words, tail) = rest.as_chunks_mut::<WORD>();
        let behind = single + words.len() * WORD;
        for (offset, byte) in head.iter_mut().enumerate() {
            // SAFETY: the byte is in the mapping (checked above), which lives as long as `self`; volatile, since others may
            // change it at any time.
            *byte = unsafe { from.wrapping_add(offset).read_volatile() };
        }
        for (number, word) in words.iter_mut().enumerate() {
            let place = from.wrapping_add(single + number * WORD).cast::<u64>();
            // SAFETY: as above, for eight bytes; `single` was chosen so that they are aligned.
            *word = unsafe { place.read_volatile() }.to_ne_bytes();
        }
        for (offset, byte) in tail.iter_mut().enumerate() {
            // SAFETY: as for the first bytes.
            *byte = unsafe { from.wrapping_add(behind + offset).read_volatile() };
        }
    }

    /// Copies bytes in, which others may be reading. What the file does not have any more is SIGBUS.
    ///
    /// # Panics
    /// If the bytes are not all in the mapping.
    #[inline]
    pub fn store(&self, at: usize, from: &[u8]) {
        self.check(at, from.len());
        let to = self.as_mut_ptr().wrapping_add(at);
        let single = to.align_offset(WORD).min(from.len());
        let (head, rest) = from.split_at(single);
        let (words, tail) = rest.as_chunks::<WORD>();
        let behind = single + words.len() * WORD;
        for (offset, byte) in head.iter().enumerate() {
            // SAFETY: the byte is in the mapping (checked above), which lives as long as `self`; volatile, since others may
            // look at it at any time.
            unsafe { to.wrapping_add(offset).write_volatile(*byte) };
        }
        for (number, word) in words.iter().enumerate() {
            let place = to.wrapping_add(single + number * WORD).cast::<u64>();
            // SAFETY: as above, for eight bytes; `single` was chosen so that they are aligned.
            unsafe { place.write_volatile(u64::from_ne_bytes(*word)) };
        }
        for (offset, byte) in tail.iter().enumerate() {
            // SAFETY: as for the first bytes.
            unsafe { to.wrapping_add(behind + offset).write_volatile(*byte) };
        }
    }

    /// Copies bytes in as [`store`](Self::store) does, but what cannot be stored to is an error and no signal: the kernel copies. How many bytes were copied;
    /// fewer than all if a page behind the first cannot be stored to.
    ///
    /// # Errors
    /// [`Errno::FAULT`] if the first byte cannot be stored: the file does not have it any more, or there is no space for it; or as `process_vm_readv`.
    ///
    /// # Panics
    /// If the bytes are not all in the mapping.
    pub fn copy_in(&self, at: usize, from: &[u8]) -> Result<usize, Errno> {
        self.check(at, from.len());
        // SAFETY: 1: the bytes are in the mapping, which is ours and lives as long as `self`.
        unsafe { mem::copy_to_address(self.area.address + at, from) }
    }

    /// `msync` of a part.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn msync(&self, at: usize, length_bytes: usize, flags: i32) -> Result<(), Errno> {
        mem::msync(self.area.address + at, length_bytes, flags as u32)
    }

    /// `madvise` of a part.
    ///
    /// # Errors
    /// The kernel's own; [`Errno::INVAL`] for a part that is not in the mapping.
    pub fn madvise(&self, at: usize, length_bytes: usize, advice: i32) -> Result<(), Errno> {
        if at.checked_add(length_bytes).is_none_or(|end| end > bytes(self.area.pages)) {
            return Err(Errno::INVAL);
        }
        // SAFETY: the part is in the mapping; an advice that empties it shows the file again, which others may change too.
        unsafe { mem::madvise(self.area.address + at, length_bytes, advice as u32) }
    }

    /// `mprotect` of all of it.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn protect(&mut self, prot: Prot) -> Result<(), Errno> {
        // SAFETY: `&mut self`: no reference into the mapping is alive.
        unsafe { mem::mprotect(self.area.address, bytes(self.area.pages), prot.raw()) }?;
        self.area.prot = prot;
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is our own, and references into it cannot outlive it.
        let _ = unsafe { mem::munmap(self.area.address, bytes(self.area.pages)) };
    }
}
