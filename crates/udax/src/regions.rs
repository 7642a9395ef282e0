//! The registry: which addresses are served, and for which file.
//!
//! Glossary: a *region* is one served VMA. Faults, and whoever changes what a region maps, hold the registry shared; whoever makes,
//! cuts or ends regions holds it exclusively, over the kernel's own call too, so that an address range never changes hands under a fault.

use crate::served::ServedFile;
use crate::window::Window;
use crate::world::Vma;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use udax_core::{Durability, HugePages, PAGE_SHIFT, PageRange, Sharing};
use udax_linux::{LinuxSpace, VmaArea};

/// One served VMA.
pub(crate) struct Region {
    pub(crate) file: Arc<ServedFile>,
    pub(crate) vma: Arc<Vma>,
    pub(crate) loads: Window,
    pub(crate) stores: Window,
}

impl Region {
    /// A region over `space`, known to its file's mapping from now on.
    pub(crate) fn attach(file: &Arc<ServedFile>, space: LinuxSpace) -> Self {
        let area = space.area();
        let vma = Arc::new(Vma {
            pages: area.pages(),
            address_page: (area.address() >> PAGE_SHIFT) as u64,
            sharing: engine_sharing(area),
            durability: Durability::AtSync,
            huge_pages: HugePages::Allowed,
            space,
        });
        file.mapping.attach(Arc::clone(&vma));
        Self { file: Arc::clone(file), vma, loads: Window::default(), stores: Window::default() }
    }

    pub(crate) fn area(&self) -> VmaArea {
        self.vma.space.area()
    }

    pub(crate) fn addresses(&self) -> Range<usize> {
        self.area().address()..self.area().end()
    }

    /// Takes the region out of its file's mapping and gives the space back. The registry is held exclusively; who looks at the VMA all the same, as who gives
    /// back does, is left with one of no pages.
    pub(crate) fn detach(self) -> (Arc<ServedFile>, LinuxSpace) {
        self.file.mapping.detach(&self.vma);
        let space = match Arc::try_unwrap(self.vma) {
            Ok(vma) => vma.space,
            Err(looked_at) => looked_at.space.take(),
        };
        (self.file, space)
    }
}

fn engine_sharing(area: VmaArea) -> Sharing {
    match area.sharing() {
        udax_linux::Sharing::Shared => Sharing::Shared,
        udax_linux::Sharing::Private => Sharing::Private,
    }
}

/// All regions, by first address. They never overlap.
#[derive(Default)]
pub(crate) struct Regions {
    by_address: BTreeMap<usize, Region>,
}

impl Regions {
    pub(crate) fn insert(&mut self, region: Region) {
        self.by_address.insert(region.area().address(), region);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Region> {
        self.by_address.values()
    }

    /// The region at `address`.
    pub(crate) fn at(&self, address: usize) -> Option<&Region> {
        let (_, region) = self.by_address.range(..=address).next_back()?;
        (address < region.area().end()).then_some(region)
    }

    /// The regions that have any of `addresses`, in order.
    pub(crate) fn over(&self, addresses: &Range<usize>) -> impl Iterator<Item = &Region> {
        let first =
            self.at(addresses.start).map_or(addresses.start, |region| region.area().address());
        let end = addresses.end.max(first);
        self.by_address.range(first..end).map(|(_, region)| region)
    }

    /// Takes out the regions of one file.
    pub(crate) fn take_file(&mut self, file: &Arc<ServedFile>) -> Vec<Region> {
        let taken = self.by_address.extract_if(.., |_, region| Arc::ptr_eq(&region.file, file));
        taken.map(|(_, region)| region).collect()
    }

    /// Takes out exactly what lies in `addresses`; regions that stick out are cut, and their other parts stay.
    pub(crate) fn carve(&mut self, addresses: &Range<usize>) -> Vec<Region> {
        let starts: Vec<usize> =
            self.over(addresses).map(|region| region.area().address()).collect();
        let mut taken = Vec::new();
        for start in starts {
            let Some(region) = self.by_address.remove(&start) else { continue };
            self.carve_one(region, addresses, &mut taken);
        }
        taken
    }

    fn carve_one(&mut self, region: Region, addresses: &Range<usize>, taken: &mut Vec<Region>) {
        let area = region.area();
        if addresses.start <= area.address() && area.end() <= addresses.end {
            taken.push(region);
            return;
        }
        let (file, mut middle) = region.detach();
        if area.address() < addresses.start
            && let Some(cut) = area.page_of(addresses.start)
        {
            let (lower, upper) = middle.into_split(cut);
            self.insert(Region::attach(&file, lower));
            middle = upper;
        }
        if addresses.end < area.end()
            && let Some(cut) = area.page_of(addresses.end)
        {
            let (lower, upper) = middle.into_split(cut);
            self.insert(Region::attach(&file, upper));
            middle = lower;
        }
        taken.push(Region::attach(&file, middle));
    }
}

/// The file pages of the part of `area` that lies in `addresses`, all of the pages at its ends.
pub(crate) fn pages_within(area: VmaArea, addresses: &Range<usize>) -> PageRange {
    let start = addresses.start.max(area.address());
    let end = addresses.end.min(area.end());
    match area.page_of(start) {
        Some(first) if start < end => {
            let in_page = start % (1 << PAGE_SHIFT);
            PageRange::new(first, ((in_page + end - start) as u64).div_ceil(1 << PAGE_SHIFT))
        }
        Some(_) | None => PageRange::new(area.pages().start, 0),
    }
}
