//! A file's bytes from outside of the engine: as they are, and as a power cut would leave them.

use crate::cache::Evicted;
use crate::extents::{At, Extent, ExtentMap, Fill};
use crate::file::SimFile;
use udax_core::{Frame, PAGE_BYTES};

impl SimFile {
    /// The file's bytes, as a load would see them now; poison does not matter.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let (size, extents) = self.snapshot();
        self.bytes(size, &extents, |frame, into| self.fs().media().peek(frame, 0, into))
    }

    /// The file's bytes after a power cut now: durable length, durable extents, durable bytes.
    #[must_use]
    pub fn contents_after_crash(&self, evicted: Evicted) -> Vec<u8> {
        // Both at one moment: nobody else gets the turn between.
        let durable = self.durable().clone();
        let image = self.fs().media().crash(evicted);
        self.bytes(durable.size, &durable.extents, |frame, into| image.read(frame, 0, into))
    }

    /// The length after a power cut now. Never gives the turn away, as [`byte_run_after_crash`](Self::byte_run_after_crash): a
    /// caller sees one power cut in as many calls as it likes.
    #[must_use]
    pub fn size_after_crash(&self) -> u64 {
        self.durable().size
    }

    /// What a power cut now would leave of the bytes from `offset` on, in one page; cheaper than everything. Past the durable length: zeros.
    ///
    /// # Panics
    /// If the bytes lie in two pages.
    pub fn byte_run_after_crash(&self, offset: u64, evicted: Evicted, into: &mut [u8]) {
        into.fill(0);
        let durable = self.durable();
        let (page, at) = (offset / PAGE_BYTES, offset % PAGE_BYTES);
        assert!(at + into.len() as u64 <= PAGE_BYTES, "the bytes lie in one page");
        let kept = usize::try_from(durable.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let kept = kept.min(into.len());
        if let At::Extent(Extent { block, fill: Fill::Written, .. }) = durable.extents.at(page) {
            let frame = self.fs().frame(block);
            self.fs().media().peek_after_crash(frame, at, evicted, &mut into[..kept]);
        }
    }

    fn bytes(&self, size: u64, extents: &ExtentMap, read: impl Fn(Frame, &mut [u8])) -> Vec<u8> {
        let in_memory = |bytes: u64| usize::try_from(bytes).expect("the file fits in memory");
        let mut all = vec![0; in_memory(size)];
        for (start, extent) in extents.iter().filter(|(_, extent)| extent.fill == Fill::Written) {
            let at = in_memory(start * PAGE_BYTES);
            if at >= all.len() {
                break;
            }
            let end = all.len().min(at + in_memory(extent.pages * PAGE_BYTES));
            read(self.fs().frame(extent.block), &mut all[at..end]);
        }
        all
    }
}
