//! What the files and their mappings must look like: a few eight-byte *cells* in some pages of each file, with everything that was
//! ever stored there.

use super::history::{Certainty, EventId, PrivateCell, Register, Tick, WriteId};
use udax_core::{PAGE_BYTES, PageIndex, PageRange};

/// Where in a page its cells lie.
pub const SLOTS: [u64; 3] = [0, 2040, 4088];
/// Bytes in a cell.
pub const CELL_BYTES: u64 = 8;
/// Places in a page where a range may begin or end without cutting a cell.
pub const CUTS: [u64; 7] = [0, 0, 8, 1000, 2040, 2048, 4088];

/// The rights on a page, as numbers that grow with what is allowed.
pub const NO_RIGHTS: u64 = 0;
pub const MAY_LOAD: u64 = 1;
pub const MAY_STORE: u64 = 2;

/// A file.
#[derive(Debug)]
pub struct FileModel {
    /// By [`Cell::number`].
    pub cells: Vec<Register>,
    pub size: Register,
    /// For each page that is looked at: when the last sync of it that succeeded began.
    pub synced: Vec<Tick>,
    /// When the last sync of any of it that succeeded began.
    pub committed: Tick,
    /// When the last sync that has returned, with whatever result, began.
    pub told: Tick,
}

/// A mapping of a file.
#[derive(Debug)]
pub struct AreaModel {
    pub file: usize,
    pub pages: PageRange,
    /// For each page that is looked at.
    pub rights: Vec<Register>,
    /// The cells of a private one.
    pub private: Option<Vec<PrivateCell>>,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub number: usize,
    /// Which of the pages that are looked at.
    pub place: usize,
    pub page: PageIndex,
    /// The offset in the file.
    pub offset: u64,
}

impl Cell {
    pub fn in_page(self) -> u64 {
        self.offset % PAGE_BYTES
    }

    /// Whether all of it lies in `from..to`.
    pub fn lies_in(self, from: u64, to: u64) -> bool {
        from <= self.offset && self.offset + CELL_BYTES <= to
    }
}

/// Writes under way.
pub type Writes = Vec<(usize, WriteId)>;
/// Private copies about to go: area, cell, event.
pub type Drops = Vec<(usize, usize, EventId)>;

/// Everything.
#[derive(Debug)]
pub struct Model {
    now: Tick,
    /// All cells that a file has.
    pub cells: Vec<Cell>,
    pub files: Vec<FileModel>,
    pub areas: Vec<AreaModel>,
}

impl Model {
    /// Files of zeros with these lengths, looked at in `pages`.
    pub fn new(pages: &[u64], sizes: &[u64]) -> Self {
        let mut cells = Vec::new();
        for (place, page) in pages.iter().enumerate() {
            for slot in SLOTS {
                let (page, offset) = (PageIndex(*page), page * PAGE_BYTES + slot);
                cells.push(Cell { number: cells.len(), place, page, offset });
            }
        }
        let file = |size: &u64| FileModel {
            cells: vec![Register::new(0); cells.len()],
            size: Register::new(*size),
            synced: vec![0; pages.len()],
            committed: 0,
            told: 0,
        };
        let files = sizes.iter().map(file).collect();
        Self { now: 1, cells, files, areas: Vec::new() }
    }

    /// The next moment.
    pub fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    /// The pages that are looked at.
    pub fn places(&self) -> usize {
        self.cells.len() / SLOTS.len()
    }

    /// A write to each cell of `file` in `from..to` begins, of what `value` says.
    pub fn begin_writes(
        &mut self,
        file: usize,
        (from, to): (u64, u64),
        mut value: impl FnMut(Cell) -> u64,
    ) -> Writes {
        let now = self.tick();
        let inside = self.cells.iter().filter(|cell| cell.lies_in(from, to));
        let registers = &mut self.files[file].cells;
        inside.map(|cell| (cell.number, registers[cell.number].begin(now, value(*cell)))).collect()
    }

    /// They end.
    pub fn end_writes(&mut self, file: usize, writes: Writes, certainty: Certainty) {
        let now = self.tick();
        for (cell, id) in writes {
            self.files[file].cells[cell].end(id, now, certainty);
        }
    }

    /// Private copies of the pages of `file` from `cut` on are about to go.
    pub fn begin_truncation(&mut self, file: usize, cut: PageIndex) -> Drops {
        let now = self.tick();
        let mut drops = Vec::new();
        for (number, area) in self.areas.iter_mut().enumerate() {
            let Some(private) = area.private.as_mut().filter(|_| area.file == file) else {
                continue;
            };
            for cell in self.cells.iter().filter(|cell| cell.page >= cut) {
                drops.push((number, cell.number, private[cell.number].begin_drop(now)));
            }
        }
        drops
    }

    /// The copies that `area` has of `pages` are about to go.
    pub fn begin_discard(&mut self, area: usize, pages: PageRange) -> Drops {
        let now = self.tick();
        let Some(private) = &mut self.areas[area].private else { return Vec::new() };
        let inside = self.cells.iter().filter(|cell| pages.contains(cell.page));
        let drop = |cell: &Cell| (area, cell.number, private[cell.number].begin_drop(now));
        inside.map(drop).collect()
    }

