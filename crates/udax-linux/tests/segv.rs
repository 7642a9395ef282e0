//! Faults by signals: the program's own SIGSEGV is as it would be without us.

mod common;

use common::alone::{alone, end_of, ends_by, scripted, served};
use common::{HUGE, PAGE, TempFile};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use udax_linux::segv::{self, SegvAction};
use udax_linux::{Mapped, Sharing, Verdict};

/// What a handler was told, and where it found itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    calls: usize,
    number: i32,
    code: i32,
    offset: usize,
    is_on_stack: bool,
    /// Signals blocked in the handler, and before; SIGSEGV, which never is in fact, left out.
    masks: [u64; 2],
    /// What is told of the machine is there.
    error: i64,
    has_instruction: bool,
    /// The handler that is told afterwards is still this one.
    stays: bool,
}

static SEEN: Mutex<Seen> = Mutex::new(Seen {
    calls: 0,
    number: 0,
    code: 0,
    offset: 0,
    is_on_stack: false,
    masks: [0; 2],
    error: 0,
    has_instruction: false,
    stays: false,
});
/// Where the handler makes a page accessible.
static GUARDED: AtomicUsize = AtomicUsize::new(0);
static STACK: AtomicUsize = AtomicUsize::new(0);
const STACK_BYTES: usize = 64 << 10;
const SEGV: u64 = 1 << (libc::SIGSEGV - 1);

fn mask_now() -> u64 {
    let mut mask = 0_u64;
    let (call, how) = (libc::SYS_rt_sigprocmask, libc::SIG_BLOCK);
    // SAFETY: the set is of the length told, and borrowed for the call.
    unsafe { libc::syscall(call, how, 0, &raw mut mask, 8) };
    mask
}

fn protect(address: usize, rights: i32) {
    let at = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: a page of a mapping of the test's, in which no reference points.
    assert_eq!(unsafe { libc::mprotect(at, PAGE, rights) }, 0);
}

/// Notes what can be known by the number alone, and makes the page accessible.
extern "C" fn notice_number(number: i32) {
    let here = 0_u8;
    let mut seen = SEEN.lock().expect("no test panics with it");
    seen.calls += 1;
    seen.number = number;
    seen.offset = 24;
    let stack = STACK.load(Ordering::Relaxed);
    seen.is_on_stack = (stack..stack + STACK_BYTES).contains(&(&raw const here).addr());
    seen.masks[0] = mask_now() & !SEGV;
    protect(GUARDED.load(Ordering::Relaxed), libc::PROT_READ | libc::PROT_WRITE);
}

/// Notes everything and makes the page accessible.
extern "C" fn notice(number: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let here = 0_u8;
    let mut seen = SEEN.lock().expect("no test panics with it");
    seen.calls += 1;
    seen.number = number;
    let stack = STACK.load(Ordering::Relaxed);
    seen.is_on_stack = (stack..stack + STACK_BYTES).contains(&(&raw const here).addr());
    seen.masks[0] = mask_now() & !SEGV;
    // SAFETY: the kernel's description of the signal.
    let info = unsafe { &*info };
    seen.code = info.si_code;
    // SAFETY: this code comes with an address.
    let address = unsafe { info.si_addr() }.addr();
    let guarded = GUARDED.load(Ordering::Relaxed);
    seen.offset = address.wrapping_sub(guarded);
    // SAFETY: what the kernel has put on the stack.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    // SAFETY: the kernel's set is the first 64 bits of the field.
    seen.masks[1] = unsafe { (&raw const context.uc_sigmask).cast::<u64>().read() } & !SEGV;
    #[cfg(target_arch = "x86_64")]
    {
        seen.error = context.uc_mcontext.gregs[libc::REG_ERR as usize];
        seen.has_instruction = context.uc_mcontext.gregs[libc::REG_RIP as usize] != 0;
    }
    protect(guarded, libc::PROT_READ | libc::PROT_WRITE);
}

fn action(handler: usize, flags: i32, mask: u64) -> SegvAction {
    SegvAction { handler, flags, mask, restorer: 0 }
}

