//! libc's own functions: the next definition of each name behind ours, looked up once.
//!
//! All are looked up when the library is loaded; a call that comes before that (another library's constructor) looks its own up.

use crate::errno;
use libc::{
    FILE, aiocb, c_char, c_int, c_long, c_uint, c_ulong, c_void, epoll_event, iovec, loff_t,
    mmsghdr, msghdr, nfds_t, off_t, pid_t, pollfd, posix_spawn_file_actions_t, posix_spawnattr_t,
    sigevent, sighandler_t, size_t, sockaddr, socklen_t, ssize_t, stack_t, timespec, uid_t,
};
use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function of libc, by name.
pub(crate) struct Symbol {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Symbol {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Where it is; `None` where this libc has no such function. Threads that look it up at once find the same.
    pub(crate) fn address(&self) -> Option<*mut c_void> {
        let mut address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            // SAFETY: the name is a C string, and RTLD_NEXT asks for the definition behind this library's.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.address.store(address, Ordering::Relaxed);
        }
        (!address.is_null()).then_some(address)
    }
}

/// Declares functions that call libc's. `or` is what is answered, with `ENOSYS`, where libc has none.
macro_rules! real {
    ($($name:ident = $symbol:ident $c_name:literal
        ($($argument:ident: $type:ty),* $(,)?) -> $answer:ty, or $absent:expr;)*) => {
        $(
            pub(crate) static $symbol: Symbol = Symbol::new($c_name);

            /// libc's function of this name.
            ///
            /// # Safety
            /// As the C function asks.
            pub(crate) unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $answer {
                type Function = unsafe extern "C-unwind" fn($($type),*) -> $answer;
                let Some(address) = $symbol.address() else {
                    errno::set(libc::ENOSYS);
                    return $absent;
                };
                // SAFETY: the address is that of libc's function of this name, which has this type.
                let function = unsafe { std::mem::transmute::<*mut c_void, Function>(address) };
                // SAFETY: the caller passes what the C function asks for.
                unsafe { function($($argument),*) }
            }
        )*

        /// Looks all of them up.
        pub(crate) fn resolve() {
            for symbol in [
                $(&$symbol,)* &VFORK, &DPRINTF, &DPRINTF_CHK, &SETCONTEXT, &SWAPCONTEXT, &EXIT
            ] {
                symbol.address();
            }
            crate::execute::resolve();
        }
    };
}

/// The start of a `clone` child.
pub(crate) type Start = extern "C-unwind" fn(*mut c_void) -> c_int;
/// `char *const argv[]`.
pub(crate) type Strings = *const *mut c_char;

