//! Faults by signals: what is served, and who waits for it. What becomes of the program's own SIGSEGV is in `segv.rs`.

mod common;

use common::alone::{alone, end_of, end_with, faults_at, in_threads, scripted, served};
use common::{HUGE, NO_RIGHTS, PAGE, READ_ONLY, READ_WRITE, Served, TempFile, page, status_bytes};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use udax_core::{AddressSpace, Order, PageRange};
use udax_linux::segv::{self, SegvAction};
use udax_linux::{Access, HandoverWay, Prot, RunState, Sharing, Verdict, probe};

#[test]
fn a_load_of_a_hole_shows_zeros_and_costs_no_memory() {
    alone("a_load_of_a_hole_shows_zeros_and_costs_no_memory", || {
        const LENGTH: usize = 64 * HUGE;
        let file = TempFile::sparse(LENGTH);
        let served = served(&file, LENGTH, Sharing::Shared);
        let before = status_bytes("VmRSS");
        assert!((0..LENGTH).step_by(PAGE).all(|at| served.byte(at) == 0));
        let grown = status_bytes("VmRSS").saturating_sub(before);
        assert!(grown < 16 * HUGE, "{grown} bytes for {LENGTH} bytes of hole");
        assert_eq!(file.blocks_bytes(), 0);
        assert_eq!(served.space.state_of(page(0)), RunState::Zero);
        served.assert_nothing_lost();
    });
}

#[test]
fn a_store_is_served_once_and_is_in_the_file() {
    alone("a_store_is_served_once_and_is_in_the_file", || {
        for (directory, looks_first) in [("/dev/shm", false), ("/var/tmp", true)] {
            let file = TempFile::new(directory, 4 * HUGE as u64);
            let served = served(&file, 4 * HUGE, Sharing::Shared);
            let at = HUGE + 5 * PAGE;
            // The last one's mapping may have been at the same addresses.
            served.handler.faults.lock().expect("no test panics with it").clear();
            if looks_first {
                assert_eq!(served.byte(HUGE), 0);
            }
            (0..100).for_each(|offset| served.mapped.store(at + offset, b"stored"));
            assert_eq!(faults_at(served.handler, served.mapped.address() + at), 1);
            let seen = served.handler.faults.lock().expect("no test panics with it");
            assert_eq!(seen.last().map(|fault| fault.access), Some(Access::Write));
            let mut found = [0; 6];
            file.file.read_exact_at(&mut found, (at + 99) as u64).expect("it can be read");
            assert_eq!(&found, b"stored");
        }
    });
}

#[test]
fn threads_that_store_to_the_same_page_at_once_all_go_on() {
    alone("threads_that_store_to_the_same_page_at_once_all_go_on", || {
        const THREADS: usize = 32;
        const LENGTH: usize = 16 * HUGE;
        let file = TempFile::sparse(LENGTH);
        let served = &served(&file, LENGTH, Sharing::Shared);
        let store = |_| {
            for at in (0..LENGTH).step_by(HUGE) {
                served.word(at).fetch_add(1, Ordering::Relaxed);
            }
        };
        in_threads(THREADS, store, || {});
        for at in (0..LENGTH).step_by(HUGE) {
            assert_eq!(served.word(at).load(Ordering::Relaxed), THREADS as u64);
        }
        served.assert_nothing_lost();
    });
}

/// Something that the fault thread waits for.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().expect("no test panics with it") = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let is_open = self.0.0.lock().expect("no test panics with it");
        drop(self.0.1.wait_while(is_open, |is_open| !*is_open));
    }
}

/// Gives a page of the program's rights, or takes them, unseen.
fn protect(address: usize, rights: i32) {
    let at = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: a page of a mapping of the test's, in which no reference points.
    assert_eq!(unsafe { libc::mprotect(at, PAGE, rights) }, 0);
}

const NONE: i32 = libc::PROT_NONE;
const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;

