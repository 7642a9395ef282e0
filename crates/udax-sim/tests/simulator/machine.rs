//! The machine: translations, TLBs that go stale, faults, and what processes do to their mappings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_core::{
    Access, AddressSpace as _, Frame, FrameRange, InstallError, IoErrorKind, Order, PageIndex,
    PageRange, Pmd, PrivateCopies, Rights, Sharing,
};
use udax_sim::{
    AccessError, Congruence, FaultRequest, HugeZero, Machine, Plan, Process, Protection, Run,
    Shootdown, SimMedia, SimThread, SimVma, Target, VmaLayout, explore,
};

const PAGES: PageRange = PageRange { start: PageIndex(0), end: PageIndex(1024) };

fn map(process: &Arc<Process>, sharing: Sharing) -> Arc<SimVma> {
    process.map(VmaLayout {
        pages: PAGES,
        address_page: process.free_address(PAGES, Congruence::Aligned),
        sharing,
        protection: Protection::ReadWrite,
    })
}

struct Scene {
    machine: Arc<Machine>,
    process: Arc<Process>,
    vma: Arc<SimVma>,
    cpus: [SimThread; 2],
}

fn scene(sharing: Sharing) -> Scene {
    let machine = Machine::new(SimMedia::aligned(4096), 2);
    let process = machine.process();
    let vma = map(&process, sharing);
    let cpus = [process.thread(0), process.thread(1)];
    Scene { machine, process, vma, cpus }
}

/// Serves faults with storage: page n is frame n.
fn serve(vma: &Arc<SimVma>) {
    let space = vma.space();
    let sharing = vma.layout().sharing;
    vma.on_fault(move |request: FaultRequest| {
        let run = PageRange::new(request.index, 1);
        let frame = Frame(request.index.0);
        let served = match (request.access, sharing) {
            (Access::Write, Sharing::Private) => space.install_copy(request.index, Some(frame)),
            (Access::Write, Sharing::Shared) => {
                space.install_storage(run, frame, Order::Pte, Rights::WritableDirty).map(|_| ())
            }
            (Access::Read, _) => {
                space.install_storage(run, frame, Order::Pte, Rights::ReadOnly).map(|_| ())
            }
        };
        served.map_err(|error| match error {
            InstallError::OutOfMemory => AccessError::OutOfMemory,
            InstallError::Media(error) if error.kind == IoErrorKind::Poisoned => {
                AccessError::Poisoned
            }
            InstallError::Media(_) | InstallError::NoHugeZero | InstallError::LevelTaken => {
                AccessError::BusError
            }
        })
    });
}

fn unit(start: u64) -> PageRange {
    PageRange::new(PageIndex(start), 512)
}

fn page(index: u64) -> PageRange {
    PageRange::new(PageIndex(index), 1)
}

#[test]
fn a_store_faults_once_and_is_seen_by_every_cpu() {
    let scene = scene(Sharing::Shared);
    serve(&scene.vma);
    let address = scene.vma.address(PageIndex(3)) + 4094;
    scene.cpus[0].store(address, &[1, 2, 3, 4]).expect("it is served");
    assert_eq!(scene.machine.fault_count(), 2, "one for each page");
    let mut bytes = [0; 4];
    scene.cpus[1].load(address, &mut bytes).expect("it is served");
    assert_eq!((bytes, scene.machine.fault_count()), ([1, 2, 3, 4], 2));
    let translation = scene.vma.translation(PageIndex(3)).expect("it is there");
    assert_eq!(translation.target, Target::Storage(Frame(3)));
    assert!(translation.writable && translation.dirty && translation.page == Some(PageIndex(3)));
    assert!(scene.machine.media().unflushed(FrameRange { start: Frame(4), count: 1 }));
}

