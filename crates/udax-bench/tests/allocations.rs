//! How often the engine asks for memory: for a node of its index now and then, and never for a lock.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use udax_bench::{EntryLock, hole_faults, write_faults};

/// The system's allocator, counting for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: it came from there.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_lock_asks_for_nothing() {
    let lock = EntryLock::among(1000);
    assert_eq!(allocations(|| (0..1000).for_each(|_| lock.take())), 0);
}

#[test]
fn a_fault_asks_for_a_sixty_fourth_of_a_node() {
    // The second 4,096 pages: 64 leaves, the node above them, and a root above two of those.
    let second_half = |faults: fn(u64)| allocations(|| faults(8192)) - allocations(|| faults(4096));
    assert_eq!(second_half(hole_faults), 64 + 2);
    assert_eq!(second_half(write_faults), 64 + 2);
}
