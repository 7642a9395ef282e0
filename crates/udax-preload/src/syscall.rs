//! syscall(2): system calls by number do what the functions of their names do, here as well.

use crate::buffers::{ready, ready_vectors};
use crate::contents::{Place, hold, over, raw_vector_bytes};
use crate::{
    actions, asynchronous, descriptors, futex, layout, locking, memory, messages, peek, process,
    real, receive, send, signals, waits,
};
use libc::{c_int, c_long, c_uint, c_ulong, c_void};
use std::ptr;
use udax::program::Access;

/// How long a set of signals is for the kernel; it refuses any other length.
const KERNEL_SET_BYTES: usize = 8;

/// A flag of clone3(2).
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// A system call as the program made it.
#[derive(Clone, Copy)]
struct Call {
    number: c_long,
    arguments: [c_long; 6],
}

impl Call {
    /// Passes it on.
    fn pass(self) -> c_long {
        let [a, b, c, d, e, f] = self.arguments;
        // SAFETY: the program's own arguments.
        unsafe { real::syscall(self.number, a, b, c, d, e, f) }
    }

    /// The same with another argument.
    fn with(mut self, at: usize, argument: usize) -> Self {
        self.arguments[at] = argument.cast_signed() as c_long;
        self
    }

    fn pointer<T>(self, at: usize) -> *mut T {
        ptr::with_exposed_provenance_mut(self.size(at))
    }

    fn size(self, at: usize) -> usize {
        self.arguments[at].cast_unsigned().try_into().unwrap_or(usize::MAX)
    }

    /// An `int` argument: the kernel looks at its lower half too.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel takes the lower half of the register"
    )]
    fn int(self, at: usize) -> c_int {
        self.arguments[at] as c_int
    }

    fn uint(self, at: usize) -> c_uint {
        self.int(at).cast_unsigned()
    }
}

/// syscall(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let call = Call { number, arguments: [a, b, c, d, e, f] };
    memory_call(call)
        .or_else(|| contents_call(call))
        .or_else(|| memory_for_call(call))
        .or_else(|| descriptor_call(call))
        .or_else(|| process_call(call))
        .or_else(|| signal_call(call))
        .unwrap_or_else(|| call.pass())
}

fn address(at: *mut c_void) -> c_long {
    at.expose_provenance().cast_signed() as c_long
}

fn memory_call(call: Call) -> Option<c_long> {
    let (at, length) = (call.pointer::<c_void>(0), call.size(1));
    Some(match call.number {
        libc::SYS_mmap => {
            let (prot, flags, fd) = (call.int(2), call.int(3), call.int(4));
            address(memory::mmap(at, length, prot, flags, fd, call.arguments[5]))
        }
        libc::SYS_munmap => memory::munmap(at, length).into(),
        libc::SYS_mprotect => memory::mprotect(at, length, call.int(2)).into(),
        libc::SYS_mremap => {
            address(memory::mremap(at, length, call.size(2), call.int(3), call.pointer(4)))
        }
        libc::SYS_madvise => memory::madvise(at, length, call.int(2)).into(),
        libc::SYS_msync => memory::msync(at, length, call.int(2)).into(),
        libc::SYS_mlock
        | libc::SYS_mlock2
        | libc::SYS_munlock
        | libc::SYS_remap_file_pages
        | libc::SYS_pkey_mprotect => {
            memory::make_plain(at.addr(), length);
            call.pass()
        }
        libc::SYS_mlockall => {
            memory::make_all_plain("mlockall");
            call.pass()
        }
        libc::SYS_process_madvise => {
            locking::make_vectors_plain(call.pointer(1), call.size(2));
            call.pass()
        }
        libc::SYS_shmat => {
            // SAFETY: the program's own arguments.
            address(unsafe { locking::shmat(call.int(0), call.pointer(1), call.int(2)) })
        }
        libc::SYS_futex => futex::with_words(call.int(1), at.addr(), call.size(4), || call.pass()),
        _ => return None,
    })
}

