//! Pitfalls 70 to 94: errors, lost data, and worlds that are not as usual.
//! 72 to 74 are in `io_path.rs`, 79 and 86 in `pte_fault.rs`, 90 and 91 in `reflink.rs`.

use crate::rig::{Call, Rig, Setup, Spec, page, pages};
use std::sync::Arc;
use udax_core::{
    Access, Filesystem as _, Frame, IoError, IoErrorKind, NotHuge, Order, PAGE_BYTES, Served,
};
use udax_sim::{
    AccessError, Congruence, FsCall, HugeZero, MediaCall, MediaEvent, Placement, Plan, Protection,
    Target,
};

const EIO: IoError = IoError::from_errno(5);
const EROFS: IoError = IoError::from_errno(30);
const PAGE: usize = 4096;

fn frame(rig: &Rig, index: u64) -> Frame {
    rig.file.frame_of(page(index)).expect("there is storage")
}

fn kind<T>(result: Result<T, IoError>) -> Option<IoErrorKind> {
    result.err().map(|error| error.kind)
}

/// Lost data ends in a signal of its own at the page that lost it, whatever the size of the fault; a call gets an error.
#[test]
fn pitfall_070_lost_data_is_no_error_like_others() {
    let specs = [
        Spec::shared(pages(0, 1024)),
        Spec::shared(pages(0, 1024)).small(),
        Spec::private(pages(0, 1024)),
    ];
    for spec in specs {
        let rig = Rig::new(1024);
        rig.fill(pages(0, 512), 5);
        let vma = rig.map(spec);
        rig.media.poison(frame(&rig, 7));
        assert_eq!((vma.load(7), vma.load(8)), (Err(AccessError::Poisoned), Ok(5)));
        assert_eq!(vma.store(7, 1), Err(AccessError::Poisoned));
        let mut bytes = [0; PAGE];
        assert_eq!(kind(rig.mapping.read(7 * PAGE_BYTES, &mut bytes)), Some(IoErrorKind::Poisoned));
        rig.media.fail(MediaCall::DirectAccess, Plan { after: 0, times: 2 }, EIO);
        assert_eq!(vma.load(9), Err(AccessError::BusError), "another error is told from it");
        rig.check_invariants();
    }
}

/// Part of a page repairs nothing, neither written nor zeroed nor punched; and no record is dropped before there are new bytes.
#[test]
fn pitfall_071_only_a_whole_page_repairs() {
    let rig = Rig::new(16);
    rig.fill(pages(0, 8), 5);
    let lost = frame(&rig, 3);
    rig.media.poison(lost);
    let at = 3 * PAGE_BYTES;
    assert_eq!(kind(rig.mapping.write(at, &[1; PAGE - 1])), Some(IoErrorKind::Poisoned));
    assert_eq!(kind(rig.mapping.write(at + 1, &[1; PAGE - 1])), Some(IoErrorKind::Poisoned));
    let _ = rig.mapping.zero_range(at + 1, PAGE_BYTES - 1);
    let _ = rig.mapping.punch_hole(at, PAGE_BYTES - 1);
    assert!(rig.media.is_poisoned(lost));
    // A whole page in the middle of a longer write is one.
    let _ = rig.media.take_log();
    assert_eq!(rig.mapping.write(at - 10, &[8; PAGE + 20]), Ok(PAGE + 20));
    assert!(!rig.media.is_poisoned(lost));
    let log = rig.media.take_log();
    let cured = log.iter().position(|event| *event == MediaEvent::Cured(lost));
    let stored = log.iter().rposition(
        |event| matches!(event, MediaEvent::Store { frame, bytes: PAGE_BYTES, .. } if *frame == lost),
    );
    assert!(cured.is_some() && cured < stored, "no page is good without its bytes: {log:?}");
    let mut bytes = [0; PAGE];
    assert_eq!((rig.mapping.read(at, &mut bytes), bytes[0], bytes[PAGE - 1]), (Ok(PAGE), 8, 8));
    // A device that refuses the first attempt gets the page zeroed in recovery mode, and then the bytes.
    rig.media.poison(lost);
    rig.media.fail(MediaCall::Store, Plan::ONCE, IoError::from_errno(133));
    assert_eq!(rig.mapping.write(at, &[9; PAGE]), Ok(PAGE));
    assert_eq!((rig.mapping.read(at, &mut bytes), bytes[0]), (Ok(PAGE), 9));
}

