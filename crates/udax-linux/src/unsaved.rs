//! Pages of a shared mapping for which the file has no space: memory of their own in the file's place, until what was stored there can be written.
//!
//! The mapping must not be served (no [`crate::LinuxSpace`] has it), so that nobody else maps anything there.

use crate::area::VmaArea;
use crate::catcher::Catcher;
use crate::file::FileHandle;
use crate::plain;
use crate::service::Service;
use crate::sys::errno::Errno;
use crate::sys::uffd::Protection;
use crate::sys::{fd, mem, to_usize};
use crate::window::{self, Scratch};
use linux_raw_sys::general as k;
use udax_core::{PAGE_BYTES, PageIndex, PageRange};

/// Pages that are kept in memory, and what the file had there.
#[derive(Debug)]
pub struct Unsaved {
    pages: PageRange,
    /// None if it was zeros.
    base: Option<Vec<u8>>,
}

impl Unsaved {
    /// Which pages.
    #[must_use]
    pub const fn pages(&self) -> PageRange {
        self.pages
    }

    /// Puts memory with the same contents in the place of the file, for `pages.start` and for those of `pages` behind it up to the first that is not all zeros. Accesses meanwhile wait. Blocks.
    ///
    /// # Errors
    /// What the kernel refused, or reading the file; the file is there then.
    pub fn keep(file: &FileHandle, area: &VmaArea, pages: PageRange) -> Result<Self, Errno> {
        let service = file.service();
        service.with_files(|| {
            let _replacing = service.replace_unserved(&(area.address()..area.end()));
            let laid = window::lay_live(service, area, pages);
            let kept =
                laid.map_err(window::Failure::errno).and_then(|()| replace(file, area, pages));
            let rest = kept.as_ref().map_or(pages.start, |kept| kept.pages.end);
            let rest = PageRange::between(rest, pages.end);
            let back = if rest.is_empty() {
                Ok(())
            } else {
                plain::map(service, area, file.descriptor(), rest)
            };
            if let Err(errno) = back {
                crate::service::die(&format!("mapping the file again: {errno}"));
            }
            wake(service, area, pages);
            kept
        })
    }

    /// Writes what was stored to the pages since they were kept, byte for byte, as far as there is space, and puts the file back where that is done. Stores meanwhile wait, and then
    /// go where the page is. What is left to be saved. Blocks.
    ///
    /// # Errors
    /// What is in the way, with what is left.
    pub fn save(self, file: &FileHandle, area: &VmaArea) -> Result<(), (Self, Errno)> {
        let service = file.service();
        service.with_files(|| {
            let (address, length_bytes) = area.span(self.pages);
            let _replacing = service.replace_unserved(&(area.address()..area.end()));
            let held = match service.catcher() {
                Catcher::Userfaultfd(uffd) => uffd
                    .register_stores(address, length_bytes)
                    .and_then(|()| uffd.protect(address, length_bytes, Protection::Stores)),
                Catcher::Signals(_) => plain::forbid_stores(area, address, length_bytes),
            };
            if let Err(errno) = held {
                return Err((self, errno));
            }
            let mut at = self.pages.start;
            let mut outcome = Ok(());
            while at < self.pages.end && outcome.is_ok() {
                outcome = self.save_page(file, area, at);
                at = if outcome.is_ok() { at.plus(1) } else { at };
            }
            let saved = PageRange::between(self.pages.start, at);
            if !saved.is_empty()
                && let Err(errno) = plain::map(service, area, file.descriptor(), saved)
            {
                // It is written; that it is here as well does no harm, but that others' stores are not seen.
                (at, outcome) = (self.pages.start, Err(errno));
            }
            let left = PageRange::between(at, self.pages.end);
            let (from, bytes) = area.span(left);
            let let_go = || match service.catcher() {
                Catcher::Userfaultfd(uffd) => uffd.protect(from, bytes, Protection::Nothing),
                Catcher::Signals(_) => plain::allow_stores(area, from, bytes),
            };
            if !left.is_empty() && let_go().is_err() {
                crate::service::die("pages that are kept in memory cannot be stored to again");
            }
            wake(service, area, self.pages);
            let skipped = to_usize((at.0 - self.pages.start.0) * PAGE_BYTES);
            let base = self.base.map(|base| base[skipped..].to_vec());
            outcome.map_err(|errno| (Self { pages: left, base }, errno))
        })
    }

