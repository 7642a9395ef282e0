//! A file on a real file system, seen from both sides.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use udax_core::{Backing, Filesystem, Intent, Iomap, PAGE_BYTES, PMD_PAGES, PageIndex, PageRange};
use udax_host::{FdIo, HostFile, HostKind};

pub(crate) const UNIT_BYTES: u64 = PMD_PAGES * PAGE_BYTES;

/// Where test files are made: memory, and whatever the temporary directory is on.
pub(crate) fn places() -> Vec<PathBuf> {
    vec![PathBuf::from("/dev/shm"), std::env::temp_dir()]
}

pub(crate) struct Bench {
    /// What the rest of the process sees.
    pub(crate) file: File,
    pub(crate) host: HostFile,
    pub(crate) io: Arc<FdIo>,
}

/// A trusted file of `size_bytes` without data.
pub(crate) fn sparse(place: &PathBuf, size_bytes: u64) -> Bench {
    let file = tempfile::tempfile_in(place).unwrap();
    file.set_len(size_bytes).unwrap();
    let kind = HostKind::of_fd(file.as_fd()).unwrap();
    assert!(kind.supported(), "{} is on {kind}", place.display());
    let io = Arc::new(FdIo::new(OwnedFd::from(file.try_clone().unwrap())));
    let host = HostFile::new(io.clone(), kind);
    host.trust();
    Bench { file, host, io }
}

impl Bench {
    pub(crate) fn write_page(&self, page: u64) {
        self.file.write_all_at(&[7; 4096], page * PAGE_BYTES).unwrap();
    }

    pub(crate) fn survey(&self) -> u64 {
        self.host.survey(everything()).unwrap().hole_pages
    }

    /// The answer, after what every answer must fulfil.
    pub(crate) fn begin(&self, range: PageRange, intent: Intent) -> Iomap {
        let iomap = self.host.iomap_begin(range, intent).unwrap();
        assert_eq!(iomap.range.start, range.start);
        assert!(!iomap.range.is_empty());
        match iomap.backing {
            Backing::Hole => assert_ne!(intent, Intent::Write, "a store was given a hole"),
            Backing::Mapped(frame) => assert_eq!(frame.0, range.start.0, "a frame of another page"),
            Backing::Unwritten | Backing::Other => panic!("{iomap:?}"),
        }
        self.host.iomap_end(&iomap, iomap.range.len()).unwrap();
        iomap
    }
}

pub(crate) fn everything() -> PageRange {
    PageRange::from(PageIndex(0))
}

pub(crate) fn pages(start: u64, end: u64) -> PageRange {
    PageRange::between(PageIndex(start), PageIndex(end))
}

pub(crate) fn page(index: u64) -> PageRange {
    pages(index, index + 1)
}
