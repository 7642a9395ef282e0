//! One 2 MiB entry in the place of small ones: in place or by moving the storage, and safe against everybody.

use crate::rig::threads::watch;
use crate::rig::{Call, Mapped, Rig, Spec, page, pages};
use std::error::Error;
use std::sync::{Arc, Mutex};
use udax_core::{Access, Collapsed, Frame, IoError, NotCollapsed, Order, Served};
use udax_sim::{Congruence, Evicted, Freed, FsCall, MediaCall, Placement, Plan, explore};

const WHOLE: u64 = 1024;
const EIO: IoError = IoError::from_errno(5);

/// Every page of the first 2 MiB loaded through 4 KiB translations; some of them stored to.
fn small_entries(rig: &Rig) -> Arc<Mapped> {
    let vma = rig.small(pages(0, WHOLE));
    for index in 0..512 {
        vma.load(index).expect("it is in the file");
    }
    for index in (0..512).step_by(7) {
        vma.store(index, 200).expect("there is storage");
    }
    assert_eq!(rig.mapping.entries(), 512);
    vma
}

fn expected(index: u64) -> u8 {
    if index.is_multiple_of(7) { 200 } else { 7 }
}

/// A rig whose first 2 MiB have storage that no huge page fits.
fn scattered() -> Arc<Rig> {
    let rig = Rig::new(WHOLE);
    rig.fs.set_placement(Placement::Fragmented { longest_run: 16 });
    rig.fill(pages(0, 512), 7);
    rig.fs.set_placement(Placement::Aligned);
    rig
}

#[track_caller]
fn check_bytes(rig: &Rig, vma: &Mapped) {
    for index in 0..512 {
        assert_eq!((vma.load(index), rig.byte(index)), (Ok(expected(index)), expected(index)));
    }
    rig.check_invariants();
}

#[test]
fn storage_that_lies_right_is_collapsed_in_place_with_its_marks() {
    let rig = Rig::new(WHOLE);
    rig.fill(pages(0, 512), 7);
    let small = small_entries(&rig);
    let large = rig.shared(pages(0, WHOLE));
    let frame = rig.file.frame_of(page(0));
    assert_eq!(large.load(3), Ok(7));
    assert_eq!(
        large.translation(3).map(|one| one.order),
        Some(Order::Pte),
        "small ones are in the way"
    );
    assert_eq!(rig.mapping.collapse(page(100)), Ok(Collapsed::InPlace));
    assert_eq!((rig.mapping.entries(), rig.state(511)), (1, "hM[D]".into()));
    assert_eq!(rig.file.frame_of(page(0)), frame);
    assert!(large.translation(3).is_none(), "what was mapped comes back by faults");
    assert_eq!(large.load(3), Ok(7));
    assert_eq!(large.translation(3).map(|one| one.order), Some(Order::Pmd), "2 MiB come back");
    check_bytes(&rig, &small);
    rig.mapping.sync(pages(0, WHOLE)).expect("nothing fails");
    assert_eq!(rig.state(0), "hM");
    assert_eq!(
        rig.file.contents_after_crash(Evicted::Nothing)[0],
        200,
        "what was stored before is flushed"
    );
    assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::Already));
}

#[test]
fn a_hole_full_of_small_zeros_becomes_one_zero_entry() {
    let rig = Rig::new(WHOLE);
    let small = rig.small(pages(0, WHOLE));
    for index in 0..512 {
        assert_eq!(small.load(index), Ok(0));
    }
    assert_eq!(rig.mapping.collapse_full(pages(0, WHOLE)), 1);
    assert_eq!((rig.mapping.entries(), rig.state(5)), (1, "hZ".into()));
    let large = rig.shared(pages(0, WHOLE));
    assert_eq!(large.load(5), Ok(0));
    large.store(5, 1).expect("there is space");
    assert_eq!((small.load(5), rig.fs.allocated_pages()), (Ok(1), 512));
    rig.check_invariants();
}

#[test]
fn scattered_storage_is_moved_and_the_old_given_back() {
    let rig = scattered();
    let small = small_entries(&rig);
    let large = rig.shared(pages(0, WHOLE));
    assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::Moved));
    assert!(rig.file.frame_of(page(0)).is_some_and(Frame::is_pmd_aligned));
    assert_eq!((rig.mapping.entries(), rig.state(9)), (1, "hM".into()));
    assert_eq!(rig.fs.allocated_pages(), 512, "the old storage is free");
    assert_eq!(large.load(3), Ok(7));
    assert_eq!(large.translation(3).map(|one| one.order), Some(Order::Pmd));
    check_bytes(&rig, &small);
    assert_eq!(
        rig.file.contents_after_crash(Evicted::Nothing)[..2 << 20],
        rig.file.contents()[..2 << 20],
        "the exchange is durable, and so is what was only in the cache"
    );
}

