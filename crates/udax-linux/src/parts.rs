//! A private mapping that the kernel has in parts, moved and resized as the one that the program knows.
//!
//! Copies that were carried over have memory of their own (an `anon_vma`) for each piece that was moved in, and the kernel joins none of these. Its mremap refuses a
//! range of several parts with `EFAULT`. So the parts are moved one by one, without a moment in which somebody else could take the addresses, old or new, and so that
//! each step can be taken back.

use crate::area::{Sharing, VmaArea};
use crate::file::FileHandle;
use crate::native::NativeCalls;
use crate::plain;
use crate::service::{Service, die};
use crate::space::LinuxSpace;
use crate::strangers::read_maps;
use crate::sys::errno::Errno;
use crate::sys::mem;
use linux_raw_sys::general as k;
use std::ops::Range;
use std::sync::Arc;
use udax_core::{PAGE_BYTES, PageRange};

/// A private mapping, or a piece of one, and the parts that the kernel has it in.
#[derive(Debug)]
pub struct Parts {
    file: Arc<FileHandle>,
    area: VmaArea,
    addresses: Vec<Range<usize>>,
}

impl Parts {
    /// What `addresses` are, if `spaces`, in order, make one private mapping of them, all plain, in two parts at least. It reads all of /proc/self/maps.
    #[must_use]
    pub fn of(spaces: &[&LinuxSpace], addresses: &Range<usize>) -> Option<Self> {
        let file = Arc::clone(spaces.first()?.file());
        let mut area = spaces.first()?.area();
        for space in spaces {
            let next = space.area();
            let goes_on = next.address() == area.end() && next.pages().start == area.pages().end;
            if next.sharing() != Sharing::Private
                || next.prot() != area.prot()
                || !Arc::ptr_eq(space.file(), &file)
                || !(next == area || goes_on)
                || !space.is_plain(next.pages())
            {
                return None;
            }
            area.pages.end = next.pages().end;
        }
        let first = area.page_of(addresses.start)?;
        let last = area.page_of(addresses.end.checked_sub(mem::PAGE)?)?;
        area = VmaArea {
            address: addresses.start,
            pages: PageRange::between(first, last.plus(1)),
            ..area
        };
        let addresses = shown_by(&file, &area)?;
        (addresses.len() > 1).then_some(Self { file, area, addresses })
    }

    /// The addresses, and the pages there.
    #[must_use]
    pub const fn area(&self) -> VmaArea {
        self.area
    }
}

/// The kernel's mappings that `area` is made of, if they show what it is to show.
fn shown_by(file: &FileHandle, area: &VmaArea) -> Option<Vec<Range<usize>>> {
    let lines = file.service().with_descriptors(read_maps);
    let (mut parts, mut next) = (Vec::new(), area.address());
    for line in lines {
        let (from, to) = (line.addresses.start.max(next), line.addresses.end.min(area.end()));
        if from >= to {
            continue;
        }
        let offset = line.offset_bytes + (from - line.addresses.start) as u64;
        if from != next
            || line.ino != file.info().ino
            || line.is_shared
            || offset != area.page_of(from)?.byte()
        {
            return None;
        }
        parts.push(from..to);
        next = to;
    }
    (next == area.end()).then_some(parts)
}

/// Where the parts go, in one attempt.
struct Move<'p> {
    parts: &'p Parts,
    /// Those that go, the last of them cut.
    leaving: Vec<Range<usize>>,
    to: usize,
    to_bytes: usize,
    /// How many have gone.
    gone: usize,
}

