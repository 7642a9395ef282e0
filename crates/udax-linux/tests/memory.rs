//! Real memory: traps, zero windows and the file's own mapping, with faults served by the simplest handler there is.

mod common;

use common::{HUGE, PAGE, READ_ONLY, READ_WRITE, Served, TempFile, page, status_bytes};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use udax_core::{AddressSpace, Order, PageRange, Pmd, PrivateCopies};
use udax_linux::{Access, Cause, RunState, Sharing};

#[test]
fn a_hole_reads_zero_and_costs_no_memory() {
    const LENGTH: usize = 64 * HUGE;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = Served::shared(&file, LENGTH) else { return };
    let before = status_bytes("VmRSS");
    for at in (0..LENGTH).step_by(PAGE) {
        assert_eq!(served.byte(at), 0);
    }
    let grown = status_bytes("VmRSS").saturating_sub(before);
    assert!(grown < 16 * HUGE, "{grown} bytes for {LENGTH} bytes of hole");
    assert_eq!(file.blocks_bytes(), 0);
    served.assert_nothing_lost();
    assert_eq!(served.space.state_of(page(0)), RunState::Zero);
}

#[test]
fn a_store_into_a_window_lands_in_the_file() {
    const LENGTH: usize = 8 * HUGE;
    for directory in ["/dev/shm", "/var/tmp"] {
        let file = TempFile::new(directory, LENGTH as u64);
        let Some(served) = Served::shared(&file, LENGTH) else { return };
        assert_eq!(served.byte(3 * HUGE + 5), 0);
        served.mapped.store(3 * HUGE + PAGE + 5, b"udax");
        let address = served.mapped.address() + 3 * HUGE + PAGE;
        {
            let faults = served.handler.faults.lock().expect("no test panics with it");
            let seen = faults.iter().find(|fault| fault.address == address).expect("it was seen");
            assert_eq!((seen.access, seen.cause), (Access::Write, Cause::WriteProtected));
        }
        let mut bytes = [0; 4];
        file.file.read_exact_at(&mut bytes, (3 * HUGE + PAGE + 5) as u64).expect("it can be read");
        assert_eq!(&bytes, b"udax");
        assert_eq!(served.space.state_of(page(3 * 512 + 1)), RunState::Plain);
        assert_eq!(served.space.state_of(page(4 * 512)), RunState::Zero);
        assert_eq!(served.space.state_of(page(2 * 512)), RunState::Trap, "it was never touched");
        served.assert_nothing_lost();
    }
}

#[test]
fn a_store_into_a_trap_lands_in_the_file() {
    let file = TempFile::sparse(2 * HUGE);
    let Some(served) = Served::shared(&file, 2 * HUGE) else { return };
    served.mapped.store(HUGE - 2, b"over");
    let mut bytes = [0; 4];
    file.file.read_exact_at(&mut bytes, (HUGE - 2) as u64).expect("it can be read");
    assert_eq!(&bytes, b"over");
}

#[test]
fn the_levels_are_told_as_page_tables_would() {
    const LENGTH: usize = 4 * HUGE + 3 * PAGE;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = Served::shared(&file, LENGTH) else { return };
    let space = &served.space;
    assert_eq!(space.pmd(page(5)), Pmd::None);
    space.install_zeros(PageRange::unit(page(512), Order::Pmd), Order::Pmd).expect("a window");
    assert_eq!(space.pmd(page(513)), Pmd::HugeReadOnly);
    space.install_zeros(PageRange::new(page(3), 1), Order::Pte).expect("a window");
    assert_eq!(space.pmd(page(5)), Pmd::Table);
    space.plain(PageRange::unit(page(1024), Order::Pmd));
    assert_eq!(space.pmd(page(1024)), Pmd::HugeWritable);
    assert_eq!(space.pmd(page(2048)), Pmd::Table, "the VMA ends inside");
    space.unmap(PageRange::new(page(0), 2048), PrivateCopies::Keep);
    assert_eq!(space.state_of(page(3)), RunState::Plain);
    assert_eq!(space.state_of(page(4)), RunState::Trap, "a trap has shown nothing");
}

