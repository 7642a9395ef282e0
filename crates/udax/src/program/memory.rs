//! mmap and its family.

use super::Program;
use crate::eligible::PROT_EXEC;
use crate::regions::Region;
use std::ops::Range;
use udax_core::{PAGE_BYTES, PMD_BYTES, PageIndex, PageRange, Sharing as EngineSharing};
use udax_linux::{Access, Errno, Prot, RunState, Sharing, SignalsBlocked};

/// The bits of mmap(2), mprotect(2), mremap(2) and madvise(2) that decide here, as every Linux architecture that we run on has them.
mod bits {
    pub(super) const MAP_TYPE: i32 = 0xf;
    pub(super) const MAP_SHARED: i32 = 1;
    pub(super) const MAP_PRIVATE: i32 = 2;
    pub(super) const MAP_SHARED_VALIDATE: i32 = 3;
    pub(super) const MAP_FIXED: i32 = 0x10;
    pub(super) const MAP_ANONYMOUS: i32 = 0x20;
    pub(super) const MAP_GROWSDOWN: i32 = 0x100;
    pub(super) const MAP_LOCKED: i32 = 0x2000;
    pub(super) const MAP_POPULATE: i32 = 0x8000;
    pub(super) const MAP_STACK: i32 = 0x2_0000;
    pub(super) const MAP_HUGETLB: i32 = 0x4_0000;
    pub(super) const MAP_SYNC: i32 = 0x8_0000;
    pub(super) const MAP_FIXED_NOREPLACE: i32 = 0x10_0000;
    pub(super) const MAP_NORESERVE: i32 = 0x4000;
    pub(super) const MADV_NORMAL: i32 = 0;
    pub(super) const MADV_WILLNEED: i32 = 3;
    pub(super) const MADV_DONTNEED: i32 = 4;
    pub(super) const MADV_HUGEPAGE: i32 = 14;
    pub(super) const MADV_NOHUGEPAGE: i32 = 15;
    pub(super) const MADV_COLD: i32 = 20;
    pub(super) const MADV_PAGEOUT: i32 = 21;
    pub(super) const MADV_POPULATE_READ: i32 = 22;
    pub(super) const MADV_POPULATE_WRITE: i32 = 23;
}

/// What a mapping call asked for.
#[derive(Clone, Copy)]
struct Asked {
    address: usize,
    length: usize,
    prot: i32,
    flags: i32,
    fd: i32,
    offset: i64,
}

impl Asked {
    /// Whether it could be served at all; whether it is worth it is decided later, with the file at hand.
    fn could_be_served(&self) -> Option<Sharing> {
        let refused = bits::MAP_ANONYMOUS
            | bits::MAP_GROWSDOWN
            | bits::MAP_LOCKED
            | bits::MAP_STACK
            | bits::MAP_HUGETLB
            | bits::MAP_SYNC;
        if self.flags & refused != 0
            || self.fd < 0
            || self.prot & PROT_EXEC != 0
            || self.copies_all()
        {
            return None;
        }
        match self.flags & bits::MAP_TYPE {
            bits::MAP_SHARED | bits::MAP_SHARED_VALIDATE => Some(Sharing::Shared),
            bits::MAP_PRIVATE => Some(Sharing::Private),
            _ => None,
        }
    }

    /// Whether stores through it reach a file.
    fn reaches_file(&self) -> bool {
        let kind = self.flags & bits::MAP_TYPE;
        self.flags & bits::MAP_ANONYMOUS == 0
            && self.fd >= 0
            && (kind == bits::MAP_SHARED || kind == bits::MAP_SHARED_VALIDATE)
    }

    /// Whether the kernel makes the program's own copy of every page at once, so that no hole is left to show.
    fn copies_all(&self) -> bool {
        const PROT_WRITE: i32 = 2;
        let is_private = self.flags & bits::MAP_TYPE == bits::MAP_PRIVATE;
        is_private && self.flags & bits::MAP_POPULATE != 0 && self.prot & PROT_WRITE != 0
    }

    fn is_large(&self) -> bool {
        self.length as u64 >= PMD_BYTES
    }

    fn replaces(&self) -> bool {
        self.flags & bits::MAP_FIXED != 0 && self.flags & bits::MAP_FIXED_NOREPLACE == 0
    }

    fn addresses(&self, at: usize) -> Range<usize> {
        at..at.saturating_add(page_up(self.length))
    }
}

