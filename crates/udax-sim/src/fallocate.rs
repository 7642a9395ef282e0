//! What fallocate does to a file's extents. Mappings and entries are the engine's to see to, before.

use crate::extents::{At, Fill};
use crate::file::SimFile;
use udax_core::{IoError, PAGE_BYTES, PageIndex, PageRange};

impl SimFile {
    /// Gives every hole in `range` unwritten storage. The length stays.
    ///
    /// # Errors
    /// No space; what was allocated before stays.
    #[doc(alias = "FALLOC_FL_KEEP_SIZE")]
    pub fn allocate(&self, range: PageRange) -> Result<(), IoError> {
        let mut state = self.state();
        for (mut page, pages) in state.extents.holes(range.start.0, range.end.0) {
            let end = page + pages;
            while page < end {
                page += self.allocate_run(&mut state, page, end - page)?;
            }
        }
        Ok(())
    }

    /// Makes every page of `range` that was not written into written zeros. The length stays.
    ///
    /// # Errors
    /// No space, or an error of the media; what was done before stays.
    pub fn write_zeros(&self, range: PageRange) -> Result<(), IoError> {
        self.allocate(range)?;
        let mut state = self.state();
        let mut page = range.start.0;
        while page < range.end.0 {
            let At::Extent(extent) = state.extents.at(page) else { break };
            let pages = extent.pages.min(range.end.0 - page);
            if extent.fill == Fill::Unwritten {
                self.convert(&mut state, page, pages)?;
            }
            page += pages;
        }
        Ok(())
    }

    /// Makes all of `range` unwritten: it reads as zeros. The length stays.
    ///
    /// # Errors
    /// No space; what was done before stays.
    #[doc(alias = "FALLOC_FL_ZERO_RANGE")]
    pub fn make_unwritten(&self, range: PageRange) -> Result<(), IoError> {
        self.drop_storage(&mut self.state(), range);
        self.allocate(range)
    }

    /// Takes `range` out of the file: what lies behind moves down, and the file gets shorter.
    #[doc(alias = "FALLOC_FL_COLLAPSE_RANGE")]
    pub fn collapse(&self, range: PageRange) {
        let mut state = self.state();
        self.drop_storage(&mut state, range);
        state.extents.shift(range.end.0, range.start.0);
        state.size = state.size.saturating_sub(range.len() * PAGE_BYTES);
    }

    /// Puts a hole of `range` into the file: what lies there and behind moves up, and the file gets longer.
    #[doc(alias = "FALLOC_FL_INSERT_RANGE")]
    pub fn insert(&self, range: PageRange) {
        let mut state = self.state();
        state.extents.shift(range.start.0, range.end.0);
        state.size += range.len() * PAGE_BYTES;
    }

    /// Writes `bytes` at `offset` behind the engine's back, durable as to data; no planned failure counts. For setting the
    /// scene of a test: it knows nothing of mappings, entries, or the length.
    ///
    /// # Panics
    /// If there is no space.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let range = PageRange::of_bytes(offset, bytes.len() as u64);
        let frames = {
            let mut state = self.state();
            let mut frames = Vec::new();
            for page in range.start.0..range.end.0 {
                if matches!(state.extents.at(page), At::Hole(_)) {
                    let got = self.allocate_run(&mut state, page, 1);
                    got.expect("there is space for what is poked");
                }
                frames.push(self.poke_page(&mut state, page));
            }
            frames
        };
        let mut done = 0;
        for (page, frame) in (range.start.0..).zip(frames) {
            let at = (offset + done as u64) - PageIndex(page).byte();
            let rest = usize::try_from(PAGE_BYTES - at).expect("a page fits in memory");
            let part = &bytes[done..bytes.len().min(done + rest)];
            self.fs().media().poke(frame, at, part);
            done += part.len();
        }
    }
}
