//! Random operations of several threads on one sparse file, its mappings and its storage, against an array that says what must be
//! there. Every cell of the file has one owner, who alone changes it, so that its value is known at any time.
//!
//! `UDAX_SEED=N` explores another seed. The threads' interleaving is not replayed, but what each of them does is.

mod common;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use udax::{File, MmapOptions, SharedMap};

const PAGE: usize = 4096;
const UNIT: usize = 2 << 20;
const UNITS: usize = 10;
const LENGTH: usize = UNITS * UNIT;
const CELL: usize = 512;
const CELLS: usize = LENGTH / CELL;
const CELLS_OF_UNIT: usize = UNIT / CELL;
const THREADS: usize = 3;
const VIEWS: usize = 6;
const STEPS: usize = 700;
/// From this unit on each has one owner, who may fill and punch it whole.
const FIRST_OWNED_UNIT: usize = 6;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).map_or(0, |number| number % bound)
    }

    fn value(&mut self) -> u32 {
        u32::try_from(self.below(1 << 30)).map_or(1, |value| value | 1)
    }
}

struct View {
    map: SharedMap,
    offset: usize,
    length: usize,
}

impl View {
    fn shows(&self, cell: usize) -> bool {
        (self.offset..self.offset + self.length).contains(&(cell * CELL))
    }
}

struct World {
    seed: u64,
    path: PathBuf,
    file: File,
    views: Vec<RwLock<Option<View>>>,
    model: Vec<AtomicU32>,
}

fn owner(cell: usize) -> usize {
    let unit = cell / CELLS_OF_UNIT;
    if unit < FIRST_OWNED_UNIT { cell % THREADS } else { unit % THREADS }
}

fn filled(value: u32) -> [u8; CELL] {
    let mut bytes = [0; CELL];
    bytes.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
    bytes
}

impl World {
    fn new(dir: &Path, seed: u64) -> Self {
        let path = dir.join(format!("model-{seed}"));
        let file = File::create(&path).expect("the file can be made");
        file.set_len(LENGTH as u64).expect("a length");
        let views = (0..VIEWS).map(|_| RwLock::new(None)).collect();
        let model = (0..CELLS).map(|_| AtomicU32::new(0)).collect();
        let world = Self { seed, path, file, views, model };
        let mut random = Random(seed);
        for _ in 0..random.below(8) {
            let cell = random.below(CELLS);
            let value = random.value();
            world.write(cell, value);
        }
        world
    }

    fn wanted(&self, cell: usize) -> u32 {
        self.model[cell].load(Ordering::Relaxed)
    }

    fn note(&self, cell: usize, value: u32) {
        self.model[cell].store(value, Ordering::Relaxed);
    }

    fn write(&self, cell: usize, value: u32) {
        let written = self.file.write_at(&filled(value), (cell * CELL) as u64);
        assert_eq!(written.expect("written"), CELL);
        self.note(cell, value);
    }

    fn map_view(&self, slot: usize, random: &mut Random) {
        let pages = LENGTH / PAGE;
        let mut offset = random.below(pages) * PAGE;
        if random.below(2) == 0 {
            offset = offset / UNIT * UNIT;
        }
        let length = (1 + random.below(pages - offset / PAGE)) * PAGE;
        let map = MmapOptions::new().offset(offset as u64).len(length).map_shared(&self.file);
        let view = View { map: map.expect("mapped"), offset, length };
        *self.views[slot].write().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }

    fn unmap_view(&self, slot: usize) {
        *self.views[slot].write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A view that shows the cell, held so that it stays.
    fn view_of(&self, cell: usize, first: usize) -> Option<RwLockReadGuard<'_, Option<View>>> {
        (0..VIEWS).find_map(|next| {
            let slot = &self.views[(first + next) % VIEWS];
            let view = slot.read().unwrap_or_else(PoisonError::into_inner);
            view.as_ref().is_some_and(|view| view.shows(cell)).then_some(view)
        })
    }

    fn check_view(&self, view: &View, cell: usize) {
        let mut bytes = [0; CELL];
        view.map.load(cell * CELL - view.offset, &mut bytes);
        let wanted = filled(self.wanted(cell));
        if bytes == wanted {
            return;
        }
        // What somebody needs to know who looks for the reason: is it there by now, is it in the file, and what is left of the file's service.
        let wrong = bytes.iter().zip(wanted).filter(|(shown, wanted)| **shown != *wanted).count();
        let (mut again, mut in_file) = ([0; CELL], [0; CELL]);
        view.map.load(cell * CELL - view.offset, &mut again);
        let read = self.file.read_at(&mut in_file, (cell * CELL) as u64);
        panic!(
            "seed {}: cell {cell} (page {}) shows {:?}, not {:?}: {wrong} bytes are wrong; \
             again: {}, in the file: {}; {:?}",
            self.seed,
            cell * CELL / PAGE,
            &bytes[..4],
            &wanted[..4],
            again == wanted,
            read.is_ok() && in_file == wanted,
            view.map.report().plain_because
        );
    }

