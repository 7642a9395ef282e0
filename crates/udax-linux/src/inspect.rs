//! What the kernel is asked, and told, about the pages of a space: which were touched, what they hold, and what is to come.

use crate::area::Sharing;
use crate::runs::RunState;
use crate::space::{LinuxSpace, State};
use crate::sys::errno::Errno;
use crate::sys::{fd, mem, pagemap};
use linux_raw_sys::general as k;
use udax_core::{PageIndex, PageRange};

impl LinuxSpace {
    /// Whether the kernel is to expect accesses here and there where `range` is plain: it then reads no neighbours of a page that is missing in its cache, which
    /// are holes as a rule where stores are scattered. A hint.
    pub fn expect_scattered(&self, range: PageRange, scattered: bool) {
        let advice = if scattered { k::MADV_RANDOM } else { k::MADV_NORMAL };
        self.hold().state.scattered |= scattered;
        self.advise_plain(range, advice);
    }

    /// Has storage for what of `range` is plain, and maps it, as if each page had been stored to. A hint: what cannot be had is had at a store, or refused
    /// there. May wait for memory.
    pub fn populate(&self, range: PageRange) {
        self.advise_plain(range, k::MADV_POPULATE_WRITE);
    }

    pub(crate) fn advise_plain(&self, range: PageRange, advice: u32) {
        let held = self.hold();
        let area = held.state.area;
        for run in held.state.runs.all(range.intersect(area.pages)) {
            if run.state == RunState::Plain {
                let (address, length_bytes) = area.span(run.pages);
                // SAFETY: none of the advices used here changes contents.
                let _ = unsafe { mem::madvise(address, length_bytes, advice) };
            }
        }
    }

    /// The private pages where no page but the zero page may be: in trap and zero runs of a shared VMA. There must be none; one
    /// found holds stores that have not reached the file.
    ///
    /// # Errors
    /// As the PAGEMAP_SCAN request.
    pub fn audit(&self) -> Result<Vec<PageRange>, Errno> {
        let held = self.hold();
        let state = &*held.state;
        if state.area.sharing() == Sharing::Private {
            return Ok(Vec::new());
        }
        self.present(state, state.area.pages, &[RunState::Trap, RunState::Zero])
    }

    /// Whether the zero page is mapped anywhere in `range`. Where it is not, [`audit`](Self::audit) has the least to find: a store to a trap faults, whatever else goes wrong.
    #[must_use]
    pub fn shows_zeros(&self, range: PageRange) -> bool {
        let held = self.hold();
        let range = range.intersect(held.state.area.pages);
        held.state.runs.in_range(range).any(|run| run.state == RunState::Zero)
    }

    /// The pages of `range` that were touched where it is plain.
    ///
    /// # Errors
    /// As the PAGEMAP_SCAN request.
    pub fn touched(&self, range: PageRange) -> Result<Vec<PageRange>, Errno> {
        let held = self.hold();
        let state = &*held.state;
        self.present(state, range.intersect(state.area.pages), &[RunState::Plain])
    }

    /// The pages of `range` that are present and not the zero page, where it is in one of `states`.
    fn present(
        &self,
        state: &State,
        range: PageRange,
        states: &[RunState],
    ) -> Result<Vec<PageRange>, Errno> {
        let mut runs = state.runs.all(range);
        runs.retain(|run| states.contains(&run.state));
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let service = self.service();
        service.with_descriptors(|| {
            let mut found = Vec::new();
            for run in runs {
                let (address, length_bytes) = state.area.span(run.pages);
                let end = address + length_bytes;
                let pages = pagemap::present_pages(service.table.pagemap, address, end)?;
                found.extend(pages.iter().map(|(start, end)| {
                    let first = run.pages.start.plus(((start - address) / mem::PAGE) as u64);
                    PageRange::new(first, ((end - start) / mem::PAGE) as u64)
                }));
            }
            Ok(found)
        })
    }

    /// The bytes of a page, read through /proc/self/mem, so that the program's rights do not matter.
    ///
    /// # Errors
    /// [`Errno::IO`] if the page cannot be had; [`Errno::INVAL`] if it is not of this VMA.
    pub fn page_bytes(&self, page: PageIndex) -> Result<Box<[u8; 4096]>, Errno> {
        let area = self.area();
        if !area.pages.contains(page) {
            return Err(Errno::INVAL);
        }
        let at = area.address_of(page) as u64;
        let mut bytes = Box::new([0; mem::PAGE]);
        let service = self.service();
        let length = service
            .with_descriptors(|| fd::read_at(service.table.memory, bytes.as_mut_slice(), at))?;
        if length == mem::PAGE { Ok(bytes) } else { Err(Errno::IO) }
    }
}