#[test]
fn pitfall_026_an_existing_translation_only_gains_rights() {
    let scene = scene(Sharing::Shared);
    let space = scene.vma.space();
    let rights = |index| {
        let found = scene.vma.translation(PageIndex(index)).expect("it is there");
        (found.target, found.writable, found.dirty)
    };
    space.install_storage(page(1), Frame(9), Order::Pte, Rights::ReadOnly).expect("free");
    assert_eq!(rights(1), (Target::Storage(Frame(9)), false, false));
    space.install_storage(page(1), Frame(8), Order::Pte, Rights::WritableDirty).expect("kept");
    assert_eq!(rights(1), (Target::Storage(Frame(9)), false, false), "another frame: nothing");
    space.install_storage(page(1), Frame(9), Order::Pte, Rights::WritableDirty).expect("same");
    space.install_storage(page(1), Frame(9), Order::Pte, Rights::ReadOnly).expect("kept");
    assert_eq!(rights(1), (Target::Storage(Frame(9)), true, true));
    space.install_zeros(page(2), Order::Pte).expect("free");
    space.install_storage(page(2), Frame(9), Order::Pte, Rights::WritableDirty).expect("kept");
    assert_eq!(rights(2), (Target::ZeroPage, false, false));
    let taken = space.install_zeros(unit(0), Order::Pmd);
    assert_eq!(taken, Err(InstallError::LevelTaken));
    space.install_storage(unit(512), Frame(512), Order::Pmd, Rights::ReadOnly).expect("free");
    assert_eq!(space.pmd(PageIndex(600)), Pmd::HugeReadOnly);
    let taken = space.install_zeros(page(600), Order::Pte);
    assert_eq!(taken, Err(InstallError::LevelTaken));
    space.install_storage(unit(512), Frame(512), Order::Pmd, Rights::WritableDirty).expect("same");
    assert_eq!(
        (space.pmd(PageIndex(600)), space.pmd(PageIndex(0))),
        (Pmd::HugeWritable, Pmd::Table)
    );
    space.clear_pmd(PageIndex(700));
    assert_eq!(space.pmd(PageIndex(600)), Pmd::None);
    space.clear_pmd(PageIndex(0));
    assert_eq!(space.pmd(PageIndex(0)), Pmd::Table, "only a 2 MiB translation is split");
}

#[test]
fn a_vma_without_the_right_never_gets_it() {
    let scene = scene(Sharing::Shared);
    let first = scene.vma.layout().address_page;
    scene.process.protect(first, 1, Protection::Read);
    let space = scene.vma.space();
    let two = PageRange::new(PageIndex(0), 2);
    space.install_storage(two, Frame(0), Order::Pte, Rights::WritableDirty).expect("free");
    let writable: Vec<bool> = scene.vma.translations().iter().map(|t| t.writable).collect();
    assert_eq!(writable, [false, true]);
    assert_eq!(
        scene.cpus[0].store_byte(&scene.vma, PageIndex(0), 1),
        Err(AccessError::Segmentation)
    );
    scene.process.protect(first, 2, Protection::None);
    assert_eq!(scene.cpus[0].load_byte(&scene.vma, PageIndex(1)), Err(AccessError::Segmentation));
}

#[test]
fn no_memory_and_no_huge_zero_page() {
    let scene = scene(Sharing::Shared);
    serve(&scene.vma);
    let space = scene.vma.space();
    scene.machine.fail_table_allocation(Plan::ONCE);
    assert_eq!(scene.cpus[0].load_byte(&scene.vma, PageIndex(0)), Err(AccessError::OutOfMemory));
    scene.machine.set_huge_zero(HugeZero::Unavailable);
    assert_eq!(space.install_zeros(unit(0), Order::Pmd), Err(InstallError::NoHugeZero));
    scene.machine.set_huge_zero(HugeZero::Available);
    assert_eq!(space.install_zeros(unit(0), Order::Pmd), Ok(()));
    assert_eq!(scene.cpus[0].load_byte(&scene.vma, PageIndex(511)), Ok(0));
}

#[test]
fn a_cpu_uses_what_it_remembers_until_it_is_shot_down() {
    for (how, seen) in [(Shootdown::Done, 0), (Shootdown::Forgotten, 7)] {
        let scene = scene(Sharing::Shared);
        serve(&scene.vma);
        scene.cpus[0].store_byte(&scene.vma, PageIndex(1), 7).expect("served");
        assert_eq!(scene.cpus[1].load_byte(&scene.vma, PageIndex(1)), Ok(7));
        scene.machine.set_shootdown(how);
        let space = scene.vma.space();
        space.unmap(page(1), PrivateCopies::Keep);
        space.install_zeros(page(1), Order::Pte).expect("free");
        assert_eq!(scene.cpus[1].load_byte(&scene.vma, PageIndex(1)), Ok(seen), "{how:?}");
        assert_eq!(scene.machine.shootdown_count(), 1);
    }
}

