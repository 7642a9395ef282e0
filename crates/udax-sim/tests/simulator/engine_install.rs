//! SEMANTICS 4.1 and 4.4: the insert step, and what a translation that is there already may become.

use crate::rig::{Call, Rig, Spec, page, pages};
use std::sync::Arc;
use udax_core::{AddressSpace, Order, PageIndex, PrivateCopies, Rights};
use udax_sim::{Congruence, Placement, Protection, Target};

/// 4.1, 1 to 4: the store is announced first; old zeros are unmapped; then the mark; then the translation.
#[test]
fn section_4_1_the_steps_of_a_store_into_a_mapped_hole() {
    let rig = Rig::new(1024);
    let (vma, other) = (rig.small(pages(0, 1024)), rig.small(pages(0, 1024)));
    assert_eq!((vma.load(3), other.load(3)), (Ok(0), Ok(0)));
    rig.hooks.take_log();
    vma.store(3, 1).expect("there is space");
    let log: Vec<_> = rig
        .hooks
        .take_log()
        .into_iter()
        .filter(|call| !matches!(call, Call::Level(_) | Call::DirectAccess(_)))
        .collect();
    let frame = rig.file.frame_of(page(3)).expect("it was stored to");
    let unmap = Call::Unmap(pages(3, 1), PrivateCopies::Keep);
    let wanted = [
        Call::NoteStore,
        Call::Begin(pages(3, 1), udax_core::Intent::Write),
        unmap,
        unmap,
        Call::InstallStorage(pages(3, 1), frame, Rights::WritableDirty),
        Call::End(1),
    ];
    assert_eq!(log, wanted, "both VMAs are unmapped before the swap");
    rig.check_invariants();
}

/// 4.1, 2: the old entry decides how much is unmapped: the whole 2 MiB of a 2 MiB zero entry that 2 MiB of storage replaces.
#[test]
fn section_4_1_a_2_mib_zero_page_is_unmapped_whole() {
    let rig = Rig::new(1024);
    let (vma, other) = (rig.shared(pages(0, 1024)), rig.shared(pages(0, 1024)));
    assert_eq!((vma.load(3), other.load(300)), (Ok(0), Ok(0)));
    rig.hooks.take_log();
    vma.store(300, 1).expect("there is space");
    assert_eq!(rig.state(3), "hM[D]");
    let unmaps = |call: &&Call| **call == Call::Unmap(pages(0, 512), PrivateCopies::Keep);
    assert_eq!(rig.hooks.take_log().iter().filter(unmaps).count(), 2);
    assert_eq!(other.translation(300), None);
    rig.check_invariants();
}

/// Zero by zero is no change: nothing is unmapped, and others keep theirs.
#[test]
fn section_4_1_a_second_load_of_a_hole_unmaps_nothing() {
    for large in [false, true] {
        let rig = Rig::new(1024);
        let map = || if large { rig.shared(pages(0, 1024)) } else { rig.small(pages(0, 1024)) };
        let (vma, other) = (map(), map());
        assert_eq!(vma.load(3), Ok(0));
        rig.hooks.take_log();
        assert_eq!(other.load(3), Ok(0));
        assert!(!rig.hooks.take_log().iter().any(|call| matches!(call, Call::Unmap(..))));
        assert!(vma.translation(3).is_some());
        rig.check_invariants();
    }
}

/// A load that finds a dirty entry leaves the mark alone and gets a read-only translation.
#[test]
fn section_4_1_a_load_of_a_dirty_page_clears_nothing_and_may_not_store() {
    for large in [false, true] {
        let rig = Rig::new(1024);
        let map = || if large { rig.shared(pages(0, 1024)) } else { rig.small(pages(0, 1024)) };
        let (vma, other) = (map(), map());
        vma.store(3, 1).expect("there is space");
        assert_eq!(other.load(3), Ok(1));
        assert!(rig.entry(3).is_some_and(|report| report.dirty));
        let translation = other.translation(3).expect("it was loaded");
        assert!(!translation.writable && !translation.dirty);
        assert!(vma.translation(3).is_some_and(|one| one.writable), "the other keeps its right");
        rig.check_invariants();
    }
}

/// 4.4 and 4.5: a store to a read-only translation of storage makes that very translation writable and dirty (pitfall 25), also in
/// the middle of 2 MiB (24); a later load takes no right away.
#[test]
fn pitfall_025_section_4_4_a_translation_gains_rights_in_place() {
    for large in [false, true] {
        let rig = Rig::new(1024);
        rig.fill(pages(0, 512), 5);
        let vma = if large { rig.shared(pages(0, 1024)) } else { rig.small(pages(0, 1024)) };
        assert_eq!(vma.load(300), Ok(5));
        let before = vma.translation(300).expect("it was loaded");
        assert!(!before.writable && !before.dirty);
        rig.hooks.take_log();
        vma.store(300, 6).expect("there is storage");
        let after = vma.translation(300).expect("it was stored to");
        assert_eq!((after.target, after.order), (before.target, before.order));
        assert!(after.writable && after.dirty);
        assert!(!rig.hooks.take_log().iter().any(|call| matches!(call, Call::Unmap(..))));
        vma.fault(300, udax_core::Access::Read);
        assert!(vma.translation(300).is_some_and(|one| one.writable && one.dirty));
        // And once more after a sync has taken the right.
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
        assert!(vma.translation(300).is_some_and(|one| !one.writable && !one.dirty));
        vma.store(300, 7).expect("there is storage");
        assert_eq!((rig.state(300).ends_with("[D]"), rig.byte(300)), (true, 7));
        rig.check_invariants();
    }
}