real! {
    // Contents.
    write = WRITE c"write" (fd: c_int, from: *const c_void, count: size_t) -> ssize_t, or -1;
    pwrite64 = PWRITE64 c"pwrite64" (fd: c_int, from: *const c_void, count: size_t, at: off_t) -> ssize_t, or -1;
    writev = WRITEV c"writev" (fd: c_int, from: *const iovec, count: c_int) -> ssize_t, or -1;
    pwritev64 = PWRITEV64 c"pwritev64" (fd: c_int, from: *const iovec, count: c_int, at: off_t) -> ssize_t, or -1;
    pwritev64v2 = PWRITEV64V2 c"pwritev64v2" (fd: c_int, from: *const iovec, count: c_int, at: off_t, flags: c_int) -> ssize_t, or -1;
    sendfile64 = SENDFILE64 c"sendfile64" (to: c_int, from: c_int, at: *mut off_t, count: size_t) -> ssize_t, or -1;
    splice = SPLICE c"splice" (from: c_int, from_at: *mut loff_t, to: c_int, to_at: *mut loff_t, count: size_t, flags: c_uint) -> ssize_t, or -1;
    vmsplice = VMSPLICE c"vmsplice" (pipe: c_int, from: *const iovec, count: size_t, flags: c_uint) -> ssize_t, or -1;
    copy_file_range = COPY_FILE_RANGE c"copy_file_range" (from: c_int, from_at: *mut loff_t, to: c_int, to_at: *mut loff_t, count: size_t, flags: c_uint) -> ssize_t, or -1;
    // Memory that is read or written by calls.
    read = READ c"read" (fd: c_int, into: *mut c_void, count: size_t) -> ssize_t, or -1;
    pread64 = PREAD64 c"pread64" (fd: c_int, into: *mut c_void, count: size_t, at: off_t) -> ssize_t, or -1;
    readv = READV c"readv" (fd: c_int, into: *const iovec, count: c_int) -> ssize_t, or -1;
    preadv64 = PREADV64 c"preadv64" (fd: c_int, into: *const iovec, count: c_int, at: off_t) -> ssize_t, or -1;
    preadv64v2 = PREADV64V2 c"preadv64v2" (fd: c_int, into: *const iovec, count: c_int, at: off_t, flags: c_int) -> ssize_t, or -1;
    send = SEND c"send" (socket: c_int, from: *const c_void, count: size_t, flags: c_int) -> ssize_t, or -1;
    sendto = SENDTO c"sendto" (socket: c_int, from: *const c_void, count: size_t, flags: c_int, to: *const sockaddr, to_length: socklen_t) -> ssize_t, or -1;
    recv = RECV c"recv" (socket: c_int, into: *mut c_void, count: size_t, flags: c_int) -> ssize_t, or -1;
    recvfrom = RECVFROM c"recvfrom" (socket: c_int, into: *mut c_void, count: size_t, flags: c_int, from: *mut sockaddr, from_length: *mut socklen_t) -> ssize_t, or -1;
    getrandom = GETRANDOM c"getrandom" (into: *mut c_void, count: size_t, flags: c_uint) -> ssize_t, or -1;
    process_vm_readv = PROCESS_VM_READV c"process_vm_readv" (process: pid_t, into: *const iovec, count: c_ulong, from: *const iovec, from_count: c_ulong, flags: c_ulong) -> ssize_t, or -1;
    process_vm_writev = PROCESS_VM_WRITEV c"process_vm_writev" (process: pid_t, from: *const iovec, count: c_ulong, into: *const iovec, into_count: c_ulong, flags: c_ulong) -> ssize_t, or -1;
    stat = STAT c"stat" (path: *const c_char, into: *mut c_void) -> c_int, or -1;
    lstat = LSTAT c"lstat" (path: *const c_char, into: *mut c_void) -> c_int, or -1;
    fstat = FSTAT c"fstat" (fd: c_int, into: *mut c_void) -> c_int, or -1;
    fstatat = FSTATAT c"fstatat" (directory: c_int, path: *const c_char, into: *mut c_void, flags: c_int) -> c_int, or -1;
    statx = STATX c"statx" (directory: c_int, path: *const c_char, flags: c_int, mask: c_uint, into: *mut c_void) -> c_int, or -1;
    readlink = READLINK c"readlink" (path: *const c_char, into: *mut c_char, count: size_t) -> ssize_t, or -1;
    readlinkat = READLINKAT c"readlinkat" (directory: c_int, path: *const c_char, into: *mut c_char, count: size_t) -> ssize_t, or -1;
    getcwd = GETCWD c"getcwd" (into: *mut c_char, count: size_t) -> *mut c_char, or ptr::null_mut();
    getdents64 = GETDENTS64 c"getdents64" (directory: c_int, into: *mut c_void, count: size_t) -> ssize_t, or -1;
    poll = POLL c"poll" (polled: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int, or -1;
    ppoll = PPOLL c"ppoll" (polled: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const c_void) -> c_int, or -1;
    epoll_wait = EPOLL_WAIT c"epoll_wait" (epoll: c_int, into: *mut epoll_event, count: c_int, timeout: c_int) -> c_int, or -1;
    epoll_pwait = EPOLL_PWAIT c"epoll_pwait" (epoll: c_int, into: *mut epoll_event, count: c_int, timeout: c_int, mask: *const c_void) -> c_int, or -1;
    // Signals.
    sigaction = SIGACTION c"sigaction" (number: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int, or -1;
    signal = SIGNAL c"signal" (number: c_int, handler: sighandler_t) -> sighandler_t, or libc::SIG_ERR;
    sysv_signal = SYSV_SIGNAL c"__sysv_signal" (number: c_int, handler: sighandler_t) -> sighandler_t, or libc::SIG_ERR;
    sigset = SIGSET c"sigset" (number: c_int, handler: sighandler_t) -> sighandler_t, or libc::SIG_ERR;
    sigignore = SIGIGNORE c"sigignore" (number: c_int) -> c_int, or -1;
    sighold = SIGHOLD c"sighold" (number: c_int) -> c_int, or -1;
    sigrelse = SIGRELSE c"sigrelse" (number: c_int) -> c_int, or -1;
    sigblock = SIGBLOCK c"sigblock" (mask: c_int) -> c_int, or -1;
    sigsetmask = SIGSETMASK c"sigsetmask" (mask: c_int) -> c_int, or -1;
    sigprocmask = SIGPROCMASK c"sigprocmask" (how: c_int, new: *const c_void, old: *mut c_void) -> c_int, or -1;
    pthread_sigmask = PTHREAD_SIGMASK c"pthread_sigmask" (how: c_int, new: *const c_void, old: *mut c_void) -> c_int, or libc::ENOSYS;
    pthread_attr_setsigmask_np = PTHREAD_ATTR_SETSIGMASK_NP c"pthread_attr_setsigmask_np" (attributes: *mut c_void, mask: *const c_void) -> c_int, or libc::ENOSYS;
    pthread_attr_getsigmask_np = PTHREAD_ATTR_GETSIGMASK_NP c"pthread_attr_getsigmask_np" (attributes: *const c_void, mask: *mut c_void) -> c_int, or libc::ENOSYS;
    sigpending = SIGPENDING c"sigpending" (set: *mut c_void) -> c_int, or -1;
    sigsuspend = SIGSUSPEND c"sigsuspend" (mask: *const c_void) -> c_int, or -1;
    sigpause = SIGPAUSE c"sigpause" (mask: c_int) -> c_int, or -1;
    xpg_sigpause = XPG_SIGPAUSE c"__xpg_sigpause" (number: c_int) -> c_int, or -1;
    sigwait = SIGWAIT c"sigwait" (set: *const c_void, number: *mut c_int) -> c_int, or libc::ENOSYS;
    sigtimedwait = SIGTIMEDWAIT c"sigtimedwait" (set: *const c_void, info: *mut c_void, timeout: *const timespec) -> c_int, or -1;
    signalfd = SIGNALFD c"signalfd" (fd: c_int, set: *const c_void, flags: c_int) -> c_int, or -1;
    pselect = PSELECT c"pselect" (count: c_int, to_read: *mut c_void, to_write: *mut c_void, exceptional: *mut c_void, timeout: *const timespec, mask: *const c_void) -> c_int, or -1;
    epoll_pwait2 = EPOLL_PWAIT2 c"epoll_pwait2" (epoll: c_int, into: *mut epoll_event, count: c_int, timeout: *const timespec, mask: *const c_void) -> c_int, or -1;
    sigaltstack = SIGALTSTACK c"sigaltstack" (new: *const stack_t, old: *mut stack_t) -> c_int, or -1;
    fread = FREAD c"fread" (into: *mut c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t, or 0;
    fread_unlocked = FREAD_UNLOCKED c"fread_unlocked" (into: *mut c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t, or 0;
    fwrite = FWRITE c"fwrite" (from: *const c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t, or 0;
    fwrite_unlocked = FWRITE_UNLOCKED c"fwrite_unlocked" (from: *const c_void, size: size_t, count: size_t, stream: *mut FILE) -> size_t, or 0;
    // Layout.
    ftruncate64 = FTRUNCATE64 c"ftruncate64" (fd: c_int, size: off_t) -> c_int, or -1;
    fallocate64 = FALLOCATE64 c"fallocate64" (fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int, or -1;
    posix_fallocate64 = POSIX_FALLOCATE64 c"posix_fallocate64" (fd: c_int, at: off_t, length: off_t) -> c_int, or libc::ENOSYS;
    ioctl = IOCTL c"ioctl" (fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int, or -1;
    // Memory.
    mlock = MLOCK c"mlock" (at: *const c_void, length: size_t) -> c_int, or -1;
    mlock2 = MLOCK2 c"mlock2" (at: *const c_void, length: size_t, flags: c_uint) -> c_int, or -1;
    munlock = MUNLOCK c"munlock" (at: *const c_void, length: size_t) -> c_int, or -1;
    mlockall = MLOCKALL c"mlockall" (flags: c_int) -> c_int, or -1;
    remap_file_pages = REMAP_FILE_PAGES c"remap_file_pages" (at: *mut c_void, length: size_t, prot: c_int, page: size_t, flags: c_int) -> c_int, or -1;
    pkey_mprotect = PKEY_MPROTECT c"pkey_mprotect" (at: *mut c_void, length: size_t, prot: c_int, key: c_int) -> c_int, or -1;
    process_madvise = PROCESS_MADVISE c"process_madvise" (pidfd: c_int, ranges: *const iovec, count: size_t, advice: c_int, flags: c_uint) -> ssize_t, or -1;
    shmat = SHMAT c"shmat" (segment: c_int, at: *const c_void, flags: c_int) -> *mut c_void, or libc::MAP_FAILED;
    // Descriptors.
    dup = DUP c"dup" (fd: c_int) -> c_int, or -1;
    dup2 = DUP2 c"dup2" (fd: c_int, to: c_int) -> c_int, or -1;
    dup3 = DUP3 c"dup3" (fd: c_int, to: c_int, flags: c_int) -> c_int, or -1;
    fcntl = FCNTL c"fcntl64" (fd: c_int, command: c_int, argument: c_long) -> c_int, or -1;
    unshare = UNSHARE c"unshare" (flags: c_int) -> c_int, or -1;
    pidfd_getfd = PIDFD_GETFD c"pidfd_getfd" (pidfd: c_int, fd: c_int, flags: c_uint) -> c_int, or -1;
    sendmsg = SENDMSG c"sendmsg" (socket: c_int, message: *const msghdr, flags: c_int) -> ssize_t, or -1;
    recvmsg = RECVMSG c"recvmsg" (socket: c_int, message: *mut msghdr, flags: c_int) -> ssize_t, or -1;
    sendmmsg = SENDMMSG c"sendmmsg" (socket: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int, or -1;
    recvmmsg = RECVMMSG c"recvmmsg" (socket: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int, or -1;
    // Streams.
    fdopen = FDOPEN c"fdopen" (fd: c_int, mode: *const c_char) -> *mut FILE, or ptr::null_mut();
    fileno = FILENO c"fileno" (stream: *mut FILE) -> c_int, or -1;
    vdprintf = VDPRINTF c"vdprintf" (fd: c_int, format: *const c_char, arguments: *mut c_void) -> c_int, or -1;
    vdprintf_chk = VDPRINTF_CHK c"__vdprintf_chk" (fd: c_int, flag: c_int, format: *const c_char, arguments: *mut c_void) -> c_int, or -1;
    // Processes.
    fork_only = FORK_ONLY c"_Fork" () -> pid_t, or -1;
    posix_spawn = POSIX_SPAWN c"posix_spawn" (pid: *mut pid_t, path: *const c_char, actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t, arguments: Strings, environment: Strings) -> c_int, or libc::ENOSYS;
    posix_spawnp = POSIX_SPAWNP c"posix_spawnp" (pid: *mut pid_t, file: *const c_char, actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t, arguments: Strings, environment: Strings) -> c_int, or libc::ENOSYS;
    pidfd_spawn = PIDFD_SPAWN c"pidfd_spawn" (pidfd: *mut c_int, path: *const c_char, actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t, arguments: Strings, environment: Strings) -> c_int, or libc::ENOSYS;
    pidfd_spawnp = PIDFD_SPAWNP c"pidfd_spawnp" (pidfd: *mut c_int, file: *const c_char, actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t, arguments: Strings, environment: Strings) -> c_int, or libc::ENOSYS;
    system = SYSTEM c"system" (command: *const c_char) -> c_int, or -1;
    popen = POPEN c"popen" (command: *const c_char, mode: *const c_char) -> *mut FILE, or ptr::null_mut();
    wordexp = WORDEXP c"wordexp" (words: *const c_char, expansion: *mut c_void, flags: c_int) -> c_int, or libc::ENOSYS;
    clone = CLONE c"clone" (start: Start, stack: *mut c_void, flags: c_int, argument: *mut c_void, parent_tid: *mut c_void, tls: *mut c_void, child_tid: *mut c_void) -> c_int, or -1;
    setuid = SETUID c"setuid" (user: uid_t) -> c_int, or -1;
    seteuid = SETEUID c"seteuid" (user: uid_t) -> c_int, or -1;
    setreuid = SETREUID c"setreuid" (user: uid_t, effective: uid_t) -> c_int, or -1;
    setresuid = SETRESUID c"setresuid" (user: uid_t, effective: uid_t, saved: uid_t) -> c_int, or -1;
    // Asynchronous I/O.
    aio_write = AIO_WRITE c"aio_write" (request: *mut aiocb) -> c_int, or -1;
    lio_listio = LIO_LISTIO c"lio_listio" (mode: c_int, requests: *const *mut aiocb, count: c_int, event: *mut sigevent) -> c_int, or -1;
    io_setup = IO_SETUP c"io_setup" (events: c_int, context: *mut c_void) -> c_int, or -libc::ENOSYS;
    io_queue_init = IO_QUEUE_INIT c"io_queue_init" (events: c_int, context: *mut c_void) -> c_int, or -libc::ENOSYS;
    io_uring_queue_init = IO_URING_QUEUE_INIT c"io_uring_queue_init" (entries: c_uint, ring: *mut c_void, flags: c_uint) -> c_int, or -libc::ENOSYS;
    io_uring_queue_init_params = IO_URING_QUEUE_INIT_PARAMS c"io_uring_queue_init_params" (entries: c_uint, ring: *mut c_void, parameters: *mut c_void) -> c_int, or -libc::ENOSYS;
    io_uring_queue_init_mem = IO_URING_QUEUE_INIT_MEM c"io_uring_queue_init_mem" (entries: c_uint, ring: *mut c_void, parameters: *mut c_void, memory: *mut c_void, size: size_t) -> c_int, or -libc::ENOSYS;
    io_uring_setup = IO_URING_SETUP c"io_uring_setup" (entries: c_uint, parameters: *mut c_void) -> c_int, or -libc::ENOSYS;
    // Everything else.
    syscall = SYSCALL c"syscall" (number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long, or -1;
}

/// Looked up for the trampolines, which jump there.
pub(crate) static VFORK: Symbol = Symbol::new(c"vfork");
pub(crate) static DPRINTF: Symbol = Symbol::new(c"dprintf");
pub(crate) static DPRINTF_CHK: Symbol = Symbol::new(c"__dprintf_chk");
pub(crate) static SETCONTEXT: Symbol = Symbol::new(c"setcontext");
pub(crate) static SWAPCONTEXT: Symbol = Symbol::new(c"swapcontext");
/// `void _exit(int)`: it has no answer.
pub(crate) static EXIT: Symbol = Symbol::new(c"_exit");
