//! mremap.

use super::Program;
use super::memory::{end, page_up, pages_at};
use crate::regions::{Region, Regions};
use crate::served::{ServedFile, whole_units};
use std::ops::Range;
use std::sync::Arc;
use udax_core::{PAGE_BYTES, PageRange};
use udax_linux::{Errno, LinuxSpace, Parts, SignalsBlocked};

/// What a call asked for.
#[derive(Clone, Copy)]
struct Asked {
    old: usize,
    old_length: usize,
    new_length: usize,
    flags: i32,
    new: usize,
}

/// What was a region and is plain now.
type Plain = (Arc<ServedFile>, LinuxSpace);

impl Program {
    /// mremap(2). What is moved or resized becomes plain, so that the kernel finds one mapping, and is served no longer.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn mremap(
        &self,
        old: usize,
        old_length: usize,
        new_length: usize,
        flags: i32,
        new: usize,
    ) -> Result<usize, Errno> {
        let asked = Asked { old, old_length, new_length, flags, new };
        let from = pages_at(old, old_length.max(1)).filter(|_| self.runtime.state.is_serving());
        let Some(from) = from else { return self.native_mremap(asked) };
        let _signals = SignalsBlocked::new();
        // While it is held no file comes into service that the look below would miss.
        let files = (new_length > old_length).then(|| self.runtime.state.files());
        let mut regions = self.runtime.state.regions_mut();
        let whole: Vec<Range<usize>> = regions.over(&from).map(Region::addresses).collect();
        let plain = self.take_plain(&mut regions, &whole, asked);
        let mut moved = self.native_mremap(asked);
        if moved == Err(Errno::FAULT) && !plain.is_empty() {
            // It is several mappings of the kernel's, which it may not be without us: what was advised came to the plain parts alone.
            plain.iter().for_each(|(_, space)| space.unite());
            moved = self.native_mremap(asked);
        }
        let parts = (moved == Err(Errno::FAULT)).then(|| parts_of(&plain, &from)).flatten();
        if let Some(parts) = parts {
            moved = self.mremap_parts(&mut regions, plain, &parts, asked);
        } else {
            drop(plain);
            if let Ok(at) = moved {
                let came = at..at.saturating_add(page_up(new_length));
                regions.carve(&came).into_iter().for_each(end);
            }
        }
        // A mapping that the kernel serves, grown: it shows more of its file, and stores there come without a fault.
        if let (Ok(_), Some(files)) = (moved, &files) {
            self.runtime.count_native_mappings(files);
        }
        drop(regions);
        drop(files);
        if !whole.is_empty() {
            self.runtime.state.drop_unmapped();
        }
        moved
    }

    fn native_mremap(&self, asked: Asked) -> Result<usize, Errno> {
        let Asked { old, old_length, new_length, flags, new } = asked;
        self.native.mremap(old, old_length, new_length, flags, new)
    }

    /// Makes the regions `whole` plain and takes them out.
    fn take_plain(
        &self,
        regions: &mut Regions,
        whole: &[Range<usize>],
        asked: Asked,
    ) -> Vec<Plain> {
        let mut plain = Vec::new();
        for addresses in whole {
            for region in regions.carve(addresses) {
                self.make_region_plain(&region);
                // Where it grows it shows more of the file, natively.
                if let Some(first) = region.area().page_of(asked.old.max(addresses.start)) {
                    let grown =
                        PageRange::new(first, page_up(asked.new_length) as u64 / PAGE_BYTES);
                    let grown = whole_units(grown);
                    region.file.host.keep(grown);
                    region.file.mapping.invalidate(grown);
                }
                plain.push(region.detach());
            }
        }
        plain
    }

    /// All of it becomes plain. The registry is held exclusively.
    pub(super) fn make_region_plain(&self, region: &Region) {
        self.runtime.audit(std::iter::once(region));
        let shown = whole_units(region.vma.pages);
        region.file.host.keep(shown);
        region.file.mapping.invalidate(shown);
        region.vma.space.plain_all();
    }

    /// A private mapping with copies, which the kernel has in parts. What it is afterwards, and what is left of it, stays known, all plain: it is moved in parts
    /// the next time, too.
    fn mremap_parts(
        &self,
        regions: &mut Regions,
        plain: Vec<Plain>,
        parts: &Parts,
        asked: Asked,
    ) -> Result<usize, Errno> {
        const MREMAP_FIXED: i32 = 2;
        const MREMAP_DONTUNMAP: i32 = 4;
        let Asked { new_length, flags, new, .. } = asked;
        let new_bytes = page_up(new_length);
        if flags & MREMAP_FIXED != 0 {
            // It may be gone when this fails, or be there.
            for region in regions.carve(&(new..new.saturating_add(new_bytes))) {
                self.make_region_plain(&region);
                end(region);
            }
        }
        let moved = self.native.mremap_parts(parts, new_bytes, flags, new);
        let file = plain.first().map(|(file, _)| Arc::clone(file));
        for (file, space) in plain {
            regions.insert(Region::attach(&file, space));
        }
        let (Ok(at), Some(file)) = (moved, file) else { return moved };
        let area = parts.area();
        if flags & MREMAP_DONTUNMAP == 0 {
            regions.carve(&(area.address()..area.end())).into_iter().for_each(end);
        }
        regions.carve(&(at..at.saturating_add(new_bytes))).into_iter().for_each(end);
        let pages = PageRange::new(area.pages().start, new_bytes as u64 / PAGE_BYTES);
        let area = self.native.area(at, pages, area.sharing(), area.prot());
        let space = LinuxSpace::new(area, Arc::clone(&file.handle));
        regions.insert(Region::attach(&file, space));
        moved
    }
}

fn parts_of(plain: &[Plain], addresses: &Range<usize>) -> Option<Parts> {
    let spaces: Vec<&LinuxSpace> = plain.iter().map(|(_, space)| space).collect();
    Parts::of(&spaces, addresses)
}
