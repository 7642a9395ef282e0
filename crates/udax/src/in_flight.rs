//! Writes under way, so that a file is not taken into service in the middle of one (docs/concurrency.md, "Zeros and this process's own
//! system calls"): a writer publishes its descriptor, then looks whether any file is served; who takes a file into service registers
//! it, then looks here. One of the two sees the other.

use crate::served::FileKey;
use std::sync::atomic::{AtomicU32, Ordering};
use udax_linux::Service;

/// Descriptors share slots; a stranger in the slot merely leaves a mapping plain.
const SLOTS: usize = 1024;

static WRITERS: [AtomicU32; SLOTS] = [const { AtomicU32::new(0) }; SLOTS];

const fn slot_number(fd: i32) -> usize {
    fd.unsigned_abs() as usize % SLOTS
}

fn slot(fd: i32) -> &'static AtomicU32 {
    &WRITERS[slot_number(fd)]
}

/// A write is under way on the descriptor while this lives.
#[derive(Debug)]
pub(crate) struct Writing {
    fd: i32,
}

impl Writing {
    pub(crate) fn publish(fd: i32) -> Self {
        slot(fd).fetch_add(1, Ordering::SeqCst);
        Self { fd }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        slot(self.fd).fetch_sub(1, Ordering::SeqCst);
    }
}

/// In a child of fork, which has none of the threads that were writing.
pub(crate) fn forget_in_child() {
    WRITERS.iter().for_each(|slot| slot.store(0, Ordering::SeqCst));
}

/// Whether a system call may be writing the file right now.
pub(crate) fn is_written(service: &Service, key: FileKey) -> bool {
    // The slots first: the file is registered, so who publishes later sees that. As a rule nobody writes, and a program may have thousands of files open.
    let busy: Vec<bool> = WRITERS.iter().map(|slot| slot.load(Ordering::SeqCst) != 0).collect();
    if !busy.contains(&true) {
        return false;
    }
    let Ok(open) = service.with_descriptors(crate::descriptors::open_files) else { return true };
    open.iter().any(|file| file.key == key && busy[slot_number(file.fd)])
}
