//! Pitfalls 44 to 52: what is dirty is flushed, once, whole, and by the right device; and nothing that is writable is clean.
//! 53 is in `writeback.rs`, 54 in `engine_remove.rs`.

use crate::rig::threads::{await_sleepers, watch};
use crate::rig::{Call, File, Rig, Spec, Storage, Test, page, pages};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::channel;
use udax_core::{Dax, Frame, FrameRange, Inode, IoError, Mapping, PAGE_BYTES};
use udax_core::{Served, Sharing, Vma};
use udax_sim::{
    Congruence, Evicted, Machine, MediaCall, MediaConfig, MediaEvent, Plan, Protection, Run, SimFs,
    SimMedia, VmaLayout, explore,
};

const EIO: IoError = IoError::from_errno(5);

/// The first byte of a page after a power cut.
fn durable(rig: &Rig, index: u64) -> u8 {
    let at = usize::try_from(index * PAGE_BYTES).expect("a small file");
    rig.file.contents_after_crash(Evicted::Nothing)[at]
}

/// What was flushed since the last time, frame ranges in order.
fn flushed(media: &SimMedia) -> Vec<FrameRange> {
    let log = media.take_log();
    let flush = |event: &MediaEvent| {
        if let MediaEvent::Flush(frames) = event { Some(*frames) } else { None }
    };
    log.iter().filter_map(flush).collect()
}

#[test]
fn pitfall_044_what_was_flushed_is_not_flushed_again() {
    let rig = Rig::new(1024);
    let vma = rig.small(pages(0, 1024));
    for index in [3, 4, 9] {
        vma.store(index, 1).expect("there is space");
    }
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    assert_eq!(flushed(&rig.media).len(), 3);
    vma.store(4, 2).expect("there is storage");
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    assert_eq!(flushed(&rig.media).len(), 1, "only what was stored to since");
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    assert_eq!(flushed(&rig.media).len(), 0);
    rig.check_invariants();
}

/// What the first version missed: an error in the middle left the entry locked.
#[test]
fn pitfall_044_an_error_of_the_flush_leaves_no_entry_locked() {
    for call in [MediaCall::DirectAccess, MediaCall::Flush] {
        let rig = Rig::new(1024);
        let vma = rig.small(pages(0, 1024));
        vma.store(3, 1).expect("there is space");
        rig.media.fail(call, Plan::ONCE, EIO);
        assert_eq!(rig.mapping.sync(pages(0, 1024)), Err(EIO));
        assert_eq!(rig.state(3), "pM[D]", "{call:?}");
        rig.check_invariants();
        let other = Arc::clone(&vma);
        watch("the next store", move || other.store(3, 2).expect("there is storage")).ends();
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
        assert_eq!(durable(&rig, 3), 2);
    }
}

#[test]
fn pitfall_045_a_2_mib_translation_is_write_protected_by_each_sync() {
    let rig = Rig::new(1024);
    let vma = rig.shared(pages(0, 1024));
    for byte in 1..4 {
        vma.store(7, byte).expect("there is space");
        assert_eq!(rig.state(7), "hM[D]");
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
        assert_eq!(durable(&rig, 7), byte, "store, sync, store, sync, power cut");
        assert_eq!(vma.translation(7).map(|one| one.writable), Some(false));
        rig.check_invariants();
    }
}

#[test]
fn pitfall_046_a_vma_of_the_upper_half_of_2_mib_is_write_protected_too() {
    let rig = Rig::new(1024);
    let (whole, upper) = (rig.shared(pages(0, 1024)), rig.shared(pages(256, 256)));
    whole.store(7, 1).expect("there is space");
    upper.store(300, 2).expect("there is storage");
    assert_eq!(rig.state(300), "hM[D]");
    rig.mapping.sync(pages(300, 1)).expect("nothing fails");
    assert_eq!(upper.translation(300).map(|one| one.writable), Some(false));
    rig.check_invariants();
    upper.store(300, 3).expect("there is storage");
    rig.mapping.sync(pages(300, 1)).expect("nothing fails");
    assert_eq!(durable(&rig, 300), 3, "the store of the second VMA was seen");
}

