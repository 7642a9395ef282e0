//! The invariants of SEMANTICS 1.4: one test for each where it could break, and all of them after every step of long random
//! histories that a plain byte array agrees with.

use crate::rig::threads::await_sleepers;
use crate::rig::{Call, Mapped, Rig, Spec, page, pages};
use std::sync::{Arc, Mutex};
use udax_core::{Access, Entry, IoError, Kind, Order, Rights, Served, TraceEvent};
use udax_sim::{
    Congruence, Evicted, FileModel, FsCall, MediaCall, MediaEvent, Placement, Plan, Prng, Target,
    explore,
};

const PAGE_BYTES: u64 = 4096;

#[test]
fn i1_entries_of_both_sizes_never_overlap() {
    for order in [[0, 1], [1, 0]] {
        let rig = Rig::new(1024);
        let vmas = [rig.small(pages(0, 1024)), rig.shared(pages(0, 1024))];
        for which in order {
            assert_eq!(vmas[which].load(700), Ok(0));
            rig.check_invariants();
        }
        assert_eq!(rig.mapping.entries(), 1);
    }
}

/// Nobody but the holder changes or deletes a locked entry: two syncs, an invalidation and a punch all wait.
#[test]
fn i2_a_locked_entry_is_changed_by_its_holder_only() {
    let rig = Rig::new(1024);
    let vma = rig.small(pages(0, 1024));
    vma.store(3, 1).expect("there is space");
    let before = rig.entry(3).expect("it is there").entry;
    let looker = Arc::clone(&rig);
    let threads = Arc::new(Mutex::new(Vec::new()));
    let started = Arc::clone(&threads);
    rig.hooks.before(
        |call| matches!(call, Call::Flush(_)),
        move || {
            for how in 0..2 {
                let mapping = Arc::clone(&looker.mapping);
                let thread = std::thread::spawn(move || match how {
                    0 => {
                        mapping.invalidate(pages(3, 1));
                    }
                    _ => mapping.sync(pages(3, 1)).expect("nothing fails"),
                });
                started.lock().expect("nobody panics").push(thread);
            }
            await_sleepers(&looker, 3, 2);
            assert_eq!(looker.entry(3).map(|report| report.entry), Some(before.locked()));
        },
    );
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    for thread in threads.lock().expect("nobody panics").drain(..) {
        thread.join().expect("it ends");
    }
    rig.check_invariants();
}

/// Whatever faults come, a mapped entry keeps its kind and frame.
#[test]
fn i3_faults_never_change_a_mapped_entry() {
    for start in ["pM", "hM"] {
        let rig = Rig::new(1024);
        let (small, large) = (rig.small(pages(0, 1024)), rig.shared(pages(0, 1024)));
        let off =
            rig.map(Spec { congruence: Congruence::OffBy(5), ..Spec::shared(pages(0, 1024)) });
        let private = rig.private(pages(0, 1024));
        if start == "pM" { &small } else { &large }.store(3, 1).expect("there is space");
        let before = rig.entry(3).expect("it is there").entry;
        for vma in [&small, &large, &off, &private] {
            for access in [Access::Read, Access::Write] {
                vma.fault(3, access);
                assert_eq!(rig.entry(3).map(|report| report.entry), Some(before), "{start}");
                rig.check_invariants();
            }
        }
        rig.media.fail(MediaCall::DirectAccess, Plan::ONCE, IoError::from_errno(5));
        small.discard(pages(3, 1));
        assert_eq!(small.fault(3, Access::Read).served, Served::BusError);
        assert_eq!(rig.entry(3).map(|report| report.entry), Some(before));
    }
}

/// Small entries are never merged into a large one, a mapped large one never split: a small fault locks, marks, and later flushes all
/// of it.
#[test]
fn i4_no_upgrade_and_no_split() {
    let rig = Rig::new(1024);
    let (small, large) = (rig.small(pages(0, 1024)), rig.shared(pages(0, 1024)));
    assert_eq!(small.load(3), Ok(0));
    assert_eq!(large.load(3), Ok(0));
    assert_eq!(large.load(4), Ok(0));
    assert_eq!((rig.state(3), rig.state(4)), ("pZ".into(), "pZ".into()));
    large.store(700, 1).expect("there is space");
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    small.store(800, 2).expect("there is storage");
    assert_eq!((rig.state(800), rig.state(512)), ("hM[D]".into(), "hM[D]".into()));
    let _ = rig.media.take_log();
    rig.mapping.sync(pages(800, 1)).expect("nothing fails");
    let flushed = rig.media.take_log().iter().find_map(|event| {
        if let MediaEvent::Flush(frames) = event { Some(frames.count) } else { None }
    });
    assert_eq!((flushed, rig.state(700)), (Some(512), "hM".into()));
    rig.check_invariants();
}

