//! How often udax asks for memory while it serves: the fault thread and the one that moves memory, in a process where nobody else does anything.
#![expect(unsafe_code, reason = "an allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use udax::{MmapOptions, SharedMap};

const UNIT: usize = 2 << 20;
const UNITS: usize = 256;
/// Allocations of a fault: lists of the runs that change, and of the VMAs of the file; for a window also the answer of the thread that moves it, if one does.
const STORE: u64 = 4;
const LOAD: u64 = 7;
const LOAD_IN_PLACE: u64 = 5;

/// The system's allocator, counting for the whole process.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

fn served() -> SharedMap {
    let file = udax::File::from(tempfile::tempfile_in("/dev/shm").expect("a file in memory"));
    file.set_len((UNITS * UNIT) as u64).expect("a length");
    let map = MmapOptions::new().map_shared(&file).expect("mapped");
    assert_eq!(map.report().plain_because, None, "it is to be served");
    map
}

/// Faults and allocations of `work`, which no other thread of the test disturbs.
fn counts(work: impl FnOnce()) -> (u64, u64) {
    let before = (udax::statistics().faults, ALLOCATIONS.load(Ordering::Relaxed));
    work();
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    (udax::statistics().faults - before.0, after - before.1)
}

#[test]
fn faults_ask_for_memory_a_few_times_each() {
    if common::cannot_serve() {
        return;
    }
    // Else somebody would look now and then at what stores have opened.
    // SAFETY: this process's only test, before its first mapping: nobody else looks at the environment.
    unsafe { std::env::set_var("UDAX_TEST_KEEP_OPEN", "1") };
    let map = served();
    let mut byte = [0];
    // Threads and buffers that there are but once.
    map.load(0, &mut byte);
    map.store(UNIT, &[1]);
    // Each in 2 MiB of its own, far from the others, and so long after the one before that the fault thread follows nobody to another processor, which asks for
    // memory too. Now and then a map or a node of the index grows.
    let least = |work: &mut dyn FnMut(usize)| {
        let each = (0..3).map(|round| {
            let since = Instant::now();
            while since.elapsed() < Duration::from_millis(10) {
                std::hint::spin_loop();
            }
            counts(|| work((70 + round * 40) * UNIT))
        });
        each.min()
    };
    assert_eq!(least(&mut |at| map.store(at, &[1])), Some((1, STORE)));
    let signals = udax::statistics().engine == Some("signals");
    let load = if signals { LOAD_IN_PLACE } else { LOAD };
    assert_eq!(least(&mut |at| map.load(at + 10 * UNIT, &mut byte)), Some((1, load)));
}
