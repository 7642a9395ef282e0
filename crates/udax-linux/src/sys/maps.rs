//! Which mapping lies at an address: the PROCMAP_QUERY request of /proc/self/maps (Linux 6.11), which does not cost a walk over all of them.

use super::errno::Errno;
use super::raw::syscall;
use super::{bits, to_usize};
use linux_raw_sys::general as k;
use std::ops::Range;
use std::os::fd::RawFd;

/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: u32 = (3 << 30) | (ARGUMENT_BYTES << 16) | ((b'f' as u32) << 8) | 17;
const ARGUMENT_BYTES: u32 = 104;
const _: () = assert!(size_of::<k::procmap_query>() == ARGUMENT_BYTES as usize);

/// Bits of `procmap_query_flags`.
const READABLE: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const SHARED: u64 = 1 << 3;
const THIS_OR_NEXT: u64 = 1 << 4;

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) addresses: Range<usize>,
    pub(crate) may_be_loaded_from: bool,
    pub(crate) may_be_stored_to: bool,
    pub(crate) is_shared: bool,
    pub(crate) offset_bytes: u64,
    /// 0 for memory without a file.
    pub(crate) ino: u64,
}

/// The mapping at `address`, or else the next one. [`Errno::NOENT`] if there is none; [`Errno::NOTTY`] where the kernel cannot say.
pub(crate) fn at_or_behind(maps: RawFd, address: usize) -> Result<Found, Errno> {
    // SAFETY: all zero is a query of nothing.
    let mut query: k::procmap_query = unsafe { std::mem::zeroed() };
    query.size = u64::from(ARGUMENT_BYTES);
    query.query_flags = THIS_OR_NEXT;
    query.query_addr = address as u64;
    let pointer: *mut k::procmap_query = &raw mut query;
    let arguments = [maps as usize, bits(PROCMAP_QUERY), pointer as usize, 0, 0, 0];
    // SAFETY: the structure is the request's own and asks for no name and no build number; it is borrowed for the call.
    unsafe { syscall(k::__NR_ioctl, arguments) }?;
    Ok(Found {
        addresses: to_usize(query.vma_start)..to_usize(query.vma_end),
        may_be_loaded_from: query.vma_flags & READABLE != 0,
        may_be_stored_to: query.vma_flags & WRITABLE != 0,
        is_shared: query.vma_flags & SHARED != 0,
        offset_bytes: query.vma_offset,
        ino: query.inode,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fd;
    use super::*;

    #[test]
    fn the_mapping_of_this_code_is_found_and_none_behind_the_last() {
        let maps = fd::open(c"/proc/self/maps", k::O_RDONLY | k::O_CLOEXEC).expect("opened");
        let function: fn() = the_mapping_of_this_code_is_found_and_none_behind_the_last;
        match at_or_behind(maps, function as usize) {
            Err(Errno::NOTTY) => eprintln!("SKIPPED: this kernel has no PROCMAP_QUERY"),
            found => {
                let found = found.expect("code is mapped");
                assert!(found.addresses.contains(&(function as usize)));
                assert!(
                    found.may_be_loaded_from
                        && !found.may_be_stored_to
                        && !found.is_shared
                        && found.ino != 0
                );
                assert_eq!(at_or_behind(maps, usize::MAX - 4095), Err(Errno::NOENT));
            }
        }
        fd::close(maps);
    }
}
