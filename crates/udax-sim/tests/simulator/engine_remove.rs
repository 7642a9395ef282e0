//! SEMANTICS 7: removing entries, the order of truncate and punch, pinned storage, and what is held while bytes are copied.

use crate::rig::threads::watch;
use crate::rig::{Call, Rig, Spec, page, pages};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use udax_core::{Access, FrameRange, IoError, PrivateCopies, Served};
use udax_sim::{AccessError, Congruence, Evicted, FsCall, Plan, Target};

const PAGE_BYTES: u64 = 4096;

/// Runs `body` on a thread and waits until it ends, or until `is_so`.
fn start_until(
    body: impl FnOnce() + Send + 'static,
    is_so: impl Fn() -> bool,
) -> std::thread::JoinHandle<()> {
    let thread = std::thread::spawn(body);
    let begin = Instant::now();
    while !thread.is_finished() && !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "neither comes to be");
        std::thread::yield_now();
    }
    thread
}

#[test]
fn section_7_1_invalidate_one_answers_for_nothing_clean_and_dirty() {
    let rig = Rig::new(1024);
    assert_eq!(rig.mapping.invalidate(pages(0, 1024)), 0, "nothing is there");
    rig.fill(pages(0, 2), 5);
    let vma = rig.small(pages(0, 1024));
    assert_eq!(vma.load(0), Ok(5));
    vma.store(1, 6).expect("there is storage");
    assert_eq!(rig.media.owned_frames(), 2);
    assert_eq!(rig.mapping.invalidate(pages(0, 2)), 1, "the dirty one stays");
    assert_eq!((rig.state(0), rig.state(1)), ("none".into(), "pM[D]".into()));
    assert_eq!(rig.media.owned_frames(), 1, "whoever goes is nobody's storage any more (I11)");
    rig.check_invariants();
    // Chosen by a sync that failed: dirty and chosen, so it stays too.
    rig.media.fail(udax_sim::MediaCall::Flush, Plan::ONCE, IoError::from_errno(5));
    rig.mapping.sync(pages(0, 2)).expect_err("planned");
    assert!(rig.entry(1).is_some_and(|report| report.to_write));
    assert_eq!(rig.mapping.invalidate(pages(0, 2)), 1);
    rig.mapping.sync(pages(0, 2)).expect("nothing fails now");
    assert_eq!((rig.mapping.invalidate(pages(0, 2)), rig.mapping.entries()), (0, 0));
    assert_eq!(vma.load(1), Ok(6));
}

/// Entries first, then the page tables, and those always: also of what was dirty and stayed.
#[test]
fn section_7_1_invalidate_unmaps_after_the_entries_and_always() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 2), 5);
    let vma = rig.small(pages(0, 1024));
    assert_eq!(vma.load(0), Ok(5));
    vma.store(1, 6).expect("there is storage");
    let looker = Arc::clone(&rig);
    rig.hooks.before(
        |call| matches!(call, Call::Unmap(..)),
        move || assert_eq!((looker.state(0), looker.state(1)), ("none".into(), "pM[D]".into())),
    );
    rig.hooks.take_log();
    assert_eq!(rig.mapping.invalidate(pages(0, 2)), 1);
    assert_eq!(rig.hooks.take_log(), [Call::Unmap(pages(0, 2), PrivateCopies::Keep)]);
    assert_eq!((vma.translation(0), vma.translation(1)), (None, None));
    assert!(rig.hooks.all_done());
    rig.check_invariants();
}

/// 7.1, delete-range: scan, wait for each, delete. Pitfall 16: while the removal sleeps for a 2 MiB entry, small entries take its place elsewhere in it. They are not skipped.
#[test]
fn pitfall_016_a_removal_that_slept_looks_at_the_same_place_again() {
    let rig = Rig::new(1024);
    let (large, small) = (rig.shared(pages(0, 1024)), rig.small(pages(0, 1024)));
    assert_eq!(large.load(0), Ok(0));
    let (mapping, watched) = (Arc::clone(&rig.mapping), Arc::clone(&rig));
    let (sender, remover) = channel();
    rig.hooks.before(
        |call| matches!(call, Call::Unmap(..)),
        move || {
            let body = move || {
                mapping.invalidate(pages(0, 512));
            };
            let thread = start_until(body, || watched.mapping.sleepers(page(0)) > 0);
            let _ = sender.send(thread);
        },
    );
    assert_eq!(small.fault(3, Access::Read).served, Served::Installed);
    remover.recv().expect("it was started").join().expect("it ends");
    assert_eq!(rig.state(3), "none");
    rig.check_invariants();
}

