//! A thread that does one thing after the other, as its seed draws them.

use super::config::Op;
use super::model::{CUTS, Cell, MAY_LOAD, MAY_STORE, NO_RIGHTS};
use super::report::Counts;
use super::scene::{Area, File, Scene, ServedVma, lock};
use super::trouble::Reason;
use std::sync::Arc;
use udax_core::{
    Durability, HugePages, IoError, Order, PAGE_BYTES, PMD_PAGES, PageIndex, PageRange, Sharing,
};
use udax_sim::{Congruence, Prng, Process, Protection, SimVma, VmaLayout, note, steps};

/// VMAs that there are at most.
const MOST_AREAS: usize = 12;
/// Processes that there are at most.
const MOST_PROCESSES: usize = 4;

/// One worker.
pub struct Worker {
    pub scene: Arc<Scene>,
    pub number: usize,
    pub prng: Prng,
    stored: u64,
    said: String,
}

impl Worker {
    pub fn new(scene: &Arc<Scene>, number: usize) -> Self {
        let seed = scene.config.seed.wrapping_add(0x9_2137 * (number as u64 + 1));
        let prng = Prng::new(Prng::new(seed).next());
        Self { scene: Arc::clone(scene), number, prng, stored: 0, said: String::new() }
    }

    /// Works until the run has had its turns.
    pub fn work(mut self) {
        while steps() < self.scene.config.steps {
            let op = self.scene.config.op(&mut self.prng);
            self.perform(op);
            Counts::add(&self.scene.counts.operations);
        }
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Load | Op::Store => self.access(op),
            Op::Map => self.map(),
            Op::Unmap => self.unmap(),
            Op::Protect => self.protect(),
            Op::Discard => self.discard(),
            Op::Fork => self.fork(),
            Op::Exit => self.exit(),
            Op::Read => self.read(),
            Op::Write => self.write(),
            Op::Repair => self.repair(),
            Op::Truncate => self.truncate(),
            Op::Punch => self.punch(),
            Op::ZeroRange => self.zero_range(),
            Op::Unwritten => self.make_unwritten(),
            Op::Allocate => self.allocate(),
            Op::WriteZeros => self.write_zeros(),
            Op::Sync => self.sync(),
            Op::Writeback => self.writeback(),
            Op::Reflink => self.reflink(),
            Op::Unshare => self.unshare(),
            Op::Collapse => self.collapse(),
            Op::Evict => self.evict(),
            Op::Poison => self.poison(),
            Op::Cure => self.cure(),
        }
    }

    /// An operation begins.
    pub fn say(&mut self, what: String) {
        note(what.clone());
        self.scene.trail.begin(self.number, format!("{:>6} {what}", steps()));
        self.said = what;
    }

    /// It has ended.
    pub fn done(&self, how: &str) {
        self.scene.trail.end(self.number, &format!(" -> {how} ({})", steps()));
    }

    /// It has ended as it must not.
    pub fn wrong(&self, why: &str) -> ! {
        self.done("WRONG");
        panic!("{}: {why}", self.said)
    }

    /// It has failed: there must have been a reason.
    pub fn failed(&self, error: IoError, from: u64, to: u64) {
        if !lock(&self.scene.excuses).excuse(error, from, to) {
            self.wrong(&format!("{error}, for no reason"));
        }
        Counts::add(&self.scene.counts.failed);
    }

    /// A value that nobody else stores.
    pub fn value(&mut self) -> u64 {
        self.stored += 1;
        ((self.number as u64 + 1) << 32) | self.stored
    }

    pub fn any_file(&mut self) -> usize {
        self.prng.place(self.scene.files.len())
    }

    pub fn file(&self, file: usize) -> &File {
        &self.scene.files[file]
    }

    /// One of the pages that are looked at.
    pub fn any_page(&mut self) -> u64 {
        self.scene.config.pages[self.prng.place(self.scene.config.pages.len())]
    }

    /// A place where no cell is cut, up to the longest that a file can get.
    pub fn any_cut(&mut self) -> u64 {
        let page = self.any_page() + self.prng.below(2);
        let cut = page * PAGE_BYTES + CUTS[self.prng.place(CUTS.len())];
        cut.min(self.scene.config.max_pages * PAGE_BYTES)
    }

    /// Two such places, the second behind the first. Often in one page, or a unit.
    pub fn any_span(&mut self) -> (u64, u64) {
        let (one, two) = match self.prng.below(4) {
            0 => {
                let page = self.any_page() * PAGE_BYTES;
                (page, page + PAGE_BYTES)
            }
            1 => {
                let unit = self.any_page() / PMD_PAGES * Order::Pmd.bytes();
                (unit, unit + Order::Pmd.bytes())
            }
            _ => (self.any_cut(), self.any_cut()),
        };
        let (from, to) = (one.min(two), one.max(two));
        if from == to { (from, from + PAGE_BYTES) } else { (from, to) }
    }

    /// Some pages: the one, a unit, some, or all.
    pub fn any_range(&mut self) -> PageRange {
        if self.prng.chance(1, 4) {
            return PageRange::new(PageIndex(0), self.scene.config.max_pages);
        }
        let (from, to) = self.any_span();
        PageRange::of_bytes(from, to - from)
    }

    fn any_area(&mut self) -> Option<Arc<Area>> {
        let areas = lock(&self.scene.areas);
        let place = self.prng.place(areas.len());
        areas.get(place).cloned()
    }

    fn any_process(&mut self) -> Arc<Process> {
        let processes = lock(&self.scene.processes);
        Arc::clone(&processes[self.prng.place(processes.len())])
    }

    /// A cell of `area`, if it has one.
    fn any_cell(&mut self, area: &Area) -> Option<Cell> {
        let cells = self.scene.cells();
        let inside: Vec<_> =
            cells.into_iter().filter(|cell| area.pages().contains(cell.page)).collect();
        inside.get(self.prng.place(inside.len())).copied()
    }

    fn access(&mut self, op: Op) {
        let Some(area) = self.any_area() else { return self.map() };
        let Some(cell) = self.any_cell(&area) else { return };
        let thread = area.process.thread(self.prng.place(self.scene.config.cpus));
        let (file, number, page, at) = (area.file, area.number, cell.page, cell.in_page());
        let accessed = if op == Op::Load {
            self.say(format!("load file {file} page {page} byte {at} by area {number}"));
            self.scene.load(&thread, &area, cell)
        } else {
            let value = self.value();
            self.say(format!(
                "store {value:#x} file {file} page {page} byte {at} by area {number}"
            ));
            self.scene.store(&thread, &area, cell, value)
        };
        match accessed {
            Ok(Ok(value)) => self.done(&format!("{value:#x}")),
            Ok(Err(signal)) => {
                Counts::add(&self.scene.counts.failed);
                self.done(&signal.to_string());
            }
            Err(why) => self.wrong(&why),
        }
    }

    /// Pages to map: all, units, or some around a page that is looked at.
    fn any_layout(&mut self) -> PageRange {
        let max = self.scene.config.max_pages;
        let page = self.any_page();
        let (from, to) = match self.prng.below(4) {
            0 => (0, max),
            1 => (page / PMD_PAGES * PMD_PAGES, (page / PMD_PAGES + 1) * PMD_PAGES),
            2 => (page.saturating_sub(self.prng.below(3)), page + 1 + self.prng.below(4)),
            _ => (page.saturating_sub(self.prng.below(600)), page + 1 + self.prng.below(600)),
        };
        PageRange::between(PageIndex(from), PageIndex(to.min(max)))
    }

    pub fn map(&mut self) {
        if lock(&self.scene.areas).len() >= MOST_AREAS {
            return;
        }
        let (file, process) = (self.any_file(), self.any_process());
        let pages = self.any_layout();
        let config = self.scene.config.clone();
        let mut one_in = |n| self.prng.chance(1, n);
        let sharing = if one_in(config.private_in) { Sharing::Private } else { Sharing::Shared };
        let huge = if one_in(config.small_in) { HugePages::Never } else { HugePages::Allowed };
        let durability = if one_in(config.synchronous_in) && sharing == Sharing::Shared {
            Durability::MetadataFirst
        } else {
            Durability::AtSync
        };
        let off = if one_in(config.misaligned_in) { 1 + self.prng.below(511) } else { 0 };
        let congruence = if off == 0 { Congruence::Aligned } else { Congruence::OffBy(off) };
        let may_store = !self.prng.chance(1, 6);
        let protection = if may_store { Protection::ReadWrite } else { Protection::Read };
        let rights = if may_store { MAY_STORE } else { MAY_LOAD };
        self.say(format!(
            "map file {file} {pages} {sharing:?} {durability:?} {huge:?} {congruence:?} {protection:?}"
        ));
        let scene = Arc::clone(&self.scene);
        let _inode = scene.files[file].inode.shared();
        let address_page = process.free_address(pages, congruence);
        let sim = process.map(VmaLayout { pages, address_page, sharing, protection });
        let private = sharing == Sharing::Private;
        let number = scene.model().add_area(file, pages, rights, private);
        scene.serve((&sim, &process), (file, number), durability, huge);
        self.done(&format!("area {number}"));
    }

    fn unmap(&mut self) {
        let Some(area) = self.any_area() else { return };
        self.say(format!("unmap area {}", area.number));
        let scene = Arc::clone(&self.scene);
        let _inode = scene.files[area.file].inode.shared();
        // Whoever takes it off the list does it.
        if scene.take_area(|other| other.number == area.number).is_some() {
            scene.unmap(&area);
        }
        self.done("gone");
    }

    /// Pages of an area of which the rights may differ from their neighbours': with 2 MiB translations only whole units. In
    /// the kernel a VMA is split where rights change, and 2 MiB translations stay inside of one.
    fn any_part(&mut self, area: &Area) -> Option<PageRange> {
        let pages = area.pages();
        let index = self.any_cell(area)?.page;
        if self.prng.chance(1, 3) {
            return Some(pages);
        }
        if area.vma.huge_pages == HugePages::Allowed && area.vma.colours_agree() {
            return Some(PageRange::unit(index, Order::Pmd).intersect(pages));
        }
        Some(PageRange::new(index, 1 + self.prng.below(3)).intersect(pages))
    }

    fn protect(&mut self) {
        let Some(area) = self.any_area() else { return };
        let Some(part) = self.any_part(&area) else { return };
        let (protection, rights) = match self.prng.below(5) {
            0 => (Protection::None, NO_RIGHTS),
            1 | 2 => (Protection::Read, MAY_LOAD),
            _ => (Protection::ReadWrite, MAY_STORE),
        };
        self.say(format!("protect area {} {part} {protection:?}", area.number));
        let writes = self.scene.model().begin_rights(area.number, part, rights);
        let first = area.sim.address(part.start) / PAGE_BYTES;
        area.process.protect(first, part.len(), protection);
        self.scene.model().end_rights(area.number, writes);
        self.done("done");
    }

    fn discard(&mut self) {
        let Some(area) = self.any_area() else { return };
        let Some(part) = self.any_discard(&area) else { return };
        self.say(format!("discard area {} {part}", area.number));
        let drops = self.scene.model().begin_discard(area.number, part);
        area.process.discard(area.sim.address(part.start) / PAGE_BYTES, part.len());
        self.scene.model().end_drops(drops, super::history::Certainty::Done);
        self.done("done");
    }

    fn any_discard(&mut self, area: &Area) -> Option<PageRange> {
        let index = self.any_cell(area)?.page;
        let part = match self.prng.below(3) {
            0 => area.pages(),
            1 => PageRange::unit(index, Order::Pmd),
            _ => PageRange::new(index, 1 + self.prng.below(2)),
        };
        Some(part.intersect(area.pages()))
    }

    /// A child of a process, with the same mappings; from now on it goes its own ways.
    fn fork(&mut self) {
        if lock(&self.scene.processes).len() >= MOST_PROCESSES {
            return;
        }
        let parent = self.any_process();
        self.say("fork".into());
        let scene = Arc::clone(&self.scene);
        // The child's VMAs are attached before anybody truncates, or evicts.
        let _inodes: Vec<_> = scene.files.iter().map(|file| file.inode.shared()).collect();
        let from = scene.model().tick();
        let mut adopted = Vec::new();
        let fork = parent.fork_with(|child, vmas| {
            adopted.extend(vmas.iter().filter_map(|(old, new)| self.adopt(child, old, new)));
        });
        // Nobody runs in the child before it has its copies.
        for (parent, served) in adopted {
            let number = scene.model().fork_area(parent, from);
            scene.publish(served, &fork.child, number);
        }
        lock(&scene.processes).push(fork.child);
        self.done("done");
    }

    /// The number of the area that `old` is, and what serves `new` in the child.
    fn adopt(
        &self,
        child: &Arc<Process>,
        old: &Arc<SimVma>,
        new: &Arc<SimVma>,
    ) -> Option<(usize, ServedVma)> {
        let find = |area: &&Arc<Area>| Arc::ptr_eq(&area.sim, old);
        let Some(area) = lock(&self.scene.areas).iter().find(find).cloned() else {
            // It is being made, or unmapped, in the parent: the child can do without.
            let layout = new.layout();
            child.unmap(layout.address_page, layout.pages.len());
            return None;
        };
        let (durability, huge) = (area.vma.durability, area.vma.huge_pages);
        Some((area.number, self.scene.attach(new, area.file, durability, huge)))
    }

    fn exit(&mut self) {
        let process = {
            let mut processes = lock(&self.scene.processes);
            if processes.len() < 2 {
                return;
            }
            let place = self.prng.place(processes.len());
            processes.remove(place)
        };
        self.say("exit".into());
        let scene = Arc::clone(&self.scene);
        for file in 0..scene.files.len() {
            let _inode = scene.files[file].inode.shared();
            let mine = |area: &Area| area.file == file && Arc::ptr_eq(&area.process, &process);
            while let Some(area) = scene.take_area(mine) {
                scene.unmap(&area);
            }
        }
        self.done("gone");
    }

    fn poison(&mut self) {
        let (file, page) = (self.any_file(), PageIndex(self.any_page()));
        self.say(format!("poison file {file} page {page}"));
        let Some(frame) = self.file(file).sim.frame_of(page) else { return self.done("a hole") };
        let now = self.scene.model().tick();
        lock(&self.scene.excuses).arm(Reason::Poison, now);
        lock(&self.scene.poisoned).push(frame);
        self.scene.machine.media().poison(frame);
        let unmapped = self.file(file).mapping().media_failed(page);
        self.done(&format!("{unmapped:?}"));
    }

    /// All poison goes, as if it had never been.
    fn cure(&mut self) {
        self.say("cure".into());
        for frame in lock(&self.scene.poisoned).drain(..) {
            self.scene.machine.media().cure(frame);
        }
        let now = self.scene.model().tick();
        lock(&self.scene.excuses).disarm(Reason::Poison, now);
        self.done("done");
    }
}
