//! Writeback, SEMANTICS 6: each step with a store that races it, R1 to R7, and scenario 10.

use crate::journalled::{Map, Rig, Shape, page, pages};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use udax_core::{FrameRange, IoError, PAGE_BYTES, PMD_BYTES};
use udax_sim::{Evicted, FsCall, MediaCall, Plan, explore};

const EIO: IoError = IoError::from_errno(5);

fn rig() -> Arc<Rig> {
    Arc::new(Rig::new(2 * PMD_BYTES))
}

fn small() -> Shape {
    Shape::shared(0, 1024).small()
}

fn durable(rig: &Rig, index: u64) -> u8 {
    let at = usize::try_from(index * PAGE_BYTES).expect("a small file");
    rig.file.contents_after_crash(Evicted::Nothing)[at]
}

/// I8: what a power cut would lose is marked.
#[track_caller]
fn check_i8(rig: &Rig, index: u64) {
    let frames = FrameRange { start: rig.frame(index), count: 1 };
    let report = rig.mapping.entries_in(pages(index, 1))[0];
    assert!(report.dirty || !rig.media.unflushed(frames), "I8: unflushed bytes under {report:?}");
}

#[test]
fn sync_6_1_with_nothing_dirty_has_no_events() {
    let rig = rig();
    let map = rig.map(small());
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Ok(()));
    rig.read(&map, 5).expect("a hole");
    rig.clear();
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Ok(()));
    assert_eq!(rig.mapping.writeback(pages(7, 0)), Ok(()));
    assert!(rig.events().is_empty());
    rig.write(&map, 6, 1).expect("space");
    rig.clear();
    assert_eq!(rig.mapping.writeback(pages(0, 6)), Ok(()));
    assert_eq!(
        rig.events(),
        ["writeback_range 0-5", "writeback_range_done 0-5"],
        "dirty elsewhere"
    );
}

#[test]
fn sync_6_1_flushes_the_range_and_nothing_else_each_entry_once() {
    let rig = rig();
    let map = rig.map(small());
    for index in 10..26 {
        rig.write(&map, index, 1).expect("space");
    }
    rig.clear();
    rig.mapping.sync(pages(12, 3)).expect("all is well");
    assert_eq!(
        rig.events(),
        [
            "writeback_range 12-14",
            "writeback_one 12 1",
            "writeback_one 13 1",
            "writeback_one 14 1",
            "writeback_range_done 12-14"
        ]
    );
    let dirty = rig.entries().iter().filter(|entry| entry.ends_with(" D")).count();
    assert_eq!(dirty, 13);
    rig.check(&[&map]);
}

#[test]
fn sync_6_1_takes_a_fixed_set_and_leaves_what_is_dirtied_after() {
    let rig = rig();
    let map = rig.map(small());
    rig.write(&map, 5, 1).expect("space");
    let (weak, late) = (Arc::downgrade(&rig), map.clone());
    rig.points.once("flush", move || {
        weak.upgrade().expect("the rig lives").write(&late, 9, 1).expect("space");
    });
    rig.clear();
    rig.mapping.sync(pages(0, 1024)).expect("all is well");
    let flushes = rig.points.journal().iter().filter(|call| call.starts_with("flush")).count();
    assert_eq!(
        (flushes, rig.entries()),
        (1, vec!["5 data-pte".to_owned(), "9 data-pte D".to_owned()])
    );
    rig.check(&[&map]);
}

#[test]
fn sync_6_1_the_first_error_stops_it_and_is_told_to_a_later_sync_once() {
    let rig = rig();
    let map = rig.map(small());
    for index in [5, 6, 7] {
        rig.write(&map, index, 1).expect("space");
    }
    rig.media.fail(MediaCall::Flush, Plan::nth(2), EIO);
    assert_eq!(rig.mapping.writeback(pages(0, 1024)), Err(EIO));
    assert_eq!(rig.entries(), ["5 data-pte", "6 data-pte DT", "7 data-pte DT"]);
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Err(EIO), "of the earlier writeback");
    assert_eq!(rig.entries(), ["5 data-pte", "6 data-pte", "7 data-pte"], "which now succeeds");
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Ok(()));
    rig.check(&[&map]);
}

