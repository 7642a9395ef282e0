//! Whole faults, from the call of the address space to the end: fault lock, entry lock, index, extents, marks.

use crate::world;
use udax_core::{Access, Fault, PageIndex, Served};

/// `count` loads from holes, a page each.
///
/// # Panics
/// If one is not served.
pub fn hole_faults(count: u64) {
    faults(count, Access::Read);
}

/// `count` first stores to holes, a page each, each of which gets storage.
///
/// # Panics
/// If one is not served.
pub fn write_faults(count: u64) {
    faults(count, Access::Write);
}

fn faults(count: u64, access: Access) {
    let (mapping, vma) = world::file(count);
    for index in 0..count {
        let outcome = mapping.fault(&Fault::new(&vma, PageIndex(index), access));
        assert_eq!(outcome.served, Served::Installed, "page {index}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use udax_core::{Frame, Kind};

    #[test]
    fn a_load_leaves_a_zero_entry_and_a_store_a_dirty_one_for_its_storage() {
        let (mapping, vma) = world::file(8);
        mapping.fault(&Fault::new(&vma, PageIndex(3), Access::Read));
        let outcome = mapping.fault(&Fault::new(&vma, PageIndex(5), Access::Write));
        assert!(outcome.major, "storage was had");
        let found = mapping.entries_in(vma.pages);
        let told: Vec<_> = found.iter().map(|e| (e.start.0, e.entry.kind(), e.dirty)).collect();
        assert_eq!(told, [(3, Kind::Zero, false), (5, Kind::Mapped(Frame(5)), true)]);
    }
}