fn contents_call(call: Call) -> Option<c_long> {
    let fd = call.int(0);
    let [_, from, count, at, ..] = call.arguments;
    let length = count.cast_unsigned();
    let held = match call.number {
        libc::SYS_write => hold(fd, Place::Position, length),
        libc::SYS_pwrite64 => hold(fd, Place::At(at), length),
        libc::SYS_writev => hold(fd, Place::Position, raw_vector_bytes(from, count)),
        // 64-bit kernels take the whole offset from the first of its two registers.
        libc::SYS_pwritev => hold(fd, Place::At(at), raw_vector_bytes(from, count)),
        libc::SYS_pwritev2 => {
            hold(fd, Place::of_flags(at, call.int(5)), raw_vector_bytes(from, count))
        }
        libc::SYS_sendfile => hold(fd, Place::Position, at.cast_unsigned()),
        libc::SYS_splice | libc::SYS_copy_file_range => {
            let length = call.arguments[4].cast_unsigned();
            hold(call.int(2), Place::of_pointer(call.pointer(3)), length)
        }
        libc::SYS_ftruncate | libc::SYS_fallocate => layout::hold(fd),
        libc::SYS_ioctl if layout::registers_memory(from.cast_unsigned() as c_ulong) => {
            layout::leave_registered(call.pointer(2));
            None
        }
        libc::SYS_ioctl if layout::changes_layout(from.cast_unsigned() as c_ulong) => {
            layout::hold(fd)
        }
        libc::SYS_vmsplice => {
            locking::make_vectors_plain(call.pointer(1), call.size(2));
            None
        }
        _ => return None,
    };
    Some(over(held, || pass_ready(call)))
}

/// Passes a call on that reads memory, with that made ready.
fn pass_ready(call: Call) -> c_long {
    let pass = || call.pass();
    match call.number {
        libc::SYS_write | libc::SYS_pwrite64 => {
            ready(&[(call.size(1), call.size(2))], Access::Read, pass)
        }
        libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
            ready_vectors(call.pointer(1), call.int(2), Access::Read, pass)
        }
        _ => call.pass(),
    }
}

/// Calls of which nothing matters but the memory that they are given.
fn memory_for_call(call: Call) -> Option<c_long> {
    let pass = || call.pass();
    let at_second = [(call.size(1), call.size(2))];
    let answer = match call.number {
        libc::SYS_read => {
            // SAFETY: the program's own arguments, to the function that makes this system call.
            unsafe { receive::read(call.int(0), call.pointer(1), call.size(2)) as c_long }
        }
        libc::SYS_pread64 | libc::SYS_recvfrom => ready(&at_second, Access::Write, pass),
        libc::SYS_ioctl => {
            let request = call.arguments[1].cast_unsigned() as c_ulong;
            ready(&layout::copied_from(request, call.pointer(2)), Access::Read, pass)
        }
        libc::SYS_sendto => ready(&at_second, Access::Read, pass),
        libc::SYS_getrandom => ready(&[(call.size(0), call.size(1))], Access::Write, pass),
        libc::SYS_readv | libc::SYS_preadv | libc::SYS_preadv2 => {
            ready_vectors(call.pointer(1), call.int(2), Access::Write, pass)
        }
        libc::SYS_process_vm_readv | libc::SYS_process_vm_writev => copy_call(call),
        _ => return None,
    };
    Some(answer)
}

/// A copy from or to another process, or within this one.
fn copy_call(call: Call) -> c_long {
    let (process, flags) = (call.int(0), call.arguments[5].cast_unsigned() as c_ulong);
    let (ours, count) = (call.pointer(1), call.arguments[2].cast_unsigned() as c_ulong);
    let (theirs, theirs_count) = (call.pointer(3), call.arguments[4].cast_unsigned() as c_ulong);
    let copied = if call.number == libc::SYS_process_vm_readv {
        // SAFETY: the program's own arguments, to the function that makes this system call.
        unsafe { send::process_vm_readv(process, ours, count, theirs, theirs_count, flags) }
    } else {
        // SAFETY: the same.
        unsafe { send::process_vm_writev(process, ours, count, theirs, theirs_count, flags) }
    };
    copied as c_long
}

