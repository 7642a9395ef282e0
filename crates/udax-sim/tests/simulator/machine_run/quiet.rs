//! What must hold when the torture is over: nothing is stuck, everything works, nothing is left behind.

use super::config::Trouble;
use super::model::{Cell, MAY_STORE};
use super::scene::lock;
use super::trouble::Reason;
use super::worker::Worker;
use crate::rig::invariants::Look;
use std::sync::Arc;
use udax_core::{Durability, HugePages, PAGE_BYTES, PageIndex, PageRange, Sharing};
use udax_sim::{Congruence, Protection, VmaLayout};

const ALL: PageRange = PageRange { start: PageIndex(0), end: PageIndex(u64::MAX) };

impl Worker {
    /// On the only thread there is.
    pub fn settle(mut self) {
        let scene = Arc::clone(&self.scene);
        for frame in lock(&scene.poisoned).drain(..) {
            scene.machine.media().cure(frame);
        }
        let now = scene.model().tick();
        lock(&scene.excuses).disarm(Reason::Poison, now);
        for file in 0..scene.files.len() {
            self.say(format!("the last syncs of file {file}"));
            // The first may tell of an error that an earlier writeback met.
            self.sync_now(file, ALL);
            if !self.sync_now(file, ALL) {
                self.wrong("nothing fails any more, but the sync does");
            }
        }
        self.load_everything();
        self.check_invariants();
        self.store_everywhere();
        self.check_invariants();
        if scene.config.has(Trouble::PowerCut) {
            scene.check_power_cut(scene.config.seed);
        }
        self.end_everything();
    }

    /// Through every mapping, and by read(2).
    fn load_everything(&mut self) {
        let scene = Arc::clone(&self.scene);
        let areas = lock(&scene.areas).clone();
        for area in areas {
            for cell in scene.cells().into_iter().filter(|cell| area.pages().contains(cell.page)) {
                self.say(format!(
                    "at rest: load file {} page {} byte {} by area {}",
                    area.file,
                    cell.page,
                    cell.in_page(),
                    area.number
                ));
                if let Err(why) = scene.load(&area.process.thread(0), &area, cell) {
                    self.wrong(&why);
                }
            }
        }
        for file in 0..scene.files.len() {
            for cell in scene.cells() {
                self.read_cell(file, cell);
            }
        }
    }

    fn read_cell(&mut self, file: usize, cell: Cell) {
        let scene = Arc::clone(&self.scene);
        let mut model = scene.model();
        if !cell.lies_in(0, model.size(file)) {
            return;
        }
        let now = model.tick();
        let allowed = model.files[file].cells[cell.number].values(now, now);
        drop(model);
        self.say(format!("at rest: read file {file} page {} byte {}", cell.page, cell.in_page()));
        let mut bytes = [0; 8];
        let read = scene.files[file].mapping().read(cell.offset, &mut bytes);
        let value = u64::from_le_bytes(bytes);
        if read != Ok(8) || !allowed.contains(&value) {
            self.wrong(&format!("{read:?}: {value:#x}, may be {allowed:#x?}"));
        }
    }

    fn check_invariants(&mut self) {
        let scene = Arc::clone(&self.scene);
        for (number, file) in scene.files.iter().enumerate() {
            self.say(format!("the invariants of file {number}"));
            let areas = lock(&scene.areas).clone();
            let mine = areas.iter().filter(|area| area.file == number);
            let vmas = mine.map(|area| (Arc::clone(&area.sim), area.vma.sharing)).collect();
            let mapping = file.mapping();
            let (media, alone) = (scene.machine.media(), scene.files.len() == 1);
            let look = Look { mapping: &mapping, media, file: &file.sim, vmas, alone };
            let broken = look.broken();
            if !broken.is_empty() {
                self.wrong(&format!("broken:\n{}", broken.join("\n")));
            }
        }
    }

    /// Every page of every file can be stored to, and is seen.
    fn store_everywhere(&mut self) {
        let scene = Arc::clone(&self.scene);
        let process = scene.machine.process();
        for file in 0..scene.files.len() {
            let size = scene.model().size(file);
            let pages = PageRange::new(PageIndex(0), scene.config.max_pages);
            let address_page = process.free_address(pages, Congruence::Aligned);
            let (sharing, protection) = (Sharing::Shared, Protection::ReadWrite);
            let sim = process.map(VmaLayout { pages, address_page, sharing, protection });
            let number = scene.model().add_area(file, pages, MAY_STORE, false);
            let (sim, names) = ((&sim, &process), (file, number));
            let area = scene.serve(sim, names, Durability::AtSync, HugePages::Allowed);
            for cell in scene.cells() {
                let value = self.value();
                self.say(format!("at rest: store file {file} page {}", cell.page));
                match scene.store(&process.thread(0), &area, cell, value) {
                    Ok(Ok(_)) if cell.page.0 < size.div_ceil(PAGE_BYTES) => {}
                    Ok(Err(_)) if cell.page.0 >= size.div_ceil(PAGE_BYTES) => {}
                    Ok(other) => self.wrong(&format!("{other:?}")),
                    Err(why) => self.wrong(&why),
                }
            }
            if !self.sync_now(file, ALL) {
                self.wrong("the sync fails");
            }
        }
        self.load_everything();
    }

    fn end_everything(&mut self) {
        let scene = Arc::clone(&self.scene);
        for file in 0..scene.files.len() {
            self.say(format!("the end of file {file}"));
            let _inode = scene.files[file].inode.exclusive();
            if !self.evict_locked(file) || !self.truncate_locked(file, 0) {
                self.wrong("nothing fails any more, but this does");
            }
            let mapping = scene.files[file].mapping();
            if mapping.sync(ALL).is_err() || mapping.entries() > 0 {
                self.wrong(&format!("{} entries are left", mapping.entries()));
            }
        }
        let (owned, allocated) = (scene.machine.media().owned_frames(), scene.fs.allocated_pages());
        if owned > 0 || allocated > 0 {
            self.wrong(&format!("{owned} frames are owned, {allocated} pages allocated"));
        }
    }
}