#[test]
fn sync_6_2_5_a_direct_access_that_is_short_or_fails_leaves_the_entry_unlocked_and_dirty() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    rig.write(&map, 5, 1).expect("space");
    rig.media.fail(MediaCall::DirectAccess, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Err(EIO));
    rig.media.set_contiguous_limit(Some(511));
    assert_eq!(rig.mapping.sync(pages(0, 1024)).map_err(|error| error.kind), Err(EIO.kind));
    assert_eq!(rig.entries(), ["0 data-pmd DT"]);
    rig.media.set_contiguous_limit(None);
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Ok(()));
    rig.check(&[&map]);
}

#[test]
fn sync_6_2_4_6_7_8_write_protect_flush_clear_in_this_order_under_the_entry_lock() {
    let rig = rig();
    let map = rig.map(small());
    rig.write(&map, 5, 1).expect("space");
    for point in ["write_protect", "flush", "flush done"] {
        let weak = Arc::downgrade(&rig);
        rig.points.once(point, move || {
            let rig = weak.upgrade().expect("the rig lives");
            assert_eq!(rig.entries(), ["5 data-pte DTL"], "at {point}: locked, both marks there");
        });
    }
    let (weak, seen) = (Arc::downgrade(&rig), map.clone());
    rig.points.once("writeback_one 5 1", move || {
        let rig = weak.upgrade().expect("the rig lives");
        assert_eq!(rig.entries(), ["5 data-pteL".replace("L", " L")]);
        assert_eq!(seen.table(), ["5 storage"]);
    });
    rig.clear();
    rig.mapping.sync(pages(0, 1024)).expect("all is well");
    let journal = rig.points.journal();
    let wanted = [
        "writeback_range",
        "direct_access",
        "write_protect",
        "flush",
        "writeback_one",
        "writeback_range_done",
        "commit",
    ];
    let mut rest = journal.iter();
    for what in wanted {
        assert!(rest.any(|call| call.starts_with(what)), "6.3: {what} in its place in {journal:?}");
    }
    assert_eq!(rig.entries(), ["5 data-pte"]);
    rig.check(&[&map]);
}

/// Whether a store that comes at a point of a writeback has to wait for its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comes {
    Before,
    Behind,
}

#[test]
fn sync_6_2_a_store_at_each_step_is_flushed_now_or_marked_for_later() {
    let steps = [
        ("writeback_range 0-1023", Comes::Before),
        ("direct_access", Comes::Before),
        ("write_protect", Comes::Before),
        ("write_protect done", Comes::Behind),
        ("flush", Comes::Behind),
        ("flush done", Comes::Behind),
        ("writeback_one 5 1", Comes::Behind),
        ("writeback_range_done 0-1023", Comes::Before),
        ("commit", Comes::Before),
    ];
    for (point, comes) in steps {
        let rig = rig();
        let map = rig.map(small());
        rig.write(&map, 5, 1).expect("space");
        let storer = Arc::new(Mutex::new(None));
        let (weak, handle, by) = (Arc::downgrade(&rig), Arc::clone(&storer), map.clone());
        rig.points.once(point, move || {
            let rig = weak.upgrade().expect("the rig lives");
            let own = Arc::clone(&rig);
            let store = thread::spawn(move || own.write(&by, 5, 2).expect("space"));
            if comes == Comes::Before {
                store.join().expect("nothing to wait for");
                return;
            }
            while rig.mapping.sleepers(page(5)) == 0 {
                assert!(!store.is_finished(), "the store did not wait for the writeback");
                thread::yield_now();
            }
            *crate::journalled::lock(&handle) = Some(store);
        });
        rig.mapping.sync(pages(0, 1024)).expect("all is well");
        if let Some(store) = crate::journalled::lock(&storer).take() {
            store.join().expect("the sync is over");
        }
        check_i8(&rig, 5);
        rig.check(&[&map]);
        let is_dirty = rig.entries()[0].ends_with('D');
        assert!(durable(&rig, 5) == 2 || is_dirty, "{point}: lost");
        rig.mapping.sync(pages(0, 1024)).expect("all is well");
        assert_eq!(durable(&rig, 5), 2, "{point}");
    }
}

