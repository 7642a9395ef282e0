//! The file system: what iomap answers, allocation, reflinks, what of the metadata is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use udax_core::{
    Backing, Filesystem as _, Frame, Intent, IoError, IoErrorKind, Media as _, PageIndex, PageRange,
};
use udax_sim::{
    Evicted, Freed, FsCall, MediaCall, MediaConfig, Placement, Plan, SimFile, SimFs, SimMedia,
    explore,
};

const MIB_2: u64 = 1 << 21;

fn pages(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), count)
}

fn file(size: u64) -> SimFile {
    SimFs::new(SimMedia::aligned(8192)).create(size)
}

fn frame(backing: Backing) -> Frame {
    let Backing::Mapped(frame) = backing else { panic!("{backing:?} is not storage") };
    frame
}

#[test]
fn a_2_mib_store_into_a_hole_gets_one_aligned_zeroed_extent() {
    let file = file(2 * MIB_2);
    let read = file.iomap_begin(pages(512, 512), Intent::Read).expect("a hole");
    assert_eq!((read.backing, read.range, read.is_new), (Backing::Hole, pages(512, 512), false));
    file.fs().media().cpu_store(Frame(512), 0, &[1; 4096]).expect("no poison");
    let write = file.iomap_begin(pages(512, 512), Intent::Write).expect("space");
    assert!(frame(write.backing).is_pmd_aligned() && write.is_new && write.metadata_dirty);
    assert_eq!(write.range, pages(512, 512));
    let again = file.iomap_begin(pages(600, 1), Intent::Write).expect("it is there");
    assert_eq!(frame(again.backing), frame(write.backing).plus(88));
    assert!(!again.is_new && again.range == pages(600, 424), "the rest of the extent");
    assert!(file.contents().iter().all(|byte| *byte == 0));
    assert_eq!(file.fs().allocated_pages(), 512);
}

#[test]
fn fragmented_misaligned_or_full_devices_give_what_no_pmd_can_be_made_of() {
    let sparse = file(2 * MIB_2);
    sparse.fs().set_placement(Placement::Fragmented { longest_run: 4 });
    assert_eq!(sparse.iomap_begin(pages(0, 512), Intent::Write).expect("space").range.len(), 4);
    sparse.fs().set_placement(Placement::Misaligned);
    let write = sparse.iomap_begin(pages(512, 512), Intent::Write).expect("space");
    assert!(write.range.len() == 512 && !frame(write.backing).is_pmd_aligned());
    sparse.fs().set_capacity(Some(517));
    let rest = sparse.iomap_begin(pages(4, 508), Intent::Write).expect("one page is left");
    assert_eq!(rest.range, pages(4, 1));
    let full = sparse.iomap_begin(pages(5, 1), Intent::Write).expect_err("no space");
    assert_eq!(full.kind, IoErrorKind::NoSpace);
    let off = MediaConfig { first_frame: Frame(1), frames: 4096, contiguous_limit: None };
    let file = SimFs::new(SimMedia::new(off)).create(MIB_2);
    let write = file.iomap_begin(pages(0, 512), Intent::Write).expect("space");
    assert!(write.range.len() == 512 && !frame(write.backing).is_pmd_aligned());
}

#[test]
fn unwritten_storage_reads_as_zeros_until_a_store_converts_it() {
    let file = file(MIB_2);
    file.allocate(pages(0, 512)).expect("space");
    let read = file.iomap_begin(pages(3, 1), Intent::Read).expect("it is there");
    assert_eq!((read.backing, file.frame_of(PageIndex(3))), (Backing::Unwritten, None));
    let write = file.iomap_begin(pages(3, 1), Intent::Write).expect("it is there");
    assert!(write.is_new && write.range == pages(3, 1));
    let mut bytes = [1; 2];
    let media = file.fs().media();
    media.peek(frame(write.backing), 0, &mut bytes);
    assert_eq!(bytes, [0; 2]);
    media.peek(frame(write.backing).plus(1), 0, &mut bytes);
    assert_eq!(bytes, [0xdb; 2], "what was never written may never be seen");
    assert_eq!(file.extents().len(), 3);
    assert!(file.contents().iter().all(|byte| *byte == 0));
}