fn noticing(flags: i32, mask: u64) -> SegvAction {
    let with_all: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = notice;
    let with_number: extern "C" fn(i32) = notice_number;
    let has_all = flags & libc::SA_SIGINFO != 0;
    action(if has_all { with_all as usize } else { with_number as usize }, flags, mask)
}

/// Sets the kernel's own action.
fn set_in_kernel(wish: SegvAction) {
    // SAFETY: all zero is an action.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    (new.sa_sigaction, new.sa_flags) = (wish.handler, wish.flags);
    // SAFETY: the kernel's set is the first 64 bits of the field.
    unsafe { (&raw mut new.sa_mask).cast::<u64>().write(wish.mask) };
    // SAFETY: the action is borrowed for the call, and its function stays.
    unsafe { libc::sigaction(libc::SIGSEGV, &raw const new, std::ptr::null_mut()) };
}

fn kernels_handler() -> usize {
    // SAFETY: all zero is an action.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the action is borrowed for the call.
    unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut now) };
    now.sa_sigaction
}

/// A stack for signals, for this thread.
fn use_a_stack() {
    let memory = Box::leak(vec![0_u8; STACK_BYTES].into_boxed_slice());
    STACK.store(memory.as_ptr().addr(), Ordering::Relaxed);
    let stack =
        libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_BYTES };
    // SAFETY: the memory stays for good.
    assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
}

/// Makes accesses for which nobody has the right, and tells what the handler saw of the last.
fn observe(guarded: &Mapped) -> Seen {
    *SEEN.lock().expect("no test panics with it") = Seen::default();
    GUARDED.store(guarded.address(), Ordering::Relaxed);
    protect(guarded.address(), libc::PROT_NONE);
    guarded.store(24, b"x");
    *SEEN.lock().expect("no test panics with it")
}

fn guarded() -> Mapped {
    Mapped::anonymous(HUGE, false).expect("there is memory")
}

/// Every wish that makes a difference.
fn wishes() -> Vec<(i32, u64)> {
    let usr1 = 1 << (libc::SIGUSR1 - 1);
    let (info, stack) = (libc::SA_SIGINFO, libc::SA_ONSTACK);
    vec![
        (info, 0),
        (info | stack, usr1),
        (info | libc::SA_NODEFER, u64::MAX),
        (info | libc::SA_RESTART | stack | libc::SA_NODEFER, usr1),
        (info | libc::SA_RESETHAND, 0),
        (info | libc::SA_RESETHAND | stack | libc::SA_NODEFER, u64::MAX),
        // For a function of the number alone.
        (0, usr1),
        (stack, 0),
    ]
}

#[test]
fn a_handler_from_after_the_service_sees_what_the_kernel_would_have_told() {
    alone("a_handler_from_after_the_service_sees_what_the_kernel_would_have_told", || {
        use_a_stack();
        let guarded = guarded();
        let plainly: Vec<Seen> = wishes()
            .into_iter()
            .map(|(flags, mask)| {
                let wish = noticing(flags, mask);
                set_in_kernel(wish);
                let seen = observe_once(&guarded);
                Seen { stays: kernels_handler() == wish.handler, ..seen }
            })
            .collect();
        let file = TempFile::sparse(2 * HUGE);
        let served = served(&file, 2 * HUGE, Sharing::Shared);
        let told = || segv::exchange(None).handler;
        for ((flags, mask), expected) in wishes().into_iter().zip(plainly) {
            let wish = noticing(flags, mask);
            segv::exchange(Some(wish));
            let found = observe_once(&guarded);
            let stays = told() == wish.handler;
            assert_eq!(Seen { stays, ..found }, expected, "flags {flags:x}, mask {mask:x}");
            assert!(segv::is_our_handler(kernels_handler()));
            assert_eq!(mask_now() & SEGV, 0);
        }
        served.mapped.store(HUGE, b"served");
        assert_eq!(served.byte(0), 0);
    });
}