/// 6.2, steps 1 to 3: who waited for the entry finds ToWrite clear only when the flush has ended.
#[test]
fn r1_the_second_of_two_syncs_returns_only_after_the_first_has_flushed() {
    let rig = rig();
    let map = rig.map(small());
    rig.write(&map, 5, 1).expect("space");
    let (second, returned) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
    let (weak, handle, flag) = (Arc::downgrade(&rig), Arc::clone(&second), Arc::clone(&returned));
    rig.points.once("flush", move || {
        let rig = weak.upgrade().expect("the rig lives");
        let own = Arc::clone(&rig);
        let sync = move || {
            own.mapping.sync(pages(0, 1024)).expect("all is well");
            flag.store(true, Ordering::SeqCst);
        };
        let sync = thread::spawn(sync);
        while rig.mapping.sleepers(page(5)) == 0 {
            assert!(!sync.is_finished(), "the second sync did not wait for the first");
            thread::yield_now();
        }
        *crate::journalled::lock(&handle) = Some(sync);
    });
    let flag = Arc::clone(&returned);
    rig.points.once("flush done", move || {
        assert!(!flag.load(Ordering::SeqCst), "it returned before the flush");
    });
    rig.mapping.sync(pages(0, 1024)).expect("all is well");
    crate::journalled::lock(&second).take().expect("started").join().expect("it ended");
    let flushes = rig.points.journal().iter().filter(|call| call.starts_with("flush")).count();
    assert_eq!((flushes, durable(&rig, 5)), (1, 1), "flushed once for both");
    rig.check(&[&map]);
}

/// Stores to pages 5 and 6 run against `syncs` threads that sync; what was stored before a sync is durable after it.
fn sync_against_stores(seeds: std::ops::Range<u64>, shape: Shape, syncs: usize) {
    explore(seeds, |run| {
        let rig = rig();
        let map = rig.map(shape);
        let stored = Arc::new([AtomicU8::new(0), AtomicU8::new(0)]);
        for (place, index) in [(0, 5), (1, 6)] {
            let (rig, stored) = (Arc::clone(&rig), Arc::clone(&stored));
            let map = Map { cpu: map.process.thread(place), ..map.clone() };
            run.spawn(&format!("stores to {index}"), move || {
                for byte in 1..4 {
                    rig.write(&map, index, byte).expect("space");
                    stored[place].store(byte, Ordering::SeqCst);
                }
            });
        }
        for number in 0..syncs {
            let (rig, stored) = (Arc::clone(&rig), Arc::clone(&stored));
            run.spawn(&format!("sync {number}"), move || {
                for _ in 0..2 {
                    let before = [0, 1].map(|place| stored[place].load(Ordering::SeqCst));
                    rig.mapping.sync(pages(0, 1024)).expect("all is well");
                    for (place, index) in [(0, 5), (1, 6)] {
                        let after = durable(&rig, index);
                        assert!(
                            after >= before[place],
                            "page {index}: {} was stored before the sync, {after} is durable",
                            before[place]
                        );
                    }
                }
            });
        }
    });
}

#[test]
fn r2_r5_what_was_stored_before_a_sync_is_durable_after_it() {
    sync_against_stores(0..150, small(), 1);
    sync_against_stores(0..60, Shape::shared(0, 1024), 1);
}

#[test]
fn r1_r2_two_syncs_at_once_hide_nothing_from_each_other() {
    sync_against_stores(0..150, small(), 2);
    sync_against_stores(0..60, Shape::shared(0, 1024), 2);
}