/// Until the exchange is durable a crash must find the old storage as it was, even if what is given back is had again at once.
#[test]
fn a_crash_at_any_call_of_a_move_leaves_all_that_was_synced() {
    let mut calls = 0;
    loop {
        let rig = scattered();
        rig.fs.set_freed(Freed::AtOnce);
        let vma = rig.small(pages(0, WHOLE));
        for index in 0..512 {
            vma.store(index, 9).expect("there is storage");
        }
        rig.mapping.sync(pages(0, WHOLE)).expect("nothing fails");
        let (seen, crashed) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(None)));
        let (counter, image, file) = (Arc::clone(&seen), Arc::clone(&crashed), rig.file.clone());
        rig.hooks.before(
            move |_| {
                let mut count = counter.lock().expect("nobody panics");
                *count += 1;
                *count > calls
            },
            move || {
                *image.lock().expect("nobody panics") =
                    Some(file.contents_after_crash(Evicted::Nothing));
            },
        );
        assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::Moved));
        let Some(image) = crashed.lock().expect("nobody panics").take() else { break };
        assert!((0..512).all(|index| image[index * 4096] == 9), "a crash before call {calls}");
        calls += 40;
    }
    assert!(calls > 1000, "a load and a store for each page");
}

#[test]
fn why_small_entries_stay() {
    let rig = Rig::new(WHOLE + 3);
    assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::NoEntry));
    assert_eq!(rig.mapping.collapse(page(WHOLE)), Err(NotCollapsed::EndOfFile));
    rig.fill(pages(0, 100), 7);
    let vma = rig.small(pages(0, WHOLE));
    assert_eq!((vma.load(3), vma.load(300)), (Ok(7), Ok(0)));
    assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Mixed), "no hole is filled for it");
    assert_eq!(rig.mapping.collapse_full(pages(0, WHOLE)), 0);
    assert_eq!((vma.load(3), vma.load(300), rig.fs.allocated_pages()), (Ok(7), Ok(0), 100));
    rig.check_invariants();
}

/// What the media grants in pieces only, a 2 MiB entry could never be flushed by.
#[test]
fn a_media_that_grants_pieces_keeps_small_entries() {
    for rig in [scattered(), Rig::new(WHOLE)] {
        rig.fill(pages(0, 512), 7);
        rig.media.set_contiguous_limit(Some(511));
        let vma = small_entries(&rig);
        assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Pieces));
        assert_eq!((rig.mapping.entries(), rig.fs.allocated_pages()), (512, 512));
        check_bytes(&rig, &vma);
        vma.store(14, 200).expect("there is storage");
        rig.mapping.sync(pages(0, WHOLE)).expect("small entries are flushed one by one");
    }
}

#[test]
fn a_media_that_grants_2_mib_and_no_more_is_enough() {
    let rig = Rig::new(WHOLE);
    rig.fill(pages(0, WHOLE), 7);
    rig.media.set_contiguous_limit(Some(512));
    let (large, small) = (rig.shared(pages(0, 512)), rig.small(pages(0, WHOLE)));
    large.store(3, 9).expect("there is storage");
    assert_eq!(large.translation(3).map(|one| one.order), Some(Order::Pmd));
    assert_eq!((small.load(600), rig.mapping.collapse(page(600))), (Ok(7), Ok(Collapsed::InPlace)));
    rig.mapping.sync(pages(0, WHOLE)).expect("2 MiB are flushed at once");
    assert_eq!((rig.state(3), rig.state(600)), ("hM".into(), "hM".into()));
    rig.check_invariants();
}

#[test]
fn a_move_that_fails_leaves_everything_as_it_was() {
    let rig = scattered();
    let vma = small_entries(&rig);
    let frame = rig.file.frame_of(page(0)).expect("it has storage");
    rig.media.pin(frame);
    assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Pinned(frame)));
    rig.media.unpin(frame);
    rig.fs.set_capacity(Some(600));
    assert!(matches!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Failed(_))), "no space");
    rig.fs.set_capacity(None);
    for call in [FsCall::BeginRead, FsCall::BeginMove] {
        rig.file.fail(call, Plan::ONCE, EIO);
        assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Failed(EIO)), "{call:?}");
    }
    for (call, plan) in [(MediaCall::Load, Plan::nth(300)), (MediaCall::Store, Plan::nth(300))] {
        rig.media.fail(call, plan, EIO);
        assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Failed(EIO)), "{call:?}");
    }
    vma.store(14, 200).expect("there is storage");
    rig.media.fail(MediaCall::Flush, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Failed(EIO)));
    assert_eq!(rig.state(14), "pM[D]", "what was not flushed is still dirty");
    assert_eq!((rig.mapping.entries(), rig.fs.allocated_pages()), (512, 512));
    check_bytes(&rig, &vma);
    // The last step: reads of the layout take as many ends as there are runs.
    rig.file.fail(FsCall::End, Plan::nth(1 + runs(&rig)), EIO);
    assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Failed(EIO)));
    assert_eq!((rig.file.frame_of(page(0)), rig.fs.allocated_pages()), (Some(frame), 512));
    check_bytes(&rig, &vma);
    assert!(rig.mapping.sync(pages(0, WHOLE)).is_err(), "the failed flush is told once");
    assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::Moved));
    check_bytes(&rig, &vma);
}

