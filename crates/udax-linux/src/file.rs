//! One open file of the program, as the service's threads see it.

use crate::lease::{Lease, LeaseRefused};
use crate::service::Service;
use crate::sys::errno::Errno;
use crate::sys::fd;
use linux_raw_sys::general as k;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::Arc;

/// What a description was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessMode {
    /// Reading.
    ReadOnly,
    /// Writing.
    WriteOnly,
    /// Both.
    ReadWrite,
    /// Neither: access mode 3, or O_PATH.
    Neither,
}

impl AccessMode {
    /// Whether the file may be written through it.
    #[must_use]
    pub const fn can_write(self) -> bool {
        matches!(self, Self::WriteOnly | Self::ReadWrite)
    }

    /// Whether the file may be read through it.
    #[must_use]
    pub const fn can_read(self) -> bool {
        matches!(self, Self::ReadOnly | Self::ReadWrite)
    }

    const fn from_flags(flags: u32) -> Self {
        match (flags & k::O_PATH, flags & k::O_ACCMODE) {
            (0, k::O_RDONLY) => Self::ReadOnly,
            (0, k::O_WRONLY) => Self::WriteOnly,
            (0, k::O_RDWR) => Self::ReadWrite,
            _ => Self::Neither,
        }
    }
}

/// What is known of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// The device of its file system, as `st_dev`.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
    /// Its length.
    pub size_bytes: u64,
    /// The storage that it has.
    pub blocks_bytes: u64,
    /// How many names it has.
    pub links: u32,
    /// Whether it is a regular file.
    pub is_regular: bool,
    /// What this description was opened for.
    pub access: AccessMode,
    /// The kind of its file system, as `f_type` of `statfs`.
    pub fs_magic: u64,
}

/// What is known of descriptor `fd` of the calling thread. Needs no service, takes no lock.
///
/// # Errors
/// As `fstat`, `fstatfs` and `fcntl`.
pub fn file_info(fd: RawFd) -> Result<FileInfo, Errno> {
    let status = fd::status(fd)?;
    let (major, minor) = (u64::from(status.stx_dev_major), u64::from(status.stx_dev_minor));
    let dev = ((major & 0xffff_f000) << 32)
        | ((major & 0xfff) << 8)
        | ((minor & 0xffff_ff00) << 12)
        | (minor & 0xff);
    Ok(FileInfo {
        dev,
        ino: status.stx_ino,
        size_bytes: status.stx_size,
        blocks_bytes: status.stx_blocks * 512,
        links: status.stx_nlink,
        is_regular: u32::from(status.stx_mode) & k::S_IFMT == k::S_IFREG,
        access: AccessMode::from_flags(fd::flags(fd)?),
        fs_magic: fd::file_system_magic(fd)?,
    })
}

/// Whether writes through descriptor `fd` of the calling thread go to the end of the file, whatever offset they name (pwrite(2), BUGS).
#[must_use]
pub fn descriptor_appends(fd: RawFd) -> bool {
    fd::flags(fd).is_ok_and(|flags| flags & k::O_APPEND != 0)
}

/// A descriptor of the private table; dropping closes it there.
pub(crate) struct Fd {
    number: RawFd,
    service: Arc<Service>,
}

impl Drop for Fd {
    fn drop(&mut self) {
        let number = self.number;
        self.service.finish(move || fd::close(number));
    }
}

/// One open file description of the program, by a descriptor of ours, and a second one for looking at it.
///
/// Its calls go to a service thread and wait for it, unless they come from one. Their buffers must not be served memory.
pub struct FileHandle {
    program: Fd,
    /// Another description of the same file, so that SEEK_HOLE never moves the program's position.
    probe: Option<Fd>,
    info: FileInfo,
    service: Arc<Service>,
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileHandle").field("info", &self.info).finish_non_exhaustive()
    }
}

impl FileHandle {
    /// Shares the description behind descriptor `fd` of the program, and opens the file a second time for looking at it, in a
    /// way that a lease does not count. To be done before a lease is asked for: that open would break it.
    ///
    /// # Errors
    /// [`Errno::INVAL`] if it is no regular file; else as `pidfd_getfd` and `fstat`.
    pub fn adopt(service: &Arc<Service>, fd: RawFd) -> Result<Arc<Self>, Errno> {
        let handle = service
            .table
            .handover
            .hand(fd, |taken| service.with_descriptors(|| Self::of(service, taken()?)))?;
        Ok(Arc::new(handle))
    }

    /// Of a descriptor of the service's table. On a service thread.
    fn of(service: &Arc<Service>, number: RawFd) -> Result<Self, Errno> {
        let program = Fd { number, service: Arc::clone(service) };
        let info = file_info(number)?;
        if !info.is_regular {
            return Err(Errno::INVAL);
        }
        let probe = open_again(number, info.access)
            .map(|number| Fd { number, service: Arc::clone(service) });
        Ok(Self { program, probe, info, service: Arc::clone(service) })
    }

    /// The same without the second opening, which breaks the leases of others: for who has no use for the seeks.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt).
    pub fn keep(service: &Arc<Service>, fd: RawFd) -> Result<Arc<Self>, Errno> {
        let keep = |number| {
            let program = Fd { number, service: Arc::clone(service) };
            let info = file_info(number)?;
            let is_file = if info.is_regular { Ok(()) } else { Err(Errno::INVAL) };
            is_file.map(|()| Self { program, probe: None, info, service: Arc::clone(service) })
        };
        let handover = &service.table.handover;
        let handle = handover.hand(fd, |taken| service.with_descriptors(|| keep(taken()?)))?;
        Ok(Arc::new(handle))
    }