/// 6.2, step 2: another payload than the scan has seen is not flushed.
#[test]
fn r3_an_entry_whose_storage_was_exchanged_while_it_was_waited_for_is_skipped() {
    let rig = rig();
    let map = rig.map(small());
    rig.write(&map, 5, 1).expect("space");
    let other = rig.fs.create(0);
    rig.fs.reflink(&rig.file, &other);
    map.process.discard(map.sim.address(page(5)) / PAGE_BYTES, 1);
    rig.clear();
    let sync = Arc::new(Mutex::new(None));
    let (weak, handle) = (Arc::downgrade(&rig), Arc::clone(&sync));
    rig.points.once("iomap_begin done", move || {
        let rig = weak.upgrade().expect("the rig lives");
        let own = Arc::clone(&rig);
        let sync = thread::spawn(move || own.mapping.writeback(pages(0, 1024)));
        while rig.mapping.sleepers(page(5)) == 0 {
            assert!(!sync.is_finished(), "the writeback did not wait for the entry");
            thread::yield_now();
        }
        *crate::journalled::lock(&handle) = Some(sync);
    });
    // A store that maps ahead asks the file system, whatever the entry knows.
    let map = rig.map(small().ahead(1));
    rig.write(&map, 5, 2).expect("a copy on write of the extent");
    let sync = crate::journalled::lock(&sync).take().expect("started").join().expect("it ended");
    assert_eq!(sync, Ok(()));
    assert!(
        !rig.points.journal().iter().any(|call| call.starts_with("flush")),
        "somebody else's block"
    );
    assert!(rig.entries()[0].contains('D'), "the store is for a later sync: {:?}", rig.entries());
    rig.mapping.sync(pages(0, 1024)).expect("all is well");
    assert_eq!((durable(&rig, 5), rig.entries()), (2, vec!["5 data-pte".to_owned()]));
    rig.check(&[&map]);
}

#[test]
fn r3_a_sync_against_punching_and_new_storage_in_the_same_place() {
    explore(0..100, |run| {
        let rig = rig();
        let map = rig.map(small());
        rig.write(&map, 5, 1).expect("space");
        let own = Arc::clone(&rig);
        run.spawn("sync", move || own.mapping.sync(pages(0, 1024)).expect("all is well"));
        let (own, by) = (Arc::clone(&rig), map.clone());
        run.spawn("punch", move || {
            own.mapping.punch_hole(5 * PAGE_BYTES, PAGE_BYTES).expect("a hole");
            own.write(&by, 9, 7).expect("the freed block");
            assert_eq!(own.read(&by, 5), Ok(0));
            assert_eq!(own.read(&by, 9), Ok(7));
            own.mapping.sync(pages(9, 1)).expect("all is well");
            assert_eq!(durable(&own, 9), 7);
        });
    });
}

#[test]
fn r4_scenario_10_a_sync_in_the_middle_of_a_pmd_entry_flushes_it_whole() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    rig.write(&map, 700, 1).expect("space");
    rig.clear();
    rig.mapping.sync(pages(900, 1)).expect("all is well");
    assert_eq!(
        rig.events(),
        ["writeback_range 900-900", "writeback_one 512 512", "writeback_range_done 900-900"]
    );
    assert!(rig.points.journal().contains(&"flush 512".to_owned()), "pitfalls 47, 49");
    assert_eq!((durable(&rig, 700), map.table()), (1, vec!["512 storage-pmd".to_owned()]));
    rig.write(&map, 700, 2).expect("storage");
    assert_eq!(rig.entries(), ["512 data-pmd D"], "pitfall 45: the next store is seen");
    rig.check(&[&map]);
}

#[test]
fn r6_scenario_10_a_vma_that_maps_a_part_of_the_entry_is_write_protected_too() {
    let rig = rig();
    let whole = rig.map(Shape::shared(0, 512));
    let part = rig.map(Shape::shared(100, 101));
    let elsewhere = rig.map(Shape::shared(512, 512));
    let off = rig.map(Shape::shared(300, 10).misaligned());
    rig.write(&whole, 0, 1).expect("space");
    rig.write(&part, 150, 2).expect("storage");
    rig.write(&off, 305, 3).expect("storage");
    rig.clear();
    rig.mapping.sync(pages(400, 1)).expect("all is well");
    for map in [&whole, &part, &off] {
        let table = map.table();
        assert!(table.iter().all(|found| !found.contains('W')), "pitfall 46: {table:?}");
    }
    let protects: Vec<_> =
        rig.points.journal().into_iter().filter(|call| call.starts_with("write_protect")).collect();
    assert_eq!(protects, ["write_protect 0+512", "write_protect 100+101", "write_protect 300+10"]);
    assert_eq!((durable(&rig, 150), durable(&rig, 305)), (2, 3));
    rig.write(&part, 150, 4).expect("storage");
    assert_eq!(rig.entries(), ["0 data-pmd D"]);
    rig.check(&[&whole, &part, &elsewhere, &off]);
}