fn runs(rig: &Rig) -> u64 {
    rig.file.extents().len() as u64
}

#[test]
fn an_index_without_memory_leaves_small_entries() {
    let rig = Rig::new(WHOLE);
    rig.fill(pages(0, 20), 7);
    let vma = rig.small(pages(0, WHOLE));
    assert_eq!(vma.load(3), Ok(7));
    rig.fill(pages(20, 492), 7);
    // One leaf at the root: a 2 MiB entry needs a level above it.
    rig.mapping.limit_index_nodes(Some(1));
    assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::OutOfMemory));
    assert_eq!((rig.mapping.entries(), vma.load(3)), (1, Ok(7)));
    rig.mapping.limit_index_nodes(None);
    assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::InPlace));
    rig.check_invariants();
}

#[test]
fn private_copies_stay_and_misaligned_mappings_work_under_the_large_entry() {
    for rig in [scattered(), Rig::new(WHOLE)] {
        rig.fill(pages(0, 512), 7);
        let vma = small_entries(&rig);
        let private = rig.private(pages(0, WHOLE));
        let off =
            rig.map(Spec { congruence: Congruence::OffBy(5), ..Spec::shared(pages(0, WHOLE)) });
        private.store(3, 1).expect("there is memory");
        off.store(5, 2).expect("there is storage");
        rig.mapping.collapse(page(0)).expect("it can be");
        assert_eq!((private.load(3), vma.load(3)), (Ok(1), Ok(7)));
        off.store(6, 3).expect("there is storage");
        assert_eq!((off.load(5), vma.load(6), private.load(6)), (Ok(2), Ok(3), Ok(3)));
        assert_eq!((rig.mapping.entries(), rig.state(6)), (1, "hM[D]".into()));
        rig.check_invariants();
    }
}

#[test]
fn under_every_schedule_nothing_is_lost_beside_faults_syncs_and_private_copies() {
    for seed in 0..40_u64 {
        let rig = if seed.is_multiple_of(2) { scattered() } else { Rig::new(WHOLE) };
        rig.fill(pages(0, 512), 7);
        let (small, large) = (rig.small(pages(0, WHOLE)), rig.shared(pages(0, WHOLE)));
        let private = rig.private(pages(0, WHOLE));
        small.store(8, 1).expect("there is storage");
        explore(seed..seed + 1, |run| {
            let own = Arc::clone(&rig);
            run.spawn("collapse", move || {
                own.mapping.collapse(page(0)).expect("it can be");
            });
            for (cpu, vma, index) in [(0, &small, 10), (1, &large, 20)] {
                let vma = Arc::clone(vma);
                run.spawn("stores", move || {
                    let thread = vma.thread(cpu);
                    for value in 0..=200 {
                        thread.store_byte(&vma.sim, page(index), value).expect("there is storage");
                        assert_eq!(thread.load_byte(&vma.sim, page(index)), Ok(value));
                    }
                });
            }
            let vma = Arc::clone(&private);
            run.spawn("private", move || {
                let thread = vma.thread(2);
                thread.store_byte(&vma.sim, page(11), 60).expect("there is memory");
                assert_eq!(thread.load_byte(&vma.sim, page(11)), Ok(60));
            });
            let own = Arc::clone(&rig);
            run.spawn("sync", move || {
                own.mapping.sync(pages(0, WHOLE)).expect("nothing fails");
                assert_eq!(own.file.contents_after_crash(Evicted::Nothing)[8 * 4096], 1);
            });
        });
        assert_eq!((rig.byte(10), rig.byte(20), rig.byte(11)), (200, 200, 7), "seed {seed}");
        assert_eq!(private.load(11), Ok(60));
        rig.mapping.sync(pages(0, WHOLE)).expect("nothing fails");
        assert_eq!(rig.file.contents_after_crash(Evicted::Nothing), rig.file.contents());
        rig.check_invariants();
    }
}

