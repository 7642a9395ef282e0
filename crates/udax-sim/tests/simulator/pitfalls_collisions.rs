//! Pitfalls 19 to 32 that no test of the fault's rows (`pmd_fault.rs`, `pte_fault.rs`) or of the machine (`machine.rs`) is: small and
//! huge translations in each other's way. docs/pitfalls.md lists all of them.

use crate::rig::{Rig, Spec, page, pages};
use std::sync::{Arc, Mutex};
use udax_core::{Access, Durability, FrameRange, HugePages, Order, PAGE_BYTES, Pmd, Served};
use udax_sim::{AccessError, Plan, Target, explore_then};

/// generic/437: a shared store has made a 2 MiB entry. Two threads of a private mapping load and store its first byte, and empty the
/// page tables in between. Neither may put its size where the other's is.
#[test]
fn pitfall_019_private_loads_and_stores_collide_in_no_page_table() {
    explore_then(0..300, |run| {
        let rig = Rig::new(1024);
        rig.shared(pages(0, 1024)).store(0, 5).expect("there is space");
        let vma = rig.private(pages(0, 1024));
        for (name, cpu, access) in [("load", 0, Access::Read), ("store", 1, Access::Write)] {
            let vma = Arc::clone(&vma);
            run.spawn(name, move || {
                for _ in 0..3 {
                    let thread = vma.thread(cpu);
                    match access {
                        Access::Read => {
                            let byte = thread.load_byte(&vma.sim, page(0));
                            assert!(matches!(byte, Ok(5 | 9)), "{byte:?}");
                        }
                        Access::Write => thread.store_byte(&vma.sim, page(0), 9).expect("a copy"),
                    }
                    vma.discard(pages(0, 512));
                }
            });
        }
        move || {
            assert_eq!(rig.machine.collision_count(), 0, "another size is there");
            assert_eq!((vma.load(0), rig.byte(0)), (Ok(5), 5));
            rig.check_invariants();
        }
    });
}

/// A small fault under a 2 MiB entry leaves the entry in place, and with it whose pages the frames are.
#[test]
fn pitfall_022_a_small_fault_under_a_2_mib_entry_changes_no_owner() {
    let rig = Rig::new(1024);
    let (large, small) = (rig.shared(pages(0, 1024)), rig.small(pages(0, 1024)));
    large.store(3, 1).expect("there is space");
    small.store(77, 2).expect("there is storage");
    assert_eq!(small.load(78), Ok(0));
    assert_eq!((rig.state(77), rig.media.owned_frames()), ("hM[D]".into(), 512));
    for index in 0..512 {
        let frame = rig.file.frame_of(page(index)).expect("it has storage");
        let owner = rig.media.owner(frame).map(|owner| owner.index);
        assert_eq!(owner, Some(page(index)), "{frame:?}");
    }
    rig.mapping.truncate(0).expect("nothing fails");
    assert_eq!(rig.media.owned_frames(), 0);
}

/// A store at offset 4096 inside a 2 MiB translation that is read-only: what gains the right is the whole translation, at its start.
#[test]
fn pitfall_024_a_store_to_the_second_page_makes_all_of_2_mib_writable() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 5);
    let vma = rig.shared(pages(0, 1024));
    assert_eq!(vma.load(0), Ok(5));
    let before = vma.translation(0).expect("it was loaded");
    vma.store(1, 9).expect("there is storage");
    let after = vma.translation(0).expect("it was stored to");
    assert_eq!((after.address_page, after.target), (before.address_page, before.target));
    assert!(after.writable && after.dirty && after.order == Order::Pmd);
    assert_eq!((vma.load(0), rig.byte(1)), (Ok(5), 9));
    rig.check_invariants();
}

/// Each 2 MiB translation has a page table laid aside, for zeros as for storage: without memory for one there is none, and what is
/// laid aside is there when the 2 MiB come to need it.
#[test]
fn pitfall_028_zeros_and_storage_of_2_mib_lay_a_page_table_aside() {
    for access in [Access::Read, Access::Write] {
        let rig = Rig::new(1024);
        let (vma, small) = (rig.shared(pages(0, 1024)), rig.small(pages(0, 1024)));
        rig.machine.fail_table_allocation(Plan::ONCE);
        assert_eq!(vma.fault(5, access).served, Served::OutOfMemory);
        assert_eq!((vma.process.page_tables(), vma.translation(5)), (0, None));
        assert_eq!(vma.fault(5, access).served, Served::Installed);
        assert_eq!((vma.process.page_tables(), vma.translation(5).is_some()), (1, true));
        vma.store(5, 1).expect("there is space");
        assert_eq!(vma.process.page_tables(), 1, "one for storage in the place of zeros");
        small.store(600, 1).expect("there is space");
        assert_eq!(vma.load(600), Ok(1));
        assert_eq!((vma.process.page_tables(), small.process.page_tables()), (2, 1));
        vma.unmap();
        assert_eq!(vma.process.page_tables(), 0, "all of them are given back");
        rig.check_invariants();
    }
}

