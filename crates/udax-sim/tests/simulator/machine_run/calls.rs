//! What is done to files by calls: reading, writing, truncating and the like, each held against the model.

use super::config::Trouble;
use super::history::{Certainty, Tick};
use super::model::{CELL_BYTES, Writes};
use super::report::Counts;
use super::scene::lock;
use super::scene::words;
use super::trouble::Reason;
use super::worker::Worker;
use std::sync::Arc;
use udax_core::{
    Collapsed, Filesystem as _, IoError, IoErrorKind, NotCollapsed, Order, PAGE_BYTES, PageIndex,
    PageRange,
};

/// What lies in a file between the cells.
const FILLING: u8 = 0xaa;
/// The longest read and write.
const LONGEST: u64 = 5 * PAGE_BYTES;

const fn certainty<T>(result: &Result<T, IoError>) -> Certainty {
    // The cells that it was about may have changed, or some of them.
    if result.is_ok() { Certainty::Done } else { Certainty::Maybe }
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).expect("a buffer fits in memory")
}

impl Worker {
    pub fn read(&mut self) {
        let (file, (from, to)) = (self.any_file(), self.any_span());
        let to = to.min(from + LONGEST);
        self.say(format!("read file {file} {from:#x}..{to:#x}"));
        let scene = Arc::clone(&self.scene);
        let _inode = scene.files[file].inode.shared();
        let mut buffer = vec![0xee; bytes(to - from)];
        let begin = scene.model().tick();
        let read = scene.files[file].mapping().read(from, &mut buffer);
        let end = scene.model().tick();
        self.done(&words(&read));
        let size = scene.model().size(file);
        let expected = (to.min(size)).saturating_sub(from);
        match read {
            Ok(count) if count as u64 == expected => {}
            // An error behind the first byte shortens.
            Ok(count) if (count as u64) < expected => {
                let excuses = lock(&scene.excuses);
                let was = |reason| excuses.was(reason, begin, end);
                if !was(Reason::Calls) && !was(Reason::Poison) {
                    self.wrong(&format!("{count} bytes of {expected}"));
                }
            }
            Ok(count) => self.wrong(&format!("{count} bytes of {expected}")),
            Err(error) => return self.failed(error, begin, end),
        }
        let count = read.unwrap_or(0) as u64;
        let model = scene.model();
        for cell in model.cells.iter().filter(|cell| cell.lies_in(from, from + count)) {
            let at = bytes(cell.offset - from);
            let value = buffer[at..at + bytes(CELL_BYTES)].try_into().map(u64::from_le_bytes);
            let value = value.unwrap_or(0);
            let register = &model.files[file].cells[cell.number];
            if !register.allows(value, begin, end) {
                self.wrong(&format!(
                    "page {} byte {} reads as {value:#x}, may be {:#x?}",
                    cell.page,
                    cell.in_page(),
                    register.values(begin, end)
                ));
            }
        }
    }

    pub fn write(&mut self) {
        let (file, (from, to)) = (self.any_file(), self.any_span());
        let to = to.min(from + LONGEST).min(self.scene.config.max_pages * PAGE_BYTES);
        if from < to {
            self.write_to(file, from, to);
        }
    }