/// Syncs that sleep for a small entry while that is exchanged must all be woken, and flush the one that took its place; the last page of
/// the unit above all, behind which their scans find nothing more.
#[test]
fn under_every_schedule_a_sync_flushes_what_took_the_place_of_its_entry() {
    explore(0..400, |run| {
        let rig = Rig::new(WHOLE);
        rig.fill(pages(0, 512), 7);
        rig.small(pages(0, WHOLE)).store(511, 200).expect("there is storage");
        for name in ["one", "two", "three"] {
            let own = Arc::clone(&rig);
            run.spawn(name, move || {
                own.mapping.sync(pages(0, 512)).expect("nothing fails");
                assert_eq!(own.file.contents_after_crash(Evicted::Nothing)[511 * 4096], 200);
            });
        }
        let own = Arc::clone(&rig);
        // Holds the entry without clearing a mark.
        run.spawn("failure", move || {
            own.mapping.media_failed(page(511));
        });
        run.spawn("collapse", move || {
            assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::InPlace));
        });
    });
}

/// The fault lock keeps a fault out of the middle: one that comes meanwhile waits, and then works with the large entry.
#[test]
fn a_fault_beside_a_move_waits_for_its_end() {
    let rig = scattered();
    let vma = small_entries(&rig);
    let fault = Arc::new(Mutex::new(None));
    let (started, own) = (Arc::clone(&fault), Arc::clone(&vma));
    rig.hooks.before(
        |call| matches!(call, Call::Store(_)),
        move || {
            let thread = watch("the fault", move || {
                assert_eq!(own.fault(3, Access::Write).served, Served::Installed);
                own.store(3, 77).expect("there is storage");
            });
            *started.lock().expect("nobody panics") = Some(thread);
        },
    );
    assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::Moved));
    fault.lock().expect("nobody panics").take().expect("it was started").ends();
    assert_eq!((vma.load(3), rig.byte(3), rig.state(3)), (Ok(77), 77, "hM[D]".into()));
    rig.check_invariants();
}

#[test]
fn the_last_2_mib_of_a_file_are_collapsed_as_well() {
    let rig = Rig::new(512);
    rig.fill(pages(0, 512), 7);
    let vma = rig.small(pages(0, 512));
    assert_eq!(vma.load(3), Ok(7));
    assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::InPlace));
    assert_eq!((vma.load(3), vma.load(511)), (Ok(7), Ok(7)));
    rig.check_invariants();
}

/// Of which no entry tells: only the file system knows of it.
#[test]
fn storage_that_nobody_has_touched_is_not_hidden_by_zeros() {
    for stored in [pages(0, 100), pages(400, 112), pages(200, 100)] {
        let rig = Rig::new(WHOLE);
        rig.fill(stored, 7);
        let vma = rig.small(pages(0, WHOLE));
        assert_eq!(vma.load(150), Ok(0));
        assert_eq!(rig.mapping.collapse(page(0)), Err(NotCollapsed::Mixed), "{stored:?}");
        assert_eq!((vma.load(150), vma.load(stored.start.0)), (Ok(0), Ok(7)));
        rig.check_invariants();
    }
}

/// Neither an aligned beginning nor one piece is enough.
#[test]
fn storage_is_moved_unless_it_is_aligned_and_in_one_piece() {
    let aligned_first = Rig::new(WHOLE);
    aligned_first.fill(pages(0, 512), 7);
    aligned_first.mapping.punch_hole(300 << 12, 8 << 12).expect("nothing fails");
    // What is free behind the file, not what has just been freed.
    aligned_first.fill(pages(512, 8), 9);
    aligned_first.fill(pages(300, 8), 7);
    let one_piece = Rig::new(WHOLE);
    one_piece.fs.set_placement(Placement::Misaligned);
    one_piece.fill(pages(0, 512), 7);
    one_piece.fs.set_placement(Placement::Aligned);
    for rig in [aligned_first, one_piece] {
        let frame = |index| rig.file.frame_of(page(index)).expect("there is storage");
        let is_aligned = frame(0).is_pmd_aligned();
        let is_in_one = (0..512).all(|index| frame(index) == frame(0).plus(index));
        assert!(is_aligned != is_in_one, "the scene is not what it should be");
        let vma = small_entries(&rig);
        assert_eq!(rig.mapping.collapse(page(0)), Ok(Collapsed::Moved));
        check_bytes(&rig, &vma);
    }
}

#[test]
fn why_not_is_told_in_words_with_the_cause() {
    let failed = NotCollapsed::Failed(EIO);
    let cause = failed.source().expect("there is one");
    assert!(failed.to_string().ends_with(&cause.to_string()), "{failed}");
    assert!(NotCollapsed::Mixed.source().is_none());
    assert_eq!(NotCollapsed::Pinned(Frame(16)).to_string(), "a device uses frame 0x10");
}