/// [`observe`], where the handler was called for the access, and for nothing else.
fn observe_once(guarded: &Mapped) -> Seen {
    let seen = observe(guarded);
    assert_eq!((seen.calls, seen.offset), (1, 24), "{seen:?}");
    seen
}

/// With an action that is there before the service is. That can be once in a process.
fn from_before(name: &str, which: usize) {
    alone(name, || {
        use_a_stack();
        let guarded = guarded();
        let (flags, mask) = wishes()[which];
        let wish = noticing(flags, mask);
        set_in_kernel(wish);
        let expected = observe(&guarded);
        let stays = kernels_handler() == wish.handler;
        set_in_kernel(wish);
        let file = TempFile::sparse(2 * HUGE);
        let served = served(&file, 2 * HUGE, Sharing::Shared);
        assert!(segv::is_our_handler(kernels_handler()));
        let noted = segv::exchange(None);
        assert_eq!((noted.handler, noted.flags & flags), (wish.handler, flags));
        served.mapped.store(0, b"x");
        assert_eq!(observe(&guarded), expected);
        assert_eq!(segv::exchange(None).handler == wish.handler, stays);
        served.mapped.store(HUGE, b"x");
    });
}

#[test]
fn a_handler_from_before_the_service_is_called_on_its_stack() {
    from_before("a_handler_from_before_the_service_is_called_on_its_stack", 1);
}

#[test]
fn a_handler_from_before_the_service_is_called_once() {
    from_before("a_handler_from_before_the_service_is_called_once", 4);
}

#[test]
fn a_handler_from_before_the_service_that_takes_the_number_alone_is_called() {
    from_before("a_handler_from_before_the_service_that_takes_the_number_alone_is_called", 6);
}

