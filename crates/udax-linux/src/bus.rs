//! SIGBUS in some ranges of addresses, before the program hears of it: the thread waits in the signal's handler while another decides whether the access is tried again.
//!
//! The handler asks by a list without locks and sleeps on a word of its own stack; it makes system calls only that a handler may make, and leaves `errno` alone.

use crate::platform::lock;
use crate::service::Service;
use crate::sys::errno::Errno;
use crate::sys::{futex, signal};
use core::ffi::c_void;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// Ranges that can be watched at the same time.
const SLOTS: usize = 256;

/// One range; it begins at 0 if there is none.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
}

static WATCHED: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; SLOTS];
/// Held by who puts a range in.
static PUTTING_IN: Mutex<()> = Mutex::new(());
/// The newest question.
static ASKED: AtomicPtr<Asked> = AtomicPtr::new(ptr::null_mut());
/// Changes with each question.
static BELL: AtomicU32 = AtomicU32::new(0);
/// What SIGBUS did before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// What is to become of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusAnswer {
    /// It is tried again.
    TryAgain,
    /// The program gets its signal.
    Deliver,
}

const OPEN: u32 = 0;
const TRY_AGAIN: u32 = 1;
const DELIVER: u32 = 2;

/// On the stack of a thread that waits in the handler.
struct Asked {
    address: usize,
    thread: i32,
    older: *mut Asked,
    answer: AtomicU32,
}

/// A thread has met SIGBUS in a watched range, and waits for the answer.
#[derive(Debug)]
pub struct BusQuestion {
    address: usize,
    thread: i32,
    answer: *const AtomicU32,
}

// SAFETY: the pointer is to an atomic of a thread that waits until the question has been answered.
unsafe impl Send for BusQuestion {}

impl BusQuestion {
    /// The address that was accessed.
    #[must_use]
    pub const fn address(&self) -> usize {
        self.address
    }

    /// The thread, by its number in the kernel.
    #[must_use]
    pub const fn thread(&self) -> i32 {
        self.thread
    }

    /// Lets the thread go on.
    pub fn answer(self, answer: BusAnswer) {
        let word = match answer {
            BusAnswer::TryAgain => TRY_AGAIN,
            BusAnswer::Deliver => DELIVER,
        };
        let at = self.answer as usize;
        // SAFETY: the thread is in its handler until this has been stored, and it is stored once: a question is used up by it.
        unsafe { (*self.answer).store(word, Ordering::Release) };
        // Its stack may be another's by now.
        futex::wake_one_at(at);
    }
}

/// A watched range; dropping ends that. Nobody may be accessing it then.
#[derive(Debug)]
pub struct BusWatch {
    slot: &'static AtomicUsize,
}

impl Drop for BusWatch {
    fn drop(&mut self) {
        self.slot.store(0, Ordering::Release);
    }
}

/// From now on SIGBUS in `addresses` is asked about; somebody must be taking the questions by [`bus_questions`]. The handler is put in by the first call, and
/// gives everything else to whoever had the signal before.
///
/// # Errors
/// [`Errno::NOMEM`] if too many ranges are watched.
pub fn watch_bus(addresses: Range<usize>) -> Result<BusWatch, Errno> {
    let _one = lock(&PUTTING_IN);
    put_in();
    let free = WATCHED.iter().find(|slot| slot.start.load(Ordering::Relaxed) == 0);
    let slot = free.ok_or(Errno::NOMEM)?;
    slot.end.store(addresses.end, Ordering::Relaxed);
    slot.start.store(addresses.start, Ordering::Release);
    Ok(BusWatch { slot: &slot.start })
}

fn put_in() {
    BEFORE.get_or_init(|| {
        // SAFETY: all zero is a value of this structure of numbers.
        let mut before = unsafe { std::mem::zeroed::<libc::sigaction>() };
        let mut ours = before;
        // SAFETY: asks only; the structure outlives the call.
        unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) };
        ours.sa_sigaction = on_bus as *const () as usize;
        ours.sa_mask = before.sa_mask;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the handler keeps to what a handler may do, and what was there before is asked as it was.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) };
        before
    });
}

/// Waits for questions; the oldest first. To be called by one thread.
#[must_use]
pub fn bus_questions() -> Vec<BusQuestion> {
    loop {
        let bell = BELL.load(Ordering::Acquire);
        let mut newest = ASKED.swap(ptr::null_mut(), Ordering::Acquire);
        let mut questions = Vec::new();
        while !newest.is_null() {
            // SAFETY: who asked waits for the answer, and nobody else takes what was swapped out.
            let asked = unsafe { &*newest };
            let Asked { address, thread, older, ref answer } = *asked;
            questions.push(BusQuestion { address, thread, answer: ptr::from_ref(answer) });
            newest = older;
        }
        if !questions.is_empty() {
            questions.reverse();
            return questions;
        }
        futex::wait(&BELL, bell, None);
    }
}

fn is_watched(address: usize) -> bool {
    WATCHED.iter().any(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        start != 0 && start <= address && address < slot.end.load(Ordering::Relaxed)
    })
}

extern "C" fn on_bus(number: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a description of the signal, for the time of the handler.
    let told = unsafe { &*info };
    let code = told.si_code;
    // SAFETY: for a fault that is the address, and for another signal what comes of it is not used.
    let address = unsafe { told.si_addr() } as usize;
    if code == libc::BUS_ADRERR && !Service::is_forgotten() && is_watched(address) {
        let thread = signal::thread_id();
        let answer = AtomicU32::new(OPEN);
        let mut asked = Asked { address, thread, older: ASKED.load(Ordering::Relaxed), answer };
        let mine = &raw mut asked;
        loop {
            // SAFETY: nobody else has it yet.
            let older = unsafe { (*mine).older };
            match ASKED.compare_exchange(older, mine, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                // SAFETY: as above.
                Err(newer) => unsafe { (*mine).older = newer },
            }
        }
        BELL.fetch_add(1, Ordering::Release);
        futex::wake_one(&BELL);
        // SAFETY: it is on this stack, and others only read it, but for the atomic.
        let answer = unsafe { &(*mine).answer };
        while answer.load(Ordering::Acquire) == OPEN {
            futex::wait(answer, OPEN, None);
        }
        if answer.load(Ordering::Acquire) == TRY_AGAIN {
            return;
        }
    }
    deliver(number, code, info, context);
}

/// What would have happened without us.
fn deliver(number: i32, code: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(before) = BEFORE.get() else { return };
    let was_sent = code <= 0;
    match before.sa_sigaction {
        libc::SIG_IGN if was_sent => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: it is what was there before. The access is made again when this returns, and meets that.
            unsafe { libc::sigaction(number, before, ptr::null_mut()) };
            if was_sent {
                signal::send_to_this_thread(number.unsigned_abs());
            }
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void);
            // SAFETY: the program put it in as a handler that takes these three.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(number, info, context);
        }
        handler => {
            // SAFETY: the program put it in as a handler that takes the number.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            handler(number);
        }
    }
}
