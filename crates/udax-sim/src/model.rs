//! What a file is, without any machinery: an array of bytes. Tests hold the engine against it.

use crate::cache::FRAME_BYTES;
use std::collections::BTreeMap;
use udax_core::PAGE_BYTES;

/// A sparse array of bytes with a length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileModel {
    size: u64,
    /// Pages that were ever stored to.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl FileModel {
    /// `size` zeros.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, pages: BTreeMap::new() }
    }

    /// The length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes from `offset` on; zeros where nothing was stored and past the end.
    pub fn load(&self, offset: u64, into: &mut [u8]) {
        for (place, byte) in (offset..).zip(into) {
            let page = self.pages.get(&(place / PAGE_BYTES)).filter(|_| place < self.size);
            *byte = page.map_or(0, |page| page[in_page(place)]);
        }
    }

    /// Stores `bytes` at `offset`; what lies past the end is not kept.
    pub fn store(&mut self, offset: u64, bytes: &[u8]) {
        for (place, byte) in (offset..self.size).zip(bytes) {
            let page = self.pages.entry(place / PAGE_BYTES).or_insert_with(|| vec![0; FRAME_BYTES]);
            page[in_page(place)] = *byte;
        }
    }

    /// Stores `bytes` at `offset` as write(2) does: the file grows.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.size = self.size.max(offset + bytes.len() as u64);
        }
        self.store(offset, bytes);
    }

    /// Makes `length` bytes from `offset` on zeros; the length stays.
    pub fn punch(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.size);
        for (number, page) in &mut self.pages {
            let start = number * PAGE_BYTES;
            let (from, to) = (offset.max(start), end.min(start + PAGE_BYTES));
            if from < to {
                let last = in_page(to - 1);
                page[in_page(from)..=last].fill(0);
            }
        }
    }

    /// Cuts the file, or lets it grow by zeros.
    pub fn set_size(&mut self, size: u64) {
        let old = self.size;
        if size < old {
            self.punch(size, old - size);
        }
        self.size = size;
    }

    /// All bytes.
    ///
    /// # Panics
    /// If the file is larger than memory.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(self.size).expect("the file fits in memory")];
        for (number, page) in &self.pages {
            let start = usize::try_from(number * PAGE_BYTES).expect("the file fits in memory");
            if start < all.len() {
                let end = all.len().min(start + page.len());
                all[start..end].copy_from_slice(&page[..end - start]);
            }
        }
        all
    }
}

fn in_page(place: u64) -> usize {
    usize::try_from(place % PAGE_BYTES).expect("a page fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_reads_as_zeros_when_the_file_grows() {
        let mut model = FileModel::new(10_000);
        model.store(4090, &[7; 20]);
        model.store(9_999, &[1, 2]);
        model.set_size(4_100);
        model.set_size(10_000);
        let contents = model.contents();
        assert_eq!(&contents[4089..4102], &[0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
        assert_eq!(contents[9_999], 0);
        model.punch(4091, 8);
        model.write(10_000, &[5]);
        let mut bytes = [9; 12];
        model.load(4090, &mut bytes);
        assert_eq!(bytes, [7, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0]);
        assert_eq!((model.size(), model.contents().last()), (10_001, Some(&5)));
    }
}
