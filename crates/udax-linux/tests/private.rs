//! Private mappings: the program's own copies live in a zero window, and move into the file's mapping.

mod common;

use common::{HUGE, NO_RIGHTS, PAGE, READ_WRITE, Served, TempFile, page, status_bytes};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use udax_core::{AddressSpace, Order, PageRange, PrivateCopies};
use udax_linux::{RunState, Sharing};

fn private(file: &TempFile, length: usize) -> Option<Served> {
    Served::new(file, length, Sharing::Private, READ_WRITE)
}

#[test]
fn a_private_store_costs_one_page_and_never_reaches_the_file() {
    const LENGTH: usize = 16 * HUGE;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = private(&file, LENGTH) else { return };
    for at in (0..LENGTH).step_by(PAGE) {
        assert_eq!(served.byte(at), 0);
    }
    let before = status_bytes("RssAnon");
    for unit in 0..16 {
        served.mapped.store(unit * HUGE + 7 * PAGE, b"mine");
        assert_eq!(served.byte(unit * HUGE + 7 * PAGE), b'm');
        assert_eq!(served.byte(unit * HUGE + 8 * PAGE), 0);
    }
    let grown = status_bytes("RssAnon").saturating_sub(before);
    assert!(grown < 4 * HUGE, "{grown} bytes for 16 stores");
    assert_eq!(served.space.state_of(page(7)), RunState::Zero);
    assert_eq!(file.blocks_bytes(), 0);
}

#[test]
fn private_copies_survive_the_change_to_plain_and_the_rest_shows_the_file() {
    const LENGTH: usize = 4 * HUGE;
    for directory in ["/dev/shm", "/var/tmp"] {
        let file = TempFile::new(directory, LENGTH as u64);
        let Some(served) = private(&file, LENGTH) else { return };
        served.mapped.store(HUGE + PAGE, b"mine");
        served.mapped.store(3 * HUGE - 2, b"over");
        file.file.write_all_at(b"theirs", (HUGE + 2 * PAGE) as u64).expect("it can be written");
        file.file.write_all_at(b"hidden", (HUGE + PAGE) as u64).expect("it can be written");
        assert_eq!(served.byte(HUGE + 2 * PAGE), 0, "nobody has told the mapping yet");
        served.space.unmap(PageRange::new(page(0), 2048), PrivateCopies::Keep);
        let mut found = [0; 6];
        served.mapped.load(HUGE + 2 * PAGE, &mut found);
        assert_eq!(&found, b"theirs");
        served.mapped.load(HUGE + PAGE, &mut found);
        assert_eq!(&found, b"mine\0\0");
        served.mapped.load(3 * HUGE - 2, &mut found);
        assert_eq!(&found, b"over\0\0");
        assert_eq!(served.space.state_of(page(513)), RunState::Plain);
        assert!(served.service.stats().snapshot().private_copies_kept >= 3);
    }
}

#[test]
fn private_copies_are_dropped_when_told() {
    const LENGTH: usize = 2 * HUGE;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = private(&file, LENGTH) else { return };
    served.mapped.store(PAGE, b"mine");
    served.space.unmap(PageRange::unit(page(0), Order::Pmd), PrivateCopies::Drop);
    assert_eq!(served.byte(PAGE), 0);
}

#[test]
fn copies_are_kept_in_a_mapping_without_rights() {
    const LENGTH: usize = 2 * HUGE;
    let file = TempFile::sparse(LENGTH);
    let Some(mut served) = private(&file, LENGTH) else { return };
    served.mapped.store(PAGE, b"mine");
    served.mapped.protect(NO_RIGHTS).expect("rights can be taken away");
    served.space.set_prot(NO_RIGHTS);
    served.space.plain_all();
    served.mapped.protect(READ_WRITE).expect("rights can be given");
    served.space.set_prot(READ_WRITE);
    let mut found = [0; 4];
    served.mapped.load(PAGE, &mut found);
    assert_eq!(&found, b"mine");
}

#[test]
fn stores_that_race_with_the_change_to_plain_are_kept() {
    const LENGTH: usize = 2 * HUGE;
    for round in 0..40_usize {
        let file = TempFile::sparse(LENGTH);
        let Some(served) = private(&file, LENGTH) else { return };
        let served = &served;
        let is_over = AtomicBool::new(false);
        let is_over = &is_over;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4_usize)
                .map(|worker| {
                    scope.spawn(move || {
                        let mut count = 0_usize;
                        while !is_over.load(Ordering::Relaxed) {
                            let at = (count * 4 + worker) % (LENGTH / PAGE) * PAGE;
                            served.word(at).fetch_add(1, Ordering::Relaxed);
                            count += 1;
                        }
                        count as u64
                    })
                })
                .collect();
            // Let every worker come under way, then pull the memory away under them.
            for worker in 0..4 {
                let at = (worker + 4 * round) * PAGE;
                while served.word(at).load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
            }
            served.space.plain_all();
            is_over.store(true, Ordering::Relaxed);
            let done: u64 = workers.into_iter().map(|w| w.join().expect("no panic")).sum();
            let kept: u64 = (0..LENGTH / PAGE)
                .map(|index| served.word(index * PAGE).load(Ordering::Relaxed))
                .sum();
            assert_eq!(kept, done, "round {round}");
        });
        let mut bytes = vec![0; LENGTH];
        file.file.read_exact_at(&mut bytes, 0).expect("it can be read");
        assert!(bytes.iter().all(|byte| *byte == 0), "a private store has reached the file");
    }
}

#[test]
fn a_private_piece_emptied_by_the_program_reads_zero_and_can_be_stored_to() {
    const LENGTH: usize = 2 * HUGE;
    const DONTNEED: i32 = 4;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = private(&file, LENGTH) else { return };
    served.mapped.store(PAGE, b"mine");
    served.mapped.store(3 * PAGE, b"kept");
    served.mapped.madvise(PAGE, PAGE, DONTNEED).expect("it is a page range");
    assert_eq!(served.byte(PAGE), 0);
    served.mapped.madvise(PAGE, PAGE, DONTNEED).expect("it is a page range");
    served.mapped.store(PAGE, b"anew");
    assert_eq!((served.byte(PAGE), served.byte(3 * PAGE)), (b'a', b'k'));
    assert_eq!(file.blocks_bytes(), 0);
}