#[test]
fn a_failed_call_changes_nothing() {
    let file = file(MIB_2);
    file.fail(FsCall::BeginWrite, Plan::nth(1), IoError::from_errno(12));
    let error = file.iomap_begin(pages(0, 1), Intent::Write).expect_err("planned");
    assert_eq!(error.kind, IoErrorKind::NoMemory);
    file.fs().media().fail(MediaCall::Zero, Plan::nth(3), IoError::from_errno(5));
    assert!(file.iomap_begin(pages(0, 8), Intent::Write).is_err());
    assert_eq!((file.fs().allocated_pages(), file.extents().len()), (0, 0));
    assert_eq!(file.calls(FsCall::BeginWrite), 2);
    assert!(file.iomap_begin(pages(0, 8), Intent::Write).is_ok());
}

#[test]
fn a_power_cut_leaves_the_metadata_of_the_last_commit() {
    let file = file(8192);
    file.poke(0, &[1; 8192]);
    assert!(file.contents_after_crash(Evicted::Everything).iter().all(|byte| *byte == 0));
    file.commit(pages(0, 1)).expect("nothing fails");
    assert!(!file.iomap_begin(pages(0, 1), Intent::Read).expect("there").metadata_dirty);
    file.set_size(4096).expect("nothing fails");
    assert_eq!(file.contents_after_crash(Evicted::Nothing), [1; 8192]);
    assert_eq!(file.contents(), [1; 4096]);
    file.commit(pages(0, 1)).expect("nothing fails");
    assert_eq!(file.contents_after_crash(Evicted::Nothing), [1; 4096]);
}

#[test]
fn freed_storage_may_have_to_wait_for_the_journal() {
    let file = file(MIB_2);
    file.fs().set_freed(Freed::AfterCommit);
    file.poke(0, &[1]);
    let first = file.frame_of(PageIndex(0)).expect("poked");
    file.free(pages(0, 1)).expect("nothing fails");
    file.poke(0, &[2]);
    assert_ne!(file.frame_of(PageIndex(0)), Some(first));
    file.commit(pages(0, 1)).expect("nothing fails");
    file.poke(4096, &[3]);
    assert_eq!(file.frame_of(PageIndex(1)), Some(first));
}

#[test]
fn freed_storage_that_was_shared_stays_shared_until_the_file_that_gave_it_up_commits() {
    let original = file(4096);
    original.fs().set_freed(Freed::AfterCommit);
    original.poke(0, &[7; 4096]);
    let copy = original.fs().create(0);
    original.fs().reflink(&original, &copy);
    for file in [&original, &copy] {
        file.commit(pages(0, 1)).expect("nothing fails");
    }
    original.free(pages(0, 1)).expect("nothing fails");
    copy.commit(pages(0, 1)).expect("nothing fails");
    assert!(copy.extents()[0].shared, "a power cut would give it back to the other");
    assert_eq!(original.contents_after_crash(Evicted::Nothing), [7; 4096]);
    original.commit(pages(0, 1)).expect("nothing fails");
    assert!(!copy.extents()[0].shared);
    assert_eq!(original.contents_after_crash(Evicted::Nothing), [0; 4096]);
}

#[test]
fn a_copy_under_way_is_not_durable_and_goes_on_for_everybody_though_the_sharing_ends() {
    let original = file(8192);
    original.poke(0, &[7; 8192]);
    let copy = original.fs().create(0);
    original.fs().reflink(&original, &copy);
    copy.commit(pages(0, 2)).expect("nothing fails");
    let first = copy.iomap_begin(pages(1, 1), Intent::Write).expect("space");
    assert!(first.metadata_dirty, "it will not be there after a power cut");
    original.free(pages(0, 2)).expect("nothing fails");
    let second = copy.iomap_begin(pages(0, 2), Intent::Write).expect("space");
    assert_eq!((second.range, second.copy_from), (pages(0, 1), None), "nobody copies this one");
    let third = copy.iomap_begin(pages(1, 1), Intent::Write).expect("space");
    assert_eq!((third.backing, third.copy_from), (first.backing, first.copy_from));
    copy.iomap_end(&first, 1).expect("nothing fails");
    let fourth = copy.iomap_begin(pages(1, 1), Intent::Write).expect("space");
    assert_eq!((fourth.backing, fourth.copy_from), (first.backing, None));
}

