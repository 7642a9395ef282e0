//! What the page tables hold, by the PAGEMAP_SCAN request of /proc/self/pagemap.

use super::errno::Errno;
use super::raw::syscall;
use super::{bits, to_usize};
use linux_raw_sys::general as k;
use std::os::fd::RawFd;

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u32 = (3 << 30) | (ARGUMENT_BYTES << 16) | ((b'f' as u32) << 8) | 16;
const ARGUMENT_BYTES: u32 = 96;
const _: () = assert!(size_of::<k::pm_scan_arg>() == ARGUMENT_BYTES as usize);

/// The runs of pages of `start..end` (addresses) that are in memory or swapped out and are not the zero page, in order: in anonymous memory the
/// private copies, in the mapping of a file those that were touched.
pub(crate) fn present_pages(
    pagemap: RawFd,
    start: usize,
    end: usize,
) -> Result<Vec<(usize, usize)>, Errno> {
    let mut found = Vec::new();
    let mut from = start;
    while from < end {
        let (walked_to, regions) = scan_once(pagemap, from, end)?;
        found.extend(regions);
        if walked_to <= from {
            break;
        }
        from = walked_to;
    }
    Ok(found)
}

/// One request; how far it went, and what it found.
fn scan_once(
    pagemap: RawFd,
    start: usize,
    end: usize,
) -> Result<(usize, impl Iterator<Item = (usize, usize)>), Errno> {
    const REGIONS: usize = 64;
    let mut regions = [k::page_region { start: 0, end: 0, categories: 0 }; REGIONS];
    let zero_page = u64::from(k::PAGE_IS_PFNZERO);
    let mut argument = k::pm_scan_arg {
        size: size_of::<k::pm_scan_arg>() as u64,
        flags: 0,
        start: start as u64,
        end: end as u64,
        walk_end: 0,
        vec: regions.as_mut_ptr() as u64,
        vec_len: REGIONS as u64,
        max_pages: 0,
        category_inverted: zero_page,
        category_mask: zero_page,
        category_anyof_mask: u64::from(k::PAGE_IS_PRESENT | k::PAGE_IS_SWAPPED),
        return_mask: u64::from(k::PAGE_IS_PRESENT | k::PAGE_IS_SWAPPED),
    };
    let pointer: *mut k::pm_scan_arg = &raw mut argument;
    let arguments = [pagemap as usize, bits(PAGEMAP_SCAN), pointer as usize, 0, 0, 0];
    // SAFETY: the structure is the request's own, its vector is `regions` with its true length, and both outlive the call.
    let count = unsafe { syscall(k::__NR_ioctl, arguments) }?;
    let found = regions
        .into_iter()
        .take(count)
        .map(|region| (to_usize(region.start), to_usize(region.end)));
    Ok((to_usize(argument.walk_end), found))
}