/// fork of a process with a 2 MiB translation of a shared file: the child gets the file's pages, no copy and no part of the parent's
/// translation; and a device that uses one of the 512 frames is seen.
#[test]
fn pitfall_030_fork_and_pins_know_a_2_mib_translation_of_storage() {
    let rig = Rig::new(1024);
    let parent = rig.shared(pages(0, 1024));
    parent.store(0, 7).expect("there is space");
    assert_eq!(parent.translation(0).map(|one| one.order), Some(Order::Pmd));
    let fork = parent.process.fork();
    assert!(fork.child.translations().is_empty(), "it comes by the child's own faults");
    let [(_, vma)] = fork.vmas.as_slice() else { panic!("one VMA") };
    let (durability, huge_pages) = (Durability::AtSync, HugePages::Allowed);
    let child = rig.attach(fork.child.clone(), Arc::clone(vma), durability, huge_pages, 0);
    parent.store(0, 8).expect("there is storage");
    assert_eq!(child.load(0), Ok(8));
    child.store(1, 9).expect("there is storage");
    assert_eq!((parent.load(1), rig.byte(1)), (Ok(9), 9));
    let Some(Target::Storage(first)) = child.translation(1).map(|one| one.target) else {
        panic!("storage")
    };
    rig.media.pin(first.plus(100));
    let frames = FrameRange { start: first, count: 512 };
    assert_eq!(udax_core::Media::first_pinned(&rig.media, frames), Some(first.plus(100)));
    rig.media.unpin(first.plus(100));
    rig.check_invariants();
}

/// fork copies the page tables of a private mapping with copies in it while another thread fills a hole there: what the child gets of the hole is
/// what the unmapping of its zeros finds, in the parent or in the child.
#[test]
fn a_hole_that_is_filled_during_a_fork_is_filled_for_the_child() {
    explore_then(0..300, |run| {
        let rig = Arc::new(Rig::new(64));
        let parent = rig.map(Spec::private(pages(0, 16)).small());
        parent.store(0, 1).expect("there is memory");
        assert_eq!(parent.load(3), Ok(0));
        let writer = rig.small(pages(0, 64));
        let child = Arc::new(Mutex::new(None));
        let (forking, born) = (Arc::clone(&rig), Arc::clone(&child));
        run.spawn("fork", move || {
            parent.process.fork_with(|process, vmas| {
                let [(_, vma)] = vmas else { panic!("one VMA") };
                let (process, vma) = (Arc::clone(process), Arc::clone(vma));
                let served = forking.attach(process, vma, Durability::AtSync, HugePages::Never, 0);
                *born.lock().expect("nobody panics with it") = Some(served);
            });
        });
        run.spawn("store", move || writer.store(3, 7).expect("there is space"));
        move || {
            let child = child.lock().expect("nobody panics with it").take();
            let child = child.expect("it was born");
            assert_eq!((child.load(0), child.load(3)), (Ok(1), Ok(7)));
            rig.check_invariants();
        }
    });
}

/// Where there are no huge pages no fault is tried at 2 MiB, whatever extents, addresses and the file would allow.
#[test]
fn pitfall_032_without_huge_pages_nothing_is_tried_at_2_mib() {
    let rig = Rig::new(1024);
    rig.fill(pages(512, 512), 5);
    let vma = rig.map(Spec { huge_pages: HugePages::Never, ..Spec::shared(pages(0, 1024)) });
    assert_eq!((vma.load(3), vma.load(600)), (Ok(0), Ok(5)));
    vma.store(3, 1).expect("there is space");
    vma.store(700, 1).expect("there is storage");
    let names = rig.trace.names();
    assert!(names.iter().all(|name| !name.contains("pmd")), "{names:?}");
    assert_eq!((vma.vma.space.sim.layout().pages, rig.mapping.entries()), (pages(0, 1024), 3));
    let first = vma.sim.address(page(0)) / PAGE_BYTES;
    assert_eq!([0, 512].map(|unit| vma.process.pmd_at(first + unit)), [Pmd::Table; 2]);
    rig.check_invariants();
}

/// One page leaves the middle of a 2 MiB translation, as mremap takes it: the rest is mapped anew, and the page answers at its new place
/// alone.
#[test]
fn pitfall_029_one_page_that_leaves_2_mib_takes_the_translation_with_it() {
    let rig = Rig::new(1024);
    let vma = rig.shared(pages(0, 1024));
    vma.store(100, 7).expect("there is space");
    vma.process.unmap(vma.sim.address(page(100)) / PAGE_BYTES, 1);
    assert_eq!(
        vma.translation(99),
        None,
        "a walker that took the 2 MiB for a table would leave it"
    );
    let moved = rig.map(Spec::shared(pages(100, 1)).within(&vma.process));
    assert_eq!((moved.load(100), vma.load(100)), (Ok(7), Err(AccessError::Segmentation)));
    moved.store(100, 8).expect("there is storage");
    assert_eq!([99, 100, 101].map(|index| rig.byte(index)), [0, 8, 0]);
}