#[test]
fn more_threads_than_there_are_places_wait_and_all_go_on() {
    alone("more_threads_than_there_are_places_wait_and_all_go_on", || {
        const THREADS: usize = 300;
        let gate = Gate::default();
        let (at_gate, seen) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&seen);
        let file = TempFile::sparse(2 * HUGE);
        let (mapped, _space) = scripted(&file, 2 * HUGE, move |fault| {
            at_gate.pass();
            counted.fetch_add(1, Ordering::Relaxed);
            protect(fault.address, BOTH);
            Verdict::Served
        });
        for round in 1..=3_u8 {
            (0..THREADS).for_each(|page| protect(mapped.address() + page * PAGE, NONE));
            // In the first round nobody is answered before everybody waits.
            let store = |number: usize| mapped.store(number * PAGE, &[round]);
            in_threads(THREADS, store, || gate.open());
            let mut bytes = [0];
            for number in 0..THREADS {
                mapped.load(number * PAGE, &mut bytes);
                assert_eq!(bytes, [round], "page {number}");
            }
            assert_eq!(seen.load(Ordering::Relaxed), THREADS * usize::from(round));
        }
    });
}

fn errno() -> *mut i32 {
    // SAFETY: no argument; it is this thread's for as long as that lives.
    unsafe { libc::__errno_location() }
}

#[test]
fn a_served_fault_leaves_errno_alone() {
    alone("a_served_fault_leaves_errno_alone", || {
        let file = TempFile::sparse(4 * HUGE);
        let served = served(&file, 4 * HUGE, Sharing::Shared);
        for at in [0, HUGE, 2 * HUGE] {
            // SAFETY: this thread's own.
            unsafe { errno().write_volatile(77) };
            let byte = served.byte(at);
            served.mapped.store(at + PAGE, b"x");
            // SAFETY: this thread's own.
            assert_eq!((byte, unsafe { errno().read_volatile() }), (0, 77));
        }
    });
}

static AT: AtomicUsize = AtomicUsize::new(0);
static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// Loads from a hole and stores to it.
extern "C" fn touch_next(_number: i32) {
    let number = HANDLED.fetch_add(1, Ordering::Relaxed);
    let at =
        std::ptr::with_exposed_provenance_mut::<u8>(AT.load(Ordering::Relaxed) + number * HUGE);
    // SAFETY: a byte of the test's mapping, which nobody else uses.
    let found = unsafe { at.read_volatile() };
    // SAFETY: as above.
    unsafe { at.write_volatile(found + 1) };
}

/// Has [`touch_next`] called at SIGUSR1, with every signal blocked but SIGSEGV.
fn handle_by_touching(flags: i32) {
    // SAFETY: all zero is an action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = touch_next as extern "C" fn(i32) as usize;
    action.sa_flags = flags;
    // SAFETY: the set is a field of ours.
    unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    // SAFETY: as above.
    unsafe { libc::sigdelset(&raw mut action.sa_mask, libc::SIGSEGV) };
    // SAFETY: the action is borrowed for the call, and the function stays.
    unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
}

fn raise(number: i32) {
    // SAFETY: a number.
    unsafe { libc::raise(number) };
}

#[test]
fn another_signals_handler_touches_holes() {
    alone("another_signals_handler_touches_holes", || {
        let file = TempFile::sparse(8 * HUGE);
        let served = served(&file, 8 * HUGE, Sharing::Shared);
        AT.store(served.mapped.address(), Ordering::Relaxed);
        handle_by_touching(0);
        (0..8).for_each(|_| raise(libc::SIGUSR1));
        assert!((0..8).all(|unit| served.byte(unit * HUGE) == 1));
    });
}

#[test]
fn a_thread_on_its_alternate_stack_touches_holes() {
    alone("a_thread_on_its_alternate_stack_touches_holes", || {
        let file = TempFile::sparse(8 * HUGE);
        let served = &served(&file, 8 * HUGE, Sharing::Shared);
        AT.store(served.mapped.address(), Ordering::Relaxed);
        handle_by_touching(libc::SA_ONSTACK);
        let on_a_small_stack = |_| {
            let mut memory = vec![0_u8; 64 << 10];
            let stack = libc::stack_t {
                ss_sp: memory.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: memory.len(),
            };
            // SAFETY: the memory is kept until the thread's next call of this.
            assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
            (0..4).for_each(|_| raise(libc::SIGUSR1));
            let none = libc::stack_t { ss_flags: libc::SS_DISABLE, ..stack };
            // SAFETY: as above.
            unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) };
        };
        in_threads(2, on_a_small_stack, || {});
        assert!((0..8).all(|unit| served.byte(unit * HUGE) == 1));
    });
}

