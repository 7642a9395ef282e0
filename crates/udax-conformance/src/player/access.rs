//! Loads and stores through mappings, and faulting pages in ahead of them.

use super::maps::may_store;
use super::{Answer, Failed, Player, done};
use crate::recording::Record;
use crate::script::Place;
use udax_core::{PAGE_BYTES, PageIndex, PageRange, Sharing};
use udax_sim::Target;

impl Player<'_> {
    /// What an access to `address` of a mapping failed with: no address of anybody's, or one without the right.
    fn signal(&self, name: &str, address: u64, failed: Failed) -> Failed {
        let is_mapped = self.map(name).is_ok_and(|map| map.holds(address));
        if !is_mapped && matches!(failed, Failed::Signal("SIGSEGV", _)) {
            return Failed::Signal("SIGSEGV", "SEGV_MAPERR");
        }
        failed
    }

    pub(super) fn load(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<(), Failed> {
        let map = self.map(name)?;
        if !map.is_dax {
            return Err(Failed::NotCompared("the file is in the page cache: no DAX"));
        }
        let address = map.address(offset);
        let loaded = self.here().thread.load(address, into);
        loaded.map_err(|error| self.signal(name, address, error.into()))
    }

    pub(super) fn store(&self, name: &str, offset: u64, from: &[u8]) -> Result<(), Failed> {
        let map = self.map(name)?;
        if !map.is_dax {
            return Err(Failed::NotCompared("the file is in the page cache: no DAX"));
        }
        let address = map.address(offset);
        let stored = self.here().thread.store(address, from);
        if map.sharing == Sharing::Shared {
            map.node.note_store(offset + from.len() as u64);
        }
        stored.map_err(|error| self.signal(name, address, error.into()))
    }

    pub(super) fn read(&self, name: &str, page: u64, byte: u64) -> Answer {
        let mut value = [0];
        self.load(name, page * PAGE_BYTES + byte, &mut value)?;
        let val = Some(format!("{:02x}", value[0]));
        let known = self.map(name)?.node.looks_past_end(PageRange::new(PageIndex(page), 1));
        Ok(Record { ok: Some(true), val, known, ..Record::default() })
    }

    pub(super) fn write(&self, name: &str, page: u64, value: u8, byte: u64) -> Answer {
        self.store(name, page * PAGE_BYTES + byte, &[value])?;
        done()
    }

    /// The first byte of each page, loaded, or stored to with `value`.
    pub(super) fn touch(
        &self,
        name: &str,
        pages: impl Iterator<Item = u64>,
        value: Option<u8>,
    ) -> Answer {
        let (mut touched, mut nonzero) = (0, 0);
        let mut failed = None;
        for page in pages {
            let mut byte = [0];
            let result = match value {
                Some(value) => self.store(name, page * PAGE_BYTES, &[value]),
                None => self.load(name, page * PAGE_BYTES, &mut byte),
            };
            if let Err(error) = result {
                failed = Some(error);
                break;
            }
            touched += 1;
            nonzero += u64::from(byte[0] != 0);
        }
        let mut record =
            failed.map_or_else(|| Record { ok: Some(true), ..Record::default() }, super::failure);
        record.done = Some(touched);
        record.nonzero = value.is_none().then_some(nonzero);
        Ok(record)
    }

    pub(super) fn fill(&self, name: &str, page: u64, count: u64, value: u8) -> Answer {
        let bytes = [value; 4096];
        for page in page..page + count {
            self.store(name, page * PAGE_BYTES, &bytes)?;
        }
        done()
    }

    pub(super) fn mlock(&mut self, name: &str, place: Option<Place>) -> Answer {
        let map = self.map(name)?;
        let range = map.range(place);
        if !map.covers(range) {
            return Err(Failed::Errno("ENOMEM"));
        }
        match self.populate(name, range, None) {
            Ok(()) => done(),
            Err(Failed::Signal(..)) => Err(Failed::Errno("ENOMEM")),
            Err(other) => Err(other),
        }
    }

    /// Faults every page of `range` in, as far as that goes: by loads, and where the mapping is private and may be stored to by
    /// stores that change nothing; or by `write` as said.
    pub(super) fn populate(
        &mut self,
        name: &str,
        range: PageRange,
        write: Option<bool>,
    ) -> Result<(), Failed> {
        let map = self.map(name)?;
        let breaks_cow = map.sharing == Sharing::Private;
        let mapping = std::sync::Arc::clone(&map.node.mapping);
        for page in range.start.0..range.end.0 {
            let map = self.map(name)?;
            let at = map.pieces.iter().find(|piece| piece.layout.pages.contains(PageIndex(page)));
            let Some(piece) = at else { return Err(Failed::Errno("ENOMEM")) };
            let store = write.unwrap_or(breaks_cow && may_store(piece.traits.prot));
            if !store {
                self.load(name, page * PAGE_BYTES, &mut [0])?;
                continue;
            }
            let address_page = map.address(page * PAGE_BYTES) / PAGE_BYTES;
            let translations = self.here().process.translation_at(address_page);
            if translations.is_some_and(|found| found.target == Target::PrivateCopy) {
                continue;
            }
            let mut byte = [0];
            mapping.read(page * PAGE_BYTES, &mut byte)?;
            self.store(name, page * PAGE_BYTES, &byte)?;
        }
        Ok(())
    }
}
