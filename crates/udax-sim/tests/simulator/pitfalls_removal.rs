//! Pitfalls 57 to 67: who frees storage waits for its users, takes all that stood for it away, and nothing else.
//! 55, 56, 58 and 69 are in `engine_remove.rs`, 68 in `io_path.rs`.

use crate::rig::threads::{await_sleepers, watch};
use crate::rig::{Call, Rig, Spec, page, pages};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use udax_core::{Access, Frame, FrameRange, PAGE_BYTES, PageRange, Served};
use udax_core::{Filesystem as _, Media as _, PrivateCopies};
use udax_sim::{AccessError, Congruence, Placement, Run, Target};

/// Runs `body` on a thread that is to wait for `frame` to be unpinned; the thread, once it does.
#[track_caller]
fn waits_for_unpin(
    rig: &Rig,
    frame: Frame,
    body: impl FnOnce() + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let waits = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&waits);
    rig.hooks.before(
        move |call| *call == Call::WaitUnpinned(frame),
        move || flag.store(true, Ordering::SeqCst),
    );
    let thread = std::thread::spawn(body);
    let begin = Instant::now();
    while !waits.load(Ordering::SeqCst) {
        assert!(!thread.is_finished(), "nobody waits for the pin");
        assert!(begin.elapsed() < Duration::from_secs(20), "neither comes to be");
        std::thread::yield_now();
    }
    thread
}

fn frame(rig: &Rig, index: u64) -> Frame {
    rig.file.frame_of(page(index)).expect("there is storage")
}

/// A private store, then a hole punched by another process: there, beside it, and in a layout change.
#[test]
fn pitfall_057_breaking_layouts_leaves_private_copies_alone() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 16), 5);
    let (private, shared) = (rig.private(pages(0, 1024)), rig.small(pages(0, 1024)));
    private.store(3, 8).expect("there is memory");
    assert_eq!((shared.load(3), private.load(4)), (Ok(5), Ok(5)));
    rig.mapping.punch_hole(3 * PAGE_BYTES, 2 * PAGE_BYTES).expect("nothing fails");
    assert_eq!((private.load(3), private.load(4), shared.load(3)), (Ok(8), Ok(0), Ok(0)));
    rig.mapping.punch_hole(8 * PAGE_BYTES, PAGE_BYTES).expect("nothing fails");
    rig.mapping.change_layout(pages(0, 16), |_| Ok(())).expect("nothing fails");
    assert_eq!(private.load(3), Ok(8), "it is the program's own");
    assert_eq!(private.translation(3).map(|one| one.target), Some(Target::PrivateCopy));
    rig.check_invariants();
}

/// Nobody but a writeback holds an entry lock while faults are excluded: the scan for pins waits for it, and looks then.
#[test]
fn pitfall_059_the_scan_for_pins_waits_for_a_locked_entry() {
    for size in [Spec::shared(pages(0, 1024)), Spec::shared(pages(0, 1024)).small()] {
        let rig = Rig::new(1024);
        let vma = rig.map(size);
        vma.store(3, 1).expect("there is space");
        let pinned = frame(&rig, 3);
        rig.media.pin(pinned);
        let start = rig.entry(3).expect("there is an entry").start.0;
        let (own, (sender, punching)) = (Arc::clone(&rig), channel());
        rig.hooks.before(
            |call| matches!(call, Call::Flush(_)),
            move || {
                let mapping = Arc::clone(&own.mapping);
                let punch = std::thread::spawn(move || {
                    mapping.punch_hole(0, 512 * PAGE_BYTES).expect("nothing fails");
                });
                await_sleepers(&own, start, 1);
                let _ = sender.send(punch);
            },
        );
        let waits = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&waits);
        rig.hooks.before(
            move |call| *call == Call::WaitUnpinned(pinned),
            move || flag.store(true, Ordering::SeqCst),
        );
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
        let punch = punching.recv().expect("it was started");
        while !punch.is_finished() && !waits.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert!(waits.load(Ordering::SeqCst), "the pin under the locked entry was missed");
        rig.media.unpin(pinned);
        punch.join().expect("it ends");
        rig.check_invariants();
    }
}

