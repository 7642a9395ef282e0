//! Mappings: what mmap, munmap, mprotect, mremap and madvise make of VMAs.
//!
//! Glossary: a *map* is what the script names; its *pieces* are the VMAs that it has been cut into.

use super::files::Node;
use super::{Answer, Failed, Player, done};
use crate::recording::Record;
use crate::script::{MapFlags, Place, Prot};
use std::sync::Arc;
use udax_core::{
    Durability, HugePages, PAGE_BYTES, PMD_BYTES, PMD_PAGES, PageIndex, PageRange, Sharing, Vma,
};
use udax_sim::{Congruence, Process, Protection, SimVma, SimWorld, VmaLayout};

/// What all pages of one piece have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) prot: Prot,
    pub(super) huge_pages: HugePages,
    /// It is private and could once be stored to: its memory is accounted for.
    pub(super) is_accounted: bool,
    /// As `madvise` said: `sr`, `rr`.
    pub(super) reading: Option<&'static str>,
}

/// One VMA.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) layout: VmaLayout,
    pub(super) traits: Traits,
    pub(super) vma: Arc<Vma<SimWorld>>,
}

/// One mapping by its name in the script.
pub(super) struct Map {
    pub(super) node: Arc<Node>,
    pub(super) is_dax: bool,
    pub(super) may_write: bool,
    pub(super) sharing: Sharing,
    pub(super) durability: Durability,
    /// The address page of the mapping's first page, and which page of the file that is.
    pub(super) address_page: u64,
    pub(super) first_page: u64,
    pub(super) pieces: Vec<Piece>,
}

pub(super) fn protection(prot: Prot) -> Protection {
    match prot {
        Prot::ReadOnly => Protection::Read,
        // On x86 what may be written may be read.
        Prot::ReadWrite | Prot::WriteOnly => Protection::ReadWrite,
        Prot::None => Protection::None,
    }
}

pub(super) fn may_store(prot: Prot) -> bool {
    protection(prot) == Protection::ReadWrite
}

impl Map {
    pub(super) fn address(&self, offset: u64) -> u64 {
        (self.address_page * PAGE_BYTES + offset).wrapping_sub(self.first_page * PAGE_BYTES)
    }

    /// The address page of a page of the file.
    fn page_at(&self, page: u64) -> u64 {
        (self.address_page + page) - self.first_page
    }

    /// The file page behind an address page.
    pub(super) fn file_page(&self, address_page: u64) -> u64 {
        address_page - self.address_page + self.first_page
    }

    pub(super) fn holds(&self, address: u64) -> bool {
        let page = address / PAGE_BYTES;
        self.pieces.iter().any(|piece| {
            (piece.layout.address_page..piece.layout.address_page + piece.layout.pages.len())
                .contains(&page)
        })
    }

    /// The file pages of a place; of the whole mapping if there is none.
    pub(super) fn range(&self, place: Option<Place>) -> PageRange {
        match place {
            Some(place) => PageRange::of_bytes(place.offset, place.length),
            None => {
                let end =
                    self.pieces.last().map_or(self.first_page, |last| last.layout.pages.end.0);
                PageRange { start: PageIndex(self.first_page), end: PageIndex(end) }
            }
        }
    }

    /// Whether every page of `range` is mapped.
    pub(super) fn covers(&self, range: PageRange) -> bool {
        let mapped: u64 =
            self.pieces.iter().map(|piece| piece.layout.pages.intersect(range).len()).sum();
        mapped == range.len()
    }

    fn serve(&self, sim: &SimVma, traits: Traits) -> Piece {
        let vma = sim.serve(&self.node.mapping, self.durability, traits.huge_pages);
        Piece { layout: sim.layout(), traits, vma }
    }

    pub(super) fn detach(&self) {
        for piece in &self.pieces {
            self.node.mapping.detach(&piece.vma);
        }
    }

    /// The same mapping in a child.
    pub(super) fn copy(&self, vmas: &[(Arc<SimVma>, Arc<SimVma>)]) -> Self {
        let pieces = self.pieces.iter().filter_map(|piece| {
            let same = |(old, _): &&(Arc<SimVma>, Arc<SimVma>)| old.layout() == piece.layout;
            let (_, sim) = vmas.iter().find(same)?;
            Some(self.serve(sim, piece.traits))
        });
        Self { pieces: pieces.collect(), node: Arc::clone(&self.node), ..*self }
    }