/// A removal from within a 2 MiB entry takes all of it; what is left of the 2 MiB is faulted anew, in each VMA, whatever the size of
/// its translations (I6).
#[test]
fn section_7_1_a_partial_range_removes_the_whole_2_mib_entry() {
    for how in 0..4 {
        let rig = Rig::new(1024);
        rig.fill(pages(0, 512), 5);
        let large = rig.shared(pages(0, 1024));
        let off =
            rig.map(Spec { congruence: Congruence::OffBy(1), ..Spec::shared(pages(0, 1024)) });
        assert_eq!((large.load(0), off.load(10), off.load(20)), (Ok(5), Ok(5), Ok(5)));
        assert_eq!(rig.state(10), "hM");
        match how {
            0 => rig.mapping.punch_hole(20 * PAGE_BYTES, PAGE_BYTES).expect("nothing fails"),
            1 => rig.mapping.truncate(20 * PAGE_BYTES).expect("nothing fails"),
            2 => assert_eq!(rig.mapping.invalidate(pages(20, 1)), 0),
            _ => rig.mapping.change_layout(pages(20, 1), |_| Ok(())).expect("nothing fails"),
        }
        assert_eq!(rig.mapping.entries(), 0);
        assert!(large.translation(0).is_none() && off.translation(10).is_none(), "way {how}");
        rig.check_invariants();
        assert_eq!((large.load(0), off.load(10)), (Ok(5), Ok(5)));
        rig.check_invariants();
    }
}

/// 7.1, a 2 MiB entry touched by a partial range: the same with zeros, which would otherwise stay in sight for ever.
#[test]
fn revoking_zeros_from_a_part_of_2_mib_takes_them_all() {
    let rig = Rig::new(1024);
    let large = rig.shared(pages(0, 1024));
    assert_eq!(large.load(0), Ok(0));
    rig.hooks.take_log();
    rig.mapping.revoke_zeros(pages(20, 1));
    assert_eq!(rig.hooks.take_log(), [Call::Unmap(pages(0, 512), PrivateCopies::Keep)]);
    assert_eq!((rig.mapping.entries(), large.sim.translations().len()), (0, 0));
    rig.check_invariants();
}

/// 7.1, the dirty rest (pitfall 54): what a partial punch deletes of a dirty 2 MiB entry has been flushed before.
#[test]
fn pitfall_054_the_surviving_rest_of_a_dirty_2_mib_entry_is_flushed_before_it_goes() {
    for truncating in [false, true] {
        let rig = Rig::new(1024);
        let large = rig.shared(pages(0, 1024));
        large.store(7, 9).expect("there is space");
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
        large.store(7, 10).expect("there is storage");
        if truncating {
            rig.mapping.truncate(20 * PAGE_BYTES).expect("nothing fails");
        } else {
            rig.mapping.punch_hole(20 * PAGE_BYTES, PAGE_BYTES).expect("nothing fails");
        }
        let durable = rig.file.contents_after_crash(Evicted::Nothing);
        assert_eq!(durable[7 << 12], 10);
        rig.check_invariants();
    }
}