pub(super) fn page_up(length: usize) -> usize {
    let page = usize::try_from(PAGE_BYTES).unwrap_or(4096);
    length.checked_next_multiple_of(page).unwrap_or(length)
}

/// The whole pages of a range; `None` if it ends behind the last address: that the kernel refuses before it changes a thing.
pub(super) fn pages_at(address: usize, length: usize) -> Option<Range<usize>> {
    let page = usize::try_from(PAGE_BYTES).unwrap_or(4096);
    let end = address.checked_add(length.checked_next_multiple_of(page)?)?;
    Some(address..end)
}

impl Program {
    /// mmap(2). A large enough shared or private mapping of a sparse regular file is served; all others are the kernel's.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn mmap(
        &self,
        address: usize,
        length: usize,
        prot: i32,
        flags: i32,
        fd: i32,
        offset: i64,
    ) -> Result<usize, Errno> {
        let asked = Asked { address, length, prot, flags, fd, offset };
        let sharing = asked.could_be_served();
        let candidate = sharing.filter(|_| asked.is_large() && !self.runtime.state.is_closed());
        let candidate = candidate.filter(|_| !self.replaces_live(&asked));
        let populate = candidate.is_some() && flags & bits::MAP_POPULATE != 0;
        let asked =
            Asked { flags: if populate { flags & !bits::MAP_POPULATE } else { flags }, ..asked };
        let at = self.mmap_plain(&asked, candidate.is_some())?;
        match (candidate, sharing) {
            (Some(sharing), _) => self.adopt(&asked, at, sharing),
            // Stores through a small mapping come without a fault: what it maps counts as storage.
            (None, Some(Sharing::Shared)) if self.runtime.state.is_serving() => {
                self.adopt(&asked, at, Sharing::Shared);
            }
            // Whatever else it is, the kernel serves it, and its stores come without a fault.
            (None, None) if asked.reaches_file() && self.runtime.state.is_serving() => {
                if let Ok(offset) = u64::try_from(asked.offset) {
                    let pages = PageRange::of_bytes(offset, page_up(asked.length) as u64);
                    self.runtime.mapped_natively(asked.fd, pages);
                }
            }
            (None, _) => {}
        }
        if populate {
            let _prepared = self.prepare(at, length, Access::Read);
            let _ = self.native.madvise(at, length, bits::MADV_POPULATE_READ);
        }
        Ok(at)
    }

    /// Whether other threads may be using the addresses right now: then the new mapping has to come in one act, as the kernel's does, and
    /// it stays plain. Its pages count as storage from before it is there.
    fn replaces_live(&self, asked: &Asked) -> bool {
        if !asked.replaces() {
            return false;
        }
        // Not started for this: the stacks of its threads might come to lie where the program is about to map.
        let Some(service) = self.runtime.running() else { return false };
        let addresses = asked.addresses(asked.address);
        let live = self.may_be_served_faults(&addresses)
            || crate::descriptors::is_accessible(service, &addresses);
        if let (true, true, Ok(offset)) = (live, asked.reaches_file(), u64::try_from(asked.offset))
        {
            let pages = PageRange::of_bytes(offset, page_up(asked.length) as u64);
            self.runtime.mapped_natively(asked.fd, pages);
        }
        live
    }

    /// Whether the program may access what is served there: where faults come by signals, a trap looks like memory that nobody may.
    fn may_be_served_faults(&self, addresses: &Range<usize>) -> bool {
        let _signals = SignalsBlocked::new();
        self.runtime.state.regions().over(addresses).any(|region| region.area().prot().bits() != 0)
    }

    fn adopt(&self, asked: &Asked, at: usize, sharing: Sharing) {
        let Ok(offset) = u64::try_from(asked.offset) else { return };
        let pages = PageRange::of_bytes(offset, page_up(asked.length) as u64);
        let area = self.native.area(at, pages, sharing, Prot::from_bits(asked.prot));
        if let Err(refusal) = self.runtime.adopt(area, asked.fd, self.promise) {
            self.runtime.count_refusal(&refusal);
        }
    }

    /// The kernel's mmap. What it replaces is served no longer; where the kernel may choose, the address agrees with the offset
    /// modulo 2 MiB.
    fn mmap_plain(&self, asked: &Asked, candidate: bool) -> Result<usize, Errno> {
        if asked.replaces() && self.runtime.state.is_serving() {
            let _signals = SignalsBlocked::new();
            let mut regions = self.runtime.state.regions_mut();
            self.runtime.audit(regions.over(&asked.addresses(asked.address)));
            let at = self.call_mmap(asked)?;
            regions.carve(&asked.addresses(at)).into_iter().for_each(end);
            drop(regions);
            self.runtime.state.drop_unmapped();
            return Ok(at);
        }
        let free_choice = asked.address == 0 && asked.flags & bits::MAP_FIXED_NOREPLACE == 0;
        if candidate && free_choice && !asked.replaces() {
            return self.mmap_aligned(asked);
        }
        self.call_mmap(asked)
    }

    fn call_mmap(&self, asked: &Asked) -> Result<usize, Errno> {
        // Whatever is wrong with the arguments, the kernel says so.
        let Asked { address, length, prot, flags, fd, offset } = *asked;
        self.native.mmap(address, length, prot, flags, fd, offset.cast_unsigned())
    }

    /// Reserves room for 2 MiB more, and maps at the place in it that agrees with the offset.
    fn mmap_aligned(&self, asked: &Asked) -> Result<usize, Errno> {
        let unit = usize::try_from(PMD_BYTES).unwrap_or(1 << 21);
        let length = page_up(asked.length);
        let Some(room) = length.checked_add(unit) else { return self.call_mmap(asked) };
        let reserve = bits::MAP_PRIVATE | bits::MAP_ANONYMOUS | bits::MAP_NORESERVE;
        let Ok(start) = self.native.mmap(0, room, 0, reserve, -1, 0) else {
            return self.call_mmap(asked);
        };
        let colour = usize::try_from(asked.offset).unwrap_or(0) % unit;
        let at = start + (colour + unit - start % unit) % unit;
        let fixed = Asked { address: at, flags: asked.flags | bits::MAP_FIXED, ..*asked };
        let mapped = self.call_mmap(&fixed);
        if mapped.is_err() {
            let _ = self.native.munmap(start, room);
            return mapped;
        }
        for (from, to) in [(start, at), (at + length, start + room)] {
            if from < to {
                let _ = self.native.munmap(from, to - from);
            }
        }
        mapped
    }

    /// munmap(2).
    ///
    /// # Errors
    /// The kernel's own.
    pub fn munmap(&self, address: usize, length: usize) -> Result<(), Errno> {
        let addresses = pages_at(address, length).filter(|_| self.runtime.state.is_serving());
        let Some(addresses) = addresses else { return self.native.munmap(address, length) };
        let _signals = SignalsBlocked::new();
        let mut regions = self.runtime.state.regions_mut();
        self.runtime.audit(regions.over(&addresses));
        self.native.munmap(address, length)?;
        let gone = regions.carve(&addresses);
        let any = !gone.is_empty();
        gone.into_iter().for_each(end);
        drop(regions);
        if any {
            self.runtime.state.drop_unmapped();
        }
        Ok(())
    }

    /// madvise(2). Hints about windows are not the kernel's business; anything that changes contents meets plain mappings.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn madvise(&self, address: usize, length: usize, advice: i32) -> Result<(), Errno> {
        // Without a whole page to start at it is an error, which is the kernel's to give.
        let usual = address.is_multiple_of(4096) && self.runtime.state.is_serving();
        let addresses = pages_at(address, length).filter(|_| usual);
        let Some(addresses) = addresses.filter(|addresses| self.is_served(addresses)) else {
            return self.native.madvise(address, length, advice);
        };
        if advice == bits::MADV_DONTNEED {
            // Memory of the program's own in their place is to be emptied.
            let _signals = SignalsBlocked::new();
            let regions = self.runtime.state.regions();
            regions
                .over(&addresses)
                .for_each(|region| region.vma.space.forget_strangers(region.vma.pages));
        }
        match advice {
            // These fault, and the fault thread needs the registry.
            bits::MADV_POPULATE_READ => {
                let _prepared = self.prepare(address, length, Access::Read);
                self.native.madvise(address, length, advice)
            }
            bits::MADV_POPULATE_WRITE => {
                let _prepared = self.prepare(address, length, Access::Write);
                self.native.madvise(address, length, advice)
            }
            bits::MADV_DONTNEED => self.advise_dontneed(&addresses),
            bits::MADV_NORMAL..=bits::MADV_WILLNEED
            | bits::MADV_HUGEPAGE
            | bits::MADV_NOHUGEPAGE
            | bits::MADV_COLD
            | bits::MADV_PAGEOUT => self.advise_plain_parts(&addresses, advice),
            _ => {
                self.make_plain(address, length);
                self.native.madvise(address, length, advice)
            }
        }
    }

    fn is_served(&self, addresses: &Range<usize>) -> bool {
        let _signals = SignalsBlocked::new();
        self.runtime.state.regions().over(addresses).next().is_some()
    }

    /// Private copies are thrown away; of a shared mapping only the plain parts have anything that could be dropped.
    fn advise_dontneed(&self, addresses: &Range<usize>) -> Result<(), Errno> {
        let _signals = SignalsBlocked::new();
        // No fault may be under way: one that carries private copies into a plain mapping would bring back what is thrown away here.
        let regions = self.runtime.state.regions_mut();
        let private = regions.over(addresses).any(|r| r.vma.sharing == EngineSharing::Private);
        if private {
            let done = self.native.madvise(addresses.start, addresses.len(), bits::MADV_DONTNEED);
            drop(regions);
            if self.prepares() {
                // A piece of a window without its zero page would be in the way of a system call, and looks like any other.
                self.make_plain(addresses.start, addresses.len());
            }
            return done;
        }
        drop(regions);
        self.advise_plain_parts(addresses, bits::MADV_DONTNEED)
    }

    /// The kernel's madvise for what lies outside of traps and windows.
    fn advise_plain_parts(&self, addresses: &Range<usize>, advice: i32) -> Result<(), Errno> {
        let _signals = SignalsBlocked::new();
        let regions = self.runtime.state.regions();
        let mut next = addresses.start;
        let mut result = Ok(());
        let mut advise = |from: usize, to: usize| {
            // Behind what is not mapped the kernel goes on, and says so in the end.
            if from < to && matches!(result, Ok(()) | Err(Errno::NOMEM)) {
                result = self.native.madvise(from, to - from, advice).and(result);
            }
        };
        for region in regions.over(addresses) {
            let area = region.area();
            for run in region.vma.space.runs().iter().filter(|run| run.state != RunState::Plain) {
                let start = area.address_of(run.pages.start).clamp(next, addresses.end);
                let end = area.address_of(PageIndex(run.pages.end.0 - 1)) + 4096;
                advise(next, start);
                next = end.clamp(next, addresses.end);
            }
        }
        advise(next, addresses.end);
        result
    }

    /// The mappings in `address..address + length` become plain as a whole, and are served no longer: the program serves their faults itself from now on.
    pub fn leave_to_program(&self, address: usize, length: usize) {
        if !self.runtime.state.is_serving() {
            return;
        }
        let _signals = SignalsBlocked::new();
        let addresses = address..address.saturating_add(page_up(length));
        let mut regions = self.runtime.state.regions_mut();
        let whole: Vec<Range<usize>> = regions.over(&addresses).map(Region::addresses).collect();
        for region in
            whole.iter().flat_map(|addresses| regions.carve(addresses)).collect::<Vec<_>>()
        {
            self.make_region_plain(&region);
            end(region);
        }
        drop(regions);
        if !whole.is_empty() {
            self.runtime.state.drop_unmapped();
        }
    }

    /// msync(2).
    ///
    /// # Errors
    /// The kernel's own.
    pub fn msync(&self, address: usize, length: usize, flags: i32) -> Result<(), Errno> {
        let addresses = address..address.saturating_add(page_up(length));
        self.runtime.sync(addresses, flags, || self.native.msync(address, length, flags))
    }

    /// The plain mapping goes in where `address..address + length` is served: for calls that the kernel must see the file under.
    pub fn make_plain(&self, address: usize, length: usize) {
        self.runtime.make_plain(address..address.saturating_add(page_up(length)));
    }

    /// Everything becomes plain, for good: this process locks all its memory, or writes files in ways that cannot be seen.
    pub fn make_all_plain(&self, why: &'static str) {
        let _signals = SignalsBlocked::new();
        self.runtime.state.close();
        let mut files = self.runtime.state.files();
        self.runtime.state.end_all(&mut files, why);
    }
}

/// The address range is no longer served; the kernel's own call has taken the memory, or it is plain.
pub(super) fn end(region: Region) {
    let _ = region.detach();
}