    /// They are gone, or not.
    pub fn end_drops(&mut self, drops: Drops, certainty: Certainty) {
        let now = self.tick();
        for (area, cell, id) in drops {
            if let Some(private) = &mut self.areas[area].private {
                private[cell].end_drop(id, now, certainty);
            }
        }
    }

    /// The rights on the pages of `area` in `pages` are about to change.
    pub fn begin_rights(&mut self, area: usize, pages: PageRange, rights: u64) -> Writes {
        let now = self.tick();
        let mut writes = Vec::new();
        for cell in self.cells.iter().step_by(SLOTS.len()) {
            if pages.contains(cell.page) {
                let register = &mut self.areas[area].rights[cell.place];
                writes.push((cell.place, register.begin(now, rights)));
            }
        }
        writes
    }

    /// They have changed.
    pub fn end_rights(&mut self, area: usize, writes: Writes) {
        let now = self.tick();
        for (place, id) in writes {
            self.areas[area].rights[place].end(id, now, Certainty::Done);
        }
    }

    /// A new area.
    pub fn add_area(&mut self, file: usize, pages: PageRange, rights: u64, private: bool) -> usize {
        let now = self.tick();
        let cells = private.then(|| vec![PrivateCell::new(now); self.cells.len()]);
        let rights = vec![Register::new(rights); self.places()];
        self.areas.push(AreaModel { file, pages, rights, private: cells });
        self.areas.len() - 1
    }

    /// The child's of `area`, forked at some moment since `from`.
    pub fn fork_area(&mut self, area: usize, from: Tick) -> usize {
        let now = self.tick();
        let AreaModel { file, pages, rights, private } = &self.areas[area];
        let files = &self.files[*file].cells;
        let private = private.as_ref().map(|cells| {
            cells.iter().zip(files).map(|(cell, file)| cell.fork(from, now, file)).collect()
        });
        let rights = rights.iter().map(|rights| rights.fork(from, now)).collect();
        let child = AreaModel { file: *file, pages: *pages, rights, private };
        self.areas.push(child);
        self.areas.len() - 1
    }

    /// Whether a load of `cell` through `area` between `from` and `to` may see `value`.
    pub fn allows(&self, area: usize, cell: Cell, value: u64, from: Tick, to: Tick) -> bool {
        let AreaModel { file, private, .. } = &self.areas[area];
        let file = &self.files[*file].cells[cell.number];
        match private {
            Some(cells) => cells[cell.number].allows(value, from, to, file),
            None => file.allows(value, from, to),
        }
    }

    /// The length of a file that nobody is changing.
    pub fn size(&mut self, file: usize) -> u64 {
        let now = self.tick();
        let sizes = self.files[file].size.values(now, now);
        assert_eq!(sizes.len(), 1, "the length of file {file} is known: {sizes:?}");
        sizes[0]
    }

    /// A store of `value` to `cell` through `area` begins.
    pub fn begin_store(&mut self, area: usize, cell: Cell, value: u64) -> Store {
        let begin = self.tick();
        let AreaModel { file, private, .. } = &mut self.areas[area];
        let Some(cells) = private else {
            let id = self.files[*file].cells[cell.number].begin(begin, value);
            return Store { begin, area, cell, kind: StoreKind::Shared(id) };
        };
        let own = cells[cell.number].begin_store(begin, value);
        let in_page = self.cells.iter().filter(|other| other.place == cell.place);
        let copies = in_page.map(|cell| (cell.number, cells[cell.number].begin_copy(begin)));
        let kind = StoreKind::Private { own, copies: copies.collect() };
        Store { begin, area, cell, kind }
    }

    /// It ends.
    pub fn end_store(&mut self, store: Store, stored: bool, metadata_first: bool) {
        let now = self.tick();
        let AreaModel { file, private, .. } = &mut self.areas[store.area];
        let files = &mut self.files[*file].cells;
        match (store.kind, private) {
            (StoreKind::Shared(id), _) => {
                let register = &mut files[store.cell.number];
                match (stored, metadata_first) {
                    (true, true) => register.end_metadata_first(id, now),
                    (true, false) => register.end(id, now, Certainty::Done),
                    (false, _) => register.end(id, now, Certainty::Never),
                }
            }
            (StoreKind::Private { own, copies }, Some(cells)) => {
                for (cell, id) in copies {
                    let here = cell == store.cell.number;
                    cells[cell].end_copy(id, now, (stored, here), &files[cell]);
                }
                cells[store.cell.number].end_store(own, now, stored);
            }
            (StoreKind::Private { .. }, None) => {}
        }
    }
}

/// A store under way.
pub struct Store {
    pub begin: Tick,
    area: usize,
    cell: Cell,
    kind: StoreKind,
}

enum StoreKind {
    Shared(WriteId),
    Private { own: EventId, copies: Vec<(usize, EventId)> },
}