/// 4.4: a translation of another page is left alone (pitfalls 26, 27), of both sizes; of zeros too.
#[test]
fn pitfall_027_section_4_4_another_frame_is_never_put_over_a_translation() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 1024), 5);
    for order in [Order::Pte, Order::Pmd] {
        let vma = rig.shared(pages(0, 1024));
        let space = &vma.vma.space;
        let run = udax_core::PageRange::unit(page(0), order);
        let frames = [0, 512].map(|index| rig.file.frame_of(PageIndex(index)).expect("filled"));
        let read = Rights::ReadOnly;
        space.install_storage(run, frames[0], order, read).expect("there is memory");
        space
            .install_storage(run, frames[1], order, Rights::WritableDirty)
            .expect("the access is to be tried again");
        space.install_zeros(run, order).expect("the access is to be tried again");
        let kept = vma.translation(0).expect("it stays");
        assert_eq!(kept.target, Target::Storage(frames[0]));
        assert!(!kept.writable && !kept.dirty);
        let zeros = rig.shared(pages(0, 1024));
        zeros.vma.space.install_zeros(run, order).expect("there is memory");
        let rights = Rights::WritableDirty;
        zeros.vma.space.install_storage(run, frames[0], order, rights).expect("try again");
        let kept = zeros.translation(0).expect("it stays");
        assert_eq!((kept.target, kept.writable), (Target::ZeroPage, false));
    }
}

/// The right to store is given only as far as the VMA has it, and never to a private VMA on storage.
#[test]
fn section_4_4_no_translation_has_more_rights_than_its_vma() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 5);
    let read = rig.map(Spec { protection: Protection::Read, ..Spec::shared(pages(0, 1024)) });
    assert_eq!(read.load(3), Ok(5));
    assert!(read.store(3, 1).is_err());
    assert!(read.translation(3).is_some_and(|one| !one.writable));
    let private = rig.private(pages(0, 1024));
    assert_eq!(private.load(3), Ok(5));
    assert!(private.translation(3).is_some_and(|one| !one.writable && one.order == Order::Pmd));
    private.store(3, 6).expect("there is memory");
    assert_eq!((private.load(3), read.load(3), rig.byte(3)), (Ok(6), Ok(5), 5));
    assert_eq!(private.load(4), Ok(5));
    assert!(private.translation(4).is_some_and(|one| !one.writable));
    assert!(rig.entries().iter().all(|report| !report.dirty));
    rig.check_invariants();
}

/// A small fault under a 2 MiB entry maps its own page of it, in a VMA that can have no 2 MiB translation (I4, I12).
#[test]
fn section_4_1_a_small_fault_under_a_2_mib_entry_marks_all_of_it() {
    let rig = Rig::new(1024);
    let large = rig.shared(pages(0, 1024));
    large.store(0, 1).expect("there is space");
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    let spec = Spec { congruence: Congruence::OffBy(3), ..Spec::shared(pages(0, 1024)) };
    let off = rig.map(spec);
    off.store(77, 2).expect("there is storage");
    assert_eq!((rig.state(0), rig.mapping.entries()), ("hM[D]".into(), 1));
    assert_eq!(
        (large.load(77), off.translation(77).map(|one| one.order)),
        (Ok(2), Some(Order::Pte))
    );
    rig.check_invariants();
    rig.mapping.sync(pages(77, 1)).expect("nothing fails");
    assert!(off.translation(77).is_some_and(|one| !one.writable));
    rig.check_invariants();
}

/// Storage of which no 2 MiB translation can be made is mapped page by page, and never zeroed by the fault (pitfall 43).
#[test]
fn pitfall_043_a_fault_never_zeroes_storage() {
    for placement in [Placement::Misaligned, Placement::Fragmented { longest_run: 3 }] {
        let rig = Rig::new(1024);
        rig.fs.set_placement(placement);
        let (one, two) = (rig.shared(pages(0, 1024)), rig.shared(pages(0, 1024)));
        let other = Arc::clone(&two);
        one.store(5, 1).expect("there is space");
        rig.hooks.before(
            |call| matches!(call, Call::InstallStorage(..)),
            move || other.store(9, 7).expect("there is space"),
        );
        assert_eq!(two.load(5), Ok(1));
        let behind = one.sim.address(page(9)) + 8;
        one.thread(0).store(behind, &[8]).expect("there is storage");
        assert_eq!((two.load(9), rig.byte(5)), (Ok(7), 1));
        assert_eq!(rig.state(5), "pM[D]");
        rig.check_invariants();
    }
}