/// The same for the removal itself: an entry that a writeback holds is waited for, not left behind.
#[test]
fn pitfall_059_a_removal_waits_for_a_locked_entry() {
    for seed in 0..100 {
        let mut run = Run::new(seed);
        let rig = Rig::new(64);
        let vma = rig.small(pages(0, 64));
        vma.store(3, 1).expect("there is space");
        let own = Arc::clone(&rig);
        run.spawn("sync", move || own.mapping.sync(pages(0, 64)).expect("nothing fails"));
        let own = Arc::clone(&rig);
        run.spawn("truncate", move || {
            own.mapping.truncate(0).expect("nothing fails");
            assert_eq!(own.mapping.entries(), 0, "an entry over storage that was freed");
        });
        run.go();
        rig.check_invariants();
    }
}

/// Entries without a pin go too: the storage comes to be another file's, and is that one's alone then.
#[test]
fn pitfall_060_a_layout_break_removes_idle_entries_too() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 8), 5);
    let vma = rig.small(pages(0, 1024));
    assert!((0..8).all(|index| vma.load(index) == Ok(5)));
    rig.mapping
        .change_layout(pages(0, 4), |file| {
            file.sim.collapse(pages(0, 4));
            Ok(())
        })
        .expect("nothing fails");
    assert_eq!((rig.mapping.entries(), rig.media.owned_frames()), (4, 4), "those behind stay");
    let second = rig.second(rig.fs.create(8 * PAGE_BYTES));
    let other = second.small(pages(0, 8));
    for index in 0..4 {
        other.store(index, 7).expect("the storage that was freed");
        let owner = rig.media.owner(frame(&second, index)).map(|owner| owner.index);
        assert_eq!(owner, Some(page(index)), "the new owner's alone");
    }
}

#[test]
fn pitfall_060_eviction_waits_for_pins() {
    let rig = Rig::new(1024);
    let vma = rig.small(pages(0, 1024));
    vma.store(700, 1).expect("there is space");
    let pinned = frame(&rig, 700);
    rig.media.pin(pinned);
    vma.unmap();
    let mapping = Arc::clone(&rig.mapping);
    let evict = waits_for_unpin(&rig, pinned, move || mapping.evict());
    assert_eq!(rig.mapping.entries(), 1, "it still stands for the storage");
    rig.media.unpin(pinned);
    evict.join().expect("it ends");
    assert_eq!((rig.mapping.entries(), rig.media.owned_frames()), (0, 0));
}

/// "To the end of the file" has a constructor of its own; an empty range is nothing, not everything.
#[test]
fn pitfall_061_to_the_end_of_the_file_is_all_of_it() {
    let all = PageRange::from(page(0));
    assert!(all.covers(pages(0, 1 << 51)) && all.contains(page(u64::MAX - 1)));
    assert!(pages(0, 0).is_empty() && !pages(0, 0).contains(page(0)));
    for how in 0..2 {
        let rig = Rig::new(1024);
        let vma = rig.shared(pages(0, 1024));
        vma.store(0, 1).expect("there is space");
        vma.store(700, 1).expect("there is space");
        let pinned = frame(&rig, 700);
        rig.media.pin(pinned);
        vma.unmap();
        let mapping = Arc::clone(&rig.mapping);
        let body = move || {
            if how == 0 { mapping.truncate(0).expect("nothing fails") } else { mapping.evict() }
        };
        let whole = waits_for_unpin(&rig, pinned, body);
        rig.media.unpin(pinned);
        whole.join().expect("it ends");
        assert_eq!(rig.mapping.entries(), 0);
    }
}

#[test]
fn pitfall_062_the_last_unpin_wakes_all_who_wait() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 8), 5);
    let vma = rig.small(pages(0, 1024));
    assert_eq!(vma.load(3), Ok(5));
    let pinned = frame(&rig, 3);
    rig.media.pin(pinned);
    rig.media.pin(pinned);
    let threads = [0, 1].map(|_| {
        let mapping = Arc::clone(&rig.mapping);
        waits_for_unpin(&rig, pinned, move || {
            mapping.punch_hole(0, 8 * PAGE_BYTES).expect("nothing fails");
        })
    });
    rig.media.unpin(pinned);
    assert_eq!(rig.file.frame_of(page(3)), Some(pinned), "one reference is left");
    rig.media.unpin(pinned);
    for thread in threads {
        watch("who waits for a pin", move || thread.join().expect("it ends")).ends();
    }
    assert_eq!(rig.file.frame_of(page(3)), None);
    rig.check_invariants();
}

