//! Loads and stores through mappings, each held against the model.

use super::history::Tick;
use super::model::{CELL_BYTES, Cell, MAY_LOAD, MAY_STORE, Store};
use super::scene::{Area, Scene, lock};
use super::trouble::Reason;
use udax_core::{Durability, PAGE_BYTES, PAGE_SHIFT};
use udax_sim::{AccessError, SimThread};

const BYTES: usize = 8;
const _: () = assert!(BYTES as u64 == CELL_BYTES);

/// What an access came to, as far as it matters.
pub type Accessed = Result<u64, AccessError>;

impl Scene {
    /// Loads a cell through an area, and says what is wrong with what came.
    pub fn load(&self, thread: &SimThread, area: &Area, cell: Cell) -> Result<Accessed, String> {
        let from = self.model().tick();
        let mut bytes = [0; BYTES];
        let loaded = thread.load(area.sim.address(cell.page) + cell.in_page(), &mut bytes);
        let loaded = loaded.map(|()| u64::from_le_bytes(bytes));
        let to = self.model().tick();
        self.check_access(area, cell, loaded.map(drop), (from, to), MAY_LOAD)?;
        if let Ok(value) = loaded {
            let model = self.model();
            if !model.allows(area.number, cell, value, from, to) {
                let file = &model.files[area.file].cells[cell.number];
                let private = model.areas[area.number].private.as_ref();
                let private = private.map(|cells| cells[cell.number].describe(from, to));
                return Err(format!(
                    "loaded {value:#x} at {from}..{to}; the file may hold {:x?} there{}",
                    file.values(from, to),
                    private.unwrap_or_default(),
                ));
            }
        }
        Ok(loaded)
    }

    /// Stores to a cell through an area.
    pub fn store(
        &self,
        thread: &SimThread,
        area: &Area,
        cell: Cell,
        value: u64,
    ) -> Result<Accessed, String> {
        let store: Store = self.model().begin_store(area.number, cell, value);
        let from = store.begin;
        let address = area.sim.address(cell.page) + cell.in_page();
        let stored = thread.store(address, &value.to_le_bytes());
        let metadata_first = area.is_shared() && area.vma.durability == Durability::MetadataFirst;
        self.model().end_store(store, stored.is_ok(), metadata_first);
        let to = self.model().tick();
        self.check_access(area, cell, stored, (from, to), MAY_STORE)?;
        Ok(stored.map(|()| value))
    }

    /// Whether an access could end so.
    fn check_access(
        &self,
        area: &Area,
        cell: Cell,
        ended: Result<(), AccessError>,
        (from, to): (Tick, Tick),
        needs: u64,
    ) -> Result<(), String> {
        let model = self.model();
        let excuses = lock(&self.excuses);
        let was = |reason| excuses.was(reason, from, to);
        let rights = &model.areas[area.number].rights[cell.place];
        let size = &model.files[area.file].size;
        let page = cell.offset >> PAGE_SHIFT;
        let may_end_before = size.may_be(from, to, |size| size.div_ceil(PAGE_BYTES) <= page);
        let is_store = needs == MAY_STORE;
        let (is_right, why) = match ended {
            Ok(()) => (
                rights.may_be(from, to, |rights| rights >= needs)
                    && size.may_be(from, to, |size| size.div_ceil(PAGE_BYTES) > page),
                "it went through",
            ),
            Err(AccessError::Segmentation) => {
                (rights.may_be(from, to, |rights| rights < needs), "SIGSEGV")
            }
            Err(AccessError::BusError) => (
                may_end_before
                    || was(Reason::Calls)
                    || (is_store && (was(Reason::Space) || was(Reason::Poison))),
                "SIGBUS",
            ),
            Err(AccessError::Poisoned) => {
                (was(Reason::Poison) || was(Reason::Calls), "SIGBUS for poison")
            }
            Err(AccessError::OutOfMemory) => {
                (was(Reason::Memory) || was(Reason::Calls), "out of memory")
            }
        };
        if is_right {
            return Ok(());
        }
        Err(format!(
            "{why}, but the rights may be {:?}, the length {:?}",
            rights.values(from, to),
            size.values(from, to)
        ))
    }
}