/// 7.1, delete-range: a range that starts inside a 2 MiB entry is walked once (pitfall 56).
#[test]
fn pitfall_056_ranges_that_start_inside_2_mib_entries_come_to_an_end() {
    let body = || {
        let rig = Rig::new(2048);
        let large = rig.shared(pages(0, 2048));
        for index in [0, 512, 1024, 1536] {
            large.store(index, 1).expect("there is space");
        }
        assert_eq!(rig.mapping.invalidate(pages(100, 1200)), 3, "all dirty, and met once");
        rig.mapping.sync(pages(100, 1200)).expect("nothing fails");
        assert_eq!(rig.state(1536), "hM[D]", "beyond the range");
        rig.mapping.sync(pages(0, 2048)).expect("nothing fails");
        assert_eq!(rig.mapping.invalidate(pages(100, 1200)), 0);
        assert_eq!(rig.mapping.entries(), 1);
        large.store(512, 1).expect("there is storage");
        rig.mapping.punch_hole(100 * PAGE_BYTES, 1900 * PAGE_BYTES).expect("nothing is pinned");
        assert_eq!(rig.mapping.entries(), 0);
        rig.check_invariants();
    };
    watch("somebody who walks a range", body).ends();
}

/// 7.2 for truncate: unmap and look for pins; flush what sticks out; zero the tail; set the length; unmap with private copies;
/// delete; free.
#[test]
fn section_7_2_truncate_goes_in_this_order() {
    let rig = Rig::new(1024);
    let large = rig.shared(pages(0, 1024));
    large.store(0, 1).expect("there is space");
    let frame = rig.file.frame_of(page(0)).expect("it was stored to");
    rig.hooks.take_log();
    let looker = Arc::clone(&rig);
    rig.hooks.before(
        |call| matches!(call, Call::Free(_)),
        move || {
            assert_eq!(looker.mapping.entries(), 0, "no entry stands for what is freed");
            assert!(looker.mapped().iter().all(|vma| vma.sim.translations().is_empty()));
        },
    );
    rig.mapping.truncate(10 * PAGE_BYTES + 100).expect("nothing fails");
    assert!(rig.hooks.all_done());
    let cut = udax_core::PageRange::from(page(11));
    let wanted: [fn(&Call) -> bool; 7] = [
        |call| matches!(call, Call::Unmap(_, PrivateCopies::Keep)),
        |call| matches!(call, Call::FirstPinned(_)),
        |call| matches!(call, Call::Flush(_)),
        |call| matches!(call, Call::Zero(_, 100, 3996)),
        |call| matches!(call, Call::SetSize(_)),
        |call| matches!(call, Call::Unmap(_, PrivateCopies::Drop)),
        |call| matches!(call, Call::Free(_)),
    ];
    let log = rig.hooks.take_log();
    let places: Vec<_> = wanted.iter().map(|is| log.iter().position(is)).collect();
    assert!(places.iter().all(Option::is_some), "{places:?} of {log:?}");
    assert!(places.is_sorted(), "{places:?} of {log:?}");
    assert_eq!(log.last(), Some(&Call::Free(cut)));
    assert!(log.contains(&Call::Flush(FrameRange { start: frame, count: 512 })), "whole (6.2, 4)");
    rig.check_invariants();
}

#[test]
fn section_7_2_punch_frees_when_nothing_shows_the_storage_any_more() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 8), 5);
    let vma = rig.small(pages(0, 1024));
    assert!((0..8).all(|index| vma.load(index) == Ok(5)));
    let looker = Arc::clone(&rig);
    rig.hooks.before(
        |call| matches!(call, Call::Free(_)),
        move || {
            assert_eq!((looker.state(2), looker.state(5)), ("none".into(), "none".into()));
            assert!(looker.mapped()[0].translation(2).is_none());
            assert!(looker.mapped()[0].translation(1).is_some(), "nothing else is touched");
        },
    );
    rig.mapping.punch_hole(2 * PAGE_BYTES, 4 * PAGE_BYTES).expect("nothing fails");
    assert!(rig.hooks.all_done());
    assert_eq!((vma.load(1), vma.load(2), vma.load(5), vma.load(6)), (Ok(5), Ok(0), Ok(0), Ok(5)));
    rig.check_invariants();
}