/// A file system that refuses everything that changes it, without a journal, and frozen at that.
fn read_only() -> Arc<Rig> {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 5);
    for call in [FsCall::BeginWrite, FsCall::SetSize, FsCall::Free, FsCall::Commit] {
        rig.file.fail(call, Plan::ALWAYS, EROFS);
    }
    rig.fs.hold_journal();
    rig
}

/// Reading asks for nothing that a file system for reading only does not have: no lock, no transaction, no time.
#[test]
fn pitfall_076_reading_works_where_nothing_can_be_written() {
    let rig = read_only();
    rig.fs.freeze();
    let (large, small) = (rig.shared(pages(0, 1024)), rig.small(pages(0, 1024)));
    let mut bytes = [1; PAGE];
    assert_eq!((rig.mapping.read(7 * PAGE_BYTES, &mut bytes), bytes[0]), (Ok(PAGE), 5));
    assert_eq!((rig.mapping.read(600 * PAGE_BYTES, &mut bytes), bytes[0]), (Ok(PAGE), 0));
    assert_eq!((large.load(7), small.load(8), large.load(600)), (Ok(5), Ok(5), Ok(0)));
    assert_eq!(rig.mapping.same_bytes(0, &rig.mapping, PAGE_BYTES, 4 * PAGE_BYTES), Ok(true));
    assert_eq!(rig.mapping.writeback(pages(0, 1024)), Ok(()));
    assert_eq!((rig.file.modified(), rig.file.calls(FsCall::BeginWrite)), (0, 0));
    rig.fs.thaw();
    assert_eq!(small.store(601, 1), Err(AccessError::BusError));
    rig.check_invariants();
}

/// dax,ro and exec: the private stores of a program that is started.
#[test]
fn pitfall_077_private_stores_work_where_nothing_can_be_written() {
    let rig = read_only();
    rig.fs.freeze();
    let vma = rig.private(pages(0, 1024));
    assert_eq!((vma.store(7, 1), vma.store(600, 2), vma.load(8)), (Ok(()), Ok(()), Ok(5)));
    assert_eq!((vma.load(7), vma.load(600), rig.byte(7)), (Ok(1), Ok(2), 5));
    assert_eq!(rig.file.calls(FsCall::BeginWrite), 0);
    rig.check_invariants();
}

#[test]
fn pitfall_078_private_stores_change_no_times() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 5);
    let (private, shared) = (rig.private(pages(0, 1024)), rig.small(pages(0, 1024)));
    for index in [7, 8, 600] {
        private.store(index, 1).expect("there is memory");
    }
    assert_eq!(rig.file.modified(), 0);
    shared.store(7, 2).expect("there is storage");
    assert_eq!(rig.file.modified(), 1);
    rig.check_invariants();
}

