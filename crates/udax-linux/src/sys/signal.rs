//! Signals, threads and ending the process.

use super::errno::Errno;
use super::raw::syscall;
use super::{bits, to_int};
use core::marker::PhantomData;
use linux_raw_sys::general as k;

/// The signal that carries lease breaks to the lease thread. A real-time one, so that they queue; sent to that thread alone.
pub(crate) const LEASE_SIGNAL: u32 = 63;

/// Signals 32 and 33 are the C library's: `setuid` in one thread waits until every thread has taken 33.
const LIBRARY_SIGNALS: u64 = 0b11 << 31;
const SIGNAL_ABORT: u32 = 6;
const SET_BYTES: usize = 8;

/// A signal in a set of them.
pub(crate) const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Every signal that can be is blocked on this thread until this is dropped; it nests.
///
/// To be taken before any lock that the fault thread takes too: a signal handler that touched a hole while its own thread
/// held such a lock would wait for the fault thread, which waits for the lock.
#[derive(Debug)]
pub struct SignalsBlocked {
    before: u64,
    /// The mask is this thread's: the guard must not be sent to another.
    _of_this_thread: PhantomData<*mut ()>,
}

impl SignalsBlocked {
    /// Blocks them.
    #[must_use]
    pub fn new() -> Self {
        Self { before: swap_mask(!LIBRARY_SIGNALS), _of_this_thread: PhantomData }
    }
}

impl Default for SignalsBlocked {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        swap_mask(self.before);
    }
}

/// Sets this thread's mask; the answer is the one before.
fn swap_mask(mask: u64) -> u64 {
    let mut before = 0_u64;
    let (new, old): (*const u64, *mut u64) = (&raw const mask, &raw mut before);
    let arguments = [bits(k::SIG_SETMASK), new as usize, old as usize, SET_BYTES, 0, 0];
    // SAFETY: both pointers are to sets of the size given, borrowed for the call.
    let answer = unsafe { syscall(k::__NR_rt_sigprocmask, arguments) };
    debug_assert!(answer.is_ok(), "the arguments are constant");
    before
}

/// What [`wait`] has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakened {
    /// A lease of this descriptor is being broken.
    Lease(i32),
    /// Time to see for oneself: the queue of signals may have been full when a break was to be told.
    Look,
}

/// `struct siginfo` as far as it is looked at: number, errno, code; then, for signals of descriptors, a band and the
/// descriptor.
#[repr(C, align(8))]
struct Info([u8; 128]);

impl Info {
    fn int(&self, at: usize) -> i32 {
        self.0.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes)
    }
}

/// Waits for a lease break, on a thread that has [`LEASE_SIGNAL`] blocked; for a few seconds at most.
pub(crate) fn wait() -> Wakened {
    const CODE: usize = 8;
    const DESCRIPTOR: usize = 24;
    let set = bit(LEASE_SIGNAL);
    let patience = k::__kernel_timespec { tv_sec: 5, tv_nsec: 0 };
    loop {
        let mut info = Info([0; 128]);
        let (set_at, info_at): (*const u64, *mut Info) = (&raw const set, &raw mut info);
        let patience_at: *const k::__kernel_timespec = &raw const patience;
        let arguments = [set_at as usize, info_at as usize, patience_at as usize, SET_BYTES, 0, 0];
        // SAFETY: the three pointers are to values of the types the call names, borrowed for the call.
        match unsafe { syscall(k::__NR_rt_sigtimedwait, arguments) } {
            // A positive code is the kernel's own (POLL_MSG); the rest was sent by somebody to the program.
            Ok(_) if info.int(CODE) > 0 => return Wakened::Lease(info.int(DESCRIPTOR)),
            Ok(_) => hand_on(&info),
            Err(Errno::AGAIN) => return Wakened::Look,
            Err(_) => {}
        }
    }
}

/// Gives a signal that was sent to the whole process, and not meant for us, to its first thread.
fn hand_on(info: &Info) {
    let process = process_id() as usize;
    let info_at: *const Info = info;
    let arguments = [process, process, bits(LEASE_SIGNAL), info_at as usize, 0, 0];
    // SAFETY: the pointer is to a signal description of full size; the signal is one the program was sent.
    let _ = unsafe { syscall(k::__NR_rt_tgsigqueueinfo, arguments) };
}