#[test]
fn a_gained_right_needs_no_shootdown() {
    let scene = scene(Sharing::Shared);
    serve(&scene.vma);
    scene.cpus[1].load_byte(&scene.vma, PageIndex(1)).expect("served");
    scene.cpus[0].store_byte(&scene.vma, PageIndex(1), 7).expect("served");
    let faults = scene.machine.fault_count();
    scene.cpus[1].store_byte(&scene.vma, PageIndex(1), 8).expect("the walk finds the right");
    assert_eq!((scene.machine.fault_count(), scene.machine.shootdown_count()), (faults, 0));
}

#[test]
fn write_protection_takes_right_and_dirty_bit_of_that_frame_alone() {
    let scene = scene(Sharing::Shared);
    let space = scene.vma.space();
    space.install_storage(unit(0), Frame(512), Order::Pmd, Rights::WritableDirty).expect("free");
    let two = PageRange::new(PageIndex(600), 2);
    space.install_storage(two, Frame(40), Order::Pte, Rights::WritableDirty).expect("free");
    space.write_protect(PageRange::new(PageIndex(600), 2), Frame(39));
    let writable = |index| scene.vma.translation(PageIndex(index)).expect("there").writable;
    assert!(writable(600) && writable(601));
    space.write_protect(PageRange::new(PageIndex(599), 2), Frame(39));
    assert_eq!((writable(600), writable(601)), (false, true));
    space.write_protect(page(100), Frame(512 + 99));
    assert!(writable(0));
    space.write_protect(page(100), Frame(512 + 100));
    assert!(!writable(0));
    let huge = scene.vma.translation(PageIndex(5)).expect("there");
    assert!(!huge.dirty && huge.order == Order::Pmd);
}

#[test]
fn pitfall_029_unmapping_part_of_a_huge_translation_drops_it_whole_and_keeps_private_copies() {
    let scene = scene(Sharing::Private);
    serve(&scene.vma);
    let space = scene.vma.space();
    space.install_zeros(unit(0), Order::Pmd).expect("free");
    space.unmap(page(3), PrivateCopies::Keep);
    assert_eq!(space.pmd(PageIndex(0)), Pmd::None);
    scene.cpus[0].store_byte(&scene.vma, PageIndex(4), 9).expect("served");
    space.unmap(unit(0), PrivateCopies::Keep);
    assert_eq!(scene.cpus[1].load_byte(&scene.vma, PageIndex(4)), Ok(9));
    assert_eq!(space.pmd(PageIndex(0)), Pmd::Table);
    space.unmap(unit(0), PrivateCopies::Drop);
    assert_eq!(scene.cpus[1].load_byte(&scene.vma, PageIndex(4)), Ok(0));
}

#[test]
fn a_private_copy_takes_the_bytes_and_hides_the_storage_from_every_cpu() {
    let scene = scene(Sharing::Private);
    serve(&scene.vma);
    scene.machine.media().cpu_store(Frame(2), 0, &[1, 2]).expect("no poison");
    assert_eq!(scene.cpus[1].load_byte(&scene.vma, PageIndex(2)), Ok(1));
    scene.cpus[0].store_byte(&scene.vma, PageIndex(2), 5).expect("served");
    assert_eq!(scene.cpus[1].load_byte(&scene.vma, PageIndex(2)), Ok(5));
    let mut bytes = [0; 2];
    scene.cpus[1].load(scene.vma.address(PageIndex(2)), &mut bytes).expect("there");
    assert_eq!(bytes, [5, 2]);
    scene.machine.media().peek(Frame(2), 0, &mut bytes);
    assert_eq!(bytes, [1, 2], "the file is as it was");
    scene.machine.media().poison(Frame(3));
    assert_eq!(scene.cpus[0].store_byte(&scene.vma, PageIndex(3), 5), Err(AccessError::Poisoned));
    scene.machine.fail_copy_allocation(Plan::ONCE);
    assert_eq!(
        scene.cpus[0].store_byte(&scene.vma, PageIndex(4), 5),
        Err(AccessError::OutOfMemory)
    );
}