#[test]
fn eight_threads_counting_in_every_hole_page_lose_nothing() {
    const LENGTH: usize = 4096 * PAGE;
    for round in 0..6 {
        let file = TempFile::sparse(LENGTH);
        let Some(served) = Served::shared(&file, LENGTH) else { return };
        let served = &served;
        std::thread::scope(|scope| {
            for thread in 0..8_usize {
                scope.spawn(move || {
                    for step in 0..4096_usize {
                        let index = (step + thread * 517 * (round % 2)) % 4096;
                        // Half of the threads look first, so that windows open under the stores of the others.
                        let word = served.word(index * PAGE);
                        if thread % 2 == 0 {
                            word.load(Ordering::Relaxed);
                        }
                        word.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let mut word = [0; 8];
        for index in 0..4096_u64 {
            file.file.read_exact_at(&mut word, index * PAGE as u64).expect("it can be read");
            assert_eq!(u64::from_ne_bytes(word), 8, "page {index}, round {round}");
        }
        served.assert_nothing_lost();
    }
}

#[test]
fn traps_laid_under_running_threads_lose_no_store() {
    const LENGTH: usize = 8 * HUGE;
    const ROUNDS: u64 = 300;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = Served::shared(&file, LENGTH) else { return };
    let served = &served;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let mut counts = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4_usize)
            .map(|worker| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut count = 0_u64;
                    while !is_over.load(Ordering::Relaxed) {
                        for unit in 0..8 {
                            served
                                .word(unit * HUGE + worker * PAGE)
                                .fetch_add(1, Ordering::Relaxed);
                        }
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let unit = PageRange::unit(page(round % 8 * 512), Order::Pmd);
            served.space.relay_traps(unit).expect("a trap can be laid");
        }
        is_over.store(true, Ordering::Relaxed);
        counts = workers.into_iter().map(|worker| worker.join().expect("no panic")).collect();
    });
    served.space.plain_all();
    for (worker, count) in counts.iter().enumerate() {
        for unit in 0..8 {
            let found = served.word(unit * HUGE + worker * PAGE).load(Ordering::Relaxed);
            assert_eq!(found, *count, "worker {worker}, unit {unit}");
        }
    }
}

#[test]
fn a_piece_emptied_by_the_program_is_filled_again() {
    const LENGTH: usize = 4 * HUGE;
    const DONTNEED: i32 = 4;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = Served::shared(&file, LENGTH) else { return };
    assert_eq!(served.byte(0), 0);
    // Whole windows, a 2 MiB, some pages; found by a load or at once by a store.
    for (unit, at, length) in
        [(1, 0, LENGTH), (2, 2 * HUGE, HUGE), (3, 3 * HUGE + 3 * PAGE, 5 * PAGE)]
    {
        let target = unit * HUGE + 4 * PAGE;
        served.mapped.madvise(at, length, DONTNEED).expect("it is a page range");
        assert_eq!(served.byte(target), 0);
        assert_eq!(served.space.state_of(page(unit as u64 * 512 + 4)), RunState::Zero);
        served.mapped.madvise(target, PAGE, DONTNEED).expect("it is a page range");
        if unit % 2 == 0 {
            assert_eq!(served.byte(target), 0);
        }
        served.mapped.store(target, b"not lost");
        let mut bytes = [0; 8];
        file.file.read_exact_at(&mut bytes, target as u64).expect("it can be read");
        assert_eq!(&bytes, b"not lost", "unit {unit}");
    }
    assert!(served.service.stats().snapshot().repairs >= 3);
    served.assert_nothing_lost();
}

#[test]
fn a_system_call_can_store_into_a_trap_and_into_a_window() {
    const LENGTH: usize = 4 * HUGE;
    let file = TempFile::sparse(LENGTH);
    let Some(mut served) = Served::shared(&file, LENGTH) else { return };
    assert_eq!(served.byte(3 * HUGE), 0);
    served.space.plain(PageRange::unit(page(512), Order::Pmd));
    let source = std::fs::File::open("/proc/self/exe").expect("it can be read");
    let mut expected = vec![0; 3 * PAGE];
    source.read_exact_at(&mut expected, 0).expect("it is longer than that");
    for at in [0, HUGE - PAGE, 3 * HUGE + 100] {
        // SAFETY: the file is this test's alone, and nobody truncates it; it may be read and written.
        let memory = unsafe { served.mapped.as_mut_slice() };
        let into = &mut memory[at..at + expected.len()];
        let mut source = std::fs::File::open("/proc/self/exe").expect("it can be read");
        source.read_exact(into).expect("the kernel can store there");
        let mut found = vec![0; expected.len()];
        file.file.read_exact_at(&mut found, at as u64).expect("it can be read");
        assert!(found == expected, "at {at}");
    }
    served.assert_nothing_lost();
}

#[test]
fn a_split_space_serves_both_halves() {
    const LENGTH: usize = 4 * HUGE;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = Served::shared(&file, LENGTH) else { return };
    assert_eq!(served.byte(0), 0);
    let handle = std::sync::Arc::clone(served.space.file());
    let area = served.space.area();
    let whole = udax_linux::LinuxSpace::new(area, handle);
    whole.lay_traps(PageRange::new(page(0), 1000)).expect("a trap can be laid");
    let runs_before = served.service.runs();
    let (lower, upper) = whole.into_split(page(700));
    assert_eq!(
        (lower.area().pages().len(), upper.area().pages().len()),
        (700, LENGTH as u64 / 4096 - 700)
    );
    assert_eq!(upper.area().address(), area.address() + 700 * PAGE);
    assert_eq!(lower.state_of(page(699)), RunState::Trap);
    assert_eq!(upper.state_of(page(700)), RunState::Trap);
    assert_eq!(upper.state_of(page(1000)), RunState::Plain);
    assert!(served.service.runs() > runs_before - 1);
    lower.plain_all();
    upper.plain_all();
}

#[test]
fn a_read_only_mapping_stays_read_only() {
    const LENGTH: usize = 2 * HUGE;
    let file = TempFile::sparse(LENGTH);
    let Some(mut served) = Served::new(&file, LENGTH, Sharing::Shared, READ_ONLY) else { return };
    assert_eq!(served.byte(HUGE), 0);
    let (address, end) = (served.mapped.address(), served.mapped.area().end());
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    for line in maps.lines() {
        let (start, _) = line.split_once('-').expect("an address range");
        let start = usize::from_str_radix(start, 16).expect("an address");
        if (address..end).contains(&start) {
            assert!(line.contains(" r--"), "{line}");
        }
    }
    served.mapped.protect(READ_WRITE).expect("the file is open for writing");
    served.space.set_prot(READ_WRITE);
    served.mapped.store(HUGE, b"now");
    let mut bytes = [0; 3];
    file.file.read_exact_at(&mut bytes, HUGE as u64).expect("it can be read");
    assert_eq!(&bytes, b"now");
}