    /// Cuts the pieces at the ends of `range`, changes what is in it, and joins those that are alike.
    fn change(
        &mut self,
        process: &Process,
        range: PageRange,
        change: impl Fn(&mut Traits) -> bool,
    ) {
        let mut wanted: Vec<(PageRange, Traits)> = Vec::new();
        for piece in &self.pieces {
            let pages = piece.layout.pages;
            let inside = pages.intersect(range);
            let parts = if inside.is_empty() {
                [pages, PageRange::new(pages.end, 0), PageRange::new(pages.end, 0)]
            } else {
                [
                    PageRange::between(pages.start, inside.start),
                    inside,
                    PageRange::between(inside.end, pages.end),
                ]
            };
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                let mut traits = piece.traits;
                if range.covers(part) && !change(&mut traits) {
                    continue;
                }
                match wanted.last_mut() {
                    Some((last, same)) if *same == traits && last.end == part.start => {
                        last.end = part.end;
                    }
                    _ => wanted.push((part, traits)),
                }
            }
        }
        let old = std::mem::take(&mut self.pieces);
        let mut kept = Vec::new();
        for (pages, traits) in wanted {
            let layout = VmaLayout {
                pages,
                address_page: self.page_at(pages.start.0),
                sharing: self.sharing,
                protection: protection(traits.prot),
            };
            let same = old.iter().find(|one| one.layout.pages == pages && one.traits == traits);
            let piece = same.cloned().unwrap_or_else(|| {
                let made = process.revise(&[layout]);
                self.serve(&made[0], traits)
            });
            kept.push(piece);
        }
        for piece in old {
            if !kept.iter().any(|one| Arc::ptr_eq(&one.vma, &piece.vma)) {
                self.node.mapping.detach(&piece.vma);
            }
        }
        self.pieces = kept;
    }
}

