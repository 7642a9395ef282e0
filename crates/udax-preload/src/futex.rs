//! futex(2), which is called by number alone. The words lie where the program has put them, also in holes.
//!
//! Other processes, and threads that come after the page has got storage, know a shared futex by its place in the file; a lock of the kernel's own making
//! (`*_PI`) is stored to by the kernel in a way that does not wait for a fault to be served. There the plain mapping goes in. Who only reads the word, and knows it by
//! its address, is shown the zeros.

use crate::buffers::prepare;
use crate::{buffers, errno, memory};
use libc::{c_int, c_long};
use udax::program::Access;

const WORD_BYTES: usize = size_of::<u32>();

/// What a call does to a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It goes by its address.
    Name,
    /// Its value is compared.
    Read,
    /// It may be changed.
    Change,
}

/// What `operation` does to its first word and to its second.
const fn uses(operation: c_int) -> (Use, Option<Use>) {
    match operation {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => (Use::Read, None),
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => (Use::Name, None),
        libc::FUTEX_REQUEUE => (Use::Name, Some(Use::Name)),
        libc::FUTEX_CMP_REQUEUE => (Use::Read, Some(Use::Name)),
        libc::FUTEX_WAKE_OP => (Use::Name, Some(Use::Change)),
        libc::FUTEX_WAIT_REQUEUE_PI | libc::FUTEX_CMP_REQUEUE_PI => (Use::Read, Some(Use::Change)),
        // The locks, and whatever comes to be.
        _ => (Use::Change, None),
    }
}

/// Makes `call`, with its words made ready.
pub(crate) fn with_words(
    operation: c_int,
    first: usize,
    second: usize,
    call: impl Fn() -> c_long,
) -> c_long {
    let is_private = operation & libc::FUTEX_PRIVATE_FLAG != 0;
    let (of_first, of_second) = uses(operation & libc::FUTEX_CMD_MASK);
    let words = [Some((first, of_first)), of_second.map(|of_second| (second, of_second))];
    for (word, its_use) in words.into_iter().flatten() {
        if !is_private || its_use == Use::Change {
            memory::make_plain(word, WORD_BYTES);
        }
    }
    if is_private && of_first == Use::Read { reading(first, call) } else { call() }
}

/// A word that cannot be read is made ready, and may be taken back from then on: the call may wait for ever, and nothing can be held over that. Before it waits it has
/// read the word, and does not look at it again.
///
/// Not before the call has been refused: the locks of this library wait by this number too, also those that are needed to make memory ready.
fn reading(word: usize, call: impl Fn() -> c_long) -> c_long {
    for _ in 0..buffers::PATIENCE {
        let answer = call();
        if answer != -1 || errno::get() != libc::EFAULT {
            return answer;
        }
        if prepare(word, WORD_BYTES, Access::Read).is_none() {
            errno::set(libc::EFAULT);
            return answer;
        }
    }
    call()
}