    /// A write of one whole page: that clears poison.
    pub fn repair(&mut self) {
        let (file, page) = (self.any_file(), self.any_page());
        self.write_to(file, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
    }

    fn write_to(&mut self, file: usize, from: u64, to: u64) {
        self.say(format!("write file {file} {from:#x}..{to:#x}"));
        let scene = Arc::clone(&self.scene);
        let _inode = scene.files[file].inode.exclusive();
        let size = scene.model().size(file);
        let mut buffer = vec![FILLING; bytes(to - from)];
        let gap = (size.min(from), from);
        let zeros = scene.model().begin_writes(file, gap, |_| 0);
        let mut values = Vec::new();
        for cell in scene.cells().iter().filter(|cell| cell.lies_in(from, to)) {
            let (at, value) = (bytes(cell.offset - from), self.value());
            buffer[at..at + bytes(CELL_BYTES)].copy_from_slice(&value.to_le_bytes());
            values.push(value);
        }
        let mut next = values.iter().copied();
        let writes = scene.model().begin_writes(file, (from, to), |_| next.next().unwrap_or(0));
        // Poison that is met is cleared first, which leaves zeros until the bytes have come.
        let may_be_zeros = scene.config.may_meet_poison();
        for (cell, id) in writes.iter().filter(|_| may_be_zeros) {
            scene.model().files[file].cells[*cell].settle_also(*id, 0);
        }
        let begin = scene.model().tick();
        // Cut short, it ends in between.
        let grown = self.begin_size(file, (to <= size).then_some(size));
        let written = scene.files[file].mapping().write(from, &buffer);
        let count = written.unwrap_or(0) as u64;
        self.end_size(file, (size, size.max(to)), grown);
        let arrived = |cell: usize| scene.model().cells[cell].lies_in(from, from + count);
        let (mut whole, mut cut) = (Writes::new(), Writes::new());
        for ((cell, id), value) in writes.into_iter().zip(values) {
            if arrived(cell) {
                scene.model().files[file].cells[cell].settle(id, vec![value]);
                whole.push((cell, id));
            } else {
                cut.push((cell, id));
            }
        }
        scene.model().end_writes(file, whole, Certainty::Done);
        scene.model().end_writes(file, cut, Certainty::Maybe);
        scene.model().end_writes(file, zeros, certainty(&written));
        let end = scene.model().tick();
        self.done(&words(&written));
        match written {
            Ok(_) if count == to - from => {}
            Ok(_) => {
                let excuses = lock(&scene.excuses);
                let was = |reason| excuses.was(reason, begin, end);
                if !was(Reason::Calls) && !was(Reason::Poison) && !was(Reason::Space) {
                    self.wrong(&format!("{count} bytes of {}", to - from));
                }
            }
            Err(error) => self.failed(error, begin, end),
        }
    }

    /// The length is about to become `size`, or nobody knows what.
    fn begin_size(&self, file: usize, size: Option<u64>) -> super::history::WriteId {
        let mut model = self.scene.model();
        let now = model.tick();
        let register = &mut model.files[file].size;
        match size {
            Some(size) => register.begin(now, size),
            None => register.begin_unknown(now),
        }
    }

    /// The length is one of the two, or, if a write was cut short, in between.
    fn end_size(&self, file: usize, (old, new): (u64, u64), id: super::history::WriteId) {
        let size = self.file(file).sim.size_bytes();
        if size < old.min(new) || size > old.max(new) {
            self.wrong(&format!("the length is {size:#x}, it was {old:#x} and was to be {new:#x}"));
        }
        let mut model = self.scene.model();
        let now = model.tick();
        let register = &mut model.files[file].size;
        register.settle(id, vec![size]);
        register.end(id, now, Certainty::Done);
    }

    pub fn truncate(&mut self) {
        let (file, to) = (self.any_file(), self.any_cut());
        let scene = Arc::clone(&self.scene);
        self.say(format!("truncate file {file} {to:#x}"));
        let _inode = scene.files[file].inode.exclusive();
        self.truncate_locked(file, to);
    }

    /// With the inode lock held alone. Whether it was done.
    pub fn truncate_locked(&mut self, file: usize, to: u64) -> bool {
        let scene = Arc::clone(&self.scene);
        let old = scene.model().size(file);
        let behind = if to < old { u64::MAX - 1 } else { to.next_multiple_of(PAGE_BYTES) };
        let zeros = scene.model().begin_writes(file, (to.min(old), behind), |_| 0);
        let drops = scene.model().begin_truncation(file, PageIndex(to.div_ceil(PAGE_BYTES)));
        let begin = scene.model().tick();
        let size = self.begin_size(file, Some(to));
        let truncated = scene.files[file].mapping().truncate(to);
        self.end_size(file, (old, to), size);
        scene.model().end_writes(file, zeros, certainty(&truncated));
        scene.model().end_drops(drops, certainty(&truncated));
        let end = scene.model().tick();
        self.done(&words(&truncated));
        match truncated {
            Ok(()) if scene.model().size(file) != to => self.wrong("the length did not change"),
            Ok(()) => true,
            Err(error) => {
                self.failed(error, begin, end);
                false
            }
        }
    }

    /// Something that leaves zeros in `from..to`, with the inode lock held alone.
    fn zeroing(
        &mut self,
        file: usize,
        (from, to): (u64, u64),
        change: impl FnOnce(&Self) -> Result<(), IoError>,
    ) {
        let scene = Arc::clone(&self.scene);
        let _inode = scene.files[file].inode.exclusive();
        let zeros = scene.model().begin_writes(file, (from, to), |_| 0);
        let begin = scene.model().tick();
        let changed = change(self);
        let end = scene.model().tick();
        scene.model().end_writes(file, zeros, certainty(&changed));
        self.ended(changed, begin, end);
    }

    /// Something that succeeds, or has a reason not to.
    fn ended(&self, result: Result<(), IoError>, begin: Tick, end: Tick) {
        self.done(&words(&result));
        if let Err(error) = result {
            self.failed(error, begin, end);
        }
    }

    pub fn punch(&mut self) {
        let (file, (from, to)) = (self.any_file(), self.any_span());
        self.say(format!("punch file {file} {from:#x}..{to:#x}"));
        self.zeroing(file, (from, to), |worker| {
            worker.file(file).mapping().punch_hole(from, to - from)
        });
    }

    pub fn zero_range(&mut self) {
        let (file, (from, to)) = (self.any_file(), self.any_span());
        self.say(format!("zero file {file} {from:#x}..{to:#x}"));
        self.zeroing(file, (from, to), |worker| {
            worker.file(file).mapping().zero_range(from, to - from)
        });
    }

    pub fn make_unwritten(&mut self) {
        let file = self.any_file();
        let (from, to) = self.any_span();
        let pages = PageRange::of_bytes(from, to - from);
        self.say(format!("make unwritten file {file} {pages}"));
        self.zeroing(file, (pages.start.byte(), pages.end.byte()), |worker| {
            worker.file(file).mapping().change_layout(pages, |sim| sim.make_unwritten(pages))
        });
    }

    /// Something that leaves the bytes as they are.
    fn harmless(&mut self, file: usize, change: impl FnOnce(&Self) -> Result<(), IoError>) {
        let scene = Arc::clone(&self.scene);
        let _inode = scene.files[file].inode.exclusive();
        let begin = scene.model().tick();
        let changed = change(self);
        let end = scene.model().tick();
        self.ended(changed, begin, end);
    }

    pub fn allocate(&mut self) {
        let (file, pages) = (self.any_file(), self.any_range());
        self.say(format!("allocate file {file} {pages}"));
        self.harmless(file, |worker| worker.file(file).sim.allocate(pages));
    }

    pub fn write_zeros(&mut self) {
        let (file, pages) = (self.any_file(), self.any_range());
        self.say(format!("write zeros to the holes of file {file} {pages}"));
        self.harmless(file, |worker| worker.file(file).sim.write_zeros(pages));
    }

    pub fn unshare(&mut self) {
        let (file, pages) = (self.any_file(), self.any_range());
        self.say(format!("unshare file {file} {pages}"));
        self.harmless(file, |worker| worker.file(file).mapping().unshare(pages));
    }

    /// What is full of small entries gets one of 2 MiB.
    pub fn collapse(&mut self) {
        let (file, page) = (self.any_file(), PageIndex(self.any_page()));
        self.say(format!("collapse file {file} around page {page}"));
        let scene = Arc::clone(&self.scene);
        let _inode = scene.files[file].inode.exclusive();
        let begin = scene.model().tick();
        if self.prng.chance(1, 2) {
            // Else it would seldom be full. For want of space it stays as it is.
            let unit = PageRange::unit(page, Order::Pmd);
            let _ = scene.files[file].sim.write_zeros(unit);
        }
        let collapsed = scene.files[file].mapping().collapse(page);
        let end = scene.model().tick();
        self.done(&format!("{collapsed:?}"));
        let excuses = lock(&scene.excuses);
        match collapsed {
            Ok(Collapsed::InPlace | Collapsed::Moved) => Counts::add(&scene.counts.collapsed),
            Ok(Collapsed::Already)
            | Err(NotCollapsed::NoEntry | NotCollapsed::EndOfFile | NotCollapsed::Mixed) => {}
            Err(NotCollapsed::Pieces) if scene.config.contiguous_limit.is_some() => {}
            Err(NotCollapsed::Pinned(_)) if scene.config.has(Trouble::Pins) => {}
            Err(NotCollapsed::OutOfMemory) if excuses.was(Reason::Memory, begin, end) => {}
            Err(NotCollapsed::Failed(error))
                if excuses.excuse(error, begin, end)
                    || (error.kind == IoErrorKind::NoSpace
                        && scene.config.lacks_huge_storage()) => {}
            Err(error) => self.wrong(&format!("{error}, for no reason")),
        }
    }

    pub fn sync(&mut self) {
        let (file, pages) = (self.any_file(), self.any_range());
        self.say(format!("sync file {file} {pages}"));
        self.sync_now(file, pages);
    }

    /// Whether it succeeded.
    pub fn sync_now(&mut self, file: usize, pages: PageRange) -> bool {
        let scene = Arc::clone(&self.scene);
        let (begin, told) = {
            let mut model = scene.model();
            (model.tick(), model.files[file].told)
        };
        let mapping = scene.files[file].mapping();
        let synced = mapping.sync(pages);
        self.done(&words(&synced));
        let mut model = scene.model();
        let end = model.tick();
        let places: Vec<_> = model.cells.iter().map(|cell| (cell.place, cell.page)).collect();
        let known = &mut model.files[file];
        known.told = known.told.max(begin);
        if let Err(error) = synced {
            drop(model);
            // An error that an earlier writeback met is told by the next sync.
            self.failed(error, told.min(begin), end);
            return false;
        }
        known.committed = known.committed.max(begin);
        for (place, page) in places {
            if pages.contains(page) {
                known.synced[place] = known.synced[place].max(begin);
            }
        }
        true
    }

    pub fn writeback(&mut self) {
        let (file, pages) = (self.any_file(), self.any_range());
        self.say(format!("write back file {file} {pages}"));
        let begin = self.scene.model().tick();
        let written = self.file(file).mapping().writeback(pages);
        let end = self.scene.model().tick();
        self.ended(written, begin, end);
    }

    /// A file comes to share everything with another one.
    pub fn reflink(&mut self) {
        let (from, to) = (self.any_file(), self.any_file());
        if from == to {
            return;
        }
        self.say(format!("reflink file {from} to {to}"));
        let scene = Arc::clone(&self.scene);
        let _first = scene.files[from.min(to)].inode.exclusive();
        let _second = scene.files[from.max(to)].inode.exclusive();
        let size = scene.model().size(from);
        if !self.truncate_locked(to, size) {
            return;
        }
        let (now, mut writes) = (scene.model().tick(), Writes::new());
        for cell in scene.cells() {
            let register = &mut scene.model().files[to].cells[cell.number];
            writes.push((cell.number, register.begin_unknown(now)));
        }
        let all = PageRange::from(PageIndex(0));
        let (source, target) = (scene.files[from].mapping(), scene.files[to].mapping());
        let shared = source.change_layout(all, |from_sim| {
            target.change_layout(all, |to_sim| {
                let mut model = scene.model();
                let now = model.tick();
                for (cell, id) in &writes {
                    let values = model.files[from].cells[*cell].values(now, now);
                    model.files[to].cells[*cell].settle(*id, values);
                }
                drop(model);
                scene.fs.reflink(from_sim, to_sim);
                Ok(())
            })
        });
        let certainty = if shared.is_ok() { Certainty::Done } else { Certainty::Never };
        scene.model().end_writes(to, writes, certainty);
        let end = scene.model().tick();
        self.ended(shared, now, end);
    }

    /// The file is closed by everybody, forgotten, and opened again.
    pub fn evict(&mut self) {
        let file = self.any_file();
        self.say(format!("evict file {file}"));
        let scene = Arc::clone(&self.scene);
        let _inode = scene.files[file].inode.exclusive();
        self.evict_locked(file);
    }

    /// With the inode lock held alone. Whether it was done.
    pub fn evict_locked(&mut self, file: usize) -> bool {
        let scene = Arc::clone(&self.scene);
        while let Some(area) = scene.take_area(|area| area.file == file) {
            scene.unmap(&area);
        }
        if !self.sync_now(file, PageRange::from(PageIndex(0))) {
            return false;
        }
        scene.files[file].mapping().evict();
        scene.renew(file);
        self.done("forgotten");
        true
    }
}