/// Whatever keeps 2 MiB from being mapped is a fallback: the very same fault goes on with 4 KiB, and none comes back for ever.
#[test]
fn pitfall_080_what_cannot_be_huge_is_served_by_the_same_fault() {
    let whole = Spec::shared(pages(0, 1024));
    type World = (&'static str, Spec, fn(&Rig));
    let worlds: [World; 7] = [
        ("colour", Spec { congruence: Congruence::OffBy(1), ..whole.clone() }, |_| {}),
        ("private store", Spec::private(pages(0, 1024)), |_| {}),
        ("VMA bounds", Spec::shared(pages(1, 300)), |_| {}),
        ("no 2 MiB", whole.clone().small(), |_| {}),
        ("error", whole.clone(), |rig| rig.file.fail(FsCall::BeginWrite, Plan::ONCE, EIO)),
        ("storage", whole.clone(), |rig| rig.fs.set_placement(Placement::Misaligned)),
        ("limit", whole, |rig| rig.media.set_contiguous_limit(Some(511))),
    ];
    for (what, spec, prepare) in worlds {
        let rig = Rig::new(1024);
        let vma = rig.map(spec);
        prepare(&rig);
        assert_eq!(vma.store(7, 1), Ok(()), "{what}");
        assert_eq!(rig.machine.fault_count(), 1, "{what}");
        assert!(vma.served().iter().all(|outcome| outcome.order == Order::Pte), "{what}");
        rig.check_invariants();
    }
    let rig = Rig::new(1024);
    rig.machine.set_huge_zero(HugeZero::Unavailable);
    let vma = rig.shared(pages(0, 1024));
    assert_eq!((vma.load(7), rig.machine.fault_count()), (Ok(0), 1));
    rig.check_invariants();
}

/// A store that comes without the right (from the kernel, for somebody's system call): the translation does not get it.
#[test]
fn pitfall_081_a_mapping_for_reading_never_gets_a_writable_translation() {
    for spec in [Spec::shared(pages(0, 1024)), Spec::shared(pages(0, 1024)).small()] {
        let rig = Rig::new(1024);
        rig.fill(pages(0, 512), 5);
        let vma = rig.map(Spec { protection: Protection::Read, ..spec });
        assert_eq!(vma.load(7), Ok(5));
        assert_eq!(vma.fault(7, Access::Write).served, Served::Installed);
        assert_eq!(vma.translation(7).map(|one| one.writable), Some(false));
        assert_eq!(vma.store(7, 9), Err(AccessError::Segmentation));
        assert_eq!((vma.load(7), rig.byte(7)), (Ok(5), 5));
        rig.check_invariants();
    }
}

/// Bytes are bytes and pages are pages: as much is zeroed as was asked for, one page a call.
#[test]
fn pitfall_082_zeroing_takes_bytes_of_one_page_at_a_time() {
    let rig = Rig::new(16);
    rig.file.poke(0, &[7; 8 * PAGE]);
    let vma = rig.small(pages(0, 16));
    assert_eq!(vma.load(1), Ok(7));
    rig.hooks.take_log();
    rig.mapping.zero_range(PAGE_BYTES + 100, 2 * PAGE_BYTES).expect("nothing fails");
    let first = frame(&rig, 0);
    let zeros: Vec<_> = rig.hooks.take_log();
    let zeros: Vec<_> = zeros.iter().filter(|call| matches!(call, Call::Zero(..))).collect();
    let wanted = [
        Call::Zero(first.plus(1), 100, PAGE_BYTES - 100),
        Call::Zero(first.plus(2), 0, PAGE_BYTES),
        Call::Zero(first.plus(3), 0, 100),
    ];
    assert_eq!(zeros, wanted.iter().collect::<Vec<_>>());
    let contents = rig.file.contents();
    for (at, byte) in contents.iter().enumerate().take(8 * PAGE) {
        let is_zero = (PAGE + 100..3 * PAGE + 100).contains(&at);
        assert_eq!(*byte == 0, is_zero, "byte {at}");
    }
}

/// What lies behind the end in its page is zeroed to the end of the page, whatever a block of the device or of the file system is.
#[test]
fn pitfall_084_the_rest_of_the_last_page_is_a_rest_of_a_page() {
    for bytes in [1, 511, 512, 700, 1024, 4095] {
        let rig = Rig::new(4);
        rig.file.poke(0, &[7; 4 * PAGE]);
        rig.mapping.truncate(bytes).expect("nothing fails");
        let vma = rig.small(pages(0, 4));
        let address = vma.sim.address(page(0));
        // Beyond the end, and once the end is further on.
        for grown in [false, true] {
            if grown {
                rig.mapping.truncate(4 * PAGE_BYTES).expect("nothing fails");
            }
            let mut page_bytes = [1; PAGE];
            vma.thread(0).load(address, &mut page_bytes).expect("data");
            let kept = page_bytes.iter().filter(|byte| **byte == 7).count() as u64;
            assert_eq!((kept, page_bytes[PAGE - 1]), (bytes, 0), "cut at {bytes}");
        }
        rig.check_invariants();
    }
}

/// A file that somebody else is about to write behind the engine, with mappings alive: zeros go out of all of them first, and
/// come back nowhere. What was storage stays, as that is the same memory.
#[test]
fn pitfall_085_a_file_changes_hands_without_a_mapping_of_what_was() {
    let rig = Rig::new(1024);
    let (large, small) = (rig.shared(pages(0, 512)), rig.small(pages(512, 512)));
    assert_eq!((large.load(7), small.load(600)), (Ok(0), Ok(0)));
    small.store(700, 3).expect("there is space");
    rig.mapping.revoke_zeros(pages(0, 1024));
    rig.file.poke(7 * PAGE_BYTES, &[8]);
    rig.file.poke(600 * PAGE_BYTES, &[9]);
    assert_eq!((large.load(7), small.load(600), small.load(700)), (Ok(8), Ok(9), Ok(3)));
    rig.check_invariants();
}

/// An extent that ends inside 2 MiB is no error: there it is 4 KiB, around it 2 MiB.
#[test]
fn pitfall_088_where_an_extent_ends_translations_are_small() {
    let rig = Rig::new(1536);
    rig.fill(pages(0, 700), 5);
    let other = rig.fs.create(0);
    other.write_zeros(pages(0, 1)).expect("there is space");
    rig.fill(pages(700, 324), 6);
    rig.fill(pages(1024, 512), 7);
    assert_eq!(frame(&rig, 700), frame(&rig, 699).plus(2), "two extents");
    let vma = rig.shared(pages(0, 1536));
    for (index, byte) in [(3, 5), (690, 5), (699, 5), (700, 6), (710, 6), (1030, 7)] {
        assert_eq!(vma.load(index), Ok(byte), "page {index}");
    }
    let orders = [3, 699, 700, 1030].map(|index| vma.translation(index).map(|one| one.order));
    assert_eq!(orders, [Order::Pmd, Order::Pte, Order::Pte, Order::Pmd].map(Some));
    let why = [0, 512, 1024].map(|index| rig.mapping.why_not_huge(&vma.vma, page(index)));
    assert_eq!(why, [None, Some(NotHuge::SmallEntry), None]);
    rig.check_invariants();
}

/// The device goes away in the middle of whatever is under way: that ends in an error, and everything works when it is back.
#[test]
fn pitfall_092_a_device_that_goes_away_at_any_point_hurts_only_who_uses_it() {
    type Point = fn(&Call) -> bool;
    let points: [Point; 5] = [
        |call| matches!(call, Call::Begin(..)),
        |call| matches!(call, Call::DirectAccess(_)),
        |call| matches!(call, Call::WriteProtect(..)),
        |call| matches!(call, Call::Flush(_)),
        |call| matches!(call, Call::Load(_) | Call::Store(_) | Call::Zero(..)),
    ];
    type Act = fn(&Rig) -> bool;
    let acts: [(&str, Act); 5] = [
        ("store", |rig| rig.mapped()[0].store(9, 2).is_ok()),
        ("sync", |rig| rig.mapping.sync(pages(0, 64)).is_ok()),
        ("write", |rig| rig.mapping.write(7 * PAGE_BYTES + 1, &[1; 9]).is_ok()),
        ("read", |rig| rig.mapping.read(7 * PAGE_BYTES, &mut [0; 9]).is_ok()),
        ("truncate", |rig| rig.mapping.truncate(7 * PAGE_BYTES + 9).is_ok()),
    ];
    let mut reached = 0;
    for (what, act) in acts {
        for point in points {
            let rig = Rig::new(64);
            rig.fill(pages(0, 16), 5);
            let vma = rig.small(pages(0, 64));
            vma.store(7, 1).expect("there is storage");
            let (media, asked) = (rig.media.clone(), Arc::clone(&rig));
            rig.hooks.before(point, move || {
                media.set_alive(false);
                asked.hooks.take_log();
            });
            let done = act(&rig);
            if !rig.hooks.all_done() {
                continue;
            }
            reached += 1;
            let needed_it = rig.hooks.take_log().iter().any(|call| {
                matches!(call, Call::DirectAccess(_) | Call::Flush(_) | Call::Load(_))
                    || matches!(call, Call::Store(_))
                    || matches!(call, Call::Zero(_, _, length) if *length > 0)
            });
            assert!(!(done && needed_it), "{what} says that all is well without its device");
            rig.check_invariants();
            rig.media.set_alive(true);
            assert_eq!(
                (vma.load(7), vma.store(3, 4), vma.load(3)),
                (Ok(1), Ok(()), Ok(4)),
                "{what}"
            );
            // The first sync may tell of what was not flushed meanwhile.
            let _ = rig.mapping.sync(pages(0, 64));
            rig.mapping.sync(pages(0, 64)).expect("all is well again");
            rig.check_invariants();
        }
    }
    assert!(reached > 10, "{reached} points were reached");
}

/// A partition that begins where no 2 MiB do: what is aligned in the file is not in memory, and every frame is counted from the
/// start of the device.
#[test]
fn pitfall_093_a_misaligned_partition_is_counted_from_its_start() {
    for (first_frame, order) in [(3, Order::Pte), (512 * 7, Order::Pmd)] {
        let rig = Rig::with(Setup { first_frame, ..Setup::default() });
        rig.fill(pages(0, 512), 5);
        assert_eq!(frame(&rig, 0), Frame(first_frame));
        let vma = rig.shared(pages(0, 1024));
        assert_eq!((vma.load(7), vma.store(9, 6)), (Ok(5), Ok(())));
        let found = vma.translation(7).expect("it was loaded");
        let within = if order == Order::Pmd { 0 } else { 7 };
        let target = Target::Storage(Frame(first_frame + within));
        assert_eq!((found.order, found.target), (order, target));
        let mut byte = [0];
        assert_eq!((rig.mapping.read(9 * PAGE_BYTES, &mut byte), byte), (Ok(1), [6]));
        assert_eq!(rig.mapping.write(7 * PAGE_BYTES, &[8]), Ok(1));
        assert_eq!((vma.load(7), rig.byte(9)), (Ok(8), 6));
        let why = (order == Order::Pte).then_some(NotHuge::Storage);
        let untouched = rig.shared(pages(0, 1024));
        rig.mapping.change_layout(pages(0, 1024), |_| Ok(())).expect("nothing fails");
        assert_eq!(rig.mapping.why_not_huge(&untouched.vma, page(0)), why);
        rig.check_invariants();
    }
    // The frame in front of a partition is not the file's.
    let rig = Rig::with(Setup { first_frame: 3, ..Setup::default() });
    assert_eq!(rig.file.size_bytes(), 1024 * PAGE_BYTES);
    rig.fill(pages(0, 8192 - 1024), 5);
    assert!((0..1024).all(|index| frame(&rig, index) >= Frame(3)));
}

/// Taking 2 MiB translations apart (mprotect or munmap of a part, a private copy) leaves counters that come out even.
#[test]
fn pitfall_094_taking_2_mib_apart_leaves_the_counters_even() {
    let rig = Rig::new(1536);
    rig.fill(pages(0, 512), 5);
    let process = rig.machine.process();
    let vma = rig.map(Spec::shared(pages(0, 1536)).within(&process));
    let private = rig.private(pages(0, 1536));
    for index in [0, 600, 1030] {
        vma.load(index).expect("data or a hole");
        private.load(index).expect("data or a hole");
    }
    assert_eq!((rig.mapping.entries(), rig.media.owned_frames()), (3, 512));
    let first = vma.sim.address(page(0)) / PAGE_BYTES;
    process.protect(first + 10, 20, Protection::Read);
    assert_eq!(vma.store(15, 1), Err(AccessError::Segmentation));
    assert_eq!((vma.store(5, 1), vma.load(15)), (Ok(()), Ok(5)));
    private.store(700, 2).expect("there is memory");
    process.unmap(first + 1100, 50);
    assert_eq!(vma.store(1040, 3), Ok(()));
    rig.check_invariants();
    let counted: u64 = rig.entries().iter().map(|one| u64::from(one.entry.is_mapped())).sum();
    assert_eq!((counted, rig.media.owned_frames()), (2, 1024), "twice 2 MiB");
    rig.mapping.truncate(0).expect("nothing fails");
    assert_eq!((rig.mapping.entries(), rig.media.owned_frames()), (0, 0));
    vma.unmap();
    private.unmap();
    rig.mapping.evict();
}