/// Stores, punches and truncations under a file system that is frozen and thawed: associations come out even (I11), and nothing is
/// stored while it is frozen.
#[test]
fn pitfall_063_freezing_under_stores_and_punches_keeps_associations_even() {
    for seed in 0..60 {
        let mut run = Run::new(seed);
        let rig = Rig::new(1024);
        let (large, small) = (rig.shared(pages(0, 1024)), rig.small(pages(0, 1024)));
        for (name, vma, first) in [("large", large, 0), ("small", small, 509)] {
            run.spawn(name, move || {
                for index in first..first + 6 {
                    for done in [vma.store(index, 1), vma.load(index + 100).map(|_| ())] {
                        assert!(matches!(done, Ok(()) | Err(AccessError::BusError)), "{done:?}");
                    }
                }
            });
        }
        let own = Arc::clone(&rig);
        run.spawn("freezer", move || {
            for _ in 0..3 {
                own.fs.freeze();
                let before = own.file.modified();
                own.mapping.sync(pages(0, 1024)).expect("nothing fails");
                assert_eq!(own.file.modified(), before, "a store went on in a frozen file system");
                own.fs.thaw();
            }
        });
        let own = Arc::clone(&rig);
        run.spawn("remover", move || {
            own.mapping.punch_hole(510 * PAGE_BYTES, 4 * PAGE_BYTES).expect("nothing fails");
            own.mapping.invalidate(pages(0, 1024));
            own.mapping.truncate(512 * PAGE_BYTES).expect("nothing fails");
            own.mapping.truncate(1024 * PAGE_BYTES).expect("nothing fails");
        });
        run.go();
        rig.check_invariants();
    }
}

/// What stands for no storage names no frame, not even the first: that one belongs to somebody else here, pinned and lost.
#[test]
fn pitfall_064_zero_and_empty_entries_have_no_frame() {
    let rig = Rig::new(1024);
    let other = rig.fs.create(PAGE_BYTES);
    other.poke(0, &[9]);
    let first = other.frame_of(page(0)).expect("there is storage");
    assert_eq!(first, Frame(0));
    rig.media.pin(first);
    rig.media.poison(first);
    let (large, small, private) =
        (rig.shared(pages(0, 512)), rig.small(pages(512, 256)), rig.private(pages(768, 256)));
    assert_eq!((large.load(0), small.load(600)), (Ok(0), Ok(0)));
    private.store(800, 1).expect("there is memory");
    assert_eq!([0, 600, 800].map(|index| rig.state(index)), ["hZ", "pZ", "pE"]);
    assert_eq!(rig.media.owned_frames(), 0);
    let entries = [0, 600, 800].map(|index| rig.entry(index).and_then(|one| one.entry.frame()));
    assert_eq!(entries, [None; 3]);
    assert_eq!([0, 600, 800].map(|index| rig.mapping.media_failed(page(index))), [None; 3]);
    let mapping = Arc::clone(&rig.mapping);
    let body = move || mapping.punch_hole(0, 1024 * PAGE_BYTES).expect("nothing is pinned");
    watch("a punch of zeros", body).ends();
    assert_eq!((rig.mapping.entries(), rig.media.owned_frames()), (0, 0));
    rig.check_invariants();
}

