//! What a program may do that makes the kernel fill, move, copy or drop memory behind our back. Each in a process of its own.

mod common;

use common::{HUGE, PAGE, Served, TempFile, page, service};
use std::ffi::{c_int, c_void};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};
use udax_core::PageRange;
use udax_linux::Mapped;

unsafe extern "C" {
    fn mlockall(flags: c_int) -> c_int;
    fn fork() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
    fn setgid(group: u32) -> c_int;
    fn getgid() -> u32;
    fn mremap(from: *mut c_void, from_bytes: usize, bytes: usize, flags: c_int) -> *mut c_void;
}

const CASE: &str = "UDAX_TEST_CASE";

/// Runs the test `case` of this program again, in a process in which it is to do its deed.
fn in_a_process(case: &str) -> Option<Output> {
    service()?;
    let output = Command::new("/proc/self/exe")
        .args(["--exact", case, "--nocapture"])
        .env(CASE, case)
        .output()
        .expect("this program can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    Some(output)
}

fn is_the_process_for(case: &str) -> bool {
    std::env::var(CASE).is_ok_and(|value| value == case)
}

/// Once in an ordinary test process, and there once more in a process of its own.
fn each(case: &str, deed: fn()) {
    if is_the_process_for(case) {
        deed();
    } else if std::env::var_os(CASE).is_none() {
        in_a_process(case);
    }
}

#[test]
fn traps_stay_empty_when_all_memory_is_locked() {
    each("traps_stay_empty_when_all_memory_is_locked", || {
        const FUTURE: c_int = 2;
        // SAFETY: it changes no contents.
        assert_eq!(unsafe { mlockall(FUTURE) }, 0, "root may lock memory");
        let file = TempFile::sparse(8 * HUGE);
        let Some(served) = Served::shared(&file, 8 * HUGE) else { return };
        served.assert_nothing_lost();
        assert_eq!(served.byte(HUGE), 0);
        served.mapped.store(PAGE, b"kept");
        served.mapped.store(3 * HUGE, b"kept");
        let mut bytes = [0; 4];
        for at in [PAGE, 3 * HUGE] {
            file.file.read_exact_at(&mut bytes, at as u64).expect("it can be read");
            assert_eq!(&bytes, b"kept");
        }
        served.assert_nothing_lost();
    });
}

#[test]
fn a_child_of_fork_has_no_window_to_lose_stores_in() {
    each("a_child_of_fork_has_no_window_to_lose_stores_in", || {
        const SEGMENTATION: c_int = 11;
        let file = TempFile::sparse(2 * HUGE);
        let Some(served) = Served::shared(&file, 2 * HUGE) else { return };
        assert_eq!(served.byte(0), 0);
        // SAFETY: the child makes one store and ends.
        let child = unsafe { fork() };
        if child == 0 {
            udax_linux::Service::forget_in_child();
            served.mapped.store(0, b"lost");
            // SAFETY: it ends this process, without running what its parent has registered.
            unsafe { _exit(0) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a status, borrowed for the call.
        assert_eq!(unsafe { waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status & 0x7f, SEGMENTATION, "it must not go on with memory of its own");
        assert_eq!(served.byte(0), 0);
    });
}

#[test]
fn a_child_of_fork_finds_plain_mappings_that_were_made_before() {
    each("a_child_of_fork_finds_plain_mappings_that_were_made_before", || {
        let file = TempFile::sparse(2 * HUGE);
        let Some(served) = Served::shared(&file, 2 * HUGE) else { return };
        assert_eq!(served.byte(0), 0);
        served.space.plain_all();
        // SAFETY: the child makes one store and ends.
        let child = unsafe { fork() };
        if child == 0 {
            udax_linux::Service::forget_in_child();
            served.mapped.store(0, b"kept");
            // SAFETY: it ends this process, without running what its parent has registered.
            unsafe { _exit(0) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a status, borrowed for the call.
        assert_eq!(unsafe { waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((status, served.byte(0)), (0, b'k'));
    });
}

#[test]
fn a_change_of_identity_does_not_wait_for_the_service() {
    each("a_change_of_identity_does_not_wait_for_the_service", || {
        let file = TempFile::sparse(2 * HUGE);
        let Some(served) = Served::shared(&file, 2 * HUGE) else { return };
        // The C library signals every thread and waits until each has answered.
        // SAFETY: it takes no argument.
        let group = unsafe { getgid() };
        // SAFETY: it changes no memory.
        assert_eq!(unsafe { setgid(group) }, 0);
        assert_eq!(served.byte(0), 0);
    });
}

#[test]
fn a_raw_mremap_of_served_memory_does_not_hang() {
    each("a_raw_mremap_of_served_memory_does_not_hang", || {
        const MAY_MOVE: c_int = 1;
        let file = TempFile::sparse(4 * HUGE);
        let Some(served) = Served::shared(&file, 4 * HUGE) else { return };
        assert_eq!(served.byte(0), 0);
        let address = served.mapped.as_mut_ptr().wrapping_add(3 * HUGE).cast::<c_void>();
        // SAFETY: the range is the test's own, and nothing uses its last part afterwards.
        let moved = unsafe { mremap(address, HUGE, 2 * HUGE, MAY_MOVE) };
        assert!(!moved.is_null());
        assert_eq!(served.byte(HUGE), 0);
    });
}

#[test]
fn a_vma_for_which_the_kernel_has_no_more_pieces_goes_plain_as_a_whole() {
    each("a_vma_for_which_the_kernel_has_no_more_pieces_goes_plain_as_a_whole", || {
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("can be read");
        let pieces: usize = limit.trim().parse().expect("a number");
        if pieces > 200_000 {
            eprintln!("SKIPPED: vm.max_map_count is {pieces}, too many to use up");
            return;
        }
        let length = 2 * pieces * PAGE;
        // How many mappings there are besides decides whether the kernel refuses the first of a piece's two cuts, the second, or the piece.
        let mut besides = Vec::new();
        for _ in 0..3 {
            let file = TempFile::sparse(length);
            let Some(served) = Served::shared(&file, length) else { return };
            let refused = (0..pieces as u64).find(|piece| {
                served.space.plain(PageRange::new(page(2 * piece + 1), 1));
                served.space.take_overflow()
            });
            assert!(refused.is_some(), "the kernel has given {pieces} pieces and more");
            assert!(!served.space.take_overflow(), "it is told once");
            assert!(served.service.runs() < 10, "it was made plain as a whole");
            served.mapped.store(length - PAGE, b"kept");
            assert_eq!(file.blocks_bytes(), PAGE as u64);
            besides.push(Mapped::anonymous(PAGE, false).expect("one mapping more"));
        }
    });
}

#[test]
fn memory_that_replaces_a_served_mapping_is_left_alone() {
    each("memory_that_replaces_a_served_mapping_is_left_alone", || {
        const FIXED_ANONYMOUS_PRIVATE: i32 = 0x32;
        let file = TempFile::sparse(4 * HUGE);
        let Some(served) = Served::shared(&file, 4 * HUGE) else { return };
        // SAFETY: the calls are made on this test's own mapping.
        let native = unsafe { udax_linux::NativeCalls::new() };
        let second = PageRange::new(page(512), 512);
        let address = served.mapped.address() + HUGE;
        served
            .space
            .while_unmapping(second, || {
                native.mmap(address, HUGE, 3, FIXED_ANONYMOUS_PRIVATE, -1, 0)
            })
            .expect("it can be replaced");
        served.mapped.store(HUGE, b"new");
        assert_eq!(served.byte(0), 0);
        served.space.plain_all();
        assert_eq!(served.byte(HUGE), b'n');
        assert_eq!(file.blocks_bytes(), 0);
    });
}