/// The end of a process that stores where it has no right, with that action, under the service or not.
fn end_by_store(name: &str, handler: usize) {
    for is_served in ["0", "1"] {
        let mode = [("UDAX_TEST_SERVED", is_served)];
        let ended = common::alone::end_with(name, &mode, || {
            let guarded = guarded();
            set_in_kernel(action(handler, 0, 0));
            if std::env::var("UDAX_TEST_SERVED").as_deref() == Ok("1") {
                let file = TempFile::sparse(HUGE);
                // It stays behind otherwise.
                std::fs::remove_file(&file.path).expect("it is there");
                let served = served(&file, HUGE, Sharing::Shared);
                served.mapped.store(0, b"x");
                assert_eq!(segv::exchange(None).handler, handler);
                protect(guarded.address(), libc::PROT_READ);
                guarded.store(1, b"x");
            } else {
                protect(guarded.address(), libc::PROT_READ);
                guarded.store(1, b"x");
            }
        });
        let Some((status, said)) = ended else { return };
        assert_eq!(status.signal().or(status.code()), Some(libc::SIGSEGV), "{status}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn without_a_handler_an_access_ends_the_process_by_its_signal() {
    end_by_store("without_a_handler_an_access_ends_the_process_by_its_signal", libc::SIG_DFL);
}

#[test]
fn an_access_that_is_ignored_ends_the_process_by_its_signal() {
    end_by_store("an_access_that_is_ignored_ends_the_process_by_its_signal", libc::SIG_IGN);
}

/// Starts the service in a process whose SIGSEGV has that action.
fn with_service(handler: usize, then: impl FnOnce()) {
    let file = TempFile::sparse(HUGE);
    std::fs::remove_file(&file.path).expect("it is there");
    let served = served(&file, HUGE, Sharing::Shared);
    served.mapped.store(0, b"x");
    segv::exchange(Some(action(handler, 0, 0)));
    then();
}

fn send() {
    // SAFETY: a number.
    unsafe { libc::raise(libc::SIGSEGV) };
}

#[test]
fn one_that_is_sent_ends_a_process_without_a_handler() {
    let name = "one_that_is_sent_ends_a_process_without_a_handler";
    ends_by(libc::SIGSEGV, name, || with_service(libc::SIG_DFL, send));
}

#[test]
fn one_that_is_sent_is_ignored_or_handled() {
    alone("one_that_is_sent_is_ignored_or_handled", || {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn count(_number: i32) {
            CALLS.fetch_add(1, Ordering::Relaxed);
        }
        with_service(libc::SIG_IGN, send);
        let function: extern "C" fn(i32) = count;
        with_service(function as usize, send);
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn what_is_not_ours_is_handed_on_at_once() {
    alone("what_is_not_ours_is_handed_on_at_once", || {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let file = TempFile::sparse(HUGE);
        let (mapped, _space) = scripted(&file, HUGE, |fault| {
            // Who asks a second time gets it, and nobody hangs.
            if ASKED.fetch_add(1, Ordering::Relaxed) > 0 {
                protect(fault.address, libc::PROT_READ | libc::PROT_WRITE);
            }
            Verdict::NotOurs
        });
        segv::exchange(Some(noticing(libc::SA_SIGINFO, 0)));
        let seen = observe(&mapped);
        assert_eq!((seen.calls, seen.offset, seen.code), (1, 24, 2), "{seen:?}");
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn what_is_free_and_cannot_be_had_is_handed_on() {
    alone("what_is_free_and_cannot_be_had_is_handed_on", || {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let file = TempFile::sparse(HUGE);
        let (mapped, _space) = scripted(&file, HUGE, |fault| {
            // Who asks for ever gets it, and nobody hangs.
            if ASKED.fetch_add(1, Ordering::Relaxed) > 10_000 {
                protect(fault.address, libc::PROT_READ | libc::PROT_WRITE);
            }
            Verdict::Free
        });
        segv::exchange(Some(noticing(libc::SA_SIGINFO, 0)));
        let seen = observe(&mapped);
        assert_eq!((seen.calls, seen.offset), (1, 24), "{seen:?}");
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    });
}

/// Maps memory where there is none any more.
extern "C" fn map_again(_number: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let mut seen = SEEN.lock().expect("no test panics with it");
    seen.calls += 1;
    // SAFETY: the kernel's description of the signal.
    seen.code = unsafe { (*info).si_code };
    let at = std::ptr::with_exposed_provenance_mut(GUARDED.load(Ordering::Relaxed));
    let (rights, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
    );
    // SAFETY: nothing lies there: the test has unmapped it.
    unsafe { libc::mmap(at, HUGE, rights, flags, -1, 0) };
}

#[test]
fn memory_that_is_unmapped_while_a_thread_waits_is_no_memory() {
    alone("memory_that_is_unmapped_while_a_thread_waits_is_no_memory", || {
        let gate = Arc::new((Mutex::new([false; 2]), Condvar::new()));
        let at_gate = Arc::clone(&gate);
        let file = TempFile::sparse(HUGE);
        let (mapped, _space) = scripted(&file, HUGE, move |_| {
            let mut state = at_gate.0.lock().expect("no test panics with it");
            state[0] = true;
            at_gate.1.notify_all();
            drop(at_gate.1.wait_while(state, |state| !state[1]));
            Verdict::Free
        });
        let address = mapped.address();
        GUARDED.store(address, Ordering::Relaxed);
        let function: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = map_again;
        segv::exchange(Some(action(function as usize, libc::SA_SIGINFO, 0)));
        protect(address, libc::PROT_NONE);
        std::thread::scope(|scope| {
            let mapped = &mapped;
            scope.spawn(move || mapped.store(8, b"late"));
            let state = gate.0.lock().expect("no test panics with it");
            let mut state = gate.1.wait_while(state, |state| !state[0]).expect("as above");
            let at = std::ptr::with_exposed_provenance_mut(address);
            // SAFETY: the mapping is the test's, and the one thread that uses it is to find nothing.
            assert_eq!(unsafe { libc::munmap(at, HUGE) }, 0);
            state[1] = true;
            gate.1.notify_all();
        });
        let seen = *SEEN.lock().expect("no test panics with it");
        // SEGV_MAPERR.
        assert_eq!((seen.calls, seen.code), (1, 1));
        let mut found = [0; 4];
        mapped.load(8, &mut found);
        assert_eq!(&found, b"late");
        assert_eq!(file.blocks_bytes(), 0);
    });
}

#[test]
fn a_thread_whose_sigsegv_counts_as_blocked_ends_by_an_access() {
    let name = "a_thread_whose_sigsegv_counts_as_blocked_ends_by_an_access";
    let ended = end_of(name, || {
        assert!(segv::install() && segv::blocked_by_stand_in());
        block(segv::kernel_set(SEGV));
        with_service(noticing(libc::SA_SIGINFO, 0).handler, || {
            // It is kept by the kernel.
            send();
            let pending = pending();
            assert_eq!(segv::program_set(pending) & SEGV, SEGV, "{pending:x}");
            println!("sent");
            let guarded = guarded();
            GUARDED.store(guarded.address(), Ordering::Relaxed);
            protect(guarded.address(), libc::PROT_NONE);
            guarded.store(1, b"x");
        });
    });
    if let Some((status, said)) = ended {
        assert_eq!(status.signal().or(status.code()), Some(libc::SIGSEGV), "{status}: {said}");
        assert!(said.contains("sent") && !said.contains("panicked"), "{said}");
    }
}

/// What is pending for the kernel.
fn pending() -> u64 {
    // SAFETY: all zero is a set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is borrowed for the call.
    assert_eq!(unsafe { libc::sigpending(&raw mut set) }, 0);
    // SAFETY: the first 64 signals are the beginning of the set.
    unsafe { (&raw const set).cast::<u64>().read() }
}

fn block(signals: u64) {
    // SAFETY: all zero is a set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in (1..=64).filter(|signal| signals & 1 << (signal - 1) != 0) {
        // SAFETY: the set is borrowed for the call.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: as above.
    let answer =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    assert_eq!(answer, 0);
}

static HOLE: AtomicUsize = AtomicUsize::new(0);

/// Stores to a hole, and makes the page accessible that the access was for.
extern "C" fn store_elsewhere(_number: i32) {
    let at = std::ptr::with_exposed_provenance_mut::<u8>(HOLE.load(Ordering::Relaxed));
    // SAFETY: a byte of the test's mapping, which nobody else uses.
    unsafe { at.write_volatile(7) };
    protect(GUARDED.load(Ordering::Relaxed), libc::PROT_READ | libc::PROT_WRITE);
}

#[test]
fn a_handler_of_sigsegv_touches_holes() {
    alone("a_handler_of_sigsegv_touches_holes", || {
        let (file, guarded) = (TempFile::sparse(4 * HUGE), guarded());
        let served = served(&file, 4 * HUGE, Sharing::Shared);
        let function: extern "C" fn(i32) = store_elsewhere;
        segv::exchange(Some(action(function as usize, 0, u64::MAX)));
        for unit in 0..4 {
            HOLE.store(served.mapped.address() + unit * HUGE, Ordering::Relaxed);
            GUARDED.store(guarded.address() + unit * PAGE, Ordering::Relaxed);
            protect(guarded.address() + unit * PAGE, libc::PROT_NONE);
            guarded.store(unit * PAGE, b"x");
            assert_eq!(served.byte(unit * HUGE), 7);
        }
    });
}

#[test]
fn an_action_is_noted_as_the_kernel_notes_it() {
    alone("an_action_is_noted_as_the_kernel_notes_it", || {
        let (flags, mask) = (libc::SA_SIGINFO | libc::SA_NODEFER | 0x400, u64::MAX);
        let told = || {
            // SAFETY: all zero is an action.
            let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: the action is borrowed for the call.
            unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut now) };
            // SAFETY: the kernel's set is the first 64 bits of the field.
            let mask = unsafe { (&raw const now.sa_mask).cast::<u64>().read() };
            // How handlers return is libc's affair.
            (now.sa_flags & !0x0400_0000, mask)
        };
        set_in_kernel(noticing(flags, mask));
        let plainly = told();
        with_service(libc::SIG_DFL, || {
            segv::exchange(Some(noticing(flags, mask)));
            let noted = segv::exchange(None);
            assert_eq!((noted.flags, noted.mask), plainly);
        });
    });
}