/// The 512 frames of a 2 MiB entry are given up as 512, whatever takes its place.
#[test]
fn pitfall_065_a_2_mib_entry_that_goes_leaves_no_frame_behind() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 5);
    let (large, small) = (rig.shared(pages(0, 512)), rig.small(pages(0, 512)));
    assert_eq!((large.load(0), rig.media.owned_frames()), (Ok(5), 512));
    rig.mapping.punch_hole(5 * PAGE_BYTES, PAGE_BYTES).expect("nothing fails");
    assert_eq!(rig.media.owned_frames(), 0);
    assert_eq!((small.load(7), rig.media.owned_frames()), (Ok(5), 1));
    rig.check_invariants();
    // And where a small copy takes the place of a 2 MiB entry over shared storage.
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 5);
    let second = rig.fs.create(0);
    rig.fs.reflink(&rig.file, &second);
    let large = rig.shared(pages(0, 512));
    assert_eq!((large.load(0), rig.media.owned_frames()), (Ok(5), 512));
    rig.fs.set_placement(Placement::Fragmented { longest_run: 1 });
    large.store(7, 6).expect("there is space");
    assert_eq!((rig.state(7), rig.media.owned_frames()), ("pM[D]".into(), 1));
    rig.check_invariants();
}

/// One function says whether storage is idle, and it counts from zero: one reference is busy, none is idle.
#[test]
fn pitfall_066_one_reference_is_busy_and_none_is_idle() {
    let rig = Rig::new(16);
    rig.fill(pages(0, 4), 5);
    let vma = rig.small(pages(0, 16));
    assert_eq!(vma.load(2), Ok(5));
    let (pinned, all) = (frame(&rig, 2), FrameRange { start: frame(&rig, 0), count: 4 });
    assert_eq!(rig.media.first_pinned(all), None, "mapped, and idle");
    rig.media.pin(pinned);
    assert_eq!(rig.media.first_pinned(all), Some(pinned));
    rig.media.pin(pinned);
    rig.media.unpin(pinned);
    assert_eq!(rig.media.first_pinned(all), Some(pinned));
    let mapping = Arc::clone(&rig.mapping);
    let body = move || mapping.punch_hole(0, 4 * PAGE_BYTES).expect("nothing fails");
    let punch = waits_for_unpin(&rig, pinned, body);
    rig.media.unpin(pinned);
    assert_eq!(rig.media.first_pinned(all), None);
    punch.join().expect("it ends");
    rig.check_invariants();
}

#[test]
fn pitfall_067_a_length_of_zero_is_a_length() {
    let rig = Rig::new(0);
    let vma = rig.map(Spec { congruence: Congruence::OffBy(3), ..Spec::shared(pages(0, 16)) });
    for (bytes, first) in
        [(0, Err(AccessError::BusError)), (1, Ok(0)), (0, Err(AccessError::BusError))]
    {
        rig.mapping.truncate(bytes).expect("nothing fails");
        assert_eq!((rig.file.size_bytes(), vma.load(0)), (bytes, first));
        assert_eq!(vma.load(1), Err(AccessError::BusError));
    }
    assert_eq!(rig.mapping.entries(), 0);
    rig.check_invariants();
}

/// And changing the length breaks layouts: it waits for pins behind the new end, on both ways down and for none in front of it.
#[test]
fn pitfall_067_changing_the_length_waits_for_pins() {
    let rig = Rig::new(16);
    rig.fill(pages(0, 4), 5);
    let vma = rig.small(pages(0, 16));
    assert_eq!((vma.load(0), vma.load(2)), (Ok(5), Ok(5)));
    let (kept, pinned) = (frame(&rig, 0), frame(&rig, 2));
    rig.media.pin(kept);
    rig.media.pin(pinned);
    let mapping = Arc::clone(&rig.mapping);
    let body = move || mapping.truncate(PAGE_BYTES + 1).expect("nothing fails");
    let truncate = waits_for_unpin(&rig, pinned, body);
    assert_eq!(rig.file.size_bytes(), 16 * PAGE_BYTES, "nothing has changed yet");
    rig.media.unpin(pinned);
    truncate.join().expect("it ends");
    assert_eq!(rig.file.frame_of(page(2)), None);
    assert_eq!(vma.fault(0, Access::Read).served, Served::Installed);
    rig.check_invariants();
    let zap = rig.hooks.take_log().iter().any(
        |call| matches!(call, Call::Unmap(range, PrivateCopies::Drop) if range.contains(page(2))),
    );
    assert!(zap, "what lay behind the end is unmapped with its private copies");
}
