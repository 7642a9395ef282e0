//! Storing through udax, and what ordinary reads of the file find afterwards.

use super::measure::storage_bytes;
use anyhow::Context;
use serde::Serialize;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use udax::SharedMap;
use udax_core::{PAGE_BYTES, PageIndex, PageRange};
use udax_host::{Extent, ExtentKind, FdIo, extents};

/// Bytes of one store.
const STORE_BYTES: usize = 64;
/// Bytes read from the file at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// What was stored, and what was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Stored {
    /// Pages that were stored to.
    pub(crate) pages: u64,
    /// Bytes that were stored.
    pub(crate) bytes: u64,
    /// Stored bytes that an ordinary read found in the file.
    pub(crate) found_bytes: u64,
    /// Bytes in the file that differ from what they must be.
    pub(crate) wrong_bytes: u64,
    /// Storage that the file takes now.
    pub(crate) storage_bytes: u64,
}

/// One store.
struct Store {
    offset: u64,
    bytes: [u8; STORE_BYTES],
}

/// Stores here and there, the first and the last byte of the file included.
fn plan(size_bytes: u64) -> Vec<Store> {
    let pages = size_bytes / PAGE_BYTES;
    let count = (size_bytes >> 23).clamp(2, 16);
    let within = PAGE_BYTES - STORE_BYTES as u64;
    let store = |number: u64| {
        let page = number * (pages - 1) / (count - 1);
        let offset = page * PAGE_BYTES + number * within / (count - 1);
        // Never zero, so that each byte is to be found again; and not the same for two stores.
        let bytes =
            std::array::from_fn(|at| u8::try_from(1 + (number + at as u64) % 255).unwrap_or(1));
        Store { offset, bytes }
    };
    (0..count).map(store).collect()
}

/// Stores to a few pages, syncs, and reads the file through a descriptor opened afterwards.
///
/// # Errors
/// If the sync fails, or the file cannot be read.
pub(super) fn store_and_look(
    map: &SharedMap,
    file: &File,
    size_bytes: u64,
) -> anyhow::Result<Stored> {
    let stores = plan(size_bytes);
    for store in &stores {
        map.store(usize::try_from(store.offset)?, &store.bytes);
    }
    map.flush().context("cannot sync")?;
    let mut found = Stored {
        pages: stores.len() as u64,
        bytes: (stores.len() * STORE_BYTES) as u64,
        storage_bytes: storage_bytes(file)?,
        ..Stored::default()
    };
    // While the map is still there: the other opening ends the lease, and must not find an older file.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let open = || File::open(&path).context("cannot open the file once more");
    let (fresh, io) = (open()?, FdIo::new(open()?.into()));
    // Holes are zeros by what they are: only data has to be read.
    for extent in extents(&io, PageRange::from(PageIndex(0))) {
        let extent =
            extent.map_err(|error| anyhow::anyhow!("cannot find the data of the file: {error}"))?;
        if extent.kind == ExtentKind::Data {
            compare(&fresh, extent, &stores, &mut found)?;
        }
    }
    Ok(found)
}

/// Compares an extent with what it must be: zeros, but for the stores.
fn compare(
    file: &File,
    extent: Extent,
    stores: &[Store],
    found: &mut Stored,
) -> anyhow::Result<()> {
    let (mut at, end) = (extent.pages.start.byte(), extent.pages.end.byte());
    while at < end {
        let mut read = vec![0; usize::try_from(CHUNK_BYTES.min(end - at))?];
        file.read_exact_at(&mut read, at)
            .with_context(|| format!("cannot read {} bytes at {at:#x}", read.len()))?;
        let expected = expected(stores, at, read.len());
        for (is, must) in read.iter().zip(&expected) {
            found.wrong_bytes += u64::from(is != must);
            found.found_bytes += u64::from(is == must && *must != 0);
        }
        at += read.len() as u64;
    }
    Ok(())
}

/// What the file must hold from `at` on.
fn expected(stores: &[Store], at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for store in stores {
        for (place, &byte) in (store.offset..).zip(&store.bytes) {
            let within = place.checked_sub(at).and_then(|within| usize::try_from(within).ok());
            if let Some(slot) = within.and_then(|within| bytes.get_mut(within)) {
                *slot = byte;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_lie_in_pages_of_their_own_and_reach_both_ends() {
        for size_bytes in [4 << 20, (4 << 20) + 4096, 64 << 20, 1 << 30] {
            let stores = plan(size_bytes);
            let pages: Vec<u64> = stores.iter().map(|s| s.offset / PAGE_BYTES).collect();
            assert!(pages.windows(2).all(|pair| pair[0] < pair[1]), "{pages:?}");
            assert_eq!(stores[0].offset, 0);
            let last = stores.last().expect("there are stores").offset;
            assert_eq!(last + STORE_BYTES as u64, size_bytes);
            assert!(stores.iter().all(|store| !store.bytes.contains(&0)));
        }
    }

    #[test]
    fn a_wrong_byte_and_a_missing_byte_are_counted() {
        let file = tempfile::tempfile().expect("a file");
        let stores = plan(8 << 20);
        file.set_len(8 << 20).expect("room");
        file.write_all_at(&stores[0].bytes[..10], 0).expect("room");
        file.write_all_at(b"?", 100).expect("room");
        let extent = Extent { pages: PageRange::new(PageIndex(0), 1), kind: ExtentKind::Data };
        let mut found = Stored::default();
        compare(&file, extent, &stores, &mut found).expect("readable");
        assert_eq!((found.found_bytes, found.wrong_bytes), (10, 64 - 10 + 1));
    }
}