    fn save_page(&self, file: &FileHandle, area: &VmaArea, page: PageIndex) -> Result<(), Errno> {
        let now = read_memory(file.service(), area.address_of(page))?;
        let skipped = to_usize((page.0 - self.pages.start.0) * PAGE_BYTES);
        let zeros = [0; mem::PAGE];
        let base = self.base.as_ref().map_or(&zeros[..], |base| &base[skipped..][..mem::PAGE]);
        // What lies behind the end is nobody's, as ever.
        let end = to_usize(file.size()?.saturating_sub(page.byte()).min(PAGE_BYTES));
        let mut start = 0;
        while start < end {
            let differs = |at: &usize| now[*at] != base[*at];
            let Some(first) = (start..end).find(differs) else { break };
            let last = (first..end).find(|at| !differs(at)).unwrap_or(end);
            let mut done = first;
            while done < last {
                match file.pwrite(&now[done..last], page.byte() + done as u64)? {
                    0 => return Err(Errno::NOSPC),
                    written => done += written,
                }
            }
            start = last;
        }
        Ok(())
    }
}

fn wake(service: &Service, area: &VmaArea, pages: PageRange) {
    let (address, length_bytes) = area.span(pages);
    if let Catcher::Userfaultfd(uffd) = service.catcher() {
        uffd.wake(address, length_bytes);
    }
}

fn read_memory(service: &Service, address: usize) -> Result<[u8; mem::PAGE], Errno> {
    let mut page = [0; mem::PAGE];
    match fd::read_at(service.table.memory, &mut page, address as u64)? {
        mem::PAGE => Ok(page),
        _ => Err(Errno::IO),
    }
}

/// The pages are traps: nobody stores there, so what the file has is what is to be seen.
fn replace(file: &FileHandle, area: &VmaArea, pages: PageRange) -> Result<Unsaved, Errno> {
    let mut bytes = vec![0; to_usize(pages.len() * PAGE_BYTES)];
    let mut done = 0;
    while done < bytes.len() {
        match file.pread(&mut bytes[done..], pages.start.byte() + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    let is_zero = |page: &[u8]| page.iter().all(|&byte| byte == 0);
    let followed = bytes.chunks_exact(mem::PAGE).skip(1).take_while(|page| is_zero(page)).count();
    let pages = PageRange::new(pages.start, 1 + followed as u64);
    bytes.truncate((1 + followed) * mem::PAGE);
    let (address, length_bytes) = area.span(pages);
    let scratch = Scratch::new(address, length_bytes)?;
    scratch.allow(k::PROT_READ | k::PROT_WRITE)?;
    let base = (!is_zero(&bytes[..mem::PAGE])).then_some(bytes);
    // All of it must be there: a page that is not cannot be protected when it is saved.
    scratch.advise(k::MADV_POPULATE_WRITE)?;
    if let Some(base) = &base {
        let to: *mut u8 = std::ptr::with_exposed_provenance_mut(scratch.address);
        // SAFETY: the scratch is our own, may be stored to, and is as long as this.
        unsafe { std::ptr::copy_nonoverlapping(base.as_ptr(), to, base.len()) };
    }
    scratch.allow(area.prot().raw())?;
    // Nothing is registered in the scratch, so no event has to be read and this thread may do the move.
    // SAFETY: 1: the range is of a VmaArea, and the scratch is our own.
    unsafe { mem::move_over(scratch.address, address, length_bytes) }?;
    std::mem::forget(scratch);
    Ok(Unsaved { pages, base })
}