#[test]
fn pitfall_047_all_512_pages_of_an_entry_are_flushed() {
    let rig = Rig::new(1024);
    let vma = rig.shared(pages(0, 1024));
    for index in [0, 7, 511] {
        vma.store(index, 5).expect("there is space");
    }
    let start = rig.file.frame_of(page(0)).expect("there is storage");
    let _ = rig.media.take_log();
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    assert_eq!(flushed(&rig.media), [FrameRange { start, count: 512 }]);
    assert_eq!([0, 7, 511].map(|index| durable(&rig, index)), [5, 5, 5]);
    rig.check_invariants();
}

/// A translation that is taken away for a moment, to come back read-only, is missed by whoever discards it in that moment. (The engine's own
/// unmapping cannot come between: the list of VMAs is held over both.)
#[test]
fn pitfall_048_write_protecting_never_makes_a_translation_absent() {
    for seed in 0..60 {
        let mut run = Run::new(seed);
        let rig = Rig::new(1024);
        let vma = rig.shared(pages(0, 1024));
        vma.store(7, 1).expect("there is space");
        run.spawn("sync", move || rig.mapping.sync(pages(0, 1024)).expect("nothing fails"));
        let by = Arc::clone(&vma);
        run.spawn("MADV_DONTNEED", move || by.discard(pages(0, 512)));
        run.go();
        assert_eq!(vma.translation(7), None, "seed {seed}: it came back");
    }
}

#[test]
fn pitfall_049_a_sync_that_starts_inside_2_mib_flushes_those_2_mib() {
    let rig = Rig::new(2048);
    let vma = rig.shared(pages(0, 2048));
    for index in [7, 519, 1031] {
        vma.store(index, 5).expect("there is space");
    }
    let first = [0, 512].map(|index| rig.file.frame_of(page(index)).expect("there is storage"));
    let _ = rig.media.take_log();
    rig.mapping.sync(pages(100, 500)).expect("nothing fails");
    let wanted = first.map(|start| FrameRange { start, count: 512 });
    assert_eq!(flushed(&rig.media), wanted, "the 2 MiB around the range, from where they begin");
    assert_eq!([7, 519].map(|index| durable(&rig, index)), [5, 5]);
    assert_eq!([7, 519, 1031].map(|index| rig.state(index)), ["hM", "hM", "hM[D]"]);
    rig.check_invariants();
}

/// There is one way to store: a store through a translation that was read-only is announced like any other.
#[test]
fn pitfall_050_a_store_through_a_read_only_translation_is_announced() {
    for spec in [Spec::shared(pages(0, 1024)), Spec::shared(pages(0, 1024)).small()] {
        let rig = Rig::new(1024);
        rig.fill(pages(0, 1024), 5);
        let vma = rig.map(spec);
        assert_eq!((vma.load(7), rig.file.modified()), (Ok(5), 0));
        vma.store(7, 1).expect("there is storage");
        assert_eq!(rig.file.modified(), 1, "over a translation of a load");
        vma.store(7, 2).expect("there is storage");
        assert_eq!(rig.file.modified(), 1, "no fault, nothing to announce");
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
        vma.store(7, 3).expect("there is storage");
        assert_eq!(rig.file.modified(), 2, "over a write-protected translation");
        rig.check_invariants();
    }
}

/// R5: the mark and the right to store come under the entry lock, or a writeback takes the mark away between the two.
#[test]
fn pitfall_051_a_sync_between_mark_and_translation_waits_for_the_store() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 16), 5);
    let vma = rig.small(pages(0, 1024));
    vma.store(7, 1).expect("there is storage");
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    assert_eq!(vma.translation(7).map(|one| one.writable), Some(false));
    let (own, (sender, syncing)) = (Arc::clone(&rig), channel());
    rig.hooks.before(
        |call| matches!(call, Call::InstallStorage(..)),
        move || {
            assert_eq!(own.state(7), "pM[D]", "the mark comes first (I7)");
            let mapping = Arc::clone(&own.mapping);
            let sync = watch("a sync", move || mapping.sync(pages(0, 1024)).expect("all is well"));
            await_sleepers(&own, 7, 1);
            let _ = sender.send(sync);
        },
    );
    vma.store(7, 2).expect("there is storage");
    syncing.recv().expect("it was started").ends();
    rig.check_invariants();
}