impl NativeCalls {
    /// `mremap` of memory that is in parts, with the lengths in whole pages and `flags` and `new` as the kernel has found no other fault with.
    /// As there, nobody may use what is moved meanwhile; whoever does gets a SIGSEGV.
    ///
    /// What fails is as it was before, but for what lay at `new`, and for the end of what was to be cut; the process ends if the kernel refuses even that.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn mremap_parts(
        self,
        parts: &Parts,
        new_bytes: usize,
        flags: i32,
        new: usize,
    ) -> Result<usize, Errno> {
        let flags = flags as u32;
        let service = parts.file.service();
        let (old, old_end) = (parts.area.address(), parts.area.end());
        let old_bytes = old_end - old;
        let is_fixed = flags & k::MREMAP_FIXED != 0;
        let stays = flags & k::MREMAP_DONTUNMAP != 0;
        if !is_fixed && !stays {
            // As the kernel does it: in place, if there is room.
            let last = parts.addresses.last().ok_or(Errno::FAULT)?;
            let longer = new_bytes.checked_sub(old_bytes).ok_or(Errno::FAULT)?;
            let grown = self.mremap(last.start, last.len(), last.len() + longer, 0, 0);
            if grown.is_ok() || flags & k::MREMAP_MAYMOVE == 0 {
                return grown.map(|_| old);
            }
        }
        let to_end = new.checked_add(new_bytes).ok_or(Errno::FAULT)?;
        if is_fixed && new < old_end && old < to_end {
            return Err(Errno::INVAL);
        }
        if new_bytes < old_bytes {
            self.munmap(old + new_bytes, old_bytes - new_bytes)?;
        }
        let fixed = if is_fixed { k::MAP_FIXED } else { 0 };
        let at = if is_fixed || stays { new } else { 0 };
        // SAFETY: 1: where it is fixed, the program has what lies there replaced.
        let to =
            unsafe { mem::mmap(at, new_bytes, mem::PROT_NONE, mem::ANONYMOUS | fixed, -1, 0) }?;
        let kept_end = old + old_bytes.min(new_bytes);
        let leaving = parts.addresses.iter().filter(|part| part.start < kept_end);
        let leaving = leaving.map(|part| part.start..part.end.min(kept_end)).collect();
        let mut under_way = Move { parts, leaving, to, to_bytes: new_bytes, gone: 0 };
        service.with_descriptors(|| {
            let done = under_way.forth().and_then(|()| under_way.leave(stays));
            if done.is_err() {
                under_way.back(service);
            }
            done.map(|()| to)
        })
    }
}

/// All on a service thread, with the registry held exclusively by whoever waits for it.
impl Move<'_> {
    fn target(&self, part: &Range<usize>) -> usize {
        self.to + (part.start - self.parts.area.address())
    }

    /// Moves all parts, and puts what is new of the file behind them.
    fn forth(&mut self) -> Result<(), Errno> {
        let rights = self.parts.area.prot().raw();
        for part in &self.leaving {
            // From here on nobody changes what is moved. SAFETY: 1: the program has given the range up.
            unsafe { mem::mprotect(part.start, part.len(), mem::PROT_NONE) }?;
        }
        // The addresses stay taken, by the same part of the file without a copy, until all have gone.
        let flags = k::MREMAP_MAYMOVE | k::MREMAP_FIXED | k::MREMAP_DONTUNMAP;
        for part in &self.leaving {
            let target = self.target(part);
            // SAFETY: 1: the program has given the range up, and the target was reserved.
            unsafe { mem::mremap(part.start, part.len(), part.len(), flags, target) }?;
            self.gone += 1;
            // SAFETY: 1: the same; it gets the rights that the program gave it.
            unsafe { mem::mprotect(target, part.len(), rights) }?;
        }
        self.grow()
    }

    fn grow(&self) -> Result<(), Errno> {
        let area = self.parts.area;
        let pages = PageRange::new(area.pages().start, self.to_bytes as u64 / PAGE_BYTES);
        let new = PageRange::between(area.pages().end, pages.end);
        if new.is_empty() {
            return Ok(());
        }
        let target = VmaArea { address: self.to, pages, ..area };
        plain::map(self.parts.file.service(), &target, self.parts.file.descriptor(), new)
    }

    /// Unmaps what has been left, or shows it again.
    fn leave(&self, stays: bool) -> Result<(), Errno> {
        let rights = self.parts.area.prot().raw();
        let start = self.leaving.first().map_or(0, |part| part.start);
        let length_bytes = self.leaving.last().map_or(0, |part| part.end) - start;
        if stays {
            // SAFETY: 1: it gets the rights that the program gave it.
            return unsafe { mem::mprotect(start, length_bytes, rights) };
        }
        // SAFETY: 1: the program has given the range up.
        unsafe { mem::munmap(start, length_bytes) }
    }

    /// Undoes all of it: nothing is left in the place of the copies but what shows none, and nobody has heard of the target.
    fn back(&self, service: &Service) {
        let rights = self.parts.area.prot().raw();
        for part in &self.leaving[..self.gone] {
            let target = self.target(part);
            // SAFETY: 1: both ranges are the program's, which has given them up for this.
            let back = || unsafe { mem::move_over(target, part.start, part.len()) };
            if let Err(errno) = service.with_reserve(back) {
                die(&format!("moving private copies back failed: {errno}"));
            }
        }
        // SAFETY: 1: it was reserved above.
        let _ = unsafe { mem::munmap(self.to, self.to_bytes) };
        for part in &self.leaving {
            // SAFETY: 1: it gets the rights that the program gave it.
            let again = || unsafe { mem::mprotect(part.start, part.len(), rights) };
            match service.with_reserve(again) {
                // What the program has sealed has the rights that it had.
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => {
                    die(&format!("giving private copies their rights again failed: {errno}"))
                }
            }
        }
    }
}
