//! What the tests share: a file on memory or disk, and a handler that serves faults in the simplest right way.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod alone;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use udax_core::{AddressSpace, Frame, Order, PageIndex, PageRange, PrivateCopies, Rights};
use udax_linux::{
    Access, FaultEvent, FileHandle, Handler, InPlace, Lease, LeaseId, LinuxSpace, Mapped, Prot,
    Service, Sharing, StartError, Verdict,
};

pub(crate) const PAGE: usize = 4096;
pub(crate) const HUGE: usize = 2 << 20;
pub(crate) const READ_WRITE: Prot = Prot::from_bits(3);
pub(crate) const READ_ONLY: Prot = Prot::from_bits(1);
pub(crate) const NO_RIGHTS: Prot = Prot::from_bits(0);

/// A file that goes when the test does.
pub(crate) struct TempFile {
    pub(crate) path: PathBuf,
    pub(crate) file: std::fs::File,
}

impl TempFile {
    pub(crate) fn new(directory: &str, bytes: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("udax-linux-test-{}-{number}", std::process::id());
        let path = Path::new(directory).join(name);
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("the directory can be written");
        file.set_len(bytes).expect("the file can be sparse");
        Self { path, file }
    }

    pub(crate) fn sparse(bytes: usize) -> Self {
        Self::new("/dev/shm", bytes as u64)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn blocks_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().expect("the file is open").blocks() * 512
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves loads with a window of up to `window_pages`, stores with the file, 2 MiB at a time.
#[derive(Default)]
pub(crate) struct Simple {
    spaces: Mutex<BTreeMap<usize, Arc<LinuxSpace>>>,
    pub(crate) faults: Mutex<Vec<FaultEvent>>,
    pub(crate) broken: Mutex<Vec<LeaseId>>,
    pub(crate) lease_change: Condvar,
    pub(crate) leases: Mutex<Vec<(Lease, Option<Arc<LinuxSpace>>)>>,
}

pub(crate) const WINDOW_PAGES: u64 = 2048;

impl Simple {
    pub(crate) fn watch(&self, space: &Arc<LinuxSpace>) {
        let end = space.area().end();
        self.spaces.lock().expect("no test panics with it").insert(end, Arc::clone(space));
    }

    pub(crate) fn forget(&self, space: &Arc<LinuxSpace>) {
        self.spaces.lock().expect("no test panics with it").remove(&space.area().end());
    }

    fn find(&self, address: usize) -> Option<Arc<LinuxSpace>> {
        let spaces = self.spaces.lock().expect("no test panics with it");
        let (_, space) = spaces.range(address + 1..).next()?;
        space.area().page_of(address).is_some().then(|| Arc::clone(space))
    }
}

impl Handler for Simple {
    fn fault(&self, fault: FaultEvent) -> Verdict {
        self.faults.lock().expect("no test panics with it").push(fault);
        let Some(space) = self.find(fault.address) else { return Verdict::Free };
        match space.serve_in_place(fault) {
            InPlace::Served => return Verdict::Served,
            InPlace::Free => return Verdict::Free,
            InPlace::NeedsEngine => {}
        }
        let area = space.area();
        let page = area.page_of(fault.address).expect("it was found by this address");
        let unit = PageRange::unit(page, Order::Pmd).intersect(area.pages());
        let stores_reach_the_file = area.sharing() == Sharing::Shared;
        if fault.access == Access::Write && stores_reach_the_file {
            space.unmap(unit, PrivateCopies::Keep);
            let frame = Frame(unit.start.0);
            let _ = space.install_storage(unit, frame, Order::Pmd, Rights::WritableDirty);
        } else {
            let window = PageRange::new(unit.start, WINDOW_PAGES).intersect(area.pages());
            let _ = space.install_zeros(window, Order::Pmd);
        }
        Verdict::Served
    }

    fn lease_broken(&self, lease: LeaseId) {
        let mut leases = self.leases.lock().expect("no test panics with it");
        for (_, space) in leases.iter().filter(|(held, _)| held.id() == lease) {
            if let Some(space) = space {
                space.plain_all();
            }
        }
        leases.retain(|(held, _)| held.id() != lease);
        self.broken.lock().expect("no test panics with it").push(lease);
        self.lease_change.notify_all();
    }
}

/// The service and its handler, once in a test process; `None`, said on standard error, where userfaultfd is refused.
pub(crate) fn service() -> Option<(&'static Arc<Service>, &'static Arc<Simple>)> {
    static STARTED: OnceLock<Option<(Arc<Service>, Arc<Simple>)>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        let handler = Arc::new(Simple::default());
        match Service::start(Arc::clone(&handler) as Arc<dyn Handler>) {
            Ok(service) => Some((service, handler)),
            Err(error @ StartError::Userfaultfd { .. }) => {
                eprintln!("SKIPPED: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    started.as_ref().map(|(service, handler)| (service, handler))
}

/// A mapping whose faults are served.
pub(crate) struct Served {
    pub(crate) mapped: Mapped,
    pub(crate) space: Arc<LinuxSpace>,
    pub(crate) handler: &'static Arc<Simple>,
    pub(crate) service: &'static Arc<Service>,
}

impl Served {
    pub(crate) fn new(
        file: &TempFile,
        length_bytes: usize,
        sharing: Sharing,
        prot: Prot,
    ) -> Option<Self> {
        let (service, handler) = service()?;
        let mapped = Mapped::new(file.fd(), 0, length_bytes, sharing, prot, 0)
            .expect("the file can be mapped");
        let handle = FileHandle::adopt(service, file.fd()).expect("the file can be shared");
        let space = Arc::new(LinuxSpace::new(mapped.area(), handle));
        handler.watch(&space);
        space.lay_traps(space.area().pages()).expect("a trap can be laid");
        Some(Self { mapped, space, handler, service })
    }

    pub(crate) fn shared(file: &TempFile, length_bytes: usize) -> Option<Self> {
        Self::new(file, length_bytes, Sharing::Shared, READ_WRITE)
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        let mut byte = [0];
        self.mapped.load(at, &mut byte);
        byte[0]
    }

    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.mapped.length_bytes(), "in the mapping");
        let pointer = self.mapped.as_mut_ptr().wrapping_add(at).cast::<u64>();
        // SAFETY: aligned and in the mapping (checked above), which lives as long as `self`; used by atomics alone.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    pub(crate) fn assert_nothing_lost(&self) {
        let lost = self.space.audit().expect("the page tables can be looked at");
        assert!(lost.is_empty(), "private pages where only the zero page may be: {lost:?}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.handler.forget(&self.space);
    }
}

/// A line of /proc/self/status, in bytes.
pub(crate) fn status_bytes(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find(|line| line.starts_with(name)).expect("the line is there");
    let kibibytes: usize =
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kibibytes * 1024
}

pub(crate) fn page(index: u64) -> PageIndex {
    PageIndex(index)
}

pub(crate) fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).expect("no zero byte in it")
}