    /// What was known of it when it was adopted.
    #[must_use]
    pub const fn info(&self) -> FileInfo {
        self.info
    }

    /// The service whose table it is in.
    #[must_use]
    pub const fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Whether the file could be opened for looking: without that the two seeks fail with [`Errno::BADF`].
    #[must_use]
    pub const fn can_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// The number in the private table of the program's description.
    pub(crate) const fn descriptor(&self) -> RawFd {
        self.program.number
    }

    /// That of the description to have a lease on. A write lease counts writers and excuses its own, so it has to be the program's. A read lease goes to one
    /// that nobody else has: a child of fork, which shares the program's, may take its own and leave us ours.
    pub(crate) fn leased_descriptor(&self) -> RawFd {
        let own = self.probe.as_ref().filter(|_| self.info.access == AccessMode::ReadOnly);
        own.unwrap_or(&self.program).number
    }

    /// Asks the kernel for a lease: on the program's description if the file may be written through it, else on one of our own. One description can have but one.
    ///
    /// # Errors
    /// What the kernel's refusal means.
    pub fn take_lease(self: &Arc<Self>) -> Result<Lease, LeaseRefused> {
        Lease::take(self)
    }

    fn with<R: Send>(
        &self,
        work: impl FnOnce(RawFd) -> Result<R, Errno> + Send,
    ) -> Result<R, Errno> {
        let number = self.program.number;
        self.service.with_files(|| work(number))
    }

    /// Its length in bytes, now.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn size(&self) -> Result<u64, Errno> {
        self.service.with_descriptors(|| Ok(fd::status(self.program.number)?.stx_size))
    }

    /// The bytes of storage it has, now.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn blocks_bytes(&self) -> Result<u64, Errno> {
        self.service.with_descriptors(|| Ok(fd::status(self.program.number)?.stx_blocks * 512))
    }

    fn seek(&self, from: u64, whence: u32) -> Result<Option<u64>, Errno> {
        let probe = self.probe.as_ref().ok_or(Errno::BADF)?.number;
        match self.service.with_files(|| fd::seek(probe, from, whence)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Where the next data at or behind byte `from` begin; `None` if there are none up to the end of the file.
    ///
    /// # Errors
    /// As `lseek(SEEK_DATA)`.
    pub fn seek_data(&self, from: u64) -> Result<Option<u64>, Errno> {
        self.seek(from, k::SEEK_DATA)
    }

    /// Where the next hole at or behind byte `from` begins (the end of the file counts as one); `None` if `from` is at the
    /// end of the file or behind.
    ///
    /// # Errors
    /// As `lseek(SEEK_HOLE)`.
    pub fn seek_hole(&self, from: u64) -> Result<Option<u64>, Errno> {
        self.seek(from, k::SEEK_HOLE)
    }

    /// Reads at byte `at`, without moving the program's position.
    ///
    /// # Errors
    /// As `pread`.
    pub fn pread(&self, into: &mut [u8], at: u64) -> Result<usize, Errno> {
        self.with(|fd| fd::read_at(fd, into, at))
    }

    /// Writes at byte `at`, without moving the program's position.
    ///
    /// # Errors
    /// As `pwrite`; [`Errno::INVAL`] if the description is in append mode, in which the kernel would not heed `at`.
    pub fn pwrite(&self, from: &[u8], at: u64) -> Result<usize, Errno> {
        self.with(|fd| {
            if fd::flags(fd)? & k::O_APPEND != 0 {
                return Err(Errno::INVAL);
            }
            fd::write_at(fd, from, at)
        })
    }

    /// Gives the storage of a range back; the file keeps its length.
    ///
    /// # Errors
    /// As `fallocate`.
    pub fn punch(&self, at: u64, length_bytes: u64) -> Result<(), Errno> {
        let mode = k::FALLOC_FL_PUNCH_HOLE | k::FALLOC_FL_KEEP_SIZE;
        self.with(|fd| fd::allocate(fd, mode, at, length_bytes))
    }

    /// Gives a range storage; the file keeps its length.
    ///
    /// # Errors
    /// As `fallocate`.
    pub fn allocate(&self, at: u64, length_bytes: u64) -> Result<(), Errno> {
        self.with(|fd| fd::allocate(fd, k::FALLOC_FL_KEEP_SIZE, at, length_bytes))
    }

    /// Sets its length.
    ///
    /// # Errors
    /// As `ftruncate`.
    pub fn set_size(&self, bytes: u64) -> Result<(), Errno> {
        self.with(|fd| fd::truncate(fd, bytes))
    }

    /// Makes what was stored durable, and what is needed to find it. Linux has no call for less than the whole file that does
    /// both, so the range is a hint only.
    ///
    /// # Errors
    /// As `fdatasync`.
    pub fn sync_range(&self, _at: u64, _length_bytes: u64) -> Result<(), Errno> {
        self.with(fd::sync_data)
    }
}

/// Opens the file behind `number` once more. With access mode 3 it can be neither read nor written through, and a lease's
/// count of openers leaves it out; it needs both permissions all the same, and breaks leases as a writer does. A reader does not mind another reader.
fn open_again(number: RawFd, access: AccessMode) -> Option<RawFd> {
    let path = std::ffi::CString::new(format!("/proc/thread-self/fd/{number}")).ok()?;
    let mode = if access == AccessMode::ReadOnly { k::O_RDONLY } else { k::O_ACCMODE };
    fd::open(&path, mode | k::O_CLOEXEC | k::O_NONBLOCK | k::O_NOCTTY).ok()
}