/// Every way in which a punched range can lie in pages: whole pages become holes, the edges zeros, nothing else changes.
#[test]
fn a_punch_of_any_bytes_makes_those_zero_and_no_others() {
    for (offset, length) in [
        (100, 50),
        (0, 50),
        (4000, 96),
        (100, 4096),
        (4095, 2),
        (1, 12000),
        (4096, 8192),
        (8191, 1),
    ] {
        let rig = Rig::new(8);
        rig.file.poke(0, &[7; 4 * 4096]);
        let vma = rig.small(pages(0, 8));
        assert_eq!(vma.load(0), Ok(7));
        rig.mapping.punch_hole(offset, length).expect("nothing fails");
        let mut wanted = [7; 4 * 4096];
        wanted[usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap()].fill(0);
        assert!(rig.file.contents()[..4 * 4096] == wanted, "punch of {length} at {offset}");
        rig.check_invariants();
    }
    let rig = Rig::new(8);
    assert!(rig.mapping.punch_hole(0, 0).is_err() && rig.mapping.punch_hole(u64::MAX, 2).is_err());
}

/// 7.3, and what becomes of private copies: truncate takes them, a punch does not.
#[test]
fn section_7_3_faults_after_truncate_and_punch() {
    let rig = Rig::new(8);
    let (vma, private) = (rig.small(pages(0, 8)), rig.private(pages(0, 8)));
    vma.store(5, 1).expect("there is space");
    private.store(4, 2).expect("there is memory");
    private.store(5, 3).expect("there is memory");
    rig.mapping.punch_hole(4 * PAGE_BYTES, 2 * PAGE_BYTES).expect("nothing fails");
    assert_eq!((vma.load(5), private.load(5)), (Ok(0), Ok(3)));
    rig.mapping.truncate(5 * PAGE_BYTES).expect("nothing fails");
    assert_eq!(vma.load(5), Err(AccessError::BusError));
    assert_eq!(private.load(5), Err(AccessError::BusError));
    assert_eq!(private.load(4), Ok(2), "below the new end it stays");
    rig.mapping.truncate(8 * PAGE_BYTES).expect("nothing fails");
    assert_eq!((vma.load(5), private.load(5)), (Ok(0), Ok(0)));
    rig.check_invariants();
}

#[test]
fn a_truncate_that_fails_changes_nothing_in_front_of_the_new_end() {
    let rig = Rig::new(8);
    rig.file.poke(0, &[7; 8 * 4096]);
    rig.file.fail(FsCall::SetSize, Plan::ONCE, IoError::from_errno(5));
    rig.mapping.truncate(2 * PAGE_BYTES).expect_err("planned");
    assert!(rig.file.contents() == [7; 8 * 4096], "a page-aligned end zeroes nothing");
    let vma = rig.small(pages(0, 8));
    assert_eq!(vma.load(5), Ok(7));
    rig.check_invariants();
}

/// 7.4, pitfall 55: storage that a device writes to is not freed; the fault lock is given up meanwhile, so others go on, and what they did
/// is looked at again.
#[test]
fn pitfall_055_punch_waits_for_pins_without_the_fault_lock() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 8), 5);
    let vma = rig.small(pages(0, 1024));
    assert_eq!(vma.load(3), Ok(5));
    let frame = rig.file.frame_of(page(3)).expect("there is storage");
    rig.media.pin(frame);
    let (waits, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (flag, mapping, ended) = (Arc::clone(&waits), Arc::clone(&rig.mapping), Arc::clone(&done));
    rig.hooks.before(
        move |call| *call == Call::WaitUnpinned(frame),
        move || flag.store(true, Ordering::SeqCst),
    );
    let body = move || {
        mapping.punch_hole(0, 8 * PAGE_BYTES).expect("nothing fails");
        ended.store(true, Ordering::SeqCst);
    };
    let punch = start_until(body, || waits.load(Ordering::SeqCst));
    assert!(!done.load(Ordering::SeqCst), "it waits");
    assert_eq!(
        vma.translation(3),
        None,
        "unmapped before the wait, so that no new pin can be taken"
    );
    let other = Arc::clone(&vma);
    let faults = watch("a fault beside the wait", move || {
        assert_eq!((other.load(3), other.load(4)), (Ok(5), Ok(5)));
    });
    faults.ends();
    assert_eq!(rig.file.frame_of(page(3)), Some(frame), "not freed");
    // A second pin, taken through the mapping that came back meanwhile, counts as well.
    let other = rig.file.frame_of(page(4)).expect("there is storage");
    rig.media.pin(other);
    let again = Arc::new(AtomicBool::new(false));
    let second = Arc::clone(&again);
    rig.hooks.before(
        move |call| *call == Call::WaitUnpinned(other),
        move || second.store(true, Ordering::SeqCst),
    );
    rig.media.unpin(frame);
    while !punch.is_finished() && !again.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    assert!(!done.load(Ordering::SeqCst), "it waits again");
    rig.media.unpin(other);
    punch.join().expect("it ends: the last unpin wakes it (pitfall 62)");
    assert_eq!((vma.translation(3), vma.translation(4)), (None, None), "looked at afresh");
    assert_eq!((rig.file.frame_of(page(3)), rig.mapping.entries()), (None, 0));
    assert_eq!(vma.load(3), Ok(0));
    rig.check_invariants();
}