#[test]
fn i5_zero_and_empty_entries_are_never_marked() {
    let rig = Rig::new(1024);
    let (small, private) = (rig.small(pages(0, 1024)), rig.private(pages(0, 1024)));
    assert_eq!(small.load(3), Ok(0));
    private.store(3, 1).expect("there is memory");
    private.store(4, 1).expect("there is memory");
    rig.file.fail(FsCall::BeginWrite, Plan::ALWAYS, IoError::from_errno(5));
    assert_eq!(small.fault(3, Access::Write).served, Served::BusError);
    assert_eq!(small.fault(5, Access::Write).served, Served::BusError);
    rig.check_invariants();
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Ok(()));
    assert_eq!((rig.state(3), rig.state(4), rig.state(5)), ("pZ".into(), "pE".into(), "pE".into()));
}

/// At no moment does a translation come to be before its entry, nor does one outlive it.
#[test]
fn i6_a_translation_has_an_entry_when_it_is_made_and_when_entries_go() {
    let rig = Rig::new(2048);
    rig.fill(pages(512, 512), 1);
    let vma = rig.shared(pages(0, 2048));
    let small = rig.small(pages(0, 2048));
    for index in [0, 600, 1100] {
        let looker = Arc::clone(&rig);
        rig.hooks.before(
            |call| matches!(call, Call::InstallStorage(..) | Call::InstallZeros(..)),
            move || assert!(looker.entry(index).is_some_and(|report| report.entry.is_locked())),
        );
        assert!(vma.load(index).is_ok() && small.load(index + 1).is_ok());
        assert!(rig.hooks.all_done());
    }
    rig.check_invariants();
    rig.mapping.invalidate(pages(5, 600));
    rig.check_invariants();
    assert!(rig.entry(5).is_none() && rig.entry(0).is_none() && rig.entry(1000).is_none());
    assert!(vma.translation(1000).is_none() && small.translation(601).is_none());
    assert!(vma.translation(1100).is_some() || small.translation(1101).is_some());
}

/// The dirty mark comes before the right to store, and under the entry lock.
#[test]
fn i7_the_mark_is_set_before_the_translation_is_writable() {
    for large in [false, true] {
        let rig = Rig::new(1024);
        let vma = if large { rig.shared(pages(0, 1024)) } else { rig.small(pages(0, 1024)) };
        let looker = Arc::clone(&rig);
        rig.hooks.before(
            |call| matches!(call, Call::InstallStorage(_, _, Rights::WritableDirty)),
            move || {
                let report = looker.entry(3).expect("it is there");
                assert!(report.dirty && report.entry.is_locked(), "{report:?}");
            },
        );
        vma.store(3, 1).expect("there is space");
        assert!(rig.hooks.all_done());
        rig.check_invariants();
        // After a sync nothing is writable, and the mark is gone.
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
        assert!(!vma.translation(3).expect("it stays").writable);
        assert!(rig.entry(3).is_some_and(|report| !report.dirty));
        rig.check_invariants();
    }
}

/// What a power cut could lose is marked, under every schedule of stores and syncs; and what was stored before the sync is safe.
#[test]
fn i8_unflushed_data_is_always_marked() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        for (name, index) in [("store 3", 3), ("store 4", 4)] {
            let vma = rig.small(pages(0, 1024));
            let rig = Arc::clone(&rig);
            run.spawn(name, move || {
                for byte in 1..4 {
                    vma.store(index, byte).expect("there is space");
                }
                vma.mapping.sync(pages(index, 1)).expect("nothing fails");
                let at = usize::try_from(index * PAGE_BYTES).expect("small");
                assert_eq!(rig.file.contents_after_crash(Evicted::Nothing)[at], 3);
            });
        }
        let rig = Arc::clone(&rig);
        run.spawn("sync", move || rig.mapping.sync(pages(0, 1024)).expect("nothing fails"));
    });
}

/// When storage takes the place of zeros, every mapping of the zeros is gone before the entry changes.
#[test]
fn i9_zeros_are_unmapped_everywhere_before_storage_takes_their_place() {
    for large in [false, true] {
        let rig = Rig::new(1024);
        let map = |spec: Spec| rig.map(if large { spec } else { spec.small() });
        let vmas: Vec<_> = [(); 3].map(|()| map(Spec::shared(pages(0, 1024)))).into();
        let private = map(Spec::private(pages(0, 1024)));
        assert!(vmas.iter().chain([&private]).all(|vma| vma.load(3) == Ok(0)));
        let looker = Arc::clone(&rig);
        rig.hooks.before(
            |call| matches!(call, Call::InstallStorage(..)),
            move || {
                assert!(looker.mapped().iter().all(|vma| vma.translation(3).is_none()));
            },
        );
        vmas[0].store(3, 7).expect("there is space");
        assert!(rig.hooks.all_done());
        assert!(vmas.iter().chain([&private]).all(|vma| vma.load(3) == Ok(7)));
        rig.check_invariants();
    }
}