#[test]
fn scenario_06_a_misaligned_vma_stores_under_a_pmd_entry_and_both_are_protected() {
    let rig = rig();
    rig.file.write_zeros(pages(0, 512)).expect("space");
    let (aligned, off) =
        (rig.map(Shape::shared(0, 512)), rig.map(Shape::shared(0, 512).misaligned()));
    rig.read(&aligned, 3).expect("storage");
    rig.write(&off, 9, 1).expect("storage");
    rig.write(&aligned, 3, 2).expect("storage");
    assert_eq!(rig.entries(), ["0 data-pmd D"]);
    rig.clear();
    rig.mapping.sync(pages(9, 1)).expect("all is well");
    assert!(rig.points.journal().contains(&"flush 512".to_owned()));
    assert_eq!(
        (aligned.table(), off.table()),
        (vec!["0 storage-pmd".to_owned()], vec!["9 storage".to_owned()])
    );
    assert_eq!((durable(&rig, 3), durable(&rig, 9)), (2, 1));
    rig.check(&[&aligned, &off]);
}

#[test]
fn r7_a_flush_that_fails_leaves_the_entry_unlocked_and_dirty() {
    for shape in [small(), Shape::shared(0, 1024)] {
        let rig = rig();
        let map = rig.map(shape);
        rig.write(&map, 5, 1).expect("space");
        rig.media.fail(MediaCall::Flush, Plan::ONCE, EIO);
        assert_eq!(rig.mapping.sync(pages(0, 1024)), Err(EIO));
        assert_eq!(
            rig.mapping.entries_in(pages(5, 1)).iter().filter(|report| report.dirty).count(),
            1
        );
        rig.check(&[&map]);
        assert_eq!(rig.write(&map, 5, 2), Ok(()), "nobody hangs");
        assert_eq!(rig.mapping.sync(pages(0, 1024)), Ok(()));
        assert_eq!(durable(&rig, 5), 2);
        rig.check(&[&map]);
    }
}

#[test]
fn sync_6_3_a_commit_that_fails_is_told_and_the_data_is_flushed_all_the_same() {
    let rig = rig();
    let map = rig.map(small());
    rig.write(&map, 5, 1).expect("space");
    rig.file.fail(FsCall::Commit, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Err(EIO));
    assert_eq!(rig.entries(), ["5 data-pte"]);
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Ok(()));
}

#[test]
fn sync_6_2_6_private_mappings_are_left_alone() {
    let rig = rig();
    let (shared, private) = (rig.map(small()), rig.map(Shape::private(0, 1024).small()));
    rig.write(&shared, 5, 1).expect("space");
    rig.write(&private, 5, 9).expect("a copy");
    rig.mapping.sync(pages(0, 1024)).expect("all is well");
    assert_eq!(private.table(), ["5 copy W D"]);
    assert_eq!((rig.read(&private, 5), durable(&rig, 5)), (Ok(9), 1));
    rig.check(&[&shared, &private]);
}

#[test]
fn pitfall_053_of_two_syncs_of_one_store_neither_returns_before_the_flush() {
    explore(0..600, |run| {
        let rig = rig();
        let map = rig.map(small());
        rig.write(&map, 5, 1).expect("space");
        for number in 0..2 {
            let rig = Arc::clone(&rig);
            run.spawn(&format!("sync {number}"), move || {
                rig.mapping.sync(pages(0, 1024)).expect("all is well");
                assert_eq!(durable(&rig, 5), 1, "the sync returned before the flush");
            });
        }
    });
}