#[test]
#[should_panic(expected = "let a private VMA store")]
fn a_private_vma_must_never_store_to_storage() {
    let scene = scene(Sharing::Private);
    let space = scene.vma.space();
    let _ = space.install_storage(page(0), Frame(0), Order::Pte, Rights::WritableDirty);
}

#[test]
#[should_panic(expected = "misaligned address")]
fn a_huge_translation_needs_an_address_of_the_same_colour() {
    let process = Machine::new(SimMedia::aligned(4096), 1).process();
    let address_page = process.free_address(PAGES, Congruence::OffBy(1));
    let layout = VmaLayout {
        pages: PAGES,
        address_page,
        sharing: Sharing::Shared,
        protection: Protection::Read,
    };
    let _ = process.map(layout).space().install_zeros(unit(0), Order::Pmd);
}

#[test]
#[should_panic(expected = "faults without end")]
fn an_endless_refault_is_found() {
    let scene = scene(Sharing::Shared);
    scene.vma.on_fault(|_| Ok(()));
    let _ = scene.cpus[0].load_byte(&scene.vma, PageIndex(0));
}

#[test]
fn the_handler_is_told_what_was_met() {
    let scene = scene(Sharing::Shared);
    let space = scene.vma.space();
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let requests = Arc::clone(&asked);
    scene.vma.on_fault(move |request| {
        requests.lock().expect("no panic").push(request);
        Err(AccessError::BusError)
    });
    let index = PageIndex(1);
    assert_eq!(scene.cpus[0].load_byte(&scene.vma, index), Err(AccessError::BusError));
    space.install_zeros(unit(0), Order::Pmd).expect("free");
    assert_eq!(scene.cpus[0].store_byte(&scene.vma, index, 0), Err(AccessError::BusError));
    let expected = [(Access::Read, false), (Access::Write, true)]
        .map(|(access, present)| FaultRequest { index, access, translation_present: present });
    assert_eq!(*asked.lock().expect("no panic"), expected);
}

#[test]
fn munmap_cuts_a_mapping_and_frees_tables_nobody_uses() {
    let scene = scene(Sharing::Shared);
    serve(&scene.vma);
    let first = scene.vma.layout().address_page;
    for index in [0, 5, 600] {
        scene.cpus[0].load_byte(&scene.vma, PageIndex(index)).expect("served");
    }
    scene.process.unmap(first + 4, 600);
    assert_eq!(scene.cpus[0].load_byte(&scene.vma, PageIndex(5)), Err(AccessError::Segmentation));
    assert_eq!(scene.cpus[0].load_byte(&scene.vma, PageIndex(604)), Ok(0));
    let left: Vec<_> = scene.process.translations().iter().map(|t| t.page).collect();
    assert_eq!(left, [Some(PageIndex(0)), Some(PageIndex(604))]);
    scene.process.unmap(first, 512);
    assert_eq!(scene.process.pmd_at(first), Pmd::None);
    let again = scene.process.map(VmaLayout { pages: page(9), ..scene.vma.layout() });
    assert_eq!(again.layout().address_page, first);
}

#[test]
fn mprotect_takes_the_right_at_once_and_gives_it_at_the_next_fault() {
    let scene = scene(Sharing::Private);
    serve(&scene.vma);
    let first = scene.vma.layout().address_page;
    scene.cpus[1].store(scene.vma.address(PageIndex(0)), &[1, 9]).expect("served");
    scene.process.protect(first, 1, Protection::Read);
    assert_eq!(
        scene.cpus[1].store_byte(&scene.vma, PageIndex(0), 2),
        Err(AccessError::Segmentation)
    );
    scene.process.protect(first, 1, Protection::ReadWrite);
    scene.cpus[1].store_byte(&scene.vma, PageIndex(0), 3).expect("the copy is still there");
    let mut bytes = [0; 2];
    scene.cpus[0].load(scene.vma.address(PageIndex(0)), &mut bytes).expect("there");
    assert_eq!(bytes, [3, 9]);
    scene.process.discard(first, 1);
    assert_eq!(scene.cpus[0].load_byte(&scene.vma, PageIndex(0)), Ok(0), "storage again");
}

