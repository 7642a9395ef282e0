//! Mappings and files, and what they must show.

use crate::{Kind, Options, PAGE};
use std::collections::BTreeMap;
use std::path::PathBuf;
use udax::{File, MmapMut, SharedMap};

pub enum Map {
    Shared(SharedMap),
    Slice(MmapMut),
}

pub struct View {
    pub map: Map,
    pub file: usize,
    pub options: Options,
    /// Of the file; the mapping begins `options.skipped` bytes behind.
    pub first: usize,
    pub pages: usize,
    /// What was stored to a private one.
    pub copies: BTreeMap<usize, u8>,
}

pub struct OneFile {
    pub file: File,
    pub path: PathBuf,
    /// The byte that fills each page.
    pub model: Vec<u8>,
}

impl View {
    /// Where a page begins in it.
    pub fn at(&self, page: usize) -> usize {
        (page - self.first) * PAGE - usize::from(self.options.skipped)
    }

    pub fn is_private(&self) -> bool {
        matches!(self.options.kind, Kind::Private)
    }

    pub fn can_read_at(&self) -> bool {
        self.options.keeps_file || self.options.asks
    }

    /// One of the whole pages that it shows.
    pub fn page(&self, page: u16) -> Option<usize> {
        let beside = usize::from(self.options.skipped != 0);
        Some(self.first + beside + usize::from(page).checked_rem(self.pages - beside)?)
    }

    pub fn load(&self, page: usize, into: &mut [u8; PAGE]) {
        match &self.map {
            Map::Shared(map) => map.load(self.at(page), into),
            Map::Slice(map) => into.copy_from_slice(&map[self.at(page)..][..PAGE]),
        }
    }

    pub fn store(&mut self, page: usize, from: &[u8; PAGE]) {
        let at = self.at(page);
        match &mut self.map {
            Map::Shared(map) => map.store(at, from),
            Map::Slice(map) => map[at..][..PAGE].copy_from_slice(from),
        }
    }

    /// What it shows of a page that the file has.
    pub fn value(&self, files: &[OneFile; 2], page: usize) -> u8 {
        self.copies.get(&page).copied().unwrap_or(files[self.file].model[page])
    }
}

impl OneFile {
    pub fn page(&self, page: u16) -> Option<usize> {
        usize::from(page).checked_rem(self.model.len())
    }

    pub fn range(&self, page: u16, pages: u16) -> Option<(usize, usize)> {
        let page = self.page(page)?;
        Some((page, 1 + usize::from(pages) % (self.model.len() - page)))
    }

    pub fn stranger(&self) -> std::fs::File {
        std::fs::OpenOptions::new().write(true).open(&self.path).expect("opened")
    }
}