/// write(2) into a hole under each sort of zeros: no mapping shows them any more when it returns.
#[test]
fn i9_write_into_a_hole_takes_the_zeros_away() {
    for large in [false, true] {
        let rig = Rig::new(1536);
        let vma = if large { rig.shared(pages(0, 1536)) } else { rig.small(pages(0, 1536)) };
        assert!([3, 510, 513, 600].iter().all(|index| vma.load(*index) == Ok(0)));
        let bytes = vec![9; 4 * 4096];
        assert_eq!(rig.mapping.write(510 * PAGE_BYTES, &bytes), Ok(bytes.len()));
        assert_eq!((vma.load(510), vma.load(513), vma.load(600)), (Ok(9), Ok(9), Ok(0)));
        rig.check_invariants();
    }
}

/// Storage that came while zeros were mapped, by a way that the engine was not told of: the next write finds it there already, and
/// takes the zeros away all the same (43b: the index decides, not the flag).
#[test]
fn i9_write_into_storage_under_zeros_takes_the_zeros_away() {
    let rig = Rig::new(1024);
    let vma = rig.small(pages(0, 1024));
    assert_eq!(vma.load(3), Ok(0));
    rig.file.write_zeros(pages(3, 1)).expect("there is space");
    assert_eq!(rig.mapping.write(3 * PAGE_BYTES, &[7]), Ok(1));
    assert_eq!(vma.load(3), Ok(7));
    rig.check_invariants();
}

/// Who sleeps for an entry sleeps for one that is locked, under the key of its first page.
#[test]
fn i10_a_sleeper_sleeps_for_a_locked_entry_under_its_first_page() {
    let rig = Rig::new(1024);
    let large = rig.shared(pages(0, 1024));
    let waiter = rig.small(pages(0, 1024));
    let looker = Arc::clone(&rig);
    let thread = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&thread);
    rig.hooks.before(
        |call| matches!(call, Call::Begin(..)),
        move || {
            let loader = std::thread::spawn(move || waiter.load(300));
            *slot.lock().expect("nobody panics") = Some(loader);
            await_sleepers(&looker, 0, 1);
            assert_eq!(looker.mapping.sleepers(page(300)), 0);
            assert!(looker.entry(300).is_some_and(|report| report.entry.is_locked()));
        },
    );
    assert_eq!(large.load(5), Ok(0));
    let loader = thread.lock().expect("nobody panics").take().expect("it was started");
    assert_eq!(loader.join().expect("it ends"), Ok(0));
    assert_eq!(rig.mapping.sleepers(page(0)), 0);
    rig.check_invariants();
}

/// Frames are noted as a page's when an entry comes to stand for them, once, and given up when it goes; not when a small fault works
/// under a large entry (pitfall 22).
#[test]
fn i11_owners_follow_the_entries() {
    let rig = Rig::new(1024);
    let (small, large) = (rig.small(pages(0, 1024)), rig.shared(pages(0, 1024)));
    assert_eq!(large.load(3), Ok(0));
    assert_eq!(rig.media.owned_frames(), 0);
    large.store(3, 1).expect("there is space");
    assert_eq!(rig.media.owned_frames(), 512);
    small.store(4, 1).expect("there is storage");
    small.store(600, 1).expect("there is space");
    assert_eq!(rig.media.owned_frames(), 513);
    rig.check_invariants();
    rig.mapping.truncate(512 * PAGE_BYTES).expect("nothing fails");
    assert_eq!(rig.media.owned_frames(), 512);
    rig.check_invariants();
    rig.mapping.punch_hole(7 * PAGE_BYTES, PAGE_BYTES).expect("nothing fails");
    assert_eq!(rig.media.owned_frames(), 0);
}

/// What a fault says it put into the index is what is in the index: a large entry that stays in place, not the small one that was
/// never stored (pitfall 23).
#[test]
fn i12_a_fault_works_with_the_entry_that_is_in_the_index() {
    let rig = Rig::new(1024);
    let (small, large) = (rig.small(pages(0, 1024)), rig.shared(pages(0, 1024)));
    large.store(3, 1).expect("there is space");
    let entry: Entry = rig.entry(3).expect("it is there").entry;
    rig.trace.take();
    assert_eq!(small.load(4), Ok(0));
    let told = rig.trace.take().iter().find_map(|event| {
        if let TraceEvent::InsertMapping { entry, .. } = event { Some(*entry) } else { None }
    });
    assert_eq!(told.map(Entry::unlocked), Some(entry));
    assert_eq!(entry.order(), Order::Pmd);
    let Kind::Mapped(first) = entry.kind() else { panic!("it was stored to") };
    let target = small.translation(4).map(|one| one.target);
    assert_eq!(target, Some(Target::Storage(first.plus(4))));
}