    fn check_file(&self, cell: usize) {
        let mut bytes = [0; CELL];
        let read = self.file.read_at(&mut bytes, (cell * CELL) as u64);
        assert_eq!(read.expect("read"), CELL);
        assert!(bytes == filled(self.wanted(cell)), "seed {}: the file's cell {cell}", self.seed);
    }

    fn check(&self, cell: usize, random: &mut Random) {
        if let Some(held) = self.view_of(cell, random.below(VIEWS))
            && let Some(view) = &*held
        {
            self.check_view(view, cell);
        }
        if random.below(4) == 0 {
            self.check_file(cell);
        }
    }

    fn store(&self, cell: usize, value: u32, random: &mut Random) {
        if let Some(held) = self.view_of(cell, random.below(VIEWS))
            && let Some(view) = &*held
        {
            view.map.store(cell * CELL - view.offset, &filled(value));
            self.note(cell, value);
        }
    }

    /// As another process would: it opens the file anew, which ends the proof.
    fn write_as_a_stranger(&self, cell: usize, value: u32) {
        let stranger = std::fs::OpenOptions::new().write(true).open(&self.path).expect("opened");
        stranger.write_all_at(&filled(value), (cell * CELL) as u64).expect("written");
        self.note(cell, value);
    }

    fn fill_unit(&self, unit: usize, value: u32) {
        let bytes: Vec<u8> = filled(value).repeat(CELLS_OF_UNIT);
        let written = self.file.write_at(&bytes, (unit * UNIT) as u64).expect("written");
        assert_eq!(written, UNIT);
        (unit * CELLS_OF_UNIT..(unit + 1) * CELLS_OF_UNIT).for_each(|cell| self.note(cell, value));
    }

    fn punch_unit(&self, unit: usize) {
        self.file.punch_hole((unit * UNIT) as u64, UNIT as u64).expect("punched");
        (unit * CELLS_OF_UNIT..(unit + 1) * CELLS_OF_UNIT).for_each(|cell| self.note(cell, 0));
    }

    fn step(&self, thread: usize, random: &mut Random) {
        let mut cell = random.below(CELLS);
        while owner(cell) != thread {
            cell = (cell + if cell / CELLS_OF_UNIT < FIRST_OWNED_UNIT { 1 } else { CELLS_OF_UNIT })
                % CELLS;
        }
        let unit = cell / CELLS_OF_UNIT;
        let value = random.value();
        let slot = random.below(VIEWS);
        match random.below(32) {
            0 | 1 => self.map_view(slot, random),
            2 => self.unmap_view(slot),
            3 if random.below(8) == 0 => self.write_as_a_stranger(cell, value),
            4 if unit >= FIRST_OWNED_UNIT && random.below(4) == 0 => self.fill_unit(unit, value),
            5 if unit >= FIRST_OWNED_UNIT && random.below(6) == 0 => self.punch_unit(unit),
            6 if random.below(8) == 0 => self.file.allocate(LENGTH as u64, 1).expect("allocated"),
            7 => {
                if let Some(held) = self.view_of(cell, slot)
                    && let Some(view) = &*held
                {
                    view.map.flush().expect("flushed");
                }
            }
            8..=11 => self.write(cell, value),
            12..=19 => self.store(cell, value, random),
            _ => {}
        }
        self.check(cell, random);
    }

    fn check_all(&self) {
        for cell in 0..CELLS {
            self.check_file(cell);
        }
        for slot in &self.views {
            let held = slot.read().unwrap_or_else(PoisonError::into_inner);
            let Some(view) = &*held else { continue };
            (0..CELLS)
                .filter(|&cell| view.shows(cell))
                .for_each(|cell| self.check_view(view, cell));
        }
    }
}

fn run_seed(dir: &Path, seed: u64) {
    let world = World::new(dir, seed);
    let mut random = Random(!seed);
    (0..VIEWS - 1).for_each(|slot| world.map_view(slot, &mut random));
    std::thread::scope(|scope| {
        for (thread, salt) in (1_u64..).enumerate().take(THREADS) {
            let world = &world;
            scope.spawn(move || {
                let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(salt));
                (0..STEPS).for_each(|_| world.step(thread, &mut random));
            });
        }
    });
    world.check_all();
    std::fs::remove_file(&world.path).expect("removed");
}

fn seeds() -> Vec<u64> {
    let given = std::env::var("UDAX_SEED").ok().and_then(|seed| seed.parse().ok());
    given.map_or_else(|| (1..=10).collect(), |seed| vec![seed])
}

#[test]
fn every_mapping_and_the_file_show_the_last_value_in_memory() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    seeds().into_iter().for_each(|seed| run_seed(dir.path(), seed));
}

#[test]
fn every_mapping_and_the_file_show_the_last_value_on_disk() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the disk");
    seeds().into_iter().for_each(|seed| run_seed(dir.path(), seed));
}