/// This process.
pub(crate) fn process_id() -> i32 {
    // SAFETY: it has no arguments.
    unsafe { syscall(k::__NR_getpid, [0; 6]) }.map_or(0, to_int)
}

/// This thread.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: it has no arguments.
    unsafe { syscall(k::__NR_gettid, [0; 6]) }.map_or(0, to_int)
}

/// Whether `thread` is one of this process. Another may have got the number of one that has gone.
pub(crate) fn is_thread(thread: i32) -> bool {
    let arguments = [process_id() as usize, thread as usize, 0, 0, 0, 0];
    // SAFETY: no argument is a pointer, and signal 0 is sent to nobody.
    let answer = unsafe { syscall(k::__NR_tgkill, arguments) };
    answer != Err(Errno::SRCH)
}

/// From now on what the kernel does by default is done at `number`, in this process. Async-signal-safe, as the two below.
pub(crate) fn take_default_action(number: u32) {
    // All zero: SIG_DFL, no flags, no restorer, empty mask.
    let default = [0_u64; 4];
    let action: *const [u64; 4] = &raw const default;
    let arguments = [bits(number), action as usize, 0, SET_BYTES, 0, 0];
    // SAFETY: `struct sigaction` is four words here, and the pointer is to four of them, borrowed for the call.
    let _ = unsafe { syscall(k::__NR_rt_sigaction, arguments) };
}

/// Sends this thread a signal.
pub(crate) fn send_to_this_thread(number: u32) {
    let arguments = [process_id() as usize, thread_id() as usize, bits(number), 0, 0, 0];
    // SAFETY: no argument is a pointer.
    let _ = unsafe { syscall(k::__NR_tgkill, arguments) };
}

/// Sends signal `number`, with what is told of another but for its code, which is to be one that the kernel never gives: to this thread, or to the process.
/// Async-signal-safe.
pub(crate) fn send_again(number: u32, told: &libc::siginfo_t, code: i32, to_this_thread: bool) {
    /// So much of a description the kernel keeps; behind that it wants zeros, where it does not know the code.
    const KEPT_BYTES: usize = 48;
    const CODE: usize = 8;
    let mut info = Info([0; 128]);
    // SAFETY: a description of a signal is 128 bytes, all of which the kernel has written.
    let bytes = unsafe { &*core::ptr::from_ref(told).cast::<[u8; 128]>() };
    info.0[..KEPT_BYTES].copy_from_slice(&bytes[..KEPT_BYTES]);
    info.0[CODE..CODE + 4].copy_from_slice(&code.to_ne_bytes());
    let at: *const Info = &raw const info;
    let [process, thread] = [process_id() as usize, thread_id() as usize];
    let (call, arguments) = if to_this_thread {
        (k::__NR_rt_tgsigqueueinfo, [process, thread, bits(number), at as usize, 0, 0])
    } else {
        (k::__NR_rt_sigqueueinfo, [process, bits(number), at as usize, 0, 0, 0])
    };
    // SAFETY: the pointer is to a description of full size, borrowed for the call.
    let _ = unsafe { syscall(call, arguments) };
}

/// Ends this thread at once, with nothing cleaned up.
pub(crate) fn leave_now() -> ! {
    loop {
        // SAFETY: the argument is no pointer; what the thread had is never touched again.
        let _ = unsafe { syscall(k::__NR_exit, [0; 6]) };
    }
}

/// Sets this thread's mask.
pub(crate) fn set_mask(mask: u64) {
    swap_mask(mask);
}

/// Ends the process by SIGABRT, without running a handler of the program: it might touch memory nobody serves any more.
pub(crate) fn abort_now() -> ! {
    take_default_action(SIGNAL_ABORT);
    swap_mask(!bit(SIGNAL_ABORT));
    send_to_this_thread(SIGNAL_ABORT);
    loop {
        // SAFETY: the argument is no pointer; the process is to end.
        let _ = unsafe { syscall(k::__NR_exit_group, [134, 0, 0, 0, 0, 0]) };
    }
}