#[test]
fn pitfall_051_no_schedule_leaves_a_writable_translation_over_a_clean_entry() {
    explore(0..150, |run| {
        let rig = Rig::new(64);
        rig.fill(pages(0, 16), 5);
        let vma = rig.small(pages(0, 64));
        vma.store(7, 1).expect("there is storage");
        rig.mapping.sync(pages(0, 64)).expect("nothing fails");
        let stored = Arc::new(AtomicU8::new(1));
        let (by, told) = (Arc::clone(&vma), Arc::clone(&stored));
        run.spawn("store", move || {
            for byte in 2..4 {
                by.store(7, byte).expect("there is storage");
                told.store(byte, Ordering::SeqCst);
            }
        });
        run.spawn("sync", move || {
            for _ in 0..3 {
                let before = stored.load(Ordering::SeqCst);
                rig.mapping.sync(pages(0, 64)).expect("nothing fails");
                assert!(durable(&rig, 7) >= before, "{before} was stored before the sync");
            }
        });
    });
}

/// A file on a device of its own, mapped for stores.
struct OnDevice {
    mapping: Arc<Mapping<Test>>,
    media: SimMedia,
    store: Box<dyn Fn(u64, u8)>,
}

fn on_device(dax: &Arc<Dax<Test>>, ino: u64) -> OnDevice {
    let config = MediaConfig { first_frame: Frame(0), frames: 64, contiguous_limit: None };
    let media = SimMedia::new(config);
    let hooks = Arc::default();
    let machine = Machine::new(media.clone(), 1);
    let file = SimFs::new(media.clone()).create(16 * PAGE_BYTES);
    let mapping = Mapping::new(
        dax,
        Inode { dev: 0x801, ino },
        File { sim: file, hooks: Arc::clone(&hooks) },
        Storage { sim: media.clone(), hooks: Arc::clone(&hooks) },
    );
    let process = machine.process();
    let range = pages(0, 16);
    let sim = process.map(VmaLayout {
        pages: range,
        address_page: process.free_address(range, Congruence::Aligned),
        sharing: Sharing::Shared,
        protection: Protection::ReadWrite,
    });
    let vma = Arc::new(Vma {
        pages: range,
        address_page: sim.layout().address_page,
        sharing: Sharing::Shared,
        durability: udax_core::Durability::AtSync,
        huge_pages: udax_core::HugePages::Never,
        space: crate::rig::Space { sim: sim.space(), hooks },
    });
    mapping.attach(Arc::clone(&vma));
    let faulting = Arc::clone(&mapping);
    sim.on_fault(move |request| {
        let (vma, index, access) = (&*vma, request.index, request.access);
        let translation_present = request.translation_present;
        let fault =
            udax_core::Fault { translation_present, ..udax_core::Fault::new(vma, index, access) };
        assert_eq!(faulting.fault(&fault).served, Served::Installed);
        Ok(())
    });
    let thread = process.thread(0);
    let store = move |index, byte| {
        thread.store_byte(&sim, page(index), byte).expect("there is space");
    };
    OnDevice { mapping, media, store: Box::new(store) }
}

/// One engine, two devices, as a file system with a realtime device has them: a sync goes to the device of the file.
#[test]
fn pitfall_052_a_sync_flushes_the_device_that_holds_the_file() {
    let dax = Dax::new(None);
    let devices = [on_device(&dax, 1), on_device(&dax, 2)];
    for device in &devices {
        (device.store)(3, 1);
        let _ = device.media.take_log();
    }
    devices[1].mapping.sync(pages(0, 16)).expect("nothing fails");
    assert_eq!(devices.each_ref().map(|device| flushed(&device.media).len()), [0, 1]);
    let all = FrameRange { start: Frame(0), count: 64 };
    assert_eq!(devices.each_ref().map(|device| device.media.unflushed(all)), [true, false]);
    devices[0].mapping.sync(pages(0, 16)).expect("nothing fails");
    assert_eq!(devices.each_ref().map(|device| flushed(&device.media).len()), [1, 0]);
}