/// 7.4: pins count whether the page is mapped now or not (58), on any page of a 2 MiB entry, and for truncate, layout changes and the
/// end of the file alike (60).
#[test]
fn pitfall_058_each_of_truncate_layout_change_and_evict_waits_for_an_unmapped_pin() {
    for how in 0..3 {
        let rig = Rig::new(1024);
        let vma = rig.shared(pages(0, 1024));
        vma.store(0, 1).expect("there is space");
        assert_eq!(rig.state(0), "hM[D]");
        let frame = rig.file.frame_of(page(511)).expect("there is storage");
        rig.media.pin(frame);
        vma.unmap();
        let waits = Arc::new(AtomicBool::new(false));
        let (flag, mapping) = (Arc::clone(&waits), Arc::clone(&rig.mapping));
        rig.hooks.before(
            move |call| *call == Call::WaitUnpinned(frame),
            move || flag.store(true, Ordering::SeqCst),
        );
        let body = move || match how {
            0 => mapping.truncate(0).expect("nothing fails"),
            1 => mapping.change_layout(pages(0, 512), |_| Ok(())).expect("nothing fails"),
            _ => mapping.evict(),
        };
        let thread = start_until(body, || waits.load(Ordering::SeqCst));
        assert!(waits.load(Ordering::SeqCst), "way {how} does not wait");
        assert_eq!(rig.file.frame_of(page(511)), Some(frame));
        rig.media.unpin(frame);
        thread.join().expect("it ends");
        assert_eq!(rig.mapping.entries(), 0);
        assert_eq!(rig.media.owned_frames(), 0);
    }
}

/// Zero and empty entries have no storage to be pinned (64), and private copies are not the file's (57).
#[test]
fn section_7_4_zeros_and_private_copies_are_no_pins() {
    let rig = Rig::new(1024);
    let (vma, private) = (rig.shared(pages(0, 1024)), rig.private(pages(512, 512)));
    assert_eq!(vma.load(0), Ok(0));
    private.store(600, 3).expect("there is memory");
    rig.media.pin(udax_core::Frame(0));
    rig.hooks.take_log();
    rig.mapping.punch_hole(0, 1024 * PAGE_BYTES).expect("nothing is pinned");
    let asked = rig.hooks.take_log().iter().any(|call| matches!(call, Call::FirstPinned(_)));
    assert!(!asked, "no frame is looked for");
    assert_eq!(private.translation(600).map(|one| one.target), Some(Target::PrivateCopy));
    assert_eq!(private.load(600), Ok(3));
    rig.check_invariants();
}