/// What ended a child of fork in which `body` runs. It is killed if it hangs; in a handler of ours no other signal would do it.
fn end_of_child(body: impl FnOnce()) -> i32 {
    // SAFETY: no argument; the child does nothing but system calls and accesses.
    let child = unsafe { libc::fork() };
    if child == 0 {
        body();
        // SAFETY: a number.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: numbers; the descriptor goes with the process.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
    let fd = i32::try_from(process).expect("a descriptor");
    let mut ended = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, borrowed for the call.
    if unsafe { libc::poll(&raw mut ended, 1, 20_000) } != 1 {
        // SAFETY: numbers; nobody has waited for the child yet.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    let mut status = 0;
    // SAFETY: the status is borrowed for the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

#[test]
fn a_child_of_fork_waits_for_nobody() {
    alone("a_child_of_fork_waits_for_nobody", || {
        let file = TempFile::sparse(4 * HUGE);
        let served = served(&file, 4 * HUGE, Sharing::Shared);
        assert_eq!(served.byte(0), 0);
        let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(served.mapped.address());
        let status = end_of_child(|| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: the mapping is the parent's; this process has no other use for the place.
            let made = unsafe { libc::mmap(at, HUGE, libc::PROT_NONE, flags, -1, 0) };
            // SAFETY: it has no rights: the process ends here.
            unsafe { made.cast::<u8>().write_volatile(1) };
        });
        assert_eq!((libc::WIFSIGNALED(status), libc::WTERMSIG(status)), (true, libc::SIGSEGV));
        // The parent's are as they were.
        served.mapped.store(HUGE, b"ours");
        assert_eq!(served.byte(HUGE), b'o');
    });
}

#[test]
fn a_fault_that_nobody_serves_any_more_ends_the_process() {
    let name = "a_fault_that_nobody_serves_any_more_ends_the_process";
    let ended = end_with(name, &[("UDAX_TEST_FAIL", "fault-thread-gone")], || {
        let file = TempFile::sparse(HUGE);
        // It stays behind otherwise.
        std::fs::remove_file(&file.path).expect("it is there");
        let (mapped, _space) = scripted(&file, HUGE, |_| {
            udax_linux::inject::stop_here();
            Verdict::Served
        });
        protect(mapped.address(), NONE);
        mapped.store(0, b"x");
        unreachable!("nobody has served that");
    });
    if let Some((status, said)) = ended {
        assert_eq!(status.signal().or(status.code()), Some(libc::SIGABRT), "{status}: {said}");
        assert!(said.contains("udax: the fault thread is gone"), "{said}");
    }
}

/// By the time the handler says that nothing of ours is in the way, the access may be one that the kernel allows.
#[test]
fn what_is_free_and_can_be_had_is_tried_again() {
    alone("what_is_free_and_can_be_had_is_tried_again", || {
        static HANDED_ON: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn hand_on(_number: i32) {
            HANDED_ON.fetch_add(1, Ordering::Relaxed);
        }
        let file = TempFile::sparse(HUGE);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let (mapped, _space) = scripted(&file, HUGE, move |fault| {
            count.fetch_add(1, Ordering::Relaxed);
            protect(fault.address, BOTH);
            Verdict::Free
        });
        let function: extern "C" fn(i32) = hand_on;
        let handler = function as usize;
        segv::exchange(Some(SegvAction { handler, flags: 0, mask: 0, restorer: 0 }));
        protect(mapped.address() + PAGE, NONE);
        mapped.store(PAGE, b"had");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(HANDED_ON.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn what_lies_outside_all_that_is_served_is_not_asked_about() {
    let name = "what_lies_outside_all_that_is_served_is_not_asked_about";
    let ended = end_of(name, || {
        let file = TempFile::sparse(4 * HUGE);
        let low = udax_linux::Mapped::anonymous(HUGE, false).expect("there is memory");
        let (mapped, space) = scripted(&file, 4 * HUGE, |fault| {
            protect(fault.address, BOTH);
            Verdict::Served
        });
        let (start, end) = (mapped.address(), mapped.area().end());
        let service = space.file().service();
        assert!(service.may_serve(&(start..start + 1)) && service.may_serve(&(end - 1..end)));
        assert!(!service.may_serve(&(start - PAGE..start)) && !service.may_serve(&(end..end + 1)));
        protect(low.address(), NONE);
        // It stays behind otherwise.
        std::fs::remove_file(&file.path).expect("it is there");
        println!("outside");
        low.store(0, b"x");
    });
    if let Some((status, said)) = ended {
        assert_eq!(status.signal().or(status.code()), Some(libc::SIGSEGV), "{status}: {said}");
        assert!(said.contains("outside"), "{said}");
    }
}

/// What /proc/self/maps says of the page at `address`.
fn rights_at(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let found = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let parse = |text| usize::from_str_radix(text, 16).ok();
        (parse(start)? <= address && address < parse(end)?).then(|| rest[..3].to_owned())
    });
    found.unwrap_or_else(|| "none".to_owned())
}

#[test]
fn traps_and_windows_have_no_more_rights_than_they_may() {
    alone("traps_and_windows_have_no_more_rights_than_they_may", || {
        const WRITE_ONLY: Prot = Prot::from_bits(2);
        let cases = [
            (Sharing::Shared, READ_WRITE, "r--"),
            (Sharing::Shared, READ_ONLY, "r--"),
            (Sharing::Shared, WRITE_ONLY, "r--"),
            (Sharing::Shared, NO_RIGHTS, "---"),
            (Sharing::Private, READ_WRITE, "rw-"),
            (Sharing::Private, READ_ONLY, "r--"),
        ];
        for (sharing, prot, in_window) in cases {
            let file = TempFile::sparse(4 * HUGE);
            let served = Served::new(&file, 4 * HUGE, sharing, prot).expect("started");
            let at = |unit: usize| served.mapped.address() + unit * HUGE;
            let unit = |unit: u64| PageRange::unit(page(unit * 512), Order::Pmd);
            served.space.install_zeros(unit(1), Order::Pmd).expect("a window can be had");
            served.space.plain(unit(2));
            assert_eq!(rights_at(at(0)), "---", "a trap");
            assert_eq!(rights_at(at(1)), in_window, "{sharing:?} {prot:?}");
            let plain = rights_at(at(2));
            for rights in [NO_RIGHTS, READ_ONLY, READ_WRITE] {
                let parts = served.space.rights_of_parts(rights);
                let of_window = parts.iter().find(|(range, _)| range.contains(&at(1)));
                let expected = match (sharing, rights) {
                    (Sharing::Private, _) => None,
                    (Sharing::Shared, NO_RIGHTS) => Some(NO_RIGHTS),
                    (Sharing::Shared, _) => Some(READ_ONLY),
                };
                assert_eq!(of_window.map(|(_, rights)| *rights), expected, "{rights:?}");
                let has = |unit| parts.iter().find(|(range, _)| range.contains(&at(unit)));
                assert_eq!(has(0).map(|(_, rights)| *rights), Some(NO_RIGHTS));
                assert_eq!((has(2), &*plain), (None, &*rights_at(at(2))));
            }
            served.space.plain_all();
            assert!([0, 1].into_iter().all(|unit| rights_at(at(unit)) == plain));
        }
    });
}

#[test]
fn a_private_window_is_copied_by_the_kernel() {
    alone("a_private_window_is_copied_by_the_kernel", || {
        let file = TempFile::sparse(4 * HUGE);
        let served = served(&file, 4 * HUGE, Sharing::Private);
        assert_eq!(served.byte(HUGE), 0);
        served.mapped.store(HUGE + PAGE, b"mine");
        assert_eq!(faults_at(served.handler, served.mapped.address() + HUGE + PAGE), 0);
        served.space.plain_all();
        let mut found = [1; 4];
        file.file.read_exact_at(&mut found, (HUGE + PAGE) as u64).expect("it can be read");
        assert_eq!((served.byte(HUGE + PAGE), found), (b'm', [0; 4]));
    });
}

#[test]
fn who_stores_to_a_window_that_is_held_back_waits_for_the_file() {
    alone("who_stores_to_a_window_that_is_held_back_waits_for_the_file", || {
        let file = TempFile::sparse(4 * HUGE);
        let served = served(&file, 4 * HUGE, Sharing::Shared);
        assert_eq!(served.byte(HUGE), 0);
        let whole = PageRange::unit(page(512), Order::Pmd);
        served.space.hold_back(whole);
        assert_eq!(served.space.state_of(page(512)), RunState::Trap);
        assert_eq!(rights_at(served.mapped.address() + HUGE), "---");
        served.space.unmap(whole, udax_core::PrivateCopies::Keep);
        assert_eq!(served.space.state_of(page(512)), RunState::Plain);
        served.mapped.store(HUGE, b"s");
        assert_eq!(file.blocks_bytes(), PAGE as u64);
    });
}

/// pidfd_getfd(2) is refused from now on, as by a container's usual profile.
fn refuse_to_fetch_descriptors() {
    let number = u32::try_from(libc::SYS_pidfd_getfd).expect("a small number");
    let statement = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        // The number of the call; if it is that one, EPERM; else it is allowed.
        statement(0x20, 0, 0, 0),
        statement(0x15, number, 0, 1),
        statement(0x06, 0x0005_0000 | libc::EPERM.cast_unsigned(), 0, 0),
        statement(0x06, 0x7fff_0000, 0, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let filters = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program is four statements, borrowed for the call.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, filters, &raw const program) }, 0);
}

#[test]
fn descriptors_are_handed_over_by_a_socket_where_they_cannot_be_fetched() {
    alone("descriptors_are_handed_over_by_a_socket_where_they_cannot_be_fetched", || {
        refuse_to_fetch_descriptors();
        assert_eq!(probe().handover, Ok(HandoverWay::Socket));
        let (service, _) = common::service().expect("started");
        // Many at once: each is to get its own.
        let adopt = |number: usize| {
            let bytes = (1 + number as u64) * PAGE as u64;
            let file = TempFile::new("/dev/shm", bytes);
            for _ in 0..500 {
                let handle = udax_linux::FileHandle::adopt(service, file.fd()).expect("adopted");
                assert_eq!(handle.size(), Ok(bytes));
            }
        };
        in_threads(8, adopt, || {});
        let file = TempFile::sparse(2 * HUGE);
        let served = served(&file, 2 * HUGE, Sharing::Shared);
        served.mapped.store(HUGE, b"stored");
        assert_eq!(file.blocks_bytes(), PAGE as u64);
    });
}

#[test]
fn the_program_and_the_service_close_nothing_of_each_other() {
    alone("the_program_and_the_service_close_nothing_of_each_other", || {
        let file = TempFile::sparse(4 * HUGE);
        let (mut reader, writer) = std::io::pipe().expect("there are pipes");
        let served = served(&file, 4 * HUGE, Sharing::Shared);
        let mine: Vec<_> = std::fs::read_dir("/proc/self/fd")
            .expect("proc is mounted")
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .map(|path| path.display().to_string())
            .collect();
        for word in ["udax traps", "/dev/zero", "pagemap", "/maps", "/mem"] {
            assert!(mine.iter().all(|path| !path.ends_with(word)), "{word} in {mine:?}");
        }
        // The service has no copy of it.
        drop(writer);
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).expect("it is at its end"), 0);
        // SAFETY: numbers; what the test uses later it opens anew.
        assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, 1_000_000, 0) }, 0);
        std::mem::forget(reader);
        served.mapped.store(HUGE, b"stored");
        assert_eq!(served.byte(3 * HUGE), 0);
        assert_eq!(served.space.state_of(page(3 * 512)), RunState::Zero);
        let again = std::fs::File::open(&file.path).expect("it is there");
        let mut found = [0; 6];
        again.read_exact_at(&mut found, HUGE as u64).expect("it can be read");
        assert_eq!(&found, b"stored");
        let _ = std::fs::remove_file(&file.path);
        // Its number is another's by now, or nobody's.
        std::mem::forget(file);
    });
}