fn descriptor_call(call: Call) -> Option<c_long> {
    let fd = call.int(0);
    Some(match call.number {
        // SAFETY: the program's own arguments, to the function that makes this system call.
        libc::SYS_dup => unsafe { descriptors::dup(fd) }.into(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        libc::SYS_dup2 => unsafe { descriptors::dup2(fd, call.int(1)) }.into(),
        // SAFETY: as above.
        libc::SYS_dup3 => unsafe { descriptors::dup3(fd, call.int(1), call.int(2)) }.into(),
        libc::SYS_fcntl => {
            // SAFETY: as above.
            unsafe { descriptors::fcntl(fd, call.int(1), call.arguments[2]) }.into()
        }
        libc::SYS_unshare => {
            // SAFETY: as above.
            unsafe { descriptors::unshare(fd) }.into()
        }
        libc::SYS_pidfd_getfd => {
            let fetched = call.pass();
            if let Ok(fd) = c_int::try_from(fetched)
                && fd >= 0
            {
                descriptors::share(fd);
            }
            fetched
        }
        libc::SYS_sendmsg => {
            // SAFETY: as above.
            unsafe { messages::sendmsg(fd, call.pointer(1), call.int(2)) as c_long }
        }
        libc::SYS_recvmsg => {
            // SAFETY: as above.
            unsafe { messages::recvmsg(fd, call.pointer(1), call.int(2)) as c_long }
        }
        libc::SYS_sendmmsg => {
            // SAFETY: as above.
            unsafe { messages::sendmmsg(fd, call.pointer(1), call.uint(2), call.int(3)) }.into()
        }
        libc::SYS_recvmmsg => {
            let (count, flags) = (call.uint(2), call.int(3));
            // SAFETY: as above.
            unsafe { messages::recvmmsg(fd, call.pointer(1), count, flags, call.pointer(4)) }.into()
        }
        _ => return None,
    })
}

fn process_call(call: Call) -> Option<c_long> {
    Some(match call.number {
        libc::SYS_execve | libc::SYS_execveat => {
            crate::execute::before_exec();
            call.pass()
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork => process::around_fork(|| call.pass()),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork => {
            crate::spawn::before_spawn();
            call.pass()
        }
        libc::SYS_clone => cloned(call, call.int(0)),
        libc::SYS_clone3 => {
            let flags = peek::one::<u64>(call.pointer(0)).unwrap_or(0);
            // The flags that matter are those of `clone`.
            let answer = cloned(call, i32::try_from(flags & 0x7fff_ffff).unwrap_or(0));
            if answer == 0 && flags & CLONE_CLEAR_SIGHAND != 0 {
                signals::without_handlers();
            }
            answer
        }
        libc::SYS_io_uring_setup | libc::SYS_io_setup => {
            asynchronous::before_queue();
            call.pass()
        }
        _ => return None,
    })
}

fn signal_call(call: Call) -> Option<c_long> {
    // It answers 0 or -1.
    let pass = |call: Call| if call.pass() == 0 { 0 } else { -1 };
    Some(match call.number {
        libc::SYS_rt_sigaction if call.size(3) == KERNEL_SET_BYTES => {
            actions::by_number(call.int(0), call.pointer(1), call.pointer(2), |new| {
                pass(call.with(1, new.expose_provenance()))
            })
            .into()
        }
        libc::SYS_rt_sigprocmask => signals::mask(call.pointer(1), call.pointer(2), |new, old| {
            let changed = call.with(1, new.expose_provenance());
            pass(changed.with(2, old.expose_provenance()))
        })
        .into(),
        libc::SYS_rt_sigpending if call.size(1) == KERNEL_SET_BYTES => {
            signals::pending(call.pointer(0), || pass(call)).into()
        }
        libc::SYS_rt_sigsuspend if call.size(1) == KERNEL_SET_BYTES => with_mask(call, 0),
        libc::SYS_ppoll if call.size(4) == KERNEL_SET_BYTES => with_mask(call, 3),
        libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 if call.size(5) == KERNEL_SET_BYTES => {
            with_mask(call, 4)
        }
        libc::SYS_pselect6 => selected(call),
        libc::SYS_rt_sigtimedwait => {
            waits::with_set(call.pointer(0), call.pointer(1), |set, info, waits| {
                let call = call.with(0, set.expose_provenance()).with(1, info.expose_provenance());
                let at_once = || call.with(2, (&raw const waits::AT_ONCE).expose_provenance());
                if waits { call } else { at_once() }.pass()
            })
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_signalfd => waits::to_descriptor(call.pointer(1), |set| {
            call.with(1, set.expose_provenance()).pass()
        }),
        libc::SYS_signalfd4 => waits::to_descriptor(call.pointer(1), |set| {
            call.with(1, set.expose_provenance()).pass()
        }),
        _ => return None,
    })
}

/// A wait, with the mask that is its argument `at`.
fn with_mask(call: Call, at: usize) -> c_long {
    signals::with_mask(call.pointer(at), |mask| call.with(at, mask.expose_provenance()).pass())
}

/// A wait whose last argument tells where the mask is, and how long.
fn selected(call: Call) -> c_long {
    let told: *const u64 = call.pointer(5);
    let found = if told.is_null() || !signals::is_ours() { None } else { peek::words::<2>(told) };
    let Some([mask, length]) = found.filter(|&[_, length]| length == KERNEL_SET_BYTES as u64)
    else {
        return call.pass();
    };
    let mask = ptr::with_exposed_provenance(usize::try_from(mask).unwrap_or(usize::MAX));
    signals::with_mask(mask, |mask| {
        let told = [mask.expose_provenance() as u64, length];
        call.with(5, told.as_ptr().expose_provenance()).pass()
    })
}

fn cloned(call: Call, flags: c_int) -> c_long {
    if flags & libc::CLONE_VM == 0 {
        return process::around_fork(|| call.pass());
    }
    process::before_sharing_clone(flags);
    call.pass()
}