/// 7.5: over the copy of write(2) and read(2) neither an entry lock nor the fault lock is held: at that very moment, on the very
/// thread, pages fault, entries go, and a hole is punched.
#[test]
fn pitfall_038_section_7_5_nothing_is_held_while_bytes_are_copied() {
    for writing in [true, false] {
        let rig = Rig::new(1024);
        rig.fill(pages(0, 8), 5);
        let vma = rig.small(pages(0, 1024));
        let (other, mapping) = (Arc::clone(&vma), Arc::clone(&rig.mapping));
        rig.hooks.before(
            move |call| {
                if writing { matches!(call, Call::Store(_)) } else { matches!(call, Call::Load(_)) }
            },
            move || {
                assert!(other.load(3).is_ok());
                other.store(3, 8).expect("there is storage");
                other.store(100, 8).expect("there is space");
                mapping.invalidate(pages(0, 8));
                mapping.punch_hole(200 * PAGE_BYTES, PAGE_BYTES).expect("nothing fails");
            },
        );
        let mapping = Arc::clone(&rig.mapping);
        let copy = watch("a copy that faults", move || {
            let mut bytes = [1; 4096];
            let done = if writing {
                mapping.write(3 * PAGE_BYTES, &bytes)
            } else {
                mapping.read(3 * PAGE_BYTES, &mut bytes)
            };
            assert_eq!(done, Ok(4096));
        });
        copy.ends();
        assert!(rig.hooks.all_done());
        rig.check_invariants();
    }
}

/// Eviction: the counter returns to zero, and no frame is anybody's (pitfall 69).
#[test]
fn pitfall_069_eviction_leaves_no_entry_and_no_owner() {
    let rig = Rig::new(2048);
    let (small, large) = (rig.small(pages(0, 2048)), rig.shared(pages(0, 2048)));
    assert_eq!(large.load(0), Ok(0));
    small.store(3, 1).expect("there is space");
    large.store(512, 1).expect("there is space");
    assert_eq!(large.load(1024), Ok(0));
    rig.mapping.sync(pages(0, 2048)).expect("nothing fails");
    small.unmap();
    large.unmap();
    rig.mapping.evict();
    assert_eq!((rig.mapping.entries(), rig.media.owned_frames()), (0, 0));
}

/// Linux's file systems take down every translation of a file before they change its layout; here only those of what changes go.
#[test]
fn a_punch_leaves_other_translations_alone() {
    let rig = Rig::new(2048);
    rig.fill(pages(0, 1024), 7);
    let (small, large) = (rig.small(pages(0, 2048)), rig.shared(pages(0, 2048)));
    for index in [3, 4] {
        small.store(index, 8).expect("there is storage");
    }
    assert_eq!(large.load(600), Ok(7));
    rig.mapping.punch_hole(3 << 12, 1 << 12).expect("nothing fails");
    assert!(small.translation(3).is_none(), "what was punched is gone");
    assert!(small.translation(4).is_some_and(|one| one.dirty || !one.writable));
    assert!(large.translation(600).is_some());
    rig.mapping.truncate(900 << 12).expect("nothing fails");
    assert!(small.translation(4).is_some());
    assert!(large.translation(600).is_none(), "its 2 MiB reach over the new end");
    rig.check_invariants();
}

/// Faults go on beside an invalidation. Were the zeros to outlive their entry, a store could find no entry, put storage under a new one, and be
/// seen by nobody who still has the zeros.
#[test]
fn section_7_1_zeros_do_not_outlive_their_entry() {
    for large in [false, true] {
        let rig = Rig::new(1024);
        let vma = if large { rig.shared(pages(0, 1024)) } else { rig.small(pages(0, 1024)) };
        assert_eq!(vma.load(3), Ok(0));
        let seen = Arc::new(Mutex::new(None));
        let (sink, own) = (Arc::clone(&seen), Arc::clone(&rig));
        rig.hooks.before(
            |call| matches!(call, Call::Unmap(..)),
            move || *sink.lock().expect("one thread") = own.entry(3),
        );
        assert_eq!(rig.mapping.invalidate(pages(3, 1)), 0);
        let held = seen.lock().expect("one thread").expect("the entry is there while they go");
        assert!(held.entry.is_locked() && held.entry.is_zero());
        assert!(vma.translation(3).is_none() && rig.entry(3).is_none());
        rig.check_invariants();
    }
}
