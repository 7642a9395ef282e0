//! `libudax_preload.so`: preloaded into an unmodified program, it stands between the program and libc wherever a call can change
//! what a file mapping is, what a mapped file holds, or who else may write it. The decisions are all `udax::program`'s; here is
//! only the C boundary.
//!
//! Every interposer follows the same rules:
//! - results and `errno` are what libc's own function gives; `errno` is otherwise left alone;
//! - pointers of the program are looked at only through `peek`, so that a bad one gets `EFAULT` from the kernel as ever;
//! - our own calls that come back through these symbols (allocator, std) go straight on (`state`);
//! - nothing unwinds out of our code into the program. A cancelled thread may unwind *through* an interposer, which is why those of
//!   cancellation points are `extern "C-unwind"`;
//! - variadic C functions are defined with their longest list of arguments. On x86-64 and AArch64 Linux, integer and pointer
//!   arguments travel the same way in both kinds of call, and what the program did not pass is an unused register.
//!
//! What is not interposed needs no help: loads and stores fault, and faults are served, where the kernel lets us also those of system calls;
//! opening or truncating a file by its path breaks the lease that lets us show zeros, so the kernel tells.

mod actions;
mod asynchronous;
mod buffers;
mod contents;
mod control;
mod descriptors;
mod errno;
mod execute;
mod futex;
mod identity;
mod init;
mod layout;
mod locking;
mod memory;
mod messages;
mod peek;
mod process;
mod real;
mod receive;
mod report;
mod send;
mod signals;
mod spawn;
mod state;
mod stdio;
mod structures;
mod syscall;
mod trampoline;
mod vectors;
mod waits;

/// For the fuzzer, which is a program that this library is in.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// How many files are served now.
    pub fn served_files() -> usize {
        crate::state::program().map_or(0, |program| program.statistics().files.len())
    }
}