impl Player<'_> {
    pub(super) fn is_mapped(&self, node: &Arc<Node>) -> bool {
        self.processes.iter().any(|process| {
            process.maps.values().any(|map| Arc::ptr_eq(&map.node, node) && !map.pieces.is_empty())
        })
    }

    /// How far off 2 MiB the kernel put what it was free to put anywhere, as recorded; else as it likes to for DAX.
    fn chosen_congruence(&self, first_page: u64, pages: u64) -> Congruence {
        let off = match self.hint.and_then(|hint| hint.addr_mod_2m) {
            Some(address) => (address + PMD_PAGES - first_page % PMD_PAGES) % PMD_PAGES,
            None => u64::from(pages < PMD_PAGES),
        };
        if off == 0 { Congruence::Aligned } else { Congruence::OffBy(off) }
    }

    pub(super) fn mmap(
        &mut self,
        name: &str,
        file: &str,
        place: Place,
        prot: Prot,
        flags: MapFlags,
    ) -> Answer {
        let file = self.file(file)?;
        let open = file.open.ok_or(Failed::Errno("EBADF"))?;
        let (node, is_dax) = (Arc::clone(&file.node), file.is_dax);
        if place.length == 0 || !place.offset.is_multiple_of(PAGE_BYTES) {
            return Err(Failed::Errno("EINVAL"));
        }
        if flags.validate && flags.noreplace {
            // No flag that MAP_SHARED_VALIDATE knows of on a file.
            return Err(Failed::Errno("EOPNOTSUPP"));
        }
        if !flags.private && may_store(prot) && open.read_only {
            return Err(Failed::Errno("EACCES"));
        }
        if flags.sync && !is_dax {
            return Err(Failed::Errno("EOPNOTSUPP"));
        }
        let pages = PageRange::of_bytes(place.offset, place.length);
        let sharing = if flags.private { Sharing::Private } else { Sharing::Shared };
        let congruence = if flags.auto {
            self.chosen_congruence(pages.start.0, pages.len())
        } else if flags.misaligned {
            Congruence::OffBy(1)
        } else {
            Congruence::Aligned
        };
        let process = &self.here().process;
        let address_page = process.free_address(pages, congruence);
        let layout = VmaLayout { pages, address_page, sharing, protection: protection(prot) };
        let sim = process.map(layout);
        let durability = if flags.sync { Durability::MetadataFirst } else { Durability::AtSync };
        let mut map = Map {
            node,
            is_dax,
            may_write: flags.private || !open.read_only,
            sharing,
            durability,
            address_page,
            first_page: pages.start.0,
            pieces: Vec::new(),
        };
        let is_accounted = flags.private && may_store(prot);
        let traits = Traits { prot, huge_pages: HugePages::Allowed, is_accounted, reading: None };
        let piece = map.serve(&sim, traits);
        map.pieces.push(piece);
        self.drop_map(name);
        self.here_mut().maps.insert(name.to_owned(), map);
        if flags.populate {
            // What it meets is not told.
            let _ = self.populate(name, pages, None);
        }
        Ok(Record {
            ok: Some(true),
            addr_mod_2m: Some(address_page % PMD_PAGES),
            off_mod_2m: Some(place.offset % PMD_BYTES / PAGE_BYTES),
            ..Record::default()
        })
    }

    /// A name that is used again leaves its old mapping where it is; only munmap would end that.
    fn drop_map(&mut self, name: &str) {
        let here = self.here_mut();
        if let Some(old) = here.maps.remove(name) {
            let mut number = 1;
            while here.maps.contains_key(&format!("{name}#{number}")) {
                number += 1;
            }
            here.maps.insert(format!("{name}#{number}"), old);
        }
    }

    pub(super) fn munmap(&mut self, name: &str, place: Option<Place>) -> Answer {
        let map = self.map(name)?;
        let range = map.range(place);
        if range.is_empty() {
            return Err(Failed::Errno("EINVAL"));
        }
        let address_page = map.page_at(range.start.0);
        let here = self.here_mut();
        let map = here.maps.get_mut(name).ok_or(Failed::NoSuchName)?;
        here.process.unmap(address_page, range.len());
        map.change(&here.process, range, |_| false);
        if map.pieces.is_empty() && place.is_none() {
            here.maps.remove(name);
        }
        done()
    }

    pub(super) fn mprotect(&mut self, name: &str, place: Place, prot: Prot) -> Answer {
        let up_to = self.flavour.restores_stores_up_to();
        let map = self.map(name)?;
        if !place.offset.is_multiple_of(PAGE_BYTES) {
            return Err(Failed::Errno("EINVAL"));
        }
        let range = map.range(Some(place));
        if !map.covers(range) {
            return Err(Failed::Errno("ENOMEM"));
        }
        if may_store(prot) && !map.may_write {
            return Err(Failed::Errno("EACCES"));
        }
        let address_page = map.page_at(range.start.0);
        let here = self.here_mut();
        let map = here.maps.get_mut(name).ok_or(Failed::NoSuchName)?;
        let is_private = map.sharing == Sharing::Private;
        map.change(&here.process, range, |traits| {
            traits.prot = prot;
            traits.is_accounted |= is_private && may_store(prot);
            true
        });
        here.process.protect(address_page, range.len(), protection(prot));
        if may_store(prot) {
            here.process.allow_dirty_stores(address_page, range.len(), up_to);
        }
        done()
    }

    pub(super) fn mremap(&mut self, name: &str, length: u64, may_move: bool) -> Answer {
        let map = self.map(name)?;
        let [piece] = map.pieces.as_slice() else { return Err(Failed::Errno("EFAULT")) };
        let (old, new) = (piece.layout.pages.len(), length.div_ceil(PAGE_BYTES));
        if new == 0 {
            return Err(Failed::Errno("EINVAL"));
        }
        if new < old {
            let (offset, length) = ((map.first_page + new) * PAGE_BYTES, (old - new) * PAGE_BYTES);
            self.munmap(name, Some(Place { offset, length }))?;
        } else if new > old {
            let congruence = self.chosen_congruence(map.first_page, new);
            self.grow(name, new, may_move, congruence)?;
        }
        let address_page = self.map(name)?.address_page;
        Ok(Record {
            ok: Some(true),
            addr_mod_2m: Some(address_page % PMD_PAGES),
            ..Record::default()
        })
    }

    /// Makes a mapping of one piece longer: at its place if the addresses behind it are free, else elsewhere.
    fn grow(
        &mut self,
        name: &str,
        pages: u64,
        may_move: bool,
        congruence: Congruence,
    ) -> Result<(), Failed> {
        let here = self.here();
        let map = here.maps.get(name).ok_or(Failed::NoSuchName)?;
        let (start, end) = (map.address_page, map.address_page + pages);
        let others = here.maps.iter().filter(|(other, _)| *other != name);
        let is_free = !others.flat_map(|(_, map)| &map.pieces).any(|piece| {
            let first = piece.layout.address_page;
            first < end && start < first + piece.layout.pages.len()
        });
        if !is_free && !may_move {
            return Err(Failed::Errno("ENOMEM"));
        }
        let here = self.here_mut();
        let map = here.maps.get_mut(name).ok_or(Failed::NoSuchName)?;
        let piece = map.pieces[0].clone();
        let wanted = PageRange::new(piece.layout.pages.start, pages);
        let sim = if is_free {
            let behind = PageRange::between(piece.layout.pages.end, wanted.end);
            let address_page = map.page_at(behind.start.0);
            let more = VmaLayout { pages: behind, address_page, ..piece.layout };
            let _more = here.process.map(more);
            here.process.revise(&[VmaLayout { pages: wanted, ..piece.layout }]).remove(0)
        } else {
            let address_page = here.process.free_address(wanted, congruence);
            let layout = VmaLayout { pages: wanted, address_page, ..piece.layout };
            let sim = here.process.map(layout);
            let (from, old) = (piece.layout.address_page, piece.layout.pages.len());
            here.process.move_translations(from, address_page, old);
            map.address_page = address_page;
            sim
        };
        map.node.mapping.detach(&piece.vma);
        map.pieces = vec![map.serve(&sim, piece.traits)];
        Ok(())
    }

    pub(super) fn madvise(&mut self, name: &str, place: Place, advice: &str) -> Answer {
        let map = self.map(name)?;
        let range = map.range(Some(place));
        if !place.offset.is_multiple_of(PAGE_BYTES) {
            return Err(Failed::Errno("EINVAL"));
        }
        if range.is_empty() {
            return done();
        }
        if !map.covers(range) {
            return Err(Failed::Errno("ENOMEM"));
        }
        let address_page = map.page_at(range.start.0);
        match advice {
            "dontneed" => self.here().process.discard(address_page, range.len()),
            "hugepage" | "nohugepage" => {
                let huge_pages =
                    if advice == "hugepage" { HugePages::Allowed } else { HugePages::Never };
                self.change_traits(name, range, move |traits| traits.huge_pages = huge_pages)?;
            }
            "normal" | "random" | "sequential" => {
                let reading = match advice {
                    "random" => Some("rr"),
                    "sequential" => Some("sr"),
                    _ => None,
                };
                self.change_traits(name, range, move |traits| traits.reading = reading)?;
            }
            // There is nothing to read in, and nothing to write out, of DAX pages.
            "willneed" | "cold" | "pageout" => {}
            "free" => return Err(Failed::Errno("EINVAL")),
            "populate_read" | "populate-read" | "populateread" | "populate_write"
            | "populate-write" | "populatewrite" => {
                return self.madvise_populate(name, range, advice.ends_with("write"));
            }
            "remove" => return self.madvise_remove(name, range),
            _ => return Err(Failed::NotCompared("this advice is not simulated")),
        }
        done()
    }

    fn change_traits(
        &mut self,
        name: &str,
        range: PageRange,
        change: impl Fn(&mut Traits),
    ) -> Result<(), Failed> {
        let here = self.here_mut();
        let map = here.maps.get_mut(name).ok_or(Failed::NoSuchName)?;
        map.change(&here.process, range, |traits| {
            change(traits);
            true
        });
        Ok(())
    }

    fn madvise_populate(&mut self, name: &str, range: PageRange, write: bool) -> Answer {
        if !self.flavour.has_madv_populate() {
            return Err(Failed::Errno("EINVAL"));
        }
        match self.populate(name, range, Some(write)) {
            Ok(()) => done(),
            Err(Failed::Signal("SIGBUS", _)) => Err(Failed::Errno("EFAULT")),
            Err(Failed::Signal("SIGSEGV", _)) => Err(Failed::Errno("EINVAL")),
            Err(other) => Err(other),
        }
    }

    fn madvise_remove(&mut self, name: &str, range: PageRange) -> Answer {
        let map = self.map(name)?;
        if map.sharing == Sharing::Private || !map.may_write {
            return Err(Failed::Errno("EACCES"));
        }
        let node = Arc::clone(&map.node);
        let offset = range.start.byte();
        self.punch(&node, offset, range.end.byte() - offset)
    }
}
