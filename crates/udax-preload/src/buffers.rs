//! Calls that read or write the program's memory, where the kernel cannot wait for a fault there (a userfaultfd for user mode alone): the memory is made ready
//! for them before.
//!
//! Another thread can take it back until the call comes to it (it unmaps another mapping of the file, or the file's service ends): then the call fails with
//! `EFAULT` though nothing is wrong, and is made again. Calls that are not here, and are given memory in which a hole is shown, fail
//! in that way for good (README.md lists what that means).

use crate::errno::{self, Kept};
use crate::{peek, state};
use libc::{c_int, iovec, size_t};
use udax::program::{Access, Prepared, Program};

/// Whether memory has to be made ready now.
pub(crate) fn is_needed() -> bool {
    state::any_file_mapped() && state::program().is_some_and(Program::prepares)
}

/// Makes memory ready; what it answers is to be held over the call.
pub(crate) fn prepare(address: usize, length: usize, access: Access) -> Option<Prepared<'static>> {
    if !state::any_file_mapped() || !state::program()?.may_prepare(address, length) {
        return None;
    }
    state::ask(|program| program.prepare(address, length, access))?
}

/// So often a call is made that was refused memory which others took back. No more, since it may have been refused for memory that is the program's own mistake.
pub(crate) const PATIENCE: u32 = 8;

/// Makes `call`, which answers -1 where it fails, with `memory` (addresses and lengths) made ready for it.
pub(crate) fn ready<N: PartialEq + From<i8>>(
    memory: &[(usize, usize)],
    access: Access,
    call: impl Fn() -> N,
) -> N {
    for _ in 0..PATIENCE {
        let prepared: Vec<_> = memory
            .iter()
            .filter_map(|&(address, length)| prepare(address, length, access))
            .collect();
        let answer = call();
        let again = answer == N::from(-1) && !prepared.is_empty() && errno::get() == libc::EFAULT;
        let _errno = Kept::now();
        drop(prepared);
        if !again {
            return answer;
        }
    }
    call()
}

/// The same for a vector of memory; a count that makes no sense is the kernel's to refuse.
pub(crate) fn ready_vectors<N: PartialEq + From<i8>>(
    ranges: *const iovec,
    count: c_int,
    access: Access,
    call: impl Fn() -> N,
) -> N {
    let count = usize::try_from(count).ok().filter(|_| is_needed());
    let count = count.filter(|&count| count <= libc::UIO_MAXIOV.cast_unsigned() as usize);
    let kept = Kept::now();
    let found = count.and_then(|count| peek::many(ranges, count)).unwrap_or_default();
    drop(kept);
    let memory: Vec<_> = found.iter().map(|one| (one.iov_base.addr(), one.iov_len)).collect();
    ready(&memory, access, call)
}

/// What `_FORTIFY_SOURCE` checks: a buffer of `size` bytes is asked to take `count`.
pub(crate) fn checked(count: size_t, size: size_t) -> size_t {
    if count > size {
        // As libc's own check does.
        crate::report::to_stderr("*** buffer overflow detected ***: terminated\n");
        std::process::abort();
    }
    count
}
