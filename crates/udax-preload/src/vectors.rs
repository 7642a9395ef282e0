//! The lengths of scattered writes.

use crate::{peek, state};
use libc::iovec;

/// How many bytes a vectored write of `count` ranges may write: no fewer than it will.
pub(crate) fn total_bytes(ranges: *const iovec, count: usize) -> u64 {
    // Before the program maps a file nobody asks how long a write is.
    if !state::any_file_mapped() || count > libc::UIO_MAXIOV.cast_unsigned() as usize {
        return u64::MAX;
    }
    let Some(ranges) = peek::many(ranges, count) else { return 0 };
    ranges.iter().fold(0, |total: u64, range| total.saturating_add(range.iov_len as u64))
}
