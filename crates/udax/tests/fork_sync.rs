//! A child of fork calls msync(2) while its parent gives back what stores had opened.
#![expect(unsafe_code, reason = "processes fork")]

mod common;

use common::{PAGE, UNIT, disk, sparse, wait_for_giving_back};
use std::path::Path;
use udax::MmapOptions;

/// The lock that a sync takes may be held by a thread that the child does not have.
#[test]
fn a_child_of_fork_syncs_while_its_parent_gives_back() {
    if common::cannot_serve() {
        return;
    }
    let small = sparse(Path::new("/dev/shm"), 0);
    small.set_len(PAGE as u64).expect("a length");
    let small = MmapOptions::new().map_shared(&small).expect("mapped");
    // A file that was open at a fork is served no more, nor is one that gets its inode.
    let mut open = Vec::new();
    for _ in 0..6 {
        let file = sparse(disk(), 128);
        let map = MmapOptions::new().map_shared(&file).expect("mapped");
        assert_eq!(map.report().plain_because, None, "it is to be served");
        let before = udax::statistics().given_back_pages;
        for unit in 0..128 {
            map.store(unit * UNIT + unit * 7919 % 512 * PAGE, &[1]);
        }
        wait_for_giving_back(before);
        // SAFETY: the child calls what a child of a threaded process may, and the library's flush, which is the subject.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: a number. A child that hangs is ended by it.
            unsafe { libc::alarm(20) };
            small.store(0, &[1]);
            let flushed = small.flush();
            // SAFETY: it ends this process, and runs nothing of the parent's.
            unsafe { libc::_exit(i32::from(flushed.is_err())) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to the number, borrowed for the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
        open.push(file);
    }
}