#[test]
fn fork_copies_private_copies_and_no_shared_translation() {
    let scene = scene(Sharing::Private);
    serve(&scene.vma);
    let shared = map(&scene.process, Sharing::Shared);
    serve(&shared);
    scene.cpus[0].store_byte(&scene.vma, PageIndex(0), 1).expect("served");
    scene.cpus[0].load_byte(&scene.vma, PageIndex(1)).expect("served");
    scene.cpus[0].store_byte(&shared, PageIndex(7), 2).expect("served");
    let fork = scene.process.fork();
    let found: Vec<_> = fork.child.translations().iter().map(|t| (t.page, t.target)).collect();
    // A private VMA with a copy in it is copied whole, as its faults could not tell; of a shared one nothing is.
    assert!(matches!(
        found[..],
        [(Some(PageIndex(0)), Target::PrivateCopy), (Some(PageIndex(1)), Target::Storage(_))]
    ));
    assert!(fork.child.translations().iter().all(|t| t.page == Some(PageIndex(0)) || !t.writable));
    let child = fork.child.thread(1);
    let (_, copy) = &fork.vmas[0];
    child.store_byte(copy, PageIndex(0), 5).expect("its own");
    assert_eq!(scene.cpus[1].load_byte(&scene.vma, PageIndex(0)), Ok(1));
    let (_, childs_shared) = &fork.vmas[1];
    serve(childs_shared);
    assert_eq!(child.load_byte(childs_shared, PageIndex(7)), Ok(2));
}

/// Stores race with a write-protection. Without a shoot-down some seed lets a store through that nobody hears of.
fn store_behind_a_write_protection(seed: u64, how: Shootdown) -> bool {
    let scene = scene(Sharing::Shared);
    serve(&scene.vma);
    scene.cpus[0].store_byte(&scene.vma, PageIndex(0), 1).expect("served");
    scene.machine.set_shootdown(how);
    let missed = Arc::new(AtomicBool::new(false));
    let flushed = Arc::new(AtomicU64::new(0));
    let mut run = Run::new(seed);
    let (vma, storer, is_flushed) =
        (Arc::clone(&scene.vma), scene.cpus[0].clone(), Arc::clone(&flushed));
    let (machine, is_missed) = (Arc::clone(&scene.machine), Arc::clone(&missed));
    let faults = machine.fault_count();
    run.spawn("storer", move || {
        for byte in 2..6 {
            let is_protected = is_flushed.load(Ordering::Relaxed) == 1;
            storer.store_byte(&vma, PageIndex(0), byte).expect("served");
            if is_protected && machine.fault_count() == faults {
                is_missed.store(true, Ordering::Relaxed);
            }
        }
    });
    let space = scene.vma.space();
    run.spawn("writeback", move || {
        space.write_protect(page(0), Frame(0));
        flushed.store(1, Ordering::Relaxed);
    });
    run.go();
    missed.load(Ordering::Relaxed)
}

#[test]
fn a_forgotten_shootdown_lets_a_store_go_unnoticed() {
    assert!((0..100).any(|seed| store_behind_a_write_protection(seed, Shootdown::Forgotten)));
    assert!(!(0..100).any(|seed| store_behind_a_write_protection(seed, Shootdown::Done)));
}

#[test]
fn mappings_come_and_go_under_faults() {
    explore(0..60, |run| {
        let scene = scene(Sharing::Private);
        serve(&scene.vma);
        let first = scene.vma.layout().address_page;
        for (number, cpu) in scene.cpus.into_iter().enumerate() {
            let vma = Arc::clone(&scene.vma);
            run.spawn("user", move || {
                for _ in 0..4 {
                    let byte = u8::try_from(number + 1).expect("small");
                    if cpu.store_byte(&vma, PageIndex(number as u64), byte).is_err() {
                        return;
                    }
                    let seen = cpu.load_byte(&vma, PageIndex(number as u64));
                    assert!([Ok(byte), Ok(0), Err(AccessError::Segmentation)].contains(&seen));
                }
            });
        }
        let process = Arc::clone(&scene.process);
        run.spawn("mapper", move || {
            process.discard(first, 2);
            let fork = process.fork();
            assert!(fork.child.translations().len() <= 2);
            process.protect(first, 1, Protection::Read);
            process.unmap(first, 1024);
        });
    });
}