/// The VMAs of a random history: large, small, of another colour, a part, and private.
fn world_of_vmas(rig: &Rig, size: u64) -> Vec<Arc<Mapped>> {
    let whole = pages(0, size);
    vec![
        rig.shared(whole),
        rig.small(whole),
        rig.map(Spec { congruence: Congruence::OffBy(7), ..Spec::shared(whole) }),
        rig.map(Spec { ahead: 20, ..Spec::shared(pages(100, 600)) }),
    ]
}

/// A file with all sorts of VMAs, and the byte array that says what it must hold.
struct History {
    rig: Arc<Rig>,
    vmas: Vec<Arc<Mapped>>,
    private: Arc<Mapped>,
    model: FileModel,
    prng: Prng,
}

const HISTORY_PAGES: u64 = 1200;

impl History {
    fn new(seed: u64) -> Self {
        let rig = Rig::new(HISTORY_PAGES);
        let mut prng = Prng::new(seed);
        match prng.below(4) {
            0 => rig.fs.set_placement(Placement::Fragmented { longest_run: 5 }),
            1 => rig.fs.set_placement(Placement::Misaligned),
            _ => {}
        }
        let vmas = world_of_vmas(&rig, HISTORY_PAGES);
        let private = rig.map(Spec { ahead: 3, ..Spec::private(pages(0, HISTORY_PAGES)) });
        Self { rig, vmas, private, model: FileModel::new(HISTORY_PAGES * PAGE_BYTES), prng }
    }

    /// A page of `area`; mostly one of a few, so that they meet.
    fn page_in(&mut self, area: udax_core::PageRange) -> u64 {
        let near = [0, 1, 511, 512, 513, 600, 1023, 1024][self.place(8)];
        let index = if self.prng.chance(1, 4) { self.prng.below(HISTORY_PAGES) } else { near };
        index.clamp(area.start.0, area.end.0 - 1)
    }

    fn place(&mut self, count: u64) -> usize {
        usize::try_from(self.prng.below(count)).expect("small")
    }

    fn step(&mut self, step: u8) {
        let which = self.place(4);
        let vma = Arc::clone(&self.vmas[which]);
        let index = self.page_in(vma.vma.pages);
        let in_file = index * PAGE_BYTES < self.model.size();
        match self.prng.below(10) {
            0..=2 if in_file => {
                let mut byte = [0];
                self.model.load(index * PAGE_BYTES, &mut byte);
                assert_eq!(vma.load(index), Ok(byte[0]), "page {index}");
            }
            3..=4 if in_file => {
                vma.store(index, step).expect("there is space");
                self.model.store(index * PAGE_BYTES, &[step]);
            }
            5 => {
                let at = index * PAGE_BYTES + self.prng.below(5000);
                let length = 1 + self.prng.below(9000);
                self.rig.mapping.punch_hole(at, length).expect("nothing fails");
                self.model.punch(at, length);
            }
            6 => {
                let at = index * PAGE_BYTES + self.prng.below(5000);
                let bytes = vec![step; self.place(9000)];
                if at + bytes.len() as u64 <= self.model.size() {
                    assert_eq!(self.rig.mapping.write(at, &bytes), Ok(bytes.len()));
                    self.model.write(at, &bytes);
                }
            }
            7 => {
                let whole = HISTORY_PAGES * PAGE_BYTES;
                let some = (index * PAGE_BYTES + self.prng.below(5000)).min(whole);
                let bytes = if self.prng.chance(1, 2) { whole } else { some };
                self.rig.mapping.truncate(bytes).expect("nothing fails");
                self.model.set_size(bytes);
            }
            8 => {
                let range = pages(index, 1 + self.prng.below(600));
                self.rig.mapping.sync(range).expect("nothing fails");
            }
            _ if in_file => {
                self.private.store(index, 1).expect("there is memory");
                self.rig.mapping.invalidate(pages(index, 1 + self.prng.below(20)));
            }
            _ => {}
        }
    }
}

fn random_history(seed: u64) {
    let mut history = History::new(seed);
    for step in 1..=60 {
        history.step(step);
        let broken = history.rig.broken_invariants();
        assert!(broken.is_empty(), "seed {seed} step {step}:\n{}", broken.join("\n"));
    }
    let wanted = history.model.contents();
    assert!(history.rig.file.contents() == wanted, "seed {seed}");
    history.rig.mapping.sync(pages(0, HISTORY_PAGES)).expect("nothing fails");
    assert!(history.rig.file.contents_after_crash(Evicted::Nothing) == wanted, "seed {seed}");
}

#[test]
fn i1_to_i12_hold_after_every_step_of_random_histories() {
    for seed in 0..150 {
        random_history(seed);
    }
}