#[test]
fn one_power_cut_can_be_looked_at_byte_by_byte() {
    let file = file(8192);
    let seen = |offset: u64, evicted: Evicted| {
        let mut bytes = [0xee; 2];
        file.byte_run_after_crash(offset, evicted, &mut bytes);
        bytes
    };
    file.poke(4096, &[1; 4096]);
    assert_eq!(seen(4096, Evicted::Everything), [0; 2], "no durable metadata leads there");
    file.commit(pages(0, 2)).expect("nothing fails");
    let frame = file.frame_of(PageIndex(1)).expect("poked");
    file.fs().media().cpu_store(frame, 63, &[2; 2]).expect("no poison");
    assert_eq!(seen(4096 + 63, Evicted::Nothing), [1; 2]);
    assert_eq!(seen(4096 + 63, Evicted::Everything), [2; 2]);
    for seed in 0..20 {
        let evicted = Evicted::Some { seed };
        let whole = file.contents_after_crash(evicted);
        assert_eq!(seen(4096 + 63, evicted), whole[4096 + 63..4096 + 65], "seed {seed}");
    }
    file.set_size(4097).expect("nothing fails");
    file.commit(pages(0, 2)).expect("nothing fails");
    assert_eq!((file.size_after_crash(), seen(4096, Evicted::Everything)), (4097, [1, 0]));
}

#[test]
fn a_store_to_shared_storage_is_a_copy_that_iomap_end_puts_in_place() {
    let original = file(8192);
    original.poke(0, &[7; 8192]);
    let copy = original.fs().create(0);
    original.fs().reflink(&original, &copy);
    assert_eq!((copy.contents(), original.fs().allocated_pages()), (vec![7; 8192], 2));
    assert!(copy.extents()[0].shared);
    let write = copy.iomap_begin(pages(0, 1), Intent::Write).expect("space");
    let old = original.frame_of(PageIndex(0)).expect("poked");
    assert_eq!((write.copy_from, write.is_new), (Some(Backing::Mapped(old)), true));
    assert_ne!(frame(write.backing), old);
    copy.iomap_end(&write, 0).expect("nothing fails");
    assert_eq!((copy.contents(), copy.fs().allocated_pages()), (vec![7; 8192], 2), "given up");
    let write = copy.iomap_begin(pages(0, 1), Intent::Write).expect("space");
    copy.fs().media().store(frame(write.backing), 0, &[8; 4096]).expect("alive");
    copy.iomap_end(&write, 1).expect("nothing fails");
    assert_eq!((copy.contents()[0], copy.contents()[4096]), (8, 7));
    assert_eq!(original.contents(), [7; 8192]);
    let shared: Vec<bool> = copy.extents().iter().map(|extent| extent.shared).collect();
    assert_eq!((shared, copy.fs().allocated_pages()), (vec![false, true], 3));
    original.free(pages(0, 2)).expect("nothing fails");
    assert_eq!(copy.fs().allocated_pages(), 2);
    assert!(!copy.iomap_begin(pages(1, 1), Intent::Write).expect("there").is_new);
}

#[test]
fn collapse_and_insert_move_what_lies_behind() {
    let file = file(5 * 4096);
    for page in 0..5_u8 {
        file.poke(u64::from(page) * 4096, &[page + 1]);
    }
    file.collapse(pages(1, 2));
    let firsts =
        |file: &SimFile| -> Vec<u8> { file.contents().chunks(4096).map(|p| p[0]).collect() };
    assert_eq!(firsts(&file), [1, 4, 5]);
    file.insert(pages(1, 1));
    assert_eq!(firsts(&file), [1, 0, 4, 5]);
    assert_eq!(file.fs().allocated_pages(), 3);
    file.make_unwritten(pages(2, 1)).expect("space");
    assert_eq!(firsts(&file), [1, 0, 0, 5]);
    file.write_zeros(pages(0, 4)).expect("space");
    assert_eq!((firsts(&file), file.fs().allocated_pages()), (vec![1, 0, 0, 5], 4));
}

#[test]
fn a_held_journal_and_a_frozen_file_system_make_writers_wait() {
    explore(0..30, |run| {
        let file = file(MIB_2);
        let open = Arc::new(AtomicBool::new(false));
        file.fs().hold_journal();
        file.fs().freeze();
        let (journal, is_open) = (file.clone(), Arc::clone(&open));
        run.spawn("writer", move || {
            file.note_store();
            file.iomap_begin(pages(0, 1), Intent::Write).expect("space");
            file.commit(pages(0, 1)).expect("nothing fails");
            assert!(open.load(Ordering::Relaxed));
        });
        run.spawn("journal", move || {
            journal.fs().thaw();
            is_open.store(true, Ordering::Relaxed);
            journal.fs().release_journal();
        });
    });
}
